//! What Ollama tells about a model.

use serde_json::{Map, Value, json};

use super::time::rfc3339;
use crate::backend::ModelFacts;
use crate::state::{Backend, unix_time_s};

/// Seconds until a model would be unloaded, for clients that want a time: this one never is.
const EXPIRES_S: u64 = 100 * 365 * 86_400;

/// The model in a list.
pub(crate) fn card(backend: &Backend) -> Value {
    json!({
        "name": backend.id(),
        "model": backend.id(),
        "modified_at": rfc3339(backend.served.created),
        "size": backend.served.facts.bytes,
        "digest": backend.served.fingerprint,
        "details": details(&backend.served.facts),
    })
}

/// The model in the list of loaded ones.
pub(crate) fn running(backend: &Backend) -> Value {
    let mut card = card(backend);
    if let Value::Object(card) = &mut card {
        card.remove("modified_at");
    }
    card["expires_at"] = rfc3339(unix_time_s() + EXPIRES_S).into();
    card["size_vram"] = 0.into();
    card["context_length"] = backend.served.ctx.into();
    card
}

/// All about the model.
pub(crate) fn show(backend: &Backend) -> Value {
    let facts = &backend.served.facts;
    let mut info = Map::new();
    info.insert("general.architecture".into(), facts.architecture.as_str().into());
    info.insert("general.parameter_count".into(), facts.parameters.into());
    let of_family = |name: &str| format!("{}.{name}", facts.architecture);
    info.insert(of_family("context_length"), facts.ctx_train.into());
    info.insert(of_family("block_count"), facts.layers.into());
    info.insert(of_family("embedding_length"), facts.width.into());
    json!({
        "modified_at": rfc3339(backend.served.created),
        "modelfile": format!("FROM {}\n", backend.id()),
        "parameters": format!("num_ctx {}", backend.served.ctx),
        "template": facts.template,
        "details": details(facts),
        "model_info": info,
        "capabilities": capabilities(facts),
    })
}

/// The answer to a request without a prompt, which loads the model.
pub(crate) fn loaded(backend: &Backend) -> Map<String, Value> {
    let answer = json!({
        "model": backend.id(),
        "created_at": rfc3339(unix_time_s()),
        "done": true,
        "done_reason": "load",
    });
    answer.as_object().cloned().unwrap_or_default()
}

fn capabilities(facts: &ModelFacts) -> Vec<&'static str> {
    // A template without a place for tools gets them described.
    let mut all = vec!["completion", "tools"];
    all.extend(facts.template.contains("think").then_some("thinking"));
    all
}

fn details(facts: &ModelFacts) -> Value {
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": facts.architecture,
        "families": [facts.architecture],
        "parameter_size": parameter_size(facts.parameters),
        "quantization_level": facts.quantization,
    })
}

/// `134.52M`, `8.0B`.
fn parameter_size(parameters: u64) -> String {
    let count = parameters as f64;
    if count >= 1e9 { format!("{:.1}B", count / 1e9) } else { format!("{:.2}M", count / 1e6) }
}

//! The fields that chat and completion requests have in common.

use foretoken_engine::{Request, Sampling};
use serde_json::Value;

use super::fields::{Fields, describe};
use crate::config::ServerConfig;
use crate::error::ApiError;

/// Most texts in `stop`.
const STOP_MAX: usize = 16;

/// Unsupported fields that would change the response; ignoring them silently would be wrong.
const UNSUPPORTED: [(&str, &str); 8] = [
    ("suffix", "is not supported; put the text before and after the gap into the prompt"),
    ("grammar", "is not supported yet; remove it"),
    ("json_schema", "is not supported yet; ask for JSON in the prompt"),
    ("guided_json", "is not supported yet; ask for JSON in the prompt"),
    ("guided_regex", "is not supported yet; remove it"),
    ("guided_choice", "is not supported yet; remove it"),
    ("guided_grammar", "is not supported yet; remove it"),
    ("structured_outputs", "is not supported yet; ask for JSON in the prompt"),
];

/// A request without its prompt.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// The engine's request without a prompt and without log-probabilities.
    pub(crate) request: Request,
    /// Choices per prompt.
    pub(crate) n: usize,
    /// `Some` if the answer is to be streamed.
    pub(crate) stream: Option<StreamOptions>,
    /// Text of OpenAI's `prediction`.
    pub(crate) prediction: Option<String>,
}

/// OpenAI's `stream_options`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamOptions {
    /// Send usage in a last chunk without choices.
    pub(crate) include_usage: bool,
}

impl Shared {
    /// Reads and checks the shared fields.
    pub(crate) fn read(fields: Fields<'_>, config: &ServerConfig, vocab: usize) -> Result<Self, ApiError> {
        for (name, message) in UNSUPPORTED {
            let given = fields.get(name).is_some_and(|value| value.as_str() != Some(""));
            if given {
                return Err(ApiError::unsupported(name, message));
            }
        }
        check_response_format(fields)?;
        let request = Request {
            prompt: Vec::new(),
            sampling: sampling(fields, vocab)?,
            max_tokens: max_tokens(fields)?,
            stop: stop(fields)?,
            stop_ids: stop_ids(fields, vocab)?,
            ignore_eos: fields.bool("ignore_eos")?.unwrap_or(false),
            logprobs: None,
            show_control: !fields.bool("skip_special_tokens")?.unwrap_or(true),
            speculation: super::speculation::read(fields)?,
            ..Request::default()
        };
        let n = fields.integer("n", 1..=config.max_n as i64)?.unwrap_or(1) as usize;
        Ok(Shared {
            request,
            n,
            stream: stream(fields)?,
            prediction: super::speculation::prediction(fields)?,
        })
    }

    /// One engine request per choice of `prompt`. Each choice's seed is the request's plus its index, so that choices
    /// differ and are reproducible.
    pub(crate) fn requests_for(&self, prompt: &[u32]) -> impl Iterator<Item = Request> {
        (0..self.n as u64).map(|choice| {
            let mut request = Request { prompt: prompt.to_vec(), ..self.request.clone() };
            request.sampling.seed = request.sampling.seed.map(|seed| seed.wrapping_add(choice));
            request
        })
    }
}

fn sampling(fields: Fields<'_>, vocab: usize) -> Result<Sampling, ApiError> {
    let default = Sampling::default();
    let repetition = match fields.number("repetition_penalty")? {
        Some(penalty) => Some(penalty),
        None => fields.number("repeat_penalty")?,
    };
    let window = match fields.integer("repeat_last_n", -1..=i64::from(i32::MAX))? {
        Some(-1) => usize::MAX,
        Some(window) => window as usize,
        None => default.repetition_window,
    };
    let sampling = Sampling {
        temperature: fields.number("temperature")?.unwrap_or(default.temperature),
        // -1 disables it in vLLM.
        top_k: fields.integer("top_k", -1..=i64::from(i32::MAX))?.map_or(default.top_k, |k| k.max(0) as u32),
        top_p: fields.number("top_p")?.unwrap_or(default.top_p),
        min_p: fields.number("min_p")?.unwrap_or(default.min_p),
        presence_penalty: fields.number("presence_penalty")?.unwrap_or(default.presence_penalty),
        frequency_penalty: fields.number("frequency_penalty")?.unwrap_or(default.frequency_penalty),
        repetition_penalty: repetition.unwrap_or(default.repetition_penalty),
        repetition_window: window,
        logit_bias: logit_bias(fields, vocab)?,
        seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64),
    };
    sampling.validate().map_err(|invalid| ApiError::bad_value(invalid.param, invalid.message))?;
    Ok(sampling)
}

fn logit_bias(fields: Fields<'_>, vocab: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(map) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let entry = |(key, value): (&String, &Value)| {
        let path = || format!("logit_bias[{key:?}]");
        let id = key.parse().ok().filter(|&id: &u32| (id as usize) < vocab);
        let id = id.ok_or_else(|| {
            ApiError::bad_value(
                path(),
                format!("must be keyed by a token id below {vocab}, see /v1/tokenize"),
            )
        })?;
        let bias = value.as_f64().filter(|bias| (-100.0..=100.0).contains(bias)).ok_or_else(|| {
            let message = format!("must be a number from -100 to 100, got {}", describe(value));
            ApiError::bad_value(path(), message)
        })?;
        Ok((id, bias as f32))
    };
    map.iter().map(entry).collect()
}

fn max_tokens(fields: Fields<'_>) -> Result<Option<usize>, ApiError> {
    let newer = fields.integer("max_completion_tokens", 1..=i64::MAX)?;
    let older = fields.integer("max_tokens", 1..=i64::MAX)?;
    Ok(newer.or(older).map(|tokens| tokens as usize))
}

fn stop(fields: Fields<'_>) -> Result<Vec<String>, ApiError> {
    let texts = match fields.get("stop") {
        None => Vec::new(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => {
            let text = |(at, item): (usize, &Value)| match item {
                Value::String(text) => Ok(text.clone()),
                other => {
                    let message = format!("must be a string, got {}", describe(other));
                    Err(ApiError::bad_value(format!("stop[{at}]"), message))
                }
            };
            items.iter().enumerate().map(text).collect::<Result<_, _>>()?
        }
        Some(other) => {
            let message = format!("must be a string or an array of strings, got {}", describe(other));
            return Err(ApiError::bad_value("stop", message));
        }
    };
    if texts.len() > STOP_MAX {
        let message = format!("may hold at most {STOP_MAX} texts, got {}", texts.len());
        return Err(ApiError::bad_value("stop", message));
    }
    if texts.iter().any(String::is_empty) {
        return Err(ApiError::bad_value("stop", "must not hold an empty text; remove it"));
    }
    Ok(texts)
}

fn stop_ids(fields: Fields<'_>, vocab: usize) -> Result<Vec<u32>, ApiError> {
    let items = fields.array("stop_token_ids")?.unwrap_or_default();
    super::fields::token_ids("stop_token_ids", items, vocab)
}

fn stream(fields: Fields<'_>) -> Result<Option<StreamOptions>, ApiError> {
    let stream = fields.bool("stream")?.unwrap_or(false);
    let Some(options) = fields.get("stream_options") else {
        return Ok(stream.then(StreamOptions::default));
    };
    let options = Fields::at("stream_options", options)?;
    let include_usage = options.bool("include_usage")?.unwrap_or(false);
    if !stream {
        return Err(ApiError::bad_value("stream_options", "is only allowed when 'stream' is true"));
    }
    Ok(Some(StreamOptions { include_usage }))
}

fn check_response_format(fields: Fields<'_>) -> Result<(), ApiError> {
    let Some(format) = fields.get("response_format") else { return Ok(()) };
    let kind = Fields::at("response_format", format)?.string("type")?;
    let path = "response_format.type";
    match kind {
        Some("text") => Ok(()),
        Some("json_object" | "json_schema") => Err(ApiError::unsupported(
            path,
            "can only be \"text\": JSON output is not enforced yet; ask for JSON in the prompt",
        )),
        Some(other) => Err(ApiError::bad_value(
            path,
            format!("must be \"text\", got {}", describe(&Value::String(other.into()))),
        )),
        None => Err(ApiError::missing(path, "write {\"type\": \"text\"} or leave response_format out")),
    }
}

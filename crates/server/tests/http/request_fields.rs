//! The documented request fields of OpenAI, DeepSeek, vLLM, llama.cpp, Anthropic and Ollama: implemented, harmless, or rejected by name.

use foretoken_engine::Request;
use foretoken_server::ServerConfig;
use foretoken_server::request_fields::{self, RequestField, Route, Support};
use serde_json::{Value, json};

use crate::fake_server::{post, say, start};

/// OpenAI's `POST /v1/chat/completions` and DeepSeek's additions to it.
const OPENAI_CHAT: &str = "messages model audio frequency_penalty function_call functions logit_bias logprobs \
    max_completion_tokens max_tokens metadata modalities moderation n parallel_tool_calls prediction presence_penalty \
    prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier \
    seed service_tier stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity \
    web_search_options thinking user_id";
/// OpenAI's `POST /v1/completions`.
const OPENAI_TEXT: &str = "model prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n \
    presence_penalty seed stop stream stream_options suffix temperature top_p user";
/// vLLM's additions to both.
const VLLM: &str = "use_beam_search top_k min_p repetition_penalty watermarking length_penalty stop_token_ids \
    include_stop_str_in_output ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens \
    truncate_prompt_tokens truncation_side prompt_logprobs logprob_token_ids allowed_token_ids bad_words \
    add_special_tokens response_format structured_outputs guided_json guided_regex guided_choice guided_grammar \
    guided_decoding_backend guided_whitespace_pattern structural_tag priority request_id session_id logits_processors \
    return_tokens_as_token_ids return_token_ids cache_salt kv_transfer_params ec_transfer_params vllm_xargs \
    repetition_detection thinking_token_budget stream_interval";
/// vLLM's additions to chat.
const VLLM_CHAT: &str = "echo add_generation_prompt continue_final_message documents chat_template \
    chat_template_kwargs media_io_kwargs mm_processor_kwargs include_reasoning";
/// vLLM's additions to completions.
const VLLM_TEXT: &str = "prompt_embeds";
/// llama.cpp's server, both routes.
const LLAMA_CPP: &str = "n_predict max_tokens n n_cmpl n_indent n_keep n_discard n_cache_reuse stream stream_options \
    stop typical_p repeat_penalty repeat_last_n presence_penalty frequency_penalty dry_multiplier dry_base \
    dry_allowed_length dry_penalty_last_n dry_sequence_breakers xtc_probability xtc_threshold mirostat mirostat_tau \
    mirostat_eta top_n_sigma adaptive_target adaptive_decay dynatemp_range dynatemp_exponent temperature top_k top_p \
    min_p min_keep samplers seed ignore_eos logit_bias n_probs post_sampling_probs grammar grammar_lazy \
    grammar_triggers preserved_tokens json_schema response_format lora id_slot cache_prompt t_max_predict_ms \
    t_max_prompt_ms return_tokens return_progress response_fields timings_per_token backend_sampling \
    speculative.n_max speculative.n_min speculative.p_min speculative.type sse_ping_interval verbose image_data";
/// llama.cpp's server, chat.
const LLAMA_CPP_CHAT: &str = "reasoning_format thinking_forced_open parse_tool_calls parallel_tool_calls \
    reasoning_budget_tokens thinking_budget_tokens reasoning_budget_message chat_template_kwargs reasoning_effort \
    add_generation_prompt continue_final_message tools tool_choice logprobs top_logprobs";

/// Anthropic's `POST /v1/messages`, its beta included.
const ANTHROPIC: &str = "model messages max_tokens metadata stop_sequences stream system temperature thinking \
    tool_choice tools top_k top_p cache_control container inference_geo output_config output_format service_tier speed \
    diagnostics context_management mcp_servers compaction billing_policy fallback_credit_token fallbacks thread \
    user_profile_id workspace_id";

/// OpenAI's `POST /v1/responses`, and what Codex adds.
const RESPONSES: &str = "model input access_programs background background_options context_management conversation \
    image include instructions max_output_tokens max_tool_calls metadata moderation parallel_tool_calls \
    previous_response_id prompt prompt_cache_key prompt_cache_options prompt_cache_retention reasoning \
    safety_identifier service_tier store stream stream_options temperature text tool_choice tools top_logprobs top_p \
    truncation user client_metadata";

/// Ollama's `POST /api/chat` and `POST /api/generate`.
const OLLAMA: &str = "model format options stream keep_alive think logprobs top_logprobs truncate shift";
const OLLAMA_CHAT: &str = "messages tools";
const OLLAMA_GENERATE: &str = "prompt suffix images system template context raw width height steps";
/// Their `options`.
const OLLAMA_OPTIONS: &str = "numa num_ctx num_batch num_gpu main_gpu low_vram f16_kv logits_all vocab_only use_mmap \
    use_mlock embedding_only num_thread num_keep seed num_predict top_k top_p min_p tfs_z typical_p repeat_last_n \
    temperature repeat_penalty presence_penalty frequency_penalty mirostat mirostat_tau mirostat_eta penalize_newline \
    stop draft_num_predict";

const ROUTES: [(Route, &str); 7] = [
    (Route::Chat, "/v1/chat/completions"),
    (Route::Text, "/v1/completions"),
    (Route::Messages, "/v1/messages"),
    (Route::Responses, "/v1/responses"),
    (Route::OllamaChat, "/api/chat"),
    (Route::OllamaGenerate, "/api/generate"),
    (Route::OllamaOptions, "/api/chat"),
];

fn fields(route: Route) -> impl Iterator<Item = &'static RequestField> {
    request_fields::all().filter(move |field| field.route.covers(route))
}

/// A request of a route with one more field.
fn body(route: Route, name: &str, value: &Value) -> Value {
    let mut body = match route {
        Route::Text | Route::OllamaGenerate => json!({"prompt": "x"}),
        Route::Responses => json!({"input": "x"}),
        Route::Messages => json!({"max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}),
        _ => json!({"messages": [{"role": "user", "content": "x"}]}),
    };
    match route {
        Route::OllamaOptions => body["options"] = json!({name: value}),
        _ => body[name] = value.clone(),
    }
    body
}

/// A field's name in messages.
fn path_of(route: Route, name: &str) -> String {
    if route == Route::OllamaOptions { format!("options.{name}") } else { name.to_owned() }
}

/// An error's message, which is the error itself in Ollama's shape.
fn message_of(reply: &Value) -> String {
    let error = &reply["error"];
    error["message"].as_str().or(error.as_str()).unwrap_or_default().to_owned()
}

#[test]
fn every_documented_field_is_in_the_table() {
    let documented = [
        (Route::Chat, [OPENAI_CHAT, VLLM, VLLM_CHAT, LLAMA_CPP, LLAMA_CPP_CHAT].join(" ")),
        (Route::Text, [OPENAI_TEXT, VLLM, VLLM_TEXT, LLAMA_CPP].join(" ")),
        (Route::Messages, ANTHROPIC.to_owned()),
        (Route::Responses, RESPONSES.to_owned()),
        (Route::OllamaChat, [OLLAMA, OLLAMA_CHAT].join(" ")),
        (Route::OllamaGenerate, [OLLAMA, OLLAMA_GENERATE].join(" ")),
        (Route::OllamaOptions, OLLAMA_OPTIONS.to_owned()),
    ];
    for (route, names) in documented {
        for name in names.split_whitespace() {
            let listed = fields(route).filter(|field| field.name == name).count();
            assert_eq!(listed, 1, "{name} of {route:?} has {listed} entries in the tables");
        }
    }
}

#[tokio::test]
async fn a_refused_field_is_named_and_its_neutral_values_are_accepted() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    // No field is neutral at any of these.
    let asking = [json!({"x": 1}), json!(["x", "y"]), json!(7.5), json!("something")];
    for (route, path) in ROUTES {
        for field in fields(route) {
            let Support::Refused(neutral, advice) = field.support else { continue };
            let before = engine.seen.lock().unwrap().len();
            for value in &asking {
                let reply = post(&server, path, &body(route, field.name, value)).await;
                let error = &reply.json()["error"];
                assert_eq!(reply.status, 400, "{} = {value}: {}", field.name, reply.text);
                let message = message_of(&reply.json());
                let path = path_of(route, field.name);
                assert!(message.starts_with(&format!("'{path}' is not supported")), "{error}");
                assert!(message.contains(advice), "{error}");
                if error["code"].is_string() {
                    assert_eq!(
                        (&error["param"], &error["code"]),
                        (&json!(field.name), &json!("unsupported_value"))
                    );
                }
            }
            assert_eq!(engine.seen.lock().unwrap().len(), before, "{} reached the engine", field.name);
            for value in neutral.iter().map(|neutral| neutral.value()).chain([Value::Null]) {
                let reply = post(&server, path, &body(route, field.name, &value)).await;
                assert_eq!(reply.status, 200, "{} = {value}: {}", field.name, reply.text);
            }
        }
    }
}

#[tokio::test]
async fn a_harmless_field_changes_nothing_whatever_its_value() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    for (route, path) in ROUTES {
        let sent = async |body: &Value| -> Request {
            let reply = post(&server, path, body).await;
            assert_eq!(reply.status, 200, "{body}: {}", reply.text);
            engine.last()
        };
        let plain = format!("{:?}", sent(&body(route, "unknown", &Value::Null)).await);
        for field in fields(route).filter(|field| matches!(field.support, Support::Harmless(_))) {
            for value in [json!("x"), json!(3), json!(false), json!({"a": []}), json!(null)] {
                let request = sent(&body(route, field.name, &value)).await;
                assert_eq!(format!("{request:?}"), plain, "{} = {value}", field.name);
            }
        }
    }
}

#[tokio::test]
async fn a_field_that_is_done_is_read() {
    let (server, _) = start(ServerConfig::default(), say(&["a"]));
    for (route, path) in ROUTES {
        for field in fields(route).filter(|field| field.support == Support::Done) {
            // No field takes an array of an object without fields, so a field that is read complains of it.
            let reply = post(&server, path, &body(route, field.name, &json!([{}]))).await;
            assert_eq!(reply.status, 400, "{} is not read: {}", field.name, reply.text);
            let (message, path) = (message_of(&reply.json()), path_of(route, field.name));
            assert!(message.starts_with(&format!("'{path}")), "{path}: {message}");
        }
    }
}

#[tokio::test]
async fn length_limits_have_three_names_and_null_is_the_default() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    for (fields, chat, text) in [
        (json!({}), None, Some(16)),
        (json!({"max_tokens": 5}), Some(5), Some(5)),
        (json!({"n_predict": 6}), Some(6), Some(6)),
        (json!({"max_tokens": 5, "max_completion_tokens": 7, "n_predict": 6}), Some(7), Some(7)),
        (json!({"max_tokens": null, "n_predict": 6}), Some(6), Some(6)),
        (json!({"max_tokens": -1}), None, None),
        (json!({"max_tokens": null}), None, Some(16)),
        (json!({"n_predict": -1}), None, None),
    ] {
        for ((route, path), wanted) in ROUTES[..2].iter().copied().zip([chat, text]) {
            let mut body = body(route, "unknown", &Value::Null);
            body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            assert_eq!(post(&server, path, &body).await.status, 200, "{body}");
            assert_eq!(engine.last().max_tokens, wanted, "{body}");
        }
    }
}

#[tokio::test]
async fn logit_bias_is_an_object_or_an_array_of_pairs() {
    let (server, engine) = start(ServerConfig::default(), say(&["a"]));
    for bias in [json!({"65": -100, "66": 2.5, "67": false}), json!([[65, -100], [66, 2.5], [67, false]])] {
        assert_eq!(
            post(&server, "/v1/completions", &body(Route::Text, "logit_bias", &bias)).await.status,
            200
        );
        let bias = engine.last().sampling.logit_bias;
        assert_eq!(bias[..2], [(65, -100.0), (66, 2.5)]);
        assert!(bias[2].0 == 67 && bias[2].1 < -1e6 && bias[2].1.is_finite(), "{bias:?}");
    }
}

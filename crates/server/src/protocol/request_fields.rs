//! Every request field that OpenAI, DeepSeek, vLLM and llama.cpp document, and what this server does with it.
//!
//! The rule: a field that changes the response is implemented or rejected by name, never silently ignored. One table
//! drives both the check of requests and the tests, so a field becomes supported by changing its entry to
//! [`Support::Done`] and reading it. Fields that nobody documents are not in the table and are ignored, as other
//! servers ignore them.

use serde_json::Value;

use super::fields::Fields;
use crate::error::ApiError;

/// The routes that a field belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
    /// Both.
    Both,
}

impl Route {
    /// Whether a field of `self` is documented for the single route `route`.
    pub fn covers(self, route: Route) -> bool {
        self == Route::Both || self == route
    }
}

/// What the server does with a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Support {
    /// Implemented.
    Done,
    /// Ignored, because it cannot change the response; the reason.
    Harmless(&'static str),
    /// Rejected with a 400 that names it, unless the value is null or one of these, which ask for nothing; the text
    /// says what to do instead.
    Refused(&'static [Neutral], &'static str),
}

/// A value of a refused field that asks for what the server does anyway.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Neutral {
    /// `false`.
    False,
    /// `true`.
    True,
    /// This number.
    Number(f64),
    /// This string.
    Text(&'static str),
    /// An empty string, array or object.
    Empty,
    /// An array with this string as its only element.
    Only(&'static str),
}

impl Neutral {
    fn matches(self, value: &Value) -> bool {
        match (self, value) {
            (Neutral::False, Value::Bool(value)) => !value,
            (Neutral::True, Value::Bool(value)) => *value,
            (Neutral::Number(number), value) => value.as_f64() == Some(number),
            (Neutral::Text(text), Value::String(value)) => value == text,
            (Neutral::Empty, Value::String(value)) => value.is_empty(),
            (Neutral::Empty, Value::Array(value)) => value.is_empty(),
            (Neutral::Empty, Value::Object(value)) => value.is_empty(),
            (Neutral::Only(text), Value::Array(value)) => value.len() == 1 && value[0] == text,
            _ => false,
        }
    }

    /// The value as JSON.
    pub fn value(self) -> Value {
        match self {
            Neutral::False => false.into(),
            Neutral::True => true.into(),
            Neutral::Number(number) => number.into(),
            Neutral::Text(text) => text.into(),
            Neutral::Empty => "".into(),
            Neutral::Only(text) => vec![text].into(),
        }
    }
}

/// An entry of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestField {
    /// Its name in the body.
    pub name: &'static str,
    /// Where it is documented.
    pub route: Route,
    /// What happens to it.
    pub support: Support,
}

/// Rejects the first field of a body that would change the response and is not supported. `route` is a single one.
pub(crate) fn check(fields: Fields<'_>, route: Route) -> Result<(), ApiError> {
    for field in REQUEST_FIELDS.iter().filter(|field| field.route.covers(route)) {
        if let (Support::Refused(neutral, advice), Some(value)) = (field.support, fields.get(field.name))
            && !neutral.iter().any(|neutral| neutral.matches(value))
        {
            return Err(ApiError::unsupported(field.name, format!("is not supported; {advice}")));
        }
    }
    Ok(())
}

const fn done(name: &'static str, route: Route) -> RequestField {
    RequestField { name, route, support: Support::Done }
}

const fn harmless(name: &'static str, route: Route, reason: &'static str) -> RequestField {
    RequestField { name, route, support: Support::Harmless(reason) }
}

const fn refused(
    name: &'static str,
    route: Route,
    neutral: &'static [Neutral],
    advice: &'static str,
) -> RequestField {
    RequestField { name, route, support: Support::Refused(neutral, advice) }
}

const LEAVE_OUT: &str = "leave it out";
const NO_CONSTRAINTS: &str = "output is not constrained yet: describe the format in the prompt";
const ONE_PATH: &str = "leave it out: responses are sampled, not searched for";
const NO_MEDIA: &str = "only text is supported";
const NO_TOKEN_IDS: &str = "use logprobs, or /v1/tokenize with the text";
const REFUSED_WITH: &str = "has no effect without the option it belongs to, which is rejected";

use Neutral::{Empty, False, Number, Only, Text as Word, True};
use Route::{Both, Chat, Text};

/// The table.
pub const REQUEST_FIELDS: &[RequestField] = &[
    // OpenAI.
    done("messages", Chat),
    done("prompt", Text),
    done("model", Both),
    done("frequency_penalty", Both),
    done("presence_penalty", Both),
    done("logit_bias", Both),
    done("logprobs", Both),
    done("top_logprobs", Chat),
    done("max_tokens", Both),
    done("max_completion_tokens", Both),
    done("metadata", Both),
    done("n", Both),
    done("prediction", Both),
    done("reasoning_effort", Chat),
    done("response_format", Both),
    done("seed", Both),
    done("stop", Both),
    done("stream", Both),
    done("stream_options", Both),
    done("temperature", Both),
    done("tool_choice", Chat),
    done("tools", Chat),
    done("top_p", Both),
    done("echo", Text),
    done("best_of", Text),
    refused("best_of", Chat, &[Number(1.0)], "ask for 'n' choices and compare their log-probabilities"),
    refused("suffix", Text, &[Empty], "put the text before and after the gap into the prompt"),
    refused("audio", Chat, &[], NO_MEDIA),
    refused("modalities", Chat, &[Empty, Only("text")], NO_MEDIA),
    refused("function_call", Chat, &[Word("auto"), Word("none")], "send 'tools' and 'tool_choice'"),
    refused("functions", Chat, &[Empty], "send 'tools'"),
    done("parallel_tool_calls", Chat),
    refused("verbosity", Chat, &[Word("medium")], "ask for short or long responses in a message"),
    refused("web_search_options", Chat, &[], "there is no web search: offer one as a tool"),
    harmless("moderation", Chat, "there is no moderation"),
    harmless(
        "prompt_cache_key",
        Both,
        "a routing hint; every request looks in the whole cache of its tenant",
    ),
    harmless("prompt_cache_options", Both, "blocks are cached until they are evicted; see /v1/cache/pin"),
    harmless("prompt_cache_retention", Both, "blocks are cached until they are evicted; see /v1/cache/pin"),
    harmless("safety_identifier", Both, "there is no moderation"),
    harmless("service_tier", Both, "there is one tier"),
    harmless("store", Both, "responses cannot be fetched later on any route"),
    harmless("user", Both, "an identifier for abuse reports"),
    // DeepSeek.
    done("thinking", Chat),
    done("user_id", Both),
    // vLLM.
    done("top_k", Both),
    done("min_p", Both),
    done("repetition_penalty", Both),
    done("stop_token_ids", Both),
    done("ignore_eos", Both),
    done("skip_special_tokens", Both),
    done("add_generation_prompt", Chat),
    done("chat_template_kwargs", Chat),
    refused("echo", Chat, &[False], LEAVE_OUT),
    refused("use_beam_search", Both, &[False], ONE_PATH),
    refused("length_penalty", Both, &[Number(1.0)], ONE_PATH),
    refused("include_stop_str_in_output", Both, &[False], "append the stop text yourself"),
    refused("min_tokens", Both, &[Number(0.0)], "use ignore_eos with max_tokens"),
    refused("truncate_prompt_tokens", Both, &[], "shorten the prompt before you send it"),
    refused("truncation_side", Both, &[], "shorten the prompt before you send it"),
    refused("prompt_logprobs", Both, &[], "log-probabilities of a prompt are not computed"),
    refused("logprob_token_ids", Both, &[Empty], "use top_logprobs"),
    refused("allowed_token_ids", Both, &[Empty], NO_CONSTRAINTS),
    refused("bad_words", Both, &[Empty], "use logit_bias with a bias of -100"),
    refused("watermarking", Both, &[False], LEAVE_OUT),
    refused("continue_final_message", Chat, &[False], "use /v1/completions to continue a text"),
    refused("add_special_tokens", Chat, &[False], "the chat template writes all special tokens"),
    refused("add_special_tokens", Text, &[True], "send token ids as the prompt"),
    refused("documents", Chat, &[Empty], "put the documents into a message"),
    refused("chat_template", Chat, &[], "the template of the model file is used"),
    refused("guided_json", Both, &[], NO_CONSTRAINTS),
    refused("guided_regex", Both, &[Empty], NO_CONSTRAINTS),
    refused("guided_choice", Both, &[Empty], NO_CONSTRAINTS),
    refused("guided_grammar", Both, &[Empty], NO_CONSTRAINTS),
    refused("guided_whitespace_pattern", Both, &[Empty], NO_CONSTRAINTS),
    refused("structural_tag", Both, &[Empty], NO_CONSTRAINTS),
    refused("structured_outputs", Both, &[], NO_CONSTRAINTS),
    refused("logits_processors", Both, &[Empty], "use logit_bias"),
    refused("return_tokens_as_token_ids", Both, &[False], NO_TOKEN_IDS),
    refused("return_token_ids", Both, &[False], NO_TOKEN_IDS),
    refused("cache_salt", Both, &[Empty], "send 'user_id' to keep a cache apart"),
    refused("kv_transfer_params", Both, &[Empty], "use the shared cache (--shared-cache)"),
    refused("ec_transfer_params", Both, &[Empty], NO_MEDIA),
    refused("vllm_xargs", Both, &[Empty], LEAVE_OUT),
    refused("repetition_detection", Both, &[], "use max_tokens and repetition_penalty"),
    refused("thinking_token_budget", Both, &[Number(-1.0)], "use reasoning_effort"),
    refused("include_reasoning", Chat, &[True], "ignore the field 'reasoning_content' of the response"),
    refused("prompt_embeds", Text, &[Empty], "send text or token ids"),
    harmless("guided_decoding_backend", Both, REFUSED_WITH),
    harmless("spaces_between_special_tokens", Both, "special tokens are never joined with spaces"),
    harmless("media_io_kwargs", Chat, NO_MEDIA),
    harmless("mm_processor_kwargs", Chat, NO_MEDIA),
    harmless("priority", Both, "tenants take turns, whatever they ask for"),
    harmless("request_id", Both, "the header x-request-id of the response has the server's own"),
    harmless("session_id", Both, "a routing hint"),
    harmless("stream_interval", Both, "chunks are sent as steps end"),
    // llama.cpp.
    done("n_predict", Both),
    done("repeat_penalty", Both),
    done("repeat_last_n", Both),
    done("cache_prompt", Both),
    refused("n_cmpl", Both, &[Number(1.0)], "use 'n'"),
    refused("dynatemp_range", Both, &[Number(0.0)], "use a fixed temperature"),
    refused("typical_p", Both, &[Number(1.0)], "use top_p or min_p"),
    refused("tfs_z", Both, &[Number(1.0)], "use top_p or min_p"),
    refused("top_n_sigma", Both, &[Number(-1.0), Number(0.0)], "use top_p or min_p"),
    refused("xtc_probability", Both, &[Number(0.0)], LEAVE_OUT),
    refused("dry_multiplier", Both, &[Number(0.0)], "use repetition_penalty"),
    refused("mirostat", Both, &[Number(0.0)], "use top_p or min_p"),
    refused("adaptive_target", Both, &[Number(-1.0)], LEAVE_OUT),
    refused("samplers", Both, &[Empty], "the order of samplers is fixed"),
    refused("min_keep", Both, &[Number(0.0)], LEAVE_OUT),
    refused("n_indent", Both, &[Number(0.0)], LEAVE_OUT),
    refused("grammar", Both, &[Empty], NO_CONSTRAINTS),
    refused("grammar_triggers", Both, &[Empty], NO_CONSTRAINTS),
    refused("json_schema", Both, &[], NO_CONSTRAINTS),
    refused("lora", Both, &[Empty], "adapters are not supported"),
    refused("n_probs", Both, &[Number(0.0)], "use logprobs"),
    refused("post_sampling_probs", Both, &[False], "use logprobs"),
    refused("return_tokens", Both, &[False], NO_TOKEN_IDS),
    refused("return_progress", Both, &[False], LEAVE_OUT),
    refused("timings_per_token", Both, &[False], "the end of the response has 'timings'"),
    refused("response_fields", Both, &[Empty], LEAVE_OUT),
    refused(
        "t_max_predict_ms",
        Both,
        &[Number(0.0), Number(-1.0)],
        "close the connection when it has taken too long",
    ),
    refused(
        "t_max_prompt_ms",
        Both,
        &[Number(0.0), Number(-1.0)],
        "close the connection when it has taken too long",
    ),
    refused("n_cache_reuse", Both, &[Number(0.0)], "only equal prefixes are reused, exactly"),
    refused("image_data", Both, &[Empty], NO_MEDIA),
    refused(
        "reasoning_format",
        Chat,
        &[Word("auto"), Word("deepseek")],
        "reasoning is always sent as 'reasoning_content'",
    ),
    refused("thinking_forced_open", Chat, &[False], "use 'thinking' or chat_template_kwargs"),
    refused("reasoning_budget_tokens", Chat, &[Number(-1.0)], "use reasoning_effort"),
    refused("thinking_budget_tokens", Chat, &[Number(-1.0)], "use reasoning_effort"),
    refused("reasoning_budget_message", Chat, &[Empty], "use reasoning_effort"),
    refused("parse_tool_calls", Chat, &[True], "leave 'tools' out to get the text as it is"),
    harmless("dynatemp_exponent", Both, REFUSED_WITH),
    harmless("xtc_threshold", Both, REFUSED_WITH),
    harmless("dry_base", Both, REFUSED_WITH),
    harmless("dry_allowed_length", Both, REFUSED_WITH),
    harmless("dry_penalty_last_n", Both, REFUSED_WITH),
    harmless("dry_sequence_breakers", Both, REFUSED_WITH),
    harmless("mirostat_tau", Both, REFUSED_WITH),
    harmless("mirostat_eta", Both, REFUSED_WITH),
    harmless("adaptive_decay", Both, REFUSED_WITH),
    harmless("grammar_lazy", Both, REFUSED_WITH),
    harmless("preserved_tokens", Both, REFUSED_WITH),
    harmless("n_keep", Both, "the context is never shifted"),
    harmless("n_discard", Both, "the context is never shifted"),
    harmless("id_slot", Both, "there are no slots: any request uses what is cached"),
    harmless("backend_sampling", Both, "selects an implementation"),
    harmless("speculative.n_max", Both, "cannot change the response; see the field 'speculation'"),
    harmless("speculative.n_min", Both, "cannot change the response; see the field 'speculation'"),
    harmless("speculative.p_min", Both, "cannot change the response; see the field 'speculation'"),
    harmless("speculative.type", Both, "cannot change the response; see the field 'speculation'"),
    harmless("sse_ping_interval", Both, "idle streams are kept open anyway"),
    harmless("verbose", Both, "adds debug output"),
    // Ours.
    done("cache", Both),
    done("speculation", Both),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_entry_per_route() {
        for (at, field) in REQUEST_FIELDS.iter().enumerate() {
            let twice = REQUEST_FIELDS[at + 1..].iter().find(|other| {
                let overlap = field.route.covers(other.route) || other.route.covers(field.route);
                other.name == field.name && overlap
            });
            assert_eq!(twice, None);
        }
    }
}

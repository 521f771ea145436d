//! The request fields of OpenAI's Responses API, and ours.

use crate::protocol::request_fields::Neutral::{Empty, False, Text as Word};
use crate::protocol::request_fields::Route::Responses;
use crate::protocol::request_fields::{RequestField, done, harmless, refused};

const WHOLE_CONVERSATION: &str = "responses are not kept: send the whole conversation in 'input'";
const ALWAYS_CACHED: &str = "blocks are cached until they are evicted; see /v1/cache/pin";
const NO_MODERATION: &str = "there is no moderation";

/// The table.
pub(crate) const FIELDS: &[RequestField] = &[
    done("model", Responses),
    done("include", Responses),
    done("input", Responses),
    done("instructions", Responses),
    done("max_output_tokens", Responses),
    done("metadata", Responses),
    done("parallel_tool_calls", Responses),
    done("reasoning", Responses),
    done("stream", Responses),
    done("temperature", Responses),
    done("text", Responses),
    done("tool_choice", Responses),
    done("tools", Responses),
    done("top_logprobs", Responses),
    done("top_p", Responses),
    refused("background", Responses, &[False], "stream the response, or wait for it"),
    refused("context_management", Responses, &[Empty], "shorten the conversation in the client"),
    refused("conversation", Responses, &[Empty], WHOLE_CONVERSATION),
    refused("previous_response_id", Responses, &[Empty], WHOLE_CONVERSATION),
    refused("prompt", Responses, &[Empty], "send the prompt's text in 'input' and 'instructions'"),
    refused("truncation", Responses, &[Word("disabled")], "shorten the conversation in the client"),
    harmless("access_programs", Responses, "there are none"),
    harmless(
        "background_options",
        Responses,
        "has no effect without the option it belongs to, which is rejected",
    ),
    harmless("client_metadata", Responses, "a client's own notes"),
    harmless("image", Responses, "only text is supported"),
    harmless("max_tool_calls", Responses, "a limit for tools that the server runs, and it runs none"),
    harmless("moderation", Responses, NO_MODERATION),
    harmless(
        "prompt_cache_key",
        Responses,
        "a routing hint; every request looks in the whole cache of its tenant",
    ),
    harmless("prompt_cache_options", Responses, ALWAYS_CACHED),
    harmless("prompt_cache_retention", Responses, ALWAYS_CACHED),
    harmless("safety_identifier", Responses, NO_MODERATION),
    harmless("service_tier", Responses, "there is one tier"),
    harmless("store", Responses, "responses cannot be fetched later on any route"),
    harmless("stream_options", Responses, "events are not padded"),
    harmless("user", Responses, "an identifier for abuse reports"),
    // Ours.
    done("cache", Responses),
    done("speculation", Responses),
];

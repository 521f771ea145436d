//! The request fields of Anthropic's messages, and ours.

use crate::protocol::request_fields::Neutral::Empty;
use crate::protocol::request_fields::Route::Messages;
use crate::protocol::request_fields::{RequestField, done, harmless, refused};

const ONE_CACHE: &str = "prompts are cached whatever it says";
const AS_SENT: &str = "the conversation is used as it is sent";
const ONE_MODEL: &str = "there is one model";

/// The table.
pub(crate) const FIELDS: &[RequestField] = &[
    done("model", Messages),
    done("messages", Messages),
    done("max_tokens", Messages),
    done("metadata", Messages),
    done("output_config", Messages),
    done("stop_sequences", Messages),
    done("stream", Messages),
    done("system", Messages),
    done("temperature", Messages),
    done("thinking", Messages),
    done("tool_choice", Messages),
    done("tools", Messages),
    done("top_k", Messages),
    done("top_p", Messages),
    done("cache_control", Messages),
    harmless("context_management", Messages, AS_SENT),
    harmless("diagnostics", Messages, ONE_CACHE),
    harmless("billing_policy", Messages, "there is one price list"),
    harmless("fallback_credit_token", Messages, ONE_MODEL),
    harmless("fallbacks", Messages, ONE_MODEL),
    harmless("inference_geo", Messages, "there is one place"),
    harmless("service_tier", Messages, "there is one tier"),
    harmless("speed", Messages, "there is one speed"),
    harmless("user_profile_id", Messages, "an identifier for reports"),
    harmless("workspace_id", Messages, "an identifier for reports"),
    refused("compaction", Messages, &[], "shorten the conversation in the client"),
    refused("container", Messages, &[Empty], "there is no code execution: offer a tool"),
    refused("mcp_servers", Messages, &[Empty], "connect to the servers in the client, and offer their tools"),
    done("output_format", Messages),
    refused("thread", Messages, &[], "send the whole conversation in 'messages'"),
    // Ours.
    done("cache", Messages),
    done("speculation", Messages),
];

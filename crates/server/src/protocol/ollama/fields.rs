//! The request fields of Ollama's chat and generate, the members of their `options`, and ours.

use crate::protocol::request_fields::Neutral::{Empty, False, Number, True};
use crate::protocol::request_fields::Route::{Ollama, OllamaChat, OllamaGenerate, OllamaOptions};
use crate::protocol::request_fields::{RequestField, done, harmless, refused};

const NO_IMAGES: &str = "only text is supported";
const AT_START: &str = "set when the server starts";
const REFUSED_WITH: &str = "has no effect without the option it belongs to, which is rejected";

/// The table.
pub(crate) const FIELDS: &[RequestField] = &[
    done("model", Ollama),
    done("options", Ollama),
    done("stream", Ollama),
    done("think", Ollama),
    done("logprobs", Ollama),
    done("top_logprobs", Ollama),
    done("messages", OllamaChat),
    done("tools", OllamaChat),
    done("prompt", OllamaGenerate),
    done("system", OllamaGenerate),
    done("raw", OllamaGenerate),
    done("format", Ollama),
    refused("images", OllamaGenerate, &[Empty], NO_IMAGES),
    refused("suffix", OllamaGenerate, &[Empty], "put the text before and after the gap into the prompt"),
    refused("template", OllamaGenerate, &[Empty], "the template of the model file is used; see 'raw'"),
    refused("context", OllamaGenerate, &[Empty], "send the conversation to /api/chat"),
    harmless("keep_alive", Ollama, "the model stays loaded"),
    harmless("truncate", Ollama, "a prompt that is too long is an error"),
    harmless("shift", Ollama, "the context is never shifted"),
    harmless("width", OllamaGenerate, NO_IMAGES),
    harmless("height", OllamaGenerate, NO_IMAGES),
    harmless("steps", OllamaGenerate, NO_IMAGES),
    // Ours.
    done("cache", Ollama),
    done("speculation", Ollama),
    // `options`.
    done("frequency_penalty", OllamaOptions),
    done("min_p", OllamaOptions),
    done("num_predict", OllamaOptions),
    done("presence_penalty", OllamaOptions),
    done("repeat_last_n", OllamaOptions),
    done("repeat_penalty", OllamaOptions),
    done("seed", OllamaOptions),
    done("stop", OllamaOptions),
    done("temperature", OllamaOptions),
    done("top_k", OllamaOptions),
    done("top_p", OllamaOptions),
    refused("mirostat", OllamaOptions, &[Number(0.0)], "use top_p or min_p"),
    refused("penalize_newline", OllamaOptions, &[True], "penalties hold for all tokens"),
    refused("tfs_z", OllamaOptions, &[Number(1.0)], "use top_p or min_p"),
    refused("typical_p", OllamaOptions, &[Number(1.0)], "use top_p or min_p"),
    refused("embedding_only", OllamaOptions, &[False], "the model generates text"),
    refused("vocab_only", OllamaOptions, &[False], "the model is loaded"),
    harmless("mirostat_eta", OllamaOptions, REFUSED_WITH),
    harmless("mirostat_tau", OllamaOptions, REFUSED_WITH),
    harmless("draft_num_predict", OllamaOptions, "cannot change the response; see the field 'speculation'"),
    harmless("f16_kv", OllamaOptions, AT_START),
    harmless("logits_all", OllamaOptions, AT_START),
    harmless("low_vram", OllamaOptions, AT_START),
    harmless("main_gpu", OllamaOptions, AT_START),
    harmless("num_batch", OllamaOptions, AT_START),
    harmless("num_ctx", OllamaOptions, AT_START),
    harmless("num_gpu", OllamaOptions, AT_START),
    harmless("num_keep", OllamaOptions, "the context is never shifted"),
    harmless("num_thread", OllamaOptions, AT_START),
    harmless("numa", OllamaOptions, AT_START),
    harmless("use_mlock", OllamaOptions, AT_START),
    harmless("use_mmap", OllamaOptions, AT_START),
];

//! The request fields that chat and completions have in common.

use foretoken_engine::{Request, Sampling};
use serde_json::Value;

use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::generation::Options;
use crate::protocol::fields::{self, Fields, as_integer, describe};
use crate::protocol::{constraint, speculation};

/// Most texts in `stop`.
const STOP_MAX: usize = 16;
/// The bias of a token that must not be sampled; log-probabilities never come near it.
const BANNED: f32 = -1e9;

/// The shared fields of a request.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    /// The length limit as it was given.
    pub(crate) limit: TokenLimit,
    /// Send usage in a last chunk without choices.
    pub(crate) include_usage: bool,
}

impl Shared {
    /// Reads and checks the shared fields.
    pub(crate) fn read(fields: Fields<'_>, config: &ServerConfig, vocab: usize) -> Result<Self, ApiError> {
        let limit = token_limit(fields)?;
        let request = Request {
            sampling: sampling(fields, vocab)?,
            max_tokens: match limit {
                TokenLimit::Tokens(tokens) => Some(tokens),
                TokenLimit::Default | TokenLimit::None => None,
            },
            stop: stop(fields, "stop")?,
            stop_ids: stop_ids(fields, vocab)?,
            ignore_eos: fields.bool("ignore_eos")?.unwrap_or(false),
            show_control: !fields.bool("skip_special_tokens")?.unwrap_or(true),
            speculation: speculation::read(fields)?,
            ..Request::default()
        };
        let n = fields.integer("n", 1..=config.max_n as i64)?.unwrap_or(1) as usize;
        let (stream, include_usage) = stream(fields)?;
        let prediction = speculation::prediction(fields)?;
        let constraint = constraint::read(fields)?;
        Ok(Shared { options: Options { request, n, stream, prediction, constraint }, limit, include_usage })
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

/// OpenAI's object of ids and biases, or llama.cpp's array of pairs, where `false` bans a token.
fn logit_bias(fields: Fields<'_>, vocab: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    match fields.get("logit_bias") {
        None => Ok(Vec::new()),
        Some(Value::Object(map)) => {
            let entry = |(key, value): (&String, &Value)| {
                bias(&format!("logit_bias[{key:?}]"), (key.parse().ok(), value), vocab)
            };
            map.iter().map(entry).collect()
        }
        Some(Value::Array(pairs)) => {
            let entry = |(at, pair): (usize, &Value)| {
                let path = format!("logit_bias[{at}]");
                let [id, value] = pair.as_array().map_or(&[][..], Vec::as_slice) else {
                    let message = format!("must be a pair of a token id and a bias, got {}", describe(pair));
                    return Err(ApiError::bad_value(path, message));
                };
                bias(&path, (as_integer(id).and_then(|id| u32::try_from(id).ok()), value), vocab)
            };
            pairs.iter().enumerate().map(entry).collect()
        }
        Some(other) => {
            let message = format!(
                "must be an object of token ids and biases or an array of pairs, got {}",
                describe(other)
            );
            Err(ApiError::bad_value("logit_bias", message))
        }
    }
}

fn bias(path: &str, (id, value): (Option<u32>, &Value), vocab: usize) -> Result<(u32, f32), ApiError> {
    let id = id.filter(|&id| (id as usize) < vocab).ok_or_else(|| {
        ApiError::bad_value(path, format!("must name a token by its id below {vocab}, see /v1/tokenize"))
    })?;
    match value {
        Value::Bool(false) => Ok((id, BANNED)),
        value => match value.as_f64().filter(|bias| (-100.0..=100.0).contains(bias)) {
            Some(bias) => Ok((id, bias as f32)),
            None => {
                let message = format!("must be a number from -100 to 100, or false, got {}", describe(value));
                Err(ApiError::bad_value(path, message))
            }
        },
    }
}

/// The length limit of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenLimit {
    /// No field sets one.
    Default,
    /// A field sets none: it is -1.
    None,
    /// At most this many.
    Tokens(usize),
}

/// The first of OpenAI's two names and llama.cpp's that has a value. -1 is no limit, null the default.
fn token_limit(fields: Fields<'_>) -> Result<TokenLimit, ApiError> {
    let names = ["max_completion_tokens", "max_tokens", "n_predict"];
    let mut first = None;
    for name in names {
        let given = fields.integer(name, -1..=i64::MAX)?;
        if given == Some(0) {
            return Err(ApiError::bad_value(name, "must be at least 1, or -1 for no limit, got 0"));
        }
        first = first.or(given);
    }
    Ok(match first {
        Some(-1) => TokenLimit::None,
        Some(tokens) => TokenLimit::Tokens(usize::try_from(tokens).unwrap_or(usize::MAX)),
        None => TokenLimit::Default,
    })
}

/// Stop texts: none, one, or an array in the field `name`.
pub(crate) fn stop(fields: Fields<'_>, name: &str) -> Result<Vec<String>, ApiError> {
    let path = fields.path_of(name);
    let texts = match fields.get(name) {
        None => Vec::new(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => {
            let text = |(at, item): (usize, &Value)| match item {
                Value::String(text) => Ok(text.clone()),
                other => {
                    let message = format!("must be a string, got {}", describe(other));
                    Err(ApiError::bad_value(format!("{path}[{at}]"), message))
                }
            };
            items.iter().enumerate().map(text).collect::<Result<_, _>>()?
        }
        Some(other) => {
            let message = format!("must be a string or an array of strings, got {}", describe(other));
            return Err(ApiError::bad_value(path, message));
        }
    };
    if texts.len() > STOP_MAX {
        let message = format!("may hold at most {STOP_MAX} texts, got {}", texts.len());
        return Err(ApiError::bad_value(path, message));
    }
    if texts.iter().any(String::is_empty) {
        return Err(ApiError::bad_value(path, "must not hold an empty text; remove it"));
    }
    Ok(texts)
}

fn stop_ids(fields: Fields<'_>, vocab: usize) -> Result<Vec<u32>, ApiError> {
    let items = fields.array("stop_token_ids")?.unwrap_or_default();
    fields::token_ids("stop_token_ids", items, vocab)
}

/// `stream`, and whether its end has the usage.
fn stream(fields: Fields<'_>) -> Result<(bool, bool), ApiError> {
    let stream = fields.bool("stream")?.unwrap_or(false);
    let Some(options) = fields.get("stream_options") else { return Ok((stream, false)) };
    let options = Fields::at("stream_options", options)?;
    let include_usage = options.bool("include_usage")?.unwrap_or(false);
    if options.bool("continuous_usage_stats")?.unwrap_or(false) {
        let message = "is not supported; use include_usage";
        return Err(ApiError::unsupported(options.path_of("continuous_usage_stats"), message));
    }
    if !stream {
        return Err(ApiError::bad_value("stream_options", "is only allowed when 'stream' is true"));
    }
    Ok((true, include_usage))
}

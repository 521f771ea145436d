//! The report, as JSON and as text.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Cause;

/// Where a prompt diverges from the closest cached prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The first token that differs, counted from 0.
    pub token: usize,
    /// The field of the request: `messages[3].content`, `tools[1]`, `prompt`, or `template` for text of the chat
    /// template itself.
    pub field: String,
    /// The first character of that field that differs, counted from 0; `None` in the template and in tools.
    pub offset: Option<usize>,
    /// The last common characters.
    pub before: String,
    /// Continuation of the prompt.
    pub prompt: String,
    /// Continuation of the cached prefix; empty if it ends here.
    pub cached: String,
}

/// The explanation of a hit or miss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens in common with the closest cached prefix.
    pub agreed_tokens: usize,
    /// Tokens found in memory, on disk and in the shared store; the last is `None` if not queried. `None` altogether
    /// if two prompts were compared without a cache.
    pub tiers: Option<(usize, usize, Option<usize>)>,
    /// Where they diverge, if they do.
    pub divergence: Option<Divergence>,
    /// The cause.
    pub cause: Cause,
    /// A message for the user: what differs and what to do.
    pub message: String,
}

impl Report {
    /// The `cache` object of a response.
    pub fn to_json(&self) -> Value {
        let mut report = json!({"prompt_tokens": self.prompt_tokens, "agreed_tokens": self.agreed_tokens});
        if let Some((memory, disk, shared)) = self.tiers {
            report["hit_tokens"] = (memory + disk + shared.unwrap_or(0)).into();
            report["tiers"] = json!({"memory": memory, "disk": disk, "shared": shared});
        }
        report["divergence"] = self.divergence.as_ref().map_or(Value::Null, |divergence| {
            json!({
                "token": divergence.token,
                "field": divergence.field,
                "offset": divergence.offset,
                "before": divergence.before,
                "prompt": divergence.prompt,
                "cached": divergence.cached,
            })
        });
        report["cause"] = self.cause.name().into();
        report["message"] = self.message.as_str().into();
        report
    }

    /// The report as text, with these names for the two sides.
    pub fn to_text(&self, prompt: &str, cached: &str) -> String {
        let mut text = format!("{} of {} tokens agree\n", self.agreed_tokens, self.prompt_tokens);
        if let Some(divergence) = &self.divergence {
            let offset = divergence.offset.map(|at| format!(", character {at}")).unwrap_or_default();
            let width = prompt.chars().count().max(cached.chars().count()).max("before".len());
            let sides =
                [("before", &divergence.before), (cached, &divergence.cached), (prompt, &divergence.prompt)];
            text += &format!("token {}: {}{offset}\n", divergence.token, divergence.field);
            for (name, side) in sides {
                // Writing to a string does not fail.
                writeln!(text, "  {name:width$}  {side:?}").ok();
            }
        }
        text + &self.message + "\n"
    }
}

//! Answers from a running server, over `/v1/chat/completions`.
//!
//! Events are read on a thread of their own, so that Ctrl-C returns to the prompt at once; the thread closes the
//! connection at the next event, which cancels the request on the server.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::backend::{Backend, End, Outcome, Piece, Stats, StoppedStats};
use super::printer::Printer;
use crate::api_client::ApiClient;
use crate::cli::{ChatArgs, SamplingArgs};

/// Events that may wait to be printed.
const EVENTS_MAX: usize = 64;

/// A server and one of its models.
pub(super) struct Remote {
    client: ApiClient,
    model: String,
}

impl Remote {
    /// Asks the server for its models.
    ///
    /// # Errors
    /// The server cannot be reached, wants a key, or has no such model.
    pub(super) fn connect(server: &str, args: &ChatArgs) -> Result<Remote> {
        let client = ApiClient::new(server, args.api_key.as_ref())?;
        let list = client.get("/v1/models")?;
        let models = list["data"].as_array().into_iter().flatten();
        let names: Vec<&str> = models.filter_map(|model| model["id"].as_str()).collect();
        let first = *names.first().with_context(|| format!("{} lists no model", client.base()))?;
        let model = match &args.server_model {
            Some(name) if names.contains(&name.as_str()) => name.clone(),
            Some(name) => bail!("{} has no model `{name}`; it has {}", client.base(), names.join(", ")),
            None => first.to_owned(),
        };
        Ok(Remote { client, model })
    }

    /// Starts a request; its events arrive in the channel.
    fn start(&self, body: Value) -> mpsc::Receiver<Result<Value>> {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let client = self.client.clone();
        std::thread::spawn(move || {
            // A failed send means that nobody waits for the answer any more.
            match client.stream("/v1/chat/completions", &body) {
                Err(error) => drop(sender.blocking_send(Err(error))),
                Ok(mut stream) => {
                    while stream.next().is_some_and(|event| sender.blocking_send(event).is_ok()) {}
                }
            }
        });
        events
    }
}

impl Backend for Remote {
    fn name(&self) -> String {
        format!("{} at {}", self.model, self.client.base())
    }

    fn knows_drafters(&self) -> bool {
        false
    }

    fn answer(
        &self,
        runtime: &Runtime,
        messages: Vec<Value>,
        sampling: &SamplingArgs,
        printer: &mut Printer,
    ) -> Result<Outcome> {
        let mut events = self.start(body(&self.model, &messages, sampling));
        let mut answer = RemoteAnswer::new();
        let ended = runtime.block_on(async {
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    _ = tokio::signal::ctrl_c() => return Ok(false),
                };
                match event {
                    Some(event) => answer.take(&event?, printer)?,
                    None => return anyhow::Ok(true),
                }
            }
        })?;
        if !ended {
            return Ok(Outcome { end: End::Stopped(answer.stopped()), legend: None });
        }
        answer.outcome()
    }
}

/// The request's body: the conversation, and the sampling settings that are set; the rest is the server's choice.
fn body(model: &str, messages: &[Value], sampling: &SamplingArgs) -> Value {
    let mut body = json!({
        "model": model,
        "messages": messages,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    // Through text, so that 0.7f32 is sent as 0.7.
    let float =
        |value: Option<f32>| value.and_then(|value| value.to_string().parse::<f64>().ok()).map(Value::from);
    let fields = [
        ("temperature", float(sampling.temperature)),
        ("top_k", sampling.top_k.map(Value::from)),
        ("top_p", float(sampling.top_p)),
        ("min_p", float(sampling.min_p)),
        ("presence_penalty", float(sampling.presence_penalty)),
        ("frequency_penalty", float(sampling.frequency_penalty)),
        ("repetition_penalty", float(sampling.repetition_penalty)),
        ("seed", sampling.seed.map(Value::from)),
        ("max_tokens", sampling.max_tokens.map(Value::from)),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    body
}

/// An answer while its events arrive.
struct RemoteAnswer {
    start: Instant,
    first: Option<Instant>,
    finish_reason: Option<String>,
    usage: Value,
    timings: Value,
}

impl RemoteAnswer {
    fn new() -> RemoteAnswer {
        let (usage, timings) = (Value::Null, Value::Null);
        RemoteAnswer { start: Instant::now(), first: None, finish_reason: None, usage, timings }
    }

    /// Prints what an event has of the answer.
    fn take(&mut self, event: &Value, printer: &mut Printer) -> Result<()> {
        if let Some(error) = event.get("error") {
            bail!(
                "the server ended the answer: {}",
                error["message"].as_str().unwrap_or("it gave no reason")
            );
        }
        let choice = &event["choices"][0];
        let delta = &choice["delta"];
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let reasoning = text(&delta["reasoning_content"]).or_else(|| text(&delta["reasoning"]));
        if let Some(reasoning) = reasoning {
            self.first.get_or_insert_with(Instant::now);
            printer.piece(&Piece::Reasoning(&reasoning))?;
        }
        if let Some(content) = text(&delta["content"]) {
            self.first.get_or_insert_with(Instant::now);
            printer.piece(&Piece::Text(&content, None))?;
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finish_reason = Some(reason.to_owned());
        }
        for (name, kept) in [("usage", &mut self.usage), ("timings", &mut self.timings)] {
            if event[name].is_object() {
                *kept = event[name].clone();
            }
        }
        Ok(())
    }

    fn stopped(&self) -> StoppedStats {
        StoppedStats {
            first_token_s: self.first.map(|first| (first - self.start).as_secs_f64()),
            total_s: self.start.elapsed().as_secs_f64(),
            tokens: None,
        }
    }

    fn outcome(self) -> Result<Outcome> {
        let reason = self.finish_reason.context("the connection ended before the answer was complete")?;
        let count = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        let first = self.first.unwrap_or_else(Instant::now);
        let stats = self.usage.is_object().then(|| Stats {
            answers: 1,
            prompt_tokens: count(&self.usage["prompt_tokens"]),
            cached_tokens: count(&self.usage["prompt_tokens_details"]["cached_tokens"]),
            tokens: count(&self.usage["completion_tokens"]),
            drafted: count(&self.timings["draft_n"]),
            accepted: count(&self.timings["draft_n_accepted"]),
            first_token_s: (first - self.start).as_secs_f64(),
            decode_s: first.elapsed().as_secs_f64(),
        });
        let end = if reason == "length" { End::Length(stats) } else { End::Complete(stats) };
        Ok(Outcome { end, legend: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_that_are_set_are_sent() {
        let sampling =
            SamplingArgs { temperature: Some(0.7), max_tokens: Some(9), ..SamplingArgs::default() };
        let body = body("m", &[json!({"role": "user", "content": "Hi"})], &sampling);
        assert_eq!(body["temperature"], 0.7);
        assert_eq!(body["max_tokens"], 9);
        assert!(body.get("top_p").is_none() && body.get("seed").is_none(), "{body}");
    }
}

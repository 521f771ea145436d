//! Speculation on the wire: the request's `speculation` and `prediction`, and what an answer tells about drafts.
//!
//! vLLM's `metrics.speculative_decoding` keeps vLLM's names and meanings; what it has no name for is in
//! `speculation`. `accepted_prediction_tokens` and `rejected_prediction_tokens` are about a `prediction` alone, as
//! OpenAI has them, whatever was drafted.

use foretoken_engine::{
    DraftReport, MAX_DRAFT_LIMIT, Policy, Source, Sources, SpeculationChoice, Summary, Thresholds,
};
use serde_json::{Map, Value, json};

use super::fields::{Fields, describe};
use crate::answer::Piece;
use crate::error::ApiError;

/// The `speculation` object of a request.
pub(crate) fn read(fields: Fields<'_>) -> Result<SpeculationChoice, ApiError> {
    let Some(value) = fields.get("speculation") else { return Ok(SpeculationChoice::default()) };
    let fields = Fields::at("speculation", value)?;
    Ok(SpeculationChoice {
        enabled: fields.bool("enabled")?,
        policy: policy(fields)?,
        sources: sources(fields)?,
        max_draft: fields.integer("max_draft", 0..=MAX_DRAFT_LIMIT as i64)?.map(|max| max as usize),
        funded: fields.bool("funded")?,
        always: fields.bool("always")?,
    })
}

/// Whether the answer is to say who drafted its text: `speculation.show`.
pub(crate) fn shows(fields: Fields<'_>) -> Result<bool, ApiError> {
    let Some(value) = fields.get("speculation") else { return Ok(false) };
    Ok(Fields::at("speculation", value)?.bool("show")?.unwrap_or(false))
}

/// A text by drafter, for an answer that shows it.
pub(crate) fn drafted(piece: &Piece) -> Value {
    let stretches = piece.drafted.stretches(&piece.text).into_iter();
    stretches.map(|(text, by)| json!({"text": text, "by": by.map(Source::name)})).collect()
}

fn policy(fields: Fields<'_>) -> Result<Option<Policy>, ApiError> {
    let threshold = |name: &str, default: f32| -> Result<(f32, bool), ApiError> {
        let given = fields.number(name)?;
        match given {
            Some(value) if !(0.0..=1.0).contains(&value) => Err(ApiError::bad_value(
                fields.path_of(name),
                format!("must be between 0 and 1, got {value}"),
            )),
            _ => Ok((given.unwrap_or(default), given.is_some())),
        }
    };
    let default = Thresholds::default();
    let (epsilon, has_epsilon) = threshold("epsilon", default.epsilon)?;
    let (delta, has_delta) = threshold("delta", default.delta)?;
    let (tau, has_tau) = threshold("tau", default.tau)?;
    let policy = match fields.string("policy")? {
        Some("agreement") => return Ok(Some(Policy::Agreement(Thresholds { epsilon, delta, tau }))),
        Some("exact") => Some(Policy::Exact),
        Some("lossless") => Some(Policy::Lossless),
        Some(other) => {
            let message = format!("must be \"exact\", \"lossless\" or \"agreement\", got {:?}", other);
            return Err(ApiError::bad_value(fields.path_of("policy"), message));
        }
        None => None,
    };
    for (name, given) in [("epsilon", has_epsilon), ("delta", has_delta), ("tau", has_tau)] {
        if given {
            let message = "is only allowed when 'speculation.policy' is \"agreement\"";
            return Err(ApiError::bad_value(fields.path_of(name), message));
        }
    }
    Ok(policy)
}

fn sources(fields: Fields<'_>) -> Result<Option<Sources>, ApiError> {
    let Some(items) = fields.array("sources")? else { return Ok(None) };
    let source = |(at, item): (usize, &Value)| {
        item.as_str().and_then(Source::named).ok_or_else(|| {
            let names = Source::ALL.map(Source::name).join("\", \"");
            let message = format!("must be one of \"{names}\", got {}", describe(item));
            ApiError::bad_value(format!("{}[{at}]", fields.path_of("sources")), message)
        })
    };
    items.iter().enumerate().map(source).collect::<Result<Sources, _>>().map(Some)
}

/// The text of OpenAI's `prediction`.
pub(crate) fn prediction(fields: Fields<'_>) -> Result<Option<String>, ApiError> {
    let Some(value) = fields.get("prediction") else { return Ok(None) };
    let fields = Fields::at("prediction", value)?;
    match fields.string("type")? {
        Some("content") => {}
        Some(_) => return Err(ApiError::bad_value("prediction.type", "must be \"content\"")),
        None => return Err(ApiError::missing("prediction.type", "write \"type\": \"content\"")),
    }
    match fields.get("content") {
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(parts)) => {
            parts.iter().enumerate().map(text_part).collect::<Result<_, _>>().map(Some)
        }
        Some(other) => {
            let message = format!("must be a string or an array of text parts, got {}", describe(other));
            Err(ApiError::bad_value("prediction.content", message))
        }
        None => Err(ApiError::missing("prediction.content", "send the expected answer")),
    }
}

fn text_part((at, part): (usize, &Value)) -> Result<String, ApiError> {
    let path = format!("prediction.content[{at}]");
    let part = Fields::at(&path, part)?;
    if part.string("type")?.unwrap_or("text") != "text" {
        return Err(ApiError::unsupported(part.path_of("type"), "can only be \"text\""));
    }
    let text = part.string("text")?;
    text.map(str::to_owned)
        .ok_or_else(|| ApiError::missing(part.path_of("text"), "send the text of the part"))
}

/// Draft statistics summed over the choices of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct DraftSums {
    sum: DraftReport,
    saved_ms: f64,
}

impl DraftSums {
    /// Adds a finished choice.
    pub(crate) fn add(&mut self, summary: &Summary) {
        self.sum += &summary.drafts;
        // A replayed response computed nothing and earns no credit.
        self.saved_ms += if summary.replayed { 0.0 } else { summary.saved_ms };
    }

    /// Milliseconds of credit earned and spent.
    pub(crate) fn credit_ms(&self) -> (f64, f64) {
        (self.saved_ms, self.sum.credit_spent_ms)
    }

    /// Accepted and rejected tokens of a prediction, if there was one.
    pub(crate) fn prediction(&self) -> Option<(usize, usize)> {
        self.sum.prediction
    }

    /// Adds `metrics` and `speculation`, if anything was drafted.
    pub(crate) fn add_reports(&self, body: &mut Map<String, Value>) {
        let sum = &self.sum;
        if sum.drafts == 0 {
            return;
        }
        let metrics = json!({"speculative_decoding": {
            "mean_acceptance_length": 1.0 + ratio(sum.accepted, sum.drafts),
            "draft_acceptance_rate": ratio(sum.accepted, sum.drafted),
            "acceptance_histogram": sum.histogram,
            "num_spec_steps": sum.drafts,
            "num_accepted_draft_tokens": sum.accepted,
            "num_draft_tokens": sum.drafted,
            "num_spec_tokens": sum.histogram.len() - 1,
        }});
        body.insert("metrics".into(), metrics);
        let sources: Map<String, Value> = Source::ALL
            .into_iter()
            .zip(&sum.sources)
            .filter(|(_, of)| of.proposed > 0 || of.ms > 0.0)
            .map(|(source, of)| {
                let report = json!({"proposed": of.proposed, "accepted": of.accepted, "draft_ms": of.ms});
                (source.name().to_owned(), report)
            })
            .collect();
        let speculation = json!({
            "steps": sum.steps,
            "drafted_steps": sum.drafts,
            "sources": sources,
            "relaxed_tokens": sum.relaxed,
            "mean_logprob_given_up": sum.given_up / sum.relaxed.max(1) as f64,
            "credit_earned_ms": self.saved_ms,
            "credit_spent_ms": sum.credit_spent_ms,
        });
        body.insert("speculation".into(), speculation);
    }
}

fn ratio(above: usize, below: usize) -> f64 {
    if below > 0 { above as f64 / below as f64 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(body: Value) -> Result<SpeculationChoice, ApiError> {
        read(Fields::of_body(body.as_object().unwrap()))
    }

    #[test]
    fn absent_fields_use_the_servers_defaults() {
        assert_eq!(choice(json!({})).unwrap(), SpeculationChoice::default());
        let some = choice(json!({"speculation": {"max_draft": 3, "sources": ["memory"]}})).unwrap();
        assert_eq!((some.enabled, some.policy, some.max_draft), (None, None, Some(3)));
        assert!(
            some.sources.unwrap().contains(Source::Memory)
                && !some.sources.unwrap().contains(Source::OwnText)
        );
    }

    #[test]
    fn thresholds_require_the_agreement_policy() {
        let policy = |body| choice(json!({"speculation": body})).unwrap().policy;
        let tau = Thresholds { tau: 0.5, ..Thresholds::default() };
        assert_eq!(policy(json!({"policy": "agreement", "tau": 0.5})), Some(Policy::Agreement(tau)));
        assert_eq!(policy(json!({"policy": "exact"})), Some(Policy::Exact));
    }

    #[test]
    fn invalid_values_are_reported_by_path() {
        for (body, param) in [
            (json!({"speculation": true}), "speculation"),
            (json!({"speculation": {"enabled": "yes"}}), "speculation.enabled"),
            (json!({"speculation": {"policy": "fast"}}), "speculation.policy"),
            (json!({"speculation": {"max_draft": 65}}), "speculation.max_draft"),
            (json!({"speculation": {"max_draft": -1}}), "speculation.max_draft"),
            (json!({"speculation": {"sources": ["magic"]}}), "speculation.sources[0]"),
            (json!({"speculation": {"policy": "agreement", "tau": 1.5}}), "speculation.tau"),
            (json!({"speculation": {"policy": "exact", "delta": 0.5}}), "speculation.delta"),
        ] {
            assert_eq!(choice(body.clone()).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
    }

    #[test]
    fn a_prediction_is_a_string_or_text_parts() {
        let text = |body: Value| prediction(Fields::of_body(body.as_object().unwrap()));
        let content = |content| json!({"prediction": {"type": "content", "content": content}});
        assert_eq!(text(content(json!("ab"))).unwrap().as_deref(), Some("ab"));
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        assert_eq!(text(content(parts)).unwrap().as_deref(), Some("ab"));
        assert_eq!(text(json!({})).unwrap(), None);
        for (body, param) in [
            (json!({"prediction": "ab"}), "prediction"),
            (json!({"prediction": {"content": "ab"}}), "prediction.type"),
            (json!({"prediction": {"type": "other", "content": "ab"}}), "prediction.type"),
            (json!({"prediction": {"type": "content"}}), "prediction.content"),
            (content(json!(7)), "prediction.content"),
            (content(json!([{"type": "image_url"}])), "prediction.content[0].type"),
            (content(json!([{"type": "text"}])), "prediction.content[0].text"),
        ] {
            assert_eq!(text(body.clone()).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
    }
}

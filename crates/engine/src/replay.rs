//! Finished answers: their key, how they are stored, and how they are replayed without the model.
//!
//! The invariant: two requests have the same key only if the same tokens answer both. A request whose answer is
//! not deterministic gets a unique key; its answer is kept only to draft from.

use std::sync::Arc;

use foretoken_cache::store::{Alternatives, Response, ResponseKey, Store, StoredScore};
use foretoken_cache::{RecomputeCost, Scope, ScopeId};
use foretoken_model::tokenizer::Tokenizer;

use crate::api::{Answer, DraftReport, FinishReason, Policy, Request, Sampling, Summary, Timings, Usage};
use crate::config::Responses;
use crate::grammar::Grammar;
use crate::output::{Output, Scores};
use crate::random::fresh_seed;
use crate::speculate::TextFollower;

/// Tokens per event of a replayed answer.
const TOKENS_PER_EVENT: usize = 32;

/// Changes when the same seed gives other tokens than before, so that answers drawn in another way are not replayed.
const SAMPLING_VERSION: u64 = 2;

const STOP: u8 = 0;
const LENGTH: u8 = 1;

/// Where an answer will be stored, and its log-probabilities so far.
#[derive(Default)]
pub(crate) struct Keep {
    to: Option<(Arc<Store>, ResponseKey)>,
    scores: Option<Vec<Alternatives>>,
}

impl Keep {
    /// Keeps the answer to `request` in `store` under `key`, log-probabilities included if they were asked for.
    pub(crate) fn new(store: Arc<Store>, key: ResponseKey, request: &Request) -> Keep {
        Keep { to: Some((store, key)), scores: request.logprobs.map(|_| Vec::new()) }
    }

    /// Records the log-probabilities of a token.
    pub(crate) fn token(&mut self, scores: Option<Scores>) {
        if let (Some(kept), Some((logprob, top)), true) = (&mut self.scores, scores, self.to.is_some()) {
            let score = |(id, logprob)| StoredScore { id, logprob };
            // The chosen token's id is filled in from the answer.
            kept.push(Alternatives {
                chosen: score((0, logprob)),
                top: top.into_iter().map(score).collect(),
            });
        }
    }

    /// Stores the finished answer, unless it ended with an error.
    pub(crate) fn answer(&mut self, scope: ScopeId, prompt: &[u32], answer: &[u32], reason: &FinishReason) {
        let reason = match reason {
            FinishReason::Stop => STOP,
            FinishReason::Length => LENGTH,
            FinishReason::Error(_) => return,
        };
        let Some((store, key)) = self.to.take() else { return };
        let mut logprobs = self.scores.take();
        for (scores, &token) in logprobs.iter_mut().flatten().zip(answer) {
            scores.chosen.id = token;
        }
        let response = Response { prompt: prompt.to_vec(), tokens: answer.to_vec(), reason, logprobs };
        store.keep_response(key, scope, &response);
    }
}

/// The key of a request, from everything that determines its answer. `None` if it is not to be stored.
pub(crate) fn key(
    scope: &Scope,
    request: &Request,
    policy: Policy,
    len_max: usize,
    responses: Responses,
) -> Option<ResponseKey> {
    let same_again = is_deterministic(&request.sampling, policy);
    let asked_for = match responses {
        Responses::Off => return None,
        Responses::Deterministic => same_again,
        Responses::Always => true,
    };
    let unique = if asked_for { 0 } else { fresh_seed().max(1) };
    Some(ResponseKey::of(scope, &request.prompt, &parameters(request, policy, len_max, unique)))
}

/// Whether the same request has the same answer. Under policies other than `exact` it depends on the draft tokens.
fn is_deterministic(sampling: &Sampling, policy: Policy) -> bool {
    match policy {
        Policy::Exact => sampling.is_deterministic(),
        Policy::Lossless => sampling.temperature == 0.0,
        Policy::Agreement(_) => false,
    }
}

/// Every parameter in a fixed order and width; texts and lists with their length in front.
fn parameters(request: &Request, policy: Policy, len_max: usize, unique: u64) -> Vec<u8> {
    let sampling = &request.sampling;
    let mut out = Vec::new();
    let greedy = sampling.temperature == 0.0;
    let mut number = |n: u64| out.extend(n.to_le_bytes());
    number(unique);
    number((len_max - request.prompt.len()) as u64);
    for x in [
        sampling.temperature,
        // Truncation has no effect on greedy decoding.
        if greedy { 1.0 } else { sampling.top_p },
        if greedy { 0.0 } else { sampling.min_p },
        sampling.presence_penalty,
        sampling.frequency_penalty,
        sampling.repetition_penalty,
    ] {
        // So that -0.0 and 0.0 are the same.
        number(u64::from((x + 0.0).to_bits()));
    }
    number(if greedy { 0 } else { u64::from(sampling.top_k) });
    number(sampling.repetition_window as u64);
    number(if !greedy && sampling.seed.is_some() { SAMPLING_VERSION } else { 0 });
    number(if greedy { 0 } else { sampling.seed.unwrap_or(0) });
    number(u64::from(request.ignore_eos));
    number(request.logprobs.map_or(0, |top| top as u64 + 1));
    number(match policy {
        Policy::Agreement(_) => 1,
        Policy::Lossless if !greedy => 2,
        _ => 0,
    });
    number(sampling.logit_bias.len() as u64);
    let mut bias = sampling.logit_bias.clone();
    bias.sort_by_key(|(id, _)| *id);
    for (id, bias) in bias {
        number(u64::from(id));
        number(u64::from(bias.to_bits()));
    }
    let mut stop_ids = request.stop_ids.clone();
    stop_ids.sort_unstable();
    number(stop_ids.len() as u64);
    stop_ids.into_iter().for_each(|id| number(u64::from(id)));
    number(request.stop.len() as u64);
    for stop in &request.stop {
        out.extend((stop.len() as u64).to_le_bytes());
        out.extend(stop.as_bytes());
    }
    if let Some((reasoning, source)) = request.grammar.as_ref().map(Grammar::identity) {
        out.push(reasoning);
        out.extend(source);
    }
    out
}

/// Replays a stored response to `request`.
pub(crate) fn replay(
    tokenizer: &Tokenizer,
    mut request: Request,
    response: &Response,
    cost: RecomputeCost,
) -> Answer {
    let prompt = request.prompt.len();
    request.progress.record(prompt, prompt);
    let (events, answer) = Answer::channel(response.tokens.len() + 1);
    let mut expected = TextFollower::of_prediction(&mut request);
    let mut output = Output::new(&mut request, events);
    for (at, &token) in response.tokens.iter().enumerate() {
        let stored = response.logprobs.as_ref().and_then(|all| all.get(at));
        let scores: Option<Scores> = stored.map(|scores| {
            (scores.chosen.logprob, scores.top.iter().map(|score| (score.id, score.logprob)).collect())
        });
        output.push(tokenizer, token, scores.as_ref(), None);
        if (at + 1).is_multiple_of(TOKENS_PER_EVENT) {
            output.send();
        }
        expected.iter_mut().for_each(|expected| expected.observe(token));
    }
    let predicted = response.tokens.len();
    let summary = Summary {
        reason: if response.reason == LENGTH { FinishReason::Length } else { FinishReason::Stop },
        usage: Usage { prompt_tokens: prompt, cache_hit_tokens: prompt, completion_tokens: predicted },
        timings: Timings { cache_n: prompt, predicted_n: predicted, ..Timings::default() },
        replayed: true,
        saved_ms: cost.seconds(0, prompt) * 1e3,
        drafts: Box::new(DraftReport {
            prediction: expected.as_ref().map(TextFollower::counts),
            ..DraftReport::default()
        }),
        ..Summary::default()
    };
    output.finish(summary);
    answer
}

#[cfg(test)]
mod tests {
    use foretoken_cache::{Fingerprint, ServerSecret};

    use super::*;
    use crate::api::Thresholds;

    fn name(change: impl FnOnce(&mut Request)) -> ResponseKey {
        let mut request = Request { prompt: vec![1, 2], ..Request::default() };
        request.sampling.temperature = 0.0;
        change(&mut request);
        let scope = ServerSecret::new([1; 32]).scope("a", Fingerprint::of(&[]));
        key(&scope, &request, Policy::Exact, 100, Responses::Deterministic).expect("it is kept")
    }

    #[test]
    fn whatever_may_change_an_answer_changes_the_key() {
        let changes: [fn(&mut Request); 13] = [
            |r| r.prompt.push(3),
            |r| r.sampling.temperature = 0.5,
            |r| r.sampling.presence_penalty = 0.5,
            |r| r.sampling.frequency_penalty = 0.5,
            |r| r.sampling.repetition_penalty = 1.5,
            |r| r.sampling.repetition_window = 5,
            |r| r.sampling.logit_bias.push((1, 1.0)),
            |r| r.ignore_eos = true,
            |r| r.logprobs = Some(0),
            |r| r.logprobs = Some(1),
            |r| r.stop.push("a".into()),
            |r| r.stop_ids.push(1),
            |r| (r.sampling.temperature, r.sampling.seed) = (1.0, Some(0)),
        ];
        let mut names: Vec<ResponseKey> = changes.into_iter().map(name).collect();
        names.push(name(|_| {}));
        for (at, one) in names.iter().enumerate() {
            assert!(!names[at + 1..].contains(one), "change {at} has the name of another");
        }
    }

    #[test]
    fn what_cannot_change_a_greedy_answer_keeps_the_key() {
        let changes: [fn(&mut Request); 6] = [
            |r| r.sampling.seed = Some(5),
            |r| r.sampling.top_k = 5,
            |r| r.sampling.top_p = 0.5,
            |r| r.sampling.min_p = 0.5,
            |r| r.prediction = vec![1],
            |r| r.sampling.temperature = -0.0,
        ];
        for (at, change) in changes.into_iter().enumerate() {
            assert_eq!(name(change), name(|_| {}), "change {at}");
        }
    }

    #[test]
    fn nondeterministic_requests_have_unique_keys() {
        let scope = ServerSecret::new([1; 32]).scope("a", Fingerprint::of(&[]));
        let sampled = Request { prompt: vec![1], ..Request::default() };
        let key = |request: &Request, policy, responses| key(&scope, request, policy, 9, responses);
        let once = key(&sampled, Policy::Exact, Responses::Deterministic);
        assert!(once.is_some() && once != key(&sampled, Policy::Exact, Responses::Deterministic));
        let always = key(&sampled, Policy::Exact, Responses::Always);
        assert_eq!(always, key(&sampled, Policy::Exact, Responses::Always));
        assert_eq!(key(&sampled, Policy::Exact, Responses::Off), None);
        let mut greedy = sampled.clone();
        greedy.sampling.temperature = 0.0;
        let agreed = || key(&greedy, Policy::Agreement(Thresholds::default()), Responses::Deterministic);
        assert_ne!(agreed(), agreed(), "under agreement the answer depends on the draft tokens");
    }
}

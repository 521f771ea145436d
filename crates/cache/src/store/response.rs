//! A response as it is stored: its key, its content, and the content as bytes.
//!
//! Knows no database. The invariant: [`decode`] accepts only what [`encode`] wrote, and never panics on other bytes.

use xxhash_rust::xxh3::xxh3_64;

use crate::keys::Scope;

/// The key of a request: 32 bytes of BLAKE3 over the tenant's secret, the model's fingerprint, the prompt's
/// tokens and every parameter that determines the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResponseKey([u8; 32]);

impl ResponseKey {
    /// Hashes the request. `parameters` is the caller's canonical form of everything but the prompt; two
    /// requests with the same key must have the same response.
    pub fn of(scope: &Scope, prompt: &[u32], parameters: &[u8]) -> ResponseKey {
        let bytes: Vec<u8> = prompt.iter().flat_map(|id| id.to_le_bytes()).collect();
        ResponseKey(scope.response_key(&bytes, parameters))
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A token and its reported log-probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoredScore {
    /// The token's id.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// The reported log-probabilities at one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Alternatives {
    /// The chosen token.
    pub chosen: StoredScore,
    /// The most likely tokens, best first.
    pub top: Vec<StoredScore>,
}

/// A finished response.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// Its prompt; compared on every hit.
    pub prompt: Vec<u32>,
    /// The generated tokens, the last one included.
    pub tokens: Vec<u32>,
    /// The finish reason as the engine encodes it.
    pub reason: u8,
    /// One entry per token, if log-probabilities were requested.
    pub logprobs: Option<Vec<Alternatives>>,
}

pub(super) fn checksum(body: &[u8]) -> i64 {
    xxh3_64(body).cast_signed()
}

/// Decodes a row whose checksum matches.
pub(super) fn checked(body: &[u8], expected: i64) -> Option<Response> {
    if checksum(body) == expected { decode(body) } else { None }
}

/// Little-endian: reason, then each list prefixed with its length.
pub(super) fn encode(response: &Response) -> Vec<u8> {
    let mut out = vec![response.reason];
    let list = |ids: &[u32], out: &mut Vec<u8>| {
        out.extend((ids.len() as u32).to_le_bytes());
        ids.iter().for_each(|id| out.extend(id.to_le_bytes()));
    };
    list(&response.prompt, &mut out);
    list(&response.tokens, &mut out);
    let score = |score: &StoredScore, out: &mut Vec<u8>| {
        out.extend(score.id.to_le_bytes());
        out.extend(score.logprob.to_le_bytes());
    };
    for Alternatives { chosen, top } in response.logprobs.iter().flatten() {
        out.push(top.len() as u8);
        score(chosen, &mut out);
        top.iter().for_each(|alternative| score(alternative, &mut out));
    }
    out
}

pub(super) fn decode(body: &[u8]) -> Option<Response> {
    let mut body = Cursor(body);
    let reason = body.byte()?;
    let (prompt, tokens) = (body.list()?, body.list()?);
    let logprobs = match body.0.is_empty() {
        true => None,
        false => Some(tokens.iter().map(|_| body.alternatives()).collect::<Option<_>>()?),
    };
    body.0.is_empty().then_some(Response { prompt, tokens, reason, logprobs })
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn word(&mut self) -> Option<[u8; 4]> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*word)
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn list(&mut self) -> Option<Vec<u32>> {
        let len = u32::from_le_bytes(self.word()?) as usize;
        let (words, rest) = self.0.split_at_checked(len.checked_mul(4)?)?;
        self.0 = rest;
        Some(words.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }

    fn score(&mut self) -> Option<StoredScore> {
        Some(StoredScore { id: u32::from_le_bytes(self.word()?), logprob: f32::from_le_bytes(self.word()?) })
    }

    fn alternatives(&mut self) -> Option<Alternatives> {
        let len = self.byte()?;
        let chosen = self.score()?;
        let top = (0..len).map(|_| self.score()).collect::<Option<_>>()?;
        Some(Alternatives { chosen, top })
    }
}

//! Finished answers as token ids, found again by a key over everything that decided them.

use std::sync::atomic::Ordering::Relaxed;

use rusqlite::OptionalExtension;
use xxhash_rust::xxh3::xxh3_64;

use super::Store;
use super::writer::Write;
use crate::keys::{Scope, ScopeId};

/// The name of a request: 32 bytes of BLAKE3 over the tenant's secret, the model's fingerprint, the prompt's
/// tokens and every parameter that decides the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResponseKey([u8; 32]);

impl ResponseKey {
    /// Hashes the request. `parameters` is the caller's canonical form of everything but the prompt; two
    /// requests with the same key must have the same answer.
    pub fn of(scope: &Scope, prompt: &[u32], parameters: &[u8]) -> ResponseKey {
        let bytes: Vec<u8> = prompt.iter().flat_map(|id| id.to_le_bytes()).collect();
        ResponseKey(scope.response_key(&bytes, parameters))
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A token and its log-probability as it was reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoredScore {
    /// The token's id.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// What was reported at one position: the chosen token first, then the best ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Alternatives {
    /// The chosen token.
    pub chosen: StoredScore,
    /// The most likely tokens, best first.
    pub top: Vec<StoredScore>,
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// The prompt it answers; compared on every hit.
    pub prompt: Vec<u32>,
    /// The answer, its last token included.
    pub tokens: Vec<u32>,
    /// A number for why it ended; the engine's to interpret.
    pub reason: u8,
    /// One entry per token, if log-probabilities were asked for.
    pub logprobs: Option<Vec<Alternatives>>,
}

impl Store {
    /// The stored answer to a request, if there is one whose prompt is the same.
    pub fn response(&self, key: &ResponseKey, prompt: &[u32]) -> Option<Response> {
        self.counters.queries.fetch_add(1, Relaxed);
        let sql = "SELECT body, checksum FROM responses WHERE key = ?1";
        let row: Option<(Vec<u8>, i64)> = self.read(|db| {
            db.prepare_cached(sql)?
                .query_row([key.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        });
        let (body, checksum) = row?;
        let Some(response) = checked(&body, checksum) else {
            let what = "a stored answer does not match its checksum";
            self.counters.fault(&self.counters.damaged_rows, what, &"row removed");
            self.send(Write::Remove(*key));
            return None;
        };
        if response.prompt != prompt {
            return None;
        }
        self.counters.hits.fetch_add(1, Relaxed);
        self.send(Write::Touch(*key, self.now_ms()));
        Some(response)
    }

    /// Keeps an answer. Queued; dropped and counted if the queue is full.
    pub fn keep_response(&self, key: ResponseKey, scope: ScopeId, response: &Response) {
        let body = encode(response);
        let checksum = checksum(&body);
        self.send(Write::Response { key, scope, body, checksum, now_ms: self.now_ms() });
    }

    /// Calls `each` with the answers, the latest first, as long as it returns true. Damaged rows are passed over.
    pub fn each_response_newest(&self, mut each: impl FnMut(ScopeId, Response) -> bool) {
        let sql = "SELECT scope, body, checksum FROM responses ORDER BY used_ms DESC";
        self.read(|db| {
            let mut statement = db.prepare_cached(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (id, body, checksum): ([u8; 32], Vec<u8>, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let Some(response) = checked(&body, checksum) else { continue };
                if !each(ScopeId::from_bytes(id), response) {
                    break;
                }
            }
            Ok(())
        });
    }

    /// Forgets the answers of a scope, or all of them. Waits until it is done.
    pub fn forget_responses(&self, scope: Option<ScopeId>) {
        self.writer.send(Write::Forget(scope));
        self.flush();
    }

    /// Answers kept, and their bytes.
    pub fn response_totals(&self) -> (u64, u64) {
        let sql = "SELECT count(*), coalesce(sum(length(body)), 0) FROM responses";
        self.read(|db| {
            db.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)))
        })
    }
}

fn checksum(body: &[u8]) -> i64 {
    xxh3_64(body).cast_signed()
}

fn checked(body: &[u8], expected: i64) -> Option<Response> {
    if checksum(body) == expected { decode(body) } else { None }
}

/// Little endian: reason, then each list with its length in front.
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

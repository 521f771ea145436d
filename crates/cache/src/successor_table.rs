//! The successor table: the most likely next tokens after one or two tokens of context.
//!
//! It is learnt from distributions that the model computed anyway, and drafts where no longer context matches.
//! Memory is bounded: a set-associative table that evicts the least likely entry of a set. Older distributions
//! decay as new ones are learnt. One table belongs to one tenant's scope, and its file contains that scope's id.
//!
//! Not for exact counts: two contexts share a slot's tag once in four thousand million, which costs a rejected draft.

use std::fs;
use std::io;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use crate::keys::ScopeId;

/// Next tokens kept per context.
pub const SUCCESSORS: usize = 4;
/// Slots that a context may be in.
const WAYS: usize = 4;
const MAGIC: &[u8; 8] = b"FTSUCC\0\x01";
const HEADER_BYTES: usize = 8 + 32 + 8 + 8;
const SLOT_BYTES: usize = 4 + SUCCESSORS * 5;
/// Weight of a new distribution in a known context.
const LEARN: f32 = 0.3;
/// Replaces the token before the last in contexts of one token.
const ANY: u32 = u32::MAX;

#[derive(Clone, Copy, Default)]
struct Slot {
    /// Zero is an empty slot.
    tag: u32,
    tokens: [u32; SUCCESSORS],
    /// Probabilities in 255ths, falling.
    weights: [u8; SUCCESSORS],
}

/// A possible next token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Successor {
    /// The token.
    pub token: u32,
    /// Its average probability, `0..=1`.
    pub probability: f32,
}

/// The next tokens of a context, most likely first.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Candidates {
    /// Unused places are `None`.
    pub next: [Option<Successor>; SUCCESSORS],
    /// Whether two tokens of context matched, or only one.
    pub by_two: bool,
}

/// See the [module](self).
pub struct SuccessorTable {
    slots: Vec<Slot>,
    learnt: u64,
}

impl SuccessorTable {
    /// An empty table of about `contexts` contexts; a context takes 24 bytes.
    pub fn new(contexts: usize) -> Self {
        let sets = (contexts / WAYS).next_power_of_two().max(1);
        Self { slots: vec![Slot::default(); sets * WAYS], learnt: 0 }
    }

    /// Bytes of memory in use.
    pub fn bytes(&self) -> usize {
        self.slots.len() * size_of::<Slot>()
    }

    /// Distributions learnt since it was created or loaded.
    pub fn learnt(&self) -> u64 {
        self.learnt
    }

    /// Learns what follows `before` (if any) and `last`: tokens and probabilities, most likely first.
    pub fn learn(&mut self, before: Option<u32>, last: u32, next: &[(u32, f32)]) {
        self.learnt += 1;
        self.learn_one(ANY, last, next);
        if let Some(before) = before {
            self.learn_one(before, last, next);
        }
    }

    /// The next tokens of a context. Falls back to one token of context.
    pub fn candidates(&self, before: Option<u32>, last: u32) -> Candidates {
        let by_two = before.and_then(|before| self.find(before, last));
        let slot = by_two.or_else(|| self.find(ANY, last));
        let mut candidates = Candidates { by_two: by_two.is_some(), ..Candidates::default() };
        let Some(slot) = slot else { return candidates };
        for ((next, &token), &weight) in candidates.next.iter_mut().zip(&slot.tokens).zip(&slot.weights) {
            *next = (weight > 0).then(|| Successor { token, probability: f32::from(weight) / 255.0 });
        }
        candidates
    }

    fn find(&self, before: u32, last: u32) -> Option<&Slot> {
        let (set, tag) = self.place(before, last);
        self.slots[set..set + WAYS].iter().find(|slot| slot.tag == tag)
    }

    fn learn_one(&mut self, before: u32, last: u32, next: &[(u32, f32)]) {
        let (set, tag) = self.place(before, last);
        let ways = &mut self.slots[set..set + WAYS];
        if let Some(slot) = ways.iter_mut().find(|slot| slot.tag == tag) {
            slot.blend(next);
        } else if let Some(worst) = ways.iter_mut().min_by_key(|slot| slot.weights[0]) {
            *worst = Slot { tag, ..Slot::default() };
            worst.set(next.iter().copied());
        }
    }

    fn place(&self, before: u32, last: u32) -> (usize, u32) {
        let mixed = (u64::from(before) << 32 | u64::from(last)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let sets = self.slots.len() / WAYS;
        ((mixed as usize & (sets - 1)) * WAYS, (mixed >> 32) as u32 | 1)
    }

    /// Writes the table to a file, whole or not at all.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, path: &Path, scope: ScopeId) -> io::Result<()> {
        let mut body = Vec::with_capacity(self.slots.len() * SLOT_BYTES);
        for slot in &self.slots {
            body.extend(slot.tag.to_le_bytes());
            slot.tokens.iter().for_each(|token| body.extend(token.to_le_bytes()));
            body.extend(slot.weights);
        }
        let mut file = Vec::with_capacity(HEADER_BYTES + body.len());
        file.extend(MAGIC);
        file.extend(scope.as_bytes());
        file.extend((self.slots.len() as u64).to_le_bytes());
        file.extend(xxh3_64(&body).to_le_bytes());
        file.extend(body);
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        fs::write(&temporary, file).and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
            // What could not be written whole is not to stay in part.
            let _ = fs::remove_file(&temporary);
        })
    }

    /// Reads a table of this scope. `None` if there is none, or if it is torn, foreign or of another size: then what
    /// it knew is learnt again.
    pub fn load(path: &Path, scope: ScopeId, contexts: usize) -> Option<Self> {
        let mut table = Self::new(contexts);
        let wanted = HEADER_BYTES + table.slots.len() * SLOT_BYTES;
        if fs::metadata(path).ok()?.len() != wanted as u64 {
            return None;
        }
        let file = fs::read(path).ok()?;
        let (header, body) = file.split_at_checked(HEADER_BYTES)?;
        let fits = header.starts_with(MAGIC)
            && header[8..40] == *scope.as_bytes()
            && header[48..] == xxh3_64(body).to_le_bytes();
        if !fits || file.len() != wanted {
            return None;
        }
        for (slot, bytes) in table.slots.iter_mut().zip(body.chunks_exact(SLOT_BYTES)) {
            let word =
                |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            slot.tag = word(0);
            slot.tokens = std::array::from_fn(|i| word(4 + 4 * i));
            slot.weights.copy_from_slice(&bytes[4 + 4 * SUCCESSORS..]);
        }
        Some(table)
    }
}

impl Slot {
    /// Mixes in a new distribution.
    fn blend(&mut self, next: &[(u32, f32)]) {
        let mut mixed = [(0u32, 0f32); 2 * SUCCESSORS];
        let mut used = 0;
        for (&token, &weight) in self.tokens.iter().zip(&self.weights).filter(|(_, weight)| **weight > 0) {
            mixed[used] = (token, f32::from(weight) / 255.0 * (1.0 - LEARN));
            used += 1;
        }
        for &(token, p) in next.iter().take(SUCCESSORS) {
            match mixed[..used].iter_mut().find(|(have, _)| *have == token) {
                Some((_, weight)) => *weight += LEARN * p,
                None => {
                    mixed[used] = (token, LEARN * p);
                    used += 1;
                }
            }
        }
        mixed[..used].sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
        self.set(mixed[..used].iter().copied());
    }

    fn set(&mut self, next: impl Iterator<Item = (u32, f32)>) {
        (self.tokens, self.weights) = Default::default();
        for (at, (token, p)) in next.take(SUCCESSORS).enumerate() {
            self.tokens[at] = token;
            self.weights[at] = (p.clamp(0.0, 1.0) * 255.0).round() as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Fingerprint, ServerSecret};

    fn scope(tenant: &str) -> ScopeId {
        ServerSecret::new([1; 32]).scope(tenant, Fingerprint::of(&[])).id()
    }

    fn first(table: &SuccessorTable, before: Option<u32>, last: u32) -> Option<u32> {
        table.candidates(before, last).next[0].map(|next| next.token)
    }

    #[test]
    fn two_tokens_of_context_precede_one() {
        let mut table = SuccessorTable::new(1024);
        table.learn(Some(1), 2, &[(10, 0.9)]);
        table.learn(Some(3), 2, &[(20, 0.9)]);
        table.learn(Some(3), 2, &[(20, 0.9)]);
        assert_eq!(first(&table, Some(1), 2), Some(10));
        assert_eq!(first(&table, Some(3), 2), Some(20));
        assert_eq!(first(&table, Some(9), 2), Some(20), "an unknown pair falls back to its last token");
        assert!(!table.candidates(Some(9), 2).by_two);
        assert_eq!(first(&table, Some(9), 9), None);
    }

    #[test]
    fn new_distributions_replace_old_ones() {
        let mut table = SuccessorTable::new(1024);
        table.learn(None, 2, &[(10, 0.9), (11, 0.05)]);
        (0..5).for_each(|_| table.learn(None, 2, &[(30, 0.8), (10, 0.1)]));
        let next = table.candidates(None, 2).next.map(|next| next.map(|next| next.token));
        assert_eq!(next[..2], [Some(30), Some(10)]);
    }

    #[test]
    fn memory_stays_bounded_and_recent_contexts_are_known() {
        let mut table = SuccessorTable::new(256);
        let bytes = table.bytes();
        (0..10_000).for_each(|last| table.learn(None, last, &[(last + 1, 0.5)]));
        assert_eq!(table.bytes(), bytes);
        let known = (9_900..10_000).filter(|&last| first(&table, None, last) == Some(last + 1)).count();
        assert!(known > 20, "{known} of the last 100");
    }

    #[test]
    fn a_table_survives_being_saved_and_nothing_else_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table");
        let mut table = SuccessorTable::new(64);
        table.learn(Some(1), 2, &[(10, 0.9)]);
        table.save(&path, scope("a")).unwrap();
        let loaded = SuccessorTable::load(&path, scope("a"), 64).expect("it was saved");
        assert_eq!(first(&loaded, Some(1), 2), Some(10));

        assert!(SuccessorTable::load(&path, scope("b"), 64).is_none(), "another tenant's");
        assert!(SuccessorTable::load(&path, scope("a"), 128).is_none(), "another size");
        let mut bytes = fs::read(&path).unwrap();
        bytes[100] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(SuccessorTable::load(&path, scope("a"), 64).is_none(), "a flipped bit");
        fs::write(&path, &bytes[..90]).unwrap();
        assert!(SuccessorTable::load(&path, scope("a"), 64).is_none(), "a torn file");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }
}

//! The successor table: the most likely next tokens after one or two tokens of context.
//!
//! It is learnt from distributions that the model computed anyway, and drafts where no longer context matches.
//! Memory is bounded: a set-associative table that evicts the least likely entry of a set. It starts small and doubles
//! while it fills, up to its limit, so a tenant that sent little has a small table. Older distributions decay as new
//! ones are learnt. One table belongs to one tenant's scope, and its serialised form contains that scope's id and its
//! used contexts only. Not for files: [`DraftFiles`](crate::DraftFiles) reads and writes them.
//!
//! Not for exact counts: two contexts share a slot's tag once in four thousand million, which costs a rejected draft.

use xxhash_rust::xxh3::xxh3_64;

use crate::keys::ScopeId;

/// Next tokens kept per context.
pub const SUCCESSORS: usize = 4;
/// Slots that a context may be in.
const WAYS: usize = 4;
/// Contexts that an empty table has room for.
const CONTEXTS_MIN: usize = 64;
/// Sets that the stored bits of a context's hash can tell apart.
const SETS_MAX: usize = 1 << 16;
const MAGIC: &[u8; 8] = b"FTSUCC\0\x02";
const HEADER_BYTES: usize = 8 + 32 + 8 + 8;
const SLOT_BYTES: usize = 4 + 2 + SUCCESSORS * 5;
/// Weight of a new distribution in a known context.
const LEARN: f32 = 0.3;
/// Replaces the token before the last in contexts of one token.
const ANY: u32 = u32::MAX;

#[derive(Clone, Copy, Default)]
struct Slot {
    /// Zero is an empty slot.
    tag: u32,
    /// Further bits of the hash, which choose the set: with them a slot finds its set in a larger table.
    set: u16,
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
#[derive(Clone)]
pub struct SuccessorTable {
    slots: Vec<Slot>,
    slots_max: usize,
    used: usize,
    learnt: u64,
}

impl SuccessorTable {
    /// An empty table that grows up to about `contexts` contexts; a context takes 28 bytes.
    pub fn new(contexts: usize) -> Self {
        let sets_max = (contexts / WAYS).clamp(1, SETS_MAX).next_power_of_two();
        let sets = sets_max.min(CONTEXTS_MIN / WAYS);
        Self { slots: vec![Slot::default(); sets * WAYS], slots_max: sets_max * WAYS, used: 0, learnt: 0 }
    }

    /// Contexts that are known.
    pub fn contexts(&self) -> usize {
        self.used
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
        let (set, tag) = hash(before, last);
        self.slots[self.range(set)].iter().find(|slot| slot.tag == tag && slot.set == set)
    }

    fn learn_one(&mut self, before: u32, last: u32, next: &[(u32, f32)]) {
        let (set, tag) = hash(before, last);
        self.blend((set, tag), next);
    }

    /// Mixes a distribution into a context, which evicts the least likely one of a full set if the table may not grow.
    fn blend(&mut self, (set, tag): (u16, u32), next: &[(u32, f32)]) {
        let range = self.range(set);
        let ways = &mut self.slots[range];
        if let Some(slot) = ways.iter_mut().find(|slot| slot.tag == tag && slot.set == set) {
            slot.blend(next);
            return;
        }
        let full = ways.iter().all(|slot| slot.tag != 0);
        if full && self.slots.len() < self.slots_max && self.used * 4 >= self.slots.len() {
            self.grow();
            return self.blend((set, tag), next);
        }
        // An empty slot has weight 0.
        let range = self.range(set);
        let Some(evicted) = self.slots[range].iter_mut().min_by_key(|slot| slot.weights[0]) else { return };
        self.used += usize::from(evicted.tag == 0);
        *evicted = Slot { tag, set, ..Slot::default() };
        evicted.set(next.iter().copied());
    }

    /// Doubles the sets. Each set splits into two, so no slot is lost.
    fn grow(&mut self) {
        let larger = vec![Slot::default(); self.slots.len() * 2];
        let smaller = std::mem::replace(&mut self.slots, larger);
        for slot in smaller.into_iter().filter(|slot| slot.tag != 0) {
            let range = self.range(slot.set);
            if let Some(empty) = self.slots[range].iter_mut().find(|slot| slot.tag == 0) {
                *empty = slot;
            }
        }
    }

    fn range(&self, set: u16) -> std::ops::Range<usize> {
        let start = (usize::from(set) & (self.slots.len() / WAYS - 1)) * WAYS;
        start..start + WAYS
    }

    /// Adds what `newer` learnt since, as when a stored table arrives after its tenant's first request.
    pub fn absorb(&mut self, newer: &SuccessorTable) {
        for slot in newer.slots.iter().filter(|slot| slot.tag != 0) {
            let next: [(u32, f32); SUCCESSORS] =
                std::array::from_fn(|at| (slot.tokens[at], f32::from(slot.weights[at]) / 255.0));
            let used = slot.weights.iter().filter(|weight| **weight > 0).count();
            self.blend((slot.set, slot.tag), &next[..used]);
        }
        self.learnt = newer.learnt;
    }

    /// The used contexts as bytes, for [`from_bytes`](Self::from_bytes).
    pub fn to_bytes(&self, scope: ScopeId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.used * SLOT_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(scope.as_bytes());
        bytes.extend((self.used as u64).to_le_bytes());
        bytes.extend([0; 8]);
        for slot in self.slots.iter().filter(|slot| slot.tag != 0) {
            bytes.extend(slot.tag.to_le_bytes());
            bytes.extend(slot.set.to_le_bytes());
            slot.tokens.iter().for_each(|token| bytes.extend(token.to_le_bytes()));
            bytes.extend(slot.weights);
        }
        let checksum = xxh3_64(&bytes[HEADER_BYTES..]);
        bytes[48..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The table of this scope in `bytes`; of more than `contexts` contexts, as many as fit. `None` if it is torn, of
    /// another scope or of another version: then its contexts are learnt again.
    pub fn from_bytes(bytes: &[u8], scope: ScopeId, contexts: usize) -> Option<Self> {
        let (header, body) = bytes.split_at_checked(HEADER_BYTES)?;
        let fits = header.starts_with(MAGIC)
            && header[8..40] == *scope.as_bytes()
            && header[40..48] == ((body.len() / SLOT_BYTES) as u64).to_le_bytes()
            && header[48..] == xxh3_64(body).to_le_bytes();
        if !fits || body.len() % SLOT_BYTES != 0 {
            return None;
        }
        let mut table = Self::new(contexts);
        // At least the size it had, so that loading evicts nothing unless the limit is lower now.
        let slots = (body.len() / SLOT_BYTES * 8).next_power_of_two();
        table.slots.resize(slots.clamp(table.slots.len(), table.slots_max), Slot::default());
        for bytes in body.chunks_exact(SLOT_BYTES) {
            let word =
                |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            let (tag, set) = (word(0), u16::from_le_bytes([bytes[4], bytes[5]]));
            let weights = &bytes[6 + 4 * SUCCESSORS..];
            let next: [(u32, f32); SUCCESSORS] =
                std::array::from_fn(|i| (word(6 + 4 * i), f32::from(weights[i]) / 255.0));
            let used = weights.iter().filter(|weight| **weight > 0).count();
            if tag != 0 {
                table.blend((set, tag), &next[..used]);
            }
        }
        Some(table)
    }
}

/// The bits that choose a context's set, and its tag, which is never zero.
fn hash(before: u32, last: u32) -> (u16, u32) {
    let mixed = (u64::from(before) << 32 | u64::from(last)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    // The low bits of a product depend on few bits of its factors.
    ((mixed >> 16) as u16, (mixed >> 32) as u32 | 1)
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
    fn a_table_grows_with_use_up_to_its_limit_and_knows_recent_contexts() {
        let mut table = SuccessorTable::new(256);
        let empty = table.bytes();
        (0..10).for_each(|last| table.learn(None, last, &[(last + 1, 0.5)]));
        assert_eq!(table.bytes(), empty, "ten contexts need no growth");
        (0..10_000).for_each(|last| table.learn(None, last, &[(last + 1, 0.5)]));
        assert_eq!(table.bytes(), 256 * size_of::<Slot>(), "the limit");
        let known = (9_900..10_000).filter(|&last| first(&table, None, last) == Some(last + 1)).count();
        assert!(known > 20, "{known} of the last 100");
    }

    #[test]
    fn growing_loses_no_context() {
        let mut table = SuccessorTable::new(1 << 16);
        for count in 1..=2000 {
            table.learn(None, count, &[(count + 1, 0.5)]);
        }
        let known = (1..=2000).filter(|&last| first(&table, None, last) == Some(last + 1)).count();
        // A set that is full while the table is less than a quarter full evicts; that is rare.
        assert!(known >= 1950, "{known} of 2000");
        assert_eq!(table.contexts(), table.slots.iter().filter(|slot| slot.tag != 0).count());
    }

    #[test]
    fn a_small_table_has_few_bytes() {
        let mut table = SuccessorTable::new(1 << 16);
        (0..100).for_each(|last| table.learn(Some(last), last + 1, &[(last + 2, 0.5)]));
        let bytes = table.to_bytes(scope("a")).len();
        assert!(bytes <= HEADER_BYTES + 200 * SLOT_BYTES, "{bytes} bytes for 100 tokens");
    }

    #[test]
    fn a_table_survives_serialising_and_nothing_else_is_accepted() {
        let mut table = SuccessorTable::new(1024);
        (0..300).for_each(|last| table.learn(Some(last), last + 1, &[(last + 2, 0.9), (7, 0.05)]));
        let bytes = table.to_bytes(scope("a"));
        let loaded = SuccessorTable::from_bytes(&bytes, scope("a"), 1024).expect("it was serialised");
        for last in 0..300 {
            assert_eq!(loaded.candidates(Some(last), last + 1), table.candidates(Some(last), last + 1));
        }
        assert_eq!(
            SuccessorTable::from_bytes(&bytes, scope("a"), 64).map(|table| table.slots.len()),
            Some(64)
        );
        assert!(SuccessorTable::from_bytes(&bytes, scope("b"), 1024).is_none(), "another tenant's");
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(
                SuccessorTable::from_bytes(&changed, scope("a"), 1024).is_none(),
                "a flipped bit at {at}"
            );
            assert!(SuccessorTable::from_bytes(&bytes[..at], scope("a"), 1024).is_none(), "torn at {at}");
        }
    }

    #[test]
    fn a_stored_table_absorbs_what_was_learnt_meanwhile() {
        let (mut stored, mut newer) = (SuccessorTable::new(1024), SuccessorTable::new(1024));
        stored.learn(None, 1, &[(10, 0.9)]);
        newer.learn(None, 2, &[(20, 0.9)]);
        stored.absorb(&newer);
        assert_eq!((first(&stored, None, 1), first(&stored, None, 2)), (Some(10), Some(20)));
        assert_eq!(stored.learnt(), newer.learnt());
    }
}

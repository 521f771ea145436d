//! Explains how far a prompt hits: the closest cached prefix, the tokens that follow in it, and what each
//! tier would contribute now.
//!
//! For diagnosis, not for the step loop: it may read headers from the disk. It changes neither recency
//! nor any counter, and does not query the shared store, so its content is unknown here.
//!
//! The invariant: only blocks under the scope asked about are ever compared.

use crate::BLOCK_TOKENS;
use crate::disk::DiskTier;
use crate::keys::{Place, Scope};
use crate::tiers::ContextCache;
use crate::tree::{Closest, common_prefix};

/// What the cache knows about a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Explained {
    /// The prefix, in memory or on disk, that agrees longest, and the tokens after it: to the end of that block and
    /// through the next one.
    pub closest: Closest,
    /// Tokens that would come from memory.
    pub memory: usize,
    /// Tokens that the disk would add, in whole blocks.
    pub disk: usize,
    /// Tokens that the shared store would add; `None` if one is configured, since it is not queried.
    pub shared: Option<usize>,
}

impl ContextCache {
    /// Compares a prompt with the cache. May block on the disk; changes nothing.
    pub fn explain(&self, scope: &Scope, tokens: &[u32]) -> Explained {
        // The last token of a prompt is always computed: its logits are what the answer begins with.
        let usable = tokens.len().saturating_sub(1);
        let in_memory = self.closest(scope, tokens);
        let (whole, resumable) = self.survey(scope, &tokens[..usable]);
        let shared = if self.has_shared() { None } else { Some(0) };
        let Some(disk) = self.disk() else {
            return Explained {
                closest: self.with_next_block(scope, tokens, in_memory),
                memory: resumable,
                disk: 0,
                shared,
            };
        };
        let chain: Vec<_> = scope.chain(tokens).collect();
        let blocks = in_memory.agreed / BLOCK_TOKENS;
        let more = chain[blocks..].iter().take_while(|(_, key)| disk.contains(key)).count();
        let hit = self.below(scope, &tokens[..usable], (&whole, resumable), false).tokens();
        let whole = blocks + more;
        let place = match whole.checked_sub(1) {
            Some(last) => scope.next(chain[last].0, chain[last].1),
            None => scope.root(),
        };
        let on_disk = closest_on_disk(disk, scope, place, &tokens[whole * BLOCK_TOKENS..]);
        let agreed = whole * BLOCK_TOKENS + on_disk.agreed;
        let memory = if hit > 0 { resumable / BLOCK_TOKENS * BLOCK_TOKENS } else { resumable };
        let closest = match (agreed, on_disk.cached.len()) > (in_memory.agreed, in_memory.cached.len()) {
            true => Closest { agreed, cached: on_disk.cached },
            false => self.with_next_block(scope, tokens, in_memory),
        };
        Explained { closest, memory, disk: hit, shared }
    }

    /// Appends the next block of a cached prefix, if there is one in memory.
    fn with_next_block(&self, scope: &Scope, tokens: &[u32], mut closest: Closest) -> Closest {
        let path = [&tokens[..closest.agreed], &closest.cached].concat();
        if !closest.cached.is_empty() && path.len().is_multiple_of(BLOCK_TOKENS) {
            closest.cached.extend(self.closest(scope, &path).cached);
        }
        closest
    }
}

/// The block right after `place` that agrees longest with `ahead`, and the one after it.
fn closest_on_disk(disk: &DiskTier, scope: &Scope, place: Place, ahead: &[u32]) -> Closest {
    let siblings = disk.after(scope, place);
    let ranked = siblings.iter().map(|(key, tokens)| (common_prefix(tokens, ahead), key, tokens));
    let Some((agreed, key, tokens)) = ranked.max_by_key(|(agreed, ..)| *agreed) else {
        return Closest::default();
    };
    let mut cached = tokens[agreed..].to_vec();
    let next = disk.after(scope, scope.next(place, *key));
    cached.extend(next.first().into_iter().flat_map(|(_, tokens)| tokens));
    Closest { agreed, cached }
}

//! The context cache: what was computed once for a prefix of tokens is kept and found again.
//!
//! The unit is a **block**: what resuming after 64 tokens needs, as opaque bytes of a [`BlockLayout`]. A block
//! is named by a [`BlockKey`] that says which tenant, which model and which tokens led to it, so equal keys
//! mean equal bytes. Blocks live in a bounded [`BlockPool`] in memory, are found there by a [`PrefixTree`], go
//! from there to a [`DiskTier`] and a [`SharedTier`] by themselves, and come back through one front, the
//! [`ContextCache`].
//!
//! This crate does not know what the bytes mean, runs no model and speaks no HTTP. Its invariant is law 3 of
//! the design: an entry that is absent, torn, foreign or late is a miss, counted under a name; it is never an
//! error for the caller and never a wrong answer.
#![forbid(unsafe_code)]

pub mod automaton;
pub mod clock;
pub mod cost;
pub mod disk;
pub mod explain;
pub mod faults;
pub mod format;
pub mod keys;
pub mod memory;
pub mod pool;
pub mod restore;
pub mod shared;
pub mod stats;
pub mod store;
pub mod successors;
pub mod tiers;
pub mod tree;

pub use automaton::{Continuation, Cursor, SuffixAutomaton};
pub use clock::{Clock, ManualClock, SystemClock};
pub use cost::RecomputeCost;
pub use disk::{DiskConfig, DiskEntry, DiskStats, DiskTier, Enqueued, VerifyReport};
pub use explain::Explained;
pub use faults::{Fault, Faults};
pub use format::Wanted;
pub use keys::{BlockKey, Fingerprint, Place, Scope, ScopeId, ServerSecret, SharedPrefix};
pub use memory::{Alike, DraftMemory};
pub use pool::{BlockLayout, BlockPool, Evictable, OpenBlock, PoolCounts, SealedBlock};
pub use restore::{Below, Rates, Restore, Restored, Tier};
pub use shared::{SharedConfig, SharedError, SharedStats, SharedTier, Store};
pub use stats::{AGE_BOUNDS_S, AgeSnapshot, LATENCY_BOUNDS_S, LatencySnapshot};
pub use successors::{Guesses, Successor, SuccessorTable};
pub use tiers::{CacheConfig, CacheStats, ContextCache, Hit, PinLimit};
pub use tree::{CachedPrefix, Closest, Inserted, IntegrityError, Match, PrefixTree, TreeCounts};

/// Tokens in a full block.
pub const BLOCK_TOKENS: usize = 64;

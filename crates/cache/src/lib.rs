//! The context cache: keeps the state computed for a prefix of tokens and finds it again.
//!
//! The unit is a **block**: the state needed to resume after 64 tokens, as opaque bytes of a [`BlockLayout`]. A block
//! is named by a [`BlockKey`] derived from tenant, model and all tokens up to its end, so equal keys
//! mean equal bytes. Blocks live in a bounded [`BlockPool`] in memory, are found there by a [`PrefixTree`], are
//! written to a [`DiskTier`] and a [`SharedTier`] in the background, and are looked up and restored through the
//! [`ContextCache`].
//!
//! This crate does not interpret the bytes, runs no model and speaks no HTTP. Its invariant is law 3 of
//! the design: an entry that is absent, torn, foreign or late is a miss, counted under a name; it is never an
//! error for the caller and never a wrong answer.
#![forbid(unsafe_code)]

pub mod block_layout;
pub mod clock;
pub mod data_folder;
pub mod disk;
pub mod draft_files;
pub mod draft_memory;
pub mod explain;
pub mod faults;
pub mod format;
pub mod keys;
pub mod pool;
pub mod recompute_cost;
pub mod restore;
pub mod shared;
pub mod stats;
pub mod store;
pub mod successor_table;
pub mod suffix_automaton;
pub mod tiers;
pub mod tree;

pub use block_layout::{BlockLayout, Capacity, Part};
pub use clock::{Clock, ManualClock, SystemClock};
pub use disk::{DiskConfig, DiskEntry, DiskStats, DiskTier, Enqueued, VerifyReport};
pub use draft_files::{DraftFiles, DraftFilesConfig, DraftFilesStats};
pub use draft_memory::{Alike, DraftMemory};
pub use explain::Explained;
pub use faults::{Fault, Faults};
pub use format::Wanted;
pub use keys::{BlockKey, Fingerprint, Place, Scope, ScopeId, ServerSecret, SharedPrefix};
pub use pool::{BlockPool, Evictable, OpenBlock, OpenWindowed, PoolCounts, SealedBlock};
pub use recompute_cost::RecomputeCost;
pub use restore::{Below, Rates, Restore, Restored, Tier};
pub use shared::{SharedConfig, SharedError, SharedStats, SharedTier, Store};
pub use stats::{AGE_BOUNDS_S, AgeSnapshot, LATENCY_BOUNDS_S, LatencySnapshot};
pub use successor_table::{Candidates, Successor, SuccessorTable};
pub use suffix_automaton::{Continuation, Cursor, SuffixAutomaton};
pub use tiers::{CacheConfig, CacheStats, ContextCache, Hit, PinBudget, PinLimit};
pub use tree::{CachedPrefix, Closest, Inserted, IntegrityError, Match, PrefixTree, TreeCounts};

/// Tokens in a full block.
pub const BLOCK_TOKENS: usize = 64;

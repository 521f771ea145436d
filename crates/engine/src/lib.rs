//! The engine: sequences, scheduler, sampler and the step loop.
//!
//! A request comes in through [`Engine::submit`], waits in a bounded inbox, is admitted when there are
//! blocks for it, and from then on takes part in steps: each step computes prompt chunks and next tokens of
//! all running sequences in one ragged forward pass. Events leave through the request's [`Answer`]. The
//! engine knows tokens, never HTTP; it moves blocks, and never looks inside them.
#![forbid(unsafe_code)]

pub mod api;
mod block_table;
mod capacity;
mod config;
mod control;
mod dice;
mod draft_planning;
mod engine;
mod explain;
mod fairness;
mod grammar;
mod gumbel;
mod inbox;
mod job;
mod logit_blocks;
mod loop_guard;
pub mod markers;
mod output;
mod random;
mod replay;
mod sampler;
mod scheduler;
mod sequence;
mod shared;
mod speculate;
mod step_loop;
mod stop;
mod work;

pub use api::*;
pub use capacity::{context_bytes, prefix_disk_bytes, tokens_held};
pub use config::{EngineConfig, EngineError, Responses};
pub use control::{CacheInfo, DatabaseInfo, Forgotten, PinRefused};
pub use engine::{DRAFT_DISK_SHARE, Engine};
pub use foretoken_cache::Explained;
pub use grammar::{Calls, Constraint, Function, Grammar, GrammarError, Grammars, Reasoning};

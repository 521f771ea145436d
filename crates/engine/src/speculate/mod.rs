//! Speculation: draft tokens, verify them in the same step, accept those that the target agrees with.
//!
//! [`drafter`]s propose into one [`draft_tree`] per sequence; the probabilities of the [`calibrator`] and the measured
//! [`cost_curve`] of rows let the [`planner`] choose which draft tokens a step verifies; [`acceptance`] walks the tree
//! along what the target says. The target's own [`head`] for multi-token prediction, if it has one, drafts for all sequences
//! of a step together. What drafters of one tenant share is in [`tenants`]. Under the `exact` policy nothing
//! here can change an answer: the target samples every token itself.

pub(crate) mod acceptance;
mod calibrator;
pub(crate) mod cost_curve;
mod coupling;
mod draft_logits;
mod draft_model;
mod draft_tree;
mod drafter;
pub(crate) mod drafts;
pub(crate) mod head;
mod mutex;
pub(crate) mod planner;
pub(crate) mod settings;
pub(crate) mod speculator;
mod successors;
mod tenants;
mod text_drafters;
mod text_follower;

pub(crate) use draft_model::{DRAFT_STEP_TOKENS, DraftModel};
pub(crate) use mutex::Mutex;
pub(crate) use tenants::Tenants;
pub(crate) use text_follower::TextFollower;

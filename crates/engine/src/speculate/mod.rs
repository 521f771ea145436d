//! Speculation: guess what comes next, verify the guesses in the same step, keep what the target agrees with.
//!
//! [`drafter`]s propose into one [`tree`] per sequence; the [`calibrate`]d probabilities and the measured [`cost`] of
//! rows let the [`planner`] choose which guesses a step verifies; [`accept`] walks the tree along what the target
//! says. What drafters of one tenant share is in [`tenants`]. Under the `exact` policy nothing here can change an
//! answer: the target samples every token itself.

pub(crate) mod accept;
mod calibrate;
mod cost;
mod drafter;
pub(crate) mod drafts;
mod follow;
mod parking;
pub(crate) mod planner;
pub(crate) mod settings;
mod small;
pub(crate) mod speculator;
mod successors;
mod tenants;
mod texts;
mod tree;

pub(crate) use follow::Follower;
pub(crate) use parking::Mutex;
pub(crate) use small::SmallModel;
pub(crate) use tenants::{Tenants, prepare_folder};

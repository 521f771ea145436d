//! One module per command; each takes its parsed options and runs to completion.

pub(crate) mod bench_agreement;
pub(crate) mod bench_model;
pub(crate) mod cache;
pub(crate) mod cache_explain;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod eval_mtp;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod man;
pub(crate) mod models;
pub(crate) mod perplexity;
pub(crate) mod pull;
pub(crate) mod serve;
mod serve_banner;
pub(crate) mod train_mtp;
pub(crate) mod usage;

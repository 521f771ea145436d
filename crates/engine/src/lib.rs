//! The engine: sequences, scheduler, sampler and the step loop.
#![forbid(unsafe_code)]

pub mod api;

pub use api::*;

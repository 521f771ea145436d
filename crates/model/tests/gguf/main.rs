//! The GGUF reader: what it reads, what it refuses, and its errors.
#![allow(clippy::unwrap_used)]

mod corpus;
#[allow(dead_code, reason = "the fuzz target uses the rest")]
#[path = "../fuzz/gguf.rs"]
mod fuzz;
mod hostile;
mod metadata;
mod split;
mod tensors;

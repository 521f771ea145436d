//! The GGUF reader: what it reads, what it refuses, and its errors.
#![allow(clippy::unwrap_used)]

mod corpus;
mod hostile;
mod metadata;
mod split;
mod tensors;

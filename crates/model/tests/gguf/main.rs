//! The GGUF reader: what it reads, and what it refuses and how it says so.
#![allow(clippy::unwrap_used)]

mod corpus;
mod hostile;
mod metadata;
mod split;
mod tensors;

//! The `foretoken` command.
#![forbid(unsafe_code)]

fn main() {}

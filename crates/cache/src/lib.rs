//! cache
#![forbid(unsafe_code)]

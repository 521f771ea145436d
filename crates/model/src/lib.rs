//! model
#![deny(unsafe_code)]

//! The API over HTTP, with a scripted engine and a tokenizer whose tokens are bytes.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod accounts;
mod agents;
mod answers;
mod anthropic;
mod cache;
mod chat;
mod completions;
mod explain;

mod fake_cache;
mod fake_server;
mod host_check;
mod lifecycle;
mod ollama;
mod page;
mod refusals;
mod request_fields;
mod responses;
mod service;
mod structure;

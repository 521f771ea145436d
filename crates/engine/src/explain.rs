//! Why a request hits as far as it does: the engine's half of the answer, in tokens.
//!
//! Which tenant's blocks and which shared prefix a request may see is decided here exactly as when it runs. Text,
//! messages and advice are the server's. The invariant: nothing changes, not even recency.

use foretoken_cache::Explained;

use crate::Engine;
use crate::api::Request;

impl Engine {
    /// Compares a request's prompt with what is cached for its tenant. Nothing hits if the request does not let
    /// the cache be read, but the closest prefix is reported all the same. May wait for the disk.
    pub fn explain(&self, request: &Request) -> Explained {
        let scope = self.scope(&request.tenant, &request.prompt);
        let explained = self.cache().explain(&scope, &request.prompt);
        match request.cache.read {
            true => explained,
            false => Explained { memory: 0, disk: 0, shared: Some(0), ..explained },
        }
    }
}

//! A queued request: plain data between [`Engine::submit`](crate::Engine::submit) and the scheduler.

use std::time::Instant;

use foretoken_cache::{Scope, ScopeId};
use tokio::sync::mpsc;

use crate::api::{Event, Request};
use crate::fairness::Owner;
use crate::grammar::Matcher;
use crate::loop_guard::LoopGuard;
use crate::replay::Keep;

/// A queued request.
pub(crate) struct Job {
    pub(crate) request: Request,
    /// Tokens of prompt and answer together, at most.
    pub(crate) len_max: usize,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) arrived: Instant,
    /// The scope that its block keys are derived from.
    pub(crate) scope: Scope,
    /// Its caller and its tenant, whose answers it adds to and drafts from.
    pub(crate) owner: Owner<ScopeId>,
    /// Where the answer begins in its grammar, if it has one.
    pub(crate) matcher: Option<Box<Matcher>>,
    /// Ends an answer that repeats itself; `None` lets it.
    pub(crate) loop_guard: Option<LoopGuard>,
    /// Where the finished answer is stored.
    pub(crate) keep: Keep,
}

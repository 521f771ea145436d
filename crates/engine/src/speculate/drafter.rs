//! The drafter interface: it proposes draft tokens and observes the tokens that followed.
//!
//! Each drafter belongs to one sequence; state that sequences of a tenant share is behind a lock. The model's own head
//! for multi-token prediction is not one of them: it runs for all sequences of a step together
//! ([`head`](super::head)).

use super::calibrator::Calibrator;
use super::coupling::Coupling;
use super::draft_tree::{DraftTree, PATH_MIN};
use super::settings::Source;
use crate::grammar::Guide;

/// A sequence as its drafters see it.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Prompt and answer; the last token is the root of the tree.
    pub(crate) tokens: &'a [u32],
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// Set if draft tokens must be draws from a reported distribution, where the drafter has one.
    pub(crate) drawn: Option<Draws>,
    /// Set if the target samples and drafts may be coupled with its draws, where the drafter has a distribution.
    pub(crate) coupled: Option<Coupling<'a>>,
    /// Cost of a single-token step of the target in milliseconds, for drafters with a cost of their own.
    pub(crate) step_ms: f64,
}

/// The randomness of draws for one sequence.
#[derive(Clone, Copy)]
pub(crate) struct Draws {
    pub(crate) seed: u64,
    /// The target's, above 0.
    pub(crate) temperature: f32,
}

/// Receives a drafter's draft tokens.
pub(crate) struct Proposals<'a> {
    pub(crate) tree: &'a mut DraftTree,
    pub(crate) calibrator: &'a Calibrator,
    /// What knows which tokens may come, where not all may.
    pub(crate) guide: Option<&'a mut Guide>,
    pub(crate) source: Source,
    /// Draft tokens that may still be added.
    pub(crate) room: usize,
}

impl Proposals<'_> {
    /// Adds a draft token of the drafter's class `bucket` with estimated probability `prior`, given its
    /// parent. `None` if there is no room, its probability is too low, or it must not come: then it cannot have children.
    pub(crate) fn add(&mut self, parent: u32, token: u32, bucket: u8, prior: f32) -> Option<u32> {
        if self.room == 0 || self.tree.path(parent) < PATH_MIN || !self.allows(parent, token) {
            return None;
        }
        self.room -= 1;
        Some(self.tree.add(self.calibrator, parent, token, (self.source, bucket, prior)))
    }

    /// Whether the token may come after `parent`. Who draws from a distribution asks before drawing: what is allowed
    /// depends on the path alone, so the draw is from a distribution all the same.
    pub(crate) fn allows(&mut self, parent: u32, token: u32) -> bool {
        let Proposals { tree, guide, .. } = self;
        guide.as_mut().is_none_or(|guide| guide.allows(&tree.tokens_to(parent), token))
    }

    /// [`Proposals::add`] for a draft token that was drawn from `distribution`.
    pub(crate) fn add_drawn(
        &mut self,
        parent: u32,
        token: u32,
        (bucket, prior): (u8, f32),
        distribution: &[(u32, f32)],
    ) -> Option<u32> {
        debug_assert!(self.tree.child(parent, token).is_none(), "an existing node cannot be drawn again");
        let node = self.add(parent, token, bucket, prior)?;
        self.tree.set_drawn(node, distribution.to_vec());
        Some(node)
    }
}

/// See the [module](self).
pub(crate) trait Drafter: Send {
    /// Its source.
    fn source(&self) -> Source;

    /// Adds draft tokens. Called once per step, when the sequence's next token is to be computed.
    fn propose(&mut self, context: Context<'_>, out: &mut Proposals<'_>);

    /// Observes the tokens that a step added to the answer, and how many of its own draft tokens were accepted.
    fn observe(&mut self, tokens: &[u32], accepted: usize);
}

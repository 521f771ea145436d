//! What a drafter is: it proposes what may come next, and hears what came.
//!
//! Each belongs to one sequence and knows nothing of the others; what several sequences of a tenant share stands
//! behind it. A head that reads the target's last hidden row (multi-token prediction) gets it in [`Context`]; its keys,
//! values and the row it goes on from after a hit have their place in the target's block (`KvLayout`).

use super::calibrate::Calibrator;
use super::settings::Source;
use super::tree::{DraftTree, PATH_MIN};

/// A sequence as its drafters see it.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Prompt and answer; the last token is the root of the tree.
    pub(crate) tokens: &'a [u32],
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// The target's hidden row that led to the last token, before the last norm, once a step gave one. Only for drafters
    /// that [read](Drafter::reads_hidden) it.
    #[cfg_attr(not(test), expect(dead_code, reason = "multi-token prediction heads follow"))]
    pub(crate) hidden: Option<&'a [f32]>,
    /// Guesses must be draws from a distribution that is named, where the drafter has one.
    pub(crate) drawn: Option<Draws>,
    /// Milliseconds that the target needs for a step with one token, for drafters that take time themselves.
    pub(crate) step_ms: f64,
}

/// The randomness of draws for one sequence.
#[derive(Clone, Copy)]
pub(crate) struct Draws {
    pub(crate) seed: u64,
    /// The target's, above 0.
    pub(crate) temperature: f32,
}

/// Where a drafter puts its guesses.
pub(crate) struct Proposals<'a> {
    pub(crate) tree: &'a mut DraftTree,
    pub(crate) calibrator: &'a Calibrator,
    pub(crate) source: Source,
    /// Guesses that may still be added.
    pub(crate) room: usize,
}

impl Proposals<'_> {
    /// Adds a guess of a class that the drafter calls `bucket` and thinks right with probability `prior`, given its
    /// parent. `None` if there is no room for it or it is hopeless: then nothing may hang on it.
    pub(crate) fn add(&mut self, parent: u32, token: u32, bucket: u8, prior: f32) -> Option<u32> {
        if self.room == 0 || self.tree.path(parent) < PATH_MIN {
            return None;
        }
        self.room -= 1;
        Some(self.tree.add(self.calibrator, parent, token, (self.source, bucket, prior)))
    }

    /// [`Proposals::add`] for a guess that was drawn from `distribution`.
    pub(crate) fn add_drawn(
        &mut self,
        parent: u32,
        token: u32,
        (bucket, prior): (u8, f32),
        distribution: &[(u32, f32)],
    ) -> Option<u32> {
        debug_assert!(
            self.tree.child(parent, token).is_none(),
            "a guess that is there already was not drawn"
        );
        let node = self.add(parent, token, bucket, prior)?;
        self.tree.set_drawn(node, distribution.to_vec());
        Some(node)
    }
}

/// See the [module](self).
pub(crate) trait Drafter: Send {
    /// Who it is.
    fn source(&self) -> Source;

    /// Whether it wants [`Context::hidden`].
    fn reads_hidden(&self) -> bool {
        false
    }

    /// Adds guesses. Called once per step, when the sequence's next token is to be computed.
    fn propose(&mut self, context: Context<'_>, out: &mut Proposals<'_>);

    /// Hears the tokens that a step added to the answer, and how many of them it had proposed itself and were kept.
    fn observe(&mut self, tokens: &[u32], accepted: usize);
}

//! The gated dense feed-forward network.

use foretoken_kernels::ops::{self, Glu};
use foretoken_kernels::{PackedMatrix, matmul};

use super::branch::Branch;
use super::linear::Linear;
use super::{FeedForward, Place};
use crate::config::{ModelConfig, ModelError};
use crate::step::Scratch;
use crate::weights::Loader;

/// `down · glu(gate · x, up · x)`.
#[derive(Clone, Copy)]
pub(crate) struct Gated {
    /// Numbers between the two.
    pub(crate) width: usize,
    pub(crate) glu: Glu,
}

impl From<Gated> for FeedForward {
    fn from(gated: Gated) -> FeedForward {
        FeedForward::Dense(gated)
    }
}

pub(super) struct GatedLayer {
    spec: Gated,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl GatedLayer {
    pub(super) fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        layer: usize,
        spec: Gated,
    ) -> Result<GatedLayer, ModelError> {
        let name = |suffix: &str| format!("blk.{layer}.{suffix}");
        let (width, ffn) = (config.width, spec.width);
        let (gate, up) = if loader.has(&name("ffn_gate.weight")) {
            (
                Linear::load(loader, &name("ffn_gate"), ffn, width)?,
                Linear::load(loader, &name("ffn_up"), ffn, width)?,
            )
        } else {
            // Both in one tensor, the gate first (Phi 3, GLM 4).
            let part = |rows| Linear::load_rows(loader, &name("ffn_up"), 2 * ffn, rows, width);
            (part(0..ffn)?, part(ffn..2 * ffn)?)
        };
        Ok(GatedLayer { spec, gate, up, down: Linear::load(loader, &name("ffn_down"), width, ffn)? })
    }

    pub(super) fn forward(&self, place: Place<'_>, branch: &Branch, s: &mut Scratch) {
        let (c, ffn) = (place.compute, self.spec.width);
        branch.enter(c, &s.residual, &mut s.activations);
        s.gate.resize(s.positions.len() * ffn, 0.0);
        s.up.resize(s.positions.len() * ffn, 0.0);
        let mut jobs = [self.gate.job(&mut s.gate, false), self.up.job(&mut s.up, false)];
        matmul(c, &s.activations, &mut jobs);
        s.activations.reset(s.positions.len(), ffn);
        ops::glu_activations(c, self.spec.glu, &s.gate, &s.up, &mut s.activations);
        branch.leave_through(c, &self.down, &s.activations, &mut s.branch, &mut s.residual);
    }

    pub(super) fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        [&self.gate, &self.up, &self.down].into_iter().map(|linear| &linear.weight)
    }
}

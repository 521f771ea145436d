//! A branch of the residual stream: the norm that leads into it, and what leads back.

use foretoken_kernels::{Activations, Compute, matmul, ops};

use super::linear::Linear;
use crate::config::{ModelConfig, ModelError};
use crate::weights::Loader;

/// Tensors of the norms around a branch, as they are called within a layer; `None`: no norm.
#[derive(Clone, Copy)]
pub(crate) struct NormNames {
    pub(crate) before: Option<&'static str>,
    pub(crate) after: Option<&'static str>,
}

impl NormNames {
    pub(crate) fn before(name: &'static str) -> NormNames {
        NormNames { before: Some(name), after: None }
    }

    pub(crate) fn after(name: &'static str) -> NormNames {
        NormNames { before: None, after: Some(name) }
    }

    pub(crate) fn around(before: &'static str, after: &'static str) -> NormNames {
        NormNames { before: Some(before), after: Some(after) }
    }
}

pub(super) struct Branch {
    before: Option<Vec<f32>>,
    after: Option<Vec<f32>>,
    scale: f32,
    eps: f32,
    width: usize,
}

impl Branch {
    pub(super) fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        layer: usize,
        names: NormNames,
        scale: f32,
    ) -> Result<Branch, ModelError> {
        let norm = |name: Option<&str>| {
            name.map(|name| loader.vector(&format!("blk.{layer}.{name}.weight"), config.width)).transpose()
        };
        let (before, after) = (norm(names.before)?, norm(names.after)?);
        Ok(Branch { before, after, scale, eps: config.norm_eps, width: config.width })
    }

    /// The residual stream as the branch reads it.
    pub(super) fn enter(&self, c: &Compute, residual: &[f32], activations: &mut Activations) {
        match &self.before {
            Some(norm) => {
                ops::rms_norm_activations(c, residual, self.width, norm, self.eps, activations);
            }
            None => {
                activations.reset(residual.len() / self.width, self.width);
                activations.quantize(c, residual);
            }
        }
    }

    /// `residual += scale * norm(linear · activations)`. `buffer` is used where there is more to it than a sum.
    pub(super) fn leave_through(
        &self,
        c: &Compute,
        linear: &Linear,
        activations: &Activations,
        buffer: &mut Vec<f32>,
        residual: &mut [f32],
    ) {
        if self.after.is_none() && self.scale == 1.0 {
            return matmul(c, activations, &mut [linear.job(residual, true)]);
        }
        buffer.resize(residual.len(), 0.0);
        matmul(c, activations, &mut [linear.job(buffer, false)]);
        self.leave(c, buffer, residual);
    }

    /// `residual += scale * norm(out)`.
    pub(super) fn leave(&self, c: &Compute, out: &[f32], residual: &mut [f32]) {
        let norm = self.after.as_deref().map(|weight| (weight, self.eps));
        ops::add_branch(c, out, self.width, norm, self.scale, residual);
    }
}

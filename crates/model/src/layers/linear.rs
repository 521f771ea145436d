//! A matrix with its optional bias.

use std::ops::Range;

use foretoken_kernels::{MatmulJob, PackedMatrix};

use crate::config::ModelError;
use crate::weights::Loader;

pub(super) struct Linear {
    pub(super) weight: PackedMatrix,
    bias: Option<Vec<f32>>,
}

impl Linear {
    pub(super) fn load(
        loader: &Loader<'_>,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Linear, ModelError> {
        Linear::load_rows(loader, name, rows, 0..rows, cols)
    }

    /// Some of the `total` rows of a tensor that is several matrices in one.
    pub(super) fn load_rows(
        loader: &Loader<'_>,
        name: &str,
        total: usize,
        rows: Range<usize>,
        cols: usize,
    ) -> Result<Linear, ModelError> {
        let bias = loader.optional_vector(&format!("{name}.bias"), total)?;
        Ok(Linear {
            weight: loader.matrix_rows(&format!("{name}.weight"), total, rows.clone(), cols)?,
            bias: bias.map(|bias| bias[rows].to_vec()),
        })
    }

    /// `out = weight · x + bias`, or `out += …` with `add`.
    pub(super) fn job<'a>(&'a self, out: &'a mut [f32], add: bool) -> MatmulJob<'a> {
        MatmulJob { weight: &self.weight, bias: self.bias.as_deref(), out, add }
    }
}

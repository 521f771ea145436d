//! The loss over the cut of the vocabulary, and its gradient with respect to the head's rows.
//!
//! The soft cross-entropy of the head's distribution to the trunk's, both over the cut. A row of logits is as wide as the
//! cut, so candle's own operations would write it a dozen times: here it is written once, and what propagates into the graph is
//! its product with the output rows. The trunk's distribution comes from its hidden row and the same output rows, which is cheaper
//! than to store it.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use crate::cut::Cut;
use crate::examples::Batch;
use crate::operations::{softmax, sum, values};
use crate::trunk::Trunk;

/// The output rows of the cut, in f32.
pub(crate) struct CutOutput {
    /// `[rows, width]`
    rows: Tensor,
    count: usize,
}

/// Sum of a loss and the number of its terms.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Loss {
    pub(crate) sum: f64,
    pub(crate) count: usize,
}

/// What the trunk predicts at each chain's start.
pub(crate) struct Targets {
    /// `[chains][cut]`
    probabilities: Vec<f32>,
    /// The entropy of each row, or `None` where it is not learned from: the token that follows isn't in the cut, so most of the
    /// distribution probably isn't either.
    entropies: Vec<Option<f32>>,
}

impl CutOutput {
    pub(crate) fn new(trunk: &Trunk, cut: &Cut) -> Result<CutOutput> {
        let (count, width) = (cut.rows().len(), trunk.model().config().width);
        let rows = Tensor::from_vec(trunk.output_rows(cut.rows()), (count, width), &Device::Cpu)?;
        Ok(CutOutput { rows, count })
    }

    /// Rows of the cut.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The logits of rows, `[rows][cut]`.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        values(&hidden.detach().matmul(&self.rows.t()?)?)
    }

    /// The logits of the trunk's rows at the chains' starts.
    pub(crate) fn trunk_logits(&self, batch: &Batch) -> Result<Vec<f32>> {
        let width = self.rows.dims()[1];
        self.logits(&Tensor::from_slice(&batch.target_hidden, (batch.len(), width), &Device::Cpu)?)
    }

    pub(crate) fn targets(&self, batch: &Batch, cut: &Cut) -> Result<Targets> {
        let mut probabilities = self.trunk_logits(batch)?;
        let rows = probabilities.par_chunks_mut(self.count).zip(&batch.next);
        let entropies = rows.map(|(row, &next)| {
            let logits = row.to_vec();
            let log_sum = softmax(row);
            cut.index(next).map(|_| log_sum - weighted(row, &logits))
        });
        let entropies = entropies.collect();
        Ok(Targets { probabilities, entropies })
    }

    /// The divergence of the head's distributions at a depth from the targets, and its gradient with respect to the head's
    /// rows, times `factor`.
    pub(crate) fn loss(
        &self,
        (rows, depth): (&Tensor, usize),
        batch: &Batch,
        targets: &Targets,
        factor: f32,
    ) -> Result<(Loss, Tensor)> {
        let mut logits = self.logits(rows)?;
        let losses: Vec<Option<f32>> = logits
            .par_chunks_mut(self.count)
            .enumerate()
            .map(|(chain, row)| {
                let target = Some(chain + depth).filter(|_| depth < batch.left[chain]);
                let Some((target, entropy)) = target.and_then(|at| Some((at, targets.entropies[at]?))) else {
                    row.fill(0.0);
                    return None;
                };
                let wanted = &targets.probabilities[target * self.count..][..self.count];
                let expected = weighted(wanted, row);
                let log_sum = softmax(row);
                row.iter_mut().zip(wanted).for_each(|(q, p)| *q = (*q - p) * factor);
                Some(log_sum - expected - entropy)
            })
            .collect();
        let mut loss = Loss::default();
        for one in losses.into_iter().flatten() {
            loss.sum += f64::from(one);
            loss.count += 1;
        }
        let gradient = Tensor::from_vec(logits, (batch.len(), self.count), &Device::Cpu)?;
        Ok((loss, gradient.matmul(&self.rows)?))
    }
}

/// The mean of `values` under `probabilities`.
fn weighted(probabilities: &[f32], values: &[f32]) -> f32 {
    let mut products = [0f32; 256];
    let chunks = probabilities.chunks(256).zip(values.chunks(256));
    chunks
        .map(|(p, x)| {
            products.iter_mut().zip(p.iter().zip(x)).for_each(|(out, (p, x))| *out = p * x);
            sum(&products[..p.len()])
        })
        .sum()
}

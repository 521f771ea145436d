//! AdamW (arXiv 1711.05101) with clipped gradients; its state can be saved.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

use crate::operations::values;

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.95;
const EPSILON: f32 = 1e-8;
/// Of matrices; norms don't decay.
const WEIGHT_DECAY: f32 = 0.01;
/// Largest norm of the gradient of all weights together.
const CLIP: f64 = 1.0;

/// See the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AdamW {
    /// Moving averages of each weight's gradient and of its square.
    pub(crate) first: Vec<Vec<f32>>,
    pub(crate) second: Vec<Vec<f32>>,
    /// Updates so far.
    pub(crate) updates: u32,
}

impl AdamW {
    pub(crate) fn new(vars: &[Var]) -> AdamW {
        let zeros = || vars.iter().map(|var| vec![0f32; var.elem_count()]).collect();
        AdamW { first: zeros(), second: zeros(), updates: 0 }
    }

    /// One update. Returns the norm of the gradient before it was clipped.
    pub(crate) fn update(&mut self, vars: &[Var], grads: &GradStore, rate: f32) -> Result<f64> {
        let of_var = |var: &Var| match grads.get(var) {
            Some(grad) => values(grad),
            None => Ok(vec![0.0; var.elem_count()]),
        };
        let grads = vars.iter().map(of_var).collect::<Result<Vec<_>>>()?;
        let squares = grads.iter().flatten().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
        let norm = squares.sqrt();
        let clip = if norm > CLIP { (CLIP / norm) as f32 } else { 1.0 };
        self.updates += 1;
        let unbias = |beta: f32| 1.0 / (1.0 - beta.powi(self.updates as i32));
        let (unbias_1, unbias_2) = (unbias(BETA_1), unbias(BETA_2));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((var, grad), (first, second)) in vars.iter().zip(&grads).zip(moments) {
            let mut weights = values(var.as_tensor())?;
            let decay = if var.dims().len() > 1 { 1.0 - rate * WEIGHT_DECAY } else { 1.0 };
            for (((w, g), m), v) in weights.iter_mut().zip(grad).zip(first).zip(second) {
                let g = g * clip;
                *m = BETA_1 * *m + (1.0 - BETA_1) * g;
                *v = BETA_2 * *v + (1.0 - BETA_2) * g * g;
                *w = *w * decay - rate * (*m * unbias_1) / ((*v * unbias_2).sqrt() + EPSILON);
            }
            var.set(&Tensor::from_vec(weights, var.shape(), var.device())?)?;
        }
        Ok(norm)
    }
}

/// The learning rate after a part of training, `0..=1`: linear warm-up, then half a cosine down to a twentieth.
pub(crate) fn rate(peak: f32, done: f64, warm_up: f64) -> f32 {
    if done < warm_up {
        return peak * (done / warm_up) as f32;
    }
    let rest = ((done - warm_up) / (1.0 - warm_up)).min(1.0);
    peak * (0.05 + 0.95 * 0.5 * (1.0 + (std::f64::consts::PI * rest).cos())) as f32
}

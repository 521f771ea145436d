//! The head in candle: the recursion of training-time test over whole texts.
//!
//! `h' = block(P [norm(embedding); norm(h)])` as `foretoken_model`'s head computes it for one row after the other. Here a
//! depth of the recursion is computed for all chains of a batch at once (EAGLE-3's training-time test, arXiv 2503.01840, with
//! position-shared weights as in FastMTP, arXiv 2509.18362): a row of depth `k` attends to the rows of depth 1 up to its
//! chain's start, and to the rows of its own chain. The invariant: see [`examples`](crate::examples).

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};

use crate::examples::{Batch, Example};
use crate::operations::{Angles, MaskedSoftmax, rms_norm, rotate, silu_gate};
use crate::shape::HeadShape;
use crate::trunk::Trunk;

/// Standard deviation of matrices that don't start as the trunk's.
const INITIAL_DEVIATION: f32 = 0.02;

/// What a head's weights are before training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Random.
    Random,
    /// The trunk's last layer; the projection passes the hidden row and adds random numbers.
    LastLayer,
}

/// The weights of a head.
pub struct Head {
    shape: HeadShape,
    /// In the order of [`HeadShape::tensors`].
    vars: Vec<Var>,
}

/// Keys and values of some rows, `[rows, kv heads, head dim]`.
struct KeysAndValues {
    keys: Tensor,
    values: Tensor,
}

impl Head {
    /// Weights for training from the start.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn start(shape: HeadShape, trunk: &Trunk, start: Start, seed: u64) -> Result<Head> {
        let mut random = Normal { state: seed ^ 0x5DEE_CE66_D1CE_4E5B };
        let last = shape.layer - 1;
        let width = shape.width;
        let weights = shape.tensors().map(|tensor| {
            let len = tensor.rows * tensor.cols;
            let name = match tensor.name {
                // The output follows it as it follows the trunk's last norm.
                "nextn.shared_head_norm" => "output_norm.weight".to_owned(),
                name => format!("blk.{last}.{name}.weight"),
            };
            let of_trunk = trunk.tensor(&name, len).filter(|_| start == Start::LastLayer || tensor.is_norm());
            if let Some(weights) = of_trunk {
                return weights;
            }
            if tensor.is_norm() {
                return vec![1.0; len];
            }
            let mut weights: Vec<f32> = (0..len).map(|_| random.next() * INITIAL_DEVIATION).collect();
            if start == Start::LastLayer && tensor.name == "nextn.eh_proj" {
                (0..width).for_each(|row| weights[row * 2 * width + width + row] += 1.0);
            }
            weights
        });
        Head::from_weights(shape, &weights)
    }

    /// A head of given weights, row-major in the order of [`HeadShape::tensors`].
    ///
    /// # Errors
    /// A tensor of another size.
    pub fn from_weights(shape: HeadShape, weights: &[Vec<f32>]) -> Result<Head> {
        let var = |(tensor, weights): (crate::shape::TensorShape, &Vec<f32>)| {
            let dims = if tensor.is_norm() { vec![tensor.cols] } else { vec![tensor.rows, tensor.cols] };
            Var::from_tensor(&Tensor::from_slice(weights, dims, &Device::Cpu)?)
        };
        let vars = shape.tensors().into_iter().zip(weights).map(var).collect::<Result<_>>()?;
        Ok(Head { shape, vars })
    }

    /// Its shape.
    pub fn shape(&self) -> &HeadShape {
        &self.shape
    }

    /// Its weights, in the order of [`HeadShape::tensors`].
    pub(crate) fn vars(&self) -> &[Var] {
        &self.vars
    }

    /// A copy of the weights.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn weights(&self) -> Result<Vec<Vec<f32>>> {
        self.vars.iter().map(|var| crate::operations::values(var.as_tensor())).collect()
    }

    /// The head's rows after its last norm for every depth, `[chains][width]` each: the rows of `examples` in order, one for
    /// each start. A row whose tokens would be beyond the text's end has no meaning.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn rows(&self, trunk: &Trunk, examples: &[&Example], depths: usize) -> Result<Vec<Vec<f32>>> {
        let rows = self.forward(&Batch::new(trunk, examples, depths))?;
        rows.iter().map(crate::operations::values).collect()
    }

    /// The head's rows after its last norm, `[chains, width]`, for every depth of the batch.
    pub(crate) fn forward(&self, batch: &Batch) -> Result<Vec<Tensor>> {
        let names = self.shape.tensors();
        let weights: HashMap<&str, &Tensor> =
            names.iter().map(|tensor| tensor.name).zip(self.vars.iter().map(Var::as_tensor)).collect();
        Pass { shape: &self.shape, weights, batch }.run()
    }
}

/// One forward pass.
struct Pass<'a> {
    shape: &'a HeadShape,
    weights: HashMap<&'static str, &'a Tensor>,
    batch: &'a Batch,
}

impl Pass<'_> {
    fn run(&self) -> Result<Vec<Tensor>> {
        let (batch, width) = (self.batch, self.shape.width);
        let rows = batch.hidden.len() / width;
        let hidden = Tensor::from_slice(&batch.hidden, (rows, width), &Device::Cpu)?;
        let starts = Tensor::from_slice(&batch.starts, batch.len(), &Device::Cpu)?;
        // Rows of prompts give keys and values and no predictions.
        let input = self.project(0, &hidden)?;
        let normed = self.norm("attn_norm", &input)?;
        let all = Angles::new(&self.shape.rotation, &batch.depths[0].positions);
        let shared = self.keys_and_values(&normed, &all)?;
        let of_starts: Vec<u32> =
            batch.starts.iter().map(|&row| batch.depths[0].positions[row as usize]).collect();
        let angles = Angles::new(&self.shape.rotation, &of_starts);
        let (input, normed) = (input.index_select(&starts, 0)?, normed.index_select(&starts, 0)?);
        let mut own: Vec<KeysAndValues> = Vec::new();
        let mut out = vec![self.block(&input, &normed, &angles, &shared, &own)?];
        for depth in 1..batch.depths.len() {
            let input = self.project(depth, &out[depth - 1])?;
            let normed = self.norm("attn_norm", &input)?;
            let angles = Angles::new(&self.shape.rotation, &batch.depths[depth].positions);
            own.push(self.keys_and_values(&normed, &angles)?);
            out.push(self.block(&input, &normed, &angles, &shared, &own)?);
        }
        Ok(out)
    }

    fn norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        rms_norm(x, self.weights[name], self.shape.eps)
    }

    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.weights[name].t()?)
    }

    /// The block's input at a depth.
    fn project(&self, depth: usize, hidden: &Tensor) -> Result<Tensor> {
        let embedded = &self.batch.depths[depth].embedded;
        let embedded = Tensor::from_slice(embedded, hidden.shape(), &Device::Cpu)?;
        let both = [self.norm("nextn.enorm", &embedded)?, self.norm("nextn.hnorm", hidden)?];
        self.linear("nextn.eh_proj", &Tensor::cat(&both, 1)?)
    }

    fn keys_and_values(&self, normed: &Tensor, angles: &Arc<Angles>) -> Result<KeysAndValues> {
        let HeadShape { kv_heads, head_dim, .. } = *self.shape;
        let dims = (normed.dims()[0], kv_heads, head_dim);
        let keys = rotate(&self.linear("attn_k", normed)?, angles, head_dim)?.reshape(dims)?;
        Ok(KeysAndValues { keys, values: self.linear("attn_v", normed)?.reshape(dims)? })
    }

    /// The rest of the head from the block's input, which is also given after the norm before attention.
    fn block(
        &self,
        input: &Tensor,
        normed: &Tensor,
        angles: &Arc<Angles>,
        shared: &KeysAndValues,
        own: &[KeysAndValues],
    ) -> Result<Tensor> {
        let queries = rotate(&self.linear("attn_q", normed)?, angles, self.shape.head_dim)?;
        let attended = self.attention(&queries, shared, own)?;
        let residual = (input + self.linear("attn_output", &attended)?)?;
        let normed = self.norm("ffn_norm", &residual)?;
        let gated = silu_gate(&self.linear("ffn_gate", &normed)?, &self.linear("ffn_up", &normed)?)?;
        let residual = (residual + self.linear("ffn_down", &gated)?)?;
        self.norm("nextn.shared_head_norm", &residual)
    }

    /// Attention of all chains' rows to the shared rows of their texts and to the rows of their chains.
    fn attention(&self, queries: &Tensor, shared: &KeysAndValues, own: &[KeysAndValues]) -> Result<Tensor> {
        let HeadShape { heads, kv_heads, head_dim, .. } = *self.shape;
        let (chains, group) = (self.batch.len(), heads / kv_heads);
        let queries = queries.reshape((chains, kv_heads, group, head_dim))?;
        let own_scores = own.iter().map(|own| queries.broadcast_mul(&own.keys.unsqueeze(2)?)?.sum(3));
        let own_scores = own_scores.collect::<Result<Vec<_>>>()?;
        let (mut out, mut own_probabilities) = (Vec::new(), vec![Vec::new(); own.len()]);
        for span in &self.batch.spans {
            let (first, rows) = (span.starts.start, span.starts.len());
            let (first_key, keys) = (span.keys.start, span.keys.len());
            // Heads before rows, and the queries of a head of keys below one another.
            let by_head = |x: &Tensor, last: usize| -> Result<Tensor> {
                x.narrow(0, first, rows)?.transpose(0, 1)?.reshape((kv_heads, rows * group, last))
            };
            let keys_of = shared.keys.narrow(0, first_key, keys)?.permute((1, 2, 0))?.contiguous()?;
            let mut scores = vec![by_head(&queries, head_dim)?.matmul(&keys_of)?];
            for own in &own_scores {
                scores.push(by_head(own, 1)?);
            }
            let scores = if own.is_empty() { scores.remove(0) } else { Tensor::cat(&scores, 2)? };
            let probabilities = scores.apply_op1(MaskedSoftmax {
                visible: Arc::clone(&span.visible),
                shared: keys,
                group,
                scale: 1.0 / (head_dim as f32).sqrt(),
            })?;
            let values = shared.values.narrow(0, first_key, keys)?.transpose(0, 1)?.contiguous()?;
            let seen = probabilities.narrow(2, 0, keys)?.contiguous()?.matmul(&values)?;
            out.push(seen.reshape((kv_heads, rows, group, head_dim))?.transpose(0, 1)?);
            for (at, own) in own_probabilities.iter_mut().enumerate() {
                let column = probabilities.narrow(2, keys + at, 1)?;
                own.push(column.reshape((kv_heads, rows, group, 1))?.transpose(0, 1)?);
            }
        }
        let mut out = Tensor::cat(&out, 0)?;
        for (own, probabilities) in own.iter().zip(own_probabilities) {
            let probabilities = Tensor::cat(&probabilities, 0)?.contiguous()?;
            out = (out + probabilities.broadcast_mul(&own.values.unsqueeze(2)?)?)?;
        }
        out.reshape((chains, heads * head_dim))
    }
}

/// Normally distributed numbers (Box and Muller) from SplitMix64.
struct Normal {
    state: u64,
}

impl Normal {
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        (crate::recorded::mix(self.state) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn next(&mut self) -> f32 {
        let (a, b) = (1.0 - self.uniform(), self.uniform());
        ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    }
}

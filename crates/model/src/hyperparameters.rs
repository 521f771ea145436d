//! Reading the hyperparameters of a decoder from GGUF metadata.
//!
//! Families call this to fill in their [`Blueprint`](crate::layers::Blueprint). A value that decides a shape or a
//! formula is validated here once; loading weights and the forward pass rely on it. Tensors are not read.

use foretoken_kernels::ops::Glu;
use foretoken_kernels::rope::{RopeConfig, RopeScaling, RopeStyle, yarn_magnitude};
use foretoken_kernels::router::{Gating, GroupScore, Groups, Router};

use crate::config::{ModelConfig, ModelError};
use crate::gguf::{Gguf, Value};
use crate::layers::{Experts, Grouped, QkNorm, RopeSpec};

/// Largest accepted value of a count in the metadata; keeps products far from overflow.
const COUNT_MAX: u32 = 1 << 20;

/// Metadata lookups below the architecture's prefix.
pub(crate) struct Hyperparameters<'a> {
    gguf: &'a Gguf,
    arch: String,
}

impl<'a> Hyperparameters<'a> {
    pub(crate) fn new(gguf: &'a Gguf) -> Result<Hyperparameters<'a>, ModelError> {
        let key = "general.architecture";
        let arch = gguf
            .get_str(key)?
            .ok_or_else(|| ModelError::MissingKey { key: key.into(), arch: "(unnamed)".into() })?;
        Ok(Hyperparameters { gguf, arch: arch.to_string() })
    }

    pub(crate) fn arch(&self) -> &str {
        &self.arch
    }

    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch)
    }

    pub(crate) fn missing(&self, suffix: &str) -> ModelError {
        ModelError::MissingKey { key: self.key(suffix), arch: self.arch.clone() }
    }

    pub(crate) fn bad(&self, suffix: &str, message: String) -> ModelError {
        ModelError::BadValue { key: self.key(suffix), message }
    }

    /// A number that may be zero.
    pub(crate) fn optional_number(&self, suffix: &str) -> Result<Option<usize>, ModelError> {
        match self.gguf.get_u32(&self.key(suffix))? {
            None => Ok(None),
            Some(n) if n <= COUNT_MAX => Ok(Some(n as usize)),
            Some(n) => Err(self.bad(suffix, format!("{n} is not in 0..={COUNT_MAX}"))),
        }
    }

    pub(crate) fn optional_count(&self, suffix: &str) -> Result<Option<usize>, ModelError> {
        match self.gguf.get_u32(&self.key(suffix))? {
            None => Ok(None),
            Some(n) if (1..=COUNT_MAX).contains(&n) => Ok(Some(n as usize)),
            Some(n) => Err(self.bad(suffix, format!("{n} is not in 1..={COUNT_MAX}"))),
        }
    }

    pub(crate) fn count(&self, suffix: &str) -> Result<usize, ModelError> {
        self.optional_count(suffix)?.ok_or_else(|| self.missing(suffix))
    }

    pub(crate) fn optional_float(&self, suffix: &str) -> Result<Option<f32>, ModelError> {
        Ok(self.gguf.get_f32(&self.key(suffix))?)
    }

    pub(crate) fn float(&self, suffix: &str) -> Result<f32, ModelError> {
        self.optional_float(suffix)?.ok_or_else(|| self.missing(suffix))
    }

    /// A finite number above zero.
    pub(crate) fn optional_positive(&self, suffix: &str) -> Result<Option<f32>, ModelError> {
        match self.optional_float(suffix)? {
            Some(x) if !(x.is_finite() && x > 0.0) => {
                Err(self.bad(suffix, format!("{x} is not a positive number")))
            }
            x => Ok(x),
        }
    }

    pub(crate) fn optional_flag(&self, suffix: &str) -> Result<Option<bool>, ModelError> {
        Ok(self.gguf.get_bool(&self.key(suffix))?)
    }

    /// Whether the file has a tensor.
    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    /// Fails for a model whose rotations depend on places in images.
    pub(crate) fn refuse_rope_sections(&self) -> Result<(), ModelError> {
        let suffix = "rope.dimension_sections";
        match self.gguf.get(&self.key(suffix))? {
            Some(_) => Err(self.bad(suffix, "models that read images are not supported".into())),
            None => Ok(()),
        }
    }

    fn string(&self, suffix: &str) -> Result<Option<&'a str>, ModelError> {
        Ok(self.gguf.get_str(&self.key(suffix))?)
    }

    /// What every decoder has.
    pub(crate) fn config(&self) -> Result<ModelConfig, ModelError> {
        let blocks = self.count("block_count")?;
        let predicting = self.optional_number("nextn_predict_layers")?.unwrap_or(0);
        if predicting >= blocks {
            let message = format!("{predicting} of {blocks} layers are for multi-token prediction");
            return Err(self.bad("nextn_predict_layers", message));
        }
        let norm_eps = self.float("attention.layer_norm_rms_epsilon")?;
        if !(0.0..=1.0).contains(&norm_eps) {
            return Err(self.bad("attention.layer_norm_rms_epsilon", format!("{norm_eps} is not in 0..=1")));
        }
        // A file that holds only a head for multi-token prediction has no table.
        let vocab = match self.gguf.tensor("token_embd.weight") {
            Some(embedding) => embedding.rows(),
            None if predicting > 0 => self.tokens()?,
            None => {
                let (tensor, arch) = ("token_embd.weight".into(), self.arch.clone());
                return Err(ModelError::MissingTensor { tensor, arch });
            }
        };
        Ok(ModelConfig {
            arch: self.arch.clone(),
            name: self.gguf.get_str("general.name")?.unwrap_or(&self.arch).to_string(),
            layers: blocks - predicting,
            prediction_layers: predicting,
            width: self.count("embedding_length")?,
            vocab,
            ctx_train: self.count("context_length")?,
            norm_eps,
        })
    }

    /// Tokens in the file's vocabulary.
    fn tokens(&self) -> Result<usize, ModelError> {
        let key = "tokenizer.ggml.tokens";
        match self.gguf.get(key)? {
            Some(Value::Array(tokens)) if !tokens.is_empty() => Ok(tokens.len()),
            _ => Err(ModelError::MissingKey { key: key.into(), arch: self.arch.clone() }),
        }
    }

    /// Grouped-query attention over all positions, with the first rotary table and scores over `sqrt(dim_k)`.
    pub(crate) fn grouped(&self) -> Result<Grouped, ModelError> {
        let width = self.count("embedding_length")?;
        let heads = self.count("attention.head_count")?;
        let kv_heads = self.optional_count("attention.head_count_kv")?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            let message = format!("{kv_heads} does not divide {heads} heads");
            return Err(self.bad("attention.head_count_kv", message));
        }
        let key_length = self.optional_count("attention.key_length")?;
        if key_length.is_none() && width % heads != 0 {
            let message = format!("{heads} does not divide the width {width}");
            return Err(self.bad("attention.head_count", message));
        }
        let dim_k = key_length.unwrap_or(width / heads);
        let dim_v = self.optional_count("attention.value_length")?.unwrap_or(width / heads);
        Ok(Grouped {
            heads,
            kv_heads,
            dim_k,
            dim_v,
            qk_norm: QkNorm::None,
            rope: Some(0),
            window: None,
            softcap: None,
            sinks: false,
            scale: 1.0 / (dim_k as f32).sqrt(),
            temperature: None,
        })
    }

    /// Size of the sliding window, if there is one and it is not zero.
    pub(crate) fn window(&self) -> Result<Option<usize>, ModelError> {
        Ok(self.optional_number("attention.sliding_window")?.filter(|&window| window > 0))
    }

    /// Which of `layers` layers have a sliding window: as the file lists them, or all but the last of each `period`,
    /// which the file may give, too.
    pub(crate) fn windowed_layers(&self, layers: usize, period: usize) -> Result<Vec<bool>, ModelError> {
        let suffix = "attention.sliding_window_pattern";
        let period = match self.gguf.get_u32(&self.key(suffix)) {
            Ok(stored) => stored.map_or(period, |period| period as usize),
            Err(_) => {
                let listed = self.gguf.get_bool_array(&self.key(suffix))?.unwrap_or_default();
                if listed.len() < layers {
                    let message = format!("{} entries for {layers} layers", listed.len());
                    return Err(self.bad(suffix, message));
                }
                return Ok(listed[..layers].to_vec());
            }
        };
        if period == 0 {
            return Err(self.bad(suffix, "a period of 0 layers".into()));
        }
        Ok((0..layers).map(|layer| layer % period < period - 1).collect())
    }

    /// The rotary table that the file describes, for heads of `head_dim`.
    pub(crate) fn rope(&self, style: RopeStyle, head_dim: usize) -> Result<RopeSpec, ModelError> {
        let dim = self.optional_count("rope.dimension_count")?.unwrap_or(head_dim);
        if dim > head_dim || dim % 2 != 0 {
            let message = format!("{dim} is not an even number of at most {head_dim}, the head size");
            return Err(self.bad("rope.dimension_count", message));
        }
        let base = self.optional_positive("rope.freq_base")?.unwrap_or(10_000.0);
        let factor = match self.optional_positive("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            // Files older than the scaling keys.
            None => self.optional_positive("rope.scale_linear")?,
        };
        let attn_factor = f64::from(self.optional_positive("rope.scaling.attn_factor")?.unwrap_or(1.0));
        let (scaling, magnitude) = match (self.string("rope.scaling.type")?, factor) {
            (Some("none"), _) | (None, None) => (RopeScaling::None, 1.0),
            (Some("linear") | None, Some(factor)) => (RopeScaling::Linear { factor }, 1.0),
            (Some("longrope"), _) => (RopeScaling::None, attn_factor),
            (Some("yarn"), Some(factor)) => self.yarn(factor, attn_factor)?,
            (Some("linear" | "yarn"), None) => return Err(self.missing("rope.scaling.factor")),
            (Some(other), _) => {
                let message = format!(
                    "'{other}' is not supported; this build knows none, linear, yarn, longrope and llama3"
                );
                return Err(self.bad("rope.scaling.type", message));
            }
        };
        let config = RopeConfig { dim, base, scaling, magnitude, style };
        Ok(RopeSpec { config, factors: Some("rope_freqs.weight") })
    }

    fn yarn(&self, factor: f32, attn_factor: f64) -> Result<(RopeScaling, f64), ModelError> {
        let scaling = RopeScaling::Yarn {
            factor,
            original_ctx: self.original_ctx()? as u32,
            beta_fast: self.optional_float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: self.optional_float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            truncate: true,
        };
        // A file that has the factor itself gives no reason to compute it.
        let magnitude = match self.optional_positive("rope.scaling.yarn_attn_factor")? {
            Some(magnitude) => f64::from(magnitude),
            None => attn_factor * yarn_magnitude(factor, 1.0),
        };
        Ok((scaling, magnitude))
    }

    /// The experts that `expert_*` describe, without shared ones. `gating` where the file doesn't name it.
    pub(crate) fn experts(&self, gating: Gating, glu: Glu) -> Result<Experts, ModelError> {
        let width = self.count("expert_feed_forward_length")?;
        Ok(Experts { router: self.router(gating)?, width, glu, shared: None })
    }

    /// The router that `expert_*` describe. `gating` where the file doesn't name it.
    pub(crate) fn router(&self, gating: Gating) -> Result<Router, ModelError> {
        let (experts, used) = (self.count("expert_count")?, self.count("expert_used_count")?);
        if used > experts {
            return Err(self.bad("expert_used_count", format!("{used} of {experts} experts")));
        }
        let gating = match self.optional_number("expert_gating_func")? {
            None | Some(0) => gating,
            Some(1) => Gating::Softmax,
            Some(2) => Gating::Sigmoid,
            Some(3) => Gating::SoftmaxOfChosen,
            Some(other) => {
                return Err(self
                    .bad("expert_gating_func", format!("{other} is not a function that this build knows")));
            }
        };
        Ok(Router {
            experts,
            used,
            gating,
            groups: self.expert_groups(experts, used, gating)?,
            bias: None,
            normalise: self.optional_flag("expert_weights_norm")?.unwrap_or(false),
            // 0 stands for none in files of some converters.
            scale: self.optional_float("expert_weights_scale")?.filter(|&scale| scale != 0.0).unwrap_or(1.0),
        })
    }

    fn expert_groups(
        &self,
        experts: usize,
        used: usize,
        gating: Gating,
    ) -> Result<Option<Groups>, ModelError> {
        let count = self.optional_number("expert_group_count")?.unwrap_or(0);
        if count <= 1 {
            return Ok(None);
        }
        let groups = self.count("expert_group_used_count")?;
        if !experts.is_multiple_of(count) || groups > count || used > experts / count * groups {
            let message = format!("{used} experts from {groups} of {count} groups of {experts} experts");
            return Err(self.bad("expert_group_count", message));
        }
        // DeepSeek-V2 compares the best expert of each group, V3, whose scores are sigmoids, the sum of the best two.
        let score = if gating == Gating::Sigmoid { GroupScore::BestTwo } else { GroupScore::Best };
        Ok(Some(Groups { count, used: groups, score }))
    }

    /// Context length of the training before it was extended.
    pub(crate) fn original_ctx(&self) -> Result<usize, ModelError> {
        match self.optional_count("rope.scaling.original_context_length")? {
            Some(ctx) => Ok(ctx),
            None => self.count("context_length"),
        }
    }
}

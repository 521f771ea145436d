//! Model families: one short file each, which reads hyperparameters and says what the layers are made of.
//!
//! A family chooses parts of [`layers`](crate::layers) and the order of norms around them; everything else (embedding,
//! final norm, output head, sampling, caches) is shared and does not depend on it. To add one, write its `blueprint`,
//! its row in [`FAMILIES`] and in `docs/models.md`, and a tiny model in `tests/fixtures/families`.

mod deepseek2;
mod ernie4_5;
mod exaone4;
mod gemma;
mod glm4;
mod gpt_oss;
mod granite;
mod hunyuan;
mod llama;
mod mistral3;
mod olmo2;
mod phi3;
mod qwen;
mod seed_oss;
mod smollm3;

use crate::config::ModelError;
use crate::gguf::Gguf;
use crate::hyperparameters::Hyperparameters;
use crate::layers::Blueprint;

/// Describes a model from its hyperparameters.
type Describe = fn(&Hyperparameters<'_>) -> Result<Blueprint, ModelError>;

/// Every supported `general.architecture`.
const FAMILIES: [(&str, Describe); 21] = [
    ("llama", llama::blueprint),
    ("qwen2", qwen::qwen2),
    ("qwen3", qwen::qwen3),
    ("qwen2moe", qwen::qwen2moe),
    ("qwen3moe", qwen::qwen3moe),
    ("gpt-oss", gpt_oss::blueprint),
    ("gemma", gemma::gemma),
    ("gemma2", gemma::gemma2),
    ("gemma3", gemma::gemma3),
    ("phi3", phi3::blueprint),
    ("mistral3", mistral3::blueprint),
    ("smollm3", smollm3::blueprint),
    ("olmo2", olmo2::blueprint),
    ("granite", granite::granite),
    ("granitemoe", granite::granitemoe),
    ("glm4", glm4::blueprint),
    ("exaone4", exaone4::blueprint),
    ("seed_oss", seed_oss::blueprint),
    ("hunyuan-dense", hunyuan::blueprint),
    ("ernie4_5", ernie4_5::blueprint),
    ("deepseek2", deepseek2::blueprint),
];

/// What a file's model is made of.
pub(crate) fn blueprint(gguf: &Gguf) -> Result<Blueprint, ModelError> {
    let hyper = Hyperparameters::new(gguf)?;
    let family = FAMILIES.iter().find(|(arch, _)| *arch == hyper.arch());
    let (_, describe) = family.ok_or_else(|| ModelError::UnsupportedArchitecture {
        arch: hyper.arch().to_string(),
        supported: FAMILIES.iter().map(|(arch, _)| *arch).collect(),
    })?;
    describe(&hyper)
}

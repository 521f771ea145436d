//! A table of embeddings that stays in its mapped file: only rows of tokens in use are read.

use std::sync::Arc;

use foretoken_kernels::quant;

use crate::config::ModelError;
use crate::gguf::Gguf;
use crate::weights::Loader;

pub(crate) struct MappedEmbedding {
    gguf: Arc<Gguf>,
    tensor: String,
}

impl MappedEmbedding {
    /// The table in `tensor`, of `vocab` rows of `width` numbers.
    pub(crate) fn new(
        loader: &Loader<'_>,
        gguf: &Arc<Gguf>,
        tensor: &str,
        (vocab, width): (usize, usize),
    ) -> Result<MappedEmbedding, ModelError> {
        loader.check(tensor, &[width, vocab])?;
        Ok(MappedEmbedding { gguf: Arc::clone(gguf), tensor: tensor.to_string() })
    }

    /// The row of a token.
    pub(crate) fn row(&self, token: usize, out: &mut [f32]) {
        let info = self.gguf.tensor(&self.tensor).expect("found when the model was loaded");
        let row_bytes = info.byte_len() / info.rows();
        quant::dequantize(info.ty, &self.gguf.bytes(info)[token * row_bytes..][..row_bytes], out);
    }
}

//! From tensors in a GGUF file to packed matrices in memory.
//!
//! A [`Loader`] checks a tensor's shape, packs it and releases the file's pages, so that loading never holds two copies
//! of a large model. It records the names of loaded tensors: a tensor that the model did not load is an error, because
//! ignoring it would give wrong answers silently.

use std::cell::RefCell;
use std::collections::HashSet;

use foretoken_kernels::{Compute, PackedMatrix, quant};

use crate::config::ModelError;
use crate::gguf::{Gguf, TensorInfo};

/// Loads the tensors of one file.
pub(crate) struct Loader<'a> {
    gguf: &'a Gguf,
    compute: &'a Compute,
    arch: &'a str,
    loaded: RefCell<HashSet<String>>,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(gguf: &'a Gguf, compute: &'a Compute, arch: &'a str) -> Loader<'a> {
        Loader { gguf, compute, arch, loaded: RefCell::new(HashSet::new()) }
    }

    /// A matrix of `rows` outputs and `cols` inputs.
    pub(crate) fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<PackedMatrix, ModelError> {
        self.optional_matrix(name, rows, cols)?.ok_or_else(|| self.missing(name))
    }

    /// [`Loader::matrix`], or `None` where the file has no such tensor.
    pub(crate) fn optional_matrix(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Option<PackedMatrix>, ModelError> {
        let Some(info) = self.take(name, &[cols, rows])? else { return Ok(None) };
        let packed = PackedMatrix::pack(self.compute, info.ty, rows, cols, self.gguf.bytes(info))
            .map_err(|source| ModelError::Pack { tensor: name.into(), source })?;
        self.gguf.release(info);
        Ok(Some(packed))
    }

    /// A vector of `len` elements in f32.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        self.optional_vector(name, len)?.ok_or_else(|| self.missing(name))
    }

    /// [`Loader::vector`], or `None` where the file has no such tensor.
    pub(crate) fn optional_vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(info) = self.take(name, &[len])? else { return Ok(None) };
        let mut out = vec![0.0; len];
        quant::dequantize(info.ty, self.gguf.bytes(info), &mut out);
        Ok(Some(out))
    }

    /// Checks the shape of a tensor that is read from the mapped file.
    pub(crate) fn check(&self, name: &str, dims: &[usize]) -> Result<(), ModelError> {
        self.take(name, dims)?.map(|_| ()).ok_or_else(|| self.missing(name))
    }

    /// Fails if the file has a tensor that was not loaded.
    pub(crate) fn finish(self) -> Result<(), ModelError> {
        let loaded = self.loaded.into_inner();
        match self.gguf.tensors().find(|info| !loaded.contains(&info.name)) {
            Some(info) => {
                Err(ModelError::UnknownTensor { tensor: info.name.clone(), arch: self.arch.to_string() })
            }
            None => Ok(()),
        }
    }

    fn take(&self, name: &str, expected: &[usize]) -> Result<Option<&'a TensorInfo>, ModelError> {
        let Some(info) = self.gguf.tensor(name) else { return Ok(None) };
        // GGUF allows trailing dimensions of 1.
        let used = info.dims().iter().rposition(|&d| d != 1).map_or(1, |last| last + 1);
        if info.dims().get(..used.max(expected.len())).unwrap_or(info.dims()) != expected {
            return Err(ModelError::TensorShape {
                tensor: name.into(),
                got: info.dims().to_vec(),
                expected: expected.to_vec(),
            });
        }
        self.loaded.borrow_mut().insert(name.to_string());
        Ok(Some(info))
    }

    fn missing(&self, name: &str) -> ModelError {
        ModelError::MissingTensor { tensor: name.into(), arch: self.arch.into() }
    }
}

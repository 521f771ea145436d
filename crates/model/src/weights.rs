//! From tensors in a GGUF file to packed matrices in memory.
//!
//! A [`Loader`] checks a tensor's shape, packs it and releases the file's pages, matrix by matrix, so that loading never
//! holds two copies of a large model. It records the names of loaded tensors: a tensor that the model did not load is an error, because
//! ignoring it would give wrong answers silently.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use foretoken_kernels::{Arena, Compute, GgmlType, PackError, PackedMatrix, quant};

use crate::config::ModelError;
use crate::gguf::{Gguf, TensorInfo};

/// Loads the tensors of one file.
pub(crate) struct Loader<'a> {
    gguf: &'a Arc<Gguf>,
    compute: &'a Compute,
    arch: &'a str,
    /// Bytes of experts that each layer keeps in memory; `None`: all.
    expert_bytes_per_layer: Option<usize>,
    loaded: RefCell<HashSet<String>>,
    arena: RefCell<Arena>,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(
        gguf: &'a Arc<Gguf>,
        compute: &'a Compute,
        arch: &'a str,
        expert_bytes_per_layer: Option<usize>,
    ) -> Loader<'a> {
        let (loaded, arena) = (RefCell::default(), RefCell::default());
        Loader { gguf, compute, arch, expert_bytes_per_layer, loaded, arena }
    }

    pub(crate) fn gguf(&self) -> &'a Arc<Gguf> {
        self.gguf
    }

    /// Bytes of experts that a layer keeps in memory; `None`: all.
    pub(crate) fn expert_bytes_per_layer(&self) -> Option<usize> {
        self.expert_bytes_per_layer
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
        let packed = self.pack(name, info.ty, rows, cols, self.gguf.bytes(info))?;
        self.gguf.release(info);
        Ok(Some(packed))
    }

    /// Some of the `total` rows of a matrix of `cols` inputs, where a tensor is several matrices one below the other.
    pub(crate) fn matrix_rows(
        &self,
        name: &str,
        total: usize,
        rows: Range<usize>,
        cols: usize,
    ) -> Result<PackedMatrix, ModelError> {
        let info = self.take(name, &[cols, total])?.ok_or_else(|| self.missing(name))?;
        let bytes = self.gguf.bytes(info);
        let row_bytes = bytes.len() / total;
        let bytes = &bytes[rows.start * row_bytes..rows.end * row_bytes];
        let packed = self.pack(name, info.ty, rows.len(), cols, bytes)?;
        self.gguf.release(info);
        Ok(packed)
    }

    /// The rows of a matrix of `total` outputs and `cols` inputs that `rows` names, as a matrix of their own.
    pub(crate) fn gathered_rows(
        &self,
        name: &str,
        total: usize,
        rows: &[u32],
        cols: usize,
    ) -> Result<PackedMatrix, ModelError> {
        let info = self.take(name, &[cols, total])?.ok_or_else(|| self.missing(name))?;
        let bytes = self.gguf.bytes(info);
        let row_bytes = bytes.len() / total;
        let row = |&row: &u32| &bytes[row as usize * row_bytes..][..row_bytes];
        let gathered: Vec<u8> = rows.iter().flat_map(row).copied().collect();
        let packed = self.pack(name, info.ty, rows.len(), cols, &gathered)?;
        self.gguf.release(info);
        Ok(packed)
    }

    /// `count` matrices of `rows` outputs and `cols` inputs each, from one tensor.
    pub(crate) fn matrices(
        &self,
        name: &str,
        count: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Vec<PackedMatrix>, ModelError> {
        let info = self.take(name, &[cols, rows, count])?.ok_or_else(|| self.missing(name))?;
        let bytes = self.gguf.bytes(info);
        let len = bytes.len() / count;
        let packed = bytes.chunks_exact(len).enumerate().map(|(index, bytes)| {
            let packed = self.pack(name, info.ty, rows, cols, bytes);
            self.gguf.release_part(info, index * len..(index + 1) * len);
            packed
        });
        packed.collect()
    }

    /// `rows` vectors of `cols` elements in f32, row-major, or `None` where the file has no such tensor.
    pub(crate) fn optional_table(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(info) = self.take(name, &[cols, rows])? else { return Ok(None) };
        let mut out = vec![0.0; rows * cols];
        quant::dequantize(info.ty, self.gguf.bytes(info), &mut out);
        Ok(Some(out))
    }

    /// From a tensor that has, for each of `heads` heads, rows that make keys of a latent of `rank` numbers and then rows
    /// that make values: the first transposed, to f32 since their blocks run across; the second as they are.
    pub(crate) fn key_and_value_matrices(
        &self,
        name: &str,
        heads: usize,
        [keys, values]: [usize; 2],
        rank: usize,
    ) -> Result<(Vec<PackedMatrix>, Vec<PackedMatrix>), ModelError> {
        let per_head = keys + values;
        let info = self.take(name, &[rank, heads * per_head])?.ok_or_else(|| self.missing(name))?;
        let bytes = self.gguf.bytes(info);
        let mut dense = vec![0.0; keys * rank];
        let (mut of_keys, mut of_values) = (Vec::new(), Vec::new());
        for head in bytes.chunks_exact(bytes.len() / heads) {
            let (key_bytes, value_bytes) = head.split_at(head.len() / per_head * keys);
            quant::dequantize(info.ty, key_bytes, &mut dense);
            let transposed: Vec<u8> =
                (0..rank * keys).flat_map(|at| dense[at % keys * rank + at / keys].to_le_bytes()).collect();
            of_keys.push(self.pack(name, GgmlType::F32, rank, keys, &transposed)?);
            of_values.push(self.pack(name, info.ty, values, rank, value_bytes)?);
        }
        self.gguf.release(info);
        Ok((of_keys, of_values))
    }

    /// Whether the file has a tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    /// Leaves out a tensor that the architecture explains and the model does not need.
    pub(crate) fn skip(&self, name: &str) {
        self.loaded.borrow_mut().insert(name.to_string());
    }

    /// Leaves out all tensors of the layers from `first` on: those of heads for multi-token prediction.
    pub(crate) fn skip_layers(&self, first: usize) {
        let of_layer = |name: &str| name.strip_prefix("blk.")?.split('.').next()?.parse::<usize>().ok();
        let names = self.gguf.tensors().map(|info| &info.name);
        let later = names.filter(|name| of_layer(name).is_some_and(|layer| layer >= first));
        self.loaded.borrow_mut().extend(later.cloned());
    }

    pub(crate) fn pack(
        &self,
        name: &str,
        ty: GgmlType,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<PackedMatrix, ModelError> {
        let pack = || {
            let len = PackedMatrix::packed_bytes(ty, rows, cols)?;
            let memory = self.arena.borrow_mut().zeroed(len).ok_or(PackError::Memory(len))?;
            PackedMatrix::pack_into(self.compute, ty, rows, cols, bytes, memory)
        };
        pack().map_err(|source| ModelError::Pack { tensor: name.into(), source })
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

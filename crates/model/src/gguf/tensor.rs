//! The description of a tensor in a file.

use std::ops::Range;

use foretoken_kernels::quant::GgmlType;

/// A tensor's name, shape, type and location, all checked against the file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Its element type.
    pub ty: GgmlType,
    pub(super) dims: Vec<usize>,
    /// Which file of a split model, from 0.
    pub(super) part: usize,
    /// First byte, counted from the start of that file.
    pub(super) offset: usize,
    /// Length in bytes.
    pub(super) len: usize,
}

impl TensorInfo {
    /// The shape in GGUF order: the contiguous dimension first. One to four dimensions, none zero.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The contiguous dimension: values per row.
    pub fn cols(&self) -> usize {
        self.dims[0]
    }

    /// The product of the other dimensions.
    pub fn rows(&self) -> usize {
        self.dims[1..].iter().product()
    }

    /// Number of values.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Bytes of data.
    pub fn byte_len(&self) -> usize {
        self.len
    }

    /// First byte of the data, counted from the start of the file that holds it.
    pub fn file_offset(&self) -> u64 {
        self.offset as u64
    }

    pub(super) fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len
    }
}

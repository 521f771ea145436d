//! A weight matrix rearranged for the kernels: 16 rows are the 16 lanes.
//!
//! Packing reorders the integers and scales of the GGUF blocks without rounding, so a packed matrix has exactly the
//! values of its tensor, on every instruction set. Rows are packed in groups of 16, the last one padded with zeros. A
//! group is a run of records, one per GGUF block: the f16 fields of the block for 16 rows, then per 32 columns the bit
//! planes of the codes and the fields of the scales, again for 16 rows.
//! In a plane, byte 4 r + j of a 64-byte chunk belongs to row r; it holds code 4 c + j of each chunk c stored in it,
//! the first chunk in the lowest bits. Float matrices are 16 values per column.

use crate::compute::Compute;
use crate::memory::Memory;
use crate::quant::{Block, GgmlType, Layout, float, parse_into};
use crate::share::Shared;
use crate::simd::LANES;

/// A matrix of `rows` × `cols` weights in the layout of the kernels.
pub struct PackedMatrix {
    ty: GgmlType,
    rows: usize,
    cols: usize,
    group_bytes: usize,
    memory: Memory,
}

/// An error of [`PackedMatrix::pack`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// A matrix without elements.
    #[error("a matrix of {rows} x {cols} has no elements")]
    Empty {
        /// Number of rows.
        rows: usize,
        /// Number of columns.
        cols: usize,
    },
    /// The columns are not a multiple of the block length.
    #[error("{cols} columns are not a multiple of the {block} elements of a {ty} block")]
    PartBlock {
        /// The element type.
        ty: GgmlType,
        /// Number of columns.
        cols: usize,
        /// Elements of a block.
        block: usize,
    },
    /// The data's length does not match the shape.
    #[error("{rows} x {cols} elements of {ty} take {expected} bytes, not {found}")]
    Length {
        /// The element type.
        ty: GgmlType,
        /// Number of rows.
        rows: usize,
        /// Number of columns.
        cols: usize,
        /// Bytes that the shape needs.
        expected: u128,
        /// Bytes found.
        found: usize,
    },
    /// Allocation failed.
    #[error("cannot allocate {0} bytes for packed weights")]
    Memory(usize),
}

impl PackedMatrix {
    /// Packs `bytes`, the rows of a GGUF tensor one after the other (`cols` is its first dimension).
    ///
    /// # Errors
    /// When the shape is empty, does not match the type's blocks or the number of bytes, or the allocation fails.
    pub fn pack(
        c: &Compute,
        ty: GgmlType,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<Self, PackError> {
        tensor_row_bytes(ty, rows, cols, bytes)?;
        let len = Self::packed_bytes(ty, rows, cols)?;
        let memory = Memory::zeroed(len).ok_or(PackError::Memory(len))?;
        Self::pack_into(c, ty, rows, cols, bytes, memory)
    }

    /// As [`PackedMatrix::pack`], into memory of [`PackedMatrix::packed_bytes`] zeros.
    ///
    /// # Errors
    /// As [`PackedMatrix::pack`].
    ///
    /// # Panics
    /// When the memory has another length.
    pub fn pack_into(
        c: &Compute,
        ty: GgmlType,
        rows: usize,
        cols: usize,
        bytes: &[u8],
        memory: Memory,
    ) -> Result<Self, PackError> {
        assert_eq!(memory.len(), Self::packed_bytes(ty, rows, cols)?, "bytes of a packed matrix");
        let mut packed = Self { ty, rows, cols, group_bytes: memory.len() / rows.div_ceil(LANES), memory };
        packed.repack(c, bytes)?;
        Ok(packed)
    }

    /// Replaces the weights by others of the same type and shape.
    ///
    /// # Errors
    /// When the number of bytes does not match.
    pub fn repack(&mut self, c: &Compute, bytes: &[u8]) -> Result<(), PackError> {
        let &mut Self { ty, rows, cols, group_bytes, .. } = self;
        let row_bytes = tensor_row_bytes(ty, rows, cols, bytes)?;
        let shared = Shared::new(&mut self.memory);
        c.pool().run(&|worker| {
            for group in worker.share(rows.div_ceil(LANES)) {
                // SAFETY: every group is written by one worker.
                let out = unsafe { shared.part(group * group_bytes, group_bytes) };
                let first = group * LANES * row_bytes;
                let end = bytes.len().min(first + LANES * row_bytes);
                pack_group(ty, row_bytes, &bytes[first..end], out);
            }
        });
        Ok(())
    }

    /// Bytes of a matrix in the layout of the kernels.
    ///
    /// # Errors
    /// When the shape is empty or does not match the type's blocks.
    pub fn packed_bytes(ty: GgmlType, rows: usize, cols: usize) -> Result<usize, PackError> {
        row_bytes(ty, rows, cols)?;
        let group_bytes = match ty.layout() {
            Some(layout) => cols / ty.block_len() * layout.record_bytes(),
            None => cols * ty.block_bytes() * LANES,
        };
        group_bytes.checked_mul(rows.div_ceil(LANES)).ok_or(PackError::Memory(usize::MAX))
    }

    /// Output features.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The type of the tensor it was packed from.
    #[must_use]
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// Whether `matmul` needs the activations as floats (`Activations::with_floats`).
    #[must_use]
    pub fn is_float(&self) -> bool {
        self.ty.layout().is_none()
    }

    /// Size in bytes; a decode step reads all of it once.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// Dequantises row `r` into `out`; the values are those of `dequantize` on the tensor's row.
    ///
    /// # Panics
    /// When `r` isn't a row or `out` isn't as long as one.
    pub fn row(&self, r: usize, out: &mut [f32]) {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "values of a row");
        let (group, lane) = (self.group(r / LANES), r % LANES);
        let Some(layout) = self.ty.layout() else {
            let width = self.ty.block_bytes();
            for (value, column) in out.iter_mut().zip(group.chunks_exact(LANES * width)) {
                *value = float(self.ty, &column[lane * width..][..width]);
            }
            return;
        };
        let mut block = Block::ZERO;
        let records = group.chunks_exact(layout.record_bytes());
        for (values, record) in out.chunks_exact_mut(self.ty.block_len()).zip(records) {
            read_record(&layout, record, lane, &mut block);
            layout.values(&block, values);
        }
    }

    pub(crate) fn groups(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    pub(crate) fn group_bytes(&self) -> usize {
        self.group_bytes
    }

    pub(crate) fn group(&self, group: usize) -> &[u8] {
        &self.memory[group * self.group_bytes..][..self.group_bytes]
    }
}

/// Bytes of a row of a tensor in a file.
fn row_bytes(ty: GgmlType, rows: usize, cols: usize) -> Result<usize, PackError> {
    if rows == 0 || cols == 0 {
        return Err(PackError::Empty { rows, cols });
    }
    ty.row_bytes(cols).ok_or(PackError::PartBlock { ty, cols, block: ty.block_len() })
}

/// As [`row_bytes`], for a tensor that has these bytes.
fn tensor_row_bytes(ty: GgmlType, rows: usize, cols: usize, bytes: &[u8]) -> Result<usize, PackError> {
    let row_bytes = row_bytes(ty, rows, cols)?;
    let expected = row_bytes as u128 * rows as u128;
    if expected != bytes.len() as u128 {
        return Err(PackError::Length { ty, rows, cols, expected, found: bytes.len() });
    }
    Ok(row_bytes)
}

/// Packs up to 16 rows into a group, whose other rows keep their bytes.
fn pack_group(ty: GgmlType, row_bytes: usize, rows: &[u8], out: &mut [u8]) {
    let width = ty.block_bytes();
    let layout = ty.layout();
    let record_bytes = layout.map_or(LANES * width, |layout| layout.record_bytes());
    let mut block = Block::ZERO;
    for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
        for (bytes, record) in row.chunks_exact(width).zip(out.chunks_exact_mut(record_bytes)) {
            match &layout {
                None => record[lane * width..][..width].copy_from_slice(bytes),
                Some(layout) => {
                    parse_into(ty, bytes, &mut block);
                    write_record(layout, &block, lane, record);
                }
            }
        }
    }
}

/// The planes of a 32-block: bits per code, shift within the code, offset in the block.
fn planes(layout: &Layout) -> [(usize, usize, usize); 2] {
    [(layout.low_bits, 0, 0), (layout.high_bits, layout.low_bits, 64 * layout.low_bits)]
}

/// Writes one row's block into its lane of a record.
fn write_record(layout: &Layout, block: &Block, lane: usize, record: &mut [u8]) {
    for (i, value) in block.sup.iter().take(layout.super_fields()).enumerate() {
        record[32 * i + 2 * lane..][..2].copy_from_slice(&value.to_le_bytes());
    }
    let (fields, width) = layout.sub_fields();
    let subs = record[32 * layout.super_fields()..].chunks_exact_mut(layout.sub_bytes());
    for ((sub, codes), values) in subs.zip(block.codes.chunks_exact(32)).zip(&block.sub) {
        for (bits, shift, offset) in planes(layout) {
            for chunk in 0..bits {
                let mut word = 0;
                for i in 0..8 / bits {
                    let codes = &codes[4 * (chunk * (8 / bits) + i)..];
                    let codes = u32::from_le_bytes([codes[0], codes[1], codes[2], codes[3]]);
                    word |= (codes >> shift & mask(bits)) << (bits * i);
                }
                sub[offset + 64 * chunk + 4 * lane..][..4].copy_from_slice(&word.to_le_bytes());
            }
        }
        for (i, value) in values.iter().take(fields).enumerate() {
            let at = layout.plane_bytes() + width * (LANES * i + lane);
            sub[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
    }
}

/// Reads one row's block back from its lane of a record.
fn read_record(layout: &Layout, record: &[u8], lane: usize, block: &mut Block) {
    for (i, value) in block.sup.iter_mut().take(layout.super_fields()).enumerate() {
        let at = 32 * i + 2 * lane;
        *value = u16::from_le_bytes([record[at], record[at + 1]]);
    }
    let (fields, width) = layout.sub_fields();
    let subs = record[32 * layout.super_fields()..].chunks_exact(layout.sub_bytes());
    for ((sub, codes), values) in subs.zip(block.codes.chunks_exact_mut(32)).zip(&mut block.sub) {
        codes.fill(0);
        for (bits, shift, offset) in planes(layout) {
            for chunk in 0..bits {
                let at = offset + 64 * chunk + 4 * lane;
                let word = u32::from_le_bytes([sub[at], sub[at + 1], sub[at + 2], sub[at + 3]]);
                for i in 0..8 / bits {
                    let part = ((word >> (bits * i) & mask(bits)) << shift).to_le_bytes();
                    let codes = &mut codes[4 * (chunk * (8 / bits) + i)..][..4];
                    codes.iter_mut().zip(part).for_each(|(code, part)| *code |= part);
                }
            }
        }
        for (i, value) in values.iter_mut().take(fields).enumerate() {
            let at = layout.plane_bytes() + width * (LANES * i + lane);
            *value = sub[at..at + width].iter().rev().fold(0, |value, &byte| value << 8 | u16::from(byte));
        }
    }
}

/// The low `bits` of each of four bytes.
fn mask(bits: usize) -> u32 {
    (0xff >> (8 - bits)) * 0x0101_0101
}

//! GGUF files, read through a memory map: metadata by key, tensors by name, bytes in place.
//!
//! It reads versions 2 and 3, in one file or split over several. It does not write files (the writer is for tests)
//! and does not interpret keys or tensors. The invariant: once [`Gguf::open`] has returned, every range it holds lies
//! inside its file, so later reads cannot be out of bounds.
//!
//! Format: the GGUF specification of the ggml project (`docs/gguf.md`).

mod cursor;
mod error;
mod hash;
mod map;
mod metadata;
mod part;
mod split;
mod tensor;
mod types;
mod value;
mod value_type;
#[doc(hidden)]
pub mod writer;

use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use part::Part;

pub use error::GgufError;
pub(crate) use split::split_names;
pub use tensor::TensorInfo;
pub use value::{Array, Value};
pub use value_type::ValueType;

/// An open model file, or all files of a split model.
///
/// The files must not be changed in place while this lives: a file truncated by another process raises SIGBUS
/// on the next read of a lost page. Replacing a file by rename is safe.
pub struct Gguf {
    parts: Vec<Part>,
    tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, sorted by name.
    by_name: Vec<u32>,
    hash: OnceLock<[u8; 32]>,
}

impl Gguf {
    /// Opens a file, or the first file of a split model, and checks its whole structure. Reads no tensor
    /// data.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        let path = path.as_ref();
        let first = Part::parse(path, map::Bytes::map(path)?, 0)?;
        let rest = split::open_rest(&first)?;
        Gguf::from_parts(first, rest)
    }

    /// Reads a model held in memory, under a name for error messages. Split models are not possible.
    pub fn from_bytes(name: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Self, GgufError> {
        let part = Part::parse(name.as_ref(), map::Bytes::Owned(bytes), 0)?;
        Gguf::from_parts(part, Vec::new())
    }

    fn from_parts(mut first: Part, mut rest: Vec<Part>) -> Result<Self, GgufError> {
        let mut tensors = std::mem::take(&mut first.tensors);
        for part in &mut rest {
            tensors.append(&mut part.tensors);
        }
        let mut parts = vec![first];
        parts.append(&mut rest);
        let by_name = part::index(&tensors, |t| &t.name);
        if let Some([first, second]) = part::adjacent_equal(&by_name, |i| &tensors[i].name) {
            let (tensor, other) = (&tensors[second], &tensors[first]);
            return Err(GgufError::Malformed {
                path: parts[tensor.part].path.clone(),
                subject: format!("tensor `{}`", tensor.name),
                at: tensor.offset as u64,
                problem: format!(
                    "duplicate name; the other tensor is at byte {} of {}",
                    other.offset,
                    parts[other.part].path.display()
                ),
            });
        }
        Ok(Gguf { parts, tensors, by_name, hash: OnceLock::new() })
    }

    /// The file, the first one of a split model.
    pub fn path(&self) -> &Path {
        &self.first().path
    }

    /// The files with their sizes in bytes, in order.
    pub fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.parts.iter().map(|part| (part.path.as_path(), part.bytes.len() as u64))
    }

    /// The format's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.first().version
    }

    /// Alignment of tensor data in the first file, in bytes.
    pub fn alignment(&self) -> usize {
        self.first().alignment
    }

    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let at = self.by_name.binary_search_by(|&i| self.tensors[i as usize].name.as_str().cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[at] as usize])
    }

    /// A tensor's data, aligned as [`Gguf::alignment`] says.
    ///
    /// # Panics
    /// May panic if `tensor` comes from another `Gguf`.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        &self.parts[tensor.part].bytes[tensor.range()]
    }

    /// Releases the memory of a tensor's pages, once its data has been packed elsewhere. The tensor stays readable; its
    /// pages are read from the file again.
    ///
    /// # Panics
    /// May panic if `tensor` comes from another `Gguf`.
    pub fn release(&self, tensor: &TensorInfo) {
        self.release_part(tensor, 0..tensor.byte_len());
    }

    /// [`Gguf::release`] for some of a tensor's bytes.
    pub fn release_part(&self, tensor: &TensorInfo, bytes: Range<usize>) {
        let start = tensor.range().start;
        self.parts[tensor.part].bytes.release(start + bytes.start..start + bytes.end.min(tensor.byte_len()));
    }

    /// Begins to read some of a tensor's bytes.
    pub(crate) fn read_ahead(&self, tensor: &TensorInfo, bytes: Range<usize>) {
        let start = tensor.range().start;
        self.parts[tensor.part].bytes.read_ahead(start + bytes.start..start + bytes.end);
    }

    fn first(&self) -> &Part {
        &self.parts[0]
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gguf")
            .field("path", &self.path())
            .field("parts", &self.parts.len())
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

//! Errors of reading a GGUF file. Each names the file, the key or tensor, and the byte.

use std::path::PathBuf;

use super::value_type::ValueType;

/// An error of opening a GGUF file or of reading a metadata value.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// An I/O error: no such file, no permission, not a regular file.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operation that failed: "open", "map", …
        action: &'static str,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The file does not start with `GGUF`.
    #[error("{path}: not a GGUF file: it starts with `{start}`, not with `GGUF`", path = path.display())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// Its first bytes, escaped.
        start: String,
    },
    /// A version that is not supported, such as 1.
    #[error("{path}: GGUF version {version} is not supported (2 and 3 are); convert the model again with a current converter", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in its header.
        version: u32,
    },
    /// The file was written for a big-endian machine.
    #[error("{path}: a big-endian GGUF file (version {version}); convert it to little-endian first", path = path.display())]
    BigEndian {
        /// The file.
        path: PathBuf,
        /// The version in its header, in native byte order.
        version: u32,
    },
    /// A structure contradicts the file's size, the format or itself.
    #[error("{path}: {subject}, byte {at}: {problem}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The malformed key, tensor or header field.
        subject: String,
        /// Byte offset in the file.
        at: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor has a type that the kernels do not support.
    #[error("{path}: tensor `{tensor}`, byte {at}: its type {name} (id {id}) is not supported", path = path.display())]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Byte offset of its type in the file.
        at: u64,
        /// ggml's number for the type.
        id: u32,
        /// ggml's name for it, or "unknown".
        name: &'static str,
    },
    /// A key's value has another type than requested.
    #[error("{path}: key `{key}` should be {wanted} but is {found}", path = path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The requested type.
        wanted: &'static str,
        /// The type in the file.
        found: ValueType,
    },
    /// A key's integer is out of range for the requested type.
    #[error("{path}: key `{key}` is {value}, which does not fit {wanted}", path = path.display())]
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The requested type.
        wanted: &'static str,
        /// The value in the file.
        value: String,
    },
    /// The file is a later part of a split model.
    #[error("{path}: part {number} of a model split into {count} files; open the first: {first}", path = path.display(), first = first.display())]
    NotFirstPart {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        number: u64,
        /// How many parts there are.
        count: u64,
        /// The first part's path, derived from the name of this one.
        first: PathBuf,
    },
    /// Parts of a split model are missing.
    #[error("{path}: split into {count} files, of which are missing: {missing}", path = path.display())]
    MissingParts {
        /// The first part.
        path: PathBuf,
        /// How many parts there are.
        count: u64,
        /// The missing ones, by name.
        missing: String,
    },
    /// The parts of a split model do not belong together.
    #[error("{path}: {problem}", path = path.display())]
    Split {
        /// The affected part.
        path: PathBuf,
        /// The contradiction.
        problem: String,
    },
}

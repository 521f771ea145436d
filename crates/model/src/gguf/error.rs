//! Everything that can be wrong with a GGUF file, said so that a person can act on it: which file, which
//! key or tensor, which byte.

use std::path::PathBuf;

use super::value::ValueType;

/// Why a GGUF file could not be opened, or a metadata value not be read.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The operating system refused: no such file, no permission, not a regular file.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done: "open", "map", …
        action: &'static str,
        /// The system's answer.
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
    /// A version that this reader does not know, version 1 among them.
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
        /// The version in its header, bytes put right.
        version: u32,
    },
    /// A structure contradicts the file's size, the format or itself.
    #[error("{path}: {subject}, byte {at}: {problem}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The key, the tensor or the part of the header that is wrong.
        subject: String,
        /// Where in the file.
        at: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor is stored in a type that the kernels have no code for.
    #[error("{path}: tensor `{tensor}`, byte {at}: its type {name} (id {id}) is not supported", path = path.display())]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where its type stands in the file.
        at: u64,
        /// ggml's number for the type.
        id: u32,
        /// ggml's name for it, or "unknown".
        name: &'static str,
    },
    /// A key holds another type than the one asked for.
    #[error("{path}: key `{key}` should be {wanted} but is {found}", path = path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What the caller needs.
        wanted: &'static str,
        /// What the file holds.
        found: ValueType,
    },
    /// A key holds an integer that does not fit the type asked for.
    #[error("{path}: key `{key}` is {value}, which does not fit {wanted}", path = path.display())]
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What the caller needs.
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
        /// The first part's path as its name suggests.
        first: PathBuf,
    },
    /// Parts of a split model are not there.
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
        /// The part at fault.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
}

//! The x86-64 tokens on other processors: they are never made, and have plain Rust's operations in name only.

use super::Scalar;

pub(crate) type Avx2 = Scalar;
pub(crate) type AvxVnni = Scalar;
pub(crate) type Avx512 = Scalar;

impl Scalar {
    /// The answer to every question for an x86-64 instruction set.
    pub(crate) fn new() -> Option<Self> {
        None
    }
}

//! The x86-64 tokens on other CPUs: aliases of the scalar token that are never made.

use super::Scalar;

pub(crate) type Avx2 = Scalar;
pub(crate) type AvxVnni = Scalar;
pub(crate) type Avx512 = Scalar;

impl Scalar {
    /// No other CPU has an x86-64 instruction set.
    pub(crate) fn new() -> Option<Self> {
        None
    }
}

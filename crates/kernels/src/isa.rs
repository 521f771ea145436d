//! Instruction sets: detection, and their names on the command line.
//!
//! Detection happens here and nowhere else. An `Isa` is only a name; the proof that the CPU has the
//! instructions is a token of `simd`, held by a `Compute`.

use std::fmt;
use std::str::FromStr;

use crate::simd::{Avx2, Avx512, AvxVnni};

/// An instruction set that kernels are compiled for. Results have the same bits with all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust, for any CPU.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX2 with the 256-bit `vpdpbusd` of AVX-VNNI.
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ and VNNI.
    Avx512,
}

impl Isa {
    /// All instruction sets, slowest first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::AvxVnni, Self::Avx512];

    /// The fastest instruction set of this machine.
    #[must_use]
    pub fn detect() -> Self {
        Self::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Self::Scalar)
    }

    /// Every instruction set that this machine can run, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this machine can run it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Avx2 => Avx2::new().is_some(),
            Self::AvxVnni => AvxVnni::new().is_some(),
            Self::Avx512 => Avx512::new().is_some(),
        }
    }

    /// The name used by `--isa` and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx-vnni",
            Self::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is none of `scalar`, `avx2`, `avx-vnni`, `avx512`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown instruction set {0:?}; known are scalar, avx2, avx-vnni and avx512")]
pub struct UnknownIsa(String);

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Self::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| UnknownIsa(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        assert_eq!("sse".parse::<Isa>(), Err(UnknownIsa("sse".to_owned())));
    }

    #[test]
    fn detected_is_the_last_available() {
        assert_eq!(Isa::available().last(), Some(&Isa::detect()));
    }
}

//! The execution context of every operation: a thread pool and an instruction set.
//!
//! It holds no buffers and no model state. Results do not depend on it, only their latency does.

use crate::isa::Isa;
use crate::pool::Pool;
use crate::simd::{Avx2, Avx512, AvxVnni, Kernel, Scalar, Simd16};

/// A thread pool and the proof that the CPU has an instruction set.
pub struct Compute {
    pool: Pool,
    token: Token,
}

/// The requested instruction set is not available on this CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this CPU does not have the instruction set {0}")]
pub struct UnsupportedIsa(pub Isa);

/// The proof for one instruction set; detection runs once, not per call.
#[derive(Clone, Copy)]
pub(crate) enum Token {
    Scalar(Scalar),
    Avx2(Avx2),
    AvxVnni(AvxVnni),
    Avx512(Avx512),
}

impl Compute {
    /// A pool of `threads` threads (the caller is one of them) that uses `isa`.
    ///
    /// # Errors
    /// When the CPU lacks `isa`.
    pub fn new(isa: Isa, threads: usize) -> Result<Self, UnsupportedIsa> {
        let token = match isa {
            Isa::Scalar => Some(Token::Scalar(Scalar)),
            Isa::Avx2 => Avx2::new().map(Token::Avx2),
            Isa::AvxVnni => AvxVnni::new().map(Token::AvxVnni),
            Isa::Avx512 => Avx512::new().map(Token::Avx512),
        };
        let token = token.ok_or(UnsupportedIsa(isa))?;
        Ok(Self { pool: Pool::new(threads), token })
    }

    /// The thread pool.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The instruction set.
    #[must_use]
    pub fn isa(&self) -> Isa {
        match self.token {
            Token::Scalar(_) => Isa::Scalar,
            Token::Avx2(_) => Isa::Avx2,
            Token::AvxVnni(_) => Isa::AvxVnni,
            Token::Avx512(_) => Isa::Avx512,
        }
    }

    pub(crate) fn token(&self) -> Token {
        self.token
    }
}

impl Token {
    /// Runs `kernel` compiled for this instruction set.
    #[inline]
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Out {
        match self {
            Self::Scalar(token) => token.enter(kernel),
            Self::Avx2(token) => token.enter(kernel),
            Self::AvxVnni(token) => token.enter(kernel),
            Self::Avx512(token) => token.enter(kernel),
        }
    }
}

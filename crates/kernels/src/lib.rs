//! Kernels: all arithmetic on weights and activations, and all `unsafe`.
//!
//! A build for loom has only the pool, which is all that loom explores: the rest takes minutes to compile.

#[cfg(not(loom))]
mod activations;
pub mod affinity;
#[cfg(not(loom))]
pub mod attention;
#[cfg(not(loom))]
mod compute;
#[cfg(not(loom))]
mod float_tile;
#[cfg(not(loom))]
mod isa;
#[cfg(not(loom))]
pub mod kv;
#[cfg(not(loom))]
pub mod math;
#[cfg(not(loom))]
mod matmul;
#[cfg(not(loom))]
mod memory;
#[cfg(not(loom))]
pub mod ops;
#[cfg(not(loom))]
mod packed;
pub mod pool;
#[cfg(not(loom))]
pub mod quant;
#[cfg(not(loom))]
pub mod roofline;
#[cfg(not(loom))]
pub mod rope;
#[cfg(not(loom))]
pub mod router;
#[cfg(not(loom))]
mod share;
#[cfg(not(loom))]
mod simd;
#[cfg(not(loom))]
mod tile;

#[cfg(not(loom))]
pub use activations::Activations;
#[cfg(not(loom))]
pub use compute::{Compute, UnsupportedIsa};
#[cfg(not(loom))]
pub use isa::{Isa, UnknownIsa};
#[cfg(not(loom))]
pub use matmul::{ExpertJob, MatmulJob, matmul, matmul_experts};
#[cfg(not(loom))]
pub use memory::{Arena, Memory, advise_huge_pages};
#[cfg(not(loom))]
pub use packed::{PackError, PackedMatrix};
#[cfg(not(loom))]
pub use quant::GgmlType;

/// Names the canonical arithmetic. It changes whenever the same model and tokens would give other bits, so
/// that nothing computed by another version is ever taken for ours.
pub const NUMERICS_VERSION: &str = "2";

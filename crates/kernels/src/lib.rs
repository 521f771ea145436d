//! Kernels: all arithmetic on weights and activations, and all `unsafe`.

mod activations;
pub mod affinity;
pub mod attention;
mod compute;
mod float_tile;
mod isa;
pub mod kv;
pub mod math;
mod matmul;
mod memory;
pub mod ops;
mod packed;
pub mod pool;
pub mod quant;
pub mod roofline;
pub mod rope;
pub mod router;
mod share;
mod simd;
mod tile;

pub use activations::Activations;
pub use compute::{Compute, UnsupportedIsa};
pub use isa::{Isa, UnknownIsa};
pub use matmul::{ExpertJob, MatmulJob, matmul, matmul_experts};
pub use memory::{Memory, advise_huge_pages};
pub use packed::{PackError, PackedMatrix};
pub use quant::GgmlType;

/// Names the canonical arithmetic. It changes whenever the same model and tokens would give other bits, so
/// that nothing computed by another version is ever taken for ours.
pub const NUMERICS_VERSION: &str = "2";

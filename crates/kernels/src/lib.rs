//! Kernels: all arithmetic on weights and activations, and all `unsafe`.

mod acts;
pub mod affinity;
mod arch;
mod compute;
mod isa;
mod matmul;
mod memory;
mod packed;
pub mod pool;
pub mod quant;
pub mod roofline;
mod share;
mod tile;

pub use acts::Acts;
pub use compute::{Compute, UnsupportedIsa};
pub use isa::{Isa, UnknownIsa};
pub use matmul::{MatmulJob, matmul};
pub use packed::{PackError, PackedMatrix};
pub use quant::GgmlType;

//! Kernels: all arithmetic on weights and activations, and all `unsafe`.

pub mod affinity;
pub mod pool;

//! Kernels: all arithmetic on weights and activations, and all `unsafe`.

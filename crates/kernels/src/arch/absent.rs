//! The x86-64 tokens on other processors: types that have no values.

use super::Kernel;
use crate::tile::{Format, TileCall};

macro_rules! absent {
    ($name:ident) => {
        /// An instruction set that this processor family doesn't have.
        #[derive(Clone, Copy)]
        pub(crate) enum $name {}

        impl $name {
            pub(crate) fn new() -> Option<Self> {
                None
            }

            pub(crate) unsafe fn tile<F: Format>(self, _: &TileCall, _: usize) -> usize {
                match self {}
            }

            pub(crate) fn enter<K: Kernel>(self, _: K) -> K::Out {
                match self {}
            }
        }
    };
}

absent!(Avx2);
absent!(AvxVnni);
absent!(Avx512);

//! The size of a block's parts, and which of them resuming reads. The bytes are the model's.

use crate::BLOCK_TOKENS;

/// The size of a block of [`BLOCK_TOKENS`] tokens. The bytes are the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockLayout {
    /// Bytes of the lasting part.
    pub lasting: usize,
    /// Bytes of the windowed part; 0 for a model without windows.
    pub windowed: usize,
    /// Positions of the largest window, the current one included.
    pub window: usize,
}

impl BlockLayout {
    /// Blocks without a windowed part.
    pub const fn whole(bytes: usize) -> Self {
        Self { lasting: bytes, windowed: 0, window: 0 }
    }

    /// Bytes of both parts.
    pub const fn bytes(&self) -> usize {
        self.lasting + self.windowed
    }

    /// Resuming after `tokens` tokens reads the windowed parts of the blocks from this one on, and recomputing the last
    /// of these tokens too.
    pub const fn windowed_from(&self, tokens: usize) -> usize {
        match self.windowed {
            0 => tokens.div_ceil(BLOCK_TOKENS),
            _ => tokens.saturating_sub(self.window) / BLOCK_TOKENS,
        }
    }

    /// Windowed parts that resuming after whole blocks reads at most.
    pub const fn windowed_blocks(&self) -> usize {
        match self.windowed {
            0 => 0,
            _ => self.window.div_ceil(BLOCK_TOKENS),
        }
    }
}

/// The two parts of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// What everything after the block reads.
    Lasting,
    /// What is read within the window of the model's layers only.
    Windowed,
}

/// How many blocks fit in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Slots for lasting parts.
    pub blocks: usize,
    /// Slots for windowed parts; none are used for a model without windows.
    pub windowed: usize,
}

impl From<usize> for Capacity {
    fn from(blocks: usize) -> Self {
        Capacity { blocks, windowed: blocks }
    }
}

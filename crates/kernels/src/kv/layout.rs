//! The layout of a block: what each layer keeps of 64 tokens, and where.
//!
//! ```text
//! heads    [K: kv head][dim_k][64 tokens]      transposed, so that 16 positions are 16 lanes
//!          [V: kv head][64 tokens][dim_v]
//! latent   [64 tokens][rank + rope]            keys and values at once
//! ```
//!
//! A block has two parts. What layers with a sliding window keep is only read for the last positions and may be given up
//! for all others: it is the windowed part. The rest is the lasting part.
//!
//! Layers may differ. The layers of a draft head (multi-token prediction) follow the model's own and are stored and
//! attended to like them, except that no position sees the first: a head's input at a position takes the hidden row of
//! the one before. The hidden row, in f32, ends the lasting part: the model's at the block's last token, the head's input for
//! the next one, so a cache hit restores the head's state too.

use std::ops::Range;
use std::sync::Arc;

use super::{BLOCK_ALIGN, BLOCK_TOKENS};

/// What one layer keeps of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerKv {
    /// Keys and values of a few heads.
    Heads {
        /// Key and value heads.
        kv_heads: usize,
        /// Length of a key.
        dim_k: usize,
        /// Length of a value.
        dim_v: usize,
        /// Number of last positions that a token sees, itself included; `None`: all of them.
        window: Option<usize>,
    },
    /// Multi-head latent attention: one vector that all heads share.
    Latent {
        /// Length of the latent, which is the value and the first part of the key.
        rank: usize,
        /// Length of the rotated rest of the key.
        rope: usize,
    },
    /// Nothing.
    None,
}

impl LayerKv {
    /// Numbers kept per token.
    pub fn width(&self) -> usize {
        match *self {
            LayerKv::Heads { kv_heads, dim_k, dim_v, .. } => kv_heads * (dim_k + dim_v),
            LayerKv::Latent { rank, rope } => rank + rope,
            LayerKv::None => 0,
        }
    }

    /// Bytes per token.
    pub fn token_bytes(&self) -> usize {
        self.width() * size_of::<u16>()
    }

    /// Number of last positions that a token sees; `None`: all of them.
    pub fn window(&self) -> Option<usize> {
        match *self {
            LayerKv::Heads { window, .. } => window,
            LayerKv::Latent { .. } | LayerKv::None => None,
        }
    }
}

/// The shape of a block. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KvLayout(Arc<Shape>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Shape {
    layers: Vec<LayerKv>,
    draft_layers: usize,
    hidden: usize,
    /// Where each layer starts in its part of a block.
    starts: Vec<usize>,
    /// Where the hidden row starts in the lasting part.
    hidden_start: usize,
    /// Bytes of the windowed part.
    windowed: usize,
}

impl KvLayout {
    /// `layers`: the model's, then `draft_layers` of a draft head; `hidden`: the length of the hidden row that such a
    /// head takes as input, 0 without one.
    ///
    /// # Panics
    /// If there are fewer layers than draft layers.
    pub fn new(layers: Vec<LayerKv>, draft_layers: usize, hidden: usize) -> Self {
        assert!(draft_layers <= layers.len(), "{draft_layers} draft layers of {}", layers.len());
        let (mut lasting, mut windowed) = (0, 0);
        let place = |layer: &LayerKv| {
            let end = if layer.window().is_some() { &mut windowed } else { &mut lasting };
            let start = *end;
            *end += layer.token_bytes() * BLOCK_TOKENS;
            start
        };
        let starts = layers.iter().map(place).collect();
        Self(Arc::new(Shape { layers, draft_layers, hidden, starts, hidden_start: lasting, windowed }))
    }

    /// Layers of a model without a draft head, all alike.
    pub fn uniform(layers: usize, kv: LayerKv) -> Self {
        Self::new(vec![kv; layers], 0, 0)
    }

    /// What each layer keeps, including those of a draft head.
    pub fn layers(&self) -> &[LayerKv] {
        &self.0.layers
    }

    /// Number of last layers that belong to a draft head.
    pub fn draft_layers(&self) -> usize {
        self.0.draft_layers
    }

    /// The first position that later ones see in a layer.
    pub(crate) fn first_seen(&self, layer: usize) -> usize {
        usize::from(layer + self.0.draft_layers >= self.0.layers.len())
    }

    /// Length of the hidden row; 0 without a draft head.
    pub fn hidden(&self) -> usize {
        self.0.hidden
    }

    /// Bytes of a block, both parts.
    pub fn block_bytes(&self) -> usize {
        self.lasting_bytes() + self.windowed_bytes()
    }

    /// Bytes of the part of a block that every later position reads.
    pub fn lasting_bytes(&self) -> usize {
        self.hidden_bytes().end.next_multiple_of(BLOCK_ALIGN)
    }

    /// Bytes of the part of a block that layers with a window keep; 0 if there are none.
    pub fn windowed_bytes(&self) -> usize {
        self.0.windowed.next_multiple_of(BLOCK_ALIGN)
    }

    /// The largest window: the windowed parts of blocks that end before the last `window` positions are not read. 0 if
    /// no layer has one.
    pub fn window(&self) -> usize {
        self.0.layers.iter().filter_map(LayerKv::window).max().unwrap_or(0)
    }

    /// Bytes of the lasting part that hold the hidden row.
    pub(super) fn hidden_bytes(&self) -> Range<usize> {
        let start = self.0.hidden_start;
        start..start + self.0.hidden * size_of::<f32>()
    }

    /// Where a layer's keys and values are.
    pub(crate) fn place(&self, layer: usize) -> LayerPlace {
        let start = self.0.starts[layer];
        match self.0.layers[layer] {
            LayerKv::Heads { kv_heads, dim_k, dim_v, window } => {
                let part = if window.is_some() { Part::Windowed } else { Part::Lasting };
                LayerPlace::Heads(HeadsPlace { part, start, kv_heads, dim_k, dim_v })
            }
            LayerKv::Latent { rank, rope } => LayerPlace::Latent(LatentPlace { start, rank, rope }),
            LayerKv::None => LayerPlace::None,
        }
    }
}

/// A part of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// What every later position reads.
    Lasting,
    /// What is read for the last positions only.
    Windowed,
}

/// Where a layer's keys and values are in a block.
#[derive(Clone, Copy)]
pub(crate) enum LayerPlace {
    Heads(HeadsPlace),
    Latent(LatentPlace),
    None,
}

/// Where keys and values are in a part of a block.
#[derive(Clone, Copy)]
pub(crate) struct HeadsPlace {
    pub(crate) part: Part,
    start: usize,
    pub(crate) kv_heads: usize,
    pub(crate) dim_k: usize,
    pub(crate) dim_v: usize,
}

impl HeadsPlace {
    /// Bytes of the part that hold the keys of one head: `[dim_k][64]`.
    #[inline(always)]
    pub(crate) fn keys(&self, head: usize) -> Range<usize> {
        debug_assert!(head < self.kv_heads);
        let len = self.dim_k * BLOCK_TOKENS * size_of::<u16>();
        let start = self.start + head * len;
        start..start + len
    }

    /// Bytes of the part that hold the values of one head: `[64][dim_v]`.
    #[inline(always)]
    pub(crate) fn values(&self, head: usize) -> Range<usize> {
        debug_assert!(head < self.kv_heads);
        let keys = self.kv_heads * self.dim_k * BLOCK_TOKENS * size_of::<u16>();
        let len = self.dim_v * BLOCK_TOKENS * size_of::<u16>();
        let start = self.start + keys + head * len;
        start..start + len
    }
}

/// Where latents are in the lasting part of a block.
#[derive(Clone, Copy)]
pub(crate) struct LatentPlace {
    start: usize,
    pub(crate) rank: usize,
    pub(crate) rope: usize,
}

impl LatentPlace {
    /// Numbers per token.
    #[inline(always)]
    pub(crate) fn width(&self) -> usize {
        self.rank + self.rope
    }

    /// Bytes of the part that hold the latents: `[64][rank + rope]`.
    #[inline(always)]
    pub(crate) fn rows(&self) -> Range<usize> {
        self.start..self.start + self.width() * BLOCK_TOKENS * size_of::<u16>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_differ_follow_each_other_without_gaps() {
        let heads = LayerKv::Heads { kv_heads: 2, dim_k: 3, dim_v: 5, window: None };
        let latent = LayerKv::Latent { rank: 9, rope: 2 };
        let layout = KvLayout::new(vec![heads, LayerKv::None, latent, heads], 1, 4);
        let LayerPlace::Heads(first) = layout.place(0) else { panic!("the first layer has heads") };
        let LayerPlace::Latent(third) = layout.place(2) else { panic!("the third layer has latents") };
        let LayerPlace::Heads(last) = layout.place(3) else { panic!("the last layer has heads") };
        assert_eq!(first.keys(0), 0..3 * 128);
        assert_eq!(first.values(1).end, 2 * 8 * 128);
        assert_eq!(third.rows(), 2 * 8 * 128..(2 * 8 + 11) * 128);
        assert_eq!(last.keys(0).start, third.rows().end);
        assert_eq!(layout.hidden_bytes(), (2 * 8 * 2 + 11) * 128..(2 * 8 * 2 + 11) * 128 + 16);
        assert!(layout.block_bytes().is_multiple_of(BLOCK_ALIGN));
        assert_eq!((layout.windowed_bytes(), layout.window()), (0, 0));
    }

    #[test]
    fn windowed_layers_have_a_part_of_their_own() {
        let heads = |window| LayerKv::Heads { kv_heads: 2, dim_k: 3, dim_v: 5, window };
        let layout = KvLayout::new(vec![heads(Some(7)), heads(None), heads(Some(9)), heads(None)], 0, 4);
        let places: Vec<(Part, usize)> = (0..4)
            .map(|layer| match layout.place(layer) {
                LayerPlace::Heads(heads) => (heads.part, heads.keys(0).start),
                _ => panic!("every layer has heads"),
            })
            .collect();
        let layer = 2 * 8 * 128;
        use Part::{Lasting, Windowed};
        assert_eq!(places, [(Windowed, 0), (Lasting, 0), (Windowed, layer), (Lasting, layer)]);
        assert_eq!(layout.hidden_bytes(), 2 * layer..2 * layer + 16);
        assert_eq!((layout.lasting_bytes(), layout.windowed_bytes()), (2 * layer + 64, 2 * layer));
        assert_eq!((layout.block_bytes(), layout.window()), (4 * layer + 64, 9));
    }

    #[test]
    fn a_window_is_part_of_the_layout() {
        let heads = |window| KvLayout::uniform(2, LayerKv::Heads { kv_heads: 1, dim_k: 8, dim_v: 8, window });
        assert_ne!(heads(None), heads(Some(64)));
        assert_eq!(heads(None).block_bytes(), heads(Some(64)).block_bytes());
    }
}

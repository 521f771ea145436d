//! How many blocks fit in a byte budget: slots for lasting parts, and slots for the windowed parts of models with windows.
//!
//! A context of any length needs the lasting parts of all its blocks and the windowed parts of the last few. The split is
//! fixed when the cache is made, so memory is bounded without moving slots between the two kinds.
//!
//! The invariant: one whole context fits, with the rows of a step.

use foretoken_cache::{BlockLayout, Capacity};
use foretoken_kernels::kv::KvLayout;

use crate::block_table::blocks_for;

/// The budget is split as if cached prefixes were this fraction of the context on average: longer ones keep fewer
/// windowed parts per block than they might, shorter ones fill the windowed slots before the lasting ones.
const PREFIX_PART_OF_CONTEXT: usize = 4;

/// The parts of a model's blocks.
pub(crate) fn block_layout(kv: &KvLayout) -> BlockLayout {
    BlockLayout { lasting: kv.lasting_bytes(), windowed: kv.windowed_bytes(), window: kv.window() }
}

/// Windowed parts that a sequence holds beside those of the rows of a step: what resuming after its last whole block
/// reads, one block before, for lower tiers, and the block that it fills.
pub(crate) fn windowed_held(layout: &BlockLayout, tokens: usize) -> usize {
    match layout.windowed {
        0 => 0,
        _ => blocks_for(tokens).min(layout.windowed_blocks() + 3),
    }
}

/// Windowed parts that one context needs in steps of `step_tokens` rows.
pub(crate) fn windowed_min(layout: &BlockLayout, ctx: usize, step_tokens: usize) -> usize {
    match layout.windowed {
        0 => 0,
        _ => blocks_for(ctx).min(windowed_held(layout, ctx) + blocks_for(step_tokens)),
    }
}

/// Bytes that one context of `ctx` tokens needs, in steps of `step_tokens` rows.
pub fn context_bytes(kv: &KvLayout, ctx: usize, step_tokens: usize) -> usize {
    let layout = block_layout(kv);
    blocks_for(ctx) * layout.lasting + windowed_min(&layout, ctx, step_tokens) * layout.windowed
}

/// Bytes of payload on disk of a prompt of `tokens` tokens that later ones resume after: the lasting parts of its whole
/// blocks, and the windowed parts before its end.
pub fn prefix_disk_bytes(kv: &KvLayout, tokens: usize) -> usize {
    let (layout, blocks) = (block_layout(kv), tokens / foretoken_cache::BLOCK_TOKENS);
    let windowed = blocks.min(layout.windowed_blocks() + 1);
    blocks * layout.lasting + if layout.windowed > 0 { windowed * layout.windowed } else { 0 }
}

/// The longest context, in whole blocks, that fits in `bytes`.
pub fn tokens_held(kv: &KvLayout, bytes: usize, step_tokens: usize) -> usize {
    let layout = block_layout(kv);
    let enough = windowed_min(&layout, usize::MAX / 2, step_tokens);
    let whole = bytes / layout.bytes().max(1);
    let blocks = match bytes.checked_sub(enough * layout.windowed) {
        Some(lasting) if whole > enough => lasting.checked_div(layout.lasting).unwrap_or(usize::MAX),
        _ => whole,
    };
    blocks.min(usize::MAX / foretoken_cache::BLOCK_TOKENS / 2) * foretoken_cache::BLOCK_TOKENS
}

/// The slots that `bytes` have room for.
///
/// # Errors
/// The bytes that one context needs, if they are more.
pub(crate) fn split(kv: &KvLayout, bytes: usize, ctx: usize, step_tokens: usize) -> Result<Capacity, usize> {
    let needed = context_bytes(kv, ctx, step_tokens);
    if bytes < needed {
        return Err(needed);
    }
    let layout = block_layout(kv);
    let context = blocks_for(ctx);
    if layout.windowed == 0 {
        return Ok(Capacity { blocks: bytes / layout.lasting.max(1), windowed: 0 });
    }
    let prefix = (context / PREFIX_PART_OF_CONTEXT).max(1);
    let per_prefix = layout.windowed_blocks().min(prefix);
    let blocks = bytes / (prefix * layout.lasting + per_prefix * layout.windowed) * prefix;
    // What one context needs comes first.
    let windowed_min = windowed_min(&layout, ctx, step_tokens);
    let most = (bytes - windowed_min * layout.windowed).checked_div(layout.lasting).unwrap_or(blocks);
    let blocks = blocks.min(most).max(context);
    let windowed = (bytes - blocks * layout.lasting) / layout.windowed;
    Ok(Capacity { blocks, windowed: windowed.min(blocks) })
}

#[cfg(test)]
mod tests {
    use foretoken_kernels::kv::LayerKv;

    use super::*;

    fn heads(window: Option<usize>) -> LayerKv {
        LayerKv::Heads { kv_heads: 1, dim_k: 256, dim_v: 256, window }
    }

    /// Gemma 3 270M: five layers with a window of 512 to each without.
    fn gemma() -> KvLayout {
        let layer = |at| heads((at % 6 != 5).then_some(512));
        KvLayout::new((0..18).map(layer).collect(), 0, 0)
    }

    #[test]
    fn a_context_needs_the_windowed_parts_of_its_last_blocks_only() {
        let gemma = gemma();
        assert_eq!((gemma.lasting_bytes(), gemma.windowed_bytes()), (192 << 10, 960 << 10));
        // The window, 3 more and 8 of a step of 512 rows.
        assert_eq!(context_bytes(&gemma, 8192, 512), 128 * (192 << 10) + 19 * (960 << 10));
        assert_eq!(context_bytes(&gemma, 640, 512), 10 * gemma.block_bytes());
        let plain = KvLayout::uniform(18, heads(None));
        assert_eq!(context_bytes(&plain, 8192, 512), 128 * plain.block_bytes());
    }

    #[test]
    fn a_split_holds_a_context_and_no_more_bytes_than_given() {
        let all = KvLayout::uniform(4, heads(Some(2047)));
        for kv in [gemma(), all, KvLayout::uniform(3, heads(None))] {
            for ctx in [64, 500, 2048, 8192, 131_072] {
                let needed = context_bytes(&kv, ctx, 512);
                assert_eq!(split(&kv, needed - 1, ctx, 512), Err(needed));
                for bytes in [needed, needed + 1, needed * 5 / 4, needed * 2, needed * 17] {
                    let Capacity { blocks, windowed } = split(&kv, bytes, ctx, 512).unwrap();
                    let layout = block_layout(&kv);
                    let used = blocks * layout.lasting + windowed * layout.windowed;
                    assert!(used <= bytes, "{used} of {bytes} for {ctx}");
                    assert!(blocks >= blocks_for(ctx) && windowed >= windowed_min(&layout, ctx, 512));
                    assert!(windowed <= blocks, "a windowed part is of a block");
                }
            }
        }
    }

    #[test]
    fn short_contexts_keep_every_windowed_part_and_long_ones_many_more_blocks() {
        let gemma = gemma();
        let whole = (1 << 30) / gemma.block_bytes();
        let Capacity { blocks, windowed } = split(&gemma, 1 << 30, 2048, 512).unwrap();
        assert_eq!((blocks, windowed), (whole / 8 * 8, whole / 8 * 8));
        let Capacity { blocks, windowed } = split(&gemma, 1 << 30, 32_768, 512).unwrap();
        assert!(blocks > 4 * whole && windowed > whole / 4, "{blocks} {windowed} {whole}");
    }

    #[test]
    fn the_context_that_fits_is_the_longest_that_does() {
        for kv in [gemma(), KvLayout::uniform(3, heads(None))] {
            for bytes in
                [kv.block_bytes(), 7 * kv.block_bytes(), 18 * kv.block_bytes() + 5, 100 << 20, 1 << 30]
            {
                let held = tokens_held(&kv, bytes, 512);
                assert!(context_bytes(&kv, held, 512) <= bytes, "{held} tokens in {bytes}");
                assert!(context_bytes(&kv, held + 1, 512) > bytes, "{held} tokens in {bytes}");
            }
        }
    }
}

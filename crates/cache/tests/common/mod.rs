//! Shared by several test files: scopes, prompts, and blocks whose bytes are derived from their key.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod world;

use foretoken_cache::{
    BLOCK_TOKENS, BlockLayout, BlockPool, Fingerprint, OpenBlock, Place, Scope, SealedBlock, ServerSecret,
};

pub(crate) const BLOCK_BYTES: usize = 4096;
pub(crate) const LAYOUT: BlockLayout = BlockLayout::whole(BLOCK_BYTES);

/// Blocks of which resuming reads the windowed parts of the last two.
pub(crate) const WINDOWED: BlockLayout = BlockLayout { lasting: 1024, windowed: 2048, window: 100 };

pub(crate) fn fingerprint() -> Fingerprint {
    Fingerprint::of(&[("weights", b"test")])
}

pub(crate) fn scope(tenant: &str) -> Scope {
    ServerSecret::new([9; 32]).scope(tenant, fingerprint())
}

/// A prompt of `blocks` full blocks that no other `seed` shares a token with.
pub(crate) fn prompt(seed: u32, blocks: usize) -> Vec<u32> {
    (0..(blocks * BLOCK_TOKENS) as u32).map(|i| seed * 1_000_000 + i).collect()
}

/// The bytes that a model would compute for the block at `place`: a function of their inputs.
pub(crate) fn expected(scope: &Scope, place: Place, tokens: &[u32], bytes: &mut [u8]) {
    let mut seed = u64::from_le_bytes(place.parent.as_bytes()[..8].try_into().unwrap());
    seed ^= u64::from_le_bytes(scope.fingerprint().as_bytes()[..8].try_into().unwrap());
    for &token in tokens {
        seed = (seed ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    }
    for chunk in bytes.chunks_mut(8) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        chunk.copy_from_slice(&seed.to_le_bytes()[..chunk.len()]);
    }
}

/// "Computes" one block and seals it.
pub(crate) fn compute(pool: &BlockPool, scope: &Scope, place: Place, tokens: &[u32]) -> SealedBlock {
    let mut open = pool.open().expect("a free slot");
    fill(scope, place, tokens, &mut open);
    open.seal(scope, place, tokens)
}

/// Both parts of a block as a model would compute them.
pub(crate) fn fill(scope: &Scope, place: Place, tokens: &[u32], open: &mut OpenBlock) {
    let (lasting, windowed) = open.parts_mut();
    let mut bytes = vec![0; lasting.len() + windowed.len()];
    expected(scope, place, tokens, &mut bytes);
    lasting.copy_from_slice(&bytes[..lasting.len()]);
    windowed.copy_from_slice(&bytes[lasting.len()..]);
}

/// "Computes" a whole prompt, the unfilled last block included.
pub(crate) fn compute_all(pool: &BlockPool, scope: &Scope, tokens: &[u32]) -> Vec<SealedBlock> {
    let mut place = Some(scope.root());
    let blocks = tokens.chunks(BLOCK_TOKENS).map(|tokens| {
        let block = compute(pool, scope, place.expect("only the last block is unfilled"), tokens);
        place = block.next();
        block
    });
    blocks.collect()
}

/// Asserts that the block has the bytes that computing it again would give, in the parts that it has.
pub(crate) fn assert_true(block: &SealedBlock) {
    let windowed = block.windowed().unwrap_or_default();
    let mut bytes = vec![0; block.len() + windowed.len()];
    expected(block.scope(), block.place(), block.tokens(), &mut bytes);
    let holds = [&block[..], windowed].concat();
    assert!(holds == bytes, "block {:?} holds other bytes than computing it gives", block.key());
}

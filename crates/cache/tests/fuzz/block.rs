//! Any bytes as a block file: the header is refused, or it says exactly what its bytes say, and a block is believed
//! only if it is the one that was wanted.
//!
//! No fuzzer finds a checksum by chance, so the first byte says which fields of a valid file are put into the input
//! before it is read: bit by bit the header's checksum, the payload's checksum and length, and all that names the
//! block.

use foretoken_cache::format::{HEADER_BYTES, Header};
use foretoken_cache::{BlockLayout, BlockPool, Fingerprint, Part, ServerSecret, Wanted};
use xxhash_rust::xxh3::xxh3_64;

/// Payload of the block that is wanted.
pub(crate) const PAYLOAD_BYTES: usize = 256;

const MAGIC_AND_VERSION: std::ops::Range<usize> = 0..12;
const NAMES: std::ops::Range<usize> = 12..400;
const PAYLOAD_LEN: std::ops::Range<usize> = 400..408;
const PAYLOAD_XXH3: std::ops::Range<usize> = 408..416;
const PART: std::ops::Range<usize> = 416..420;
const HEADER_XXH3: std::ops::Range<usize> = 504..512;

/// The entry function of the fuzz target.
pub(crate) fn run(data: &[u8]) {
    let Some((fixes, data)) = data.split_first() else { return };
    let wanted = wanted();
    let file = fixed(*fixes, data, &wanted);
    let Some((head, payload)) = file.split_first_chunk::<HEADER_BYTES>() else { return };
    let Ok(header) = Header::decode(head) else { return };
    assert_eq!(
        xxh3_64(&head[..HEADER_XXH3.start]).to_le_bytes(),
        head[HEADER_XXH3],
        "a checksum was not checked"
    );
    // The zeros are not read back; everything else is.
    assert_eq!(header.encode()[..PART.end], head[..PART.end]);
    if header.check(&wanted).is_ok() {
        assert_eq!((header.key, header.place, header.tokens), (wanted.key, wanted.place, wanted.tokens));
        assert_eq!(header.part, Part::Lasting);
        assert_eq!((header.scope, header.fingerprint), (wanted.scope.id(), wanted.scope.fingerprint()));
    }
    if header.check_payload(payload).is_ok() {
        assert_eq!((header.payload_bytes, header.payload_xxh3), (payload.len() as u64, xxh3_64(payload)));
    }
}

/// The second block of a prompt.
pub(crate) fn wanted() -> Wanted {
    let scope = ServerSecret::new([7; 32]).scope("tenant", Fingerprint::of(&[("weights", b"fuzz")]));
    let tokens: Vec<u32> = (100..228).collect();
    Wanted::chain(&scope, &tokens, 1).remove(0)
}

/// `data` as a file, with some of its fields made right.
pub(crate) fn fixed(fixes: u8, data: &[u8], wanted: &Wanted) -> Vec<u8> {
    let mut file = data.to_vec();
    let Some((head, payload)) = file.split_first_chunk_mut::<HEADER_BYTES>() else { return file };
    let right = valid_header(wanted, payload);
    let fix = |bit: u8, range: std::ops::Range<usize>, head: &mut [u8; HEADER_BYTES]| {
        if fixes & (1 << bit) != 0 {
            head[range.clone()].copy_from_slice(&right[range]);
        }
    };
    fix(0, MAGIC_AND_VERSION, head);
    fix(1, NAMES, head);
    fix(2, PAYLOAD_LEN, head);
    fix(3, PAYLOAD_XXH3, head);
    if fixes & (1 << 4) != 0 {
        let hash = xxh3_64(&head[..HEADER_XXH3.start]).to_le_bytes();
        head[HEADER_XXH3].copy_from_slice(&hash);
    }
    file
}

/// The header that the wanted block would have with this payload.
fn valid_header(wanted: &Wanted, payload: &[u8]) -> [u8; HEADER_BYTES] {
    let pool = BlockPool::new(BlockLayout::whole(PAYLOAD_BYTES), 1);
    let open = pool.open().expect("a new pool has a block");
    let block = open.seal(&wanted.scope, wanted.place, &wanted.tokens);
    let header = Header::of(&block, Part::Lasting).expect("the block is full");
    Header { payload_bytes: payload.len() as u64, payload_xxh3: xxh3_64(payload), ..header }.encode()
}

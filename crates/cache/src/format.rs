//! The serialised part of a block: 512 bytes of header, then the payload. The same on disk and in a shared
//! store. The lasting part has the block's key; the windowed part, if there is one, is a file or entry of its own
//! under a key [derived](BlockKey::windowed) from it, so that each is written, read and evicted as far as it is needed.
//!
//! All integers are little-endian. The header says everything that decides the payload, so a reader trusts
//! nothing it has not checked: magic, version, checksum of the header, fingerprint, place, token ids, length
//! and checksum of the payload, in that order.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 4 | version |
//! | 12 | 4 | full blocks before this one |
//! | 16 | 32 | fingerprint |
//! | 48 | 32 | scope id |
//! | 80 | 32 | parent key |
//! | 112 | 32 | key |
//! | 144 | 256 | 64 token ids |
//! | 400 | 8 | payload bytes |
//! | 408 | 8 | XXH3 of the payload |
//! | 416 | 4 | 0: lasting part, 1: windowed part |
//! | 420 | 84 | zeros |
//! | 504 | 8 | XXH3 of bytes 0 to 503 |

use xxhash_rust::xxh3::xxh3_64;

use crate::BLOCK_TOKENS;
use crate::block_layout::Part;
use crate::faults::Fault;
use crate::keys::{BlockKey, Fingerprint, Place, Scope, ScopeId};
use crate::pool::SealedBlock;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 512;

const MAGIC: &[u8; 8] = b"FTKBLOCK";
const VERSION: u32 = 1;
const CHECKED_BYTES: usize = HEADER_BYTES - 8;

/// The header before a block's payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The model that made the payload.
    pub fingerprint: Fingerprint,
    /// The scope that owns it.
    pub scope: ScopeId,
    /// Its position in the prefix.
    pub place: Place,
    /// The part's key.
    pub key: BlockKey,
    /// The tokens whose state it holds.
    pub tokens: [u32; BLOCK_TOKENS],
    /// Which part it is.
    pub part: Part,
    /// Length of the payload in bytes.
    pub payload_bytes: u64,
    /// XXH3 of the payload.
    pub payload_xxh3: u64,
}

/// The part of a block that a reader expects: the values a header must have.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The block's scope and model.
    pub scope: Scope,
    /// Its position in the prefix.
    pub place: Place,
    /// The part's key.
    pub key: BlockKey,
    /// The token ids it must have.
    pub tokens: [u32; BLOCK_TOKENS],
    /// Which part.
    pub part: Part,
}

impl Wanted {
    /// The lasting parts of the full blocks of `tokens`, in order, without the first `skip`.
    pub fn chain(scope: &Scope, tokens: &[u32], skip: usize) -> Vec<Wanted> {
        let (blocks, _) = tokens.as_chunks::<BLOCK_TOKENS>();
        let chain = scope.chain(tokens).zip(blocks).skip(skip);
        chain
            .map(|((place, key), &tokens)| Wanted {
                scope: scope.at(place.depth),
                place,
                key,
                tokens,
                part: Part::Lasting,
            })
            .collect()
    }

    /// The windowed part of a block, given its lasting one.
    pub fn windowed(&self) -> Wanted {
        Wanted { key: self.key.windowed(), part: Part::Windowed, ..self.clone() }
    }
}

impl Header {
    /// The header of a part of a full block; `None` for an unfilled one, or if the handle lacks the part. Reads the whole
    /// payload for its checksum.
    pub fn of(block: &SealedBlock, part: Part) -> Option<Header> {
        let (key, payload) = (block.key()?, block.part(part)?);
        Some(Header {
            fingerprint: block.scope().fingerprint(),
            scope: block.scope().id(),
            place: block.place(),
            key: part.key(key),
            tokens: block.tokens().try_into().ok()?,
            part,
            payload_bytes: payload.len() as u64,
            payload_xxh3: xxh3_64(payload),
        })
    }

    /// The header as bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(MAGIC);
        put(&VERSION.to_le_bytes());
        put(&self.place.depth.to_le_bytes());
        put(self.fingerprint.as_bytes());
        put(self.scope.as_bytes());
        put(self.place.parent.as_bytes());
        put(self.key.as_bytes());
        self.tokens.iter().for_each(|token| put(&token.to_le_bytes()));
        put(&self.payload_bytes.to_le_bytes());
        put(&self.payload_xxh3.to_le_bytes());
        put(&self.part.code().to_le_bytes());
        let hash = xxh3_64(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&hash.to_le_bytes());
        bytes
    }

    /// Parses a header of this format version.
    ///
    /// # Errors
    /// [`Fault::Foreign`], [`Fault::OtherVersion`] or [`Fault::Corrupt`].
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, Fault> {
        let mut fields = Fields { bytes, at: 0 };
        if fields.take::<8>() != *MAGIC {
            return Err(Fault::Foreign);
        }
        if u32::from_le_bytes(fields.take()) != VERSION {
            return Err(Fault::OtherVersion);
        }
        if xxh3_64(&bytes[..CHECKED_BYTES]).to_le_bytes() != bytes[CHECKED_BYTES..] {
            return Err(Fault::Corrupt);
        }
        let depth = u32::from_le_bytes(fields.take());
        let header = Header {
            fingerprint: Fingerprint::from_bytes(fields.take()),
            scope: ScopeId::from_bytes(fields.take()),
            place: Place { parent: BlockKey::from_bytes(fields.take()), depth },
            key: BlockKey::from_bytes(fields.take()),
            tokens: std::array::from_fn(|_| u32::from_le_bytes(fields.take())),
            payload_bytes: u64::from_le_bytes(fields.take()),
            payload_xxh3: u64::from_le_bytes(fields.take()),
            part: Part::Lasting,
        };
        let part = Part::of_code(u32::from_le_bytes(fields.take())).ok_or(Fault::OtherVersion)?;
        Ok(Header { part, ..header })
    }

    /// Checks that this is the header of the expected block.
    ///
    /// # Errors
    /// [`Fault::WrongFingerprint`] or [`Fault::WrongTokens`].
    pub fn check(&self, wanted: &Wanted) -> Result<(), Fault> {
        if self.fingerprint != wanted.scope.fingerprint() {
            return Err(Fault::WrongFingerprint);
        }
        let same = self.key == wanted.key
            && self.scope == wanted.scope.id()
            && self.place == wanted.place
            && self.part == wanted.part
            && self.tokens == wanted.tokens;
        if same { Ok(()) } else { Err(Fault::WrongTokens) }
    }

    /// Checks the payload's length and checksum.
    ///
    /// # Errors
    /// [`Fault::Torn`] or [`Fault::Corrupt`].
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), Fault> {
        if payload.len() as u64 != self.payload_bytes {
            return Err(Fault::Torn);
        }
        if xxh3_64(payload) == self.payload_xxh3 { Ok(()) } else { Err(Fault::Corrupt) }
    }
}

impl Part {
    /// The key of a part of a block.
    pub(crate) fn key(self, block: BlockKey) -> BlockKey {
        match self {
            Part::Lasting => block,
            Part::Windowed => block.windowed(),
        }
    }

    fn code(self) -> u32 {
        match self {
            Part::Lasting => 0,
            Part::Windowed => 1,
        }
    }

    fn of_code(code: u32) -> Option<Part> {
        [Part::Lasting, Part::Windowed].into_iter().find(|part| part.code() == code)
    }
}

struct Fields<'a> {
    bytes: &'a [u8; HEADER_BYTES],
    at: usize,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let field = self.bytes[self.at..self.at + N].try_into().expect("the slice has N bytes");
        self.at += N;
        field
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_layout::BlockLayout;
    use crate::keys::ServerSecret;
    use crate::pool::BlockPool;

    fn sample() -> (Header, Wanted) {
        let scope = ServerSecret::new([1; 32]).scope("t", Fingerprint::of(&[]));
        let prompt: Vec<u32> = (5..133).collect();
        let pool = BlockPool::new(BlockLayout::whole(100), 1);
        let wanted = Wanted::chain(&scope, &prompt, 1).remove(0);
        let block = pool.open().unwrap().seal(&scope, wanted.place, &wanted.tokens);
        (Header::of(&block, Part::Lasting).unwrap(), wanted)
    }

    #[test]
    fn a_header_reads_back_as_written() {
        let (header, wanted) = sample();
        let read = Header::decode(&header.encode()).unwrap();
        assert_eq!(read, header);
        assert_eq!(read.check(&wanted), Ok(()));
        assert_eq!(read.check_payload(&[0; 100]), Ok(()));
    }

    #[test]
    fn the_parts_of_a_block_are_not_taken_for_each_other() {
        let layout = BlockLayout { lasting: 100, windowed: 100, window: 64 };
        let (scope, wanted) = (ServerSecret::new([1; 32]).scope("t", Fingerprint::of(&[])), sample().1);
        let pool = BlockPool::new(layout, 1);
        let block = pool.open().unwrap().seal(&scope, wanted.place, &wanted.tokens);
        let headers = [Part::Lasting, Part::Windowed].map(|part| Header::of(&block, part).unwrap());
        let wanted = [wanted.clone(), wanted.windowed()];
        for (at, header) in headers.iter().enumerate() {
            let read = Header::decode(&header.encode()).unwrap();
            assert_eq!(read, *header);
            assert_eq!(read.check(&wanted[at]), Ok(()));
            assert_eq!(read.check(&wanted[1 - at]), Err(Fault::WrongTokens));
            // Not even under the other's name.
            let renamed = Header { key: wanted[1 - at].key, ..read };
            assert_eq!(renamed.check(&wanted[1 - at]), Err(Fault::WrongTokens));
        }
        assert_eq!(Header::of(&block.without_windowed(), Part::Windowed), None);
    }

    #[test]
    fn a_part_of_a_later_version_is_no_fault_of_the_file() {
        let mut bytes = sample().0.encode();
        bytes[416] = 2;
        let hash = xxh3_64(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&hash.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(Fault::OtherVersion));
    }

    #[test]
    fn no_flipped_bit_of_a_header_goes_unseen() {
        let bytes = sample().0.encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn each_way_to_be_wrong_has_its_name() {
        let (header, wanted) = sample();
        let mut bytes = header.encode();
        bytes[0] = b'X';
        assert_eq!(Header::decode(&bytes), Err(Fault::Foreign));
        let mut bytes = header.encode();
        bytes[8] = 2;
        assert_eq!(Header::decode(&bytes), Err(Fault::OtherVersion));
        let other = Header { fingerprint: Fingerprint::of(&[("a", b"b")]), ..header.clone() };
        assert_eq!(other.check(&wanted), Err(Fault::WrongFingerprint));
        let mut other = header.clone();
        other.tokens[63] += 1;
        assert_eq!(other.check(&wanted), Err(Fault::WrongTokens));
        assert_eq!(header.check_payload(&[0; 99]), Err(Fault::Torn));
        assert_eq!(header.check_payload(&[1; 100]), Err(Fault::Corrupt));
    }
}

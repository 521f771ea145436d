//! Names of blocks: which tenant, which model, which tokens.
//!
//! A key chains over its parent's key, so it names a whole prefix and not only 64 tokens. It begins with a
//! secret that only this server can derive, so a tenant that guesses another one's prompt still gets other
//! keys. The invariant: every field that is hashed is preceded by its length, so no two different inputs feed
//! the hash the same bytes. Keys alone decide nothing: whoever finds a block compares its token ids too.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::BLOCK_TOKENS;

const TAG_WINDOWED: &str = "foretoken windowed part v1";
const TAG_BLOCK: &str = "foretoken block v1";
const TAG_RESPONSE: &str = "foretoken response v1";
const TAG_ROOT: &str = "foretoken root v1";
const TAG_FINGERPRINT: &str = "foretoken fingerprint v1";
const CONTEXT_TENANT: &str = "foretoken 2026-11 tenant secret v1";
const TAG_OWN_PART: &str = "foretoken own part v1";
const CONTEXT_SHARED: &str = "foretoken 2026-11 shared prefix secret v1";
const CONTEXT_SCOPE_ID: &str = "foretoken 2026-11 scope id v1";

macro_rules! digest_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The 32 bytes as they are stored.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes to store.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            /// Reads exactly 64 lower-case hexadecimal digits.
            fn from_str(text: &str) -> Result<Self, DigestError> {
                parse_hex(text).map(Self).ok_or_else(|| DigestError { text: text.chars().take(80).collect() })
            }
        }
    };
}

digest_type! {
    /// The name of a block: 32 bytes of BLAKE3 over secret, fingerprint, parent and tokens.
    BlockKey
}

digest_type! {
    /// A digest of everything about a model that determines a block's bytes: weights, tokenizer, KV type, layout, numerics.
    Fingerprint
}

digest_type! {
    /// The public id of a [`Scope`], by which its entries can be listed or deleted. Reveals no secret.
    ScopeId
}

impl BlockKey {
    /// The name of the block's windowed part in the lower tiers; the block's own names its lasting part.
    pub fn windowed(&self) -> BlockKey {
        let mut hasher = blake3::Hasher::new();
        field(&mut hasher, TAG_WINDOWED.as_bytes());
        field(&mut hasher, &self.0);
        Self(hasher.finalize().into())
    }
}

/// A string that is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 lower-case hexadecimal digits, got {text:?}")]
pub struct DigestError {
    text: String,
}

impl Fingerprint {
    /// Hashes named parts, in the order given. Another order, name or value is another fingerprint.
    pub fn of(parts: &[(&str, &[u8])]) -> Self {
        let mut hasher = blake3::Hasher::new();
        field(&mut hasher, TAG_FINGERPRINT.as_bytes());
        for (name, value) in parts {
            field(&mut hasher, name.as_bytes());
            field(&mut hasher, value);
        }
        Self(hasher.finalize().into())
    }
}

/// The server's secret, from which every tenant's is derived. Its holder can derive any block's key.
#[derive(Clone)]
pub struct ServerSecret([u8; 32]);

impl ServerSecret {
    /// Wraps the secret as it was generated or read from the server's key file.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The scope of one tenant for one model.
    pub fn scope(&self, tenant: &str, fingerprint: Fingerprint) -> Scope {
        self.derived(CONTEXT_TENANT, tenant.as_bytes(), fingerprint)
    }

    /// The prefix that an operator declared as shared by all tenants. Only
    /// whole blocks of `tokens` count; `None` if there is none.
    pub fn shared_prefix(&self, tokens: &[u32], fingerprint: Fingerprint) -> Option<SharedPrefix> {
        let tokens = &tokens[..tokens.len() / BLOCK_TOKENS * BLOCK_TOKENS];
        let ids: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let scope = self.derived(CONTEXT_SHARED, &ids, fingerprint);
        let end = scope.chain(tokens).last().map(|(place, key)| place.child(key))?;
        Some(SharedPrefix { inner: Arc::new(Prefix { scope, tokens: tokens.into(), end }) })
    }

    fn derived(&self, context: &str, whose: &[u8], fingerprint: Fingerprint) -> Scope {
        let mut material = blake3::Hasher::new_derive_key(context);
        field(&mut material, &self.0);
        field(&mut material, whose);
        let secret: [u8; 32] = material.finalize().into();

        let mut id = blake3::Hasher::new_derive_key(CONTEXT_SCOPE_ID);
        field(&mut id, &secret);
        field(&mut id, fingerprint.as_bytes());

        let mut root = blake3::Hasher::new();
        field(&mut root, TAG_ROOT.as_bytes());
        field(&mut root, &secret);
        field(&mut root, fingerprint.as_bytes());

        Scope {
            secret,
            fingerprint,
            id: ScopeId(id.finalize().into()),
            root: Place { parent: BlockKey(root.finalize().into()), depth: 0 },
            prefix: None,
        }
    }
}

/// A prefix shared by all tenants, in whole blocks, and the scope of those blocks.
#[derive(Clone)]
pub struct SharedPrefix {
    inner: Arc<Prefix>,
}

struct Prefix {
    scope: Scope,
    tokens: Vec<u32>,
    /// The place right after it.
    end: Place,
}

impl SharedPrefix {
    /// Its tokens, in whole blocks.
    pub fn tokens(&self) -> &[u32] {
        &self.inner.tokens
    }
}

impl fmt::Debug for SharedPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedPrefix({} tokens)", self.tokens().len())
    }
}

impl fmt::Debug for ServerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerSecret(…)")
    }
}

/// One tenant with one model: the boundary that no block crosses.
///
/// A prompt may begin with a [`SharedPrefix`]; its blocks are then under that one's scope and the tenant's own
/// begin after it, at a root that belongs to the tenant alone. So tenants share only tokens that the operator
/// declared, and nothing that follows them.
#[derive(Clone)]
pub struct Scope {
    secret: [u8; 32],
    fingerprint: Fingerprint,
    id: ScopeId,
    /// Where the blocks under this secret begin.
    root: Place,
    prefix: Option<SharedPrefix>,
}

impl Scope {
    /// The model's fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The id by which the tenant's own entries can be listed or deleted.
    pub fn id(&self) -> ScopeId {
        self.id
    }

    /// The same tenant's scope for prompts that begin with `prefix`.
    pub fn after(&self, prefix: &SharedPrefix) -> Scope {
        let mut root = blake3::Hasher::new();
        field(&mut root, TAG_OWN_PART.as_bytes());
        field(&mut root, &self.secret);
        field(&mut root, self.fingerprint.as_bytes());
        field(&mut root, prefix.inner.end.parent.as_bytes());
        let root = Place { parent: BlockKey(root.finalize().into()), depth: prefix.inner.end.depth };
        Scope { root, prefix: Some(prefix.clone()), ..self.clone() }
    }

    /// The place of a sequence's first block.
    pub fn root(&self) -> Place {
        self.prefix.as_ref().map_or(self.root, |prefix| prefix.inner.scope.root)
    }

    /// Where the tenant's own blocks begin: after the shared prefix, if there is one.
    pub fn own_root(&self) -> Place {
        self.root
    }

    /// The scope of the block at `depth`.
    pub fn at(&self, depth: u32) -> Scope {
        match &self.prefix {
            Some(prefix) if depth < self.root.depth => prefix.inner.scope.clone(),
            _ => Scope { prefix: None, ..self.clone() },
        }
    }

    /// The place right after the block `key` at `place`.
    pub fn next(&self, place: Place, key: BlockKey) -> Place {
        if self.prefix.is_some() && place.depth + 1 == self.root.depth { self.root } else { place.child(key) }
    }

    /// How many leading blocks of prompts in two scopes may be identical: all for one tenant, those of a shared
    /// prefix for two.
    pub fn blocks_in_common(&self, other: &Scope) -> usize {
        if self.id == other.id && self.root == other.root {
            return usize::MAX;
        }
        let same = self.root() == other.root() && self.root.depth == other.root.depth;
        if same { self.root.depth as usize } else { 0 }
    }

    /// The key of the block that holds `tokens` at `place`.
    pub fn key(&self, place: Place, tokens: &[u32; BLOCK_TOKENS]) -> BlockKey {
        if let Some(prefix) = &self.prefix
            && place.depth < self.root.depth
        {
            return prefix.inner.scope.key(place, tokens);
        }
        let mut ids = [0u8; BLOCK_TOKENS * 4];
        for (bytes, token) in ids.chunks_exact_mut(4).zip(tokens) {
            bytes.copy_from_slice(&token.to_le_bytes());
        }
        let mut hasher = blake3::Hasher::new();
        field(&mut hasher, TAG_BLOCK.as_bytes());
        field(&mut hasher, &self.secret);
        field(&mut hasher, self.fingerprint.as_bytes());
        field(&mut hasher, place.parent.as_bytes());
        field(&mut hasher, &ids);
        BlockKey(hasher.finalize().into())
    }

    /// The key of a request from its prompt and parameters in canonical form.
    pub(crate) fn response_key(&self, prompt: &[u8], parameters: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        field(&mut hasher, TAG_RESPONSE.as_bytes());
        field(&mut hasher, &self.secret);
        field(&mut hasher, self.fingerprint.as_bytes());
        field(&mut hasher, prompt);
        field(&mut hasher, parameters);
        hasher.finalize().into()
    }

    /// The places and keys of all full blocks of `tokens`, from the root.
    pub fn chain<'a>(&'a self, tokens: &'a [u32]) -> impl Iterator<Item = (Place, BlockKey)> + 'a {
        let (blocks, _) = tokens.as_chunks::<BLOCK_TOKENS>();
        blocks.iter().scan(self.root(), |place, block| {
            let at = *place;
            let key = self.key(at, block);
            *place = self.next(at, key);
            Some((at, key))
        })
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({})", self.id)
    }
}

/// A block's position in its prefix: the block before it, and its depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Key of the block before, or the scope's root key.
    pub parent: BlockKey,
    /// Full blocks before this one.
    pub depth: u32,
}

impl Place {
    /// The place right after the block `key`, which stands here.
    pub fn child(self, key: BlockKey) -> Place {
        Place { parent: key, depth: self.depth + 1 }
    }

    /// Tokens before this place.
    pub fn tokens_before(self) -> usize {
        self.depth as usize * BLOCK_TOKENS
    }
}

fn field(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(secret: u8, tenant: &str, model: &[u8]) -> Scope {
        ServerSecret::new([secret; 32]).scope(tenant, Fingerprint::of(&[("weights", model)]))
    }

    fn tokens() -> [u32; BLOCK_TOKENS] {
        std::array::from_fn(|i| i as u32)
    }

    #[test]
    fn the_same_prefix_has_the_same_key() {
        let (a, b) = (scope(1, "alice", b"m"), scope(1, "alice", b"m"));
        assert_eq!(a.key(a.root(), &tokens()), b.key(b.root(), &tokens()));
    }

    #[test]
    fn every_part_of_a_key_changes_it() {
        let base = scope(1, "alice", b"m");
        let key = base.key(base.root(), &tokens());
        for other in [scope(2, "alice", b"m"), scope(1, "bob", b"m"), scope(1, "alice", b"n")] {
            assert_ne!(key, other.key(base.root(), &tokens()), "{other:?}");
        }
        assert_ne!(key, base.key(base.root().child(key), &tokens()), "parent");
        for at in 0..BLOCK_TOKENS {
            let mut changed = tokens();
            changed[at] ^= 1;
            assert_ne!(key, base.key(base.root(), &changed), "token {at}");
        }
    }

    #[test]
    fn tenants_share_neither_root_nor_id() {
        let (a, b) = (scope(1, "alice", b"m"), scope(1, "bob", b"m"));
        assert_ne!(a.root(), b.root());
        assert_ne!(a.id(), b.id());
    }

    #[test]
    fn tenants_meet_in_a_shared_prefix_and_nowhere_else() {
        let fingerprint = Fingerprint::of(&[("weights", b"m")]);
        let prompt: Vec<u32> = (0..256).collect();
        let prefix = ServerSecret::new([1; 32]).shared_prefix(&prompt[..150], fingerprint).unwrap();
        assert_eq!(prefix.tokens().len(), 128);
        let (a, b) = (scope(1, "alice", b"m"), scope(1, "bob", b"m"));
        let keys = |scope: &Scope| scope.chain(&prompt).map(|(_, key)| key).collect::<Vec<_>>();
        let (alice, bob) = (keys(&a.after(&prefix)), keys(&b.after(&prefix)));
        assert_eq!(alice[..2], bob[..2]);
        assert!(!alice[2..].iter().any(|key| bob.contains(key)));
        assert!(!alice.iter().any(|key| keys(&a).contains(key)), "nor with the tenant's other prompts");
        let places: Vec<_> = a.after(&prefix).chain(&prompt).map(|(place, _)| place).collect();
        assert_ne!(places[2].parent, b.after(&prefix).chain(&prompt).nth(2).unwrap().0.parent);
        assert_eq!(places.iter().map(|place| place.depth).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(
            (a.after(&prefix).id(), a.after(&prefix).at(1).id()),
            (a.id(), b.after(&prefix).at(1).id())
        );
        assert_eq!(a.after(&prefix).blocks_in_common(&b.after(&prefix)), 2);
        assert_eq!((a.blocks_in_common(&b), a.blocks_in_common(&a)), (0, usize::MAX));
    }

    #[test]
    fn less_than_a_block_is_no_shared_prefix() {
        let fingerprint = Fingerprint::of(&[]);
        assert!(ServerSecret::new([1; 32]).shared_prefix(&[7; 63], fingerprint).is_none());
    }

    #[test]
    fn where_a_field_ends_is_part_of_the_hash() {
        assert_ne!(Fingerprint::of(&[("a", b"bc")]), Fingerprint::of(&[("ab", b"c")]));
        assert_ne!(Fingerprint::of(&[("a", b""), ("b", b"")]), Fingerprint::of(&[("a", b"b")]));
    }

    #[test]
    fn a_chain_names_each_full_block_and_no_other() {
        let scope = scope(1, "alice", b"m");
        let prompt: Vec<u32> = (0..150).collect();
        let chain: Vec<_> = scope.chain(&prompt).collect();
        assert_eq!(chain.len(), 2);
        let second: [u32; BLOCK_TOKENS] = std::array::from_fn(|i| 64 + i as u32);
        assert_eq!(chain[1].0, scope.root().child(chain[0].1));
        assert_eq!(chain[1].1, scope.key(chain[1].0, &second));
        assert_eq!(chain[1].0.tokens_before(), 64);
    }

    #[test]
    fn a_key_survives_being_written_as_text() {
        let scope = scope(1, "alice", b"m");
        let key = scope.key(scope.root(), &tokens());
        assert_eq!(key.to_string().parse(), Ok(key));
    }

    #[test]
    fn text_that_is_no_key_is_refused() {
        for text in ["", "00", &"g".repeat(64), &"A".repeat(64), &"0".repeat(65), &"é".repeat(32)] {
            assert!(text.parse::<BlockKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let secret = ServerSecret::new([0xab; 32]);
        let scope = secret.scope("alice", Fingerprint::of(&[]));
        let shown = format!("{secret:?} {scope:?}");
        let hidden: String = scope.secret.iter().map(|b| format!("{b:02x}")).collect();
        assert!(!shown.contains("abab") && !shown.contains(&hidden), "{shown}");
    }
}

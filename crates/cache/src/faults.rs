//! The named faults of a stored entry or its store.
//!
//! A fault is counted every time and logged the first time. It is not propagated: to the caller a faulty
//! entry is a miss.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[$doc])* $variant,)*
        }

        impl Fault {
            /// Every kind, in the order of their declaration.
            pub const ALL: &[Fault] = &[$(Fault::$variant,)*];

            /// The name under which it is counted.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Fault::$variant => $name,)*
                }
            }
        }
    };
}

faults! {
    /// Not an entry of this cache.
    Foreign = "foreign",
    /// Written by a version with another format.
    OtherVersion = "other_version",
    /// Its length differs from its header's.
    Torn = "torn",
    /// A checksum does not match.
    Corrupt = "corrupt",
    /// Computed with another model, tokenizer, layout or numerics.
    WrongFingerprint = "wrong_fingerprint",
    /// Its prefix differs from its key's.
    WrongTokens = "wrong_tokens",
    /// Existed at the last query and does not any more.
    Vanished = "vanished",
    /// No space left, or over a quota.
    NoSpace = "no_space",
    /// The store cannot be written to.
    ReadOnly = "read_only",
    /// This process lacks permission for the store.
    Denied = "denied",
    /// The cache folder itself was removed.
    FolderMissing = "folder_missing",
    /// A modification time is in the future: a clock was set back.
    ClockBack = "clock_back",
    /// The operation timed out.
    Timeout = "timeout",
    /// Larger than the limit for an entry.
    TooLarge = "too_large",
    /// Any other I/O error.
    Io = "io",
}

impl Fault {
    /// The kind of an input or output error.
    pub fn of(error: &io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::NoSpace,
            io::ErrorKind::ReadOnlyFilesystem => Fault::ReadOnly,
            io::ErrorKind::PermissionDenied => Fault::Denied,
            io::ErrorKind::NotFound => Fault::Vanished,
            io::ErrorKind::TimedOut => Fault::Timeout,
            _ => Fault::Io,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Fault counts of one store.
#[derive(Debug)]
pub struct Faults {
    store: &'static str,
    counts: [AtomicU64; Fault::ALL.len()],
}

impl Faults {
    /// Zero counts for the store with this name.
    pub fn new(store: &'static str) -> Self {
        Self { store, counts: Default::default() }
    }

    /// Counts a fault; logs it if it is the first of its kind.
    pub fn record(&self, fault: Fault, entry: &Path, what: &dyn fmt::Display) {
        if self.counts[fault as usize].fetch_add(1, Ordering::Relaxed) == 0 {
            let (store, entry) = (self.store, entry.display());
            tracing::warn!(store, %fault, %entry, "{what}; treated as a miss, further faults of this kind are only counted");
        }
    }

    /// How often `fault` happened.
    pub fn count(&self, fault: Fault) -> u64 {
        self.counts[fault as usize].load(Ordering::Relaxed)
    }

    /// Every fault that happened, with its count.
    pub fn snapshot(&self) -> Vec<(Fault, u64)> {
        let counts = Fault::ALL.iter().map(|&fault| (fault, self.count(fault)));
        counts.filter(|&(_, count)| count > 0).collect()
    }
}

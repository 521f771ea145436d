//! What can be wrong with a stored entry or its store, each under a name.
//!
//! A fault is counted every time and logged the first time. It never travels further: to whoever asked for the
//! entry it is a miss.

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
    /// Not an entry of ours at all.
    Foreign = "foreign",
    /// Written by a version with another format.
    OtherVersion = "other_version",
    /// Shorter or longer than its header says.
    Torn = "torn",
    /// A checksum does not fit.
    Corrupt = "corrupt",
    /// Made with another model, tokenizer, layout or numerics.
    WrongFingerprint = "wrong_fingerprint",
    /// Holds another prefix than its name says.
    WrongTokens = "wrong_tokens",
    /// Was there when last looked for and is gone.
    Vanished = "vanished",
    /// No space left, or over a quota.
    NoSpace = "no_space",
    /// The store cannot be written to.
    ReadOnly = "read_only",
    /// The store may not be used by this process.
    Denied = "denied",
    /// The cache folder itself is gone.
    FolderMissing = "folder_missing",
    /// A time lies in the future: some clock went back.
    ClockBack = "clock_back",
    /// No answer in time.
    Timeout = "timeout",
    /// Larger than the limit for an entry.
    TooLarge = "too_large",
    /// Any other failure to read or write.
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

/// How often each fault happened to one store.
#[derive(Debug)]
pub struct Faults {
    store: &'static str,
    counts: [AtomicU64; Fault::ALL.len()],
}

impl Faults {
    /// No faults yet of the store with this name.
    pub fn new(store: &'static str) -> Self {
        Self { store, counts: Default::default() }
    }

    /// Counts a fault; logs it if it is the first of its kind.
    pub fn record(&self, fault: Fault, entry: &Path, what: &dyn fmt::Display) {
        if self.counts[fault as usize].fetch_add(1, Ordering::Relaxed) == 0 {
            let (store, entry) = (self.store, entry.display());
            tracing::warn!(store, %fault, %entry, "{what}; the cache goes on without it, further ones are only counted");
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

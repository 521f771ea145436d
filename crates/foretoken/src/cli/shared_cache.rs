//! Options of the cache that several machines share.

use std::path::PathBuf;

use clap::Args;

use crate::byte_size::ByteSize;

/// Cache shared between machines.
#[derive(Args, Clone)]
pub(crate) struct SharedArgs {
    /// A store of KV that several machines share: redis://HOST:PORT, s3://BUCKET/PREFIX?endpoint=URL or
    /// /a/mounted/folder. Give all of them the same --cache-secret-file.
    #[arg(long, value_name = "URL", help_heading = "Shared cache")]
    pub(crate) cache_shared: Option<String>,

    /// Timeout of one operation on the shared store, in milliseconds; after a timeout the store is not used for
    /// a while.
    #[arg(long, value_name = "MS", default_value_t = 500, help_heading = "Shared cache")]
    pub(crate) cache_shared_timeout: u64,

    /// Largest block to exchange with the shared store.
    #[arg(long, value_name = "SIZE", default_value = "32MiB", help_heading = "Shared cache")]
    pub(crate) cache_shared_entry: ByteSize,

    /// The secret from which the names of cached blocks are derived: a file of 32 random bytes, the same on all
    /// machines that share a store [default: a file in the data folder, created at the first start].
    #[arg(long, value_name = "FILE", help_heading = "Shared cache")]
    pub(crate) cache_secret_file: Option<PathBuf>,

    /// A system prompt (text, or messages as a JSON array) whose blocks all tenants share; may be given several
    /// times. Everything after it stays private to each tenant. A tenant is one API key, or one user of a key.
    #[arg(long, value_name = "FILE", help_heading = "Shared cache")]
    pub(crate) shared_prompt: Vec<PathBuf>,
}

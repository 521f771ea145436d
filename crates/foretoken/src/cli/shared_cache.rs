//! Options of the cache that several machines share.

use std::path::PathBuf;

use clap::Args;

use crate::byte_size::ByteSize;

/// What several machines share.
#[derive(Args, Clone)]
pub(crate) struct SharedArgs {
    /// A store of KV that several machines share: redis://HOST:PORT, s3://BUCKET/PREFIX?endpoint=URL or
    /// /a/mounted/folder. Give all of them the same --cache-secret-file.
    #[arg(long, value_name = "URL", help_heading = "Shared cache")]
    pub(crate) cache_shared: Option<String>,

    /// Milliseconds that the shared store may take for one operation before it is left alone for a while.
    #[arg(long, value_name = "MS", default_value_t = 500, help_heading = "Shared cache")]
    pub(crate) cache_shared_timeout: u64,

    /// Larger blocks are not exchanged with the shared store.
    #[arg(long, value_name = "SIZE", default_value = "32MiB", help_heading = "Shared cache")]
    pub(crate) cache_shared_entry: ByteSize,

    /// The secret that names of cached blocks are derived from: a file of 32 random bytes, the same on all
    /// machines that share a store [default: a file of the data folder, made at the first start].
    #[arg(long, value_name = "FILE", help_heading = "Shared cache")]
    pub(crate) cache_secret_file: Option<PathBuf>,

    /// A system prompt (text, or messages as a JSON array) whose blocks all tenants share; may be given several
    /// times. Everything after it stays each tenant's own.
    #[arg(long, value_name = "FILE", help_heading = "Shared cache")]
    pub(crate) shared_prompt: Vec<PathBuf>,
}

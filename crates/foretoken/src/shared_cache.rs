//! `--cache-shared` options to [`SharedConfig`].
//!
//! Parses only, opens nothing. An unreachable store is not an error here or later.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use foretoken_cache::SharedConfig;

use crate::cli::SharedArgs;

/// The shared store's configuration, if one is named.
pub(crate) fn config(args: &SharedArgs) -> Result<Option<SharedConfig>> {
    let Some(url) = &args.cache_shared else { return Ok(None) };
    if args.cache_shared_timeout == 0 {
        bail!("--cache-shared-timeout must be at least 1");
    }
    if url.contains(":***@") {
        bail!(
            "--cache-shared: the password in `{url}` is the placeholder that --print-config writes; \
             put the password there, or set FORETOKEN_CACHE_SHARED"
        );
    }
    let store = url.parse().context("--cache-shared")?;
    Ok(Some(SharedConfig {
        timeout: Duration::from_millis(args.cache_shared_timeout),
        entry_bytes_max: usize::try_from(args.cache_shared_entry.0).unwrap_or(usize::MAX),
        ..SharedConfig::new(store)
    }))
}

//! `foretoken cache` on a data folder, without a server: list, verify, clear.
//!
//! Listing works beside a running server; verify and clear change files and refuse to.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use foretoken_cache::disk::file_system::RealFileSystem;
use foretoken_cache::draft_files::clear_draft_files;
use foretoken_cache::store::{Store, StoreConfig};
use foretoken_cache::{DiskConfig, DiskEntry, DiskTier, Part, ScopeId, SystemClock, VerifyReport};
use foretoken_server::cache_report;
use serde_json::{Value, json};

use crate::cli::BaseArgs;
use crate::{folder_lock, load};

/// Block folders: of the model and of a draft model.
const FOLDERS: [&str; 2] = ["blocks", "blocks.draft"];
const DATABASE: &str = "foretoken.db";

/// Opens the existing block folders.
fn open(base: &BaseArgs) -> Result<Vec<DiskTier>> {
    let data = load::data_dir(base)?;
    let existing: Vec<PathBuf> =
        FOLDERS.map(|name| data.join(name)).into_iter().filter(|dir| dir.is_dir()).collect();
    if existing.is_empty() {
        bail!(
            "no server has cached anything in {}; name its folder with --data-dir or a running server with --server",
            data.display()
        );
    }
    let open = |dir| {
        // An unlimited budget, so that opening evicts nothing.
        let config = DiskConfig::new(dir, u64::MAX);
        DiskTier::open(config, Arc::new(RealFileSystem), Arc::new(SystemClock::new()))
    };
    Ok(existing.into_iter().map(open).collect())
}

fn list(base: &BaseArgs) -> Result<Vec<DiskEntry>> {
    let mut files = Vec::new();
    open(base)?.iter().for_each(|tier| tier.entries(|entry| files.push(entry)));
    Ok(files)
}

/// Totals of the folder.
pub(super) fn stat(base: &BaseArgs) -> Result<Value> {
    let files = list(base)?;
    let distinct = |of: fn(&DiskEntry) -> [u8; 32]| files.iter().map(of).collect::<HashSet<_>>().len();
    let mut info = json!({
        "object": "cache",
        "tiers": [{
            "tier": "disk",
            "blocks": files.iter().filter(|entry| entry.part == Part::Lasting).count(),
            "bytes": files.iter().map(|entry| entry.bytes).sum::<u64>(),
            "oldest_s": files.iter().map(|entry| entry.unused.as_secs()).max(),
            "scopes": distinct(|entry| *entry.scope.as_bytes()),
            "models": distinct(|entry| *entry.fingerprint.as_bytes()),
        }],
    });
    let data = load::data_dir(base)?;
    if let Some(store) = store(&data) {
        let (entries, bytes) = store.response_totals();
        info["responses"] = json!({"entries": entries, "bytes": bytes});
        info["folder"] = cache_report::folder(&data, &store);
    }
    Ok(info)
}

pub(super) fn entries(base: &BaseArgs, limit: usize) -> Result<Value> {
    Ok(cache_report::entries(&[], &list(base)?, limit))
}

pub(super) fn verify(base: &BaseArgs) -> Result<Value> {
    let _lock = folder_lock::exclusive(&load::data_dir(base)?, "foretoken cache verify")?;
    let mut sum = VerifyReport::default();
    for tier in open(base)? {
        let report = tier.verify();
        sum.good += report.good;
        sum.good_bytes += report.good_bytes;
        sum.bad.extend(report.bad);
        sum.unreadable.extend(report.unreadable);
        sum.foreign.extend(report.foreign);
    }
    Ok(cache_report::verify(&sum))
}

/// Deletes a scope, or everything: blocks, responses, drafter state.
pub(super) fn clear(base: &BaseArgs, scope: Option<ScopeId>) -> Result<Value> {
    let data = load::data_dir(base)?;
    let _lock = folder_lock::exclusive(&data, "foretoken cache clear")?;
    let blocks: u64 = open(base)?.iter().map(|tier| tier.clear(scope)).sum();
    if let Some(store) = store(&data) {
        store.forget_responses(scope);
    }
    clear_draft_files(&RealFileSystem, &data.join("drafts"), scope);
    Ok(json!({"object": "cache.deleted", "blocks": {"disk": blocks}}))
}

/// Opens the database if it exists; reading must not create it.
fn store(data: &Path) -> Option<Store> {
    data.join(DATABASE)
        .is_file()
        .then(|| Store::open(data, StoreConfig::unbounded(), Arc::new(SystemClock::new())))
}

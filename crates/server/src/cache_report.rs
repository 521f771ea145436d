//! Cache statistics as JSON: the body of `GET /v1/cache` and of its listing.
//!
//! The command line prints the same shapes for a folder that no server has open, so the statistics are passed in.

use foretoken_cache::data_folder::{self, Usage};
use foretoken_cache::store::Store;
use foretoken_cache::{CachedPrefix, DiskEntry, DiskStats, Part, VerifyReport};
use foretoken_engine::CacheInfo;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

/// Statistics per tier.
pub fn info(info: &CacheInfo) -> Value {
    let stats = &info.stats;
    let (prompt, hit) = info.prefix_tokens;
    let mut tiers = vec![memory(info)];
    tiers.extend(stats.disk.as_ref().map(|disk| {
        let mut tier = disk_tier(disk);
        tier["query_tokens"] = stats.disk_query_tokens.into();
        tier["hit_tokens"] = stats.disk_hit_tokens.into();
        tier["hit_rate"] = rate(stats.disk_hit_tokens, stats.disk_query_tokens);
        tier
    }));
    tiers.extend(stats.shared.as_ref().map(|shared| {
        json!({
            "tier": "shared",
            "available": shared.available,
            "query_tokens": stats.shared_query_tokens,
            "hit_tokens": stats.shared_hit_tokens,
            "hit_rate": rate(stats.shared_hit_tokens, stats.shared_query_tokens),
            "read_blocks": shared.read,
            "written_blocks": shared.written,
            "dropped": {
                "queue_full": shared.dropped_queue_full,
                "paused": shared.dropped_paused,
                "failed": shared.dropped_failed,
            },
            "faults": faults(&shared.faults),
        })
    }));
    json!({
        "object": "cache",
        "prompt_tokens": prompt,
        "hit_tokens": hit,
        "hit_rate": rate(hit, prompt),
        "responses": {"entries": info.responses.0, "bytes": info.responses.1},
        "tiers": tiers,
    })
}

/// What is in a data folder, kind by kind, with the budgets that the last server on it had.
pub fn folder(folder: &Path, store: &Store) -> Value {
    let limits = store.limits();
    let budget = |kind: &str| limits.iter().find(|(name, _)| name == kind).map(|(_, bytes)| *bytes);
    let mut rows: Vec<Value> = data_folder::usage(folder)
        .into_iter()
        .map(|Usage { kind, files, bytes }| {
            let kind = kind.name();
            json!({"kind": kind, "files": files, "bytes": bytes, "budget_bytes": budget(kind)})
        })
        .collect();
    // Parts of the database file.
    for (kind, (entries, bytes)) in
        [("responses", store.response_totals()), ("ledger", store.ledger_totals())]
    {
        rows.push(json!({"kind": kind, "entries": entries, "bytes": bytes, "budget_bytes": budget(kind)}));
    }
    rows.into()
}

fn memory(info: &CacheInfo) -> Value {
    let stats = &info.stats;
    let pool = stats.pool;
    let mut tier = json!({
        "tier": "memory",
        "blocks": stats.tree.blocks,
        "bytes": stats.ram_bytes,
        "blocks_max": pool.map_or(0, |pool| pool.capacity),
        "bytes_max": stats.ram_bytes_max,
        "pinned_blocks": stats.pinned,
        "pinned_blocks_max": info.pinned_max,
        "oldest_s": stats.oldest.map(seconds),
        "query_tokens": stats.query_tokens,
        "hit_tokens": stats.ram_hit_tokens,
        "hit_rate": rate(stats.ram_hit_tokens, stats.query_tokens),
        "evicted": {"room": stats.evicted, "cleared": stats.cleared},
    });
    if let Some((windowed, capacity)) = info.windowed {
        tier["windowed_blocks"] = windowed.into();
        tier["windowed_blocks_max"] = capacity.into();
        tier["evicted"]["windowed"] = stats.evicted_windowed.into();
    }
    tier
}

/// Statistics of a disk tier that are known without a running server.
pub fn disk_tier(disk: &DiskStats) -> Value {
    json!({
        "tier": "disk",
        "blocks": disk.blocks,
        "bytes": disk.bytes,
        "oldest_s": disk.oldest.map(seconds),
        "read_blocks": disk.read,
        "written_blocks": disk.written,
        "evicted": {"budget": disk.evicted, "quarantined": disk.quarantined, "cleared": disk.cleared},
        "dropped": {
            "queue_full": disk.dropped_queue_full,
            "paused": disk.dropped_paused,
            "failed": disk.dropped_failed,
        },
        "faults": faults(&disk.faults),
    })
}

fn faults(faults: &[(foretoken_cache::Fault, u64)]) -> Value {
    faults
        .iter()
        .map(|(fault, count)| (fault.name().to_owned(), (*count).into()))
        .collect::<Map<_, _>>()
        .into()
}

/// The prefixes of all tiers, most recently used first, at most `limit`.
pub fn entries(memory: &[CachedPrefix], disk: &[DiskEntry], limit: usize) -> Value {
    let mut rows: Vec<(Duration, Value)> = memory
        .iter()
        .map(|prefix| {
            let row = row("memory", prefix.scope.to_string(), prefix.key, prefix.tokens, prefix.unused);
            (prefix.unused, with_pin(row, prefix.pinned))
        })
        .collect();
    // A block that has a child is part of the child's prefix.
    let blocks = || disk.iter().filter(|entry| entry.part == Part::Lasting);
    let parents: HashSet<_> = blocks().map(|entry| entry.place.parent).collect();
    rows.extend(blocks().filter(|entry| !parents.contains(&entry.key)).map(|entry| {
        let tokens = entry.place.child(entry.key).tokens_before();
        (entry.unused, row("disk", entry.scope.to_string(), Some(entry.key), tokens, entry.unused))
    }));
    rows.sort_by_key(|(unused, _)| *unused);
    let total = rows.len();
    rows.truncate(limit);
    let rows: Vec<Value> = rows.into_iter().map(|(_, row)| row).collect();
    json!({"object": "list", "total": total, "data": rows})
}

fn row(
    tier: &str,
    scope: String,
    key: Option<foretoken_cache::BlockKey>,
    tokens: usize,
    unused: Duration,
) -> Value {
    let key = key.map(|key| key.to_string());
    json!({"tier": tier, "scope": scope, "key": key, "tokens": tokens, "unused_s": seconds(unused)})
}

fn with_pin(mut row: Value, pinned: Option<Duration>) -> Value {
    if let Some(left) = pinned {
        row["pinned_s"] = seconds(left).into();
    }
    row
}

/// The result of verifying all files. Files are reported by name, without their path.
pub fn verify(report: &VerifyReport) -> Value {
    let file_name = |path: &std::path::Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let faulty = |files: &[(std::path::PathBuf, foretoken_cache::Fault)]| -> Value {
        files.iter().map(|(path, fault)| json!({"file": file_name(path), "fault": fault.name()})).collect()
    };
    json!({
        "object": "cache.verify",
        "good": report.good,
        "good_bytes": report.good_bytes,
        "bad": faulty(&report.bad),
        "unreadable": faulty(&report.unreadable),
        "foreign": report.foreign.iter().map(|path| file_name(path)).collect::<Vec<_>>(),
    })
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs()
}

fn rate(above: u64, below: u64) -> Value {
    if below > 0 { (above as f64 / below as f64).into() } else { Value::Null }
}

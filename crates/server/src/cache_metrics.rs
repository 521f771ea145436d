//! Metrics of the context cache, per tier.
//!
//! vLLM's names where it has the metric (`vllm:kv_block_…`, in seconds, for blocks in memory; its prefix cache counters
//! are with the engine's), ours with a label `tier` for the rest. Read on scrape.

use std::fmt;
use std::sync::Arc;

use foretoken_cache::{AGE_BOUNDS_S, CacheStats, Fault, LATENCY_BOUNDS_S, LatencySnapshot};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use foretoken_engine::CacheInfo;

use crate::backend::Generator;

/// Reads the cache's statistics on scrape.
pub(crate) struct CacheCollector(pub(crate) Arc<dyn Generator>);

impl fmt::Debug for CacheCollector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("CacheCollector")
    }
}

/// Tier, value of the second label (if the metric has one), value.
type Sample<T> = (&'static str, &'static str, T);

impl Collector for CacheCollector {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let info = self.0.cache().info();
        let stats = &info.stats;
        for (name, help, label, samples) in counters(stats) {
            let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (tier, value, count) in samples {
                let metric = ConstCounter::new(count);
                match label {
                    Some(label) => {
                        metric.encode(family.encode_family(&[("tier", tier), (label, value)])?)?;
                    }
                    None => metric.encode(family.encode_family(&[("tier", tier)])?)?,
                }
            }
        }
        for (name, help, samples) in gauges(stats) {
            let mut family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (tier, value) in samples {
                ConstGauge::new(value).encode(family.encode_family(&[("tier", tier)])?)?;
            }
        }
        data_folder(&info, &mut out)?;
        latencies(stats, &mut out)?;
        for (name, help, ages) in [
            ("vllm:kv_block_lifetime_seconds", "Evicted blocks: time in memory", &stats.ages.lifetime),
            (
                "vllm:kv_block_idle_before_evict_seconds",
                "Evicted blocks: time since last use",
                &stats.ages.idle,
            ),
            (
                "vllm:kv_block_reuse_gap_seconds",
                "Reused blocks: time since previous use",
                &stats.ages.reuse_gap,
            ),
        ] {
            let mut metric = out.encode_descriptor(name, help, None, MetricType::Histogram)?;
            let buckets = buckets(ages, &AGE_BOUNDS_S);
            metric.encode_histogram::<NoLabelSet>(ages.sum_s, ages.count, &buckets, None)?;
        }
        Ok(())
    }
}

type Counters = (&'static str, &'static str, Option<&'static str>, Vec<Sample<u64>>);

fn counters(stats: &CacheStats) -> [Counters; 7] {
    let (disk, shared) = (stats.disk.as_ref(), stats.shared.as_ref());
    let mut queries = vec![("memory", "", stats.query_tokens)];
    let mut hits = vec![("memory", "", stats.ram_hit_tokens)];
    let mut written = vec![("memory", "", stats.inserted)];
    let mut read_bytes = Vec::new();
    let mut evicted = vec![("memory", "room", stats.evicted), ("memory", "cleared", stats.cleared)];
    let mut dropped = vec![
        ("memory", "out_of_slots", stats.out_of_slots),
        ("memory", "restore_not_worth", stats.restores_not_worth),
        ("memory", "restore_refused", stats.restores_refused),
    ];
    let mut faults: Vec<Sample<u64>> = Vec::new();
    let named = |tier, list: &[(Fault, u64)]| -> Vec<Sample<u64>> {
        list.iter().map(|(fault, count)| (tier, fault.name(), *count)).collect()
    };
    if let Some(disk) = disk {
        queries.push(("disk", "", stats.disk_query_tokens));
        hits.push(("disk", "", stats.disk_hit_tokens));
        written.push(("disk", "", disk.written));
        read_bytes.push(("disk", "", disk.read_bytes));
        evicted.extend([
            ("disk", "budget", disk.evicted),
            ("disk", "quarantined", disk.quarantined),
            ("disk", "cleared", disk.cleared),
        ]);
        dropped.extend([
            ("disk", "queue_full", disk.dropped_queue_full),
            ("disk", "paused", disk.dropped_paused),
            ("disk", "failed", disk.dropped_failed),
        ]);
        faults.extend(named("disk", &disk.faults));
    }
    if let Some(shared) = shared {
        queries.push(("shared", "", stats.shared_query_tokens));
        hits.push(("shared", "", stats.shared_hit_tokens));
        written.push(("shared", "", shared.written));
        read_bytes.push(("shared", "", shared.read_bytes));
        dropped.extend([
            ("shared", "queue_full", shared.dropped_queue_full),
            ("shared", "paused", shared.dropped_paused),
            ("shared", "failed", shared.dropped_failed),
        ]);
        faults.extend(named("shared", &shared.faults));
    }
    [
        (
            "foretoken_cache_queries",
            "Tokens looked up in a tier after a miss in the faster ones",
            None,
            queries,
        ),
        ("foretoken_cache_hits", "Tokens found in a tier", None, hits),
        ("foretoken_cache_stored_blocks", "Blocks written to a tier", None, written),
        ("foretoken_cache_read_bytes", "Bytes read from a tier and verified", None, read_bytes),
        ("foretoken_cache_evicted_blocks", "Blocks evicted from a tier, by cause", Some("cause"), evicted),
        (
            "foretoken_cache_dropped",
            "Blocks a tier did not store or restore, by cause",
            Some("cause"),
            dropped,
        ),
        ("foretoken_cache_faults", "Faults of a tier, by kind", Some("fault"), faults),
    ]
}

/// What the database and the drafters' files hold, and what was dropped to bound them.
fn data_folder(info: &CacheInfo, out: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let (database, drafts) = (&info.database, info.drafts.unwrap_or_default());
    let name = "foretoken_store_evicted";
    let help = "Entries that the data folder no longer has, by kind and cause";
    let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (kind, cause, count) in [
        ("responses", "budget", database.evicted_bytes),
        ("responses", "age", database.evicted_age),
        ("ledger", "summed", database.ledger_summed),
        ("drafts", "budget", drafts.evicted),
    ] {
        ConstCounter::new(count).encode(family.encode_family(&[("kind", kind), ("cause", cause)])?)?;
    }
    let name = "foretoken_store_dropped";
    let help = "Reads and writes of the data folder not done, by kind and cause";
    let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (kind, cause, count) in [
        ("database", "queue_full", database.dropped_queue_full),
        ("database", "failed", database.write_errors),
        ("drafts", "queue_full", drafts.dropped_queue_full),
        ("drafts", "failed", drafts.failed),
    ] {
        ConstCounter::new(count).encode(family.encode_family(&[("kind", kind), ("cause", cause)])?)?;
    }
    let name = "foretoken_store_bytes";
    let mut family =
        out.encode_descriptor(name, "Bytes in the data folder, by kind", None, MetricType::Gauge)?;
    for (kind, bytes) in
        [("responses", database.responses_bytes), ("ledger", database.ledger_bytes), ("drafts", drafts.bytes)]
    {
        ConstGauge::new(bytes as f64).encode(family.encode_family(&[("kind", kind)])?)?;
    }
    Ok(())
}

type Gauges = (&'static str, &'static str, Vec<(&'static str, f64)>);

fn gauges(stats: &CacheStats) -> [Gauges; 6] {
    let mut blocks = vec![("memory", stats.tree.blocks as f64)];
    let mut bytes = vec![("memory", stats.ram_bytes as f64)];
    let most = vec![("memory", stats.ram_bytes_max as f64)];
    let mut oldest = vec![("memory", stats.oldest.unwrap_or_default().as_secs_f64())];
    let mut available = Vec::new();
    if let Some(disk) = &stats.disk {
        blocks.push(("disk", disk.blocks as f64));
        bytes.push(("disk", disk.bytes as f64));
        oldest.push(("disk", disk.oldest.unwrap_or_default().as_secs_f64()));
    }
    if let Some(shared) = &stats.shared {
        available.push(("shared", f64::from(u8::from(shared.available))));
    }
    [
        ("foretoken_cache_blocks", "Blocks in a tier", blocks),
        ("foretoken_cache_bytes", "Bytes in a tier", bytes),
        ("foretoken_cache_max_bytes", "Bytes that a tier has room for", most),
        (
            "foretoken_cache_oldest_seconds",
            "Age of the oldest block (memory), time since last use of the least recently used (disk)",
            oldest,
        ),
        ("foretoken_cache_pinned_blocks", "Pinned blocks", vec![("memory", stats.pinned as f64)]),
        (
            "foretoken_cache_available",
            "Whether a tier is in use (1) or suspended after a failure (0)",
            available,
        ),
    ]
}

fn latencies(stats: &CacheStats, out: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let disk = stats.disk.as_ref();
    let read = disk.map(|disk| ("disk", &disk.read_latency));
    let shared = stats.shared.as_ref().map(|shared| ("shared", &shared.read_latency));
    let written = disk.map(|disk| ("disk", &disk.write_latency));
    for (name, help, samples) in [
        ("foretoken_cache_read_seconds", "Latency of reading and verifying a block", vec![read, shared]),
        ("foretoken_cache_write_seconds", "Latency of writing a block", vec![written]),
    ] {
        let mut family = out.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (tier, latency) in samples.into_iter().flatten() {
            let buckets = buckets(latency, &LATENCY_BOUNDS_S);
            let labels = [("tier", tier)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(latency.sum_s, latency.count, &buckets, None)?;
        }
    }
    Ok(())
}

/// Counts with their upper bounds; the last is unbounded. An unused tier has no counts yet.
fn buckets(snapshot: &LatencySnapshot, bounds: &[f64]) -> Vec<(f64, u64)> {
    let bounds = bounds.iter().copied().chain(std::iter::once(f64::MAX));
    bounds.enumerate().map(|(at, bound)| (bound, snapshot.buckets.get(at).copied().unwrap_or(0))).collect()
}

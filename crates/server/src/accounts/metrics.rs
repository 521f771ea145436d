//! Metrics of billing and of the database.
//!
//! Amounts are counters of whole nano-dollars, so that sums over servers stay exact; savings are two separate
//! figures here too. No label names an account: the page may be public.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;

use super::ledger::Ledger;

/// Reads the ledger's totals and the database's counters on scrape.
#[derive(Debug)]
pub(crate) struct LedgerCollector(pub(crate) Arc<Ledger>);

impl Collector for LedgerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let sums = self.0.sums();
        let database = self.0.store().counters();
        let counters: [(&str, &str, &AtomicU64); 7] = [
            ("foretoken_ledger_requests", "Requests written to the ledger", &sums.requests),
            ("foretoken_price_nanodollars", "Prices of all requests, 10^-9 US$", &sums.price),
            ("foretoken_saved_nanodollars", "Money saved by cache hits, 10^-9 US$", &sums.saved),
            ("foretoken_response_store_queries", "Response store lookups", &database.queries),
            ("foretoken_response_store_hits", "Response store hits", &database.hits),
            ("foretoken_response_store_stored", "Responses stored", &database.stored),
            (
                "foretoken_database_writes_dropped",
                "Responses and ledger rows dropped because the write queue was full",
                &database.dropped_queue_full,
            ),
        ];
        for (name, help, value) in counters {
            let metric = ConstCounter::new(value.load(Relaxed));
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        let saved_s = ConstCounter::new(sums.saved_ms.load(Relaxed) as f64 / 1000.0);
        let (name, help) =
            ("foretoken_saved_prefill_seconds", "Prefill time saved by cache hits, by measured speed");
        saved_s.encode(encoder.encode_descriptor(name, help, None, saved_s.metric_type())?)?;
        let faults: [(&str, &AtomicU64); 4] = [
            ("write", &database.write_errors),
            ("read", &database.read_errors),
            ("damaged_row", &database.damaged_rows),
            ("set_aside", &database.set_aside),
        ];
        let (name, help) = ("foretoken_database_faults", "Faults of the database, by kind");
        family(&mut encoder, name, help, "kind", &faults)?;
        let evicted: [(&str, &AtomicU64); 2] =
            [("bytes", &database.evicted_bytes), ("age", &database.evicted_age)];
        let (name, help) = ("foretoken_response_store_evicted", "Responses evicted, by reason");
        family(&mut encoder, name, help, "reason", &evicted)
    }
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: &[(&str, &AtomicU64)],
) -> Result<(), fmt::Error> {
    let kind = ConstCounter::new(0u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (word, value) in values {
        let labels = [(label, *word)];
        ConstCounter::new(value.load(Relaxed)).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

//! Prometheus metrics.
//!
//! vLLM's names and buckets where vLLM has the metric, so that its dashboards work; `foretoken_` for the
//! rest. The engine's counters are read on scrape, latencies are observed as events arrive.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use foretoken_engine::{EngineStats, GRAMMAR_BOUNDS_S, Summary};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::accounts::{Ledger, LedgerCollector};
use crate::backend::Generator;
use crate::cache_metrics::CacheCollector;
use crate::draft_metrics::DraftCollector;

const FIRST_TOKEN_S: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const NEXT_TOKEN_S: [f64; 19] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
    10.0,
];
const REQUEST_S: [f64; 21] = [
    0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 960.0,
];
const TOKENS: [f64; 16] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0,
    50_000.0, 100_000.0,
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteStatus {
    route: String,
    method: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// HTTP metrics; available before a model is loaded.
#[derive(Debug)]
pub(crate) struct HttpMetrics {
    registry: Registry,
    requests: Family<RouteStatus, Counter>,
    refused: Family<Reason, Counter>,
}

impl HttpMetrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let refused = Family::default();
        registry.register("foretoken_http_requests", "Requests by route and status", requests.clone());
        registry.register("foretoken_requests_rejected", "Rejected requests, by reason", refused.clone());
        HttpMetrics { registry, requests, refused }
    }

    pub(crate) fn answered(&self, route: &str, method: &str, status: u16) {
        let labels = RouteStatus { route: route.into(), method: method.into(), status };
        self.requests.get_or_create(&labels).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// The whole page in OpenMetrics text format.
    pub(crate) fn page(&self, model: Option<&ModelMetrics>) -> Result<String, fmt::Error> {
        let mut page = String::new();
        encode_registry(&mut page, &self.registry)?;
        if let Some(model) = model {
            encode_registry(&mut page, &model.registry)?;
        }
        encode_eof(&mut page)?;
        Ok(page)
    }
}

/// Metrics of the served model, labelled with its name.
#[derive(Debug)]
pub(crate) struct ModelMetrics {
    registry: Registry,
    first_token: Histogram,
    next_token: Histogram,
    whole: Histogram,
    queue: Histogram,
    prompt_tokens: Histogram,
    generation_tokens: Histogram,
}

impl ModelMetrics {
    pub(crate) fn new(model: &str, generator: Arc<dyn Generator>, ledger: Arc<Ledger>) -> Self {
        let label = ("model_name".into(), model.to_owned().into());
        let mut registry = Registry::with_labels(std::iter::once(label));
        registry.register_collector(Box::new(CacheCollector(Arc::clone(&generator))));
        registry.register_collector(Box::new(DraftCollector(Arc::clone(&generator))));
        registry.register_collector(Box::new(EngineCollector(generator)));
        registry.register_collector(Box::new(LedgerCollector(ledger)));
        let mut histogram = |name: &str, help: &str, buckets: &[f64]| {
            let metric = Histogram::new(buckets.iter().copied());
            registry.register(name, help, metric.clone());
            metric
        };
        let first_token =
            histogram("vllm:time_to_first_token_seconds", "Arrival to first token", &FIRST_TOKEN_S);
        let next_token = histogram(
            "vllm:inter_token_latency_seconds",
            "Latency between tokens of a response",
            &NEXT_TOKEN_S,
        );
        let whole = histogram("vllm:e2e_request_latency_seconds", "Arrival to end of response", &REQUEST_S);
        let queue = histogram("vllm:request_queue_time_seconds", "Arrival to first step", &REQUEST_S);
        let prompt_tokens = histogram("vllm:request_prompt_tokens", "Tokens per prompt", &TOKENS);
        let generation_tokens =
            histogram("vllm:request_generation_tokens", "Generated tokens per response", &TOKENS);
        ModelMetrics { registry, first_token, next_token, whole, queue, prompt_tokens, generation_tokens }
    }

    pub(crate) fn first_token(&self, since_arrival: Duration) {
        self.first_token.observe(since_arrival.as_secs_f64());
    }

    /// Tokens of one event share the time since the previous event equally.
    pub(crate) fn next_tokens(&self, since_last: Duration, count: usize) {
        (0..count).for_each(|_| self.next_token.observe(since_last.as_secs_f64() / count as f64));
    }

    pub(crate) fn finished(&self, since_arrival: Duration, summary: &Summary) {
        self.whole.observe(since_arrival.as_secs_f64());
        self.queue.observe(summary.timings.queue_ms / 1000.0);
        self.prompt_tokens.observe(summary.usage.prompt_tokens as f64);
        self.generation_tokens.observe(summary.usage.completion_tokens as f64);
    }
}

struct EngineCollector(Arc<dyn Generator>);

impl fmt::Debug for EngineCollector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("EngineCollector")
    }
}

impl Collector for EngineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = self.0.stats();
        for (name, help, value) in gauges(&stats) {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        for (name, help, value) in counters(&stats) {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        let (name, help) = ("foretoken_grammar_token_seconds", "Time that a constraint takes per token");
        let bounds = GRAMMAR_BOUNDS_S.into_iter().chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(stats.grammar.classes).collect();
        let (seconds, count) = (stats.grammar.seconds, stats.grammar.count());
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
        let kind = ConstCounter::new(0u64).metric_type();
        let help = "Finished requests, by finish reason";
        let mut family = encoder.encode_descriptor("vllm:request_success", help, None, kind)?;
        for (reason, value) in finished(&stats) {
            let labels = [("finished_reason", reason)];
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn gauges(stats: &EngineStats) -> [(&'static str, &'static str, f64); 3] {
    [
        ("vllm:num_requests_running", "Sequences in execution", stats.running as f64),
        ("vllm:num_requests_waiting", "Requests in the queue", stats.waiting as f64),
        ("vllm:kv_cache_usage_perc", "Share of KV blocks in use, 1 is all", stats.kv_usage),
    ]
}

fn counters(stats: &EngineStats) -> [(&'static str, &'static str, u64); 6] {
    [
        ("vllm:prompt_tokens", "Prompt tokens processed, cached ones included", stats.prompt_tokens_total),
        ("vllm:generation_tokens", "Tokens generated", stats.generation_tokens_total),
        (
            "vllm:prefix_cache_queries",
            "Prompt tokens looked up in the prefix cache",
            stats.prefix_queries_total,
        ),
        ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache", stats.prefix_hits_total),
        ("vllm:num_preemptions", "Preempted sequences", stats.preemptions_total),
        ("foretoken_steps", "Engine steps", stats.steps_total),
    ]
}

fn finished(stats: &EngineStats) -> [(&'static str, u64); 4] {
    [
        ("stop", stats.finished_stop_total),
        ("length", stats.finished_length_total),
        ("abort", stats.finished_abort_total),
        ("error", stats.finished_error_total),
    ]
}

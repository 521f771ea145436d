//! Speculation metrics: vLLM's names where it has the metric, `foretoken_` per drafter for the rest.

use std::fmt;
use std::sync::Arc;

use foretoken_engine::{DraftTotals, Source};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::backend::Generator;

/// Reads the engine's totals on scrape.
pub(crate) struct DraftCollector(pub(crate) Arc<dyn Generator>);

impl fmt::Debug for DraftCollector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("DraftCollector")
    }
}

impl Collector for DraftCollector {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let drafts = self.0.stats().drafts;
        let sum = |of: fn(&foretoken_engine::SourceTotals) -> u64| drafts.sources.iter().map(of).sum();
        for (name, help, value) in [
            ("vllm:spec_decode_num_drafts", "Steps with draft tokens", drafts.drafts),
            ("vllm:spec_decode_num_draft_tokens", "Draft tokens verified", sum(|of| of.proposed)),
            ("vllm:spec_decode_num_accepted_tokens", "Draft tokens accepted", sum(|of| of.accepted)),
            (
                "foretoken_spec_decode_relaxed_tokens",
                "Draft tokens accepted that the policy 'exact' would have rejected",
                drafts.relaxed,
            ),
        ] {
            ConstCounter::new(value).encode(out.encode_descriptor(
                name,
                help,
                None,
                MetricType::Counter,
            )?)?;
        }
        let (name, help) =
            ("vllm:spec_decode_num_accepted_tokens_per_pos", "Drafts whose token at a position was accepted");
        let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (position, &count) in drafts.accepted_at.iter().enumerate() {
            let labels = [("position", position.to_string())];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        by_drafter(&drafts, &mut out)?;
        for (name, help, ms) in [
            (
                "foretoken_spec_decode_credit_earned_seconds",
                "Compute that cache hits saved and that speculation may spend",
                drafts.credit_earned_ms,
            ),
            (
                "foretoken_spec_decode_credit_spent_seconds",
                "Credit spent on drafting beyond break-even",
                drafts.credit_spent_ms,
            ),
        ] {
            let metric = ConstCounter::new(ms / 1e3);
            metric.encode(out.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }
}

fn by_drafter(drafts: &DraftTotals, out: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    type Of = fn(&foretoken_engine::SourceTotals) -> f64;
    let metrics: [(&str, &str, Of); 3] = [
        ("foretoken_spec_decode_draft_tokens", "Draft tokens verified, by drafter", |of| of.proposed as f64),
        ("foretoken_spec_decode_accepted_tokens", "Draft tokens accepted, by drafter", |of| {
            of.accepted as f64
        }),
        ("foretoken_spec_decode_draft_seconds", "Time spent drafting, by drafter", |of| of.seconds),
    ];
    for (name, help, of) in metrics {
        let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (source, totals) in Source::ALL.into_iter().zip(&drafts.sources) {
            let labels = [("drafter", source.name())];
            ConstCounter::new(of(totals)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

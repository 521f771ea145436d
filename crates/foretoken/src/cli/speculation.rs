//! Speculation options, for every command that generates.

use clap::Args;

use crate::byte_size::ByteSize;

/// Drafting and verification.
#[derive(Args, Clone)]
pub(crate) struct SpeculationArgs {
    /// Speculative decoding: draft several tokens ahead and verify them in one step. Faster, and with the
    /// exact policy the same output.
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = ["on", "off"], help_heading = "Speculation")]
    pub(crate) speculation: String,

    /// Drafters to use: prediction, own_text, memory, successors, draft_model, mtp, grammar [default: all].
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Speculation")]
    pub(crate) drafters: Vec<String>,

    /// Which draft tokens are accepted: exact (those equal to the model's own sample: same output as without
    /// speculation), lossless (rejection sampling: same distribution), agreement (those that the model finds
    /// plausible: faster, different text).
    #[arg(long, value_name = "POLICY", default_value = "exact",
          value_parser = ["exact", "lossless", "agreement"], help_heading = "Speculation")]
    pub(crate) policy: String,

    /// Maximum draft tokens per step of a request.
    #[arg(long, value_name = "N", default_value_t = 32, help_heading = "Speculation")]
    pub(crate) max_draft: usize,

    /// Let a tenant spend the compute that its cache hits saved on drafting beyond break-even (the point where
    /// one more draft token costs as much time as it is expected to save).
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = ["on", "off"], help_heading = "Speculation")]
    pub(crate) fund_speculation: String,

    /// A smaller model with the same vocabulary to draft with.
    #[arg(long, value_name = "REF", help_heading = "Speculation")]
    pub(crate) draft_model: Option<String>,

    /// The head for multi-token prediction to draft with: auto (the model file's own, or one trained for it in
    /// MODEL.mtp.gguf beside MODEL.gguf), off, or a file that holds one for this model.
    #[arg(long, value_name = "auto|off|REF", default_value = "auto", help_heading = "Speculation")]
    pub(crate) mtp: String,

    /// Memory for the KV of --draft-model; at least one context.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", help_heading = "Speculation")]
    pub(crate) draft_cache_ram: ByteSize,

    /// Tokens of past prompts and responses to draft from; each takes up to 64 bytes of memory.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, help_heading = "Speculation")]
    pub(crate) draft_memory: usize,

    /// Disk space for what drafters learn, over all tenants and models; the least recently used is evicted. 0 keeps it in
    /// memory only.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", help_heading = "Speculation")]
    pub(crate) draft_disk: ByteSize,
}

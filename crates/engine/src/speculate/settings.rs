//! Speculation settings and counters. Plain data.

use crate::api::InvalidParam;

/// Upper bound of `max_draft`: draft tokens in one step of one sequence.
pub const MAX_DRAFT_LIMIT: usize = 64;

/// Where a draft token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The caller's `prediction`.
    Prediction,
    /// The prompt and the answer so far.
    OwnText,
    /// The tenant's past prompts and answers.
    Memory,
    /// Most likely next tokens, learnt from logits.
    Successors,
    /// A second, smaller model.
    DraftModel,
    /// The model's own head for multi-token prediction.
    Mtp,
    /// What a grammar forces.
    Grammar,
}

impl Source {
    /// All of them.
    pub const ALL: [Source; 7] = [
        Source::Prediction,
        Source::OwnText,
        Source::Memory,
        Source::Successors,
        Source::DraftModel,
        Source::Mtp,
        Source::Grammar,
    ];

    /// The name on the wire and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Source::Prediction => "prediction",
            Source::OwnText => "own_text",
            Source::Memory => "memory",
            Source::Successors => "successors",
            Source::DraftModel => "draft_model",
            Source::Mtp => "mtp",
            Source::Grammar => "grammar",
        }
    }

    /// The source of that name.
    pub fn named(name: &str) -> Option<Source> {
        Source::ALL.into_iter().find(|source| source.name() == name)
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// A set of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources(u8);

impl Sources {
    /// Every source.
    pub const ALL: Sources = Sources((1 << Source::ALL.len()) - 1);
    /// No source.
    pub const NONE: Sources = Sources(0);

    /// The set with `source` in it.
    pub fn with(self, source: Source) -> Sources {
        Sources(self.0 | 1 << source.index())
    }

    /// Whether `source` is in the set.
    pub fn contains(self, source: Source) -> bool {
        self.0 & 1 << source.index() != 0
    }
}

impl FromIterator<Source> for Sources {
    fn from_iter<I: IntoIterator<Item = Source>>(sources: I) -> Sources {
        sources.into_iter().fold(Sources::NONE, Sources::with)
    }
}

/// Which draft tokens are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Policy {
    /// Those that the target samples itself: the same bytes as without speculation.
    #[default]
    Exact,
    /// By rejection sampling (Leviathan et al., arXiv 2211.17192; for trees Miao et al., arXiv 2305.09781): the same
    /// distribution as without speculation, other bytes. At temperature 0 the same as [`Policy::Exact`].
    Lossless,
    /// Those that are plausible under the target's distribution: other bytes and another distribution.
    Agreement(Thresholds),
}

impl Policy {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Exact => "exact",
            Policy::Lossless => "lossless",
            Policy::Agreement(_) => "agreement",
        }
    }
}

/// A draft token of probability `p` is plausible where the target's distribution has entropy `H` (nats) and its most
/// likely token has `p_max`, if `p >= min(epsilon, delta * e^-H)` (typical acceptance, Cai et al., arXiv 2401.10774)
/// or `p >= tau * p_max`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// In `0..=1`; 1 with `delta` 1 switches the first rule off in practice.
    pub epsilon: f32,
    /// In `0..=1`.
    pub delta: f32,
    /// In `0..=1`; 1 keeps only a most likely token.
    pub tau: f32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { epsilon: 0.3, delta: 0.3, tau: 0.7 }
    }
}

impl Thresholds {
    /// Checks each against its range.
    ///
    /// # Errors
    /// The first that is out of range, by name.
    pub fn validate(&self) -> Result<(), InvalidParam> {
        let ranges = [
            ("speculation.epsilon", self.epsilon),
            ("speculation.delta", self.delta),
            ("speculation.tau", self.tau),
        ];
        match ranges.into_iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            Some((param, value)) => {
                Err(InvalidParam { param, message: format!("must be between 0 and 1, got {value}") })
            }
            None => Ok(()),
        }
    }
}

/// Speculation settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speculation {
    /// Whether to speculate.
    pub enabled: bool,
    /// Which draft tokens are accepted.
    pub policy: Policy,
    /// The sources that may draft.
    pub sources: Sources,
    /// Draft tokens in one step, at most; up to [`MAX_DRAFT_LIMIT`].
    pub max_draft: usize,
    /// Whether compute saved by cache hits may be spent on drafting past break-even.
    pub funded: bool,
    /// Whether everything that is drafted is verified, up to `max_draft` tokens, whatever it costs and whatever was accepted
    /// before. What is drafted then depends on tokens alone and not on time: for measuring acceptance.
    pub always: bool,
}

impl Default for Speculation {
    fn default() -> Self {
        Speculation {
            enabled: true,
            policy: Policy::Exact,
            sources: Sources::ALL,
            max_draft: 32,
            funded: true,
            always: false,
        }
    }
}

/// A request's overrides of the engine's default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SpeculationChoice {
    /// See [`Speculation::enabled`].
    pub enabled: Option<bool>,
    /// See [`Speculation::policy`].
    pub policy: Option<Policy>,
    /// See [`Speculation::sources`].
    pub sources: Option<Sources>,
    /// See [`Speculation::max_draft`].
    pub max_draft: Option<usize>,
    /// See [`Speculation::funded`].
    pub funded: Option<bool>,
    /// See [`Speculation::always`].
    pub always: Option<bool>,
}

impl SpeculationChoice {
    /// The settings in effect.
    pub fn over(self, default: Speculation) -> Speculation {
        Speculation {
            enabled: self.enabled.unwrap_or(default.enabled),
            policy: self.policy.unwrap_or(default.policy),
            sources: self.sources.unwrap_or(default.sources),
            max_draft: self.max_draft.unwrap_or(default.max_draft),
            funded: self.funded.unwrap_or(default.funded),
            always: self.always.unwrap_or(default.always),
        }
    }
}

/// Counters of one source for one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SourceReport {
    /// Tokens verified.
    pub proposed: usize,
    /// Of those, accepted tokens.
    pub accepted: usize,
    /// Milliseconds spent on proposing.
    pub ms: f64,
}

/// Speculation counters of one answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DraftReport {
    /// Steps that produced tokens.
    pub steps: usize,
    /// Of those, steps in which something was drafted.
    pub drafts: usize,
    /// Draft tokens verified.
    pub drafted: usize,
    /// Of those, accepted tokens.
    pub accepted: usize,
    /// `histogram[n]`: drafted steps that accepted `n` tokens.
    pub histogram: Vec<usize>,
    /// By [`Source::ALL`].
    pub sources: [SourceReport; Source::ALL.len()],
    /// Accepted tokens that [`Policy::Exact`] would have rejected.
    pub relaxed: usize,
    /// Log-probability (nats) given up by those, summed.
    pub given_up: f64,
    /// Tokens of the prediction that were in the answer, and those that were not; `None` without a prediction.
    pub prediction: Option<(usize, usize)>,
    /// Milliseconds of compute spent past break-even, from what cache hits had saved.
    pub credit_spent_ms: f64,
}

impl std::ops::AddAssign<&DraftReport> for DraftReport {
    fn add_assign(&mut self, one: &DraftReport) {
        self.steps += one.steps;
        self.drafts += one.drafts;
        self.drafted += one.drafted;
        self.accepted += one.accepted;
        self.relaxed += one.relaxed;
        self.given_up += one.given_up;
        self.credit_spent_ms += one.credit_spent_ms;
        self.histogram.resize(self.histogram.len().max(one.histogram.len()), 0);
        self.histogram.iter_mut().zip(&one.histogram).for_each(|(sum, one)| *sum += one);
        for (sum, one) in self.sources.iter_mut().zip(&one.sources) {
            sum.proposed += one.proposed;
            sum.accepted += one.accepted;
            sum.ms += one.ms;
        }
        if let Some((accepted, rejected)) = one.prediction {
            let so_far = self.prediction.unwrap_or_default();
            self.prediction = Some((so_far.0 + accepted, so_far.1 + rejected));
        }
    }
}

/// Draft positions with a counter of their own in [`DraftTotals`]; later ones count as the last.
pub const DRAFT_POSITIONS: usize = 16;

/// Classes of estimated probability in [`DraftTotals::reliability`], each a tenth wide.
pub const RELIABILITY_CLASSES: usize = 10;

/// Draft tokens of about equal estimated probability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reliability {
    /// Draft tokens whose outcome is known.
    pub seen: u64,
    /// Of those, correct ones.
    pub right: u64,
}

/// Speculation counters of all finished answers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DraftTotals {
    /// By [`Source::ALL`] and by estimated probability, given that everything before the draft token was correct: how
    /// often such draft tokens were correct. All draft tokens count, verified or not, of running answers too.
    pub reliability: [[Reliability; RELIABILITY_CLASSES]; Source::ALL.len()],
    /// Steps in which something was drafted.
    pub drafts: u64,
    /// By [`Source::ALL`].
    pub sources: [SourceTotals; Source::ALL.len()],
    /// Drafted steps that accepted the token at this position.
    pub accepted_at: [u64; DRAFT_POSITIONS],
    /// Accepted tokens that [`Policy::Exact`] would have rejected.
    pub relaxed: u64,
    /// Milliseconds of compute that hits saved, and those spent past break-even.
    pub credit_earned_ms: f64,
    /// See above.
    pub credit_spent_ms: f64,
}

/// Counters of one source over all finished answers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SourceTotals {
    /// Tokens verified.
    pub proposed: u64,
    /// Of those, accepted tokens.
    pub accepted: u64,
    /// Seconds spent on proposing.
    pub seconds: f64,
}

impl DraftTotals {
    /// Adds a finished answer.
    pub(crate) fn add(&mut self, report: &DraftReport, earned_ms: f64) {
        self.drafts += report.drafts as u64;
        for (sum, one) in self.sources.iter_mut().zip(&report.sources) {
            sum.proposed += one.proposed as u64;
            sum.accepted += one.accepted as u64;
            sum.seconds += one.ms / 1e3;
        }
        for (kept, &steps) in report.histogram.iter().enumerate() {
            for position in 0..kept {
                self.accepted_at[position.min(DRAFT_POSITIONS - 1)] += steps as u64;
            }
        }
        self.relaxed += report.relaxed as u64;
        self.credit_earned_ms += earned_ms;
        self.credit_spent_ms += report.credit_spent_ms;
    }
}

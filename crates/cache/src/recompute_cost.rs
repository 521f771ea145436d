//! The cost of recomputing a prefix: what eviction and restore decisions are based on.

/// Seconds of prefill as a line in the position: every token costs the same matmuls, and attention costs more
/// with the tokens before it. The engine measures both coefficients on this machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RecomputeCost {
    /// Seconds for a token at position 0.
    pub token_s: f64,
    /// Further seconds for a token, for each token before it.
    pub context_token_s: f64,
}

impl RecomputeCost {
    /// Seconds to compute `tokens` tokens that follow `before` tokens. Finite and not negative.
    pub fn seconds(&self, before: usize, tokens: usize) -> f64 {
        let (before, tokens) = (before as f64, tokens as f64);
        // Token i of the run has `before + i` tokens before it; sum over i of an arithmetic series.
        let context = tokens * before + tokens * (tokens - 1.0).max(0.0) / 2.0;
        let seconds = tokens * self.token_s + context * self.context_token_s;
        if seconds.is_finite() { seconds.max(0.0) } else { 0.0 }
    }
}

impl Default for RecomputeCost {
    /// 500 tokens/s, half of it after 8,000 tokens: assumed until measured.
    fn default() -> Self {
        Self { token_s: 2e-3, context_token_s: 2.5e-7 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_run_cost_what_the_run_costs() {
        let cost = RecomputeCost { token_s: 1.0, context_token_s: 0.5 };
        let whole = cost.seconds(10, 30);
        let parts = cost.seconds(10, 12) + cost.seconds(22, 18);
        assert!((whole - parts).abs() < 1e-9, "{whole} {parts}");
    }

    #[test]
    fn deeper_tokens_cost_more() {
        let cost = RecomputeCost::default();
        assert!(cost.seconds(6400, 64) > cost.seconds(0, 64));
    }

    #[test]
    fn a_useless_measurement_is_worth_nothing() {
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(RecomputeCost { token_s: bad, context_token_s: 0.0 }.seconds(0, 64), 0.0);
        }
    }
}

//! Follows a text that the answer may repeat with changes: a client's `prediction`, or the answer to a similar prompt.
//!
//! While the answer agrees with the text, the next token is known. Where it diverges, there are three cases:
//! tokens were replaced, inserted, or deleted. Until the answer is found in the text again, the follower proposes how
//! it would continue in the first two cases, and it is found again where its last tokens occur, the nearer the better.

use super::draft_tree::ROOT;
use super::drafter::Proposals;
use crate::api::Request;

/// Tokens of the answer that are looked for in the text, at most.
const TAIL: usize = 8;
/// Distance from the divergence within which a single matching token is enough.
const NEAR: usize = 24;
/// Matching tokens needed farther away, and the search distance: the text may be as long as a request.
const SURE: usize = 3;
const FAR: usize = 4096;
/// Buckets: followed tokens, then tokens since the divergence.
const LOST_BUCKETS: u8 = 8;
const INSERTED: u8 = 12;

/// See the [module](self).
pub(crate) struct TextFollower {
    text: Vec<u32>,
    /// The next expected token; while lost, the place of the divergence.
    at: usize,
    /// Tokens of the answer since it diverged; 0 while it follows.
    lost: usize,
    /// Tokens in a row that agreed.
    agreed: usize,
    tail: Vec<u32>,
    /// Tokens of the text that the answer repeated.
    repeated: usize,
}

impl TextFollower {
    pub(crate) fn new(text: Vec<u32>) -> TextFollower {
        TextFollower { text, at: 0, lost: 0, agreed: 0, tail: Vec::new(), repeated: 0 }
    }

    /// A follower of a request's prediction, if it has one.
    pub(crate) fn of_prediction(request: &mut Request) -> Option<TextFollower> {
        let text = std::mem::take(&mut request.prediction);
        (!text.is_empty()).then(|| TextFollower::new(text))
    }

    /// Tokens of the text that the answer had, and those that it did not have.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let repeated = self.repeated.min(self.text.len());
        (repeated, self.text.len() - repeated)
    }

    /// Takes the answer's next token.
    pub(crate) fn observe(&mut self, token: u32) {
        if self.tail.len() == TAIL {
            self.tail.remove(0);
        }
        self.tail.push(token);
        if self.lost == 0 && self.text.get(self.at) == Some(&token) {
            self.at += 1;
            self.agreed += 1;
            self.repeated += 1;
            return;
        }
        self.lost += 1;
        self.agreed = 0;
        if let Some((at, agreed)) = self.find() {
            // Matching tokens before the divergence were counted then.
            self.repeated += agreed.min(self.lost);
            (self.at, self.agreed, self.lost) = (at, agreed, 0);
        }
    }

    /// Where the answer's last tokens occur in the text: the position after them, and how many agree.
    fn find(&self) -> Option<(usize, usize)> {
        let last = *self.tail.last()?;
        let expected = self.at + self.lost;
        let mut best: Option<(usize, usize)> = None;
        let near = self.at.saturating_sub(FAR)..self.text.len().min(expected.saturating_add(FAR));
        for position in near.filter(|&position| self.text[position] == last) {
            let after = position + 1;
            let agreed = self.text[..after]
                .iter()
                .rev()
                .zip(self.tail.iter().rev())
                .take_while(|(a, b)| a == b)
                .count();
            // Matches from before the divergence prove nothing about where it is now.
            let agreed = agreed.min(self.lost);
            let distance = |after: usize| after.abs_diff(expected).min(after.abs_diff(self.at));
            if agreed < SURE && distance(after) > NEAR {
                continue;
            }
            let better = |(have, count): (usize, usize)| {
                (agreed, std::cmp::Reverse(distance(after))) > (count, std::cmp::Reverse(distance(have)))
            };
            if best.is_none_or(better) {
                best = Some((after, agreed));
            }
        }
        best
    }

    /// Proposes continuations of the answer.
    pub(crate) fn propose(&self, out: &mut Proposals<'_>, base_bucket: u8) {
        if self.lost == 0 {
            let class = (usize::BITS - self.agreed.leading_zeros()).min(u32::from(LOST_BUCKETS) - 1) as u8;
            let prior = [0.4, 0.6, 0.8, 0.9, 0.93, 0.96, 0.98, 0.99][usize::from(class)];
            self.chain(out, self.at, base_bucket + class, prior);
            return;
        }
        let class = self.lost.min(3) as u8;
        let prior = 0.4 / self.lost as f32;
        self.chain(out, self.at + self.lost, base_bucket + LOST_BUCKETS + class, prior);
        self.chain(out, self.at, base_bucket + INSERTED + class, prior / 2.0);
    }

    fn chain(&self, out: &mut Proposals<'_>, from: usize, bucket: u8, prior: f32) {
        let mut parent = ROOT;
        for &token in self.text.get(from..).unwrap_or_default() {
            // After a correct first draft token the place in the text is nearly certain.
            let prior = if parent == ROOT { prior } else { prior.max(0.8) };
            match out.add(parent, token, bucket, prior) {
                Some(node) => parent = node,
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens of `answer` that the follower of `text` expected right before they came.
    fn predicted(text: &[u32], answer: &[u32]) -> usize {
        let mut follower = TextFollower::new(text.to_vec());
        let mut right = 0;
        for &token in answer {
            right += usize::from(follower.lost == 0 && follower.text.get(follower.at) == Some(&token));
            follower.observe(token);
        }
        right
    }

    fn text() -> Vec<u32> {
        (0..200).map(|i| i * i % 97 + 100 * (i % 7)).collect()
    }

    #[test]
    fn a_repeated_text_is_predicted_whole() {
        assert_eq!(predicted(&text(), &text()), 200);
    }

    #[test]
    fn replacing_inserting_and_deleting_cost_a_few_tokens_each() {
        for (name, cut, put) in [("replaced", 3, 3), ("inserted", 0, 5), ("deleted", 4, 0), ("grown", 2, 6)] {
            let mut answer = text();
            for place in [150, 90, 40] {
                answer.splice(place..place + cut, (0..put).map(|i| 5000 + i));
            }
            let missed = answer.len() - predicted(&text(), &answer);
            assert!(
                missed <= 3 * (put as usize + 2),
                "{name}: {missed} of {} were not predicted",
                answer.len()
            );
        }
    }

    #[test]
    fn what_was_repeated_is_counted_and_the_rest_is_not() {
        let mut follower = TextFollower::new(text());
        text()[..50].iter().for_each(|&token| follower.observe(token));
        (0..10).for_each(|i| follower.observe(9000 + i));
        assert_eq!(follower.counts(), (50, 150));
        text()[60..].iter().for_each(|&token| follower.observe(token));
        let (repeated, rest) = follower.counts();
        assert_eq!(repeated + rest, 200);
        assert!((185..=190).contains(&repeated), "{repeated}");
    }
}

//! Stop texts in a stream: what may be sent, what must wait, and where the answer ends.
//!
//! Text is released as soon as it can no longer be the beginning of a stop text. The invariant: the
//! concatenation of everything released is a prefix of the answer and never contains a stop text.

/// Watches the text of one answer.
#[derive(Debug, Default)]
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    /// Text that might be the beginning of a stop text.
    held: String,
}

/// What a piece of text did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// This much may be sent.
    Release(String),
    /// A stop text is complete; this much came before it.
    Stop(String),
}

impl StopMatcher {
    /// Watches for `stops`; empty ones are ignored.
    pub(crate) fn new(stops: Vec<String>) -> StopMatcher {
        StopMatcher {
            stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(),
            held: String::new(),
        }
    }

    /// Takes the next piece of the answer.
    pub(crate) fn push(&mut self, text: &str) -> Scan {
        if self.stops.is_empty() {
            return Scan::Release(text.to_string());
        }
        self.held.push_str(text);
        if let Some(at) = first_complete(&self.stops, &self.held) {
            self.held.truncate(at);
            return Scan::Stop(std::mem::take(&mut self.held));
        }
        let waiting = self.longest_beginning();
        let tail = self.held.split_off(self.held.len() - waiting);
        Scan::Release(std::mem::replace(&mut self.held, tail))
    }

    /// What was held back when the answer ended otherwise.
    pub(crate) fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of `held` that begin a stop text.
    fn longest_beginning(&self) -> usize {
        let longest = |stop: &String| {
            let most = stop.len().saturating_sub(1).min(self.held.len());
            (1..=most)
                .rev()
                .find(|&n| stop.is_char_boundary(n) && self.held.ends_with(&stop[..n]))
                .unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

/// Where the stop text begins that is complete first as `text` is read; of two that end together, the longer.
fn first_complete(stops: &[String], text: &str) -> Option<usize> {
    let ends =
        stops.iter().filter_map(|stop| text.find(stop.as_str()).map(|start| (start + stop.len(), start)));
    ends.min().map(|(_, start)| start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stop_text_split_over_pieces_is_found() {
        let mut matcher = StopMatcher::new(vec!["###".into()]);
        assert_eq!(matcher.push("ab#"), Scan::Release("ab".into()));
        assert_eq!(matcher.push("#"), Scan::Release(String::new()));
        assert_eq!(matcher.push("#cd"), Scan::Stop(String::new()));
    }

    #[test]
    fn what_only_looked_like_a_stop_text_is_released() {
        let mut matcher = StopMatcher::new(vec!["END".into()]);
        assert_eq!(matcher.push("xEN"), Scan::Release("x".into()));
        assert_eq!(matcher.push("!"), Scan::Release("EN!".into()));
        assert_eq!(matcher.push("E"), Scan::Release(String::new()));
        assert_eq!(matcher.flush(), "E");
    }

    #[test]
    fn of_several_the_one_complete_first_ends_the_answer() {
        let mut matcher = StopMatcher::new(vec!["abc".into(), "b".into()]);
        assert_eq!(matcher.push("xabc"), Scan::Stop("xa".into()));
        let mut matcher = StopMatcher::new(vec!["b".into(), "a".into()]);
        assert_eq!(matcher.push("xyab"), Scan::Stop("xy".into()));
    }

    proptest! {
        #[test]
        fn any_split_gives_what_one_piece_gives(
            text in "[abñ]{0,40}",
            stops in prop::collection::vec("[abñ]{1,4}", 0..3),
            cut in prop::collection::vec(0usize..40, 0..6),
        ) {
            let end = first_complete(&stops, &text);
            let expected = &text[..end.unwrap_or(text.len())];
            let mut matcher = StopMatcher::new(stops);
            let mut got = String::new();
            let chars: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> = cut.into_iter().filter(|&c| c <= chars.len()).collect();
            cuts.extend([0, chars.len()]);
            cuts.sort_unstable();
            let mut stopped = false;
            for pair in cuts.windows(2) {
                let piece: String = chars[pair[0]..pair[1]].iter().collect();
                match matcher.push(&piece) {
                    Scan::Release(text) => got.push_str(&text),
                    Scan::Stop(text) => {
                        got.push_str(&text);
                        stopped = true;
                        break;
                    }
                }
            }
            if !stopped {
                got.push_str(&matcher.flush());
            }
            prop_assert_eq!(got, expected);
        }
    }
}

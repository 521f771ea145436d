//! Stop texts in a stream: what may be sent, what must wait, and where the answer ends.
//!
//! Text is released as soon as it can no longer be the beginning of a stop text. The invariant: the
//! concatenation of everything released is a prefix of the answer and never contains a stop text.

use crate::markers;

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
    /// A stop text is complete: what came before it, and which one it is.
    Stop(String, String),
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
        if let Some((which, at)) = markers::find(&self.stops, &self.held) {
            self.held.truncate(at.start);
            return Scan::Stop(std::mem::take(&mut self.held), self.stops[which].clone());
        }
        let tail = self.held.split_off(markers::certain_len(&self.stops, &self.held));
        Scan::Release(std::mem::replace(&mut self.held, tail))
    }

    /// What was held back when the answer ended otherwise.
    pub(crate) fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
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
        assert_eq!(matcher.push("#cd"), Scan::Stop(String::new(), "###".into()));
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
        assert_eq!(matcher.push("xabc"), Scan::Stop("xa".into(), "b".into()));
        let mut matcher = StopMatcher::new(vec!["b".into(), "a".into()]);
        assert_eq!(matcher.push("xyab"), Scan::Stop("xy".into(), "a".into()));
    }

    proptest! {
        #[test]
        fn any_split_gives_what_one_piece_gives(
            text in "[abñ]{0,40}",
            stops in prop::collection::vec("[abñ]{1,4}", 0..3),
            cut in prop::collection::vec(0usize..40, 0..6),
        ) {
            let stop = markers::find(&stops, &text);
            let expected = &text[..stop.as_ref().map_or(text.len(), |(_, at)| at.start)];
            let first = stop.map(|(which, _)| stops[which].clone());
            let mut matcher = StopMatcher::new(stops);
            let mut got = String::new();
            let chars: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> = cut.into_iter().filter(|&c| c <= chars.len()).collect();
            cuts.extend([0, chars.len()]);
            cuts.sort_unstable();
            let mut stopped = None;
            for pair in cuts.windows(2) {
                let piece: String = chars[pair[0]..pair[1]].iter().collect();
                match matcher.push(&piece) {
                    Scan::Release(text) => got.push_str(&text),
                    Scan::Stop(text, stop) => {
                        got.push_str(&text);
                        stopped = Some(stop);
                        break;
                    }
                }
            }
            if stopped.is_none() {
                got.push_str(&matcher.flush());
            }
            prop_assert_eq!((got.as_str(), stopped), (expected, first));
        }
    }
}

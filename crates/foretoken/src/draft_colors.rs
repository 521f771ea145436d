//! Colours tokens by who drafted them, for `--show-draft`.

use foretoken_engine::{DraftReport, Source};

const NORMAL: &str = "\x1b[0m";

fn colour(source: Source) -> &'static str {
    match source {
        Source::Prediction => "\x1b[35m",
        Source::OwnText => "\x1b[36m",
        Source::Memory => "\x1b[32m",
        Source::Successors => "\x1b[33m",
        Source::DraftModel => "\x1b[34m",
    }
}

/// `text` in the colour of its source; as it is if nobody drafted it.
pub(crate) fn paint(text: &str, source: Option<Source>) -> String {
    match source {
        Some(source) if !text.is_empty() => format!("{}{text}{NORMAL}", colour(source)),
        _ => text.to_owned(),
    }
}

/// What the colours mean, and how much of the answer has each.
pub(crate) fn legend(tokens: usize, report: &DraftReport) -> String {
    let mut line = format!("{} of {tokens} tokens were drafted", report.accepted);
    for (source, of) in Source::ALL.into_iter().zip(&report.sources).filter(|(_, of)| of.proposed > 0) {
        let name = paint(source.name(), Some(source));
        line += &format!("; {name} {} of {} kept", of.accepted, of.proposed);
    }
    line + &format!("; {} steps", report.steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafted_text_is_coloured_and_the_rest_is_not() {
        assert_eq!(paint("a", None), "a");
        assert_eq!(paint("a", Some(Source::Memory)), "\x1b[32ma\x1b[0m");
        assert_eq!(paint("", Some(Source::Memory)), "");
    }
}

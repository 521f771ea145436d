//! Colours tokens by their drafter, for `--show-draft`.

use foretoken_engine::{DraftReport, Source};

const NORMAL: &str = "\x1b[0m";

fn colour(source: Source) -> &'static str {
    match source {
        Source::Prediction => "\x1b[35m",
        Source::OwnText => "\x1b[36m",
        Source::Memory => "\x1b[32m",
        Source::Successors => "\x1b[33m",
        Source::DraftModel => "\x1b[34m",
        Source::Mtp => "\x1b[94m",
        Source::Grammar => "\x1b[95m",
    }
}

/// `text` in the colour of its drafter; unchanged if it was not drafted.
pub(crate) fn paint(text: &str, source: Option<Source>) -> String {
    match source {
        Some(source) if !text.is_empty() => format!("{}{text}{NORMAL}", colour(source)),
        _ => text.to_owned(),
    }
}

/// Legend: each drafter's colour with its accepted and proposed token counts.
pub(crate) fn legend(tokens: usize, report: &DraftReport) -> String {
    let mut line = format!("{} of {tokens} tokens were drafted", report.accepted);
    for (source, of) in Source::ALL.into_iter().zip(&report.sources).filter(|(_, of)| of.proposed > 0) {
        let name = paint(source.name(), Some(source));
        line += &format!("; {name} {} of {} kept", of.accepted, of.proposed);
    }
    line + &format!("; {} steps", report.steps)
}

/// The legend of an answer that was stopped: what was shown until then.
pub(crate) fn partial_legend(tokens_by_drafter: &[usize; Source::ALL.len()], tokens: usize) -> String {
    let drafted: usize = tokens_by_drafter.iter().sum();
    let mut line = format!("{drafted} of {tokens} tokens were drafted");
    for (source, count) in Source::ALL.into_iter().zip(tokens_by_drafter).filter(|(_, count)| **count > 0) {
        line += &format!("; {} {count}", paint(source.name(), Some(source)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_drafted_text_is_coloured() {
        assert_eq!(paint("a", None), "a");
        assert_eq!(paint("a", Some(Source::Memory)), "\x1b[32ma\x1b[0m");
        assert_eq!(paint("", Some(Source::Memory)), "");
    }

    #[test]
    fn a_partial_legend_names_the_colours_that_were_shown() {
        let mut counts = [0; Source::ALL.len()];
        let at = Source::ALL.iter().position(|&source| source == Source::Memory).unwrap();
        counts[at] = 3;
        assert_eq!(partial_legend(&counts, 9), "3 of 9 tokens were drafted; \x1b[32mmemory\x1b[0m 3");
    }
}

//! The two text formats of `/metrics`, and which one a scraper asks for.
//!
//! prometheus-client writes OpenMetrics 1.0. Prometheus' older text format 0.0.4 differs in the metadata of counters,
//! which it names as their samples, and has neither units nor an end mark. It is the default, since every scraper
//! reads it; OpenMetrics is sent to those that prefer it in `Accept`.

use axum::http::{HeaderMap, header};

/// A format of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricsFormat {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl MetricsFormat {
    /// The format that the `Accept` headers prefer; OpenMetrics needs to be named.
    pub(crate) fn accepted(headers: &HeaderMap) -> MetricsFormat {
        let (mut text, mut open) = (0.0_f32, 0.0_f32);
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        for range in values.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts.find_map(|part| part.strip_prefix("q=")?.trim().parse().ok()).unwrap_or(1.0);
            match kind.as_str() {
                "application/openmetrics-text" => open = open.max(quality),
                "text/plain" | "text/*" | "*/*" => text = text.max(quality),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { MetricsFormat::OpenMetrics } else { MetricsFormat::Text }
    }

    /// The content type.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            MetricsFormat::Text => "text/plain; version=0.0.4; charset=utf-8",
            MetricsFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Converts a page from OpenMetrics.
    pub(crate) fn convert(self, page: String) -> String {
        match self {
            MetricsFormat::Text => to_text(&page),
            MetricsFormat::OpenMetrics => page,
        }
    }
}

fn to_text(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(metadata) = line.strip_prefix("# ") else {
            push(&mut text, line);
            continue;
        };
        let mut words = metadata.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("HELP"), Some(name), Some(help)) => {
                let counter = lines.peek().is_some_and(|next| *next == format!("# TYPE {name} counter"));
                push(&mut text, &format!("# HELP {name}{} {help}", if counter { "_total" } else { "" }));
            }
            (Some("TYPE"), Some(name), Some("counter")) => {
                push(&mut text, &format!("# TYPE {name}_total counter"));
            }
            (Some("TYPE"), Some(name), Some("unknown")) => push(&mut text, &format!("# TYPE {name} untyped")),
            (Some("UNIT" | "EOF"), ..) => {}
            _ => push(&mut text, line),
        }
    }
    text
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(accept: &str) -> MetricsFormat {
        MetricsFormat::accepted(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]))
    }

    #[test]
    fn openmetrics_is_sent_only_to_those_that_prefer_it() {
        assert_eq!(MetricsFormat::accepted(&HeaderMap::new()), MetricsFormat::Text);
        for text in [
            "*/*",
            "text/plain;version=0.0.4",
            "text/html",
            "application/openmetrics-text;q=0.2, text/plain;q=0.5",
            "application/openmetrics-text;q=0",
        ] {
            assert_eq!(accepted(text), MetricsFormat::Text, "{text}");
        }
        for open in [
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0, text/plain",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
        ] {
            assert_eq!(accepted(open), MetricsFormat::OpenMetrics, "{open}");
        }
    }

    #[test]
    fn counters_are_named_as_their_samples_and_the_rest_stays() {
        let open = "# HELP a Steps.\n# TYPE a counter\na_total{x=\"y\"} 1\n# HELP b_seconds Time.\n\
                    # TYPE b_seconds gauge\n# UNIT b_seconds seconds\nb_seconds 2.5\n# EOF\n";
        let text = "# HELP a_total Steps.\n# TYPE a_total counter\na_total{x=\"y\"} 1\n\
                    # HELP b_seconds Time.\n# TYPE b_seconds gauge\nb_seconds 2.5\n";
        assert_eq!(MetricsFormat::Text.convert(open.into()), text);
        assert_eq!(MetricsFormat::OpenMetrics.convert(open.into()), open);
    }
}

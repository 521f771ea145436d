//! Times as RFC 3339 in UTC, which Ollama's clients parse.

use foretoken_model::chat::civil;

/// `seconds` since 1970 as `2026-11-28T07:35:26Z`.
pub(super) fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Period;

    #[test]
    fn days_of_leap_years_and_of_the_next_century() {
        // From `date -u -d @SECONDS`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_796_000_000, "2026-11-30T00:53:20Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn every_time_is_read_back() {
        for seconds in (0..5_000_000_000u64).step_by(86_399 * 7) {
            let read = Period::parse(Some(&rfc3339(seconds)), None).unwrap().from_ms;
            assert_eq!(read, seconds * 1000);
        }
    }
}

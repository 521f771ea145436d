//! Parses time ranges: dates, RFC 3339, seconds since 1970. All in UTC.
//!
//! Text only, no clocks. A date as the end includes that day, so that
//! `from=2026-11-01&to=2026-11-30` is November.

const DAY_MS: u64 = 86_400_000;
const WANTED: &str = "a date such as 2026-11-24, a time such as 2026-11-24T09:30:00Z, or seconds since 1970";

/// A half-open range in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Start, inclusive.
    pub from_ms: u64,
    /// End, exclusive.
    pub to_ms: u64,
}

/// Which end of a period is invalid, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeriodError {
    /// `from` or `to`.
    pub param: &'static str,
    /// What is wrong, to be appended to the name.
    pub message: String,
}

impl Period {
    /// Parses both ends; an absent end leaves that side open.
    ///
    /// # Errors
    /// The end that is not a point in time, or `to` if it is before `from`.
    pub fn parse(from: Option<&str>, to: Option<&str>) -> Result<Period, PeriodError> {
        let wrong = |param| PeriodError { param, message: format!("must be {WANTED}") };
        let from_ms = match from {
            Some(text) => point(text).ok_or_else(|| wrong("from"))?.0,
            None => 0,
        };
        let to_ms = match to {
            Some(text) => {
                let (ms, is_day) = point(text).ok_or_else(|| wrong("to"))?;
                if is_day { ms.saturating_add(DAY_MS) } else { ms }
            }
            None => u64::MAX,
        };
        if to_ms < from_ms {
            return Err(PeriodError { param: "to", message: "must not come before 'from'".to_owned() });
        }
        Ok(Period { from_ms, to_ms })
    }
}

/// Milliseconds since 1970, and whether the text is a whole day.
fn point(text: &str) -> Option<(u64, bool)> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some((text.parse::<u64>().ok()?.checked_mul(1000)?, false));
    }
    let (date, time) = match text.get(10..) {
        Some("") => (text, None),
        Some(rest) => (text.get(..10)?, Some(rest.strip_prefix(['T', 't', ' '])?)),
        None => return None,
    };
    let day_ms = i64::try_from(DAY_MS).ok()?.checked_mul(day(date)?)?;
    let ms = match time {
        Some(time) => day_ms + time_of_day(time)?,
        None => day_ms,
    };
    Some((u64::try_from(ms).ok()?, time.is_none()))
}

/// Days since 1970 of `YYYY-MM-DD`.
fn day(date: &str) -> Option<i64> {
    let bytes = date.as_bytes();
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let (year, month, day) = (number(&date[..4])?, number(&date[5..7])?, number(&date[8..])?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    // Years begin in March, so that the leap day is a year's last (Howard Hinnant's days_from_civil).
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days_of_years = 365 * year + year / 4 - year / 100 + year / 400;
    Some(days_of_years + (153 * month + 2) / 5 + day - 1 - 719_468)
}

/// Milliseconds after midnight in UTC of `HH:MM[:SS[.fraction]]` and `Z` or an offset.
fn time_of_day(time: &str) -> Option<i64> {
    let (clock, offset_min) = match time.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => {
            // An unescaped plus in a query string is decoded as a space.
            let at = time.rfind(['+', '-', ' '])?;
            let (hour, minute) = time[at + 1..].split_once(':')?;
            let (hour, minute) = (two(hour, 24)?, two(minute, 60)?);
            let sign = if time.as_bytes()[at] == b'-' { -1 } else { 1 };
            (&time[..at], sign * (hour * 60 + minute))
        }
    };
    let mut parts = clock.splitn(3, ':');
    let (hour, minute) = (two(parts.next()?, 24)?, two(parts.next()?, 60)?);
    let (second, fraction) = match parts.next() {
        Some(text) => text.split_once('.').unwrap_or((text, "0")),
        None => ("00", "0"),
    };
    let fraction = number(fraction.get(..3).unwrap_or(fraction)).map(|_| format!("{fraction:0<3}"))?;
    let ms = number(fraction.get(..3)?)?;
    let minutes = hour * 60 + minute - offset_min;
    // A leap second is the second after.
    Some((minutes * 60 + two(second, 61)?) * 1000 + ms)
}

/// Two digits below `limit`.
fn two(text: &str, limit: i64) -> Option<i64> {
    number(text).filter(|number| text.len() == 2 && *number < limit)
}

fn number(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds from 1970 to 2026-11-24.
    const DAY_S: u64 = 1_795_478_400;

    #[test]
    fn points_in_time_are_parsed_in_every_form() {
        for (text, seconds) in [
            ("1795478400", DAY_S),
            ("2026-11-24", DAY_S),
            ("2026-11-24T09:30:00Z", DAY_S + 34_200),
            ("2026-11-24t09:30z", DAY_S + 34_200),
            ("2026-11-24 09:30:01Z", DAY_S + 34_201),
            ("2026-11-24T11:30:00+02:00", DAY_S + 34_200),
            ("2026-11-24T11:30:00 02:00", DAY_S + 34_200),
            ("2026-11-23T22:00:00-02:30", DAY_S + 1800),
            ("2026-11-24T23:59:60Z", DAY_S + 86_400),
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400),
            ("2100-03-01", 4_107_542_400),
        ] {
            assert_eq!(point(text).map(|(ms, _)| ms), Some(seconds * 1000), "{text}");
        }
        assert_eq!(point("2026-11-24T00:00:00.1239Z"), Some((DAY_S * 1000 + 123, false)));
        assert_eq!(point("2026-11-24T00:00:00.5Z"), Some((DAY_S * 1000 + 500, false)));
    }

    #[test]
    fn invalid_points_in_time_are_rejected() {
        for text in [
            "",
            "yesterday",
            "2026-11",
            "2026-13-01",
            "2026-02-29",
            "2100-02-29",
            "2026-04-31",
            "2026-11-00",
            "2026-11-24T",
            "2026-11-24T09:30:00",
            "2026-11-24T24:00:00Z",
            "2026-11-24T09:60:00Z",
            "2026-11-24T09:30:00.Z",
            "2026-11-24T9:30:00Z",
            "2026-11-24X09:30:00Z",
            "-5",
            "1969-12-31",
            "1e9",
            "99999999999999999999",
            "2026-11-24T09:30:00+25:00",
            "2026‑11‑24",
            "20261124",
        ] {
            let read = point(text);
            // Eight digits are seconds, not a date.
            assert!(read.is_none() || text == "20261124", "{text} is {read:?}");
        }
    }

    #[test]
    fn a_date_as_the_end_is_included_and_a_moment_is_not() {
        let november = Period::parse(Some("2026-11-24"), Some("2026-11-24")).unwrap();
        assert_eq!(november, Period { from_ms: DAY_S * 1000, to_ms: (DAY_S + 86_400) * 1000 });
        let none = Period::parse(Some("1795478400"), Some("1795478400")).unwrap();
        assert_eq!(none.from_ms, none.to_ms);
        assert_eq!(Period::parse(None, None), Ok(Period { from_ms: 0, to_ms: u64::MAX }));
    }

    #[test]
    fn the_invalid_end_is_named() {
        let param = |from, to| Period::parse(from, to).unwrap_err().param;
        assert_eq!(param(Some("x"), Some("y")), "from");
        assert_eq!(param(None, Some("y")), "to");
        assert_eq!(param(Some("2026-11-24"), Some("2026-11-22")), "to");
    }
}

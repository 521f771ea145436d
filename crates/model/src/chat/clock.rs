//! `strftime_now`: Python's `datetime.now().strftime(format)`, in UTC and English, as glibc formats it.

use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Formats `now`. Unknown directives are copied, as glibc does.
pub(super) fn strftime(now: SystemTime, format: &str) -> String {
    let time = Time::new(now);
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let directive = &rest[at..];
        let flags =
            directive[1..].find(|c| !matches!(c, '-' | '_' | '0' | '^' | '#')).unwrap_or(directive.len() - 1);
        let flags = &directive[1..=flags];
        let letter = directive[1 + flags.len()..].chars().next();
        let end = 1 + flags.len() + letter.map_or(0, char::len_utf8);
        match letter.and_then(|letter| time.directive(letter, flags)) {
            Some(text) if flags.contains('^') => out.push_str(&text.to_uppercase()),
            Some(text) => out.push_str(&text),
            None => out.push_str(&directive[..end]),
        }
        rest = &directive[end..];
    }
    out.push_str(rest);
    out
}

/// A point in time, by its parts.
struct Time {
    epoch: u64,
    micros: u32,
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    /// Days since Sunday.
    weekday: u64,
    /// Days since January 1st.
    year_day: u64,
}

impl Time {
    fn new(now: SystemTime) -> Self {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = since.as_secs();
        let (days, second_of_day) = (epoch / 86_400, epoch % 86_400);
        let (year, month, day) = civil(days);
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month as usize - 1];
        Time {
            epoch,
            micros: since.subsec_micros(),
            year,
            month,
            day,
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
            weekday: (days + 4) % 7,
            year_day: before + day - 1 + u64::from(leap && month > 2),
        }
    }

    fn directive(&self, letter: char, flags: &str) -> Option<String> {
        let number = |number: u64, width: usize, pad: char| {
            let pad = flags.chars().rev().find(|flag| matches!(flag, '-' | '_' | '0')).unwrap_or(pad);
            match pad {
                '-' => number.to_string(),
                '_' | ' ' => format!("{number:width$}"),
                _ => format!("{number:0width$}"),
            }
        };
        let two = |value: u64| number(value, 2, '0');
        let month = MONTHS[self.month as usize - 1];
        let day = DAYS[self.weekday as usize];
        let hour_12 = (self.hour + 11) % 12 + 1;
        let (week_year, week) = self.iso_week();
        let swap = |text: &str| if flags.contains('#') { text.to_uppercase() } else { text.to_owned() };
        Some(match letter {
            'Y' => number(self.year, 4, '-'),
            'C' => two(self.year / 100),
            'y' => two(self.year % 100),
            'G' => number(week_year, 4, '-'),
            'g' => two(week_year % 100),
            'm' => two(self.month),
            'd' => two(self.day),
            'e' => number(self.day, 2, ' '),
            'j' => number(self.year_day + 1, 3, '0'),
            'B' => swap(month),
            'b' | 'h' => swap(&month[..3]),
            'A' => swap(day),
            'a' => swap(&day[..3]),
            'u' => ((self.weekday + 6) % 7 + 1).to_string(),
            'w' => self.weekday.to_string(),
            'U' => two((self.year_day + 7 - self.weekday) / 7),
            'W' => two((self.year_day + 7 - (self.weekday + 6) % 7) / 7),
            'V' => two(week),
            'H' => two(self.hour),
            'I' => two(hour_12),
            'k' => number(self.hour, 2, ' '),
            'l' => number(hour_12, 2, ' '),
            'M' => two(self.minute),
            'S' => two(self.second),
            'f' => format!("{:06}", self.micros),
            's' => self.epoch.to_string(),
            'p' => match (self.hour < 12, flags.contains('#')) {
                (true, false) => "AM".into(),
                (false, false) => "PM".into(),
                (true, true) => "am".into(),
                (false, true) => "pm".into(),
            },
            'P' => if self.hour < 12 { "am" } else { "pm" }.into(),
            'c' => strftime_of(self, "%a %b %e %H:%M:%S %Y"),
            'D' | 'x' => strftime_of(self, "%m/%d/%y"),
            'F' => strftime_of(self, "%Y-%m-%d"),
            'R' => strftime_of(self, "%H:%M"),
            'r' => strftime_of(self, "%I:%M:%S %p"),
            'T' | 'X' => strftime_of(self, "%H:%M:%S"),
            // A time without a zone, as `datetime.now()` is.
            'z' | 'Z' => String::new(),
            'n' => "\n".into(),
            't' => "\t".into(),
            '%' => "%".into(),
            _ => return None,
        })
    }

    /// Year and number of the ISO 8601 week.
    fn iso_week(&self) -> (u64, u64) {
        let monday_first = (self.weekday + 6) % 7;
        let week = (self.year_day + 10 - (monday_first + 1)) / 7;
        let weeks_of = |year: u64| {
            let dec_31 = |year: u64| (year + year / 4 - year / 100 + year / 400) % 7;
            52 + u64::from(dec_31(year) == 4 || dec_31(year - 1) == 3)
        };
        match week {
            0 => (self.year - 1, weeks_of(self.year - 1)),
            week if week > weeks_of(self.year) => (self.year + 1, 1),
            week => (self.year, week),
        }
    }
}

/// A composed directive.
fn strftime_of(time: &Time, format: &str) -> String {
    let now = UNIX_EPOCH + std::time::Duration::from_secs(time.epoch);
    strftime(now, format)
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms").
pub fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_leap_day_is_formatted() {
        let now = UNIX_EPOCH + Duration::from_secs(1_709_210_096);
        assert_eq!(strftime(now, "%A %d %b %Y, %I:%M %p 100%%"), "Thursday 29 Feb 2024, 12:34 PM 100%");
    }

    #[test]
    fn a_minus_removes_the_padding() {
        let now = UNIX_EPOCH + Duration::from_secs(4 * 86_400);
        assert_eq!(strftime(now, "%-d/%-m"), "5/1");
    }

    #[test]
    fn the_first_days_of_a_year_can_belong_to_the_last_week_of_the_year_before() {
        // 2021-01-01, a Friday.
        let now = UNIX_EPOCH + Duration::from_secs(1_609_459_200);
        assert_eq!(strftime(now, "%G-W%V-%u %j %U %W"), "2020-W53-5 001 00 00");
    }
}

//! Amounts of US dollars: parsing, formatting, and the ledger's integer unit.
//!
//! An amount is a whole number of nano-dollars; text is parsed and formatted digit by digit. The invariant: no
//! amount is ever a float, and formatting round-trips.

use std::fmt;
use std::str::FromStr;

use foretoken_cache::store::NanoDollars;
use serde::{Deserialize, Serialize};

/// Digits after the point of a dollar.
const DIGITS: usize = 9;
const NANO: i64 = 1_000_000_000;
/// Upper bound against typos: 10^9 dollars.
const DOLLARS_MAX: i64 = 1_000_000_000;

/// A non-negative amount, parsed from text such as `0.14`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Usd(NanoDollars);

impl Usd {
    /// The amount in nano-dollars.
    pub(crate) const fn nano(self) -> NanoDollars {
        self.0
    }

    /// A constant amount; `nano` must not be negative.
    pub(crate) const fn of_nano(nano: NanoDollars) -> Self {
        Usd(nano)
    }
}

/// Why a text is not an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsdError {
    /// Not digits with at most one point.
    #[error("write an amount of US dollars in digits with a point, as in 0.14; no sign, no exponent")]
    Shape,
    /// More digits than the unit can represent.
    #[error("an amount has at most 9 digits after the point")]
    Digits,
    /// Above the upper bound.
    #[error("an amount is at most 1000000000 US dollars")]
    Large,
}

impl FromStr for Usd {
    type Err = UsdError;

    fn from_str(text: &str) -> Result<Self, UsdError> {
        let text = text.trim();
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(part) {
            return Err(UsdError::Shape);
        }
        let part = part.trim_end_matches('0');
        if part.len() > DIGITS {
            return Err(UsdError::Digits);
        }
        let whole: i64 = whole.parse().map_err(|_| UsdError::Large)?;
        let part: i64 = format!("{part:0<DIGITS$}").parse().map_err(|_| UsdError::Digits)?;
        if whole > DOLLARS_MAX || (whole == DOLLARS_MAX && part > 0) {
            return Err(UsdError::Large);
        }
        Ok(Usd(whole * NANO + part))
    }
}

impl TryFrom<String> for Usd {
    type Error = UsdError;

    fn try_from(text: String) -> Result<Self, UsdError> {
        text.parse()
    }
}

impl From<Usd> for String {
    fn from(amount: Usd) -> String {
        amount.to_string()
    }
}

impl fmt::Display for Usd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&usd(self.0))
    }
}

/// An amount in dollars, exact: two digits after the point, more where there are more.
pub fn usd(nano: NanoDollars) -> String {
    let (sign, size) = (if nano < 0 { "-" } else { "" }, nano.unsigned_abs());
    let (whole, part) = (size / NANO.unsigned_abs(), size % NANO.unsigned_abs());
    let part = format!("{part:0DIGITS$}");
    let (cents, rest) = part.split_at(2);
    format!("{sign}{whole}.{cents}{}", rest.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_parsed_digit_by_digit() {
        for (text, nano) in [
            ("0", 0),
            ("0.014", 14_000_000),
            ("1", NANO),
            (" 12.50 ", 12_500_000_000),
            ("0.000000001", 1),
            ("0.0000000010000", 1),
            ("007.5", 7_500_000_000),
            ("1000000000", 1_000_000_000 * NANO),
        ] {
            assert_eq!(text.parse(), Ok(Usd(nano)), "{text}");
        }
    }

    #[test]
    fn invalid_amounts_are_rejected_by_reason() {
        for text in ["", ".", ".5", "5.", "-1", "+1", "1e3", "0,14", "1.2.3", "nan", "٣", "$1"] {
            assert_eq!(text.parse::<Usd>(), Err(UsdError::Shape), "{text}");
        }
        assert_eq!("0.0000000001".parse::<Usd>(), Err(UsdError::Digits));
        for text in ["1000000000.01", "1000000001", "99999999999999999999999"] {
            assert_eq!(text.parse::<Usd>(), Err(UsdError::Large), "{text}");
        }
    }

    #[test]
    fn amounts_have_two_digits_or_as_many_as_they_need() {
        for (nano, text) in [
            (0, "0.00"),
            (5 * NANO, "5.00"),
            (1_500_000_000, "1.50"),
            (1, "0.000000001"),
            (154_000, "0.000154"),
            (-10_000_000, "-0.01"),
            (i64::MIN, "-9223372036.854775808"),
        ] {
            assert_eq!(usd(nano), text);
        }
    }

    proptest! {
        #[test]
        fn formatting_round_trips(nano in 0..=DOLLARS_MAX * NANO) {
            prop_assert_eq!(usd(nano).parse::<Usd>(), Ok(Usd(nano)));
        }
    }
}

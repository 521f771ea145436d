//! The price list: what a million tokens cost, by kind and by hour of the day.
//!
//! Not for accounts. A price of 0.014 dollars a million is 14 nano-dollars a token, so prices in thousandths
//! of a dollar are exact; finer ones are rounded once per request, to the nearest nano-dollar, half up. The
//! invariant: the prices of a request are those at the moment it arrived, whatever the clock does after.

use std::fmt;
use std::str::FromStr;

use foretoken_cache::store::NanoDollars;
use serde::{Deserialize, Serialize};

use super::money::Usd;

const MILLION: u128 = 1_000_000;
const DAY_MIN: u16 = 24 * 60;
/// Upper bound against typos: one dollar per token.
const RATE_MAX: Usd = Usd::of_nano(1_000_000 * 1_000_000_000);

/// US dollars per million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// Prompt tokens from a cache.
    pub hit: Usd,
    /// Prompt tokens that were computed.
    pub miss: Usd,
    /// Tokens of the answer.
    pub output: Usd,
}

impl Default for Rates {
    /// DeepSeek's list: 0.014, 0.14 and 0.28.
    fn default() -> Self {
        let thousandths = |count: i64| Usd::of_nano(count * 1_000_000);
        Rates { hit: thousandths(14), miss: thousandths(140), output: thousandths(280) }
    }
}

impl Rates {
    /// The price of tokens.
    pub(crate) fn price(&self, hit: u64, miss: u64, output: u64) -> NanoDollars {
        rounded(times(hit, self.hit) + times(miss, self.miss) + times(output, self.output))
    }

    /// What hits save compared to as many misses.
    pub(crate) fn saved(&self, hit: u64) -> NanoDollars {
        // Validated at start: a hit never costs more than a miss.
        rounded(times(hit, self.miss).saturating_sub(times(hit, self.hit)))
    }

    fn check(&self) -> Result<(), String> {
        if self.hit > self.miss {
            return Err(format!("a hit costs {} and a miss {}: a hit cannot cost more", self.hit, self.miss));
        }
        match [self.hit, self.miss, self.output].iter().find(|rate| **rate > RATE_MAX) {
            Some(rate) => Err(format!("{rate} US$ per million tokens is more than a dollar a token")),
            None => Ok(()),
        }
    }
}

/// In nano-dollars times a million.
fn times(tokens: u64, rate: Usd) -> u128 {
    u128::from(tokens) * u128::from(rate.nano().unsigned_abs())
}

fn rounded(amount: u128) -> NanoDollars {
    NanoDollars::try_from((amount + MILLION / 2) / MILLION).unwrap_or(NanoDollars::MAX)
}

/// Other prices for a part of the day, written `16:30-00:30=0.007,0.07,0.14` (UTC; hit, miss, output).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PriceHours {
    /// First minute of the day, in `0..1440`.
    from: u16,
    /// End minute, exclusive, in `1..=1440`; if not after `from`, it is on the next day.
    to: u16,
    rates: Rates,
}

impl PriceHours {
    fn covers(&self, minute: u16) -> bool {
        match self.from < self.to {
            true => (self.from..self.to).contains(&minute),
            false => minute >= self.from || minute < self.to,
        }
    }
}

/// Why a text is not a [`PriceHours`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write hours in UTC and three prices per million tokens, as in 16:30-00:30=0.007,0.07,0.14")]
pub struct PriceHoursError(String);

impl FromStr for PriceHours {
    type Err = PriceHoursError;

    fn from_str(text: &str) -> Result<Self, PriceHoursError> {
        let wrong = |what: &str| PriceHoursError(what.to_owned());
        let (hours, prices) = text.split_once('=').ok_or_else(|| wrong("'=' is missing"))?;
        let (from, to) = hours.split_once('-').ok_or_else(|| wrong("'-' between the hours is missing"))?;
        let minute = |text: &str| minute(text).ok_or_else(|| wrong(&format!("'{text}' is no time of day")));
        let (from, to) = (minute(from)? % DAY_MIN, minute(to)?);
        if from == to % DAY_MIN {
            return Err(wrong("the hours begin and end at the same time"));
        }
        let prices: Vec<&str> = prices.split(',').collect();
        let [hit, miss, output] = prices[..] else {
            return Err(PriceHoursError(format!("there are {} prices instead of three", prices.len())));
        };
        let price = |text: &str| text.parse().map_err(|error| PriceHoursError(format!("'{text}': {error}")));
        let rates = Rates { hit: price(hit)?, miss: price(miss)?, output: price(output)? };
        Ok(PriceHours { from, to, rates })
    }
}

/// `HH:MM` as minutes; `24:00` is the end of the day.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hour) || !digits(minute) {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    (minute < 60 && hour * 60 + minute <= DAY_MIN).then_some(hour * 60 + minute)
}

impl TryFrom<String> for PriceHours {
    type Error = PriceHoursError;

    fn try_from(text: String) -> Result<Self, PriceHoursError> {
        text.parse()
    }
}

impl From<PriceHours> for String {
    fn from(hours: PriceHours) -> String {
        hours.to_string()
    }
}

impl fmt::Display for PriceHours {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        let Rates { hit, miss, output } = self.rates;
        write!(out, "{}-{}={hit},{miss},{output}", time(self.from), time(self.to))
    }
}

/// The whole price list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// Base prices, at all times that none of `hours` covers.
    pub rates: Rates,
    /// Hours with other prices; no two overlap.
    pub hours: Vec<PriceHours>,
}

impl Prices {
    /// The prices at a moment, in seconds since 1970.
    pub(crate) fn at(&self, unix_s: u64) -> Rates {
        let minute = (unix_s / 60 % u64::from(DAY_MIN)) as u16;
        self.hours.iter().find(|hours| hours.covers(minute)).map_or(self.rates, |hours| hours.rates)
    }

    /// Validates the list.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.rates.check().map_err(|error| format!("prices: {error}"))?;
        for hours in &self.hours {
            hours.rates.check().map_err(|error| format!("prices for '{hours}': {error}"))?;
        }
        let twice = |minute: &u16| self.hours.iter().filter(|hours| hours.covers(*minute)).count() > 1;
        match (0..DAY_MIN).find(twice) {
            Some(minute) => Err(format!(
                "prices: two sets of hours cover {:02}:{:02}; let each end before the next begins",
                minute / 60,
                minute % 60
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(hours: &[&str]) -> Prices {
        Prices { hours: hours.iter().map(|text| text.parse().unwrap()).collect(), ..Prices::default() }
    }

    fn rates(hit: &str, miss: &str, output: &str) -> Rates {
        Rates { hit: hit.parse().unwrap(), miss: miss.parse().unwrap(), output: output.parse().unwrap() }
    }

    #[test]
    fn thousandths_of_a_dollar_per_million_are_exact_per_token() {
        let rates = Rates::default();
        assert_eq!((rates.price(1, 0, 0), rates.price(0, 1, 0), rates.price(0, 0, 1)), (14, 140, 280));
        assert_eq!(rates.price(1_000_000, 1_000_000, 1_000_000), 434_000_000);
        assert_eq!(rates.saved(3), 378);
    }

    #[test]
    fn finer_prices_are_rounded_once_per_request_half_up() {
        let rates = rates("0.0005", "0.0005", "0");
        assert_eq!(rates.price(1, 0, 0), 1);
        assert_eq!(rates.price(1, 1, 0), 1);
        assert_eq!(rates.price(1, 2, 0), 2);
        assert_eq!(self::rates("0.0004", "0.0004", "0").price(1, 0, 0), 0);
    }

    #[test]
    fn prices_follow_the_hour_also_past_midnight() {
        let prices = list(&["16:30-00:30=0.007,0.07,0.14", "02:00-03:00=0,0,0"]);
        prices.check().unwrap();
        let miss = |hour: u64, minute: u64, second: u64| {
            let day = 20_000 * 86_400;
            prices.at(day + hour * 3600 + minute * 60 + second).miss.to_string()
        };
        assert_eq!(miss(16, 29, 59), "0.14");
        assert_eq!(miss(16, 30, 0), "0.07");
        assert_eq!(miss(23, 59, 59), "0.07");
        assert_eq!(miss(0, 0, 0), "0.07");
        assert_eq!(miss(0, 29, 59), "0.07");
        assert_eq!(miss(0, 30, 0), "0.14");
        assert_eq!(miss(2, 0, 0), "0.00");
        assert_eq!(miss(3, 0, 0), "0.14");
    }

    #[test]
    fn hours_that_touch_at_midnight_cover_the_day_and_do_not_overlap() {
        let prices = list(&["00:00-12:00=0,0,0", "12:00-24:00=0,0,0"]);
        prices.check().unwrap();
        assert!((0..1440).all(|minute| prices.at(minute * 60).miss.nano() == 0));
        assert_eq!(list(&["12:00-00:00=0,0,0"]).at(0).miss, Rates::default().miss);
    }

    #[test]
    fn inconsistent_lists_are_rejected() {
        for hours in
            [&["10:00-12:00=0,0,0", "11:59-13:00=0,0,0"][..], &["23:00-01:00=0,0,0", "00:30-02:00=0,0,0"]]
        {
            assert!(list(hours).check().unwrap_err().contains("two sets of hours"), "{hours:?}");
        }
        assert!(list(&["10:00-12:00=2,1,1"]).check().unwrap_err().contains("cannot cost more"));
        let expensive = Prices { rates: rates("0", "0", "1000001"), ..Prices::default() };
        assert!(expensive.check().unwrap_err().contains("a dollar a token"));
    }

    #[test]
    fn hours_round_trip_and_invalid_ones_are_rejected() {
        for text in ["16:30-00:30=0.007,0.07,0.14", "12:00-24:00=0.00,0.00,1.50"] {
            assert_eq!(text.parse::<PriceHours>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "16:30-00:30",
            "16:30=1,2,3",
            "1:30-02:00=1,2,3",
            "25:00-02:00=1,2,3",
            "10:60-12:00=1,2,3",
            "10:00-10:00=1,2,3",
            "24:00-00:00=1,2,3",
            "00:00-24:00=1,2,3",
            "10:00-12:00=1,2",
            "10:00-12:00=1,2,3,4",
            "10:00-12:00=1,-2,3",
            "24:01-12:00=1,2,3",
        ] {
            assert!(text.parse::<PriceHours>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_price_is_the_exact_sum_rounded_to_the_nearest(
            tokens in [0..1u64 << 40, 0..1u64 << 40, 0..1u64 << 40],
            nano in [0..1i64 << 50, 0..1i64 << 50, 0..1i64 << 50],
        ) {
            let [hit, miss, output] = nano.map(Usd::of_nano);
            let rates = Rates { hit, miss, output };
            let exact: u128 = tokens.iter().zip(nano).map(|(t, n)| u128::from(*t) * n as u128).sum();
            let price = rates.price(tokens[0], tokens[1], tokens[2]);
            if price == i64::MAX {
                prop_assert!(exact / 1_000_000 >= i64::MAX as u128);
            } else {
                let back = price as u128 * 1_000_000;
                prop_assert!(back.abs_diff(exact) <= 500_000, "{} for {}", price, exact);
            }
        }

        #[test]
        fn in_thousandths_price_and_saving_add_up_to_the_price_without_a_cache(
            hit in 0..1u64 << 30, miss in 0..1u64 << 30, output in 0..1u64 << 30,
            hit_price in 0..1000i64, more in 0..1000i64, output_price in 0..1000i64,
        ) {
            let thousandths = |count: i64| Usd::of_nano(count * 1_000_000);
            let rates = Rates {
                hit: thousandths(hit_price),
                miss: thousandths(hit_price + more),
                output: thousandths(output_price),
            };
            let without = rates.price(0, hit + miss, output);
            prop_assert_eq!(rates.price(hit, miss, output) + rates.saved(hit), without);
        }
    }
}

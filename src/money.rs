//! Exact money: integer minor units at a fixed scale, from reading an amount to writing it as a decimal. No
//! step in between adds binary fractions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Problem, Result};
use crate::exit::Exit;

/// The number of decimal places of a project's money: 2 for euros and cents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u8", into = "u8")]
#[schemars(inline)]
pub struct Scale(u8);

impl Scale {
    /// The precision of a written decimal, which is `DECIMAL(18, scale)`.
    pub const PRECISION: u8 = 18;

    /// The number of minor units per major unit: 100 at scale 2.
    pub fn units(self) -> i64 {
        10_i64.pow(u32::from(self.0))
    }

    /// The number of decimal places.
    pub fn places(self) -> u8 {
        self.0
    }

    /// Converts an amount in major units to minor units, rounded half away from zero (0.29 is 29). Returns
    /// None if the amount is not finite or does not fit in 18 digits.
    pub fn minor(self, major: f64) -> Option<i64> {
        // The amount is first rounded at three more decimal places: 1.005 is 100.49999999999999 cents as a
        // product of doubles, but the written amount means 100.5 cents.
        let scaled = ((major * self.units() as f64 * 1000.0).round() / 1000.0).round();
        (scaled.abs() < 1e18).then_some(scaled as i64)
    }

    /// Converts minor units to an amount in major units as a double, for division, functions and models.
    pub fn major(self, minor: i64) -> f64 {
        minor as f64 / self.units() as f64
    }

    /// Formats an amount with all its decimal places: `-1.05`.
    pub fn format(self, minor: i64) -> String {
        let (sign, magnitude) = (if minor < 0 { "-" } else { "" }, minor.unsigned_abs());
        let units = self.units() as u64;
        match self.0 {
            0 => format!("{sign}{magnitude}"),
            places => {
                let (whole, fraction) = (magnitude / units, magnitude % units);
                format!("{sign}{whole}.{fraction:0width$}", width = usize::from(places))
            }
        }
    }

    /// Checks a sum of minor units. Sums are computed in 128 bits and must fit in 18 digits.
    pub fn total(self, sum: i128, what: &str) -> Result<i64> {
        i64::try_from(sum)
            .ok()
            .filter(|total| total.abs() < 10_i64.pow(18))
            .ok_or_else(|| SumTooLarge { what: what.to_owned(), sum }.into())
    }
}

/// The error for a sum of minor units with more than 18 digits.
#[derive(Debug, thiserror::Error)]
#[error("the sum of {what} is {sum} minor units, more than 18 digits")]
pub struct SumTooLarge {
    what: String,
    sum: i128,
}

impl Problem for SumTooLarge {
    fn exit(&self) -> Exit {
        Exit::Contract
    }

    fn hint(&self) -> Option<String> {
        Some("an amount is wrong, or project.money_scale is too fine for this currency".into())
    }
}

impl Default for Scale {
    fn default() -> Self {
        Self(2)
    }
}

impl TryFrom<u8> for Scale {
    type Error = String;

    fn try_from(places: u8) -> std::result::Result<Self, String> {
        if places <= 9 { Ok(Self(places)) } else { Err(format!("money_scale {places} is over 9")) }
    }
}

impl From<Scale> for u8 {
    fn from(scale: Scale) -> u8 {
        scale.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_half_away_from_zero() {
        let cents = Scale::default();
        assert_eq!(cents.minor(0.29), Some(29));
        assert_eq!(cents.minor(0.125), Some(13));
        assert_eq!(cents.minor(1.005), Some(101));
        assert_eq!(cents.minor(-8.345), Some(-835));
        assert_eq!(cents.minor(123_456_789_012.34), Some(12_345_678_901_234));
        assert_eq!(cents.minor(-0.125), Some(-13));
        assert_eq!(cents.minor(f64::NAN), None);
        assert_eq!(cents.minor(1e18), None);
    }

    #[test]
    fn formats_all_places() {
        let cents = Scale::default();
        assert_eq!(cents.format(-105), "-1.05");
        assert_eq!(cents.format(7), "0.07");
        assert_eq!(Scale(0).format(12), "12");
    }

    #[test]
    fn a_total_of_more_than_18_digits_is_an_error() {
        let cents = Scale::default();
        assert_eq!(
            cents.total(999_999_999_999_999_999, "amount").unwrap(),
            999_999_999_999_999_999
        );
        assert!(cents.total(1_000_000_000_000_000_000, "amount").is_err());
    }
}

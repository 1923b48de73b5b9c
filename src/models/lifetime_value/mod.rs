//! Lifetime value of customers without a contract: the expected number of purchases (BG/NBD, MBG/NBD or
//! Pareto/NBD) times the expected spend per purchase (Gamma-Gamma), and a hurdle model of spend over features.
//!
//! Times are in any one unit and spend is in major units. This module knows no calendar.

mod buyer;
pub mod gamma_gamma;
pub mod hurdle;
pub mod maximum_likelihood;
mod pareto;
pub mod purchasing;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use buyer::Buyer;
pub use gamma_gamma::{GammaGamma, Spend};
pub use hurdle::Hurdle;
pub use purchasing::{Family, Purchasing};

/// Discounting at a yearly rate, month by month.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discounting {
    /// The length of time ahead, in the unit of the histories.
    pub horizon: f64,
    /// The length of a month in that unit. The last month may be shorter.
    pub month: f64,
    /// The yearly discount rate. With 0.1, a value in one year is worth 1 / 1.1 now.
    pub yearly_rate: f64,
}

impl Discounting {
    /// The mean discount factor of purchases that are evenly spread over the horizon.
    pub fn mean_factor(&self) -> f64 {
        let mut before = 0.0;
        let of_month = |(end, factor): (f64, f64)| {
            let length = end - before;
            before = end;
            length * factor
        };
        self.months().into_iter().map(of_month).sum::<f64>() / self.horizon
    }

    /// The end of each month, with the factor by which purchases in that month count.
    fn months(&self) -> Vec<(f64, f64)> {
        let count = (self.horizon / self.month - 1e-9).ceil().max(1.0) as usize;
        let factor = |k: usize| (1.0 + self.yearly_rate).powf(-(k as f64) / 12.0);
        (1..=count).map(|k| ((k as f64 * self.month).min(self.horizon), factor(k))).collect()
    }
}

/// The expectation for one buyer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// The probability that the buyer has not left for good.
    pub p_alive: f64,
    /// The expected number of purchases within the horizon.
    pub purchases: f64,
    /// The expected number of purchases, each multiplied by the discount factor of its month.
    pub discounted: f64,
}

/// Computes the expectation for each buyer, in the order of the buyers.
///
/// The expected purchases of a buyer who is alive depend only on frequency and age. Many buyers share
/// both, so they are computed once for each distinct pair.
pub fn expect(model: &Purchasing, buyers: &[Buyer], discounting: &Discounting) -> Vec<Expected> {
    let months = discounting.months();
    let key = |buyer: &Buyer| (buyer.frequency.to_bits(), buyer.age.to_bits());
    let mut pairs: Vec<(u64, u64)> = buyers.par_iter().map(key).collect();
    pairs.par_sort_unstable();
    pairs.dedup();
    let alive: Vec<[f64; 2]> = pairs
        .par_iter()
        .map(|(frequency, age)| {
            let (frequency, age) = (f64::from_bits(*frequency), f64::from_bits(*age));
            let (mut before, mut discounted) = (0.0, 0.0);
            for (end, factor) in &months {
                let until = model.purchases_if_alive(frequency, age, *end);
                discounted += (until - before) * factor;
                before = until;
            }
            [before, discounted]
        })
        .collect();
    buyers
        .par_iter()
        .map(|buyer| {
            let found = pairs.binary_search(&key(buyer)).unwrap_or_default();
            let p_alive = model.p_alive(buyer);
            let [purchases, discounted] = alive[found].map(|value| value * p_alive);
            Expected { p_alive, purchases, discounted }
        })
        .collect()
}

#[cfg(test)]
mod tests;

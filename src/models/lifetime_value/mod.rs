//! Lifetime value of customers without a contract: how often they will still buy (BG/NBD, MBG/NBD or
//! Pareto/NBD), times what they spend when they do (Gamma-Gamma).
//!
//! Times are in any one unit, spend in major units; nothing here knows a calendar.

pub mod gamma_gamma;
pub mod maximum_likelihood;
mod pareto;
pub mod purchasing;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use gamma_gamma::{GammaGamma, Spend};
pub use purchasing::{Buyer, Family, Purchasing};

/// Discounting at a yearly rate, month by month.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discounting {
    /// How far ahead, in the unit of the histories.
    pub horizon: f64,
    /// The length of a month in that unit; the last one may be shorter.
    pub month: f64,
    /// 0.1 where a value in a year is worth 1 / 1.1 now.
    pub yearly_rate: f64,
}

impl Discounting {
    /// The discount of purchases that come at an even pace.
    pub fn mean_factor(&self) -> f64 {
        let mut before = 0.0;
        let of_month = |(end, factor): (f64, f64)| {
            let length = end - before;
            before = end;
            length * factor
        };
        self.months().into_iter().map(of_month).sum::<f64>() / self.horizon
    }

    /// The ends of the months with the factor by which purchases of that month count.
    fn months(&self) -> Vec<(f64, f64)> {
        let count = (self.horizon / self.month - 1e-9).ceil().max(1.0) as usize;
        let factor = |k: usize| (1.0 + self.yearly_rate).powf(-(k as f64) / 12.0);
        (1..=count).map(|k| ((k as f64 * self.month).min(self.horizon), factor(k))).collect()
    }
}

/// What is expected of one buyer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// The probability that they have not left for good.
    pub p_alive: f64,
    /// Purchases within the horizon.
    pub purchases: f64,
    /// Of these, each counted with the discount of its month.
    pub discounted: f64,
}

/// What is expected of each buyer, in their order.
///
/// What a buyer does who is alive depends on their frequency and age alone, which many share: it is
/// worked out once for each such pair.
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

//! How often a customer buys, and whether they still do.
//!
//! While alive, customers buy at a rate of their own; rates are Gamma(r, alpha) over customers.
//! - BG/NBD: after each repeat purchase they leave for good with a probability of their own, Beta(a, b)
//!   over customers (Fader, Hardie and Lee 2005, "Counting Your Customers the Easy Way").
//! - MBG/NBD: after the first purchase too, so that one-time buyers are not alive for certain
//!   (Batislam, Denizel and Filiztekin 2007).
//! - Pareto/NBD: they leave at any time, at a rate of their own, Gamma(s, beta) over customers
//!   (Schmittlein, Morrison and Colombo 1987).

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use statrs::function::gamma::{digamma, ln_gamma};

use super::maximum_likelihood::{Fit, Likelihood, maximize};
use super::pareto;

/// Rows that are summed in one go; sums are added in the order of blocks.
const BLOCK: usize = 2048;
/// Purchases ahead whose survival is summed at most.
const MOST_PURCHASES: u32 = 2_000_000;

/// What a customer has done so far: the sufficient statistics of all three families.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Buyer {
    /// Purchases after the first.
    pub frequency: f64,
    /// From the first purchase to the last; 0 for a one-time buyer.
    pub recency: f64,
    /// From the first purchase to now.
    pub age: f64,
}

/// A family of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Beta-geometric, negative binomial.
    BgNbd,
    /// The same, where the first purchase may be the last.
    MbgNbd,
    /// Pareto, negative binomial.
    ParetoNbd,
}

impl Family {
    /// The names of the parameters, in their order.
    pub fn parameters(self) -> [&'static str; 4] {
        match self {
            Self::BgNbd | Self::MbgNbd => ["r", "alpha", "a", "b"],
            Self::ParetoNbd => ["r", "alpha", "s", "beta"],
        }
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::BgNbd => "BG/NBD",
            Self::MbgNbd => "MBG/NBD",
            Self::ParetoNbd => "Pareto/NBD",
        }
    }
}

/// A fitted model of purchases.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Purchasing {
    /// The family.
    pub family: Family,
    /// In the order of [`Family::parameters`].
    pub parameters: [f64; 4],
}

impl Purchasing {
    /// Fits a family by maximum likelihood; None where no start comes to an end.
    pub fn fit(family: Family, buyers: &[Buyer]) -> Option<(Self, Fit)> {
        let rows = Rows::new(buyers);
        let likelihood = OfFamily { family, rows };
        let starts = likelihood.starts();
        let fit = maximize(&likelihood, &starts)?;
        let parameters = [0, 1, 2, 3].map(|i| fit.parameters[i]);
        Some((Self { family, parameters }, fit))
    }

    /// The probability that a customer has not left for good.
    pub fn p_alive(&self, buyer: &Buyer) -> f64 {
        let [r, alpha, third, fourth] = self.parameters;
        let gone = match self.family {
            Family::ParetoNbd => pareto::gone(self.parameters, buyer).0,
            Family::BgNbd if buyer.frequency == 0.0 => return 1.0,
            Family::BgNbd | Family::MbgNbd => {
                let flips = fourth + buyer.frequency + self.family.first_flip() - 1.0;
                let silence = ((alpha + buyer.age) / (alpha + buyer.recency)).ln();
                third.ln() - flips.ln() + (r + buyer.frequency) * silence
            }
        };
        1.0 / (1.0 + gone.exp())
    }

    /// Expected purchases within `ahead` of a customer who is alive now.
    ///
    /// BG and MBG: the closed form with 2F1 is singular at a = 1 and cancels near it. With N purchases
    /// of an immortal customer, negative binomial (r + x, (alpha + T) / (alpha + T + t)), the
    /// expectation is the sum over k of P(N > k) times the probability that k flips in a row keep the
    /// customer: every term is positive. Pareto: the closed form, by `expm1` where s is near 1.
    pub fn purchases_if_alive(&self, frequency: f64, age: f64, ahead: f64) -> f64 {
        let [r, alpha, third, fourth] = self.parameters;
        if ahead <= 0.0 {
            return 0.0;
        }
        let (shape, rate) = (r + frequency, alpha + age);
        match self.family {
            Family::ParetoNbd => {
                let (s, beta) = (third, fourth + age);
                let length = (ahead / beta).ln_1p();
                let decay = (1.0 - s) * length;
                let lived = if decay.abs() < 1e-12 { length } else { decay.exp_m1() / (1.0 - s) };
                shape / rate * beta * lived
            }
            Family::BgNbd | Family::MbgNbd => {
                let kept = fourth + frequency + self.family.first_flip();
                let logs = (-(ahead / rate).ln_1p(), -(rate / ahead).ln_1p());
                surviving(shape, logs, third, kept, shape * ahead / rate)
            }
        }
    }
}

/// The sum over k >= 0 of P(N > k) (kept)_k / (gone + kept)_k, where N is negative binomial with that
/// shape, the logarithms of its probability and of the complement, and that mean.
fn surviving(shape: f64, (log_stop, log_go): (f64, f64), gone: f64, kept: f64, mean: f64) -> f64 {
    let mut log_mass = shape * log_stop;
    let (mut up_to, mut alive, mut sum) = (0.0, 1.0, 0.0);
    for k in 0..MOST_PURCHASES {
        let count = f64::from(k);
        let mass = log_mass.exp();
        up_to += mass;
        sum += alive * f64::max(1.0 - up_to, 0.0);
        // What is left of the tail is less than the mass over the probability to stop.
        if count > mean && mass < 1e-14 * log_stop.exp() {
            break;
        }
        alive *= (kept + count) / (gone + kept + count);
        log_mass += ((shape + count) / (count + 1.0)).ln() + log_go;
    }
    sum
}

impl Family {
    /// Flips of the coin before any repeat purchase.
    fn first_flip(self) -> f64 {
        f64::from(u8::from(self == Self::MbgNbd))
    }
}

/// Customers who did the same are one row with a weight.
#[derive(Debug)]
struct Rows {
    /// The different frequencies, ascending.
    frequencies: Vec<f64>,
    /// How many customers have each.
    counts: Vec<f64>,
    rows: Vec<Row>,
    total: f64,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    buyer: Buyer,
    weight: f64,
}

impl Rows {
    fn new(buyers: &[Buyer]) -> Self {
        let mut sorted = buyers.to_vec();
        let order = |a: &Buyer, b: &Buyer| {
            let by = a.frequency.total_cmp(&b.frequency);
            by.then(a.recency.total_cmp(&b.recency)).then(a.age.total_cmp(&b.age))
        };
        sorted.par_sort_unstable_by(order);
        let mut all = Self {
            frequencies: Vec::new(),
            counts: Vec::new(),
            rows: Vec::new(),
            total: sorted.len() as f64,
        };
        for buyer in sorted {
            match all.rows.last_mut() {
                Some(row) if row.buyer == buyer => row.weight += 1.0,
                _ => all.rows.push(Row { buyer, weight: 1.0 }),
            }
            match all.counts.last_mut() {
                Some(count) if all.frequencies.last() == Some(&buyer.frequency) => *count += 1.0,
                _ => {
                    all.frequencies.push(buyer.frequency);
                    all.counts.push(1.0);
                }
            }
        }
        all
    }
}

/// The likelihood itself, for tests of it.
#[cfg(test)]
pub(super) fn likelihood_of(family: Family, buyers: &[Buyer]) -> impl Likelihood {
    OfFamily { family, rows: Rows::new(buyers) }
}

struct OfFamily {
    family: Family,
    rows: Rows,
}

impl OfFamily {
    /// First parameters: everyone at the mean rate, with more or less spread between customers.
    fn starts(&self) -> Vec<Vec<f64>> {
        let mean = |of: fn(&Buyer) -> f64| {
            let sum: f64 = self.rows.rows.iter().map(|row| of(&row.buyer) * row.weight).sum();
            (sum / self.rows.total.max(1.0)).max(1e-6)
        };
        let (frequency, age) = (mean(|buyer| buyer.frequency), mean(|buyer| buyer.age));
        let alpha = |r: f64| r * age / frequency.max(0.05);
        match self.family {
            Family::ParetoNbd => vec![
                vec![0.5, alpha(0.5), 0.5, age / 2.0],
                vec![1.0, alpha(1.0), 1.0, age],
                vec![0.2, alpha(0.2), 0.2, age / 8.0],
            ],
            _ => vec![
                vec![0.5, alpha(0.5), 0.5, 1.5],
                vec![1.0, alpha(1.0), 1.0, 4.0],
                vec![0.2, alpha(0.2), 0.3, 0.5],
            ],
        }
    }

    /// The sum of log-likelihoods of a block, and its derivatives by the parameters themselves, without
    /// what depends on the frequency alone.
    fn block(&self, rows: &[Row], parameters: [f64; 4]) -> [f64; 5] {
        let [r, alpha, a, b] = parameters;
        let first = self.family.first_flip();
        let mut sum = [0.0; 5];
        for Row { buyer, weight } in rows {
            let mut of_row = [0.0; 5];
            let shape = r + buyer.frequency;
            let until = (alpha + buyer.age).ln();
            if self.family == Family::ParetoNbd {
                let (gone, slopes) = pareto::gone(parameters, buyer);
                // ln(alive + gone) against ln(alive).
                let share = 1.0 / (1.0 + (-gone).exp());
                let (s, beta) = (a, b);
                let died = (beta + buyer.age).ln();
                of_row = [
                    r * alpha.ln() + s * beta.ln() - shape * until - s * died + softplus(gone),
                    alpha.ln() - until + share * slopes[0],
                    r / alpha - shape / (alpha + buyer.age) + share * slopes[1],
                    beta.ln() - died + share * slopes[2],
                    s / beta - s / (beta + buyer.age) + share * slopes[3],
                ];
            } else {
                of_row[0] = r * alpha.ln() - shape * until;
                of_row[1] = alpha.ln() - until;
                of_row[2] = r / alpha - shape / (alpha + buyer.age);
                if buyer.frequency > 0.0 || first > 0.0 {
                    let last = (alpha + buyer.recency).ln();
                    let flips = b + buyer.frequency + first - 1.0;
                    let gone = a.ln() - flips.ln() + shape * (until - last);
                    let share = 1.0 / (1.0 + (-gone).exp());
                    of_row[0] += softplus(gone);
                    of_row[1] += share * (until - last);
                    let slope = 1.0 / (alpha + buyer.age) - 1.0 / (alpha + buyer.recency);
                    of_row[2] += share * shape * slope;
                    of_row[3] += share / a;
                    of_row[4] -= share / flips;
                }
            }
            sum.iter_mut().zip(of_row).for_each(|(sum, value)| *sum += weight * value);
        }
        sum
    }

    /// What depends on the frequency alone.
    fn of_frequency(&self, frequency: f64, [r, _, a, b]: [f64; 4]) -> [f64; 5] {
        let mut value = [0.0; 5];
        value[0] = ln_gamma(r + frequency) - ln_gamma(r);
        value[1] = digamma(r + frequency) - digamma(r);
        if self.family != Family::ParetoNbd {
            let kept = b + frequency + self.family.first_flip();
            value[0] += ln_gamma(a + b) + ln_gamma(kept) - ln_gamma(b) - ln_gamma(a + kept);
            value[3] = digamma(a + b) - digamma(a + kept);
            value[4] = value[3] + digamma(kept) - digamma(b);
        }
        value
    }
}

impl Likelihood for OfFamily {
    fn evaluate(&self, parameters: &[f64]) -> (f64, Vec<f64>) {
        let own = [0, 1, 2, 3].map(|i| parameters[i]);
        let blocks: Vec<[f64; 5]> =
            self.rows.rows.par_chunks(BLOCK).map(|rows| self.block(rows, own)).collect();
        let shared = self.rows.frequencies.iter().zip(&self.rows.counts).map(|(x, count)| {
            let value = self.of_frequency(*x, own);
            value.map(|v| v * count)
        });
        let mut sum = [0.0; 5];
        for part in blocks.into_iter().chain(shared) {
            sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
        let mean = sum.map(|value| -value / self.rows.total);
        (mean[0], (0..4).map(|i| mean[i + 1] * own[i]).collect())
    }

    fn rows(&self) -> f64 {
        self.rows.total
    }
}

/// ln(1 + e^z).
fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

//! Models of how often customers buy and whether they are still alive.
//!
//! While alive, customers buy at a rate of their own. The rates are Gamma(r, alpha) over customers.
//!
//! - BG/NBD: after each repeat purchase a customer leaves for good with a probability of their own, which
//!   is Beta(a, b) over customers (Fader, Hardie and Lee 2005, "Counting Your Customers the Easy Way").
//! - MBG/NBD: a customer may also leave after the first purchase, so that one-time buyers are not
//!   certainly alive (Batislam, Denizel and Filiztekin 2007).
//! - Pareto/NBD: a customer may leave at any time, at a rate of their own, which is Gamma(s, beta) over
//!   customers (Schmittlein, Morrison and Colombo 1987).

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use statrs::function::gamma::{digamma, ln_gamma};

use super::buyer::Buyer;
use super::maximum_likelihood::{Fit, Likelihood, maximize};
use super::pareto;

/// The number of rows in one partial sum. Partial sums are added in the order of the blocks.
const BLOCK: usize = 2048;
/// The maximum number of future purchases over which survival is summed.
const MOST_PURCHASES: u32 = 2_000_000;

/// A family of models of purchases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Beta-geometric / negative binomial distribution.
    BgNbd,
    /// Modified BG/NBD, in which the first purchase may be the last.
    MbgNbd,
    /// Pareto / negative binomial distribution.
    ParetoNbd,
}

impl Family {
    /// The names of the parameters, in the order of their values.
    pub fn parameters(self) -> [&'static str; 4] {
        match self {
            Self::BgNbd | Self::MbgNbd => ["r", "alpha", "a", "b"],
            Self::ParetoNbd => ["r", "alpha", "s", "beta"],
        }
    }

    /// The name as it is usually written.
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
    /// The family of the model.
    pub family: Family,
    /// The parameters in the order of [`Family::parameters`].
    pub parameters: [f64; 4],
}

impl Purchasing {
    /// Fits a family by maximum likelihood. Returns `None` if the fit fails from every start.
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

    /// The expected number of purchases within `ahead` of a customer who is alive now.
    ///
    /// BG/NBD and MBG/NBD: the closed form with 2F1 is singular at a = 1 and cancels near it. Instead,
    /// let N be the number of purchases of a customer who never leaves, which is negative binomial (r +
    /// x, (alpha + T) / (alpha + T + t)). The expectation is the sum over k of P(N > k) times the
    /// probability that the customer stays k times in a row. Every term is positive.
    ///
    /// Pareto/NBD: the closed form, computed with `expm1` so that it is accurate near s = 1.
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

/// Computes the sum over k >= 0 of P(N > k) (kept)_k / (gone + kept)_k. N is negative binomial with this
/// shape, this mean, and these logarithms of its probability and of the complement.
fn surviving(shape: f64, (log_stop, log_go): (f64, f64), gone: f64, kept: f64, mean: f64) -> f64 {
    let mut log_mass = shape * log_stop;
    let (mut up_to, mut alive, mut sum) = (0.0, 1.0, 0.0);
    for k in 0..MOST_PURCHASES {
        let count = f64::from(k);
        let mass = log_mass.exp();
        up_to += mass;
        sum += alive * f64::max(1.0 - up_to, 0.0);
        // The remaining tail is less than this mass divided by the probability to stop.
        if count > mean && mass < 1e-14 * log_stop.exp() {
            break;
        }
        alive *= (kept + count) / (gone + kept + count);
        log_mass += ((shape + count) / (count + 1.0)).ln() + log_go;
    }
    sum
}

impl Family {
    /// The number of times that a customer may have left before any repeat purchase.
    fn first_flip(self) -> f64 {
        f64::from(u8::from(self == Self::MbgNbd))
    }
}

/// The histories of all customers. Equal histories are one row with a weight.
#[derive(Debug)]
struct Rows {
    /// The distinct frequencies, ascending.
    frequencies: Vec<f64>,
    /// The number of customers with each frequency.
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

/// Gives tests access to the likelihood.
#[cfg(test)]
pub(super) fn likelihood_of(family: Family, buyers: &[Buyer]) -> impl Likelihood {
    OfFamily { family, rows: Rows::new(buyers) }
}

struct OfFamily {
    family: Family,
    rows: Rows,
}

impl OfFamily {
    /// The starting parameters: all customers at the mean rate, with more or less variation between them.
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

    /// Sums the log-likelihoods of a block and their derivatives with respect to the parameters, without
    /// the terms that depend only on the frequency.
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
                // softplus(gone) is ln(alive + gone) - ln(alive), and this share is its derivative.
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

    /// The terms of the log-likelihood, and their derivatives, that depend only on the frequency.
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

/// Computes ln(1 + e^z) without overflow.
fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

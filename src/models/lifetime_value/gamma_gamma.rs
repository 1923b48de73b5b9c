//! The spend per purchase of a customer: the Gamma-Gamma model (Fader and Hardie 2013, "The Gamma-Gamma
//! Model of Monetary Value"). The spends of one customer are Gamma(p, nu), and nu is Gamma(q, v) over
//! customers.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use statrs::function::gamma::{digamma, ln_gamma};

use super::maximum_likelihood::{Fit, Likelihood, maximize};

/// The number of rows in one partial sum. Partial sums are added in the order of the blocks.
const BLOCK: usize = 2048;

/// The mean spend of a customer's repeat purchases.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spend {
    /// The number of repeat purchases, at least one.
    pub frequency: f64,
    /// The mean value of these purchases, above 0.
    pub mean: f64,
}

/// A fitted model of spend.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GammaGamma {
    /// The shape of the spends of one customer.
    pub p: f64,
    /// The shape of the distribution of nu over customers.
    pub q: f64,
    /// The scale of the distribution of nu over customers.
    pub v: f64,
}

impl GammaGamma {
    /// Fits the model by maximum likelihood. Returns `None` if the fit fails from every start.
    pub fn fit(spends: &[Spend]) -> Option<(Self, Fit)> {
        let rows = Rows::new(spends);
        let mean = spends.iter().map(|spend| spend.mean).sum::<f64>() / spends.len().max(1) as f64;
        let starts =
            [[1.0, 2.0, mean], [5.0, 3.0, mean / 2.0], [2.0, 6.0, 2.0 * mean]].map(|s| s.to_vec());
        let fit = maximize(&rows, &starts)?;
        let model = Self { p: fit.parameters[0], q: fit.parameters[1], v: fit.parameters[2] };
        Some((model, fit))
    }

    /// The expected mean spend of a customer, E(M
    /// x, m). Without repeat purchases it is the mean over all customers. Returns `None` if it is not
    /// finite.
    pub fn expected(&self, frequency: f64, mean: f64) -> Option<f64> {
        let weight = self.p * frequency + self.q - 1.0;
        let known = if frequency > 0.0 { frequency * mean } else { 0.0 };
        (weight > 0.0).then(|| self.p * (self.v + known) / weight)
    }
}

/// Rows sorted by frequency, so that terms that depend only on the frequency are computed once.
struct Rows {
    rows: Vec<Spend>,
    logs: Vec<f64>,
    frequencies: Vec<(f64, f64)>,
}

impl Rows {
    fn new(spends: &[Spend]) -> Self {
        let mut rows = spends.to_vec();
        rows.par_sort_unstable_by(|a, b| {
            a.frequency.total_cmp(&b.frequency).then(a.mean.total_cmp(&b.mean))
        });
        let mut frequencies: Vec<(f64, f64)> = Vec::new();
        for row in &rows {
            match frequencies.last_mut() {
                Some((frequency, count)) if *frequency == row.frequency => *count += 1.0,
                _ => frequencies.push((row.frequency, 1.0)),
            }
        }
        let logs = rows.iter().map(|row| row.mean.ln()).collect();
        Self { rows, logs, frequencies }
    }
}

impl Likelihood for Rows {
    fn evaluate(&self, parameters: &[f64]) -> (f64, Vec<f64>) {
        let [p, q, v] = [0, 1, 2].map(|i| parameters[i]);
        let blocks: Vec<[f64; 4]> = self
            .rows
            .par_chunks(BLOCK)
            .zip(self.logs.par_chunks(BLOCK))
            .map(|(rows, logs)| {
                let mut sum = [0.0; 4];
                for (row, log_mean) in rows.iter().zip(logs) {
                    let (x, m) = (row.frequency, row.mean);
                    let both = (x * m + v).ln();
                    let shape = p * x + q;
                    sum[0] += q * v.ln() + (p * x - 1.0) * log_mean + p * x * x.ln() - shape * both;
                    sum[1] += x * (log_mean + x.ln() - both);
                    sum[2] += v.ln() - both;
                    sum[3] += q / v - shape / (x * m + v);
                }
                sum
            })
            .collect();
        let shared = self.frequencies.iter().map(|(x, count)| {
            let both = digamma(p * x + q);
            let value = [
                ln_gamma(p * x + q) - ln_gamma(p * x) - ln_gamma(q),
                x * (both - digamma(p * x)),
                both - digamma(q),
                0.0,
            ];
            value.map(|v| v * count)
        });
        let mut sum = [0.0; 4];
        for part in blocks.into_iter().chain(shared) {
            sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
        let mean = sum.map(|value| -value / self.rows.len() as f64);
        (mean[0], vec![mean[1] * p, mean[2] * q, mean[3] * v])
    }

    fn rows(&self) -> f64 {
        self.rows.len() as f64
    }
}

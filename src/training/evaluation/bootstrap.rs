//! Bootstrap: the uncertainty of a metric, found by drawing the customers again.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::models::metrics::{ece, reliability_of};

/// The maximum and the minimum number of draws. In between, the number of rows in all draws together is
/// limited.
const MOST_DRAWS: usize = 1000;
const LEAST_DRAWS: usize = 200;
const DRAWN_ROWS: usize = 20_000_000;
/// The seed of every bootstrap. The same rows give the same intervals.
const SEED: u64 = 0xB007;

/// A 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The 2.5th percentile.
    pub low: f64,
    /// The 97.5th percentile.
    pub high: f64,
}

impl Interval {
    /// Takes the 2.5th and the 97.5th percentile of drawn values. Values that are not finite, as from a
    /// draw with one class only, are left out.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let at = |share| crate::models::preprocessing::shape::quantile(&values, share);
        Self { low: at(0.025), high: at(0.975) }
    }

    /// Takes the percentiles of drawn values after their bias is subtracted, for a metric that is never negative and
    /// that drawing again makes greater, such as a calibration error (Efron and Tibshirani, An Introduction to the
    /// Bootstrap, 1993, section 10.6). `as_they_are` is its value on the rows as they are.
    pub fn without_bias(values: impl Iterator<Item = f64>, as_they_are: f64) -> Self {
        let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        let Self { low, high } = Self::of(values.into_iter());
        let bias = mean - as_they_are;
        Self { low: (low - bias).max(0.0), high: (high - bias).max(0.0) }
    }

    /// The interval with the same centre and `times` the width.
    pub fn widened(&self, times: f64) -> Self {
        let (middle, half) = ((self.low + self.high) / 2.0, (self.high - self.low) / 2.0);
        Self { low: middle - times * half, high: middle + times * half }
    }

    /// Whether a value lies within the interval.
    pub fn contains(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}

/// The difference of a metric between two predictions, on the same draws.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The difference on the rows as they are.
    pub difference: f64,
    /// The 95 % interval of the difference.
    pub interval: Interval,
    /// The standard deviation of the difference over the draws.
    pub standard_error: f64,
}

impl Difference {
    /// Builds the difference from its value on the rows as they are and from its values over the draws.
    pub fn of(as_they_are: f64, draws: &[f64]) -> Self {
        let finite: Vec<f64> = draws.iter().copied().filter(|value| value.is_finite()).collect();
        let count = finite.len().max(1) as f64;
        let mean = finite.iter().sum::<f64>() / count;
        let variance = finite.iter().map(|d| (d - mean) * (d - mean)).sum::<f64>() / count;
        Self {
            difference: as_they_are,
            interval: Interval::of(finite.into_iter()),
            standard_error: variance.sqrt(),
        }
    }
}

/// Scores and labels of some rows, prepared to be drawn many times.
#[derive(Debug)]
pub struct Drawable<'a> {
    scores: &'a [f64],
    labels: &'a [bool],
    /// The log loss and the squared error of each row.
    losses: Vec<[f64; 2]>,
    /// The rows from the highest score to the lowest.
    order: Vec<u32>,
}

/// The metrics of one draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// The area under the ROC curve.
    pub roc_auc: f64,
    /// The average precision.
    pub average_precision: f64,
    /// The mean log loss.
    pub log_loss: f64,
    /// The Brier score.
    pub brier: f64,
    /// The expected calibration error.
    pub ece: f64,
}

impl<'a> Drawable<'a> {
    /// Prepares scores and labels. Log loss, Brier score and calibration error are meaningful only if the
    /// scores are probabilities.
    pub fn new(scores: &'a [f64], labels: &'a [bool]) -> Self {
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b)));
        let losses = scores.iter().zip(labels).map(|(score, label)| {
            let p = score.clamp(1e-15, 1.0 - 1e-15);
            let error = score - f64::from(u8::from(*label));
            [-if *label { p.ln() } else { (1.0 - p).ln() }, error * error]
        });
        Self { scores, labels, losses: losses.collect(), order }
    }

    /// The scores as they were given.
    pub fn scores(&self) -> &'a [f64] {
        self.scores
    }

    /// Computes the metrics with each row counted as often as `times` says.
    pub fn metrics(&self, times: &[u32]) -> Drawn {
        let (mut rows, mut positives) = (0.0, 0.0);
        let (mut log_loss, mut brier) = (0.0, 0.0);
        for ((times, label), losses) in times.iter().zip(self.labels).zip(&self.losses) {
            let times = f64::from(*times);
            rows += times;
            positives += times * f64::from(u8::from(*label));
            log_loss += times * losses[0];
            brier += times * losses[1];
        }
        let negatives = rows - positives;
        let (mut seen, mut hits, mut wins, mut precision) = (0.0, 0.0, 0.0, 0.0);
        let mut start = 0;
        while start < self.order.len() {
            let score = self.scores[self.order[start] as usize];
            let (mut group, mut of_group) = (0.0, 0.0);
            let mut end = start;
            while let Some(row) = self.order.get(end).map(|row| *row as usize)
                && self.scores[row] == score
            {
                group += f64::from(times[row]);
                of_group += f64::from(times[row]) * f64::from(u8::from(self.labels[row]));
                end += 1;
            }
            let below = negatives - (seen - hits) - (group - of_group);
            wins += of_group * (below + (group - of_group) / 2.0);
            seen += group;
            hits += of_group;
            if of_group > 0.0 {
                precision += of_group / positives * (hits / seen);
            }
            start = end;
        }
        let bins = reliability_of(self.order.iter().rev().map(|row| {
            let row = *row as usize;
            (self.scores[row], self.labels[row], f64::from(times[row]))
        }));
        Drawn {
            roc_auc: wins / (positives * negatives),
            average_precision: if positives > 0.0 { precision } else { f64::NAN },
            log_loss: log_loss / rows,
            brier: brier / rows,
            ece: ece(&bins),
        }
    }
}

/// Draws `rows` of `rows` rows with replacement, many times, and applies `metric` to each draw.
///
/// `metric` gets the number of times that each row was drawn. The results are in a fixed order and do not
/// depend on the number of threads.
pub fn draws<T: Send>(rows: usize, metric: impl Fn(&[u32]) -> T + Sync) -> Vec<T> {
    let count = (DRAWN_ROWS / rows.max(1)).clamp(LEAST_DRAWS, MOST_DRAWS);
    (0..count)
        .into_par_iter()
        .map(|draw| {
            let mut random = ChaCha8Rng::seed_from_u64(SEED);
            random.set_stream(draw as u64);
            let mut times = vec![0_u32; rows];
            for _ in 0..rows {
                times[random.random_range(0..rows)] += 1;
            }
            metric(&times)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::metrics::Metrics;

    fn rows(count: usize) -> (Vec<f64>, Vec<bool>) {
        let mut random = ChaCha8Rng::seed_from_u64(9);
        let scores: Vec<f64> =
            (0..count).map(|_| (random.random_range(0.0..1.0_f64) * 40.0).round() / 40.0).collect();
        let labels = scores.iter().map(|p| random.random_bool(*p)).collect();
        (scores, labels)
    }

    /// A row that is drawn twice counts like two equal rows.
    #[test]
    fn drawn_metrics_are_those_of_the_drawn_rows() {
        let (scores, labels) = rows(300);
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let times: Vec<u32> = (0..300).map(|_| random.random_range(0..4)).collect();
        let repeat = |row: usize| std::iter::repeat_n(row, times[row] as usize);
        let drawn: Vec<usize> = (0..300).flat_map(repeat).collect();
        let expected = Metrics::of(
            &drawn.iter().map(|row| scores[*row]).collect::<Vec<_>>(),
            &drawn.iter().map(|row| labels[*row]).collect::<Vec<_>>(),
        );
        let found = Drawable::new(&scores, &labels).metrics(&times);
        for (found, expected) in [
            (found.roc_auc, expected.roc_auc),
            (found.average_precision, expected.average_precision),
            (found.log_loss, expected.log_loss),
            (found.brier, expected.brier),
        ] {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        // Rows on the edge of a bin are split between bins in one computation and not in the other.
        assert!((found.ece - expected.ece).abs() < 0.02, "{} {}", found.ece, expected.ece);
    }

    /// The calibration error of draws is greater than that of the rows; without this bias the interval has it inside.
    #[test]
    fn a_calibration_error_lies_within_its_interval() {
        let (scores, labels) = rows(800);
        let drawable = Drawable::new(&scores, &labels);
        let error = drawable.metrics(&[1; 800]).ece;
        let drawn = draws(800, |times| drawable.metrics(times).ece);
        let biased = Interval::of(drawn.iter().copied());
        let found = Interval::without_bias(drawn.iter().copied(), error);
        assert!(found.contains(error) && found.low >= 0.0, "{found:?} {error}");
        assert!(found.high < biased.high, "{found:?} {biased:?}");
    }

    /// The standard deviation of a mean over the draws is its standard error.
    #[test]
    fn the_spread_is_the_standard_error() {
        let (_, labels) = rows(2000);
        let mean = |times: &[u32]| {
            let hits = times.iter().zip(&labels).filter(|(_, label)| **label);
            hits.map(|(times, _)| f64::from(*times)).sum::<f64>() / 2000.0
        };
        let values = draws(2000, mean);
        let found = Difference::of(mean(&[1; 2000]), &values);
        let p = mean(&[1; 2000]);
        let expected = (p * (1.0 - p) / 2000.0).sqrt();
        assert!((found.standard_error / expected - 1.0).abs() < 0.1, "{found:?} {expected}");
        assert!(found.interval.contains(p));
        assert_eq!(values, draws(2000, mean), "the same rows give the same draws");
    }
}

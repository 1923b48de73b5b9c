//! Metrics of probabilities compared with outcomes, defined as in scikit-learn.

use serde::{Deserialize, Serialize};

/// The number of bins of a reliability table.
const BINS: usize = 10;

/// The metrics of probabilities, or of any scores, on some rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// The number of rows.
    pub rows: usize,
    /// The number of rows with y = 1.
    pub positives: usize,
    /// The area under the ROC curve, with ties counted half.
    pub roc_auc: f64,
    /// The average precision: the sum of precision x gain in recall over distinct scores.
    pub average_precision: f64,
    /// The mean log loss, with probabilities kept at least 1e-15 away from 0 and 1.
    pub log_loss: f64,
    /// The Brier score: the mean squared error of the probabilities.
    pub brier: f64,
    /// The expected calibration error over ten bins of equal count.
    pub ece: f64,
    /// The share of positives in the tenth of the rows with the highest scores, as a multiple of the base
    /// rate.
    pub lift_10: f64,
    /// The mean probability.
    pub mean_predicted: f64,
}

impl Metrics {
    /// Computes all metrics of `probabilities` against `labels`.
    pub fn of(probabilities: &[f64], labels: &[bool]) -> Self {
        let ranking = RankMetrics::of(probabilities, labels);
        let count = labels.len() as f64;
        let y = |label: &bool| f64::from(u8::from(*label));
        let pairs = || probabilities.iter().zip(labels);
        let losses = pairs().map(|(p, label)| {
            let p = p.clamp(1e-15, 1.0 - 1e-15);
            -if *label { p.ln() } else { (1.0 - p).ln() }
        });
        let squares = pairs().map(|(p, label)| (p - y(label)) * (p - y(label)));
        Self {
            rows: labels.len(),
            positives: labels.iter().filter(|label| **label).count(),
            roc_auc: ranking.roc_auc,
            average_precision: ranking.average_precision,
            log_loss: losses.sum::<f64>() / count,
            brier: squares.sum::<f64>() / count,
            ece: ece(&reliability(probabilities, labels)),
            lift_10: ranking.lift_10,
            mean_predicted: probabilities.iter().sum::<f64>() / count,
        }
    }
}

/// The metrics that depend only on the order of the scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankMetrics {
    /// The area under the ROC curve.
    pub roc_auc: f64,
    /// The average precision.
    pub average_precision: f64,
    /// The lift in the tenth of the rows with the highest scores.
    pub lift_10: f64,
}

impl RankMetrics {
    /// Computes the ranking metrics of `scores`. A higher score means that y = 1 is more likely.
    pub fn of(scores: &[f64], labels: &[bool]) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let total = labels.iter().filter(|label| **label).count() as f64;
        let negatives = labels.len() as f64 - total;
        let tenth = (labels.len() as f64 / 10.0).ceil();
        let (mut seen, mut hits, mut wins, mut precision, mut top) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let mut start = 0;
        while start < order.len() {
            let score = scores[order[start]];
            let end = start + order[start..].iter().take_while(|i| scores[**i] == score).count();
            let group = (end - start) as f64;
            let positives = order[start..end].iter().filter(|i| labels[**i]).count() as f64;
            // If the boundary of the tenth lies within tied scores, a proportional part of their
            // positives counts.
            if seen < tenth {
                top += positives * ((tenth - seen) / group).min(1.0);
            }
            let negatives_below = negatives - (seen - hits) - (group - positives);
            wins += positives * (negatives_below + (group - positives) / 2.0);
            seen += group;
            hits += positives;
            precision += positives / total * (hits / seen);
            start = end;
        }
        Self {
            roc_auc: wins / (total * negatives),
            average_precision: precision,
            lift_10: (top / tenth) / (total / labels.len() as f64),
        }
    }
}

/// A bin of a reliability table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bin {
    /// The number of rows.
    pub rows: usize,
    /// The mean probability.
    pub predicted: f64,
    /// The share of rows with y = 1.
    pub observed: f64,
}

/// Computes ten bins of equal count in the order of the probabilities. Ties are in the order of the rows.
pub fn reliability(probabilities: &[f64], labels: &[bool]) -> Vec<Bin> {
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b]).then(a.cmp(b)));
    reliability_of(order.into_iter().map(|row| (probabilities[row], labels[row], 1.0)))
}

/// Computes the bins of rows that are sorted by ascending probability. The third value of a row is the
/// number of times that it counts. A row belongs to the bin in which its middle lies.
pub fn reliability_of(rows: impl Iterator<Item = (f64, bool, f64)> + Clone) -> Vec<Bin> {
    let total: f64 = rows.clone().map(|(_, _, times)| times).sum();
    let mut sums = [[0.0; 3]; BINS];
    let mut seen = 0.0;
    for (p, label, times) in rows {
        let bin = ((seen + times / 2.0) / total * BINS as f64) as usize;
        let sum = &mut sums[bin.min(BINS - 1)];
        sum[0] += times;
        sum[1] += times * p;
        sum[2] += times * f64::from(u8::from(label));
        seen += times;
    }
    let bins = sums.into_iter().filter(|[rows, ..]| *rows > 0.0);
    bins.map(|[rows, predicted, positives]| Bin {
        rows: rows as usize,
        predicted: predicted / rows,
        observed: positives / rows,
    })
    .collect()
}

/// The expected calibration error: the mean absolute difference between predicted and observed rates,
/// weighted by rows.
pub fn ece(bins: &[Bin]) -> f64 {
    let rows: usize = bins.iter().map(|bin| bin.rows).sum();
    let gaps = bins.iter().map(|bin| bin.rows as f64 * (bin.predicted - bin.observed).abs());
    gaps.sum::<f64>() / rows as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// linfa's confusion matrix against a bare array swaps precision and recall. Here two of three
    /// predicted positives are true, and two of four positives are found.
    #[test]
    fn precision_is_not_recall() {
        let scores = [0.9, 0.9, 0.9, 0.1, 0.1, 0.1];
        let labels = [true, true, false, true, true, false];
        let ranking = RankMetrics::of(&scores, &labels);
        let (precision, recall, rest) = (2.0 / 3.0, 0.5, 4.0 / 6.0);
        assert!((ranking.average_precision - (recall * precision + 0.5 * rest)).abs() < 1e-12);
        let ranking = RankMetrics::of(&[0.9, 0.1, 0.1, 0.1], &[true, true, true, false]);
        assert!((ranking.average_precision - (1.0 / 3.0 + 2.0 / 3.0 * 0.75)).abs() < 1e-12);
    }

    /// For p = [.1 .4 .35 .8 .8 .2 .65 .5 .8 .05 .3 .9] and y = [0 0 1 1 0 0 1 0 1 0 1 1] the expected
    /// values are from scikit-learn's roc_auc_score, average_precision_score, log_loss and
    /// brier_score_loss.
    #[test]
    fn equals_scikit_learn() {
        let p = [0.1, 0.4, 0.35, 0.8, 0.8, 0.2, 0.65, 0.5, 0.8, 0.05, 0.3, 0.9];
        let y = [0, 0, 1, 1, 0, 0, 1, 0, 1, 0, 1, 1].map(|y| y == 1);
        let metrics = Metrics::of(&p, &y);
        let expected = [0.7777777777777778, 0.7652777777777777, 0.535786128443578, 0.185625];
        let found = [metrics.roc_auc, metrics.average_precision, metrics.log_loss, metrics.brier];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn lift_shares_a_tied_group() {
        // Twenty rows have one score. Any two of them are a tenth, so the lift is exactly one.
        let labels: Vec<bool> = (0..20).map(|i| i % 4 == 0).collect();
        let ranking = RankMetrics::of(&[0.3; 20], &labels);
        assert!((ranking.lift_10 - 1.0).abs() < 1e-12);
        assert!((ranking.roc_auc - 0.5).abs() < 1e-12);
        assert!((ranking.average_precision - 0.25).abs() < 1e-12);
    }

    #[test]
    fn ece_is_the_mean_gap() {
        let labels: Vec<bool> = (0..100).map(|i| i % 2 == 0).collect();
        assert!((Metrics::of(&[0.7; 100], &labels).ece - 0.2).abs() < 1e-12);
        assert!(Metrics::of(&[0.5; 100], &labels).ece.abs() < 1e-12);
    }
}

//! The tables of a model's report: gains by decile, curves and slices.

use serde::{Deserialize, Serialize};

use super::bootstrap::Interval;
use super::chance::ece_by_chance;
use crate::models::metrics::{Metrics, ece, reliability};

/// The number of points of a curve, approximately.
const POINTS: usize = 200;
/// The number of bars of a histogram.
const BARS: usize = 20;
/// The maximum number of levels of one attribute that are shown. The most frequent ones are kept.
const SLICES: usize = 12;
/// The minimum number of rows of each class for which a slice has metrics.
const SLICE_CLASS: usize = 10;

/// A tenth of the rows by score, with the highest scores first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gain {
    /// The number of the decile, from 1 for the highest scores.
    pub decile: usize,
    /// The number of rows.
    pub rows: usize,
    /// The number of rows with y = 1.
    pub positives: usize,
    /// The mean probability.
    pub predicted: f64,
    /// The share of rows with y = 1, as a multiple of the base rate.
    pub lift: f64,
    /// The positives in this decile and those before it, as a share of all positives.
    pub gain: f64,
}

/// A bar of a histogram of probabilities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bar {
    /// The probability at which the bar begins. Its width is 0.05.
    pub from: f64,
    /// The number of rows with y = 0.
    pub negatives: usize,
    /// The number of rows with y = 1.
    pub positives: usize,
}

/// Points of the ROC and precision-recall curves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curves {
    /// The pairs (false positive rate, true positive rate), ascending.
    pub roc: Vec<[f64; 2]>,
    /// The pairs (recall, precision), ascending in recall.
    pub precision_recall: Vec<[f64; 2]>,
}

/// Metrics of the rows that share a level of an attribute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// The name of the attribute.
    pub by: String,
    /// The level of the attribute.
    pub level: String,
    /// The number of rows.
    pub rows: usize,
    /// The number of rows with y = 1.
    pub positives: usize,
    /// The mean probability.
    pub predicted: f64,
    /// The share of rows with y = 1.
    pub observed: f64,
    /// Further metrics; `None` if a class has too few rows.
    pub metrics: Option<SliceMetrics>,
}

/// The metrics of a slice with enough rows of both classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceMetrics {
    /// The area under the ROC curve.
    pub roc_auc: f64,
    /// The area plus and minus 1.96 standard errors, within 0 and 1.
    pub roc_auc_interval: Interval,
    /// The average precision.
    pub average_precision: f64,
    /// The expected calibration error.
    pub ece: f64,
    /// The 95th percentile of the calibration error that chance alone gives to so many rows; `None` in versions from
    /// before this field.
    #[serde(default)]
    pub ece_by_chance: Option<f64>,
}

fn descending(probabilities: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]).then(a.cmp(b)));
    order
}

/// Computes the gains by decile.
pub fn gains(probabilities: &[f64], labels: &[bool]) -> Vec<Gain> {
    let order = descending(probabilities);
    let total = labels.iter().filter(|label| **label).count();
    let base = total as f64 / labels.len() as f64;
    let mut so_far = 0;
    (0..10)
        .map(|decile| {
            let rows = &order[decile * order.len() / 10..(decile + 1) * order.len() / 10];
            let positives = rows.iter().filter(|row| labels[**row]).count();
            so_far += positives;
            let count = rows.len() as f64;
            Gain {
                decile: decile + 1,
                rows: rows.len(),
                positives,
                predicted: rows.iter().map(|row| probabilities[*row]).sum::<f64>() / count,
                lift: positives as f64 / count / base,
                gain: so_far as f64 / total as f64,
            }
        })
        .collect()
}

/// Counts the probabilities by bar and by outcome.
pub fn histogram(probabilities: &[f64], labels: &[bool]) -> Vec<Bar> {
    let mut bars: Vec<Bar> = (0..BARS)
        .map(|i| Bar { from: i as f64 / BARS as f64, negatives: 0, positives: 0 })
        .collect();
    for (p, label) in probabilities.iter().zip(labels) {
        let bar = &mut bars[((p * BARS as f64) as usize).min(BARS - 1)];
        *(if *label { &mut bar.positives } else { &mut bar.negatives }) += 1;
    }
    bars
}

/// Computes the ROC and precision-recall curves, thinned to a readable number of points.
pub fn curves(probabilities: &[f64], labels: &[bool]) -> Curves {
    let order = descending(probabilities);
    let total = labels.iter().filter(|label| **label).count() as f64;
    let negatives = labels.len() as f64 - total;
    let mut all = Curves { roc: vec![[0.0, 0.0]], precision_recall: Vec::new() };
    let mut hits = 0.0;
    for (i, row) in order.iter().enumerate() {
        hits += f64::from(u8::from(labels[*row]));
        let seen = (i + 1) as f64;
        let tied = order.get(i + 1).is_some_and(|next| probabilities[*next] == probabilities[*row]);
        if !tied {
            all.roc.push([(seen - hits) / negatives, hits / total]);
            all.precision_recall.push([hits / total, hits / seen]);
        }
    }
    Curves { roc: thin(all.roc), precision_recall: thin(all.precision_recall) }
}

/// Keeps points that are about evenly spaced along the curve, and always the first and the last one.
fn thin(points: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    let mut kept: Vec<[f64; 2]> = Vec::new();
    let last = points.len().saturating_sub(1);
    for (i, point) in points.into_iter().enumerate() {
        let far = |before: &[f64; 2]| {
            (point[0] - before[0]).abs() + (point[1] - before[1]).abs() >= 2.0 / POINTS as f64
        };
        if i == last || kept.last().is_none_or(far) {
            kept.push(point);
        }
    }
    kept
}

/// Computes metrics by the levels of an attribute, where `None` is a level too. The levels with the most
/// rows come first.
pub fn slices(
    by: &str,
    levels: &[Option<String>],
    probabilities: &[f64],
    labels: &[bool],
) -> Vec<Slice> {
    let mut rows: std::collections::BTreeMap<Option<&str>, Vec<usize>> = Default::default();
    for (row, level) in levels.iter().enumerate() {
        rows.entry(level.as_deref()).or_default().push(row);
    }
    let mut slices: Vec<Slice> = rows
        .into_iter()
        .map(|(level, rows)| {
            let p: Vec<f64> = rows.iter().map(|row| probabilities[*row]).collect();
            let y: Vec<bool> = rows.iter().map(|row| labels[*row]).collect();
            let positives = y.iter().filter(|label| **label).count();
            let enough = positives.min(y.len() - positives) >= SLICE_CLASS;
            Slice {
                by: by.to_owned(),
                level: level.unwrap_or("(missing)").to_owned(),
                rows: y.len(),
                positives,
                predicted: p.iter().sum::<f64>() / y.len() as f64,
                observed: positives as f64 / y.len() as f64,
                metrics: enough.then(|| {
                    let metrics = Metrics::of(&p, &y);
                    SliceMetrics {
                        roc_auc: metrics.roc_auc,
                        roc_auc_interval: auc_interval(&metrics),
                        average_precision: metrics.average_precision,
                        ece: ece(&reliability(&p, &y)),
                        ece_by_chance: Some(ece_by_chance(&p)),
                    }
                }),
            }
        })
        .collect();
    slices.sort_by(|a, b| b.rows.cmp(&a.rows).then(a.level.cmp(&b.level)));
    slices.truncate(SLICES);
    slices
}

/// The interval of an area under the ROC curve by its standard error (Hanley and McNeil 1982). There are
/// many slices, and drawing the rows of each again would cost more than everything else.
fn auc_interval(metrics: &Metrics) -> Interval {
    let auc = metrics.roc_auc;
    let positives = metrics.positives as f64;
    let negatives = metrics.rows as f64 - positives;
    let (q1, q2) = (auc / (2.0 - auc), 2.0 * auc * auc / (1.0 + auc));
    let variance = auc * (1.0 - auc)
        + (positives - 1.0) * (q1 - auc * auc)
        + (negatives - 1.0) * (q2 - auc * auc);
    let error = (variance.max(0.0) / (positives * negatives)).sqrt();
    Interval { low: (auc - 1.96 * error).max(0.0), high: (auc + 1.96 * error).min(1.0) }
}

/// Names the third of all values that each value lies in; `None` for a missing value. Thirds that have the same limits
/// are one.
pub fn thirds(values: &[f64], unit: &str) -> Vec<Option<String>> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    let cut = |share| crate::models::preprocessing::shape::quantile(&sorted, share);
    let mut cuts = vec![cut(1.0 / 3.0), cut(2.0 / 3.0)];
    // A third of equal values, or of values that a reader could not tell apart, is none of its own.
    cuts.retain(|cut| sorted.first().is_some_and(|least| cut > least));
    cuts.dedup_by_key(|cut| format!("{cut:.0}"));
    let name = |value: &f64| {
        let below = cuts.partition_point(|cut| cut <= value);
        let from = below.checked_sub(1).map(|i| format!("{:.0}", cuts[i]));
        let until = cuts.get(below).map(|cut| format!("{cut:.0}"));
        match (from, until) {
            _ if value.is_nan() => None,
            (None, None) => Some("any".to_owned()),
            (None, Some(until)) => Some(format!("under {until}{unit}")),
            (Some(from), Some(until)) => Some(format!("{from} to {until}{unit}")),
            (Some(from), None) => Some(format!("{from}{unit} and more")),
        }
    };
    values.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::evaluation::bootstrap::{Drawable, draws};

    #[test]
    fn equal_thirds_are_one() {
        let level = |values: &[f64]| {
            let names = thirds(values, " d").into_iter().map(Option::unwrap_or_default);
            names.collect::<Vec<_>>()
        };
        let zeros = [0.0, 0.0, 0.0, 0.0, 0.0, 7.0];
        assert_eq!(level(&zeros), ["any"; 6], "both cuts are the least value");
        let few = [0.0, 0.0, 0.0, 9.0, 9.0, 9.0, f64::NAN];
        let expected = ["under 9 d", "under 9 d", "under 9 d", "9 d and more"];
        assert_eq!(level(&few)[..4], expected);
        assert_eq!(level(&few)[6], "");
        let spread: Vec<f64> = (0..9).map(f64::from).collect();
        assert_eq!(level(&spread)[..4], ["under 3 d", "under 3 d", "under 3 d", "3 to 5 d"]);
    }

    #[test]
    fn gains_end_with_all_positives() {
        let p: Vec<f64> = (0..105).map(|i| f64::from(i) / 105.0).collect();
        let y: Vec<bool> = (0..105).map(|i| i >= 80).collect();
        let table = gains(&p, &y);
        assert_eq!(table.iter().map(|row| row.rows).sum::<usize>(), 105);
        assert!((table[9].gain - 1.0).abs() < 1e-12);
        assert!((table[0].lift - 105.0 / 25.0).abs() < 1e-12);
        let bars = histogram(&p, &y);
        assert_eq!(bars.iter().map(|bar| bar.positives).sum::<usize>(), 25);
    }

    #[test]
    fn curves_begin_and_end_where_they_must() {
        let p: Vec<f64> = (0..5000).map(|i| f64::from(i % 977)).collect();
        let y: Vec<bool> = (0..5000).map(|i| i % 3 == 0).collect();
        let curves = curves(&p, &y);
        assert_eq!(curves.roc.first(), Some(&[0.0, 0.0]));
        assert_eq!(curves.roc.last(), Some(&[1.0, 1.0]));
        assert!(curves.roc.len() <= POINTS + 2, "{}", curves.roc.len());
    }

    /// The formula agrees with drawing the rows again.
    #[test]
    fn the_interval_of_a_slice_is_near_that_of_the_bootstrap() {
        let p: Vec<f64> = (0..800).map(|i| f64::from(i * 37 % 101) / 101.0).collect();
        let y: Vec<bool> = (0..800).map(|i| (i * 37 % 101) + (i * 53 % 97) > 110).collect();
        let found = auc_interval(&Metrics::of(&p, &y));
        let drawable = Drawable::new(&p, &y);
        let drawn = draws(800, |times| drawable.metrics(times).roc_auc);
        let expected = Interval::of(drawn.into_iter());
        assert!((found.low - expected.low).abs() < 0.01, "{found:?} {expected:?}");
        assert!((found.high - expected.high).abs() < 0.01, "{found:?} {expected:?}");
    }

    #[test]
    fn a_slice_without_both_classes_has_no_metrics() {
        let p: Vec<f64> = (0..100).map(|i| f64::from(i) / 100.0).collect();
        let y: Vec<bool> = (0..100).map(|i| i % 2 == 0 && i < 50).collect();
        let levels: Vec<Option<String>> =
            (0..100).map(|i| (i < 60).then(|| "early".to_owned())).collect();
        let slices = slices("cohort", &levels, &p, &y);
        assert_eq!((slices[0].level.as_str(), slices[0].rows), ("early", 60));
        assert!(slices[0].metrics.is_some());
        assert_eq!((slices[1].level.as_str(), slices[1].positives), ("(missing)", 0));
        assert!(slices[1].metrics.is_none());
        // Of 1, 2 and 9, a third lies below 1.67 and two thirds below 4.33.
        let named = thirds(&[1.0, 2.0, f64::NAN, 9.0], " d");
        assert_eq!(named[2], None);
        assert_eq!(named[3].as_deref(), Some("4 d and more"));
    }
}

//! Evaluates a version out of time: metrics with intervals, compared with simpler predictions.

pub mod bootstrap;
mod chance;
pub mod tables;
pub mod thresholds;

use serde::{Deserialize, Serialize};

use self::bootstrap::{Difference, Drawable, Drawn, Interval, draws};
use self::chance::ece_by_chance;
use self::tables::{Bar, Curves, Gain};
use self::thresholds::{Recommended, Threshold};
use crate::models::calibration::base_rate_offset;
use crate::models::logit::{logit, sigmoid};
use crate::models::matrix::Matrix;
use crate::models::metrics::{Bin, Metrics, reliability};
use crate::models::newton::Objective;
use crate::spec::EvaluationSpec;

/// The factor that widens a 95 % interval to 99 %. Slope and intercept are two more questions beside the
/// calibration error, so each of them needs stronger evidence.
const SURER: f64 = 2.576 / 1.960;
/// The calibration error below which no decision changes: one percentage point.
const NOTICEABLE: f64 = 0.01;

/// Calibration as a line on the logit scale (Cox 1958). A slope of 1 and an intercept of 0 are perfect.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationLine {
    /// The slope of the outcomes on the predicted logit. It is below 1 if predictions are overconfident.
    pub slope: f64,
    /// The slope plus and minus 1.96 standard errors.
    pub slope_interval: Interval,
    /// The intercept with the slope held at 1, which is calibration in the large. It is above 0 if
    /// predictions are too low.
    pub intercept: f64,
    /// The intercept plus and minus 1.96 standard errors.
    pub intercept_interval: Interval,
}

impl CalibrationLine {
    /// Fits the line by maximum likelihood.
    pub fn of(probabilities: &[f64], labels: &[bool]) -> Self {
        let logits: Vec<f64> = probabilities.iter().map(|p| logit(*p)).collect();
        let rows = Matrix::of(1, logits.clone(), logits.len());
        let objective = Objective { rows: &rows, labels, class_weights: [1.0; 2], l2: 1e-12 };
        let weights = objective.minimize(vec![1.0, 0.0]).weights;
        let clusters: Vec<u64> = (0..labels.len() as u64).collect();
        let slope = weights[0];
        let error = objective.standard_errors(weights, &clusters)[0];
        let intercept = base_rate_offset(&logits, labels);
        let information: f64 =
            logits.iter().map(|z| sigmoid(z + intercept)).map(|p| p * (1.0 - p)).sum();
        let around = |value: f64, error: f64| Interval {
            low: value - 1.96 * error,
            high: value + 1.96 * error,
        };
        Self {
            slope,
            slope_interval: around(slope, error),
            intercept,
            intercept_interval: around(intercept, 1.0 / information.sqrt()),
        }
    }
}

/// Metrics of one version on the rows of one snapshot, with the uncertainty that is due to chance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// The metrics on the rows as they are.
    pub metrics: Metrics,
    /// The intervals of the metrics, by drawing the customers again.
    pub intervals: Intervals,
    /// The slope and the intercept of a recalibration.
    pub calibration: CalibrationLine,
    /// The 95th percentile of the calibration error that chance alone gives if every probability is true.
    pub ece_by_chance: f64,
    /// The reliability table, in ten bins.
    pub reliability: Vec<Bin>,
    /// The gains by decile.
    pub gains: Vec<Gain>,
    /// The threshold table, by probability.
    pub thresholds: Vec<Threshold>,
    /// The threshold that cost and benefit recommend; `None` unless the spec gives both.
    #[serde(default)]
    pub recommended: Option<Recommended>,
    /// The histogram of the probabilities.
    pub histogram: Vec<Bar>,
    /// The ROC and precision-recall curves.
    pub curves: Curves,
}

/// 95 % intervals of an [`Evaluation`]'s metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intervals {
    /// The area under the ROC curve.
    pub roc_auc: Interval,
    /// The average precision.
    pub average_precision: Interval,
    /// The mean log loss.
    pub log_loss: Interval,
    /// The Brier score.
    pub brier: Interval,
    /// The expected calibration error, without the bias of its draws.
    pub ece: Interval,
}

impl Evaluation {
    /// Evaluates probabilities against the observed labels.
    pub fn of(probabilities: &[f64], labels: &[bool], spec: &EvaluationSpec) -> Self {
        let drawable = Drawable::new(probabilities, labels);
        let drawn = draws(labels.len(), |times| drawable.metrics(times));
        let interval = |value: fn(&Drawn) -> f64| Interval::of(drawn.iter().map(value));
        let as_they_are = drawable.metrics(&vec![1; labels.len()]).ece;
        let ece = Interval::without_bias(drawn.iter().map(|d| d.ece), as_they_are);
        Self {
            metrics: Metrics::of(probabilities, labels),
            intervals: Intervals {
                roc_auc: interval(|d| d.roc_auc),
                average_precision: interval(|d| d.average_precision),
                log_loss: interval(|d| d.log_loss),
                brier: interval(|d| d.brier),
                ece,
            },
            calibration: CalibrationLine::of(probabilities, labels),
            ece_by_chance: ece_by_chance(probabilities),
            reliability: reliability(probabilities, labels),
            gains: tables::gains(probabilities, labels),
            thresholds: thresholds::thresholds(probabilities, labels, spec),
            recommended: thresholds::recommended(probabilities, labels, spec),
            histogram: tables::histogram(probabilities, labels),
            curves: tables::curves(probabilities, labels),
        }
    }
}

/// A simpler or an earlier prediction of the same rows, compared with ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// The name of the baseline.
    pub name: String,
    /// The metrics of the baseline on the rows as they are.
    pub metrics: Metrics,
    /// Our area under the ROC curve minus that of the baseline.
    pub roc_auc: Difference,
    /// Our average precision minus that of the baseline.
    pub average_precision: Difference,
    /// Our Brier score minus that of the baseline. It is below 0 if ours is better.
    pub brier: Difference,
    /// Our calibration error minus that of the baseline. It is below 0 if ours is better.
    pub ece: Difference,
}

impl Baseline {
    /// Compares our probabilities with others on the same rows and on the same draws of them.
    pub fn of(name: &str, ours: &[f64], theirs: &[f64], labels: &[bool]) -> Self {
        let (a, b) = (Drawable::new(ours, labels), Drawable::new(theirs, labels));
        let drawn = draws(labels.len(), |times| (a.metrics(times), b.metrics(times)));
        let once = vec![1; labels.len()];
        let (ours, theirs) = (a.metrics(&once), b.metrics(&once));
        let difference = |value: fn(&Drawn) -> f64| {
            let draws: Vec<f64> = drawn.iter().map(|(a, b)| value(a) - value(b)).collect();
            Difference::of(value(&ours) - value(&theirs), &draws)
        };
        Self {
            name: name.to_owned(),
            metrics: Metrics::of(b.scores(), labels),
            roc_auc: difference(|d| d.roc_auc),
            average_precision: difference(|d| d.average_precision),
            brier: difference(|d| d.brier),
            ece: difference(|d| d.ece),
        }
    }
}

/// The verdict on a version compared with its baselines, in words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grade {
    /// The grade in one or two words.
    pub grade: String,
    /// One sentence each on the ranking, on the calibration and on the comparison with the champion.
    pub sentences: Vec<String>,
}

impl Grade {
    /// Grades an evaluation.
    ///
    /// The ranking is measured by the average precision that the version adds to recency alone, as a
    /// share of what recency leaves up to 1. The gain is certain if its interval, or that of the gain in
    /// the area under the ROC curve, lies above zero. The version is miscalibrated if chance does not
    /// explain the calibration error, the slope or the intercept, and if a reader would notice the error.
    pub fn of(evaluation: &Evaluation, recency: &Baseline, champion: Option<&Baseline>) -> Self {
        let metrics = &evaluation.metrics;
        let gain = &recency.average_precision;
        let room = (1.0 - recency.metrics.average_precision).max(1e-9);
        let share = gain.difference / room;
        let surely = gain.interval.low > 0.0 || recency.roc_auc.interval.low > 0.0;
        let span = |interval: &Interval| format!("{:+.4} to {:+.4}", interval.low, interval.high);
        let (grade, ranking) = if surely && share >= 0.2 {
            ("strong", "much better than recency alone")
        } else if surely && share >= 0.05 {
            ("good", "better than recency alone")
        } else if surely {
            ("fair", "a little better than recency alone")
        } else if gain.difference > 0.0 {
            ("unproven", "better than recency alone, which is within what chance explains")
        } else {
            ("poor", "no better than recency alone")
        };
        let mut sentences = vec![format!(
            "It ranks {ranking}: average precision {:.4} against {:.4}, a difference of {:+.4} (95 % interval {}); ROC AUC {:+.4} ({}).",
            metrics.average_precision,
            recency.metrics.average_precision,
            gain.difference,
            span(&gain.interval),
            recency.roc_auc.difference,
            span(&recency.roc_auc.interval),
        )];
        let error = format!(
            "calibration error {:.4}, where chance alone stays below {:.4}; slope {:.2}, intercept {:+.2}",
            metrics.ece,
            evaluation.ece_by_chance,
            evaluation.calibration.slope,
            evaluation.calibration.intercept,
        );
        let line = &evaluation.calibration;
        let [slope, intercept] = [&line.slope_interval, &line.intercept_interval]
            .map(|interval| interval.widened(SURER));
        let mut off = Vec::new();
        for (is, word) in [
            (intercept.low > 0.0, "too low on the whole"),
            (intercept.high < 0.0, "too high on the whole"),
            (slope.high < 1.0, "overconfident"),
            (slope.low > 1.0, "underconfident"),
        ] {
            if is {
                off.push(word);
            }
        }
        if off.is_empty() && metrics.ece > evaluation.ece_by_chance {
            off.push("off");
        }
        let calibrated = off.is_empty() || metrics.ece < NOTICEABLE;
        let off = off.join(" and ");
        let verdict = match (off.is_empty(), calibrated) {
            (true, _) => "are well calibrated".to_owned(),
            (false, true) => {
                format!("are {off} by more than chance, but by less than a reader would notice")
            }
            (false, false) => format!("are {off} by more than chance"),
        };
        sentences.push(format!("Its probabilities {verdict}: {error}."));
        if let Some(champion) = champion {
            let change = &champion.average_precision;
            let word = if change.interval.low > 0.0 {
                "better than"
            } else if change.interval.high < 0.0 {
                "worse than"
            } else {
                "not significantly different from"
            };
            sentences.push(format!(
                "It is {word} the version in use ({}) on the same rows: average precision {:+.4} (95 % interval {}).",
                champion.name,
                change.difference,
                span(&change.interval),
            ));
        }
        let grade = match calibrated {
            true => grade.to_owned(),
            false => format!("{grade}, miscalibrated"),
        };
        Self { grade, sentences }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn truth(rows: usize) -> (Vec<f64>, Vec<bool>) {
        let mut random = ChaCha8Rng::seed_from_u64(21);
        let p: Vec<f64> = (0..rows).map(|_| sigmoid(random.random_range(-3.0..2.0))).collect();
        let y = p.iter().map(|p| random.random_bool(*p)).collect();
        (p, y)
    }

    /// True probabilities have slope 1 and intercept 0. Distorted ones have the line that undoes the
    /// distortion.
    #[test]
    fn the_line_undoes_a_distortion() {
        let (p, y) = truth(40_000);
        let line = CalibrationLine::of(&p, &y);
        assert!((line.slope - 1.0).abs() < 0.05 && line.intercept.abs() < 0.05, "{line:?}");
        assert!(line.slope_interval.contains(1.0) && line.intercept_interval.contains(0.0));
        let extreme: Vec<f64> = p.iter().map(|p| sigmoid(2.0 * logit(*p))).collect();
        assert!((CalibrationLine::of(&extreme, &y).slope - line.slope / 2.0).abs() < 1e-6);
        let high: Vec<f64> = p.iter().map(|p| sigmoid(logit(*p) + 0.7)).collect();
        let moved = CalibrationLine::of(&high, &y);
        assert!((moved.intercept - line.intercept + 0.7).abs() < 1e-6, "{moved:?}");
    }

    #[test]
    fn the_grade_follows_the_differences() {
        let (p, y) = truth(5000);
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let noise: Vec<f64> = p.iter().map(|_| random.random_range(0.0..1.0)).collect();
        let evaluation = Evaluation::of(&p, &y, &EvaluationSpec::default());
        let recency = Baseline::of("recency alone", &p, &noise, &y);
        let grade = Grade::of(&evaluation, &recency, Some(&recency));
        assert_eq!(grade.grade, "strong");
        assert!(grade.sentences[1].contains("are well calibrated"), "{grade:?}");
        assert!(grade.sentences[2].contains("better than the version in use"), "{grade:?}");
        let same = Baseline::of("recency alone", &p, &p, &y);
        assert_eq!(same.average_precision.difference, 0.0);
        assert_eq!(Grade::of(&evaluation, &same, None).grade, "poor");
        let off: Vec<f64> = p.iter().map(|p| p / 2.0).collect();
        let evaluation = Evaluation::of(&off, &y, &EvaluationSpec::default());
        let grade = Grade::of(&evaluation, &recency, None).grade;
        assert!(grade.ends_with("miscalibrated"), "{grade}");
    }
}

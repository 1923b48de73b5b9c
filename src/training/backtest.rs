//! Out-of-time predictions of the chosen configuration, snapshot after snapshot. The calibration is
//! fitted on them, and the report shows with them how stable the model is.

use rayon::prelude::*;

use super::evaluation::CalibrationLine;
use super::selection::{Chosen, Fitted, Fold, predict};
use crate::artifact::Calibrated;
use crate::error::Result;
use crate::models::calibration::{Calibration, CalibrationChoice, Platt, base_rate_offset};
use crate::models::logit::sigmoid;
use crate::models::metrics::Metrics;
use crate::spec::FitSpec;
use crate::time::Instant;
use crate::training::metrics::Stability;

/// A snapshot with the logits of a fit that used only outcomes which had ended at the snapshot's as-of.
#[derive(Debug, Clone)]
pub struct OutOfTime {
    /// The as-of of the snapshot.
    pub as_of: Instant,
    /// The logits before calibration, on the scale of the fit that ships.
    pub logits: Vec<f64>,
    /// The observed labels.
    pub labels: Vec<bool>,
}

impl OutOfTime {
    /// The offset that, added to the uncalibrated logits, makes the mean probability equal to the
    /// observed base rate.
    fn offset(&self) -> f64 {
        base_rate_offset(&self.logits, &self.labels)
    }
}

/// Predicts the snapshot of each fold with the chosen configuration, on the logit scale of `ships`.
///
/// # Errors
/// Returns an error if a fit fails.
pub fn backtest(
    spec: &FitSpec,
    chosen: &Chosen,
    folds: &[Fold],
    ships: &Fitted,
) -> Result<Vec<OutOfTime>> {
    let of_fold = |(fold, fitted): (&Fold, &Fitted)| {
        let logits = predict(spec, &chosen.configuration, fitted, fold)?;
        let logits = on_the_scale_of(logits, &ships.logits(&fold.later.inputs));
        Ok(OutOfTime { as_of: fold.as_of, logits, labels: fold.later.labels.clone() })
    };
    folds.par_iter().zip(&chosen.fits).map(of_fold).collect()
}

/// Shifts and scales the logits of a fit so that they have the mean and the standard deviation of those
/// of the fit that ships.
///
/// The fit that ships knows later base rates and is shrunk less, because it has more rows. The
/// calibration is fitted on the moved logits, so that it fits the model that ships.
pub fn on_the_scale_of(mut logits: Vec<f64>, ships: &[f64]) -> Vec<f64> {
    let moments = |logits: &[f64]| {
        let count = logits.len() as f64;
        let mean = logits.iter().sum::<f64>() / count;
        let square = logits.iter().map(|logit| (logit - mean) * (logit - mean)).sum::<f64>();
        (mean, (square / count).sqrt())
    };
    let ((mean, deviation), (to_mean, to_deviation)) = (moments(&logits), moments(ships));
    let stretch = if deviation > 0.0 { to_deviation / deviation } else { 1.0 };
    logits.iter_mut().for_each(|logit| *logit = to_mean + (*logit - mean) * stretch);
    logits
}

/// Fits a calibration on all snapshots and gives it the base-rate offset of the latest one.
///
/// Each snapshot is first moved as far from its own base rate as the latest snapshot is from its own. The
/// shape of the calibration then does not depend on the chance of one snapshot, and the base rate is the
/// last one that is known.
pub fn calibrate(past: &[&OutOfTime], kind: Kind) -> Calibrated {
    let Some(latest) = past.last() else {
        let identity = Platt { slope: 1.0, intercept: 0.0 };
        return Calibrated { calibration: Calibration::Platt(identity), offset: 0.0 };
    };
    let reference = latest.offset();
    let (mut logits, mut labels) = (Vec::new(), Vec::new());
    for snapshot in past {
        let moved = snapshot.offset() - reference;
        logits.extend(snapshot.logits.iter().map(|logit| logit + moved));
        labels.extend(&snapshot.labels);
    }
    let calibration = match kind {
        Kind::Chosen(choice) => Calibration::fit(choice, &logits, &labels),
        Kind::Same(calibration) => calibration.refit(&logits, &labels),
    };
    let logits: Vec<f64> = latest.logits.iter().map(|raw| calibration.logit(*raw)).collect();
    Calibrated { offset: base_rate_offset(&logits, &latest.labels), calibration }
}

/// The kind of calibration to fit.
#[derive(Debug, Clone, Copy)]
pub enum Kind<'a> {
    /// The calibration that a spec asks for.
    Chosen(CalibrationChoice),
    /// The same kind as another calibration.
    Same(&'a Calibration),
}

/// Computes the metrics of each snapshot, calibrated by the snapshots before it, and those of the test
/// snapshot with the calibration that it was tested with.
pub fn stability(
    past: &[&OutOfTime],
    choice: CalibrationChoice,
    test: (&OutOfTime, &Calibrated),
) -> Vec<Stability> {
    let row = |snapshot: &OutOfTime, predicted_as: &str, calibrated: Option<&Calibrated>| {
        let p = |raw: &f64| calibrated.map_or_else(|| sigmoid(*raw), |c| c.probability(*raw));
        let p: Vec<f64> = snapshot.logits.iter().map(p).collect();
        let metrics = Metrics::of(&p, &snapshot.labels);
        let line = CalibrationLine::of(&p, &snapshot.labels);
        Stability {
            as_of: snapshot.as_of,
            predicted_as: predicted_as.to_owned(),
            rows: metrics.rows,
            base_rate: metrics.positives as f64 / metrics.rows as f64,
            roc_auc: metrics.roc_auc,
            average_precision: metrics.average_precision,
            log_loss: calibrated.map(|_| metrics.log_loss),
            ece: calibrated.map(|_| metrics.ece),
            slope: calibrated.map(|_| line.slope),
            intercept: calibrated.map(|_| line.intercept),
        }
    };
    let last = past.len().saturating_sub(1);
    let mut rows: Vec<Stability> = past
        .par_iter()
        .enumerate()
        .map(|(place, snapshot)| {
            let calibrated = (place > 0).then(|| calibrate(&past[..place], Kind::Chosen(choice)));
            let predicted_as = if place == last { "calibration" } else { "fold" };
            row(snapshot, predicted_as, calibrated.as_ref())
        })
        .collect();
    rows.push(row(test.0, "test", Some(test.1)));
    rows
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Draws a snapshot whose true probabilities are sigmoid(0.5 x logit + intercept).
    fn snapshot(seed: u64, rows: usize, intercept: f64) -> OutOfTime {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let logits: Vec<f64> = (0..rows).map(|_| random.random_range(-4.0..4.0)).collect();
        let happens = |logit: &f64| sigmoid(0.5 * logit + intercept);
        let labels = logits.iter().map(|logit| random.random_bool(happens(logit))).collect();
        OutOfTime { as_of: Instant(seed as i64), logits, labels }
    }

    /// Past snapshots with other base rates make the slope more certain and do not change the base rate.
    #[test]
    fn the_slope_is_of_all_snapshots_and_the_base_rate_of_the_latest() {
        let past: Vec<OutOfTime> =
            [(1, -1.0), (2, -0.3), (3, 0.4)].map(|(seed, b)| snapshot(seed, 20_000, b)).to_vec();
        let latest = snapshot(4, 300, 1.0);
        let all: Vec<&OutOfTime> = past.iter().chain([&latest]).collect();
        let calibrated = calibrate(&all, Kind::Chosen(CalibrationChoice::Platt));
        let Calibration::Platt(platt) = &calibrated.calibration else {
            panic!("Platt was asked for")
        };
        assert!((platt.slope - 0.5).abs() < 0.02, "{platt:?}");
        let mean = |snapshot: &OutOfTime| {
            let p = snapshot.logits.iter().map(|raw| calibrated.probability(*raw));
            p.sum::<f64>() / snapshot.logits.len() as f64
        };
        let observed = latest.labels.iter().filter(|label| **label).count() as f64 / 300.0;
        assert!((mean(&latest) - observed).abs() < 1e-9, "{} {observed}", mean(&latest));
    }

    #[test]
    fn logits_take_the_mean_and_the_deviation_of_others() {
        let moved = on_the_scale_of(vec![1.0, 2.0, 3.0], &[10.0, 14.0, 18.0]);
        for (found, expected) in moved.iter().zip([10.0, 14.0, 18.0]) {
            assert!((found - expected).abs() < 1e-12, "{moved:?}");
        }
        assert_eq!(on_the_scale_of(vec![1.0, 1.0], &[3.0, 3.0]), [3.0, 3.0]);
    }
}

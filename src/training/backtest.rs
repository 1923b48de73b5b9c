//! The chosen configuration out of time, snapshot after snapshot: what its calibration is fitted on and
//! what the report shows of its stability.

use rayon::prelude::*;

use super::evaluation::CalibrationLine;
use super::selection::{Fitted, Fold, Inputs, fit};
use crate::artifact::Calibrated;
use crate::artifact::Configuration;
use crate::error::Result;
use crate::models::calibration::{Calibration, CalibrationChoice, Platt, base_rate_offset};
use crate::models::logistic::sigmoid;
use crate::models::metrics::Metrics;
use crate::spec::FitSpec;
use crate::time::Instant;
use crate::training::metrics::Stability;

/// A snapshot as predicted by a fit of what had ended by then.
#[derive(Debug, Clone)]
pub struct OutOfTime {
    /// The snapshot.
    pub as_of: Instant,
    /// On the scale of the fit that ships.
    pub logits: Vec<f64>,
    /// What happened.
    pub labels: Vec<bool>,
}

impl OutOfTime {
    /// What moves the mean of the logits, taken as they are, to what happened.
    fn offset(&self) -> f64 {
        base_rate_offset(&self.logits, &self.labels)
    }
}

/// Predicts each fold's snapshot by one configuration, on the scale of `ships`.
///
/// # Errors
/// That a fit fails.
pub fn backtest(
    spec: &FitSpec,
    inputs: &Inputs,
    configuration: &Configuration,
    folds: &[Fold],
    ships: &Fitted,
) -> Result<Vec<OutOfTime>> {
    let predict = |fold: &Fold| {
        let fitted = fit(spec, inputs, configuration, &fold.earlier)?;
        let (rows, labels) = (&fold.later.inputs, fold.later.labels.clone());
        let logits = on_the_scale_of(fitted.logits(rows), &ships.logits(rows));
        Ok(OutOfTime { as_of: fold.as_of, logits, labels })
    };
    folds.par_iter().map(predict).collect()
}

/// Logits of a fit that has not seen some rows, moved and stretched to the mean and the deviation of
/// those of the fit that ships, which knows later base rates and is shrunk less, for it has more rows.
/// What is calibrated is then what ships.
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

/// A calibration whose shape is fitted on all snapshots, each moved as far from its own base rate as
/// the latest is from its own, and whose offset is that of the latest: what one snapshot has by chance
/// makes no slope, and the base rate is the last that is known.
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

/// Which calibration is fitted.
#[derive(Debug, Clone, Copy)]
pub enum Kind<'a> {
    /// What a spec asks for.
    Chosen(CalibrationChoice),
    /// The kind of another one.
    Same(&'a Calibration),
}

/// Metrics of each snapshot, calibrated by those before it; the test's as it was tested.
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

    /// A snapshot whose truth is sigmoid(0.5 x logit + intercept).
    fn snapshot(seed: u64, rows: usize, intercept: f64) -> OutOfTime {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let logits: Vec<f64> = (0..rows).map(|_| random.random_range(-4.0..4.0)).collect();
        let happens = |logit: &f64| sigmoid(0.5 * logit + intercept);
        let labels = logits.iter().map(|logit| random.random_bool(happens(logit))).collect();
        OutOfTime { as_of: Instant(seed as i64), logits, labels }
    }

    /// Past snapshots of other base rates make the slope surer and leave the base rate alone.
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

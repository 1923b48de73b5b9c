//! Out-of-time predictions of the chosen configuration, snapshot after snapshot. The calibration is
//! fitted on them, and the report shows with them how stable the model is.

use rayon::prelude::*;

use super::base_rate::BaseRates;
use super::evaluation::CalibrationLine;
use super::out_of_time::OutOfTime;
use super::selection::{Chosen, Fitted, Fold, converged};
use crate::artifact::Calibrated;
use crate::error::Result;
use crate::models::calibration::{Calibration, CalibrationChoice, Platt};
use crate::models::logit::sigmoid;
use crate::models::metrics::Metrics;
use crate::spec::FitSpec;
use crate::time::Instant;
use crate::training::metrics::Stability;

/// A fit of the chosen configuration on the outcomes that had ended by an instant.
#[derive(Debug)]
pub struct PastFit {
    /// The instant.
    pub until: Instant,
    /// The fit.
    pub fitted: Fitted,
}

/// Fits the chosen configuration on the earlier rows of each fold, in time order.
///
/// # Errors
/// Returns an error if a fit fails.
pub fn past_fits(spec: &FitSpec, chosen: &Chosen, folds: &[Fold]) -> Result<Vec<PastFit>> {
    let of_fold = |(fold, fitted): (&Fold, &Fitted)| {
        let fitted = converged(spec, &chosen.configuration, fitted, fold)?;
        Ok(PastFit { until: fold.as_of, fitted })
    };
    folds.par_iter().zip(&chosen.fits).map(of_fold).collect()
}

/// Predicts the snapshot of each fold by the fit on its earlier rows, on the logit scale of `ships`.
pub fn backtest(fits: &[PastFit], folds: &[Fold], ships: &Fitted) -> Vec<OutOfTime> {
    let of_fold = |(fold, past): (&Fold, &PastFit)| {
        let rows = &fold.later.inputs;
        let (logits, ships) = (past.fitted.logits(rows), ships.logits(rows));
        OutOfTime::new(fold.as_of, logits, &ships, fold.later.labels.clone())
    };
    folds.par_iter().zip(fits).map(of_fold).collect()
}

/// Fits the shape of a calibration on all snapshots.
///
/// Each snapshot is first moved as far from its own base rate as the latest snapshot is from its own, so that the
/// shape does not depend on how base rates differ. The offset of the calibration is forecast from the base rates of
/// all snapshots ([`BaseRates`](super::base_rate::BaseRates)).
pub fn calibrate(past: &[&OutOfTime], kind: Kind) -> Calibration {
    let Some(latest) = past.last() else {
        return Calibration::Platt(Platt { slope: 1.0, intercept: 0.0 });
    };
    let reference = latest.offset();
    let (mut logits, mut labels) = (Vec::new(), Vec::new());
    for snapshot in past {
        let moved = snapshot.offset() - reference;
        logits.extend(snapshot.logits.iter().map(|logit| logit + moved));
        labels.extend(&snapshot.labels);
    }
    match kind {
        Kind::Chosen(choice) => Calibration::fit(choice, &logits, &labels),
        Kind::Same(calibration) => calibration.refit(&logits, &labels),
    }
}

/// The kind of calibration to fit.
#[derive(Debug, Clone, Copy)]
pub enum Kind<'a> {
    /// The calibration that a spec asks for.
    Chosen(CalibrationChoice),
    /// The same kind as another calibration.
    Same(&'a Calibration),
}

/// Computes the metrics of each snapshot that was predicted out of time, calibrated by the snapshots before it, and
/// those of the test snapshot with the calibration that it was tested with.
pub fn stability(
    past: &[OutOfTime],
    base_rates: &BaseRates,
    choice: CalibrationChoice,
    test: (&OutOfTime, &Calibrated),
) -> Vec<Stability> {
    let row = |snapshot: &OutOfTime, predicted_as: &str, calibrated: Option<&Calibrated>| {
        let p = |raw| calibrated.map_or_else(|| sigmoid(raw), |c| c.probability(raw));
        let p: Vec<f64> = snapshot.predicted().map(p).collect();
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
            let calibrated = (place > 0).then(|| {
                let before: Vec<&OutOfTime> = past[..place].iter().collect();
                base_rates.calibrated(calibrate(&before, Kind::Chosen(choice)), snapshot.as_of)
            });
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
        OutOfTime { as_of: Instant(seed as i64), logits, shift: 0.0, labels }
    }

    /// Past snapshots with other base rates make the slope more certain.
    #[test]
    fn the_slope_is_of_all_snapshots() {
        let past: Vec<OutOfTime> =
            [(1, -1.0), (2, -0.3), (3, 0.4)].map(|(seed, b)| snapshot(seed, 20_000, b)).to_vec();
        let latest = snapshot(4, 300, 1.0);
        let all: Vec<&OutOfTime> = past.iter().chain([&latest]).collect();
        let calibration = calibrate(&all, Kind::Chosen(CalibrationChoice::Platt));
        let Calibration::Platt(platt) = &calibration else { panic!("Platt was asked for") };
        assert!((platt.slope - 0.5).abs() < 0.02, "{platt:?}");
    }
}

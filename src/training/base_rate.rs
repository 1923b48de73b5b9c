//! The base rates of the snapshots whose outcomes have ended, from which the base rate of the next one is forecast.

use serde::{Deserialize, Serialize};

use super::evaluation::bootstrap::Interval;
use super::out_of_time::OutOfTime;
use crate::artifact::Calibrated;
use crate::models::base_rate::{Observed, forecast};
use crate::models::calibration::{Calibration, base_rate_offset};
use crate::models::logit::sigmoid;
use crate::spec::LabelSpec;
use crate::time::Instant;

/// The base rate of one snapshot beside what the model expects of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateAt {
    /// The as-of of the snapshot.
    pub as_of: Instant,
    /// The number of rows.
    pub rows: usize,
    /// The observed share of rows with y = 1.
    pub observed: f64,
    /// The mean probability of the model with the offset that ships.
    pub expected: f64,
    /// The offset on the logit scale that makes the mean probability equal to the observed share.
    pub offset: f64,
    /// The standard error of the offset that is due to the sampling of customers.
    pub error: f64,
}

/// Snapshots whose outcomes have ended, with the logits of the model that ships.
#[derive(Debug)]
pub struct BaseRates<'a> {
    label: &'a LabelSpec,
    snapshots: Vec<OutOfTime>,
}

impl<'a> BaseRates<'a> {
    /// Collects snapshots for a label.
    pub fn new(label: &'a LabelSpec, snapshots: Vec<OutOfTime>) -> Self {
        Self { label, snapshots }
    }

    /// Adds a snapshot.
    pub fn push(&mut self, snapshot: OutOfTime) {
        self.snapshots.push(snapshot);
    }

    /// Gives a calibration the offset that is forecast for the outcomes of a snapshot at `at`, from the snapshots
    /// whose outcomes have ended by then.
    pub fn calibrated(&self, calibration: Calibration, at: Instant) -> Calibrated {
        let outcome = self.label.gap.plus(self.label.horizon);
        let ended = self.snapshots.iter().filter(|snapshot| snapshot.as_of.plus(outcome) <= at);
        let observed: Vec<Observed> = ended
            .map(|snapshot| {
                let (offset, error) = measured(&calibration, snapshot);
                Observed { from: self.from(snapshot.as_of), offset, variance: error * error }
            })
            .collect();
        let forecast = forecast(&observed, self.label.horizon.as_days(), self.from(at));
        Calibrated { calibration, offset: forecast.offset, offset_error: forecast.error }
    }

    /// Lists the snapshots in time order, beside what a calibrated model expects of them.
    pub fn table(&self, calibrated: &Calibrated) -> Vec<RateAt> {
        let row = |snapshot: &OutOfTime| {
            let (offset, error) = measured(&calibrated.calibration, snapshot);
            let rows = snapshot.labels.len();
            let positives = snapshot.labels.iter().filter(|label| **label).count();
            let expected = snapshot.predicted().map(|raw| calibrated.probability(raw)).sum::<f64>();
            RateAt {
                as_of: snapshot.as_of,
                rows,
                observed: positives as f64 / rows as f64,
                expected: expected / rows as f64,
                offset,
                error,
            }
        };
        let mut rows: Vec<RateAt> = self.snapshots.iter().map(row).collect();
        rows.sort_by_key(|row| row.as_of);
        rows
    }

    /// The first day of the outcome window of a snapshot, in days since 1970-01-01.
    fn from(&self, as_of: Instant) -> f64 {
        as_of.plus(self.label.gap).days_since(0)
    }
}

/// The range in which 95 % of the shares with y = 1 should lie, given the probabilities of a snapshot. It counts what
/// the base rate may do and what chance may do with its customers.
pub fn expected_rate(snapshot: &OutOfTime, calibrated: &Calibrated) -> Interval {
    let logits: Vec<f64> = snapshot
        .predicted()
        .map(|raw| calibrated.calibration.logit(raw) + calibrated.offset)
        .collect();
    let p = logits.iter().map(|logit| sigmoid(*logit));
    let sampling = 1.0 / p.map(|p| p * (1.0 - p)).sum::<f64>().max(f64::MIN_POSITIVE);
    let error = (calibrated.offset_error * calibrated.offset_error + sampling).sqrt();
    let rate = |moved: f64| {
        logits.iter().map(|logit| sigmoid(logit + moved)).sum::<f64>() / logits.len() as f64
    };
    Interval { low: rate(-1.96 * error), high: rate(1.96 * error) }
}

/// The offset of a snapshot, with the standard error that is due to the sampling of its customers.
fn measured(calibration: &Calibration, snapshot: &OutOfTime) -> (f64, f64) {
    let logits: Vec<f64> = snapshot.predicted().map(|raw| calibration.logit(raw)).collect();
    let offset = base_rate_offset(&logits, &snapshot.labels);
    let information: f64 =
        logits.iter().map(|logit| sigmoid(logit + offset)).map(|p| p * (1.0 - p)).sum();
    (offset, 1.0 / information.max(f64::MIN_POSITIVE).sqrt())
}

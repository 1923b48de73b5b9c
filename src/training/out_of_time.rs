//! Snapshots with the logits of fits that had not seen their outcomes.

use crate::models::calibration::base_rate_offset;
use crate::time::Instant;

/// A snapshot that was predicted by a fit which used only outcomes that had ended at the snapshot's as-of.
#[derive(Debug, Clone)]
pub struct OutOfTime {
    /// The as-of of the snapshot.
    pub as_of: Instant,
    /// The logits before calibration, with the mean and the standard deviation of those of the fit that ships.
    pub logits: Vec<f64>,
    /// What must be added to these logits to have the mean that the fit itself predicted.
    pub shift: f64,
    /// The observed labels.
    pub labels: Vec<bool>,
}

impl OutOfTime {
    /// Puts the logits of a fit on the scale of those of the fit that ships, which are of the same rows.
    pub fn new(as_of: Instant, logits: Vec<f64>, ships: &[f64], labels: Vec<bool>) -> Self {
        let mean = |logits: &[f64]| logits.iter().sum::<f64>() / logits.len() as f64;
        let shift = mean(&logits) - mean(ships);
        Self { as_of, logits: on_the_scale_of(logits, ships), shift, labels }
    }

    /// The logits with the mean that the fit itself predicted.
    pub fn predicted(&self) -> impl Iterator<Item = f64> {
        self.logits.iter().map(|logit| logit + self.shift)
    }

    /// The offset that, added to the uncalibrated logits, makes the mean probability equal to the
    /// observed base rate.
    pub fn offset(&self) -> f64 {
        base_rate_offset(&self.logits, &self.labels)
    }
}

/// Shifts and scales the logits of a fit so that they have the mean and the standard deviation of those
/// of the fit that ships.
///
/// The fit that ships knows later base rates and is shrunk less, because it has more rows. The
/// calibration is fitted on the moved logits, so that it fits the model that ships.
fn on_the_scale_of(mut logits: Vec<f64>, ships: &[f64]) -> Vec<f64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_take_the_mean_and_the_deviation_of_others() {
        let moved = on_the_scale_of(vec![1.0, 2.0, 3.0], &[10.0, 14.0, 18.0]);
        for (found, expected) in moved.iter().zip([10.0, 14.0, 18.0]) {
            assert!((found - expected).abs() < 1e-12, "{moved:?}");
        }
        assert_eq!(on_the_scale_of(vec![1.0, 1.0], &[3.0, 3.0]), [3.0, 3.0]);
    }
}

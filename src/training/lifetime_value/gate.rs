//! The conditions for a version of lifetime value to come into use.

use super::holdout::{Differences, Errors, Holdout};
use crate::spec::PromotionSpec;
use crate::training::promotion::{Check, Gate, describe};

/// The greatest relative error of all spend that is passed whatever naive predictions give.
const MOST_OF_ALL_SPEND: f64 = 0.1;

/// Checks the predictions of spend on a holdout against predictions that need no model.
///
/// - The mean absolute error of a customer is not above that of a naive prediction by more than chance: the interval
///   of the difference includes zero.
/// - The normalized Gini coefficient is not below that of a naive prediction by more than 0.005 or one standard
///   error, whichever is greater.
/// - The error of all spend is at most 10 %, or that of the best naive prediction if this is greater.
pub(super) fn gate(holdout: &Holdout) -> Gate {
    let naive = holdout.baselines.iter().zip(&holdout.differences);
    let mut checks: Vec<Check> = naive.flat_map(|(naive, change)| beside(naive, change)).collect();
    let errors = holdout.baselines.iter().map(|naive| naive.spend_error.abs());
    let most = errors.fold(f64::INFINITY, f64::min).max(MOST_OF_ALL_SPEND);
    let error = holdout.model.spend_error;
    checks.push(Check {
        asks: format!("error of all spend at most {:.1} %", 100.0 * most),
        found: format!("{:+.1} %", 100.0 * error),
        passed: error.abs() <= most,
    });
    Gate { passed: checks.iter().all(|check| check.passed), checks }
}

/// Checks the differences from one naive prediction.
fn beside(naive: &Errors, change: &Differences) -> [Check; 2] {
    let name = &naive.name;
    let least = -PromotionSpec::default().tolerance.max(change.spend_gini.standard_error);
    [
        Check {
            asks: format!(
                "mean absolute error of spend not above that of \u{201c}{name}\u{201d} by more than chance"
            ),
            found: describe(&change.spend_mae),
            passed: change.spend_mae.interval.low <= 0.0,
        },
        Check {
            asks: format!("normalized Gini within {least:.4} of \u{201c}{name}\u{201d}"),
            found: describe(&change.spend_gini),
            passed: change.spend_gini.difference >= least,
        },
    ]
}

//! The gate that decides whether a new version may replace the champion.

use serde::{Deserialize, Serialize};

use super::evaluation::{Baseline, bootstrap::Difference};
use crate::spec::PromotionSpec;

/// One condition of the gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The condition in words.
    pub asks: String,
    /// The result in words, with the numbers.
    pub found: String,
    /// Whether the condition is met.
    pub passed: bool,
}

/// The conditions for a new version to come into use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Whether all conditions are met.
    pub passed: bool,
    /// The single conditions.
    pub checks: Vec<Check>,
}

impl Gate {
    /// Checks the conditions of promotion.
    ///
    /// - The average precision is above that of recency alone.
    /// - The average precision is not below the champion's by more than the tolerance or one standard
    ///   error.
    /// - The calibration error is not above the champion's by more than chance.
    ///
    /// Without a champion only the first condition is checked. `something_else` is a version in use that
    /// predicts another label: it cannot be compared, and only `models promote` replaces it.
    pub fn of(
        spec: &PromotionSpec,
        recency: &Baseline,
        champion: Option<&Baseline>,
        something_else: Option<&str>,
    ) -> Self {
        let gain = &recency.average_precision;
        let unsure = if gain.interval.low > 0.0 { "" } else { "; chance could explain it" };
        let mut checks = vec![Check {
            asks: "average precision above that of recency alone".into(),
            found: format!("{}{unsure}", describe(gain)),
            passed: gain.difference > 0.0,
        }];
        if let Some(champion) = champion {
            let change = &champion.average_precision;
            let least = -spec.tolerance.max(change.standard_error);
            checks.push(Check {
                asks: format!("average precision within {least:.4} of {}", champion.name),
                found: describe(change),
                passed: change.difference >= least,
            });
            let change = &champion.ece;
            checks.push(Check {
                asks: format!(
                    "calibration error not above that of {} by more than chance",
                    champion.name
                ),
                found: describe(change),
                passed: change.interval.low <= 0.0,
            });
        }
        if let Some(version) = something_else {
            checks.push(Check {
                asks: format!("the same label as {version}, which is in use"),
                found: "another one; `models promote` puts this version in use all the same".into(),
                passed: false,
            });
        }
        Self { passed: checks.iter().all(|check| check.passed), checks }
    }

    /// Checks the NDCG@10 of a ranking, given the differences to other rankings by their names.
    ///
    /// - It is not below that of a `baseline` by more than chance: the interval of the difference includes zero.
    /// - It is not below that of the champion by more than 0.005 or one standard error, whichever is greater.
    ///
    /// `something_else` is a version in use
    /// that recommends other items: it cannot be compared, and only `models promote` replaces it.
    pub fn of_ranking(
        baseline: Option<(&str, Difference)>,
        champion: Option<(&str, Difference)>,
        something_else: Option<&str>,
    ) -> Self {
        let baseline = baseline.map(|(name, change)| Check {
            asks: format!("NDCG@10 not below that of {name} by more than chance"),
            found: describe(&change),
            passed: change.interval.high >= 0.0,
        });
        let champion = champion.map(|(name, change)| {
            let least = -PromotionSpec::default().tolerance.max(change.standard_error);
            Check {
                asks: format!("NDCG@10 within {least:.4} of {name}"),
                found: describe(&change),
                passed: change.difference >= least,
            }
        });
        let other = something_else.map(|version| Check {
            asks: format!("the same items as {version}, which is in use"),
            found: "other ones; `models promote` puts this version in use all the same".into(),
            passed: false,
        });
        let checks: Vec<Check> = baseline.into_iter().chain(champion).chain(other).collect();
        Self { passed: checks.iter().all(|check| check.passed), checks }
    }

    /// The gate of a version that could not be tested, which it does not pass.
    pub fn untested(asks: &str, found: String) -> Self {
        Self { passed: false, checks: vec![Check { asks: asks.to_owned(), found, passed: false }] }
    }

    /// Describes the conditions that are not met, in one line.
    pub fn failures(&self) -> String {
        let failed = self.checks.iter().filter(|check| !check.passed);
        let failed: Vec<String> =
            failed.map(|check| format!("{}: {}", check.asks, check.found)).collect();
        failed.join("; ")
    }
}

/// Describes a difference with its interval and standard error.
pub(super) fn describe(change: &Difference) -> String {
    format!(
        "{:+.4} (95 % interval {:+.4} to {:+.4}, standard error {:.4})",
        change.difference, change.interval.low, change.interval.high, change.standard_error
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::metrics::Metrics;
    use crate::training::evaluation::bootstrap::Interval;

    fn baseline(average_precision: f64, standard_error: f64, ece_low: f64) -> Baseline {
        let difference = |difference: f64, low: f64| Difference {
            difference,
            interval: Interval { low, high: difference + 2.0 * standard_error },
            standard_error,
        };
        Baseline {
            name: "champion".into(),
            metrics: Metrics::of(&[0.2, 0.8], &[false, true]),
            roc_auc: difference(0.0, 0.0),
            average_precision: difference(average_precision, average_precision - 0.02),
            brier: difference(0.0, 0.0),
            ece: difference(0.01, ece_low),
        }
    }

    #[test]
    fn each_condition_can_fail_alone() {
        let spec = PromotionSpec::default();
        let recency = baseline(0.1, 0.01, -0.01);
        let passes =
            |champion: Option<Baseline>| Gate::of(&spec, &recency, champion.as_ref(), None).passed;
        assert!(passes(None));
        assert!(passes(Some(baseline(-0.004, 0.001, -0.01))), "within the tolerance");
        assert!(passes(Some(baseline(-0.02, 0.03, -0.01))), "within one standard error");
        assert!(!passes(Some(baseline(-0.02, 0.01, -0.01))));
        assert!(!passes(Some(baseline(0.0, 0.01, 0.001))), "worse calibrated");
        let other = Gate::of(&spec, &recency, None, Some("2024-01-01-abc"));
        assert!(!other.passed && other.failures().contains("models promote"), "{other:?}");
        let gate = Gate::of(&spec, &baseline(-0.001, 0.01, 0.0), None, None);
        assert!(!gate.passed && gate.failures().contains("recency alone: -0.0010"), "{gate:?}");
    }
}

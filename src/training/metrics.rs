//! The numbers of a classifier's report, as `metrics.json` stores them.

use serde::{Deserialize, Serialize};

use super::base_rate::RateAt;
use super::evaluation::bootstrap::Interval;
use super::evaluation::tables::Slice;
use super::evaluation::{Baseline, Evaluation, Grade};
use super::matured::Matured;
use super::promotion::Gate;
use super::selection::{Tried, TriedShape};
use super::skew::Skew;
use super::truncation::Truncation;
use crate::artifact::Configuration;
use crate::features::drift::Drift;
use crate::models::preprocessing::Dropped;
use crate::sources::contract::History;
use crate::time::Instant;

/// The numbers of customers from the whole profile to the labelled rows at one snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Funnel {
    /// The as-of of the snapshot.
    pub as_of: Instant,
    /// The use of the snapshot: `training`, `refit`, `calibration`, `test`, or `left out` because of
    /// truncated windows.
    pub used_for: String,
    /// The number of customers at the snapshot.
    pub customers: usize,
    /// The number of customers for whom the model is defined. All of them have a label, because the
    /// outcome window has ended.
    pub eligible: usize,
    /// The number of eligible customers with y = 1.
    pub positives: usize,
    /// The share of positives among the eligible customers.
    pub base_rate: f64,
}

/// The content of `metrics.json` of a classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierMetrics {
    /// The format version of this file.
    pub format_version: u32,
    /// The verdict on the version in words.
    pub grade: Grade,
    /// The conditions under which the version may come into use.
    pub gate: Gate,
    /// The numbers of customers of each snapshot, in time order.
    pub funnel: Vec<Funnel>,
    /// The inputs whose windows reach before the first event, and what was done about them. `None` in files of
    /// earlier versions.
    #[serde(default)]
    pub truncation: Option<Truncation>,
    /// The configurations that were tried by purged time-ordered folds inside the training snapshots.
    pub tried: Vec<Tried>,
    /// The shapes of single inputs that were tried on the same folds.
    pub shapes: Vec<TriedShape>,
    /// The columns that were left out of the model.
    pub dropped: Vec<Dropped>,
    /// The evaluation on the test snapshot, before the calibration was fitted again with it.
    pub test: Evaluation,
    /// Simpler and earlier predictions of the same rows, compared with ours.
    pub baselines: Vec<Baseline>,
    /// The other algorithm on the same rows. It shows what a linear model costs or saves.
    pub other_algorithm: Option<OtherAlgorithm>,
    /// The base rate of each snapshot beside what the model expects, in time order.
    #[serde(default)]
    pub base_rates: Vec<RateAt>,
    /// The range in which the share of test rows with y = 1 should lie in 95 % of cases, given the predictions, the
    /// uncertainty of the base rate, and chance. `None` in files of earlier versions.
    #[serde(default)]
    pub expected_rate: Option<Interval>,
    /// The out-of-time metrics of each snapshot, predicted by the chosen configuration after it was
    /// fitted and calibrated on outcomes that had ended at the snapshot.
    pub stability: Vec<Stability>,
    /// Metrics of the test rows by the levels of attributes.
    pub slices: Vec<Slice>,
    /// The drift of the inputs from the training rows to the test rows.
    pub drift: Vec<Drift>,
    /// How much the predictions get worse if a group of inputs is shuffled.
    pub importance: Vec<Importance>,
    /// The terms with their intervals; empty unless the model is linear.
    pub coefficients: Vec<Coefficient>,
    /// What the most important inputs add to the logit, by value; empty unless the model is linear.
    pub curves: Vec<InputCurve>,
    /// Inputs that alone rank the outcome almost perfectly.
    pub leak_suspects: Vec<LeakSuspect>,
    /// The inputs compared with their values in the last scoring run; `None` if no run has scored
    /// customers.
    pub skew: Option<Skew>,
    /// Past scoring runs compared with the observed outcomes.
    pub matured: Vec<Matured>,
    /// The numbers of events over time, by type.
    pub history: History,
}

/// The algorithm that does not ship, on the same test rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherAlgorithm {
    /// The configuration that the folds chose for it.
    pub configuration: Configuration,
    /// The number of rows that this version was fitted on, and the number that the other algorithm was.
    #[serde(default)]
    pub fitted_on: [usize; 2],
    /// The metrics of the other algorithm, and ours minus them.
    pub comparison: Baseline,
}

/// The out-of-time metrics of one snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stability {
    /// The as-of of the snapshot.
    pub as_of: Instant,
    /// The use of the snapshot: `fold`, `calibration` or `test`.
    pub predicted_as: String,
    /// The number of rows.
    pub rows: usize,
    /// The share of rows with y = 1.
    pub base_rate: f64,
    /// The area under the ROC curve.
    pub roc_auc: f64,
    /// The average precision.
    pub average_precision: f64,
    /// The mean log loss. `None` if no earlier snapshot could calibrate this one; the same holds for the
    /// next three fields.
    pub log_loss: Option<f64>,
    /// The expected calibration error.
    pub ece: Option<f64>,
    /// The slope of a recalibration; 1 is perfect.
    pub slope: Option<f64>,
    /// The intercept of a recalibration with the slope held at 1; 0 is perfect.
    pub intercept: Option<f64>,
}

/// The importance of a group of inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Importance {
    /// The name of the group.
    pub group: String,
    /// The increase of the mean log loss if the group's inputs are shuffled among the test rows.
    pub log_loss: f64,
    /// The decrease of the average precision.
    pub average_precision: f64,
}

/// A term of a linear model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coefficient {
    /// The name of the term.
    pub term: String,
    /// The group of the term.
    pub group: String,
    /// The coefficient of the standardized term.
    pub coefficient: f64,
    /// The 95 % interval, with standard errors clustered by customer.
    pub interval: Interval,
}

/// The contribution of an input to the logit by value, relative to the training mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputCurve {
    /// The column of the input.
    pub column: String,
    /// The name of the input's shape.
    pub shape: String,
    /// The values, or the indices of the levels, in ascending order.
    pub value: Vec<f64>,
    /// The contribution of each value.
    pub contribution: Vec<f64>,
    /// Names of the levels; empty for a number.
    pub levels: Vec<String>,
    /// The contribution of a missing value.
    pub missing: f64,
}

/// An input that alone ranks the outcome almost perfectly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeakSuspect {
    /// The column of the input.
    pub column: String,
    /// The area under the ROC curve of its value or its negative, or of the rates of its levels or bins.
    pub roc_auc: f64,
}

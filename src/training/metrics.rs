//! Every number of a classifier's report, as `metrics.json` keeps it.

use serde::{Deserialize, Serialize};

use super::evaluation::bootstrap::Interval;
use super::evaluation::tables::Slice;
use super::evaluation::{Baseline, Evaluation, Grade};
use super::matured::Matured;
use super::promotion::Gate;
use super::selection::{Tried, TriedShape};
use super::skew::Skew;
use crate::artifact::Configuration;
use crate::features::drift::Drift;
use crate::models::preprocessing::Dropped;
use crate::sources::contract::History;
use crate::time::Instant;

/// From profile to labelled rows at one snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Funnel {
    /// The snapshot.
    pub as_of: Instant,
    /// What it is used for: training, calibration or test.
    pub used_for: String,
    /// Customers who are there.
    pub customers: usize,
    /// Of them, for whom the model is defined; all are labelled, as the outcome window has ended.
    pub eligible: usize,
    /// Of them, with y = 1.
    pub positives: usize,
    /// Positives per eligible.
    pub base_rate: f64,
}

/// `metrics.json` of a classifier: every number of its report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierMetrics {
    /// Of this file.
    pub format_version: u32,
    /// The verdict in words.
    pub grade: Grade,
    /// Whether it may come into use.
    pub gate: Gate,
    /// Per snapshot in time order.
    pub funnel: Vec<Funnel>,
    /// Configurations tried by purged time-ordered folds inside training.
    pub tried: Vec<Tried>,
    /// Shapes of single inputs, tried on the same folds.
    pub shapes: Vec<TriedShape>,
    /// Columns that the model does not see.
    pub dropped: Vec<Dropped>,
    /// On the test snapshot, before the calibration was refitted with it.
    pub test: Evaluation,
    /// Simpler and earlier predictions of the same rows.
    pub baselines: Vec<Baseline>,
    /// The other algorithm on the same rows: what linearity costs, or spares.
    pub other_algorithm: Option<OtherAlgorithm>,
    /// Out of time, per snapshot: what was chosen, fitted and calibrated on what had ended by then.
    pub stability: Vec<Stability>,
    /// Test rows by what they share.
    pub slices: Vec<Slice>,
    /// Inputs of the test rows against those of training.
    pub drift: Vec<Drift>,
    /// By how much predictions get worse where a group of inputs is shuffled.
    pub importance: Vec<Importance>,
    /// Terms with their intervals; of a linear model only.
    pub coefficients: Vec<Coefficient>,
    /// What the inputs that matter most add to the logit, by value; of a linear model only.
    pub curves: Vec<InputCurve>,
    /// Inputs that alone tell the outcome almost surely.
    pub leak_suspects: Vec<LeakSuspect>,
    /// Inputs beside what they were when customers were scored last; None where they never were.
    pub skew: Option<Skew>,
    /// Past scoring runs beside what happened since.
    pub matured: Vec<Matured>,
    /// Events over time by type.
    pub history: History,
}

/// The algorithm that does not ship, on the same test rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherAlgorithm {
    /// What folds chose for it.
    pub configuration: Configuration,
    /// Rows that this version was fitted on, and rows that it was.
    #[serde(default)]
    pub fitted_on: [usize; 2],
    /// Its metrics, and ours less theirs.
    pub comparison: Baseline,
}

/// Metrics of one snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stability {
    /// The snapshot.
    pub as_of: Instant,
    /// What it is used for: `fold`, `calibration` or `test`.
    pub predicted_as: String,
    /// Rows.
    pub rows: usize,
    /// Share of y = 1.
    pub base_rate: f64,
    /// Area under the ROC curve.
    pub roc_auc: f64,
    /// Average precision.
    pub average_precision: f64,
    /// Mean log loss; None where no snapshot before it could calibrate it, as below.
    pub log_loss: Option<f64>,
    /// Expected calibration error.
    pub ece: Option<f64>,
    /// Of a recalibration; 1 is perfect.
    pub slope: Option<f64>,
    /// Of a recalibration with that slope held at 1; 0 is perfect.
    pub intercept: Option<f64>,
}

/// What a group of inputs is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Importance {
    /// The group.
    pub group: String,
    /// The rise of the mean log loss where its inputs are shuffled among the test rows.
    pub log_loss: f64,
    /// The fall of average precision.
    pub average_precision: f64,
}

/// A term of a linear model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coefficient {
    /// The term.
    pub term: String,
    /// Its group.
    pub group: String,
    /// Of the standardized term.
    pub coefficient: f64,
    /// With customers as clusters.
    pub interval: Interval,
}

/// What an input adds to the logit, against the training mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputCurve {
    /// The input's column.
    pub column: String,
    /// The name of its shape.
    pub shape: String,
    /// Values, or levels by their place in `levels`, ascending.
    pub value: Vec<f64>,
    /// Of each value.
    pub contribution: Vec<f64>,
    /// Names of the levels; empty for a number.
    pub levels: Vec<String>,
    /// Of a missing value.
    pub missing: f64,
}

/// An input that alone ranks the outcome almost perfectly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeakSuspect {
    /// The input.
    pub column: String,
    /// The area under the ROC curve of its value, or of its negative.
    pub roc_auc: f64,
}

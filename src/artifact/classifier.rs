//! The artifact of a classifier, and its inputs from computed rows.

use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::expression::Expression;
use crate::features::catalog::{Aggregation, Catalog, Definition};
use crate::features::drift::{Distribution, Drift, drift};
use crate::features::plan::FeaturePlan;
use crate::features::read::column;
use crate::models::boosting::Growth;
use crate::models::calibration::{Calibration, Isotonic};
use crate::models::estimator::Estimator;
use crate::models::matrix::Matrix;
use crate::models::metrics::Metrics;
use crate::models::preprocessing::Preprocessing;
use crate::models::preprocessing::shape::Shape;
use crate::sources::attributes::Attributes;
use crate::sources::profile::keys;
use crate::spec::ClassifierSpec;
use crate::time::{Duration, Instant};

/// The rule for who is eligible, after training has chosen the length of `auto`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResolvedEligible {
    /// A predicate over the features of the artifact.
    Where(Expression),
    /// At least one event of the label's kind within this length of time.
    Within(Duration),
}

/// The snapshots of one training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The training snapshots, ascending. Their outcomes end at the calibration snapshot at the latest.
    /// Every choice is made on them.
    pub training: Vec<Instant>,
    /// The snapshots between the training snapshots and the calibration snapshot, ascending. Their
    /// outcomes end at the test snapshot at the latest, so that the tested model may be fitted on them.
    #[serde(default)]
    pub later: Vec<Instant>,
    /// The calibration snapshot. It gives the base rate, and together with the snapshots of the folds it
    /// fits the calibration. It is predicted by a model that has not seen it.
    pub calibration: Instant,
    /// The test snapshot, which is scored once for the report.
    pub test: Instant,
    /// Further snapshots whose outcomes have ended, ascending. Only their base rates are used.
    #[serde(default)]
    pub base_rate: Vec<Instant>,
}

impl Schedule {
    /// Lists all snapshots that rows are fitted or tested on, in time order.
    pub fn all(&self) -> Vec<Instant> {
        let before = self.training.iter().chain(&self.later).copied();
        before.chain([self.calibration, self.test]).collect()
    }
}

/// The algorithm of a classifier with its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "algorithm")]
pub enum Configuration {
    /// Logistic regression.
    Logistic {
        /// The shapes of the inputs: `simple`, `chosen`, or what the spec sets for all inputs.
        shapes: String,
        /// The L2 penalty, which is scikit-learn's 1 / C.
        l2: f64,
    },
    /// Boosted trees.
    Gbdt(Growth),
}

impl Configuration {
    /// Describes the configuration in a few words.
    pub fn describe(&self) -> String {
        match self {
            Self::Logistic { shapes, l2 } => format!("logistic, {shapes} shapes, L2 {l2}"),
            Self::Gbdt(growth) => format!(
                "{} trees of {} leaves, rate {}",
                growth.trees, growth.leaves, growth.learning_rate
            ),
        }
    }
}

/// A calibration with the offset that adjusts it to a base rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibrated {
    /// The calibration of the raw logit.
    pub calibration: Calibration,
    /// The offset that is added to the calibrated logit. It is a forecast of the base rate.
    pub offset: f64,
    /// The standard error of the offset.
    #[serde(default)]
    pub offset_error: f64,
}

impl Calibrated {
    /// Computes the probability of a raw logit.
    pub fn probability(&self, raw: f64) -> f64 {
        self.calibration.probability(raw, self.offset)
    }
}

/// A trained classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierArtifact {
    /// The spec that the classifier was trained with.
    pub spec: ClassifierSpec,
    /// The class whose probability the classifier predicts.
    pub positive_class: String,
    /// The rule for which customers are eligible.
    pub eligible: ResolvedEligible,
    /// The snapshots that were used.
    pub schedule: Schedule,
    /// The aggregation that computes the days since the last event of the label's kind.
    pub recency: Aggregation,
    /// The features and everything that they depend on, in the order of computation.
    pub definitions: Vec<Definition>,
    /// The inputs in the order of the matrix columns, with their transformation.
    pub preprocessing: Preprocessing,
    /// The names of the columns that the coefficients belong to.
    pub terms: Vec<String>,
    /// The estimator, which turns columns into logits.
    pub estimator: Estimator,
    /// The configuration that was chosen.
    pub configuration: Configuration,
    /// The calibration that ships. It is fitted on every snapshot that was predicted out of time,
    /// including the test snapshot.
    pub shipped: Calibrated,
    /// The calibration that was tested. It is fitted on the snapshots of the folds and the calibration
    /// snapshot.
    pub tested: Calibrated,
    /// The observed rate of y = 1 by recency, for customers who have a past event but are not eligible.
    /// Recency is in days, negative if the label is a presence. `None` if training saw no such customers.
    pub lapsed: Option<Isotonic>,
    /// The distribution of each raw input over the training rows, from which drift is measured.
    pub reference: Vec<Distribution>,
    /// The metrics on the test snapshot, with the tested calibration.
    pub metrics: Metrics,
}

impl ClassifierArtifact {
    /// Adds the features that the model reads from the events to a plan.
    pub fn plan(&self, mut plan: FeaturePlan) -> FeaturePlan {
        self.definitions.iter().for_each(|definition| plan.define(definition));
        plan.outputs = self.columns().map(str::to_owned).collect();
        if let ResolvedEligible::Where(condition) = &self.eligible {
            for name in condition.columns() {
                if !plan.outputs.iter().any(|output| output == name) {
                    plan.outputs.push(name.to_owned());
                }
            }
        }
        plan.give(self.recency.clone());
        plan
    }

    /// Lists the features whose definitions have changed or are gone since training.
    pub fn moved_definitions<'a>(&'a self, catalog: &'a Catalog) -> impl Iterator<Item = &'a str> {
        let moved = self.definitions.iter().filter(|definition| {
            let now = catalog.get(definition.column());
            now.is_none_or(|feature| feature.definition != **definition)
        });
        moved.map(Definition::column)
    }

    /// The features among the inputs.
    fn columns(&self) -> impl Iterator<Item = &str> {
        let inputs = self.preprocessing.inputs.iter();
        inputs.filter(|input| !matches!(input.shape, Shape::Levels(_))).map(|i| i.column.as_str())
    }

    /// The profile attributes among the inputs.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        let inputs = self.preprocessing.inputs.iter();
        inputs.filter(|input| matches!(input.shape, Shape::Levels(_))).map(|i| i.column.as_str())
    }

    /// Builds the raw inputs from computed rows, with levels numbered as in this artifact. An attribute
    /// that the profile no longer has is missing.
    pub fn inputs(&self, rows: &RecordBatch, attributes: &Attributes) -> Result<Matrix> {
        let keys = keys(rows)?;
        let customers: Vec<Option<usize>> = match self.attributes().next() {
            Some(_) => keys.iter().map(|key| key.and_then(|key| attributes.find(key))).collect(),
            None => Vec::new(),
        };
        let columns = self.preprocessing.inputs.iter().map(|input| match &input.shape {
            Shape::Levels(levels) => {
                let level = |customer: &Option<usize>| {
                    levels.encode(attributes.level(&input.column, *customer))
                };
                Ok(customers.iter().map(level).collect())
            }
            _ => column(rows, &input.column),
        });
        let columns: Vec<Vec<f64>> = columns.collect::<Result<_>>()?;
        let mut inputs = Matrix::with_capacity(columns.len(), rows.num_rows());
        for row in 0..rows.num_rows() {
            inputs.push(columns.iter().map(|column| column[row]));
        }
        Ok(inputs)
    }
}

/// Computes the drift of each input of a preprocessing. The input that has moved most comes first.
pub fn drifts(
    preprocessing: &Preprocessing,
    earlier: &[Distribution],
    later: &[Distribution],
) -> Vec<Drift> {
    let bins = earlier.iter().zip(later);
    let inputs = preprocessing.inputs.iter().zip(bins);
    let mut list: Vec<Drift> =
        inputs.map(|(input, (earlier, later))| drift(&input.column, earlier, later)).collect();
    list.sort_by(|a, b| b.psi.total_cmp(&a.psi).then_with(|| a.column.cmp(&b.column)));
    list
}

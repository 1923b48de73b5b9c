//! A trained classifier, applied to computed rows.

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

/// Who is eligible, with nothing left to choose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResolvedEligible {
    /// A predicate over the artifact's features.
    Where(Expression),
    /// An event of the label's kind within this time.
    Within(Duration),
}

/// The snapshots of one training run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Ascending; their outcomes end by the calibration snapshot. Every choice is made on them.
    pub training: Vec<Instant>,
    /// Ascending; after the training snapshots and before the calibration snapshot. Their outcomes end
    /// by the test snapshot, so that what is tested may learn from them.
    #[serde(default)]
    pub later: Vec<Instant>,
    /// The base rate is that of this snapshot, and with the folds' snapshots it fits the calibration,
    /// predicted by a model that has not seen it.
    pub calibration: Instant,
    /// Scored once, for the report.
    pub test: Instant,
}

impl Schedule {
    /// All snapshots in time order.
    pub fn all(&self) -> Vec<Instant> {
        let before = self.training.iter().chain(&self.later).copied();
        before.chain([self.calibration, self.test]).collect()
    }
}

/// A way to fit a classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "algorithm")]
pub enum Configuration {
    /// Logistic regression.
    Logistic {
        /// `simple`, `chosen`, or what the spec asks for everywhere.
        shapes: String,
        /// The L2 penalty, scikit-learn's 1 / C.
        l2: f64,
    },
    /// Boosted trees.
    Gbdt(Growth),
}

impl Configuration {
    /// In a few words.
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

/// A calibration with the offset that moves it to a base rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibrated {
    /// Of the raw logit.
    pub calibration: Calibration,
    /// Added to the calibrated logit.
    pub offset: f64,
}

impl Calibrated {
    /// The probability of a raw logit.
    pub fn probability(&self, raw: f64) -> f64 {
        self.calibration.probability(raw, self.offset)
    }
}

/// A trained classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierArtifact {
    /// The spec it was trained with.
    pub spec: ClassifierSpec,
    /// The class whose probability is given.
    pub positive_class: String,
    /// For whom it is defined.
    pub eligible: ResolvedEligible,
    /// Snapshots used.
    pub schedule: Schedule,
    /// Days since the last event of the label's kind.
    pub recency: Aggregation,
    /// Features and all they depend on, in computing order.
    pub definitions: Vec<Definition>,
    /// Inputs in the order of the matrix columns, with their transformation.
    pub preprocessing: Preprocessing,
    /// Names of the columns that the coefficients belong to.
    pub terms: Vec<String>,
    /// Columns to logits.
    pub estimator: Estimator,
    /// What was chosen.
    pub configuration: Configuration,
    /// What ships: fitted on every snapshot predicted out of time, the test snapshot among them.
    pub shipped: Calibrated,
    /// What was tested: fitted on the folds' snapshots and the calibration snapshot.
    pub tested: Calibrated,
    /// For those with a past event outside eligibility: the observed rate of y = 1 by recency (in
    /// days, negative where the label is presence); None where training saw none.
    pub lapsed: Option<Isotonic>,
    /// How each raw input is distributed over the training rows: what drift is measured against.
    pub reference: Vec<Distribution>,
    /// On the test snapshot, as tested.
    pub metrics: Metrics,
}

impl ClassifierArtifact {
    /// Adds to a plan what the model reads of the events.
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

    /// The features whose definitions are others by now.
    pub fn moved_definitions<'a>(&'a self, catalog: &'a Catalog) -> impl Iterator<Item = &'a str> {
        let moved = self.definitions.iter().filter(|definition| {
            let now = catalog.get(definition.column());
            now.is_none_or(|feature| feature.definition != **definition)
        });
        moved.map(Definition::column)
    }

    /// The feature columns among its inputs.
    fn columns(&self) -> impl Iterator<Item = &str> {
        let inputs = self.preprocessing.inputs.iter();
        inputs.filter(|input| !matches!(input.shape, Shape::Levels(_))).map(|i| i.column.as_str())
    }

    /// The profile attributes among its inputs.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        let inputs = self.preprocessing.inputs.iter();
        inputs.filter(|input| matches!(input.shape, Shape::Levels(_))).map(|i| i.column.as_str())
    }

    /// The raw inputs of computed rows, levels as this artifact numbers them; an attribute that the
    /// profile no longer has is missing.
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

/// The drift of each input of a preprocessing, furthest first.
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

//! Artifacts: what training leaves behind and scoring reads, as JSON that a person can read too.
//!
//! An artifact embeds the checked definitions of the features it was trained with; scoring computes
//! those, whatever the project's files say by then.

use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::evaluation::bootstrap::Interval;
use super::evaluation::metrics::Metrics;
use super::evaluation::tables::Slice;
use super::evaluation::{Baseline, Evaluation, Grade};
use super::lifetime_value::LifetimeValueArtifact;
use super::matured::Matured;
use super::promotion::Gate;
use super::schedule::Schedule;
use super::selection::{Configuration, Tried, TriedShape};
use super::skew::Skew;
use crate::error::{Error, Result};
use crate::expression::Expression;
use crate::features::catalog::{Aggregation, Catalog, Definition};
use crate::features::drift::{Distribution, Drift};
use crate::features::plan::{AsOf, FeaturePlan, Interactions};
use crate::features::read::column;
use crate::models::affinity::{ItemFactors, Ranks};
use crate::models::calibration::{Calibration, Isotonic};
use crate::models::engagement::Ecdf;
use crate::models::estimator::Estimator;
use crate::models::matrix::Matrix;
use crate::models::preprocessing::shape::Shape;
use crate::models::preprocessing::{Dropped, Preprocessing};
use crate::models::rfm::Rfm;
use crate::models::spec::{AffinitySpec, ClassifierSpec, EngagementSpec, RfmSpec};
use crate::sources::attributes::Attributes;
use crate::sources::contract::History;
use crate::sources::profile::keys;
use crate::store::{FORMAT_VERSION, Root, Store};
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

/// A trained engagement score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngagementArtifact {
    /// The spec it was trained with.
    pub spec: EngagementSpec,
    /// Decayed activity, active days, channels.
    pub aggregations: Vec<Aggregation>,
    /// Of the activity of customers who have any.
    pub ecdf: Ecdf,
}

/// Trained RFM scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RfmArtifact {
    /// The spec it was trained with.
    pub spec: RfmSpec,
    /// Recency, frequency, spend, refunds.
    pub aggregations: Vec<Aggregation>,
    /// Cut points over buyers.
    pub rfm: Rfm,
    /// How many buyers.
    pub buyers: usize,
}

/// Trained taste.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AffinityArtifact {
    /// The spec it was trained with.
    pub spec: AffinitySpec,
    /// What it needs of the events.
    pub interactions: Interactions,
    /// The share of a customer's own interactions in the score of an item.
    pub own: f64,
    /// Item factors.
    pub model: ItemFactors,
    /// How customers' scores of each item were distributed.
    #[serde(default)]
    pub ranks: Ranks,
    /// The version whose space the factors were turned to.
    #[serde(default)]
    pub aligned_to: Option<String>,
}

/// What was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trained {
    /// Churn, propensity and others.
    Classifier(Box<ClassifierArtifact>),
    /// The engagement score.
    Engagement(EngagementArtifact),
    /// RFM.
    Rfm(RfmArtifact),
    /// Taste.
    Affinity(Box<AffinityArtifact>),
    /// Lifetime value.
    LifetimeValue(Box<LifetimeValueArtifact>),
}

/// `model.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Of this file.
    pub format_version: u32,
    /// The model's name.
    pub name: String,
    /// As-of and hash of the model: what is no other model, such as rows in another order, gives no
    /// other version.
    pub version: String,
    /// The as-of of the training.
    pub as_of: Instant,
    /// Up to when what had been ingested was used.
    pub known_at: Instant,
    /// Hash of the event and profile files.
    pub data_fingerprint: String,
    /// Hash of the spec.
    pub spec_fingerprint: String,
    /// The model.
    pub model: Trained,
}

impl Artifact {
    /// Names and versions a trained model.
    pub fn new(name: &str, as_of: AsOf, data: &str, model: Trained) -> Self {
        let spec = match &model {
            Trained::Classifier(model) => serde_json::to_string(&model.spec),
            Trained::Engagement(model) => serde_json::to_string(&model.spec),
            Trained::Rfm(model) => serde_json::to_string(&model.spec),
            Trained::Affinity(model) => serde_json::to_string(&model.spec),
            Trained::LifetimeValue(model) => serde_json::to_string(&model.spec),
        };
        let spec = hash(spec.unwrap_or_default().as_bytes());
        let text = serde_json::to_string(&model).unwrap_or_default();
        let version = format!("{}-{}", as_of.at.folder(), &hash(text.as_bytes())[..8]);
        Self {
            format_version: FORMAT_VERSION,
            name: name.to_owned(),
            version,
            as_of: as_of.at,
            known_at: as_of.known_at,
            data_fingerprint: data.to_owned(),
            spec_fingerprint: spec,
            model,
        }
    }

    /// Reads and checks one version of a model.
    pub fn load(store: &Store, name: &str, version: &str) -> Result<Self> {
        let relative = format!("models/{name}/{version}/model.json");
        let artifact: Self = store.read_json(&relative)?;
        if let Trained::Classifier(model) = &artifact.model {
            let terms: Vec<String> =
                model.preprocessing.terms().into_iter().map(|(n, _)| n).collect();
            let fits = model.estimator.width().is_none_or(|width| width == terms.len());
            if terms != model.terms || !fits {
                return Err(Error::configuration(
                    format!(
                        "{}: its coefficients do not fit its inputs",
                        store.file(&relative).display()
                    ),
                    "the file was edited; train again",
                ));
            }
        }
        Ok(artifact)
    }

    /// The version to score `as_of` with: the champion if it was trained by then and with no more
    /// than was known then, else the latest version that was and is not held back. A later one knows
    /// outcomes from after the as-of.
    ///
    /// # Errors
    /// That the champion, if it is the one, cannot be read; another version is passed over.
    pub fn usable(store: &Store, root: &Root, name: &str, as_of: AsOf) -> Result<Option<Self>> {
        let by_then = |version: &&String| {
            Self::trained_at(version).is_some_and(|trained| trained <= as_of.at)
        };
        let known = |artifact: &Self| artifact.known_at <= as_of.known_at;
        if let Some(version) = root.champions.get(name).filter(by_then) {
            let champion = Self::load(store, name, version)?;
            if known(&champion) {
                return Ok(Some(champion));
            }
        }
        let mut versions: Vec<&String> =
            root.trained.get(name).into_iter().flatten().filter(by_then).collect();
        versions.retain(|version| !root.is_held_back(name, version));
        // Of one as-of the last one trained, because sorting keeps its place.
        versions.sort_by_key(|version| Self::trained_at(version));
        let mut others = versions.into_iter().rev().filter_map(|v| Self::load(store, name, v).ok());
        Ok(others.find(known))
    }

    /// The as-of of the training, as the version's name has it.
    pub fn trained_at(version: &str) -> Option<Instant> {
        version.rsplit_once('-').and_then(|(folder, _)| Instant::from_folder(folder))
    }
}

fn hash(bytes: &[u8]) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(bytes))
}

//! Artifacts: what training leaves behind and scoring reads, as JSON that a person can read too.
//!
//! An artifact embeds the checked definitions of the features it was trained with; scoring computes
//! those, whatever the project's files say by then.

use serde::{Deserialize, Serialize};

use super::evaluation::{Bin, Metrics, Ranking};
use super::schedule::Schedule;
use crate::error::{Error, Result};
use crate::expression::Expression;
use crate::features::catalog::{Aggregation, Definition};
use crate::features::plan::{AsOf, Interactions};
use crate::models::affinity::ItemFactors;
use crate::models::calibration::{Isotonic, Platt};
use crate::models::engagement::Ecdf;
use crate::models::logistic::Logistic;
use crate::models::preprocessing::Preprocessing;
use crate::models::rfm::Rfm;
use crate::models::spec::{AffinitySpec, ClassifierSpec, EngagementSpec, RfmSpec};
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

/// A strength of the penalty that was tried, and its mean log loss over the folds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    /// The L2 penalty per row.
    pub l2: f64,
    /// Per fold, in time order.
    pub log_loss: Vec<f64>,
}

/// `metrics.json` of a classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierMetrics {
    /// Of this file.
    pub format_version: u32,
    /// Per snapshot in time order.
    pub funnel: Vec<Funnel>,
    /// Penalties tried by purged time-ordered folds inside training.
    pub tried: Vec<Tried>,
    /// On the test snapshot, before the calibration was refitted with it.
    pub test: Metrics,
    /// Recency alone on the same rows.
    pub recency_alone: Ranking,
    /// Ten bins of the test snapshot.
    pub reliability: Vec<Bin>,
    /// The calibration that was tested.
    pub tested_calibration: Platt,
    /// The base-rate offset that was tested.
    pub tested_offset: f64,
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
    /// Coefficients in the order of `terms`.
    pub logistic: Logistic,
    /// The penalty that was chosen.
    pub l2: f64,
    /// What ships: fitted on calibration and test rows.
    pub calibration: Platt,
    /// Added to the calibrated logit.
    pub offset: f64,
    /// For those with a past event outside eligibility: the observed rate of y = 1 by recency (in
    /// days, negative where the label is presence); None where training saw none.
    pub lapsed: Option<Isotonic>,
    /// On the test snapshot.
    pub metrics: Metrics,
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
    /// Item factors.
    pub model: ItemFactors,
    /// Customers with interactions that it was fitted on.
    pub customers: usize,
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
    Affinity(AffinityArtifact),
}

/// `model.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Of this file.
    pub format_version: u32,
    /// The model's name.
    pub name: String,
    /// As-of and hash of all that follows.
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
        };
        let spec = hash(spec.unwrap_or_default().as_bytes());
        let text = serde_json::to_string(&model).unwrap_or_default();
        let version =
            format!("{}-{}", as_of.at.folder(), &hash(format!("{data}{text}").as_bytes())[..8]);
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
            if terms != model.terms || terms.len() != model.logistic.coefficients.len() {
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
    /// than was known then, else the latest version that was. A later one knows outcomes from after
    /// the as-of.
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

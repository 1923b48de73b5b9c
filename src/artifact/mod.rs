//! Artifacts: what training leaves behind and scoring reads, as JSON that a person can read too.
//!
//! An artifact embeds the checked definitions of the features it was trained with; scoring computes
//! those, whatever the project's files say by then. A file a kind of model.

mod affinity;
mod classifier;
mod engagement;
pub mod lifetime_value;
pub mod purchases;
pub mod rfm;

use serde::{Deserialize, Serialize};

pub use self::affinity::AffinityArtifact;
pub use self::classifier::{
    Calibrated, ClassifierArtifact, Configuration, ResolvedEligible, Schedule, drifts,
};
pub use self::engagement::EngagementArtifact;
pub use self::lifetime_value::LifetimeValueArtifact;
pub use self::rfm::RfmArtifact;
use crate::error::{Error, Result};
use crate::features::plan::AsOf;
use crate::store::{FORMAT_VERSION, Root, Store};
use crate::time::Instant;

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
    /// Affinity.
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
            let fits = model.estimator.fits(terms.len());
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

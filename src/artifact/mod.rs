//! Artifacts: the output of training that scoring reads, as JSON that is also readable by people.
//!
//! An artifact embeds the checked definitions of the features that it was trained with. Scoring computes
//! these, even if the files of the project have changed since. There is one module for each kind of
//! model.

mod affinity;
mod classifier;
mod engagement;
pub mod lifetime_value;
pub mod purchases;
pub mod rfm;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use self::affinity::AffinityArtifact;
pub use self::classifier::{
    Calibrated, ClassifierArtifact, Configuration, ResolvedEligible, Schedule, drifts,
};
pub use self::engagement::EngagementArtifact;
pub use self::lifetime_value::LifetimeValueArtifact;
pub use self::rfm::RfmArtifact;
use crate::error::Result;
use crate::features::plan::AsOf;
use crate::store::{FORMAT_VERSION, Root, Store, StoreProblem, checksum, unless_damaged};
use crate::time::Instant;

/// The trained model of an artifact, by kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trained {
    /// A classifier, such as churn or propensity.
    Classifier(Box<ClassifierArtifact>),
    /// The engagement score.
    Engagement(EngagementArtifact),
    /// The RFM scores.
    Rfm(RfmArtifact),
    /// The affinity model.
    Affinity(Box<AffinityArtifact>),
    /// The lifetime value model.
    LifetimeValue(Box<LifetimeValueArtifact>),
}

/// The content of `model.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// The format version of this file.
    pub format_version: u32,
    /// The name of the model.
    pub name: String,
    /// The version: the as-of and a hash of the model. Training that gives the same model, such as on
    /// rows in another order, gives the same version.
    pub version: String,
    /// The as-of of the training.
    pub as_of: Instant,
    /// The known-at of the training: only data that was ingested before it was used.
    pub known_at: Instant,
    /// The hash of the event and profile files.
    pub data_fingerprint: String,
    /// The hash of the spec.
    pub spec_fingerprint: String,
    /// The trained model.
    pub model: Trained,
}

impl Artifact {
    /// Names a trained model and computes its version.
    pub fn new(name: &str, as_of: AsOf, data: &str, model: Trained) -> Self {
        let spec = match &model {
            Trained::Classifier(model) => serde_json::to_string(&model.spec),
            Trained::Engagement(model) => serde_json::to_string(&model.spec),
            Trained::Rfm(model) => serde_json::to_string(&model.spec),
            Trained::Affinity(model) => serde_json::to_string(&model.spec),
            Trained::LifetimeValue(model) => serde_json::to_string(&model.spec),
        };
        let spec = checksum(spec.unwrap_or_default().as_bytes());
        Self {
            format_version: FORMAT_VERSION,
            name: name.to_owned(),
            version: version(as_of.at, &model),
            as_of: as_of.at,
            known_at: as_of.known_at,
            data_fingerprint: data.to_owned(),
            spec_fingerprint: spec,
            model,
        }
    }

    /// Reads and checks one version of a model.
    pub fn load(store: &Store, root: &Root, name: &str, version: &str) -> Result<Self> {
        let relative = path(name, version);
        let artifact: Self = store.read_json(root, &relative)?;
        artifact.check(&store.file_in_parts(root, &relative)?)?;
        Ok(artifact)
    }

    /// Reads one version of a model whose file was edited after its training, as the version that it is now.
    pub fn edited(store: &Store, root: &Root, name: &str, from: &str) -> Result<Self> {
        let relative = path(name, from);
        let artifact: Self = store.read_edited_json(root, &relative)?;
        artifact.check(&store.file_in_parts(root, &relative)?)?;
        let version = version(artifact.as_of, &artifact.model);
        Ok(Self { version, name: name.to_owned(), ..artifact })
    }

    /// Checks that the numbers of a classifier belong to its inputs.
    fn check(&self, path: &Path) -> Result<()> {
        let Trained::Classifier(model) = &self.model else { return Ok(()) };
        let terms: Vec<String> = model.preprocessing.terms().into_iter().map(|(n, _)| n).collect();
        let fits = model.estimator.fits(terms.len());
        match terms == model.terms && fits {
            true => Ok(()),
            false => Err(StoreProblem::EditedModel { path: path.to_owned() }.into()),
        }
    }

    /// Finds the version to score `as_of` with.
    ///
    /// It is the champion if the champion was trained at or before the as-of, and with no more than was
    /// known then. Otherwise it is the latest such version that is not held back. A later version knows
    /// outcomes from after the as-of.
    ///
    /// # Errors
    /// Returns an error if the champion qualifies by its as-of but cannot be read, or if a version is damaged. Other
    /// versions that cannot be read are skipped.
    pub fn usable(store: &Store, root: &Root, name: &str, as_of: AsOf) -> Result<Option<Self>> {
        let by_then = |version: &&String| {
            Self::trained_at(version).is_some_and(|trained| trained <= as_of.at)
        };
        let known = |artifact: &Self| artifact.known_at <= as_of.known_at;
        if let Some(version) = root.champions.get(name).filter(by_then) {
            let champion = Self::load(store, root, name, version)?;
            if known(&champion) {
                return Ok(Some(champion));
            }
        }
        let mut versions: Vec<&String> =
            root.trained.get(name).into_iter().flatten().filter(by_then).collect();
        versions.retain(|version| !root.is_held_back(name, version));
        // Sorting is stable, so of several versions with one as-of the last trained one is taken.
        versions.sort_by_key(|version| Self::trained_at(version));
        for version in versions.into_iter().rev() {
            let other = unless_damaged(Self::load(store, root, name, version))?;
            if let Some(other) = other.filter(known) {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// Reads the as-of of the training from the name of the version.
    pub fn trained_at(version: &str) -> Option<Instant> {
        version.rsplit_once('-').and_then(|(folder, _)| Instant::from_folder(folder))
    }
}

/// The name of a version: its as-of and a hash of the model.
fn version(as_of: Instant, model: &Trained) -> String {
    let text = serde_json::to_string(model).unwrap_or_default();
    format!("{}-{}", as_of.folder(), &checksum(text.as_bytes())[..8])
}

/// The file of a version in the store.
pub fn path(name: &str, version: &str) -> String {
    format!("models/{name}/{version}/model.json")
}

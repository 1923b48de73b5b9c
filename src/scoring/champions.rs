//! The versions that score, one for each model of the project.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::artifact::{
    AffinityArtifact, Artifact, ClassifierArtifact, EngagementArtifact, LifetimeValueArtifact,
    RfmArtifact, Trained,
};
use crate::schema::profile_field;
use crate::sources::attributes::are_levels;
use crate::sources::profile::ProfilePlan;

/// A version of a model that scores.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Champion<T> {
    /// The name of the model.
    pub name: String,
    /// The name of the version.
    pub version: String,
    /// The trained model.
    pub artifact: T,
}

/// The versions that score, by kind of model.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Champions {
    /// The classifiers, in the order of the project's models.
    pub classifiers: Vec<Champion<ClassifierArtifact>>,
    /// The engagement score; `None` if the project has none.
    pub engagement: Option<Champion<EngagementArtifact>>,
    /// The RFM scores; `None` if the project has none.
    pub rfm: Option<Champion<RfmArtifact>>,
    /// The lifetime value model; `None` if the project has none.
    pub lifetime_value: Option<Champion<LifetimeValueArtifact>>,
    /// The affinity model; `None` if the project has none.
    pub affinity: Option<Champion<AffinityArtifact>>,
}

/// A model that gives every customer a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoredModel<'a> {
    /// The name of the model.
    pub name: &'a str,
    /// The version that scores.
    pub version: &'a str,
    /// The profile field that the score fills, or [`RFM`] for the sum of the RFM scores, which fills no
    /// field.
    pub field: &'a str,
}

/// The stand-in for a profile field of the sum of the three RFM scores.
pub const RFM: &str = "rfm";

impl Champions {
    /// Adds a version to the list of its kind, or sets it.
    pub fn add(&mut self, artifact: Artifact) {
        let (name, version) = (artifact.name, artifact.version);
        match artifact.model {
            Trained::Classifier(model) => {
                self.classifiers.push(Champion { name, version, artifact: *model });
            }
            Trained::Engagement(artifact) => {
                self.engagement = Some(Champion { name, version, artifact });
            }
            Trained::Rfm(artifact) => self.rfm = Some(Champion { name, version, artifact }),
            Trained::LifetimeValue(model) => {
                self.lifetime_value = Some(Champion { name, version, artifact: *model });
            }
            Trained::Affinity(model) => {
                self.affinity = Some(Champion { name, version, artifact: *model });
            }
        }
    }

    /// Lists the models that give a score, in the order in which scores are written.
    pub fn scored(&self) -> Vec<ScoredModel<'_>> {
        fn of<'a, T>(champion: &'a Champion<T>, field: &'a str) -> ScoredModel<'a> {
            ScoredModel { name: &champion.name, version: &champion.version, field }
        }
        let mut list: Vec<ScoredModel> = Vec::new();
        list.extend(self.classifiers.iter().map(|c| of(c, &c.artifact.spec.writes)));
        list.extend(self.engagement.iter().map(|champion| of(champion, "engagement_score")));
        list.extend(self.rfm.iter().map(|champion| of(champion, RFM)));
        list.extend(self.lifetime_value.iter().map(|champion| of(champion, "lifetime_value")));
        debug_assert!(list.iter().all(|m| m.field == RFM || profile_field(m.field).is_some()));
        list
    }

    /// Lists the profile attributes that the versions read and that the profile has.
    pub fn attributes<'a>(&'a self, profile: &'a ProfilePlan) -> Vec<&'a str> {
        let all = self.classifiers.iter().flat_map(|champion| champion.artifact.attributes());
        let all: BTreeSet<&str> = all.collect();
        let levels = |name: &&str| profile.type_of(name).is_some_and(|ty| are_levels(name, &ty));
        all.into_iter().filter(levels).collect()
    }

    /// Maps the name of each model to its version.
    pub fn versions(&self) -> BTreeMap<&str, &str> {
        let scored = self.scored();
        let scored = scored.into_iter().map(|model| (model.name, model.version));
        let affinity = self.affinity.iter().map(|c| (c.name.as_str(), c.version.as_str()));
        scored.chain(affinity).collect()
    }
}

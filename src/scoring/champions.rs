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

/// A version of a model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Champion<T> {
    /// The model's name.
    pub name: String,
    /// The version.
    pub version: String,
    /// What was trained.
    pub artifact: T,
}

/// The versions that score.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Champions {
    /// In the order of the project's models.
    pub classifiers: Vec<Champion<ClassifierArtifact>>,
    /// Of the model of engagement.
    pub engagement: Option<Champion<EngagementArtifact>>,
    /// Of recency, frequency and monetary value.
    pub rfm: Option<Champion<RfmArtifact>>,
    /// Of lifetime value.
    pub lifetime_value: Option<Champion<LifetimeValueArtifact>>,
    /// Of affinity.
    pub affinity: Option<Champion<AffinityArtifact>>,
}

/// A model that gives every customer a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoredModel<'a> {
    /// The model's name.
    pub name: &'a str,
    /// The version that scores.
    pub version: &'a str,
    /// The profile field that the score fills; [`RFM`], which is no field, for the sum of its scores.
    pub field: &'a str,
}

/// What takes the place of a profile field for the sum of the three scores of RFM.
pub const RFM: &str = "rfm";

impl Champions {
    /// Adds a version.
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

    /// The models that give a score, in the order in which scores are written.
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

    /// The profile attributes that they read and the profile has.
    pub fn attributes<'a>(&'a self, profile: &'a ProfilePlan) -> Vec<&'a str> {
        let all = self.classifiers.iter().flat_map(|champion| champion.artifact.attributes());
        let all: BTreeSet<&str> = all.collect();
        let levels = |name: &&str| profile.type_of(name).is_some_and(|ty| are_levels(name, &ty));
        all.into_iter().filter(levels).collect()
    }

    /// The version of each model.
    pub fn versions(&self) -> BTreeMap<&str, &str> {
        let scored = self.scored();
        let scored = scored.into_iter().map(|model| (model.name, model.version));
        let affinity = self.affinity.iter().map(|c| (c.name.as_str(), c.version.as_str()));
        scored.chain(affinity).collect()
    }
}

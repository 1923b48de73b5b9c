//! The artifact of an affinity model.

use serde::{Deserialize, Serialize};

use crate::features::plan::Interactions;
use crate::models::affinity::{Ranks, Recommender};
use crate::spec::AffinitySpec;

/// A trained affinity model: the factors of items, with which customers are folded in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AffinityArtifact {
    /// The spec that the model was trained with.
    pub spec: AffinitySpec,
    /// The interactions that the model reads from the events.
    pub interactions: Interactions,
    /// What items are scored by.
    pub model: Recommender,
    /// The distribution of customers' scores for each item.
    #[serde(default)]
    pub ranks: Ranks,
    /// The version towards which the factors were rotated; `None` if they were not.
    #[serde(default)]
    pub aligned_to: Option<String>,
}

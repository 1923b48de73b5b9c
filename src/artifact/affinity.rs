//! Trained affinity.

use serde::{Deserialize, Serialize};

use crate::features::plan::Interactions;
use crate::models::affinity::{ItemFactors, Ranks};
use crate::spec::AffinitySpec;

/// Trained affinity: factors of items, into whose space customers are folded.
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

//! What is known of a trained affinity version: the content of its `metrics.json`.

use serde::{Deserialize, Serialize};

use super::choice::Step;
use super::ranking::{LEAST_JUDGED, Ranking};
use crate::models::affinity::{Alignment, Blend};
use crate::time::Instant;
use crate::training::promotion::Gate;

/// The name of the ranking by the factors alone, which are one part of this model's ranking.
pub(super) const FACTORS: &str = "its factors alone";

/// The results of the test for one choice of items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Customers with at least one interaction to predict.
    pub customers: usize,
    /// The ranking of this model, followed by the simpler ones.
    pub rankings: Vec<Ranking>,
    /// The ranking by the settings of the champion, fitted on the same interactions. `None` without a champion, if it
    /// has the same settings, or if it reads other interactions.
    #[serde(default)]
    pub champion: Option<Ranking>,
}

impl Setting {
    /// The ranking with the highest NDCG among those that need no model.
    pub fn best_simple(&self) -> Option<&Ranking> {
        let others = self.rankings.iter().skip(1).filter(|other| other.name != FACTORS);
        others.reduce(|a, b| if b.ndcg > a.ndcg { b } else { a })
    }
}

/// The test of the ranking on the last horizon before the as-of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tested {
    /// The end of the interactions that the tested factors were fitted on.
    pub from: Instant,
    /// The end of the interactions that were predicted.
    pub until: Instant,
    /// The result over all items that may be recommended.
    pub all: Setting,
    /// The result over items that the customer had not interacted with within `new_after`.
    pub new: Setting,
}

/// The content of `metrics.json` of an affinity version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AffinityMetrics {
    /// The format version of this file.
    pub format_version: u32,
    /// The as-of of the training, up to which interactions were read.
    pub as_of: Instant,
    /// The number of items that were factorized.
    pub items: usize,
    /// The number of customers that the items were factorized with.
    pub customers: usize,
    /// The weights of the parts of an item's score.
    pub blend: Blend,
    /// The instants whose following interactions chose the weights. It is empty if the weights could not be chosen.
    pub chosen_at: Vec<Instant>,
    /// The steps by which the weights were found, with the NDCG@10 of each at these instants.
    pub steps: Vec<Step>,
    /// The version that the vectors were rotated to, and how near they are to it. `None` for the first
    /// version, and if the vectors differ in length or fewer than half of the items are in both versions.
    #[serde(default)]
    pub aligned: Option<(String, Alignment)>,
    /// The test of the ranking; `None` if the history is too short or there are too few customers to judge on.
    pub tested: Option<Tested>,
    /// The number of customers to judge on if they are too few.
    #[serde(default)]
    pub judged: Option<usize>,
    /// The conditions for the version to come into use.
    pub gate: Gate,
}

/// The reason why a ranking was not tested, where `judged` is the number of customers if they are too few.
pub(super) fn untested(judged: Option<usize>) -> String {
    match judged {
        Some(customers) => format!(
            "Only {customers} customers had interactions before the test window and new ones in it, and {LEAST_JUDGED} are needed"
        ),
        None => "The history is too short to hold out a part of it".to_owned(),
    }
}

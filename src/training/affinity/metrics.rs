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

impl AffinityMetrics {
    /// Describes in sentences how well the model predicted the last horizon.
    pub fn sentences(&self) -> Vec<String> {
        let chosen = match self.chosen_at.first() {
            Some(first) => {
                format!("The weights are those that best predicted what followed {first}")
            }
            None => "The weights could not be chosen by past interactions".to_owned(),
        };
        let blend = format!("The score of an item is {}. {chosen}.", self.blend);
        let near = self.aligned.as_ref().map(|(version, near)| {
            format!(
                "Its vectors were turned to those of {version}: over {} items the mean cosine went from {:.2} to {:.2}.",
                near.items, near.before, near.after
            )
        });
        let tested = match &self.tested {
            Some(tested) => {
                let all = sentence("Of all items", &tested.all);
                all.into_iter()
                    .chain(sentence("Of items new to the customer", &tested.new))
                    .collect()
            }
            None => vec![format!("{}, so the ranking is not tested.", untested(self.judged))],
        };
        tested.into_iter().chain([blend]).chain(near).collect()
    }
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

fn sentence(what: &str, setting: &Setting) -> Option<String> {
    let (own, best) = (setting.rankings.first()?, setting.best_simple()?);
    let (verdict, interval) = match &best.difference {
        Some(found) => (
            match (found.interval.low > 0.0, found.interval.high < 0.0) {
                (true, _) => "better than",
                (_, true) => "worse than",
                _ => "not significantly different from",
            },
            format!(
                " (difference {:+.4}, 95 % interval {:+.4} to {:+.4})",
                found.difference, found.interval.low, found.interval.high
            ),
        ),
        None if own.ndcg > best.ndcg => ("better than", String::new()),
        None => ("no better than", String::new()),
    };
    Some(format!(
        "{what} its ranking is {verdict} {}, the best without a model: NDCG@10 {:.4} against {:.4}{interval} over {} customers.",
        best.name, own.ndcg, best.ndcg, setting.customers
    ))
}

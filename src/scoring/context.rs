//! All that the stages of scoring need beside the rows of their shard: checked, and serializable, so that a
//! stage can run in another process.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::champions::Champions;
use crate::features::catalog::Catalog;
use crate::features::plan::{AsOf, FeaturePlan};
use crate::models::affinity::Offer;
use crate::money::Scale;
use crate::profile::{MergeRules, Writeback};
use crate::segments::Segments;
use crate::time::{Instant, Zone};

/// What the stages of a scoring run know of its project.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScoringContext {
    /// The instant that is scored, and what was known by when.
    pub as_of: AsOf,
    /// Whose calendar days count.
    pub zone: Zone,
    /// Decimal places of money.
    pub scale: Scale,
    /// What is asked of the events, by the names of the plans.
    pub plans: Vec<FeaturePlan>,
    /// The versions that score.
    pub champions: Champions,
    /// The attributes of the profile that they read.
    pub attributes: Vec<String>,
    /// What may be recommended.
    pub offer: Offer,
    /// The segment rules.
    pub segments: Segments,
    /// How the profile is merged.
    pub merge: MergeRules,
    /// The as-of that segments go on from.
    pub previous: Option<Instant>,
}

impl ScoringContext {
    /// The feature that fills a field of the profile, if there is one.
    pub fn writer(&self, field: &str) -> Option<&str> {
        self.merge.writers.get(field).map(String::as_str)
    }

    /// The features that the second stage reads again: those of segment rules and of fields of the profile.
    pub fn kept_features(&self) -> BTreeSet<&str> {
        let rules = self.segments.rules.iter();
        let named =
            rules.flat_map(|rule| rule.enter.columns().into_iter().chain(rule.stay.columns()));
        let channels = self.merge.writeback.preferred_channel.values().map(String::as_str);
        named.chain(channels).chain(self.merge.writers.values().map(String::as_str)).collect()
    }
}

/// How the profile is merged, by the features of a catalog.
pub fn merge_rules(
    catalog: &Catalog,
    writeback: &Writeback,
    (zone, at): (Zone, Instant),
    is_past: bool,
) -> MergeRules {
    let writers = catalog
        .features
        .iter()
        .filter_map(|feature| Some((feature.writes.clone()?, feature.column().to_owned())));
    let writers: BTreeMap<String, String> = writers.collect();
    MergeRules { as_of: at, zone, writeback: writeback.clone(), writers, is_past }
}

//! The context of a scoring run: everything that the stages need except the rows of their shard. It is
//! checked and serializable, so that a stage can run in another process.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::champions::Champions;
use crate::features::catalog::Catalog;
use crate::features::plan::{AsOf, FeaturePlan};
use crate::models::affinity::Offer;
use crate::money::Scale;
use crate::profile::{MergeRules, Writeback};
use crate::segments::Segments;
use crate::sources::consent::ConsentPolicy;
use crate::time::{Instant, Zone};

/// The checked settings of a project that the stages of a scoring run need.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScoringContext {
    /// The as-of that is scored, with its known-at.
    pub as_of: AsOf,
    /// The time zone of calendar days.
    pub zone: Zone,
    /// The number of decimal places of money.
    pub scale: Scale,
    /// The plans that the events are asked for. Their rows are found by the names of the plans.
    pub plans: Vec<FeaturePlan>,
    /// The versions that score.
    pub champions: Champions,
    /// The profile attributes that these versions read.
    pub attributes: Vec<String>,
    /// The items that may be recommended.
    pub offer: Offer,
    /// Which consent scoring needs.
    pub consent: ConsentPolicy,
    /// The segment rules.
    pub segments: Segments,
    /// The rules by which the profile is merged.
    pub merge: MergeRules,
    /// The as-of whose segments are continued; `None` if there is none.
    pub previous: Option<Instant>,
}

impl ScoringContext {
    /// The feature that fills a field of the profile; `None` if no feature does.
    pub fn writer(&self, field: &str) -> Option<&str> {
        self.merge.writers.get(field).map(String::as_str)
    }

    /// Lists the features that the second stage reads again: those of segment rules and those that fill
    /// profile fields.
    pub fn kept_features(&self) -> BTreeSet<&str> {
        let rules = self.segments.rules.iter();
        let named =
            rules.flat_map(|rule| rule.enter.columns().into_iter().chain(rule.stay.columns()));
        let channels = self.merge.writeback.preferred_channel.values().map(String::as_str);
        named.chain(channels).chain(self.merge.writers.values().map(String::as_str)).collect()
    }
}

/// Builds the rules by which the profile is merged, from the features of a catalog.
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

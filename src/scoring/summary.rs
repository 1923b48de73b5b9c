//! The numbers of a scoring run's report: score distributions compared with the last run, flows between
//! segments, reasons, drift and freshness.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::audience::Audience;
use super::champions::ScoredModel;
use super::ranks::{Bars, Distributed, Ranked};
use super::score::ModelCounts;
use crate::features::drift::Drift;
use crate::features::events::BuildReport;
use crate::segments::{Assigned, Assignment};
use crate::sources::consent::Consent;
use crate::sources::contract::Check;
use crate::time::Instant;

/// The maximum number of reasons that are shown for each model.
const REASONS: usize = 12;

/// The content of `metrics.json` of a scoring run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunMetrics {
    /// The format version of this file.
    pub format_version: u32,
    /// The name of the run.
    pub run: String,
    /// The as-of that was scored.
    pub as_of: Instant,
    /// The as-of that it is compared with; `None` if there is none.
    pub previous: Option<Instant>,
    /// The number of scored customers.
    pub customers: usize,
    /// The numbers of events that were read and left out.
    pub events: BuildReport,
    /// The checks of the contract of profile and events, as in `validate`. It is empty in runs from
    /// before this field existed.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// The time of the latest event that counts.
    pub last_event: Option<Instant>,
    /// The summaries of the models.
    pub models: Vec<ModelSummary>,
    /// The sizes of the segments, in the order of the rules.
    pub segments: Vec<SegmentSize>,
    /// The flows between primary segments. `new` stands for customers who were not there at the last
    /// as-of, and `gone` for customers who are no longer there.
    pub flows: Vec<Flow>,
    /// The pairs of segments that share customers. It is empty in runs from before this field existed.
    #[serde(default)]
    pub overlaps: Vec<Overlap>,
    /// All customers, and then those of each segment, as marketers see them. It is empty in runs from before this
    /// field existed.
    #[serde(default)]
    pub audiences: Vec<Audience>,
    /// The currency of amounts.
    #[serde(default)]
    pub currency: String,
}

/// The summary of the scores of one model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSummary {
    /// The name of the model.
    pub model: String,
    /// The version that scored.
    pub version: String,
    /// The as-of of its training; `None` for a model that is not trained.
    pub trained: Option<Instant>,
    /// The number of customers by basis: model, lapsed, none.
    pub basis: [usize; 3],
    /// The lowest and the highest score by basis; `None` for a basis without scores.
    #[serde(default)]
    pub ranges: [Option<[f64; 2]>; 3],
    /// The mean and the 10th, 50th and 90th percentile of the scores; `None` if there are no scores.
    pub scores: Option<ScoreDistribution>,
    /// The same numbers for the last as-of.
    pub before: Option<ScoreDistribution>,
    /// The drift of the scores since the last as-of; `None` if one of the two has no scores.
    pub moved: Option<Drift>,
    /// The value at which each bar of the histogram begins.
    pub from: Vec<f64>,
    /// The share of the scores in each bar, now and at the last as-of.
    pub shares: [Vec<f64>; 2],
    /// The groups of inputs that are first reasons, with the number of customers and the mean
    /// contribution.
    pub reasons: Vec<(String, usize, f64)>,
    /// The drift of the inputs since training.
    pub drift: Vec<Drift>,
}

/// A summary of a distribution of scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreDistribution {
    /// The mean.
    pub mean: f64,
    /// The 10th percentile.
    pub p10: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
}

/// The number of customers in a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentSize {
    /// The name of the segment.
    pub segment: String,
    /// The number of members.
    pub members: usize,
    /// The number of customers whose primary segment it is.
    pub primary: usize,
    /// The number of customers whose primary segment it was at the last as-of.
    pub primary_before: usize,
    /// The number of customers who entered since the last as-of.
    #[serde(default)]
    pub entered: usize,
    /// The number of customers who left since the last as-of.
    #[serde(default)]
    pub left: usize,
    /// The number of members who do not want to be contacted.
    #[serde(default)]
    pub opted_out: usize,
}

/// The number of customers who are in two segments at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlap {
    /// The segment that comes first in the order of the rules.
    pub segment: String,
    /// The number of its members.
    pub members: usize,
    /// The other segment.
    pub other: String,
    /// The number of members of the other segment.
    pub other_members: usize,
    /// The number of customers in both segments.
    pub both: usize,
}

/// The origin in flows of customers who were not there at the last as-of.
pub const NEW: &str = "new";
/// The destination in flows of customers who are no longer there.
pub const GONE: &str = "gone";

/// The number of customers who moved from one primary segment to another, or stayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// The primary segment at the last as-of, or [`NEW`].
    pub from: String,
    /// The primary segment now, or [`GONE`].
    pub to: String,
    /// The number of customers.
    pub customers: usize,
}

impl Flow {
    /// Whether the flow is a change of primary segment by customers who were there at both as-ofs.
    pub fn is_change(&self) -> bool {
        self.from != self.to && self.from != NEW && self.to != GONE
    }
}

/// Summarizes the scores of one model, compared with those of the last as-of.
pub fn model(
    scored: &ScoredModel,
    trained: Option<Instant>,
    counts: &ModelCounts,
    ranked: &Ranked,
    bars: Bars,
    drift: Vec<Drift>,
) -> ModelSummary {
    let mut reasons: Vec<(String, usize, f64)> = counts
        .reasons
        .iter()
        .map(|(group, (count, sum))| (group.clone(), *count as usize, sum.value() / *count as f64))
        .collect();
    reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    reasons.truncate(REASONS);
    ModelSummary {
        model: scored.name.to_owned(),
        version: scored.version.to_owned(),
        trained,
        basis: counts.basis.map(|count| count as usize),
        ranges: counts.ranges.map(|range| (range[0] <= range[1]).then_some(range)),
        from: bars.from(),
        shares: [ranked.now.shares.clone(), ranked.before.shares.clone()],
        scores: summary(&ranked.now),
        before: summary(&ranked.before),
        moved: ranked.moved.clone(),
        reasons,
        drift,
    }
}

fn summary(scores: &Distributed) -> Option<ScoreDistribution> {
    let [p10, p50, p90] = scores.quantiles;
    (scores.count > 0).then_some(ScoreDistribution { mean: scores.mean, p10, p50, p90 })
}

/// Counts of customers by segment, now and at the last as-of. Counts of different customers can be added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentCounts {
    sizes: Vec<SegmentSize>,
    /// The number of customers by earlier and present primary segment.
    flows: BTreeMap<(String, String), usize>,
    /// The number of customers in both segments of each pair, by the indices of the segments.
    both: Vec<Vec<usize>>,
}

impl SegmentCounts {
    /// Counts the segments of some customers.
    pub fn of(names: &[&str], assigned: &Assignment, consent: &Consent) -> Self {
        let now = assigned.customers.iter();
        let pairs = now.map(|a| (a.previous.as_deref().unwrap_or(NEW), &*a.primary));
        let gone = assigned.gone.values();
        let gone = gone.filter_map(|state| Some((state.primary.as_deref()?, GONE)));
        let mut flows: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        pairs.chain(gone).for_each(|pair| *flows.entry(pair).or_default() += 1);
        let own = |((from, to), count): ((&str, &str), usize)| ((from.into(), to.into()), count);
        Self {
            sizes: segments(names, assigned, consent),
            flows: flows.into_iter().map(own).collect(),
            both: both(names, &assigned.customers),
        }
    }

    /// Adds the counts of other customers for the same segments.
    pub fn add(&mut self, other: Self) {
        if self.sizes.is_empty() {
            *self = other;
            return;
        }
        for (own, more) in self.sizes.iter_mut().zip(other.sizes) {
            own.members += more.members;
            own.primary += more.primary;
            own.primary_before += more.primary_before;
            own.entered += more.entered;
            own.left += more.left;
            own.opted_out += more.opted_out;
        }
        for (flow, more) in other.flows {
            *self.flows.entry(flow).or_default() += more;
        }
        for (own, more) in self.both.iter_mut().zip(other.both) {
            own.iter_mut().zip(more).for_each(|(own, more)| *own += more);
        }
    }

    /// The sizes of the segments, in the order of the rules.
    pub fn sizes(&self) -> &[SegmentSize] {
        &self.sizes
    }

    /// The flows between primary segments since the last as-of, with the largest first.
    pub fn flows(&self) -> Vec<Flow> {
        flows(&self.flows)
    }

    /// The pairs of segments that share customers, in the order of the rules.
    pub fn overlaps(&self) -> Vec<Overlap> {
        let names: Vec<&str> = self.sizes.iter().map(|size| size.segment.as_str()).collect();
        overlaps(&names, &self.both)
    }
}

/// Counts the sizes of the segments, in the order of `names`.
fn segments(names: &[&str], assigned: &Assignment, consent: &Consent) -> Vec<SegmentSize> {
    let empty = |name: &&str| SegmentSize { segment: (*name).to_owned(), ..SegmentSize::default() };
    let mut sizes: Vec<SegmentSize> = names.iter().map(empty).collect();
    let places: HashMap<&str, usize> = names.iter().enumerate().map(|(i, n)| (*n, i)).collect();
    let mut count = |name: &str, of: fn(&mut SegmentSize) -> &mut usize| {
        // A segment that no longer exists is not counted.
        if let Some(place) = places.get(name) {
            *of(&mut sizes[*place]) += 1;
        }
    };
    for state in assigned.gone.values() {
        state.memberships.keys().for_each(|name| count(name, |size| &mut size.left));
        state.primary.iter().for_each(|name| count(name, |size| &mut size.primary_before));
    }
    for (row, assigned) in assigned.customers.iter().enumerate() {
        count(&assigned.primary, |size| &mut size.primary);
        if let Some(previous) = &assigned.previous {
            count(previous, |size| &mut size.primary_before);
        }
        for membership in &assigned.memberships {
            count(&membership.segment, |size| &mut size.members);
            if consent.opted_out(row) {
                count(&membership.segment, |size| &mut size.opted_out);
            }
        }
        assigned.entered().for_each(|entered| count(&entered.segment, |size| &mut size.entered));
        assigned.left.iter().for_each(|left| count(&left.segment, |size| &mut size.left));
    }
    sizes
}

/// Counts the customers in both segments of each pair. Pairs are given by the indices of the segments in
/// `names`.
pub fn both(names: &[&str], assigned: &[Assigned]) -> Vec<Vec<usize>> {
    let places: HashMap<&str, usize> = names.iter().enumerate().map(|(i, n)| (*n, i)).collect();
    let mut both = vec![vec![0; names.len()]; names.len()];
    for assigned in assigned {
        let own = || assigned.memberships.iter().filter_map(|m| places.get(m.segment.as_str()));
        for a in own() {
            own().for_each(|b| both[*a][*b] += 1);
        }
    }
    both
}

/// Lists the pairs of segments that share customers, in the order of `names`. `both` has the number of
/// customers of each pair.
pub fn overlaps(names: &[&str], both: &[Vec<usize>]) -> Vec<Overlap> {
    let pairs = (0..names.len()).flat_map(|a| (a + 1..names.len()).map(move |b| (a, b)));
    let overlap = |(a, b): (usize, usize)| Overlap {
        segment: names[a].to_owned(),
        members: both[a][a],
        other: names[b].to_owned(),
        other_members: both[b][b],
        both: both[a][b],
    };
    pairs.map(overlap).filter(|overlap| overlap.both > 0).collect()
}

/// Lists the flows between primary segments, with the largest first.
pub fn flows(counts: &BTreeMap<(String, String), usize>) -> Vec<Flow> {
    let flow = |((from, to), customers): (&(String, String), &usize)| Flow {
        from: from.clone(),
        to: to.clone(),
        customers: *customers,
    };
    let mut flows: Vec<Flow> = counts.iter().map(flow).collect();
    flows.sort_by(|a, b| b.customers.cmp(&a.customers).then_with(|| a.from.cmp(&b.from)));
    flows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segments::{Membership, PreviousState};

    fn assigned(primary: &str, previous: Option<&str>) -> Assigned {
        let membership = |segment: &str| Membership {
            segment: segment.into(),
            rule: String::new(),
            since: Instant(0),
            reason: "enter",
        };
        Assigned {
            memberships: vec![membership("everyone"), membership(primary)],
            primary: primary.into(),
            previous: previous.map(str::to_owned),
            kept: previous.iter().map(|name| (*name).to_owned()).collect(),
            ..Assigned::default()
        }
    }

    #[test]
    fn flows_count_everyone_once() {
        let all = [
            assigned("lost", Some("active")),
            assigned("active", Some("active")),
            assigned("active", Some("active")),
            assigned("active", None),
        ];
        let gone = PreviousState { primary: Some("active".into()), ..PreviousState::default() };
        let all = Assignment { customers: all.to_vec(), gone: [("left".to_owned(), gone)].into() };
        let names = ["everyone", "active", "lost"];
        let mut counts = SegmentCounts::default();
        // Customers may be counted in parts of any size.
        for part in [&all.customers[..3], &all.customers[3..]] {
            let gone = if part.len() == 3 { all.gone.clone() } else { BTreeMap::new() };
            let part = Assignment { customers: part.to_vec(), gone };
            counts.add(SegmentCounts::of(&names, &part, &Consent::default()));
        }
        assert_eq!(counts, SegmentCounts::of(&names, &all, &Consent::default()));
        let flows = counts.flows();
        assert_eq!(flows[0], Flow { from: "active".into(), to: "active".into(), customers: 2 });
        assert_eq!(flows.iter().map(|flow| flow.customers).sum::<usize>(), 5);
        assert!(flows.iter().any(|flow| flow.from == "active" && flow.to == "gone"));
        assert_eq!(flows.iter().filter(|flow| flow.is_change()).count(), 1);
        assert!(flows.iter().any(|flow| flow.from == "new" && flow.to == "active"));
        let sizes = counts.sizes();
        assert_eq!((sizes[1].primary, sizes[1].primary_before), (3, 4));
        assert_eq!((sizes[1].members, sizes[1].entered, sizes[2].entered), (3, 1, 1));
        let overlaps = counts.overlaps();
        assert_eq!(overlaps, super::overlaps(&names, &both(&names, &all.customers)));
        let both: Vec<_> = overlaps.iter().map(|o| (&*o.segment, &*o.other, o.both)).collect();
        assert_eq!(both, [("everyone", "active", 3), ("everyone", "lost", 1)]);
    }
}

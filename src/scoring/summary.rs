//! What a scoring run did, in numbers: distributions against the last run, flows between segments,
//! reasons, drift, freshness.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::champions::ScoredModel;
use super::ranks::{Bars, Distributed, Ranked};
use super::score::ModelCounts;
use crate::features::drift::Drift;
use crate::features::events::BuildReport;
use crate::segments::{Assigned, Assignment};
use crate::sources::consent::Consent;
use crate::sources::contract::Check;
use crate::time::Instant;

/// Reasons shown of each model.
const REASONS: usize = 12;

/// `metrics.json` of a scoring run: every number of its report.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunMetrics {
    /// Of this file.
    pub format_version: u32,
    /// The run.
    pub run: String,
    /// The as-of that was scored.
    pub as_of: Instant,
    /// The as-of that it is compared with.
    pub previous: Option<Instant>,
    /// Customers scored.
    pub customers: usize,
    /// What was read and left out.
    pub events: BuildReport,
    /// The contract of profile and events, as `validate` checks it; empty in runs before there was this.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// The latest event that counts.
    pub last_event: Option<Instant>,
    /// By model.
    pub models: Vec<ModelSummary>,
    /// By segment, in the order of the rules.
    pub segments: Vec<SegmentSize>,
    /// Between primary segments; `new` for who was not there at the last as-of, `gone` for who
    /// is there no more.
    pub flows: Vec<Flow>,
    /// Segments that share customers; empty in runs before there was this.
    #[serde(default)]
    pub overlaps: Vec<Overlap>,
}

/// The scores of one model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSummary {
    /// The model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// The as-of of its training; None for what is not trained.
    pub trained: Option<Instant>,
    /// Customers by basis: model, lapsed, none.
    pub basis: [usize; 3],
    /// Mean and the 10th, 50th and 90th percentile of the scores; None without any.
    pub scores: Option<ScoreSummary>,
    /// The same of the last as-of.
    pub before: Option<ScoreSummary>,
    /// How far the scores have moved since the last as-of.
    pub moved: Option<Drift>,
    /// Where each bar begins.
    pub from: Vec<f64>,
    /// Share of the scores in each bar, now and at the last as-of.
    pub shares: [Vec<f64>; 2],
    /// Groups by how often they are the first reason, with their mean contribution there.
    pub reasons: Vec<(String, usize, f64)>,
    /// Inputs against training.
    pub drift: Vec<Drift>,
}

/// A distribution in four numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreSummary {
    /// The mean.
    pub mean: f64,
    /// The 10th percentile.
    pub p10: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
}

/// How many are in a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentSize {
    /// The segment.
    pub segment: String,
    /// Members.
    pub members: usize,
    /// For whom it is the primary one.
    pub primary: usize,
    /// For whom it was the primary one at the last as-of.
    pub primary_before: usize,
    /// Who came in since the last as-of.
    #[serde(default)]
    pub entered: usize,
    /// Who went out since the last as-of.
    #[serde(default)]
    pub left: usize,
    /// Members who do not want to be contacted.
    #[serde(default)]
    pub opted_out: usize,
}

/// Customers who are in two segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlap {
    /// One segment, the earlier in the order of the rules.
    pub segment: String,
    /// Its members.
    pub members: usize,
    /// The other.
    pub other: String,
    /// Its members.
    pub other_members: usize,
    /// Who is in both.
    pub both: usize,
}

/// Where those come from who were no customers at the last as-of.
pub const NEW: &str = "new";
/// Where those go who are customers no more.
pub const GONE: &str = "gone";

/// Customers who went from one primary segment to another, or stayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// From.
    pub from: String,
    /// To.
    pub to: String,
    /// How many.
    pub customers: usize,
}

impl Flow {
    /// Whether these have changed their primary segment.
    pub fn is_change(&self) -> bool {
        self.from != self.to && self.from != NEW && self.to != GONE
    }
}

/// Summarizes the scores of one model beside those of the last as-of.
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
        from: bars.from(),
        shares: [ranked.now.shares.clone(), ranked.before.shares.clone()],
        scores: summary(&ranked.now),
        before: summary(&ranked.before),
        moved: ranked.moved.clone(),
        reasons,
        drift,
    }
}

fn summary(scores: &Distributed) -> Option<ScoreSummary> {
    let [p10, p50, p90] = scores.quantiles;
    (scores.count > 0).then_some(ScoreSummary { mean: scores.mean, p10, p50, p90 })
}

/// How many customers are in which segments, and where they were; counts of different customers add up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentCounts {
    sizes: Vec<SegmentSize>,
    /// By earlier and present primary segment.
    flows: BTreeMap<(String, String), usize>,
    /// By pair of segments, each by its place.
    both: Vec<Vec<usize>>,
}

impl SegmentCounts {
    /// Of some customers.
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

    /// Adds those of other customers for the same segments.
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

    /// Sizes of segments, in the order of the rules.
    pub fn sizes(&self) -> &[SegmentSize] {
        &self.sizes
    }

    /// Flows between primary segments since the last as-of, greatest first.
    pub fn flows(&self) -> Vec<Flow> {
        flows(&self.flows)
    }

    /// Pairs of segments that share customers, in the order of the rules.
    pub fn overlaps(&self) -> Vec<Overlap> {
        let names: Vec<&str> = self.sizes.iter().map(|size| size.segment.as_str()).collect();
        overlaps(&names, &self.both)
    }
}

/// Sizes of segments, in the order of `names`.
fn segments(names: &[&str], assigned: &Assignment, consent: &Consent) -> Vec<SegmentSize> {
    let empty = |name: &&str| SegmentSize { segment: (*name).to_owned(), ..SegmentSize::default() };
    let mut sizes: Vec<SegmentSize> = names.iter().map(empty).collect();
    let places: HashMap<&str, usize> = names.iter().enumerate().map(|(i, n)| (*n, i)).collect();
    let mut count = |name: &str, of: fn(&mut SegmentSize) -> &mut usize| {
        // One that there is no more has left with its rule.
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

/// By pair of segments, each by its place among `names`, how many customers are in both.
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

/// Pairs of segments that share customers, in the order of `names`, by how many each two share.
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

/// How many customers went from one primary segment to another, greatest first.
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
        // Customers may be counted in any parts.
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

//! What a scoring run did, in numbers: distributions against the last run, flows between segments,
//! reasons, drift, freshness.

use std::collections::{BTreeMap, HashMap};

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, RecordBatch};
use serde::{Deserialize, Serialize};

use super::{Basis, ModelScores, Scored};
use crate::error::{Error, Result};
use crate::features::drift::{Distribution, Drift, drift};
use crate::features::events::BuildReport;
use crate::models::preprocessing::shape::quantile;
use crate::segments::{Assigned, Assignment};
use crate::sources::consent::Consent;
use crate::sources::contract::Check;
use crate::time::Instant;

/// Bars of a histogram of scores.
const BARS: usize = 20;
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

/// The scores of the last as-of by model, read from its table.
pub fn scores_by_model(rows: &RecordBatch) -> Result<BTreeMap<String, Vec<f64>>> {
    let model = rows.column_by_name("model").and_then(|column| column.as_string_opt::<i32>());
    let score =
        rows.column_by_name("score").and_then(|column| column.as_primitive_opt::<Float64Type>());
    let (Some(model), Some(score)) = (model, score) else {
        return Err(Error::contract(
            "the scores of the last as-of are not a table of scores",
            "it was changed after it was written",
        ));
    };
    let mut by_model: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for row in (0..rows.num_rows()).filter(|row| score.is_valid(*row)) {
        by_model.entry(model.value(row).to_owned()).or_default().push(score.value(row));
    }
    Ok(by_model)
}

/// Summarizes the scores of one model beside those of the last as-of.
pub fn model(scores: &ModelScores, trained: Option<Instant>, before: &[f64]) -> ModelSummary {
    let now: Vec<f64> = scores.score.iter().flatten().copied().collect();
    let count = |basis: Basis| scores.basis.iter().filter(|b| **b == basis).count();
    let edge = |values: &[f64], seed: f64, pick: fn(f64, f64) -> f64| {
        values.iter().copied().fold(seed, pick)
    };
    let low = edge(before, edge(&now, f64::MAX, f64::min), f64::min);
    let high = edge(before, edge(&now, f64::MIN, f64::max), f64::max);
    let probability = low >= 0.0 && high <= 1.0;
    let (low, high) = if probability { (0.0, 1.0) } else { (low, high) };
    let whole = now.iter().chain(before).all(|score| score.fract() == 0.0);
    let width = match whole && high - low < BARS as f64 {
        // A bar per whole number, else some bars hold two of them and others none.
        true => 1.0,
        false => ((high - low) / BARS as f64).max(f64::MIN_POSITIVE),
    };
    let shares = |values: &[f64]| {
        let mut bars = vec![0.0; if values.is_empty() { 0 } else { BARS }];
        for value in values {
            bars[(((value - low) / width) as usize).min(BARS - 1)] += 1.0 / values.len() as f64;
        }
        bars
    };
    let moved = (!before.is_empty() && !now.is_empty()).then(|| {
        let earlier = Distribution::of(before);
        let mut later = earlier.empty();
        now.iter().for_each(|score| later.add(*score));
        drift(&scores.model, &earlier, &later)
    });
    let mut reasons: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    let of_model = scores.reasons.iter().zip(&scores.basis).filter(|(_, b)| **b == Basis::Model);
    for (group, contribution) in of_model.filter_map(|(reasons, _)| reasons.first()) {
        let entry = reasons.entry(group).or_default();
        (entry.0, entry.1) = (entry.0 + 1, entry.1 + contribution);
    }
    let mut reasons: Vec<(String, usize, f64)> = reasons
        .into_iter()
        .map(|(group, (count, sum))| (group.to_owned(), count, sum / count as f64))
        .collect();
    reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    reasons.truncate(REASONS);
    ModelSummary {
        model: scores.model.clone(),
        version: scores.version.clone(),
        trained,
        basis: [count(Basis::Model), count(Basis::Lapsed), count(Basis::None)],
        from: (0..BARS).map(|bar| low + width * bar as f64).collect(),
        shares: [shares(&now), shares(before)],
        scores: summary(&now),
        before: summary(before),
        moved,
        reasons,
        drift: scores.drift.clone(),
    }
}

fn summary(values: &[f64]) -> Option<ScoreSummary> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share| quantile(&sorted, share);
    (!sorted.is_empty()).then(|| ScoreSummary {
        mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
        p10: at(0.1),
        p50: at(0.5),
        p90: at(0.9),
    })
}

/// Sizes of segments, in the order of `names`.
pub fn segments(names: &[&str], assigned: &Assignment, consent: &Consent) -> Vec<SegmentSize> {
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

/// Pairs of segments that share customers, in the order of `names`.
pub fn overlaps(names: &[&str], assigned: &[Assigned]) -> Vec<Overlap> {
    let places: HashMap<&str, usize> = names.iter().enumerate().map(|(i, n)| (*n, i)).collect();
    let mut both = vec![vec![0; names.len()]; names.len()];
    for assigned in assigned {
        let own = || assigned.memberships.iter().filter_map(|m| places.get(m.segment.as_str()));
        for a in own() {
            own().for_each(|b| both[*a][*b] += 1);
        }
    }
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

/// Flows between primary segments since the last as-of, greatest first.
pub fn flows(assigned: &Assignment) -> Vec<Flow> {
    let now = assigned.customers.iter();
    let pairs = now.map(|a| (a.previous.as_deref().unwrap_or(NEW), &*a.primary));
    let gone = assigned.gone.values().filter_map(|state| Some((state.primary.as_deref()?, GONE)));
    count_flows(pairs.chain(gone))
}

/// How many went from where to where, greatest first.
pub fn count_flows<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Flow> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    pairs.for_each(|pair| *counts.entry(pair).or_default() += 1);
    let mut flows: Vec<Flow> = counts
        .into_iter()
        .map(|((from, to), customers)| Flow { from: from.into(), to: to.into(), customers })
        .collect();
    flows.sort_by(|a, b| b.customers.cmp(&a.customers).then_with(|| a.from.cmp(&b.from)));
    flows
}

/// The latest event of anyone, by the feature that writes `last_seen_at`.
pub fn last_event(scored: &Scored, column: Option<&str>) -> Option<Instant> {
    use arrow_array::types::TimestampMicrosecondType;
    let column = scored.features.column_by_name(column?)?;
    column.as_primitive_opt::<TimestampMicrosecondType>()?.iter().flatten().max().map(Instant)
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
        let flows = flows(&all);
        assert_eq!(flows[0], Flow { from: "active".into(), to: "active".into(), customers: 2 });
        assert_eq!(flows.iter().map(|flow| flow.customers).sum::<usize>(), 5);
        assert!(flows.iter().any(|flow| flow.from == "active" && flow.to == "gone"));
        assert_eq!(flows.iter().filter(|flow| flow.is_change()).count(), 1);
        assert!(flows.iter().any(|flow| flow.from == "new" && flow.to == "active"));
        let names = ["everyone", "active", "lost"];
        let sizes = segments(&names, &all, &Consent::default());
        assert_eq!((sizes[1].primary, sizes[1].primary_before), (3, 4));
        assert_eq!((sizes[1].members, sizes[1].entered, sizes[2].entered), (3, 1, 1));
        let overlaps = overlaps(&names, &all.customers);
        let both: Vec<_> = overlaps.iter().map(|o| (&*o.segment, &*o.other, o.both)).collect();
        assert_eq!(both, [("everyone", "active", 3), ("everyone", "lost", 1)]);
    }

    #[test]
    fn distributions_share_their_bars() {
        let scores = ModelScores {
            model: "m".into(),
            version: "v".into(),
            field: "churn_risk_score",
            score: vec![Some(0.1), Some(0.9), None],
            raw: vec![None; 3],
            percentile: vec![None; 3],
            basis: vec![Basis::Model, Basis::Lapsed, Basis::None],
            parts: Vec::new(),
            reasons: vec![vec![("a".into(), 0.5)], vec![("b".into(), 0.0)], Vec::new()],
            drift: Vec::new(),
        };
        let summary = model(&scores, None, &[0.1, 0.1]);
        assert_eq!(summary.basis, [1, 1, 1]);
        assert_eq!((summary.shares[0][2], summary.shares[0][18]), (0.5, 0.5));
        assert_eq!(summary.shares[1][2], 1.0);
        assert_eq!(summary.reasons, [("a".to_owned(), 1, 0.5)]);
    }
}

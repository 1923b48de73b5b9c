//! Reads the rows of a shard as samples.

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch};

use super::gathered::{ClassifierSample, Samples, SliceRow, Snapshot};
use super::request::{CHANNEL, LONGEST_AUTO, Request, Role, TENURE, VALUE, of_attribute};
use crate::artifact::rfm;
use crate::error::{Error, Result};
use crate::features::events::ShardRows;
use crate::features::read::{column, numeric, truths};
use crate::shard;
use crate::sources::attributes::{Attributes, Levels};
use crate::sources::profile::keys;
use crate::spec::{Eligible, LabelKind};
use crate::time::Duration;
use crate::training::lifetime_value::{Holdouts, take};

impl Request<'_> {
    /// Samples the rows of a shard, given the attributes of its customers.
    pub fn sample(&self, rows: &ShardRows, attributes: &Attributes) -> Result<Samples> {
        let mut samples = self.empty();
        let reader = Reader { request: self, attributes };
        for (plan, role) in self.plans.iter().zip(&self.roles) {
            reader.take(&plan.name, *role, rows, &mut samples)?;
        }
        for (sample, request) in samples.classifiers.iter_mut().zip(&self.classifiers) {
            sample.keep(request.most);
        }
        Ok(samples)
    }
}

/// A customer of a snapshot whose label must be joined.
struct Unlabelled<'a> {
    key: &'a str,
    is_eligible: bool,
    recency: f64,
}

/// The context that the rows of a shard are read in.
struct Reader<'a> {
    request: &'a Request<'a>,
    attributes: &'a Attributes,
}

impl Reader<'_> {
    /// Adds the rows of the plan `name` to the samples.
    fn take(&self, name: &str, role: Role, rows: &ShardRows, into: &mut Samples) -> Result<()> {
        let Self { request, attributes } = *self;
        let Request { source, models, known, .. } = request;
        let as_of = known.as_of;
        match role {
            Role::Features(index) => {
                let labels = rows.of(&format!("{}/labels", models.classifiers[index].spec.name))?;
                for (at, (rows, labels)) in rows.of(name)?.iter().zip(labels).enumerate() {
                    self.snapshot(index, at, rows, labels, &mut into.classifiers[index])?;
                }
                Ok(())
            }
            Role::Labels => Ok(()),
            Role::Slices(index) => {
                let names = &models.classifiers[index].slices;
                self.slice_rows(names, rows.one(name)?, &mut into.classifiers[index].slices)
            }
            Role::Happened(index) => {
                let happened = &mut into.classifiers[index].happened;
                for (rows, (_, happened)) in rows.of(name)?.iter().zip(happened) {
                    let counts = rows.column(1).as_primitive::<Int64Type>();
                    let hashes = keys(rows)?.iter().flatten().map(shard::hash);
                    let there = hashes.zip(counts.values());
                    let there = there.filter(|(hash, n)| **n > 0 && known.compared.has(*hash));
                    happened.extend(there.map(|(hash, _)| hash));
                }
                Ok(())
            }
            Role::Champion(index) => {
                let Some(champion) = &known.champions[index] else {
                    unreachable!("a plan of this role is made of the champion")
                };
                let rows = rows.one(name)?;
                let inputs = champion.inputs(rows, attributes)?;
                let logits = champion.estimator.logits(&champion.preprocessing.transform(&inputs));
                let hashes = keys(rows)?.iter().flatten().map(shard::hash);
                into.classifiers[index].champion.extend(hashes.zip(logits));
                Ok(())
            }
            Role::Served => {
                let Some(served) = known.served else {
                    unreachable!("a plan of this role is made of what was served")
                };
                into.skew.count(served, rows.one(name)?)
            }
            Role::Gaps(index) => {
                let gaps = numeric(rows.one(name)?.column(1))?;
                let gaps = gaps.into_iter().filter(|gap| !gap.is_nan());
                into.numbers.gaps[index].extend(gaps);
                Ok(())
            }
            Role::Activity => {
                let activity = numeric(rows.one(name)?.column(1))?;
                into.numbers.activity.extend(activity.into_iter().filter(|a| *a > 0.0));
                Ok(())
            }
            Role::Buyers => {
                let buyers = rfm::read(rows.one(name)?, source.context.zone, as_of.at)?;
                for [since, days, net] in buyers.into_iter().flatten() {
                    let numbers = into.numbers.buyers.iter_mut().zip([-since, days, net]);
                    numbers.for_each(|(own, number)| own.push(number));
                }
                Ok(())
            }
            Role::Purchases | Role::PastPurchases | Role::EarlierPurchases => {
                let Some(model) = &models.lifetime_value else {
                    unreachable!("a plan of this role is made of the model of lifetime value")
                };
                let rows = rows.one(name)?;
                let data = &mut into.purchases;
                let (buyers, at) = match (role, request.holdouts) {
                    (Role::PastPurchases, Some(holdouts)) => (&mut data.then, holdouts.last),
                    (Role::EarlierPurchases, Some(Holdouts { earlier: Some(at), .. })) => {
                        (&mut data.earlier, at)
                    }
                    _ => {
                        data.take_totals(model, rows, source)?;
                        (&mut data.now, as_of.at)
                    }
                };
                take(buyers, model, rows, source, at)
            }
            Role::Interactions => {
                let data = &mut into.interactions;
                data.now.take(rows.one(name)?, &mut data.items)
            }
            Role::PastInteractions | Role::LaterInteractions => {
                let data = &mut into.interactions;
                let is_past = matches!(role, Role::PastInteractions);
                let samples = if is_past { &mut data.past } else { &mut data.later };
                let rows = rows.of(name)?;
                samples.resize_with(rows.len(), Default::default);
                for (rows, sample) in rows.iter().zip(samples) {
                    sample.take(rows, &mut data.items)?;
                }
                Ok(())
            }
            Role::RecentInteractions => {
                let data = &mut into.interactions;
                data.recent.take(rows.one(name)?, &mut data.items)
            }
        }
    }

    /// Adds the rows of a classifier at the snapshot with index `at`, with their labels.
    fn snapshot(
        &self,
        index: usize,
        at: usize,
        rows: &RecordBatch,
        labels: &RecordBatch,
        into: &mut ClassifierSample,
    ) -> Result<()> {
        let Request { source, models, known, .. } = self.request;
        let classifier = &models.classifiers[index];
        let further = into.base_rate.len();
        let keep_keys = at + 1 == further + into.snapshots.len();
        // The plan has the instants of the further snapshots first.
        let snapshot = match at.checked_sub(further) {
            Some(place) => &mut into.snapshots[place],
            None => &mut into.base_rate[at],
        };
        let recency = column(rows, "label__days_since_last")?;
        let within = |length: Duration| recency.iter().map(move |days| *days <= length.as_days());
        let eligible: Vec<bool> = match &classifier.eligible {
            Eligible::Where(condition) => truths(condition, rows, source.context.scale)?,
            Eligible::Within(length) => within(*length).collect(),
            // The length that `auto` finds is known only after the pass, and is at most this one.
            Eligible::Auto => within(LONGEST_AUTO).collect(),
        };
        let inputs: Vec<Vec<f64>> =
            classifier.inputs.iter().map(|name| column(rows, name)).collect::<Result<_>>()?;
        let of_profile = classifier.spec.inputs.attributes.iter();
        let of_profile = of_profile.map(|name| Ok((name, of_attribute(known.levels, name)?)));
        let of_profile: Vec<(&String, &Levels)> = of_profile.collect::<Result<_>>()?;
        let mut unlabelled = Vec::new();
        for (i, key) in keys(rows)?.iter().flatten().enumerate() {
            let (is_eligible, recency) = (eligible[i], recency[i]);
            if is_eligible {
                snapshot.hashes.push(shard::hash(key));
                let customer = if of_profile.is_empty() { None } else { self.attributes.find(key) };
                let level = |(name, levels): &(&String, &Levels)| {
                    levels.code(self.attributes.level(name, customer))
                };
                let levels = of_profile.iter().map(level);
                snapshot.inputs.push(inputs.iter().map(|input| input[i]).chain(levels));
                snapshot.recency.push(recency);
                if keep_keys {
                    snapshot.keys.push(key.to_owned());
                }
            }
            if is_eligible || !recency.is_nan() {
                unlabelled.push(Unlabelled { key, is_eligible, recency });
            }
        }
        snapshot.customers += rows.num_rows();
        let days_decide = matches!(classifier.eligible, Eligible::Auto);
        join_labels((classifier.spec.label.kind, days_decide), labels, unlabelled, snapshot)
    }

    fn slice_rows(
        &self,
        names: &[String],
        rows: &RecordBatch,
        out: &mut HashMap<u64, SliceRow>,
    ) -> Result<()> {
        let tenure = column(rows, TENURE)?;
        let value = rows.column_by_name(VALUE).map(numeric).transpose()?;
        let channel = rows.column_by_name(CHANNEL).and_then(|column| column.as_string_opt::<i32>());
        let known = &self.request.known;
        let levels = names.iter().map(|name| Ok((name, of_attribute(known.levels, name)?)));
        let levels: Vec<(&String, &Levels)> = levels.collect::<Result<_>>()?;
        for (i, key) in keys(rows)?.iter().flatten().enumerate() {
            let customer = self.attributes.find(key);
            let level = |(name, levels): &(&String, &Levels)| {
                let level = self.attributes.level(name, customer)?;
                Some(levels.name(level).to_owned())
            };
            let row = SliceRow {
                tenure: tenure[i],
                value: value.as_ref().map_or(f64::NAN, |value| value[i]),
                channel: channel.filter(|c| c.is_valid(i)).map(|c| c.value(i).to_owned()),
                levels: levels.iter().map(level).collect(),
            };
            out.insert(shard::hash(key), row);
        }
        Ok(())
    }
}

/// Joins labels by key to the customers who need one. Both are sorted by key. A customer of a snapshot
/// still exists when the outcome of the snapshot has ended.
fn join_labels(
    (kind, days_decide): (LabelKind, bool),
    labels: &RecordBatch,
    customers: Vec<Unlabelled>,
    snapshot: &mut Snapshot,
) -> Result<()> {
    let counts = labels.column(1).as_primitive::<Int64Type>();
    let mut labelled = keys(labels)?.iter().flatten().zip(counts.values());
    for Unlabelled { key, is_eligible, recency } in customers {
        let (_, count) = labelled.find(|(other, _)| *other == key).ok_or_else(|| {
            Error::engine("joining labels")(format!("the customer {key} has no label"))
        })?;
        let label = (*count > 0) == (kind == LabelKind::Presence);
        if is_eligible {
            snapshot.count(days_decide.then_some(recency), label);
            snapshot.labels.push(label);
        } else {
            snapshot.lapsed.push((shard::hash(key), recency, label));
        }
    }
    Ok(())
}

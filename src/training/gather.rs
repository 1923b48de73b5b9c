//! Everything that training needs of the events, gathered in one pass: feature snapshots joined
//! with labels, repeat gaps, activity, purchases, interactions.
//!
//! A label is a feature too: the count of label events in the window of length horizon that ends at
//! t + gap + horizon, known at the training's as-of. Shard by shard, labels are joined to the features of
//! the same snapshot by the customer's key.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch};

use super::affinity::Windows;
use super::affinity::sample::InteractionData;
use super::artifact::ClassifierArtifact;
use super::lifetime_value::{PurchaseData, holdout_at};
use super::rfm;
use super::schedule::{Schedule, check_fresh};
use super::skew::{Differences, Served};
use crate::engine;
use crate::error::{Error, Result};
use crate::expression::{Expression, Type};
use crate::features::catalog::{Aggregation, Catalog};
use crate::features::events::{BuildReport, Events, ShardRows};
use crate::features::plan::{AsOf, FeaturePlan, Interactions};
use crate::features::read::{column, numeric, truths};
use crate::features::scanned::{Reading, ScannedEvents};
use crate::features::spec::Op;
use crate::models::matrix::Matrix;
use crate::models::spec::{Classifier, Eligible, LabelKind, Models};
use crate::shard;
use crate::sources::SourcePlan;
use crate::sources::attributes::{Attributes, LevelCounts, Levels};
use crate::sources::contract::History;
use crate::sources::profile::{Entities, ProfileShards, keys};
use crate::time::{Duration, Instant, Window};

/// The longest time that `auto` eligibility may find.
pub const LONGEST_AUTO: Duration = Duration::days(365);

/// Rows for which a snapshot has room from the start; more than that makes it grow.
const MOST_RESERVED: usize = 1 << 20;

/// The rows of one classifier at one snapshot.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Customers who are there.
    pub customers: usize,
    /// Hashes of the eligible customers' keys.
    pub hashes: Vec<u64>,
    /// Keys, kept only for the last snapshot.
    pub keys: Vec<String>,
    /// Inputs of the eligible.
    pub inputs: Matrix,
    /// Days since their last label event; NaN for none.
    pub recency: Vec<f64>,
    /// Outcomes of the eligible.
    pub labels: Vec<bool>,
    /// Recency and outcome of those with a past label event who are not eligible.
    pub lapsed: Vec<(f64, bool)>,
}

impl Snapshot {
    /// Keeps the eligible rows with these numbers, in this order.
    pub fn select(&mut self, rows: &[usize]) {
        self.hashes = rows.iter().map(|row| self.hashes[*row]).collect();
        self.inputs = self.inputs.select(rows);
        self.recency = rows.iter().map(|row| self.recency[*row]).collect();
        self.labels = rows.iter().map(|row| self.labels[*row]).collect();
        if !self.keys.is_empty() {
            self.keys = rows.iter().map(|row| self.keys[*row].clone()).collect();
        }
    }
}

/// A customer of a snapshot whose label is needed.
struct Unlabelled<'a> {
    key: &'a str,
    is_eligible: bool,
    recency: f64,
}

/// What metrics of a test row are shown by.
#[derive(Debug, Clone, Default)]
pub struct SliceRow {
    /// Days since the first event.
    pub tenure: f64,
    /// Amount of the label's events over a year, in major units; NaN where events have none.
    pub value: f64,
    /// Channel of the last event.
    pub channel: Option<String>,
    /// Levels of the attributes that the spec slices by.
    pub levels: Vec<Option<String>>,
}

/// What one classifier needs.
#[derive(Debug)]
pub struct ClassifierData {
    /// When.
    pub schedule: Schedule,
    /// The aggregation behind recency.
    pub recency: Aggregation,
    /// The closure of the inputs and of eligibility.
    pub plan: FeaturePlan,
    /// In time order: training, calibration, test.
    pub snapshots: Vec<Snapshot>,
    /// Customers' median gaps between days with a label event, at the last training snapshot.
    pub gaps: Vec<f64>,
    /// The levels of the attributes that are inputs, in the order of the spec.
    pub levels: Vec<Vec<String>>,
    /// Who is there at the test snapshot, by the hash of the key.
    pub slices: HashMap<u64, SliceRow>,
    /// The raw logits of the version in use, by the hash of the key, at the test snapshot.
    pub champion: HashMap<u64, f64>,
    /// As-ofs of past scores, each with the hashes of those who had an event of the label since.
    pub happened: Vec<(Instant, HashSet<u64>)>,
}

/// All that training needs.
#[derive(Debug)]
pub struct Gathered {
    /// In the order of the models.
    pub classifiers: Vec<ClassifierData>,
    /// Decayed activity of customers who have any.
    pub activity: Vec<f64>,
    /// Minus recency, purchase days, net spend of buyers.
    pub buyers: Vec<[f64; 3]>,
    /// What buyers have bought.
    pub purchases: PurchaseData,
    /// The instant from which purchases are held out; None where none are.
    pub holdout: Option<Instant>,
    /// What customers have interacted with.
    pub interactions: InteractionData,
    /// When their ranking is chosen and tested; None where the history is too short.
    pub windows: Option<Windows>,
    /// Features that are others than when they were served.
    pub skew: Differences,
    /// What was read.
    pub report: BuildReport,
}

/// What a plan of the pass is for.
#[derive(Clone, Copy)]
enum Role {
    Features(usize),
    /// Read with the features that they belong to.
    Labels,
    Gaps(usize),
    Slices(usize),
    Champion(usize),
    Happened(usize),
    Served,
    Activity,
    Buyers,
    Purchases,
    PastPurchases,
    Interactions,
    PastInteractions,
    LaterInteractions,
    RecentInteractions,
}

/// The aggregation behind a classifier's recency.
pub fn recency(classifier: &Classifier) -> Aggregation {
    aggregation(
        classifier,
        "label__days_since_last",
        Op::DaysSinceLast,
        Window::Lifetime,
        Type::Double,
    )
}

fn aggregation(
    classifier: &Classifier,
    column: &str,
    op: Op,
    window: Window,
    ty: Type,
) -> Aggregation {
    Aggregation {
        column: column.to_owned(),
        op,
        input: None,
        condition: Some(classifier.label.clone()),
        window,
        half_life: None,
        ty,
    }
}

/// What is known before the pass over the events.
#[derive(Debug)]
pub struct Known<'a> {
    /// Customers with the attributes that models and their slices name.
    pub profile: &'a ProfileShards,
    /// The names of these attributes.
    pub attributes: &'a [&'a str],
    /// The versions in use, in the order of the classifiers.
    pub champions: &'a [Option<ClassifierArtifact>],
    /// As-ofs of past scores whose outcomes have ended, in the order of the classifiers.
    pub scored: &'a [Vec<Instant>],
    /// Features as they were when customers were scored.
    pub served: Option<&'a Served>,
    /// The as-of of the training.
    pub as_of: AsOf,
    /// When events happened.
    pub history: &'a History,
}

/// Gathers for all models of a project in one pass.
pub fn gather(
    reading: Reading<'_>,
    source: &SourcePlan,
    catalog: &Catalog,
    models: &Models,
    known: &Known,
) -> Result<Gathered> {
    let as_of = known.as_of;
    let levels = levels(known)?;
    let mut plans = Vec::new();
    let mut roles = Vec::new();
    let mut classifiers = Vec::new();
    // Outcomes count only as far as they can be known.
    let until = if source.has_ingestion() { as_of.at.min(as_of.known_at) } else { as_of.at };
    for (index, classifier) in models.classifiers.iter().enumerate() {
        let spec = &classifier.spec;
        check_fresh(&spec.name, spec.label.horizon, known.history, until)?;
        let schedule = Schedule::new(spec, until, known.history.first)?;
        let instants = schedule.all();
        let mut columns: Vec<&str> = classifier.inputs.iter().map(String::as_str).collect();
        if let Eligible::Where(condition) = &classifier.eligible {
            columns.extend(
                condition
                    .columns()
                    .into_iter()
                    .filter(|c| !classifier.inputs.iter().any(|i| i == c)),
            );
        }
        let named = |what: &str| format!("{}/{what}", spec.name);
        let as_ofs = cuts(&instants, as_of);
        let mut plan = FeaturePlan::of_catalog(named("features"), catalog, columns, as_ofs);
        let recency = recency(classifier);
        plan.give(recency.clone());
        let outcome = spec.label.gap.plus(spec.label.horizon);
        let outcomes = |what: &str, instants: &[Instant]| {
            let ends =
                instants.iter().map(|t| AsOf { at: t.plus(outcome), known_at: as_of.known_at });
            let mut labels = FeaturePlan::new(named(what), ends.collect());
            let horizon = Window::Trailing(spec.label.horizon);
            let events =
                aggregation(classifier, "label__events", Op::Count, horizon, Type::Integer);
            labels.give(events);
            labels
        };
        let labels = outcomes("labels", &instants);
        let scored = known.scored.get(index).map_or(&[][..], Vec::as_slice);
        let last_training = schedule.training.last().copied().unwrap_or(schedule.calibration);
        let mut gaps = FeaturePlan::new(named("gaps"), cuts(&[last_training], as_of));
        gaps.give(aggregation(
            classifier,
            "label__gap",
            Op::MedianGapDays,
            Window::Lifetime,
            Type::Double,
        ));
        let of_test = |what: &str| FeaturePlan::new(named(what), cuts(&[schedule.test], as_of));
        let slices = slices(classifier, source, of_test("slices"));
        let champion = known.champions.get(index).and_then(Option::as_ref);
        let champion = champion.map(|champion| champion.plan(of_test("champion")));
        let own = spec.inputs.attributes.iter().map(|name| of_attribute(&levels, name));
        let own = own.map(|found| Ok(found?.names.clone())).collect::<Result<_>>()?;
        let width = classifier.inputs.len() + spec.inputs.attributes.len();
        let inputs =
            || Matrix::with_capacity(width, (known.profile.rows as usize).min(MOST_RESERVED));
        let empty = || Snapshot { inputs: inputs(), ..Snapshot::default() };
        let snapshots = instants.iter().map(|_| empty()).collect();
        classifiers.push(ClassifierData {
            schedule,
            recency,
            plan: plan.clone(),
            snapshots,
            gaps: Vec::new(),
            levels: own,
            slices: HashMap::new(),
            champion: HashMap::new(),
            happened: scored.iter().map(|at| (*at, HashSet::new())).collect(),
        });
        plans.extend([plan, labels, gaps, slices]);
        roles.extend([Role::Features(index), Role::Labels, Role::Gaps(index), Role::Slices(index)]);
        if !scored.is_empty() {
            plans.push(outcomes("happened", scored));
            roles.push(Role::Happened(index));
        }
        if let Some(champion) = champion {
            plans.push(champion);
            roles.push(Role::Champion(index));
        }
    }
    let now = |name: &str| FeaturePlan::new(name, vec![as_of]);
    for (list, name, role) in [
        (models.engagement.as_ref().map(|m| &m.aggregations), "engagement", Role::Activity),
        (models.rfm.as_ref().map(|m| &m.aggregations), "rfm", Role::Buyers),
    ] {
        if let Some(list) = list {
            let mut plan = now(name);
            list.iter().cloned().for_each(|aggregation| plan.give(aggregation));
            plans.push(plan);
            roles.push(role);
        }
    }
    let (mut holdout, mut windows) = (None, None);
    if let Some(model) = &models.lifetime_value {
        if model.spec.method.family().is_some() {
            check_fresh(&model.spec.name, model.spec.horizon, known.history, until)?;
        }
        plans.push(model.plan(now("purchases")));
        roles.push(Role::Purchases);
        holdout = holdout_at(&model.spec, as_of.at, known.history.first);
        if let Some(at) = holdout {
            let then = FeaturePlan::new("past purchases", cuts(&[at], as_of));
            plans.push(model.plan_with_recent(then, Duration(as_of.at.0 - at.0)));
            roles.push(Role::PastPurchases);
        }
    }
    if let Some(affinity) = &models.affinity {
        let of = |name: &str, interactions: &Interactions, as_ofs: Vec<AsOf>| FeaturePlan {
            interactions: Some(interactions.clone()),
            ..FeaturePlan::new(name, as_ofs)
        };
        plans.push(of("interactions", &affinity.interactions, vec![as_of]));
        roles.push(Role::Interactions);
        windows = Windows::new(affinity.spec.horizon, as_of.at, known.history.first);
        if let Some(windows) = windows {
            let past = [windows.chosen, windows.tested];
            let ends = [windows.tested, as_of.at].map(|at| AsOf { at, known_at: as_of.known_at });
            plans.push(of("past interactions", &affinity.interactions, cuts(&past, as_of)));
            plans.push(of("later interactions", &affinity.later, ends.to_vec()));
            plans.push(of("recent interactions", &affinity.recent, cuts(&past[1..], as_of)));
            roles.extend([Role::PastInteractions, Role::LaterInteractions]);
            roles.push(Role::RecentInteractions);
        }
    }

    if let Some(served) = known.served {
        let names = served.columns.iter().map(String::as_str);
        plans.push(FeaturePlan::of_catalog("served", catalog, names, vec![served.as_of]));
        roles.push(Role::Served);
    }

    let mut gathered = Gathered {
        classifiers,
        activity: Vec::new(),
        buyers: Vec::new(),
        purchases: PurchaseData::default(),
        holdout,
        interactions: InteractionData::default(),
        windows,
        skew: Differences::default(),
        report: BuildReport::default(),
    };
    let roles: Vec<(String, Role)> =
        plans.iter().zip(roles).map(|(plan, role)| (plan.name.clone(), role)).collect();
    let events = ScannedEvents::read(source, &plans, reading)?;
    let mut report = events.report.clone();
    let stage = |shard| {
        let rows = known.profile.rows(shard)?;
        let computed = events.shard(shard, &Entities::of(&rows)?)?;
        Ok((computed, Attributes::of(&rows, known.attributes)?))
    };
    engine::run(reading.shards, stage, |_, (rows, attributes)| {
        report.add(rows.left_out());
        let shard = Gatherer { source, models, known, levels: &levels, attributes: &attributes };
        roles.iter().try_for_each(|(name, role)| shard.take(name, *role, &rows, &mut gathered))
    })?;
    report.check_orphans(source)?;
    gathered.report = report;
    Ok(gathered)
}

/// What the rows of a shard are read with.
struct Gatherer<'a> {
    source: &'a SourcePlan,
    models: &'a Models,
    known: &'a Known<'a>,
    levels: &'a BTreeMap<String, Levels>,
    attributes: &'a Attributes,
}

impl Gatherer<'_> {
    /// Adds the rows of the plan called `name` to what was gathered.
    fn take(&self, name: &str, role: Role, rows: &ShardRows, into: &mut Gathered) -> Result<()> {
        let Self { source, models, known, attributes, .. } = *self;
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
                    let there = hashes.zip(counts.values()).filter(|(_, count)| **count > 0);
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
                into.classifiers[index].gaps.extend(gaps);
                Ok(())
            }
            Role::Activity => {
                let activity = numeric(rows.one(name)?.column(1))?;
                into.activity.extend(activity.into_iter().filter(|a| *a > 0.0));
                Ok(())
            }
            Role::Buyers => {
                let buyers = rfm::read(rows.one(name)?, source.context.zone, as_of.at)?;
                let buyers = buyers.into_iter().flatten();
                into.buyers.extend(buyers.map(|[since, days, net]| [-since, days, net]));
                Ok(())
            }
            Role::Purchases | Role::PastPurchases => {
                let Some(model) = &models.lifetime_value else {
                    unreachable!("a plan of this role is made of the model of lifetime value")
                };
                let rows = rows.one(name)?;
                match into.holdout.filter(|_| matches!(role, Role::PastPurchases)) {
                    Some(at) => into.purchases.take_then(model, rows, source, at),
                    None => into.purchases.take_now(model, rows, source, as_of.at),
                }
            }
            Role::Interactions => {
                let data = &mut into.interactions;
                data.now.take(rows.one(name)?, &mut data.items)
            }
            Role::PastInteractions | Role::LaterInteractions => {
                let data = &mut into.interactions;
                let is_past = matches!(role, Role::PastInteractions);
                let samples = if is_past { &mut data.past } else { &mut data.later };
                for (rows, sample) in rows.of(name)?.iter().zip(samples) {
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

    /// Adds the rows of a classifier at the snapshot of index `at`, with their labels.
    fn snapshot(
        &self,
        index: usize,
        at: usize,
        rows: &RecordBatch,
        labels: &RecordBatch,
        into: &mut ClassifierData,
    ) -> Result<()> {
        let classifier = &self.models.classifiers[index];
        let keep_keys = at + 1 == into.snapshots.len();
        let snapshot = &mut into.snapshots[at];
        let recency = column(rows, "label__days_since_last")?;
        let within = |length: Duration| recency.iter().map(move |days| *days <= length.as_days());
        let eligible: Vec<bool> = match &classifier.eligible {
            Eligible::Where(condition) => truths(condition, rows, self.source.context.scale)?,
            Eligible::Within(length) => within(*length).collect(),
            // What `auto` finds is known only after the pass; nothing longer than this can be found.
            Eligible::Auto => within(LONGEST_AUTO).collect(),
        };
        let inputs: Vec<Vec<f64>> =
            classifier.inputs.iter().map(|name| column(rows, name)).collect::<Result<_>>()?;
        let of_profile = classifier.spec.inputs.attributes.iter();
        let of_profile = of_profile.map(|name| Ok((name, of_attribute(self.levels, name)?)));
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
        join_labels(classifier.spec.label.kind, labels, unlabelled, snapshot)
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
        let levels = names.iter().map(|name| Ok((name, of_attribute(self.levels, name)?)));
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

/// Joins labels to the customers who need one, by key; both are sorted by it. Who was there at a snapshot
/// is still there when its outcome has ended.
fn join_labels(
    kind: LabelKind,
    labels: &RecordBatch,
    customers: Vec<Unlabelled>,
    snapshot: &mut Snapshot,
) -> Result<()> {
    let counts = labels.column(1).as_primitive::<Int64Type>();
    let mut labelled = keys(labels)?.iter().flatten().zip(counts.values());
    for Unlabelled { key, is_eligible, recency } in customers {
        let (_, count) =
            labelled.find(|(other, _)| *other == key).ok_or_else(|| Error::Engine {
                context: "joining labels",
                message: format!("the customer {key} has no label"),
            })?;
        let label = (*count > 0) == (kind == LabelKind::Presence);
        if is_eligible {
            snapshot.labels.push(label);
        } else {
            snapshot.lapsed.push((recency, label));
        }
    }
    Ok(())
}

/// The levels of all attributes that models and their slices name, over the whole profile.
fn levels(known: &Known) -> Result<BTreeMap<String, Levels>> {
    let mut counts = LevelCounts::default();
    if known.attributes.is_empty() {
        return Ok(counts.levels());
    }
    let of_shard = |shard| {
        let rows = known.profile.rows(shard)?;
        Ok(LevelCounts::of(&Attributes::of(&rows, known.attributes)?))
    };
    engine::run(known.profile.shards(), of_shard, |_, more| {
        counts.add(more);
        Ok(())
    })?;
    Ok(counts.levels())
}

fn of_attribute<'a>(levels: &'a BTreeMap<String, Levels>, name: &str) -> Result<&'a Levels> {
    levels.get(name).ok_or_else(|| Error::Engine {
        context: "reading attributes",
        message: format!("{name} was not read"),
    })
}

/// Each past snapshot as it was known then, but never more than is known at the training's as-of.
fn cuts(instants: &[Instant], as_of: AsOf) -> Vec<AsOf> {
    instants.iter().map(|t| AsOf { at: *t, known_at: (*t).min(as_of.known_at) }).collect()
}

const TENURE: &str = "slice__days_since_first";
const CHANNEL: &str = "slice__last_channel";
const VALUE: &str = "slice__amount";
/// Over how much time the amounts of a customer's label events are summed.
const VALUE_WINDOW: Duration = Duration::days(365);

/// What the test rows are sliced by, as far as the events have it.
fn slices(classifier: &Classifier, source: &SourcePlan, mut plan: FeaturePlan) -> FeaturePlan {
    let of_all = |column: &str, op, input, ty| Aggregation {
        column: column.to_owned(),
        op,
        input,
        condition: None,
        window: Window::Lifetime,
        half_life: None,
        ty,
    };
    plan.give(of_all(TENURE, Op::DaysSinceFirst, None, Type::Double));
    let columns = source.columns();
    if columns.get("channel") == Some(Type::Text) {
        let channel = Some(Expression::column("channel", Type::Text));
        plan.give(of_all(CHANNEL, Op::Last, channel, Type::Text));
    }
    if let Some(ty @ Type::Money) = columns.get("amount") {
        let mut amount =
            aggregation(classifier, VALUE, Op::Sum, Window::Trailing(VALUE_WINDOW), ty);
        amount.input = Some(Expression::column("amount", ty));
        plan.give(amount);
    }
    plan
}

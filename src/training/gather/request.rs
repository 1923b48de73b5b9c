//! The plans that models ask the events for, and how the rows of a shard become samples.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch};

use super::gathered::{ClassifierData, ClassifierSample, Gathered, Samples, SliceRow, Snapshot};
use crate::artifact::ClassifierArtifact;
use crate::artifact::Schedule;
use crate::artifact::rfm;
use crate::error::{Error, Result};
use crate::expression::{Expression, Type};
use crate::features::catalog::{Aggregation, Catalog};
use crate::features::events::{BuildReport, ShardRows};
use crate::features::plan::{AsOf, FeaturePlan, Interactions};
use crate::features::read::{column, numeric, truths};
use crate::features::spec::Op;
use crate::shard;
use crate::sources::SourcePlan;
use crate::sources::attributes::{Attributes, Levels};
use crate::sources::contract::History;
use crate::sources::profile::keys;
use crate::spec::{Classifier, Eligible, LabelKind, Models};
use crate::time::{Duration, Instant, Window};
use crate::training::affinity::Windows;
use crate::training::lifetime_value::holdout_at;
use crate::training::schedule::{check_fresh, schedule};
use crate::training::skew::Served;

/// The longest length that `auto` eligibility may find.
pub const LONGEST_AUTO: Duration = Duration::days(365);

/// The number of rows of a snapshot that are kept for each row that a fit may use of it. A sample of
/// several snapshots has only approximately the expected share of the rows of each, so more rows are
/// kept.
const KEPT: f64 = 1.125;
/// The same number for `auto` eligibility, which finds only after the pass who is eligible and then
/// leaves out some of the kept rows.
const KEPT_BY_AUTO: f64 = 2.0;
/// The maximum number that the row limit of a fit is divided by. A fit uses the rows of all training
/// snapshots, so that it needs only a part of its limit from each.
const SNAPSHOTS: usize = 2;

/// A customer of a snapshot whose label must be joined.
struct Unlabelled<'a> {
    key: &'a str,
    is_eligible: bool,
    recency: f64,
}

/// The use of a plan in the pass over the events.
#[derive(Debug, Clone, Copy)]
enum Role {
    Features(usize),
    /// Labels, which are read together with the features of the same snapshot.
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

/// The facts that are known before the pass over the events.
#[derive(Debug, Clone, Copy)]
pub struct TrainingInputs<'a> {
    /// The names of the attributes that models use as inputs or slice by.
    pub attributes: &'a [&'a str],
    /// The levels of these attributes over the whole profile.
    pub levels: &'a BTreeMap<String, Levels>,
    /// The champions, in the order of the classifiers.
    pub champions: &'a [Option<ClassifierArtifact>],
    /// The as-ofs of past scores whose outcomes have ended, in the order of the classifiers.
    pub scored: &'a [Vec<Instant>],
    /// The features as they were served when customers were scored.
    pub served: Option<&'a Served>,
    /// The as-of of the training.
    pub as_of: AsOf,
    /// The numbers of events over time.
    pub history: &'a History,
}

/// The requests to the events for one classifier.
#[derive(Debug)]
struct ClassifierRequest {
    schedule: Schedule,
    recency: Aggregation,
    plan: FeaturePlan,
    levels: Vec<Vec<String>>,
    /// The number of inputs and attributes.
    width: usize,
    scored: Vec<Instant>,
    /// The number of customers whose rows are kept of each snapshot.
    most: usize,
}

/// The requests of all models of a project to the events, and the reader of the rows of a shard.
#[derive(Debug)]
pub struct Request<'a> {
    source: &'a SourcePlan,
    models: &'a Models,
    known: TrainingInputs<'a>,
    /// The plans, each with a name of its own.
    pub plans: Vec<FeaturePlan>,
    /// The roles of the plans, in the same order.
    roles: Vec<Role>,
    classifiers: Vec<ClassifierRequest>,
    holdout: Option<Instant>,
    windows: Option<Windows>,
}

impl<'a> Request<'a> {
    /// Collects the plans that the models of a project need.
    ///
    /// # Errors
    /// Returns [`Error::NotEnough`] if the history is too short for a model.
    pub fn new(
        source: &'a SourcePlan,
        catalog: &Catalog,
        models: &'a Models,
        known: TrainingInputs<'a>,
    ) -> Result<Self> {
        let as_of = known.as_of;
        let mut plans = Vec::new();
        let mut roles = Vec::new();
        let mut classifiers = Vec::new();
        // Outcomes count only up to the instant until which events can be known.
        let until = if source.has_ingestion() { as_of.at.min(as_of.known_at) } else { as_of.at };
        for (index, classifier) in models.classifiers.iter().enumerate() {
            let spec = &classifier.spec;
            check_fresh(&spec.name, spec.label.horizon, known.history, until)?;
            let schedule = schedule(spec, until, known.history.first)?;
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
            let recency = classifier.recency();
            plan.give(recency.clone());
            let outcome = spec.label.gap.plus(spec.label.horizon);
            let outcomes = |what: &str, instants: &[Instant]| {
                let ends =
                    instants.iter().map(|t| AsOf { at: t.plus(outcome), known_at: as_of.known_at });
                let mut labels = FeaturePlan::new(named(what), ends.collect());
                let horizon = Window::Trailing(spec.label.horizon);
                let events =
                    classifier.of_label("label__events", Op::Count, horizon, Type::Integer);
                labels.give(events);
                labels
            };
            let labels = outcomes("labels", &instants);
            let scored = known.scored.get(index).map_or(&[][..], Vec::as_slice);
            let last_training = schedule.training.last().copied().unwrap_or(schedule.calibration);
            let mut gaps = FeaturePlan::new(named("gaps"), cuts(&[last_training], as_of));
            gaps.give(classifier.of_label(
                "label__gap",
                Op::MedianGapDays,
                Window::Lifetime,
                Type::Double,
            ));
            let of_test = |what: &str| FeaturePlan::new(named(what), cuts(&[schedule.test], as_of));
            let slices = slices(classifier, source, of_test("slices"));
            let champion = known.champions.get(index).and_then(Option::as_ref);
            let champion = champion.map(|champion| champion.plan(of_test("champion")));
            let own = spec.inputs.attributes.iter().map(|name| of_attribute(known.levels, name));
            let own = own.map(|found| Ok(found?.names.clone())).collect::<Result<_>>()?;
            let width = classifier.inputs.len() + spec.inputs.attributes.len();
            let kept =
                if matches!(classifier.eligible, Eligible::Auto) { KEPT_BY_AUTO } else { KEPT };
            let most = spec.fit.max_rows / schedule.training.len().clamp(1, SNAPSHOTS);
            classifiers.push(ClassifierRequest {
                schedule,
                recency,
                plan: plan.clone(),
                levels: own,
                width,
                scored: scored.to_vec(),
                most: (most as f64 * kept) as usize,
            });
            plans.extend([plan, labels, gaps, slices]);
            roles.extend([
                Role::Features(index),
                Role::Labels,
                Role::Gaps(index),
                Role::Slices(index),
            ]);
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
                let ends =
                    [windows.tested, as_of.at].map(|at| AsOf { at, known_at: as_of.known_at });
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

        Ok(Self { source, models, known, plans, roles, classifiers, holdout, windows })
    }

    /// Creates samples without customers.
    pub fn empty(&self) -> Samples {
        let classifier = |request: &ClassifierRequest| ClassifierSample {
            snapshots: request
                .schedule
                .all()
                .iter()
                .map(|_| Snapshot::new(request.width))
                .collect(),
            happened: request.scored.iter().map(|at| (*at, HashSet::new())).collect(),
            ..ClassifierSample::default()
        };
        let classifiers = self.classifiers.iter().map(classifier).collect();
        Samples { classifiers, ..Samples::default() }
    }

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

    /// Adds the samples of another shard.
    pub fn add(&self, samples: &mut Samples, shard: Samples) {
        let classifiers = samples.classifiers.iter_mut().zip(shard.classifiers);
        for ((own, more), request) in classifiers.zip(&self.classifiers) {
            own.add(more, request.most);
        }
        samples.activity.extend(shard.activity);
        samples.buyers.extend(shard.buyers);
        if let Some(model) = &self.models.lifetime_value {
            samples.purchases.add(shard.purchases, model.spec.max_customers);
        }
        samples.interactions.add(shard.interactions);
        samples.skew.add(shard.skew);
    }

    /// Turns the samples of all shards into the data that models are trained on.
    pub fn gathered(self, samples: Samples, report: BuildReport) -> Gathered {
        let classifier = |(request, mut sample): (ClassifierRequest, ClassifierSample)| {
            sample.keep(request.most);
            ClassifierData {
                schedule: request.schedule,
                recency: request.recency,
                plan: request.plan,
                levels: request.levels,
                snapshots: sample.snapshots,
                gaps: sample.gaps,
                slices: sample.slices,
                champion: sample.champion,
                happened: sample.happened,
            }
        };
        let classifiers = self.classifiers.into_iter().zip(samples.classifiers);
        Gathered {
            classifiers: classifiers.map(classifier).collect(),
            activity: samples.activity,
            buyers: samples.buyers,
            purchases: samples.purchases,
            holdout: self.holdout,
            interactions: samples.interactions,
            windows: self.windows,
            skew: samples.skew,
            report,
        }
    }
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
                match request.holdout.filter(|_| matches!(role, Role::PastPurchases)) {
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
        let keep_keys = at + 1 == into.snapshots.len();
        let snapshot = &mut into.snapshots[at];
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

fn of_attribute<'a>(levels: &'a BTreeMap<String, Levels>, name: &str) -> Result<&'a Levels> {
    levels
        .get(name)
        .ok_or_else(|| Error::engine("reading attributes")(format!("{name} was not read")))
}

/// The as-of of each past snapshot, with what was known at that instant but never more than is known at
/// the training's as-of.
fn cuts(instants: &[Instant], as_of: AsOf) -> Vec<AsOf> {
    instants.iter().map(|t| AsOf { at: *t, known_at: (*t).min(as_of.known_at) }).collect()
}

const TENURE: &str = "slice__days_since_first";
const CHANNEL: &str = "slice__last_channel";
const VALUE: &str = "slice__amount";
/// The length of time over which the amounts of a customer's label events are summed.
const VALUE_WINDOW: Duration = Duration::days(365);

/// Adds the features that test rows are sliced by, as far as the events have the columns for them.
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
        let mut amount = classifier.of_label(VALUE, Op::Sum, Window::Trailing(VALUE_WINDOW), ty);
        amount.input = Some(Expression::column("amount", ty));
        plan.give(amount);
    }
    plan
}

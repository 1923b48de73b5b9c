//! The plans that models ask the events for.

use std::collections::{BTreeMap, HashSet};

use super::gathered::{
    ClassifierData, ClassifierSample, CustomerNumbers, Distributions, Gathered, Samples, Snapshot,
};
use crate::artifact::ClassifierArtifact;
use crate::artifact::Schedule;
use crate::error::{Error, Result};
use crate::expression::{Expression, Type};
use crate::features::catalog::{Aggregation, Catalog};
use crate::features::events::BuildReport;
use crate::features::plan::{AsOf, FeaturePlan, Interactions};
use crate::features::spec::Op;
use crate::sources::SourcePlan;
use crate::sources::attributes::Levels;
use crate::sources::contract::History;
use crate::spec::{Classifier, Eligible, Models};
use crate::store::sorted::SortedRuns;
use crate::time::{Duration, Instant, Window};
use crate::training::affinity::Windows;
use crate::training::lifetime_value::Holdouts;
use crate::training::sampling::Share;
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

/// The use of a plan in the pass over the events.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
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
    EarlierPurchases,
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
    /// The customers whose past scores are compared with their outcomes.
    pub compared: Share,
    /// The features as they were served when customers were scored.
    pub served: Option<&'a Served>,
    /// The as-of of the training.
    pub as_of: AsOf,
    /// The numbers of events over time.
    pub history: &'a History,
}

/// The requests to the events for one classifier.
#[derive(Debug)]
pub(super) struct ClassifierRequest {
    schedule: Schedule,
    recency: Aggregation,
    plan: FeaturePlan,
    levels: Vec<Vec<String>>,
    /// The number of inputs and attributes.
    width: usize,
    scored: Vec<Instant>,
    /// The number of customers whose rows are kept of each snapshot that is fitted or tested on.
    pub(super) most: usize,
}

/// The requests of all models of a project to the events, and the reader of the rows of a shard.
#[derive(Debug)]
pub struct Request<'a> {
    pub(super) source: &'a SourcePlan,
    pub(super) models: &'a Models,
    pub(super) known: TrainingInputs<'a>,
    /// The plans, each with a name of its own.
    pub plans: Vec<FeaturePlan>,
    /// The roles of the plans, in the same order.
    pub(super) roles: Vec<Role>,
    pub(super) classifiers: Vec<ClassifierRequest>,
    pub(super) holdouts: Option<Holdouts>,
    windows: Option<Windows>,
}

impl<'a> Request<'a> {
    /// Collects the plans that the models of a project need.
    ///
    /// # Errors
    /// Returns [`TrainingProblem`](crate::training::TrainingProblem) if the history is too short for a model.
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
        let until = until(source, as_of);
        for (index, classifier) in models.classifiers.iter().enumerate() {
            let spec = &classifier.spec;
            let schedule = scheduled(classifier, source, as_of, known.history)?;
            let mut instants = schedule.base_rate.clone();
            instants.extend(schedule.all());
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
        let (mut holdouts, mut windows) = (None, None);
        if let Some(model) = &models.lifetime_value {
            if model.spec.method.family().is_some() {
                check_fresh(&model.spec.name, model.spec.horizon, known.history, until)?;
            }
            plans.push(model.plan(now("purchases"), model.spec.horizon));
            roles.push(Role::Purchases);
            holdouts = Holdouts::new(&model.spec, as_of.at, known.history.first);
            let mut past = |name: &str, role: Role, from: Instant, until: Instant| {
                let plan = FeaturePlan::new(name, cuts(&[from], as_of));
                plans.push(model.plan(plan, Duration(until.0 - from.0)));
                roles.push(role);
            };
            if let Some(Holdouts { last, earlier }) = holdouts {
                past("past purchases", Role::PastPurchases, last, as_of.at);
                if let Some(earlier) = earlier {
                    past("earlier purchases", Role::EarlierPurchases, earlier, last);
                }
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
            if let Some(windows) = &windows {
                let past = windows.past();
                let ends = past.iter().skip(1).copied().chain([as_of.at]);
                let ends = ends.map(|at| AsOf { at, known_at: as_of.known_at }).collect();
                let last = cuts(&[windows.tested], as_of);
                plans.push(of("past interactions", &affinity.interactions, cuts(&past, as_of)));
                plans.push(of("later interactions", &affinity.later, ends));
                plans.push(of("recent interactions", &affinity.recent, last));
                roles.extend([Role::PastInteractions, Role::LaterInteractions]);
                roles.push(Role::RecentInteractions);
            }
        }

        if let Some(served) = known.served {
            let names = served.columns.iter().map(String::as_str);
            plans.push(FeaturePlan::of_catalog("served", catalog, names, vec![served.as_of]));
            roles.push(Role::Served);
        }

        Ok(Self { source, models, known, plans, roles, classifiers, holdouts, windows })
    }

    /// The number of classifiers.
    pub fn classifiers(&self) -> usize {
        self.classifiers.len()
    }

    /// Creates samples without customers.
    pub fn empty(&self) -> Samples {
        let classifier = |request: &ClassifierRequest| ClassifierSample {
            snapshots: vec_of(&request.schedule.all(), request.width),
            base_rate: vec_of(&request.schedule.base_rate, request.width),
            happened: request.scored.iter().map(|at| (*at, HashSet::new())).collect(),
            ..ClassifierSample::default()
        };
        let classifiers = self.classifiers.iter().map(classifier).collect();
        let gaps = vec![Vec::new(); self.classifiers.len()];
        let numbers = CustomerNumbers { gaps, ..CustomerNumbers::default() };
        Samples { classifiers, numbers, ..Samples::default() }
    }

    /// Adds the samples of another shard.
    pub fn add(&self, samples: &mut Samples, shard: Samples) {
        let classifiers = samples.classifiers.iter_mut().zip(shard.classifiers);
        for ((own, more), request) in classifiers.zip(&self.classifiers) {
            own.add(more, request.most);
        }
        if let Some(model) = &self.models.lifetime_value {
            samples.purchases.add(shard.purchases, model.spec.max_customers);
        }
        samples.interactions.add(shard.interactions);
        samples.skew.add(shard.skew);
    }

    /// Turns the samples and distributions of all shards into the data that models are trained on.
    pub fn gathered(
        self,
        samples: Samples,
        distributions: Distributions,
        report: BuildReport,
    ) -> Gathered {
        let Distributions { activity, buyers, gaps } = distributions;
        type Own = ((ClassifierRequest, ClassifierSample), SortedRuns);
        let classifier = |((request, mut sample), gaps): Own| {
            sample.keep(request.most);
            ClassifierData {
                schedule: request.schedule,
                recency: request.recency,
                plan: request.plan,
                levels: request.levels,
                snapshots: sample.snapshots,
                base_rate: sample.base_rate,
                gaps,
                slices: sample.slices,
                champion: sample.champion,
                happened: sample.happened,
            }
        };
        let classifiers = self.classifiers.into_iter().zip(samples.classifiers).zip(gaps);
        Gathered {
            classifiers: classifiers.map(classifier).collect(),
            activity,
            buyers,
            purchases: samples.purchases,
            holdouts: self.holdouts,
            interactions: samples.interactions,
            windows: self.windows.clone(),
            skew: samples.skew,
            report,
        }
    }
}

/// Chooses the snapshots of a classifier.
///
/// # Errors
/// Returns [`TrainingProblem`](crate::training::TrainingProblem) if the events end too early, or the history is too
/// short.
pub fn scheduled(
    classifier: &Classifier,
    source: &SourcePlan,
    as_of: AsOf,
    history: &History,
) -> Result<Schedule> {
    let (spec, until) = (&classifier.spec, until(source, as_of));
    check_fresh(&spec.name, spec.label.horizon, history, until)?;
    schedule(spec, until, history.first)
}

/// The instant until which outcomes count, because events can be known until then.
fn until(source: &SourcePlan, as_of: AsOf) -> Instant {
    if source.has_ingestion() { as_of.at.min(as_of.known_at) } else { as_of.at }
}

/// Creates a snapshot without customers for each instant.
fn vec_of(instants: &[Instant], width: usize) -> Vec<Snapshot> {
    instants.iter().map(|_| Snapshot::new(width)).collect()
}

/// The levels of an attribute.
pub(super) fn of_attribute<'a>(
    levels: &'a BTreeMap<String, Levels>,
    name: &str,
) -> Result<&'a Levels> {
    levels
        .get(name)
        .ok_or_else(|| Error::engine("reading attributes")(format!("{name} was not read")))
}

/// The as-of of each past snapshot, with what was known at that instant but never more than is known at
/// the training's as-of.
fn cuts(instants: &[Instant], as_of: AsOf) -> Vec<AsOf> {
    instants.iter().map(|t| AsOf { at: *t, known_at: (*t).min(as_of.known_at) }).collect()
}

pub(super) const TENURE: &str = "slice__days_since_first";
pub(super) const CHANNEL: &str = "slice__last_channel";
pub(super) const VALUE: &str = "slice__amount";
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

//! Everything that training needs of the events, gathered in one pass: feature snapshots joined
//! with labels, repeat gaps, activity, purchases, interactions.
//!
//! A label is a feature too: the count of label events in the window of length horizon that ends at
//! t + gap + horizon, known at the training's as-of.

use std::collections::{HashMap, HashSet};

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
use crate::error::{Error, Result};
use crate::expression::{Expression, Type};
use crate::features::catalog::{Aggregation, Catalog};
use crate::features::engine::{BuildReport, Engine, Part};
use crate::features::plan::{AsOf, FeaturePlan, Interactions};
use crate::features::read::{column, numeric, truths};
use crate::features::spec::Op;
use crate::models::matrix::Matrix;
use crate::models::spec::{Classifier, Eligible, LabelKind, Models};
use crate::sources::SourcePlan;
use crate::sources::attributes::{Attribute, Attributes};
use crate::sources::contract::History;
use crate::sources::profile::{Entities, keys};
use crate::store::part_hash;
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

/// Rows of a snapshot part that wait for their labels.
#[derive(Debug, Default)]
struct Waiting {
    /// Key, whether eligible, recency.
    rows: Vec<(String, bool, f64)>,
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
    Labels(usize),
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
    /// Customers.
    pub entities: &'a Entities,
    /// Their attributes, all that models and their slices name.
    pub attributes: &'a Attributes,
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
    engine: &dyn Engine,
    source: &SourcePlan,
    catalog: &Catalog,
    models: &Models,
    known: &Known,
) -> Result<Gathered> {
    let Known { entities, attributes, as_of, .. } = *known;
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
        let mut plan = FeaturePlan::of_catalog(catalog, columns, cuts(&instants, as_of));
        let recency = recency(classifier);
        plan.give(recency.clone());
        let outcome = spec.label.gap.plus(spec.label.horizon);
        let outcomes = |instants: &[Instant]| {
            let ends =
                instants.iter().map(|t| AsOf { at: t.plus(outcome), known_at: as_of.known_at });
            let mut labels = FeaturePlan { as_ofs: ends.collect(), ..FeaturePlan::default() };
            let horizon = Window::Trailing(spec.label.horizon);
            let events =
                aggregation(classifier, "label__events", Op::Count, horizon, Type::Integer);
            labels.give(events);
            labels
        };
        let labels = outcomes(&instants);
        let scored = known.scored.get(index).map_or(&[][..], Vec::as_slice);
        let last_training = schedule.training.last().copied().unwrap_or(schedule.calibration);
        let mut gaps =
            FeaturePlan { as_ofs: cuts(&[last_training], as_of), ..FeaturePlan::default() };
        gaps.give(aggregation(
            classifier,
            "label__gap",
            Op::MedianGapDays,
            Window::Lifetime,
            Type::Double,
        ));
        let of_test =
            || FeaturePlan { as_ofs: cuts(&[schedule.test], as_of), ..FeaturePlan::default() };
        let slices = slices(classifier, source, of_test());
        let champion = known.champions.get(index).and_then(Option::as_ref);
        let champion = champion.map(|champion| champion.plan(of_test()));
        let levels = spec.inputs.attributes.iter().map(|name| attribute(attributes, name));
        let levels = levels.map(|found| Ok(found?.levels.clone())).collect::<Result<_>>()?;
        let width = classifier.inputs.len() + spec.inputs.attributes.len();
        let inputs = || Matrix::with_capacity(width, entities.keys.len().min(MOST_RESERVED));
        let empty = || Snapshot { inputs: inputs(), ..Snapshot::default() };
        let snapshots = instants.iter().map(|_| empty()).collect();
        classifiers.push(ClassifierData {
            schedule,
            recency,
            plan: plan.clone(),
            snapshots,
            gaps: Vec::new(),
            levels,
            slices: HashMap::new(),
            champion: HashMap::new(),
            happened: scored.iter().map(|at| (*at, HashSet::new())).collect(),
        });
        plans.extend([plan, labels, gaps, slices]);
        roles.extend([Role::Features(index), Role::Labels(index), Role::Gaps(index)]);
        roles.push(Role::Slices(index));
        if !scored.is_empty() {
            plans.push(outcomes(scored));
            roles.push(Role::Happened(index));
        }
        if let Some(champion) = champion {
            plans.push(champion);
            roles.push(Role::Champion(index));
        }
    }
    let now = || FeaturePlan { as_ofs: vec![as_of], ..FeaturePlan::default() };
    for (list, role) in [
        (models.engagement.as_ref().map(|m| &m.aggregations), Role::Activity),
        (models.rfm.as_ref().map(|m| &m.aggregations), Role::Buyers),
    ] {
        if let Some(list) = list {
            let mut plan = now();
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
        plans.push(model.plan(now()));
        roles.push(Role::Purchases);
        holdout = holdout_at(&model.spec, as_of.at, known.history.first);
        if let Some(at) = holdout {
            let then = FeaturePlan { as_ofs: cuts(&[at], as_of), ..FeaturePlan::default() };
            plans.push(model.plan_with_recent(then, Duration(as_of.at.0 - at.0)));
            roles.push(Role::PastPurchases);
        }
    }
    if let Some(affinity) = &models.affinity {
        let of = |interactions: &Interactions, as_ofs: Vec<AsOf>| FeaturePlan {
            interactions: Some(interactions.clone()),
            as_ofs,
            ..FeaturePlan::default()
        };
        plans.push(of(&affinity.interactions, vec![as_of]));
        roles.push(Role::Interactions);
        windows = Windows::new(affinity.spec.horizon, as_of.at, known.history.first);
        if let Some(windows) = windows {
            let past = [windows.chosen, windows.tested];
            let ends = [windows.tested, as_of.at].map(|at| AsOf { at, known_at: as_of.known_at });
            plans.push(of(&affinity.interactions, cuts(&past, as_of)));
            plans.push(of(&affinity.later, ends.to_vec()));
            plans.push(of(&affinity.recent, cuts(&past[1..], as_of)));
            roles.extend([Role::PastInteractions, Role::LaterInteractions]);
            roles.push(Role::RecentInteractions);
        }
    }

    if let Some(served) = known.served {
        let names = served.columns.iter().map(String::as_str);
        plans.push(FeaturePlan::of_catalog(catalog, names, vec![served.as_of]));
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
    let mut waiting: Vec<Vec<Waiting>> = gathered
        .classifiers
        .iter()
        .map(|data| data.snapshots.iter().map(|_| Waiting::default()).collect())
        .collect();
    let report =
        engine.build(source, entities, &plans, &mut |part: Part| match roles[part.plan] {
            Role::Features(index) => {
                let data = &mut gathered.classifiers[index];
                let classifier = &models.classifiers[index];
                let last = part.as_of + 1 == data.snapshots.len();
                let snapshot = &mut data.snapshots[part.as_of];
                waiting[index][part.as_of] =
                    features(classifier, &part.rows, snapshot, last, source, attributes)?;
                Ok(())
            }
            Role::Slices(index) => {
                let names = &models.classifiers[index].slices;
                slice_rows(names, &part.rows, attributes, &mut gathered.classifiers[index].slices)
            }
            Role::Happened(index) => {
                let counts = part.rows.column(1).as_primitive::<Int64Type>();
                let hashes = keys(&part.rows)?.iter().flatten().map(part_hash);
                let there = hashes.zip(counts.values()).filter(|(_, count)| **count > 0);
                let (_, happened) = &mut gathered.classifiers[index].happened[part.as_of];
                happened.extend(there.map(|(hash, _)| hash));
                Ok(())
            }
            Role::Champion(index) => {
                let Some(champion) = &known.champions[index] else { return Ok(()) };
                let inputs = champion.inputs(&part.rows, attributes)?;
                let logits = champion.estimator.logits(&champion.preprocessing.transform(&inputs));
                let hashes = keys(&part.rows)?.iter().flatten().map(part_hash);
                gathered.classifiers[index].champion.extend(hashes.zip(logits));
                Ok(())
            }
            Role::Served => match known.served {
                Some(served) => gathered.skew.count(served, &part.rows),
                None => Ok(()),
            },
            Role::Labels(index) => {
                let kind = models.classifiers[index].spec.label.kind;
                let waiting = std::mem::take(&mut waiting[index][part.as_of]);
                join_labels(
                    kind,
                    &part.rows,
                    waiting,
                    &mut gathered.classifiers[index].snapshots[part.as_of],
                )
            }
            Role::Gaps(index) => {
                let gaps = numeric(part.rows.column(1))?;
                gathered.classifiers[index]
                    .gaps
                    .extend(gaps.into_iter().filter(|gap| !gap.is_nan()));
                Ok(())
            }
            Role::Activity => {
                let activity = numeric(part.rows.column(1))?;
                gathered.activity.extend(activity.into_iter().filter(|a| *a > 0.0));
                Ok(())
            }
            Role::Buyers => {
                let buyers = rfm::read(&part.rows, source.context.zone, as_of.at)?;
                let buyers = buyers.into_iter().flatten();
                gathered.buyers.extend(buyers.map(|[since, days, net]| [-since, days, net]));
                Ok(())
            }
            Role::Purchases => match &models.lifetime_value {
                Some(model) => gathered.purchases.take_now(model, &part.rows, source, as_of.at),
                None => Ok(()),
            },
            Role::PastPurchases => match (&models.lifetime_value, holdout) {
                (Some(model), Some(at)) => {
                    gathered.purchases.take_then(model, &part.rows, source, at)
                }
                _ => Ok(()),
            },
            Role::Interactions
            | Role::PastInteractions
            | Role::LaterInteractions
            | Role::RecentInteractions => {
                let data = &mut gathered.interactions;
                let sample = match roles[part.plan] {
                    Role::PastInteractions => &mut data.past[part.as_of],
                    Role::LaterInteractions => &mut data.later[part.as_of],
                    Role::RecentInteractions => &mut data.recent,
                    _ => &mut data.now,
                };
                sample.take(&part.rows, &mut data.items)
            }
        })?;
    gathered.report = report;
    Ok(gathered)
}

/// Each past snapshot as it was known then, but never more than is known at the training's as-of.
fn cuts(instants: &[Instant], as_of: AsOf) -> Vec<AsOf> {
    instants.iter().map(|t| AsOf { at: *t, known_at: (*t).min(as_of.known_at) }).collect()
}

fn features(
    classifier: &Classifier,
    rows: &RecordBatch,
    snapshot: &mut Snapshot,
    keep_keys: bool,
    source: &SourcePlan,
    attributes: &Attributes,
) -> Result<Waiting> {
    let recency = column(rows, "label__days_since_last")?;
    let eligible: Vec<bool> = match &classifier.eligible {
        Eligible::Where(condition) => truths(condition, rows, source)?,
        Eligible::Within(length) => recency.iter().map(|days| *days <= length.as_days()).collect(),
        // What `auto` finds is known only after the pass; nothing longer than this can be found.
        Eligible::Auto => recency.iter().map(|days| *days <= LONGEST_AUTO.as_days()).collect(),
    };
    let inputs: Vec<Vec<f64>> =
        classifier.inputs.iter().map(|name| column(rows, name)).collect::<Result<_>>()?;
    let of_profile = classifier.spec.inputs.attributes.iter();
    let of_profile: Vec<&Attribute> =
        of_profile.map(|name| attribute(attributes, name)).collect::<Result<_>>()?;
    let mut waiting = Waiting::default();
    for (i, key) in keys(rows)?.iter().flatten().enumerate() {
        if eligible[i] {
            snapshot.hashes.push(part_hash(key));
            let customer = if of_profile.is_empty() { None } else { attributes.find(key) };
            let levels = of_profile.iter().map(|attribute| attribute.code(customer));
            snapshot.inputs.push(inputs.iter().map(|input| input[i]).chain(levels));
            snapshot.recency.push(recency[i]);
            if keep_keys {
                snapshot.keys.push(key.to_owned());
            }
        }
        if eligible[i] || !recency[i].is_nan() {
            waiting.rows.push((key.to_owned(), eligible[i], recency[i]));
        }
    }
    snapshot.customers += rows.num_rows();
    Ok(waiting)
}

/// Joins the rows that wait with the label part of the same partition; both are sorted by key, and
/// who was there at t is still there when the outcome window ends.
fn join_labels(
    kind: LabelKind,
    rows: &RecordBatch,
    waiting: Waiting,
    snapshot: &mut Snapshot,
) -> Result<()> {
    let counts = rows.column(1).as_primitive::<Int64Type>();
    let mut labelled = keys(rows)?.iter().flatten().zip(counts.values());
    for (key, eligible, recency) in waiting.rows {
        let found = labelled.find(|(other, _)| *other == key).ok_or_else(|| Error::Engine {
            context: "joining labels",
            message: format!("the customer {key} has no label"),
        })?;
        let label = (*found.1 > 0) == (kind == LabelKind::Presence);
        if eligible {
            snapshot.labels.push(label);
        } else {
            snapshot.lapsed.push((recency, label));
        }
    }
    Ok(())
}

fn attribute<'a>(attributes: &'a Attributes, name: &str) -> Result<&'a Attribute> {
    attributes.get(name).ok_or_else(|| Error::Engine {
        context: "reading attributes",
        message: format!("{name} was not read"),
    })
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

fn slice_rows(
    names: &[String],
    rows: &RecordBatch,
    attributes: &Attributes,
    out: &mut HashMap<u64, SliceRow>,
) -> Result<()> {
    let tenure = column(rows, TENURE)?;
    let value = rows.column_by_name(VALUE).map(numeric).transpose()?;
    let channel = rows.column_by_name(CHANNEL).and_then(|column| column.as_string_opt::<i32>());
    let of_profile: Vec<&Attribute> =
        names.iter().map(|name| attribute(attributes, name)).collect::<Result<_>>()?;
    for (i, key) in keys(rows)?.iter().flatten().enumerate() {
        let customer = attributes.find(key);
        let level =
            |attribute: &&Attribute| attribute.level(attribute.code(customer)).map(str::to_owned);
        let row = SliceRow {
            tenure: tenure[i],
            value: value.as_ref().map_or(f64::NAN, |value| value[i]),
            channel: channel.filter(|c| c.is_valid(i)).map(|c| c.value(i).to_owned()),
            levels: of_profile.iter().map(level).collect(),
        };
        out.insert(part_hash(key), row);
    }
    Ok(())
}

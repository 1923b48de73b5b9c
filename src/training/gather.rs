//! Everything that training needs of the events, gathered in one pass: feature snapshots joined
//! with labels, repeat gaps, activity, purchases, interactions.
//!
//! A label is a feature too: the count of label events in the window of length horizon that ends at
//! t + gap + horizon, known at the training's as-of.

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;

use super::schedule::Schedule;
use crate::error::{Error, Result};
use crate::expression::polars::evaluate;
use crate::expression::{Expression, Type};
use crate::features::catalog::{Aggregation, Catalog};
use crate::features::engine::{BuildReport, Engine, Part};
use crate::features::plan::{AsOf, FeaturePlan};
use crate::features::spec::Op;
use crate::models::preprocessing::Matrix;
use crate::models::spec::{Classifier, Eligible, LabelKind, Models};
use crate::sources::SourcePlan;
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
    /// Customer by customer: (item, weight).
    pub interactions: Vec<(String, Vec<(String, f64)>)>,
    /// What was read.
    pub report: BuildReport,
}

/// What a plan of the pass is for.
#[derive(Clone, Copy)]
enum Role {
    Features(usize),
    Labels(usize),
    Gaps(usize),
    Activity,
    Buyers,
    Interactions,
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

/// Gathers for all models of a project at `as_of` in one pass.
pub fn gather(
    engine: &dyn Engine,
    source: &SourcePlan,
    entities: &Entities,
    catalog: &Catalog,
    models: &Models,
    as_of: AsOf,
    history: Instant,
) -> Result<Gathered> {
    let mut plans = Vec::new();
    let mut roles = Vec::new();
    let mut classifiers = Vec::new();
    for (index, classifier) in models.classifiers.iter().enumerate() {
        let spec = &classifier.spec;
        // Outcomes count only as far as they can be known.
        let known = if source.has_ingestion() { as_of.at.min(as_of.known_at) } else { as_of.at };
        let schedule = Schedule::new(spec, known, history)?;
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
        let ends = instants.iter().map(|t| AsOf { at: t.plus(outcome), known_at: as_of.known_at });
        let mut labels = FeaturePlan { as_ofs: ends.collect(), ..FeaturePlan::default() };
        let horizon = Window::Trailing(spec.label.horizon);
        labels.give(aggregation(classifier, "label__events", Op::Count, horizon, Type::Integer));
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
        let width = classifier.inputs.len();
        let inputs = || Matrix::with_capacity(width, entities.keys.len().min(MOST_RESERVED));
        let empty = || Snapshot { inputs: inputs(), ..Snapshot::default() };
        let snapshots = instants.iter().map(|_| empty()).collect();
        classifiers.push(ClassifierData {
            schedule,
            recency,
            plan: plan.clone(),
            snapshots,
            gaps: Vec::new(),
        });
        plans.extend([plan, labels, gaps]);
        roles.extend([Role::Features(index), Role::Labels(index), Role::Gaps(index)]);
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
    if let Some(affinity) = &models.affinity {
        plans.push(FeaturePlan { interactions: Some(affinity.interactions.clone()), ..now() });
        roles.push(Role::Interactions);
    }

    let mut gathered = Gathered {
        classifiers,
        activity: Vec::new(),
        buyers: Vec::new(),
        interactions: Vec::new(),
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
                    features(classifier, &part.rows, snapshot, last, source)?;
                Ok(())
            }
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
                let [recency, days, spend, refunds] =
                    [1, 2, 3, 4].map(|i| numeric(part.rows.column(i)));
                let (recency, days, spend, refunds) = (recency?, days?, spend?, refunds?);
                for i in (0..recency.len()).filter(|i| !recency[*i].is_nan()) {
                    gathered.buyers.push([-recency[i], days[i], spend[i] - refunds[i]]);
                }
                Ok(())
            }
            Role::Interactions => collect_items(&part.rows, &mut gathered.interactions),
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
    let mut waiting = Waiting::default();
    for (i, key) in keys(rows)?.iter().flatten().enumerate() {
        if eligible[i] {
            snapshot.hashes.push(part_hash(key));
            snapshot.inputs.push(inputs.iter().map(|input| input[i]));
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

fn collect_items(rows: &RecordBatch, out: &mut Vec<(String, Vec<(String, f64)>)>) -> Result<()> {
    let (items, weights) =
        (rows.column(1).as_string::<i32>(), rows.column(2).as_primitive::<Float64Type>());
    for (i, key) in keys(rows)?.iter().flatten().enumerate() {
        let item = (items.value(i).to_owned(), weights.value(i));
        match out.last_mut() {
            Some((last, list)) if last == key => list.push(item),
            _ => out.push((key.to_owned(), vec![item])),
        }
    }
    Ok(())
}

/// A column as doubles, money in major units; null is NaN.
pub fn column(rows: &RecordBatch, name: &str) -> Result<Vec<f64>> {
    let array = rows.column_by_name(name).ok_or_else(|| Error::Engine {
        context: "reading features",
        message: format!("there is no column {name}"),
    })?;
    numeric(array)
}

/// An array as doubles, money in major units; null is NaN.
pub fn numeric(array: &ArrayRef) -> Result<Vec<f64>> {
    let nan = f64::NAN;
    Ok(match array.data_type() {
        DataType::Float64 => {
            array.as_primitive::<Float64Type>().iter().map(|v| v.unwrap_or(nan)).collect()
        }
        DataType::Int64 => {
            array.as_primitive::<Int64Type>().iter().map(|v| v.map_or(nan, |v| v as f64)).collect()
        }
        DataType::Decimal128(_, scale) => {
            let units = 10_f64.powi(i32::from(*scale));
            let values = array.as_primitive::<Decimal128Type>().iter();
            values.map(|v| v.map_or(nan, |v| v as f64 / units)).collect()
        }
        DataType::Boolean => {
            array.as_boolean().iter().map(|v| v.map_or(nan, |v| f64::from(u8::from(v)))).collect()
        }
        other => {
            let message = format!("a {other} is not a number");
            return Err(Error::Engine { context: "reading features", message });
        }
    })
}

/// Where a condition over feature columns is true.
pub fn truths(
    condition: &Expression,
    rows: &RecordBatch,
    source: &SourcePlan,
) -> Result<Vec<bool>> {
    let named = [("\u{0}condition".to_owned(), condition.clone())];
    let values = evaluate(&named, rows, source.context.scale)?;
    Ok(values[0].as_boolean().iter().map(|value| value == Some(true)).collect())
}

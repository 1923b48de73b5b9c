//! The audit of a snapshot: the values of some customers are computed again in two other ways.
//!
//! The naive reference loops over their events as they are read now. The kernel computes them beside events that happened or
//! were ingested after the as-of, none of which may change anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, TimeUnit};
use serde::{Deserialize, Serialize};

use super::events::Events;
use super::plan::{AsOf, FeaturePlan};
use super::reference::{Event, aggregate, visible};
use super::scanned::{CURRENCY, ID, INGESTED, KEY, KIND, Reading, ScannedEvents, TIME};
use crate::error::{Error, Result};
use crate::expression::reference::evaluate;
use crate::expression::{Expression, Value};
use crate::shard::Shards;
use crate::sources::profile::Entities;
use crate::sources::scan::{Scan, Scanned};
use crate::sources::{POSSIBLE, SourcePlan, is_blank};
use crate::time::{DAY, Instant};

const CONTEXT: &str = "auditing a snapshot";
/// Doubles are added in another order by the two implementations, so that their last digits may differ.
const TOLERANCE: f64 = 1e-9;

/// The values of customers by key and column.
pub type Values = BTreeMap<String, BTreeMap<String, Value>>;

/// The number of events that an attack has added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    /// Events from the as-of on.
    pub future: u64,
    /// Events before the as-of that were ingested from the known-at on.
    pub late: u64,
}

/// What an audit found. It names no customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditRecord {
    /// The format version of this file.
    pub format_version: u32,
    /// The as-of of the snapshots.
    pub as_of: Instant,
    /// When the audit was made.
    pub audited_at: Instant,
    /// What chose the customers.
    pub seed: u64,
    /// The number of customers whose values were computed again.
    pub customers: u64,
    /// What was found in each view.
    pub views: Vec<AuditedView>,
    /// The number of columns that were left out, because they were computed by other definitions than the project has now.
    pub other_definitions: u64,
    /// The number of events from the as-of on that were added.
    pub future: u64,
    /// The number of events ingested from the known-at on that were added; 0 if the source has no time of ingestion.
    pub late: u64,
    /// The number of live files that were compared with their checksums.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The number of those that are gone or damaged.
    pub damaged: u64,
}

/// What an audit found in one view.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditedView {
    /// The name of the view.
    pub view: String,
    /// The number of values that were computed again.
    pub values: u64,
    /// The number of values that the naive reference computes otherwise.
    pub unlike_reference: u64,
    /// The number of values that are others beside future and late events.
    pub moved: u64,
}

impl AuditRecord {
    /// The file of the audit of an as-of.
    pub fn path(as_of: Instant) -> String {
        format!("audit/as_of={}/audit.json", as_of.folder())
    }

    /// Whether nothing differs.
    pub fn is_right(&self) -> bool {
        self.damaged == 0 && self.views.iter().all(|view| view.unlike_reference + view.moved == 0)
    }
}

/// Computes a plan at its as-of for the customers of a source that is restricted to them, by the naive reference.
pub fn naive(
    source: &SourcePlan,
    plan: &FeaturePlan,
    customers: &BTreeSet<String>,
    as_of: AsOf,
) -> Result<Values> {
    let events = read(source, plan)?;
    let (zone, scale) = (source.context.zone, source.context.scale);
    let of_customer = |customer: &String| {
        let own = visible(&events, customer, as_of);
        let mut values = BTreeMap::new();
        for aggregation in &plan.aggregations {
            let value = aggregate(aggregation, &own, as_of, zone, scale);
            values.insert(aggregation.column.clone(), value);
        }
        for derived in &plan.derived {
            let column = |name: &str| values.get(name).cloned().unwrap_or(Value::Null);
            let value = evaluate(&derived.expression, scale, &column);
            values.insert(derived.column.clone(), value);
        }
        (customer.clone(), values)
    };
    Ok(customers.iter().map(of_customer).collect())
}

/// Computes a plan at its as-of by the kernel, beside as many events again of each customer that happened from the as-of
/// on, and, if the source has a time of ingestion, as many that were ingested from the known-at on.
pub fn attacked(
    source: &SourcePlan,
    plan: &FeaturePlan,
    customers: &BTreeSet<String>,
    as_of: AsOf,
    reading: Reading<'_>,
) -> Result<(Values, Added)> {
    let has_ingestion = source.has_ingestion();
    let (future, late) = (AtomicU64::new(0), AtomicU64::new(0));
    let more = |rows: &RecordBatch| -> Result<Vec<RecordBatch>> {
        let count = rows.num_rows() as u64;
        // Each event is moved by another length of time, the first to the very instant.
        let after = |at: i64, row: usize| at + (row as i64 % 60) * DAY / 2;
        future.fetch_add(count, Ordering::Relaxed);
        let mut added = vec![moved(rows, "future", TIME, &|row| after(as_of.at.0, row))?];
        if has_ingestion {
            late.fetch_add(count, Ordering::Relaxed);
            added.push(moved(rows, "late", INGESTED, &|row| after(as_of.known_at.0, row))?);
        }
        Ok(added)
    };
    let reading = Reading { shards: Shards::ONE, ..reading };
    let plans = std::slice::from_ref(plan);
    let events = ScannedEvents::read_with(source, plans, reading, Some(&more))?;
    let entities = Entities {
        keys: customers.iter().cloned().collect(),
        created_at: vec![None; customers.len()],
    };
    let rows = events.shard(Shards::ONE.shard(0), &entities)?;
    let values = values(&[rows.one(&plan.name)?.clone()], customers)?;
    Ok((values, Added { future: future.into_inner(), late: late.into_inner() }))
}

/// The same events under other keys of events, each with another time.
fn moved(
    rows: &RecordBatch,
    mark: &str,
    column: &str,
    time: &dyn Fn(usize) -> i64,
) -> Result<RecordBatch> {
    let place = |name: &str| rows.schema().index_of(name).map_err(Error::engine(CONTEXT));
    let mut columns = rows.columns().to_vec();
    let ids = rows.column(place(ID)?).as_string::<i32>();
    let ids: StringArray = ids.iter().map(|id| id.map(|id| format!("{id}\u{0}{mark}"))).collect();
    columns[place(ID)?] = std::sync::Arc::new(ids);
    let times: TimestampMicrosecondArray =
        (0..rows.num_rows()).map(|row| Some(time(row))).collect();
    let zone = match rows.column(place(column)?).data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, zone) => zone.clone(),
        _ => None,
    };
    columns[place(column)?] = std::sync::Arc::new(times.with_timezone_opt(zone));
    RecordBatch::try_new(rows.schema(), columns).map_err(Error::engine(CONTEXT))
}

/// The values of the customers in rows of a snapshot or of a plan.
pub fn values(batches: &[RecordBatch], customers: &BTreeSet<String>) -> Result<Values> {
    let mut found = Values::new();
    for rows in batches {
        let keys = rows.column_by_name(KEY).and_then(|keys| keys.as_string_opt::<i32>());
        let keys = keys.ok_or_else(|| Error::engine(CONTEXT)("a snapshot has no customers"))?;
        for (row, key) in keys.iter().enumerate() {
            let Some(key) = key.filter(|key| customers.contains(*key)) else { continue };
            let own = found.entry(key.to_owned()).or_default();
            for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
                own.insert(field.name().clone(), cell(column, row)?);
            }
        }
    }
    Ok(found)
}

/// Whether two values are the same, doubles but for the order in which they were added.
pub fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Double(a), Value::Double(b)) => {
            (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0)
        }
        _ => a == b,
    }
}

/// The usable events of a source with the columns that a plan uses.
fn read(source: &SourcePlan, plan: &FeaturePlan) -> Result<Vec<Event>> {
    let expressions =
        plan.aggregations.iter().flat_map(|a| a.condition.iter().chain(a.input.iter()));
    let mut names: BTreeSet<&str> = expressions.flat_map(Expression::columns).collect();
    let has_currency = names.contains("amount") && source.mapping.contains_key(CURRENCY);
    names.extend([KEY, ID, KIND, TIME]);
    names.extend(source.has_ingestion().then_some(INGESTED));
    names.extend(has_currency.then_some(CURRENCY));
    let column = |name: &&str| {
        let ty = source.mapping.get(*name)?.ty;
        Some(((*name).to_owned(), Expression::column(*name, ty)))
    };
    let select: Vec<(String, Expression)> = names.iter().filter_map(column).collect();
    let all = Mutex::new(Vec::new());
    let take = |_: &mut (), scanned: Scanned| {
        let events = events_of(source, &scanned, has_currency)?;
        all.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(events);
        Ok(())
    };
    Scan::new(source, &select)?.fold(|| (), take)?;
    Ok(all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// The usable events of scanned rows: what an event must have is in the contract of the sources.
fn events_of(source: &SourcePlan, scanned: &Scanned, has_currency: bool) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for row in 0..scanned.rows.num_rows() {
        let text = |name: &str| match cell(scanned.column(name), row) {
            Ok(Value::Text(text)) if !is_blank(&text) => Some(text),
            _ => None,
        };
        let instant = |name: &str| match cell(scanned.column(name), row) {
            Ok(Value::Timestamp(micros)) => Some(micros),
            _ => None,
        };
        let (Some(customer), Some(id), Some(_), Some(time)) =
            (text(KEY), text(ID), text(KIND), instant(TIME))
        else {
            continue;
        };
        let is_refused = !POSSIBLE.contains(&time)
            || scanned.not_finite.as_ref().is_some_and(|rows| rows.value(row))
            || scanned.out_of_range.as_ref().is_some_and(|rows| rows.value(row))
            || has_currency
                && text(CURRENCY).is_some_and(|currency| currency != source.context.currency);
        if is_refused {
            continue;
        }
        let fields = scanned.rows.schema();
        let columns = fields.fields().iter().zip(scanned.rows.columns());
        let columns = columns.map(|(field, column)| Ok((field.name().clone(), cell(column, row)?)));
        let ingested = source.has_ingestion().then(|| instant(INGESTED)).flatten();
        events.push(Event {
            customer,
            id,
            time,
            ingested,
            columns: columns.collect::<Result<_>>()?,
        });
    }
    Ok(events)
}

/// A cell as a value of an expression.
fn cell(column: &ArrayRef, row: usize) -> Result<Value> {
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    Ok(match column.data_type() {
        DataType::Boolean => Value::Boolean(column.as_boolean().value(row)),
        DataType::Int64 => Value::Integer(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Value::Double(column.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => {
            Value::Money(column.as_primitive::<Decimal128Type>().value(row) as i64)
        }
        DataType::Utf8 => Value::Text(column.as_string::<i32>().value(row).to_owned()),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Value::Timestamp(column.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        DataType::Date32 => Value::Date(column.as_primitive::<Date32Type>().value(row)),
        other => {
            return Err(Error::engine(CONTEXT)(format!("a column has the type {other}")));
        }
    })
}

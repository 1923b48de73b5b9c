//! The tables that a scoring run writes in addition to the profile: scores, recommendations and segments.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt32Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Decimal128Array, Float64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Fields};

use super::champions::ScoredModel;
use super::scores::{ModelScores, ScoresBuilder};
use super::summary::GONE;
use crate::error::{Error, Result};
use crate::segments::{Assigned, Assignment, Membership};
use crate::sources::consent::Consent;
use crate::time::Instant;

/// Converts doubles to decimals, rounded half away from zero.
pub fn decimal(
    values: impl Iterator<Item = Option<f64>>,
    precision: u8,
    places: u8,
) -> Result<ArrayRef> {
    let unit = 10_f64.powi(i32::from(places));
    let array: Decimal128Array =
        values.map(|value| value.map(|value| (value * unit).round() as i128)).collect();
    let array = array
        .with_precision_and_scale(precision, places as i8)
        .map_err(Error::engine("reading a decimal column"))?;
    Ok(Arc::new(array))
}

fn instants(values: impl Iterator<Item = Instant>) -> ArrayRef {
    let values = values.map(|instant| Some(instant.0));
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let nullable = |name: &str| {
        !matches!(
            name,
            "customer360_id" | "as_of" | "model" | "item" | "segment" | "change" | "opted_out"
        )
    };
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name.to_owned(), array, nullable(name))),
    )
    .map_err(Error::engine("collecting computed rows"))
}

/// Reads the pairs of a list column that [`scores`] has written.
pub fn pairs(rows: &RecordBatch, name: &str, row: usize) -> Vec<(String, f64)> {
    let list = rows.column_by_name(name).and_then(|column| column.as_list_opt::<i32>());
    let Some(list) = list else { return Vec::new() };
    let values = list.value(row);
    let Some(values) = values.as_struct_opt() else { return Vec::new() };
    let names = values.column(0).as_string::<i32>();
    let numbers = values.column(1).as_primitive::<Float64Type>();
    (0..values.len()).map(|i| (names.value(i).to_owned(), numbers.value(i))).collect()
}

/// The customers of a table's rows: keys, consent and the as-of.
#[derive(Debug, Clone, Copy)]
pub struct Customers<'a> {
    /// The keys of the customers, sorted.
    pub keys: &'a StringArray,
    /// The consent of the customers, in the same order.
    pub consent: &'a Consent,
    /// The as-of of all rows.
    pub as_of: Instant,
    /// The as-of whose segments are continued; `None` if there is none.
    pub previous: Option<Instant>,
}

impl Customers<'_> {
    /// Builds the columns that every table begins with. `rows` gives the customer of each row.
    fn columns(&self, rows: impl Iterator<Item = usize> + Clone) -> Vec<(&'static str, ArrayRef)> {
        let keys = rows.clone().map(|row| self.keys.value(row));
        let opted_out = rows.clone().map(|row| Some(self.consent.opted_out(row)));
        vec![
            ("customer360_id", Arc::new(StringArray::from_iter_values(keys))),
            ("as_of", instants(rows.map(|_| self.as_of))),
            ("opted_out", Arc::new(opted_out.collect::<BooleanArray>())),
        ]
    }
}

/// Builds the table of scores, with one row per customer and model: basis, raw, score, percentile,
/// reasons and parts.
pub fn scores(
    models: &[(ScoredModel, &ModelScores, &Float64Array)],
    customers: Customers,
) -> Result<RecordBatch> {
    let count = customers.keys.len();
    let rows = || (0..count).flat_map(|row| (0..models.len()).map(move |model| (row, model)));
    // The scores are one array per model. They are interleaved into rows customer by customer.
    let places: Vec<(usize, usize)> = rows().map(|(row, model)| (model, row)).collect();
    // Without models the table has no rows, but it still has all columns.
    let nothing = ScoresBuilder::new().finish();
    let all = || models.iter().map(|(_, scores, _)| *scores).chain([&nothing]);
    let woven = |column: &dyn Fn(&ModelScores) -> ArrayRef| -> Result<ArrayRef> {
        weave(&all().map(column).collect::<Vec<_>>(), &places)
    };
    let percentiles = models.iter().map(|(_, _, percentiles)| *percentiles);
    let percentiles: Vec<ArrayRef> = percentiles
        .chain([&nothing.ranked])
        .map(|percentiles| Arc::new(percentiles.clone()) as ArrayRef)
        .collect();
    let mut columns = customers.columns(rows().map(|(row, _)| row));
    columns.extend([
        ("model", texts(rows().map(|(_, model)| models[model].0.name))),
        ("version", texts(rows().map(|(_, model)| models[model].0.version))),
        ("basis", woven(&|scores| Arc::new(scores.basis.clone()))?),
        ("raw", woven(&|scores| Arc::new(scores.raw.clone()))?),
        ("score", woven(&|scores| Arc::new(scores.score.clone()))?),
        ("percentile", weave(&percentiles, &places)?),
        ("reasons", woven(&|scores| Arc::new(scores.reasons.clone()))?),
        ("parts", woven(&|scores| Arc::new(scores.parts.clone()))?),
    ]);
    batch(columns)
}

fn weave(arrays: &[ArrayRef], places: &[(usize, usize)]) -> Result<ArrayRef> {
    let arrays: Vec<&dyn Array> = arrays.iter().map(|array| array.as_ref()).collect();
    arrow_select::interleave::interleave(&arrays, places)
        .map_err(Error::engine("collecting scores"))
}

/// Builds the table of recommendations from [`super::affinity::AffinityRows::recommendations`], with one
/// row per customer and recommended item.
pub fn recommendations(
    rows: &RecordBatch,
    version: &str,
    customers: Customers,
) -> Result<RecordBatch> {
    let of_customer = rows.column(0).as_primitive::<UInt32Type>().values();
    let mut columns = customers.columns(of_customer.iter().map(|row| *row as usize));
    columns.push(("version", texts(of_customer.iter().map(|_| version))));
    for name in ["rank", "item", "score", "percentile", "reason", "because"] {
        let column = rows.column_by_name(name).ok_or_else(|| {
            Error::engine("collecting recommendations")(format!("there is no column {name}"))
        })?;
        columns.push((name, column.clone()));
    }
    batch(columns)
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// Builds the table of segments, with one row per customer and membership. Each customer has exactly one
/// primary row. It also lists the memberships that have expired and may not begin again yet.
pub fn segments(assigned: &[Assigned], customers: Customers) -> Result<RecordBatch> {
    let rows = || {
        assigned.iter().enumerate().flat_map(|(row, assigned)| {
            assigned.memberships.iter().map(move |membership| (row, assigned, membership))
        })
    };
    let is_primary =
        |(_, assigned, m): &(usize, &Assigned, &Membership)| m.segment == assigned.primary;
    let previous = rows().map(|(_, assigned, _)| assigned.previous.as_deref());
    let ended = Fields::from(vec![
        Field::new("segment", DataType::Utf8, false),
        Field::new("rule", DataType::Utf8, false),
    ]);
    let mut expired = ListBuilder::new(StructBuilder::from_fields(ended.clone(), 0))
        .with_field(Field::new("item", DataType::Struct(ended), false));
    for row in rows() {
        for (segment, rule) in row.1.expired.iter().filter(|_| is_primary(&row)) {
            let builder = expired.values();
            for (i, text) in [segment, rule].into_iter().enumerate() {
                if let Some(texts) = builder.field_builder::<StringBuilder>(i) {
                    texts.append_value(text);
                }
            }
            builder.append(true);
        }
        expired.append(true);
    }
    let mut columns = customers.columns(rows().map(|row| row.0));
    columns.extend([
        ("segment", texts(rows().map(|r| r.2.segment.as_str()))),
        (
            "is_primary",
            Arc::new(rows().map(|row| Some(is_primary(&row))).collect::<BooleanArray>())
                as ArrayRef,
        ),
        ("since", instants(rows().map(|r| r.2.since))),
        ("reason", texts(rows().map(|r| r.2.reason))),
        ("rule", texts(rows().map(|r| r.2.rule.as_str()))),
        ("previous_primary", Arc::new(previous.collect::<StringArray>())),
        ("expired", Arc::new(expired.finish())),
    ]);
    batch(columns)
}

/// Builds the table of segment changes, with one row per customer and segment that was entered or left
/// since the last as-of.
pub fn changes(assigned: &Assignment, customers: Customers) -> Result<RecordBatch> {
    struct Change<'a> {
        key: &'a str,
        opted_out: bool,
        segment: &'a str,
        change: &'static str,
        reason: &'static str,
        since: Instant,
        primary: Option<&'a str>,
        previous: Option<&'a str>,
    }
    let mut rows: Vec<Change> = Vec::new();
    for (row, own) in assigned.customers.iter().enumerate() {
        let change = |segment, change, reason, since| Change {
            key: customers.keys.value(row),
            opted_out: customers.consent.opted_out(row),
            segment,
            change,
            reason,
            since,
            primary: Some(&own.primary),
            previous: own.previous.as_deref(),
        };
        rows.extend(own.left.iter().map(|l| change(&l.segment, "left", l.reason, l.since)));
        rows.extend(own.entered().map(|m| change(&m.segment, "entered", m.reason, m.since)));
    }
    for (key, state) in &assigned.gone {
        rows.extend(state.memberships.iter().map(|(segment, (_, since))| Change {
            key,
            opted_out: false,
            segment,
            change: "left",
            reason: GONE,
            since: *since,
            primary: None,
            previous: state.primary.as_deref(),
        }));
    }
    rows.sort_by_key(|row| row.key);
    let optional = |of: fn(&Change) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().map(of).collect::<StringArray>())
    };
    let previous = rows.iter().map(|_| customers.previous.map(|at| at.0));
    let previous = previous.collect::<TimestampMicrosecondArray>().with_timezone("UTC");
    batch(vec![
        ("customer360_id", texts(rows.iter().map(|row| row.key))),
        ("as_of", instants(rows.iter().map(|_| customers.as_of))),
        (
            "opted_out",
            Arc::new(rows.iter().map(|row| Some(row.opted_out)).collect::<BooleanArray>()),
        ),
        ("previous_as_of", Arc::new(previous)),
        ("segment", texts(rows.iter().map(|row| row.segment))),
        ("change", texts(rows.iter().map(|row| row.change))),
        ("reason", texts(rows.iter().map(|row| row.reason))),
        ("since", instants(rows.iter().map(|row| row.since))),
        ("primary_segment", optional(|row| row.primary.map(str::to_owned))),
        ("previous_primary", optional(|row| row.previous.map(str::to_owned))),
    ])
}

//! The tables that a scoring run writes beside the profile: scores, recommendations, segments.

use std::sync::Arc;

use arrow_array::builder::{Float64Builder, ListBuilder, StringBuilder, StructBuilder};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Fields};

use super::{Recommendation, Scored};
use crate::error::{Error, Result};
use crate::segments::Assigned;
use crate::time::Instant;

/// Doubles as decimals, rounded half away from zero.
pub fn decimal(values: &[Option<f64>], precision: u8, places: u8) -> Result<ArrayRef> {
    let unit = 10_f64.powi(i32::from(places));
    let array: Decimal128Array =
        values.iter().map(|value| value.map(|value| (value * unit).round() as i128)).collect();
    let array = array
        .with_precision_and_scale(precision, places as i8)
        .map_err(Error::engine("a decimal column"))?;
    Ok(Arc::new(array))
}

fn instants(values: impl Iterator<Item = Instant>) -> ArrayRef {
    let values = values.map(|instant| Some(instant.0));
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let nullable =
        |name: &str| !matches!(name, "customer360_id" | "as_of" | "model" | "item" | "segment");
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name.to_owned(), array, nullable(name))),
    )
    .map_err(Error::engine("an output table"))
}

/// Adds one list of names with numbers.
fn append<'a>(lists: &mut ListBuilder<StructBuilder>, pairs: impl Iterator<Item = (&'a str, f64)>) {
    for (name, value) in pairs {
        let builder = lists.values();
        if let Some(texts) = builder.field_builder::<StringBuilder>(0) {
            texts.append_value(name);
        }
        if let Some(values) = builder.field_builder::<Float64Builder>(1) {
            values.append_value(value);
        }
        builder.append(true);
    }
    lists.append(true);
}

/// One row per customer and model: raw, score, percentile, basis, version, as_of, reasons, parts.
pub fn scores(scored: &Scored, keys: &StringArray, as_of: Instant) -> Result<RecordBatch> {
    let models = || scored.models.iter();
    let count = keys.len();
    let rows = || (0..count).flat_map(|row| models().map(move |model| (row, model)));
    let reason = Fields::from(vec![
        Field::new("feature", DataType::Utf8, false),
        Field::new("contribution", DataType::Float64, false),
    ]);
    let mut reasons = ListBuilder::new(StructBuilder::from_fields(reason.clone(), 0))
        .with_field(Field::new("item", DataType::Struct(reason), false));
    for (row, model) in rows() {
        append(
            &mut reasons,
            model.reasons[row].iter().map(|(name, value)| (name.as_str(), *value)),
        );
    }
    let part = Fields::from(vec![
        Field::new("part", DataType::Utf8, false),
        Field::new("value", DataType::Float64, false),
    ]);
    let mut parts = ListBuilder::new(StructBuilder::from_fields(part.clone(), 0))
        .with_field(Field::new("item", DataType::Struct(part), false));
    for (row, model) in rows() {
        let own = model.parts.get(row).map_or(&[][..], Vec::as_slice);
        append(&mut parts, own.iter().copied());
    }
    let text = |f: &dyn Fn(usize, &super::ModelScores) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows().map(|(row, model)| f(row, model))))
    };
    let number = |f: &dyn Fn(usize, &super::ModelScores) -> Option<f64>| -> ArrayRef {
        Arc::new(rows().map(|(row, model)| f(row, model)).collect::<Float64Array>())
    };
    batch(vec![
        ("customer360_id", text(&|row, _| keys.value(row).to_owned())),
        ("as_of", instants(rows().map(|_| as_of))),
        ("model", text(&|_, model| model.model.clone())),
        ("version", text(&|_, model| model.version.clone())),
        ("basis", text(&|row, model| model.basis[row].name().to_owned())),
        ("raw", number(&|row, model| model.raw[row])),
        ("score", number(&|row, model| model.score[row])),
        ("percentile", number(&|row, model| model.percentile[row])),
        ("reasons", Arc::new(reasons.finish())),
        ("parts", Arc::new(parts.finish())),
    ])
}

/// One row per customer and recommended item.
pub fn recommendations(
    list: &[Vec<Recommendation>],
    keys: &StringArray,
    version: &str,
    as_of: Instant,
) -> Result<RecordBatch> {
    let rows = || {
        list.iter().enumerate().flat_map(|(row, items)| {
            items.iter().enumerate().map(move |(rank, item)| (row, rank as i32 + 1, item))
        })
    };
    batch(vec![
        (
            "customer360_id",
            Arc::new(StringArray::from_iter_values(rows().map(|r| keys.value(r.0)))),
        ),
        ("as_of", instants(rows().map(|_| as_of))),
        ("version", Arc::new(StringArray::from_iter_values(rows().map(|_| version)))),
        ("rank", Arc::new(Int32Array::from_iter_values(rows().map(|r| r.1)))),
        ("item", Arc::new(StringArray::from_iter_values(rows().map(|r| &r.2.item)))),
        ("score", Arc::new(Float64Array::from_iter_values(rows().map(|r| r.2.score)))),
    ])
}

/// One row per customer and membership; each customer has exactly one primary row.
pub fn segments(assigned: &[Assigned], keys: &StringArray, as_of: Instant) -> Result<RecordBatch> {
    let rows = || {
        assigned.iter().enumerate().flat_map(|(row, assigned)| {
            assigned.memberships.iter().map(move |membership| (row, assigned, membership))
        })
    };
    let previous = rows().map(|(_, assigned, _)| assigned.previous.as_deref());
    batch(vec![
        (
            "customer360_id",
            Arc::new(StringArray::from_iter_values(rows().map(|r| keys.value(r.0)))),
        ),
        ("as_of", instants(rows().map(|_| as_of))),
        ("segment", Arc::new(StringArray::from_iter_values(rows().map(|r| &r.2.segment)))),
        (
            "is_primary",
            Arc::new(rows().map(|r| Some(r.2.segment == r.1.primary)).collect::<BooleanArray>()),
        ),
        ("since", instants(rows().map(|r| r.2.since))),
        ("reason", Arc::new(StringArray::from_iter_values(rows().map(|r| r.2.reason)))),
        ("rule", Arc::new(StringArray::from_iter_values(rows().map(|r| &r.2.rule)))),
        ("previous_primary", Arc::new(previous.collect::<StringArray>())),
    ])
}

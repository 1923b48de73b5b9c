//! Conversion of the values of a sweep to record batches.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow_buffer::{ArrowNativeType, Buffer, NullBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field, Schema};

use super::aggregate::Values;
use super::interner::Interner;
use super::layout::CompiledPlan;
use super::partition::Partition;
use crate::error::{Error, Result};
use crate::expression::Type;
use crate::expression::polars::arrow_type;
use crate::money::Scale;

/// The items of one as-of: customer code, bits of the item, weight.
pub type Items = Vec<(u32, u64, f64)>;

fn key_field() -> Field {
    Field::new("customer360_id", DataType::Utf8, false)
}

/// Creates a batch with one row per code in `customers`. Its columns are the key, followed by the
/// aggregations of the plan.
pub fn batch(
    partition: &Partition,
    texts: &Interner,
    plan: &CompiledPlan,
    values: Vec<Values>,
    customers: &[u32],
    scale: Scale,
) -> Result<RecordBatch> {
    let keys = customers.iter().map(|code| partition.customers.text(*code));
    let mut fields = vec![key_field()];
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values(keys))];
    for (aggregation, values) in plan.plan.aggregations.iter().zip(values) {
        fields.push(Field::new(&aggregation.column, arrow_type(aggregation.ty, scale), true));
        arrays.push(array(texts, aggregation.ty, values, scale)?);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .map_err(Error::engine("collecting a part"))
}

fn array(texts: &Interner, ty: Type, values: Values, scale: Scale) -> Result<ArrayRef> {
    let Values { bits, valid, .. } = values;
    let missing = valid.contains(&false);
    let nulls = missing.then(|| NullBuffer::from(valid.as_slice()));
    let present = || bits.iter().zip(&valid).map(|(bits, valid)| valid.then_some(*bits));
    Ok(match ty {
        Type::Boolean => Arc::new(present().map(|b| b.map(|b| b != 0)).collect::<BooleanArray>()),
        Type::Integer => Arc::new(Int64Array::new(words(bits), nulls)),
        Type::Double => Arc::new(Float64Array::new(words(bits), nulls)),
        Type::Money => {
            let units: Vec<i128> = bits.iter().map(|bits| i128::from(*bits as i64)).collect();
            let array = Decimal128Array::new(units.into(), nulls);
            let array = array.with_precision_and_scale(Scale::PRECISION, scale.places() as i8);
            Arc::new(array.map_err(Error::engine("reading a money column"))?)
        }
        Type::Text => {
            let values = present().map(|b| b.map(|b| texts.text(b as u32)));
            Arc::new(values.collect::<StringArray>())
        }
        Type::Timestamp => {
            Arc::new(TimestampMicrosecondArray::new(words(bits), nulls).with_timezone("UTC"))
        }
        Type::Date => {
            let days: Vec<i32> = bits.iter().map(|bits| *bits as i64 as i32).collect();
            Arc::new(Date32Array::new(days.into(), nulls))
        }
    })
}

/// Reinterprets the bits as values of eight bytes without copying them.
fn words<T: ArrowNativeType>(bits: Vec<u64>) -> ScalarBuffer<T> {
    let count = bits.len();
    ScalarBuffer::new(Buffer::from_vec(bits), 0, count)
}

/// Creates a batch of customer, item as text, and weight, sorted by customer and then by item.
pub fn item_batch(
    partition: &Partition,
    texts: &Interner,
    ty: Type,
    items: Items,
) -> Result<RecordBatch> {
    let text = |bits: u64| match ty {
        Type::Text => texts.text(bits as u32).to_owned(),
        _ => (bits as i64).to_string(),
    };
    let mut rows: Vec<(&str, String, f64)> = items
        .into_iter()
        .map(|(customer, item, weight)| (partition.customers.text(customer), text(item), weight))
        .collect();
    rows.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let schema = Schema::new(vec![
        key_field(),
        Field::new("item", DataType::Utf8, false),
        Field::new("weight", DataType::Float64, false),
    ]);
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.1))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.2))),
    ];
    RecordBatch::try_new(Arc::new(schema), arrays).map_err(Error::engine("collecting interactions"))
}

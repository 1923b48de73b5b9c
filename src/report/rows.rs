//! Rows of tables as text for people and as JSON for programs.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::DataType;
use serde_json::{Map, Value, json};

use super::Table;
use crate::time::Instant;

/// Formats one value as text; null is `-`.
pub fn cell(array: &ArrayRef, row: usize) -> String {
    if let Some(times) = array.as_primitive_opt::<TimestampMicrosecondType>() {
        let instant = (!times.is_null(row)).then(|| Instant(times.value(row)).to_string());
        return instant.unwrap_or_else(|| "-".into());
    }
    if let Some(numbers) = array.as_primitive_opt::<Float64Type>() {
        let number = (!numbers.is_null(row)).then(|| format!("{:.4}", numbers.value(row)));
        return number.unwrap_or_else(|| "-".into());
    }
    let options = FormatOptions::default().with_null("-");
    match ArrayFormatter::try_new(array.as_ref(), &options) {
        Ok(formatter) => formatter.value(row).to_string(),
        Err(_) => format!("<{}>", array.data_type()),
    }
}

/// Renders some columns of all rows as a text table.
pub fn columns_text(rows: &RecordBatch, names: &[&str]) -> String {
    let mut table = Table::new(names);
    for row in 0..rows.num_rows() {
        table.row(
            names
                .iter()
                .map(|name| rows.column_by_name(name).map_or_else(String::new, |c| cell(c, row))),
        );
    }
    table.render()
}

/// Converts rows to JSON objects.
pub fn objects(rows: &RecordBatch) -> Vec<Value> {
    let names = || rows.schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
    let object = |row: usize| {
        let values = rows.columns().iter().map(|column| value(column, row));
        names().into_iter().zip(values).collect::<Map<_, _>>().into()
    };
    (0..rows.num_rows()).map(object).collect()
}

/// Converts one cell to JSON. Types that JSON does not have, such as exact decimals, become text.
fn value(array: &ArrayRef, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => json!(array.as_boolean().value(row)),
        DataType::Int32 => json!(array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => json!(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => json!(array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => json!(array.as_primitive::<Float64Type>().value(row)),
        DataType::List(_) => values(&array.as_list::<i32>().value(row)),
        DataType::FixedSizeList(..) => values(&array.as_fixed_size_list().value(row)),
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let pairs = fields.iter().zip(columns);
            pairs.map(|(f, c)| (f.name().clone(), value(c, row))).collect::<Map<_, _>>().into()
        }
        _ => json!(cell(array, row)),
    }
}

fn values(array: &ArrayRef) -> Value {
    (0..array.len()).map(|row| value(array, row)).collect()
}

//! Reading columns of computed rows as numbers and as truth values.

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::DataType;

use crate::error::{Error, Result};
use crate::expression::Expression;
use crate::expression::polars::evaluate;
use crate::money::Scale;

/// A column as doubles. Money is in major units, and null is NaN.
///
/// # Errors
/// An engine error if the column does not exist or is not numeric.
pub fn column(rows: &RecordBatch, name: &str) -> Result<Vec<f64>> {
    let array = rows
        .column_by_name(name)
        .ok_or_else(|| Error::engine("reading features")(format!("there is no column {name}")))?;
    numeric(array)
}

/// An array as doubles. Money is in major units, and null is NaN.
///
/// # Errors
/// An engine error if the array is not numeric.
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
            return Err(Error::engine("reading features")(message));
        }
    })
}

/// Evaluates a condition over feature columns. Null counts as false.
pub fn truths(condition: &Expression, rows: &RecordBatch, scale: Scale) -> Result<Vec<bool>> {
    let named = [("\u{0}condition".to_owned(), condition.clone())];
    let values = evaluate(&named, rows, scale)?;
    Ok(values[0].as_boolean().iter().map(|value| value == Some(true)).collect())
}

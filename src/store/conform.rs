//! Gives arrays and record batches the types of another schema.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Schema};

use crate::error::{Error, Result};

/// Gives an array a type that holds all of its values.
///
/// # Errors
/// Returns an engine error if a value does not fit into the type.
pub fn cast(array: &ArrayRef, ty: &DataType) -> Result<ArrayRef> {
    if array.data_type() == ty {
        return Ok(array.clone());
    }
    cast_with_options(array, ty, &CastOptions { safe: false, ..Default::default() })
        .map_err(Error::engine("giving a column the type of its table"))
}

/// Gives a batch the columns of a schema that `columns` selects, or all of them, in their types. A column that the
/// batch lacks is null.
///
/// # Errors
/// Returns an engine error if a value does not fit into the type of its column.
pub fn conform(
    batch: &RecordBatch,
    schema: &Schema,
    columns: Option<&[&str]>,
) -> Result<RecordBatch> {
    let is_wanted = |name: &str| columns.is_none_or(|columns| columns.contains(&name));
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for field in schema.fields().iter().filter(|field| is_wanted(field.name())) {
        let array = match batch.column_by_name(field.name()) {
            // A dictionary has keys of its own in each file.
            Some(array) if matches!(field.data_type(), DataType::Dictionary(..)) => array.clone(),
            Some(array) => cast(array, field.data_type())?,
            None => new_null_array(field.data_type(), batch.num_rows()),
        };
        let nullable = field.is_nullable() || array.null_count() > 0;
        let own = field.as_ref().clone().with_data_type(array.data_type().clone());
        fields.push(own.with_nullable(nullable));
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .map_err(Error::engine("giving rows the columns of their table"))
}

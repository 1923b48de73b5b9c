//! Gives arrays and record batches the types of another schema.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, ListArray, MapArray, RecordBatch, RecordBatchOptions, StructArray,
    new_null_array,
};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema};

/// The key under which the Parquet reader tells the ID of a field.
const FIELD_ID: &str = "PARQUET:field_id";

/// A column with a value that does not fit into a type.
#[derive(Debug, thiserror::Error)]
#[error("the column {column} does not fit into {ty}")]
pub struct Misfit {
    /// The name of the column.
    pub column: String,
    /// The type.
    pub ty: DataType,
    /// What Arrow says of the value.
    pub source: ArrowError,
}

/// Gives a batch the columns of a schema that `columns` selects, or all of them, in their types. A column that the
/// batch lacks is null.
///
/// # Errors
/// Returns a [`Misfit`] if a value does not fit into the type of its column.
pub fn conform(
    batch: &RecordBatch,
    schema: &Schema,
    columns: Option<&[&str]>,
) -> Result<RecordBatch, Misfit> {
    let is_wanted = |name: &str| columns.is_none_or(|columns| columns.contains(&name));
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for field in schema.fields().iter().filter(|field| is_wanted(field.name())) {
        let array = match batch.column_by_name(field.name()) {
            // A dictionary has keys of its own in each file.
            Some(array) if matches!(field.data_type(), DataType::Dictionary(..)) => array.clone(),
            Some(array) => {
                reshape(array, field.data_type(), field.data_type()).map_err(|source| Misfit {
                    column: field.name().clone(),
                    ty: field.data_type().clone(),
                    source,
                })?
            }
            None => new_null_array(field.data_type(), batch.num_rows()),
        };
        let nullable = field.is_nullable() || array.null_count() > 0;
        let own = field.as_ref().clone().with_data_type(array.data_type().clone());
        fields.push(own.with_nullable(nullable));
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let rows = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options);
    Ok(rows.unwrap_or_else(|error| unreachable!("all columns have the rows of the batch: {error}")))
}

/// Gives the values of an array another type, whose fields may have other names and more nested fields, which are null.
/// `physical` is that type with the names and IDs that nested fields have in the array.
///
/// # Errors
/// Returns an error if a value does not fit into the type.
pub fn reshape(
    array: &ArrayRef,
    physical: &DataType,
    logical: &DataType,
) -> Result<ArrayRef, ArrowError> {
    use DataType::{FixedSizeList, LargeList, LargeListView, List, ListView, Map, Struct};
    Ok(match (array.data_type(), physical, logical) {
        (own, _, logical) if own == logical => array.clone(),
        (Struct(own), Struct(physical), Struct(fields)) => {
            let array = array.as_struct();
            let child = |(physical, field): (&FieldRef, &FieldRef)| match find(own, physical) {
                Some(index) => {
                    reshape(array.column(index), physical.data_type(), field.data_type())
                }
                None => Ok(new_null_array(field.data_type(), array.len())),
            };
            let children = physical.iter().zip(fields).map(child);
            let children: Vec<ArrayRef> = children.collect::<Result<_, _>>()?;
            let (length, nulls) = (array.len(), array.nulls().cloned());
            let made = StructArray::try_new_with_length(fields.clone(), children, nulls, length);
            Arc::new(made?)
        }
        (List(_), List(physical), List(field)) => {
            let array = array.as_list::<i32>();
            let values = reshape(array.values(), physical.data_type(), field.data_type())?;
            let (offsets, nulls) = (array.offsets().clone(), array.nulls().cloned());
            Arc::new(ListArray::try_new(field.clone(), offsets, values, nulls)?)
        }
        (
            LargeList(own) | FixedSizeList(own, _) | ListView(own) | LargeListView(own),
            List(_),
            List(_),
        ) => reshape(&cast(array, &List(own.clone()))?, physical, logical)?,
        (Map(..), Map(physical, _), Map(field, sorted)) => {
            let array = array.as_map();
            let (Struct(of_file), Struct(fields)) = (physical.data_type(), field.data_type())
            else {
                unreachable!("the entries of a map are a struct")
            };
            // Keys and values have no names of their own: they are the first and the second field.
            let columns = array.entries().columns().iter().zip(of_file.iter().zip(fields));
            let children = columns.map(|(column, (physical, field))| {
                reshape(column, physical.data_type(), field.data_type())
            });
            let children: Vec<ArrayRef> = children.collect::<Result<_, _>>()?;
            let entries = StructArray::try_new(fields.clone(), children, None)?;
            let (offsets, nulls) = (array.offsets().clone(), array.nulls().cloned());
            Arc::new(MapArray::try_new(field.clone(), offsets, entries, nulls, *sorted)?)
        }
        (_, _, logical) => cast(array, logical)?,
    })
}

fn cast(array: &ArrayRef, ty: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(array, ty, &CastOptions { safe: false, ..Default::default() })
}

/// The place of a field among those of a file: by its ID if both have one, or else by its name.
pub fn find(fields: &Fields, wanted: &Field) -> Option<usize> {
    let id = wanted.metadata().get(FIELD_ID);
    let same_id = |field: &FieldRef| id.is_some() && field.metadata().get(FIELD_ID) == id;
    let by_id = fields.iter().position(same_id);
    by_id.or_else(|| fields.iter().position(|field| field.name() == wanted.name()))
}

#[cfg(test)]
mod tests {
    use arrow_array::builder::{LargeListBuilder, LargeStringBuilder};
    use arrow_array::types::Int64Type;
    use arrow_array::{Int32Array, StringArray, UInt64Array};

    use super::*;

    fn field(name: &str, ty: DataType) -> FieldRef {
        Arc::new(Field::new(name, ty, true))
    }

    #[test]
    fn nested_values_get_the_type_of_their_table() {
        let mut emails = LargeListBuilder::new(LargeStringBuilder::new());
        emails.values().append_value("a@example.com");
        emails.values().append_value("b@example.com");
        emails.append(true);
        emails.append(false);
        let emails: ArrayRef = Arc::new(emails.finish());
        let address: ArrayRef = Arc::new(StructArray::from(vec![
            (field("zip", DataType::Int32), Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef),
            (field("city", DataType::Utf8), Arc::new(StringArray::from(vec!["x", "y"]))),
        ]));
        let rows = RecordBatch::try_from_iter([("emails", emails), ("address", address)]).unwrap();
        let fields: Fields = vec![
            field("city", DataType::Utf8),
            field("street", DataType::Utf8),
            field("zip", DataType::Int64),
        ]
        .into();
        let schema = Schema::new(vec![
            field("emails", DataType::List(field("element", DataType::Utf8))),
            field("address", DataType::Struct(fields)),
        ]);
        let rows = conform(&rows, &schema, None).unwrap();
        let emails = rows.column(0).as_list::<i32>();
        let first = emails.value(0);
        let first: Vec<&str> = first.as_string::<i32>().iter().flatten().collect();
        assert_eq!(
            (first.as_slice(), emails.is_null(1)),
            (&["a@example.com", "b@example.com"][..], true)
        );
        let address = rows.column(1).as_struct();
        assert_eq!(address.column(0).as_string::<i32>().value(1), "y");
        assert_eq!(address.column(1).null_count(), 2);
        assert_eq!(address.column(2).as_primitive::<Int64Type>().values(), &[1, 2]);
    }

    #[test]
    fn a_value_that_does_not_fit_is_named() {
        let ids: ArrayRef = Arc::new(UInt64Array::from(vec![1, u64::MAX]));
        let rows = RecordBatch::try_from_iter([("id", ids)]).unwrap();
        let schema = Schema::new(vec![field("id", DataType::Int64)]);
        let misfit = conform(&rows, &schema, None).unwrap_err();
        assert_eq!(misfit.to_string(), "the column id does not fit into Int64");
        assert!(misfit.source.to_string().contains("18446744073709551615"), "{}", misfit.source);
    }
}

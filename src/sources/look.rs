//! Looks at the values of raw files, for a command that proposes how to map them.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, Schema};

use super::files::RawTable;
use super::profile::normalize;
use super::{EventsSpec, SourceContext, SourcePlan};
use crate::error::{Error, Result};
use crate::expression::check::check;
use crate::expression::polars::evaluate;
use crate::time::Instant;

/// Evaluates expressions over the rows of a table, at most about `most` of them, and passes the values on batch by
/// batch. Columns of Hive partitions cannot be used. Returns the number of rows.
///
/// # Errors
/// A configuration error for a wrong expression, which names `place`. The errors of reading Parquet, and those of
/// `each`.
pub fn look(
    table: &RawTable,
    context: &SourceContext,
    (place, expressions): (&str, &[&str]),
    most: usize,
    mut each: impl FnMut(&[ArrayRef]) -> Result<()>,
) -> Result<usize> {
    let columns = table.columns(context.scale);
    let checked = expressions.iter().enumerate().map(|(i, sql)| {
        // A prefix keeps the results apart from raw columns.
        Ok((format!("\u{0}{i}"), check(sql, &columns, place)?))
    });
    let checked: Vec<_> = checked.collect::<Result<_>>()?;
    let needed: BTreeSet<&str> = checked.iter().flat_map(|(_, x)| x.columns()).collect();
    let needed: Vec<&str> = needed.into_iter().collect();
    let mut rows = 0;
    for file in &table.files {
        for batch in table.batches(file, Some(&needed), None)? {
            let batch = batch?;
            let (mut fields, mut arrays) = (Vec::new(), Vec::new());
            for (name, array) in batch.schema().fields().iter().zip(batch.columns()) {
                let Some(column) = table.get(name.name()) else { continue };
                let array = normalize(array, column.ty, context)?;
                fields.push(Field::new(name.name(), array.data_type().clone(), true));
                arrays.push(array);
            }
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let schema = Arc::new(Schema::new(fields));
            let raw = RecordBatch::try_new_with_options(schema, arrays, &options)
                .map_err(Error::engine("looking at a source"))?;
            each(&evaluate(&checked, &raw, context.scale)?)?;
            rows += batch.num_rows();
            if rows >= most {
                return Ok(rows);
            }
        }
    }
    Ok(rows)
}

/// Finds the time of the last event of a source; `None` if it has no events.
///
/// # Errors
/// Those of [`look`]. An expression over the columns of lookups cannot be evaluated.
pub fn last_event(spec: &EventsSpec, source: &SourcePlan) -> Result<Option<Instant>> {
    let sql = spec.columns.get("event_ts").map_or("event_ts", String::as_str);
    let mut last = None;
    look(&source.table, &source.context, ("c360.toml: event_ts", &[sql]), usize::MAX, |columns| {
        let times = columns[0].as_primitive_opt::<TimestampMicrosecondType>();
        last = last.max(times.and_then(|times| times.iter().flatten().max()));
        Ok(())
    })?;
    Ok(last.map(Instant))
}

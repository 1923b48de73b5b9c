//! Entity rows: the rows of the user to which features are joined. They have a key, an instant, and any other
//! columns.

use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch, StringArray};
use arrow_schema::DataType;

use super::files::{RawTable, RawType};
use super::footers::Footers;
use super::profile::normalize;
use super::{SourceContext, SourceProblem};
use crate::error::{Error, Result};
use crate::store::parquet::concat;
use crate::time::Instant;

/// The column that holds the key of the customer.
pub const KEY: &str = "customer360_id";
/// The column that holds the instant of the row.
pub const TIME: &str = "event_timestamp";

/// Entity rows in the order of their files.
#[derive(Debug, Clone)]
pub struct EntityRows {
    /// All columns as they were read.
    pub rows: RecordBatch,
    /// The key of the customer of each row.
    pub keys: StringArray,
    /// The instant of each row.
    pub times: Vec<Instant>,
}

impl EntityRows {
    /// Reads a Parquet file, or all files of a folder or glob in the order of their names.
    ///
    /// # Errors
    /// A contract violation for a missing key or instant, either as a column or in a row.
    pub fn read(path: &Path, context: &SourceContext) -> Result<Self> {
        let table = RawTable::open(path, None, "--entities", &Footers::default())?;
        let file = || table.files[0].clone();
        let kind = |name: &str| {
            table.get(name).map(|column| column.ty).ok_or_else(|| SourceProblem::Missing {
                file: file(),
                column: name.to_owned(),
                required: format!("entities have {KEY}, {TIME} and any columns of their own"),
            })
        };
        let (key, time) = (kind(KEY)?, kind(TIME)?);
        let wrong = |name: &str, wanted: &'static str| {
            Err(SourceProblem::EntityType { file: file(), column: name.to_owned(), wanted }.into())
        };
        if !matches!(key, RawType::Text | RawType::Integer) {
            return wrong(KEY, "text or integer");
        }
        if !matches!(time, RawType::Timestamp { .. } | RawType::Date) {
            return wrong(TIME, "timestamp or date");
        }
        let mut batches = Vec::new();
        for file in &table.files {
            for batch in table.batches(file, None, None)? {
                batches.push(batch?);
            }
        }
        let rows = concat(&batches)?;
        let required = "entities need at least one row";
        let rows = rows.ok_or_else(|| SourceProblem::NoRows { file: file(), required })?;
        let failed = "reading entities";
        let column = |name: &str| {
            let index = rows.schema().index_of(name).map_err(Error::engine(failed))?;
            Ok::<_, Error>(rows.column(index).clone())
        };
        let keys =
            arrow_cast::cast(&column(KEY)?, &DataType::Utf8).map_err(Error::engine(failed))?;
        let keys = keys.as_string::<i32>().clone();
        let times = normalize(&column(TIME)?, time, context)?;
        let micros = DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, None);
        let times = arrow_cast::cast(&times, &micros).map_err(Error::engine(failed))?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let nulls = [(KEY, keys.nulls()), (TIME, times.nulls())];
        for (name, nulls) in nulls {
            if let Some(row) = nulls.and_then(|nulls| nulls.iter().position(|valid| !valid)) {
                let problem = SourceProblem::NullKey {
                    file: file(),
                    column: name.to_owned(),
                    row: row + 1,
                    required: "every row needs a customer and an instant",
                };
                return Err(problem.into());
            }
        }
        let times = times.values().iter().map(|time| Instant(*time)).collect();
        Ok(Self { rows, keys, times })
    }
}

//! Rows of a profile: their keys, which customers they are, and what earlier runs have filled in.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch, StringArray, UInt32Array};
use arrow_schema::{Field, Schema};

use crate::error::{Error, Result};
use crate::time::Instant;

/// The column that holds the key of the customer.
pub const KEY: &str = "customer360_id";
/// The column that holds the time at which the profile was created.
pub const CREATED: &str = "created_at";
/// The column that lists, for each row, the raw fields that a run has filled in.
pub const FILLED: &str = "filled_fields";

/// The customers of the profile source.
#[derive(Debug, Clone, Default)]
pub struct Entities {
    /// The keys of the customers.
    pub keys: Vec<String>,
    /// The time at which each profile was created. A profile without a time counts at every as-of.
    pub created_at: Vec<Option<Instant>>,
}

impl Entities {
    /// Reads the customers from profile rows.
    pub fn of(rows: &RecordBatch) -> Result<Self> {
        let keys: Vec<String> = keys(rows)?.iter().flatten().map(str::to_owned).collect();
        let created = rows.column_by_name(CREATED);
        let created = created.and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
        let created_at = match created {
            Some(column) => column.iter().map(|micros| micros.map(Instant)).collect(),
            None => vec![None; keys.len()],
        };
        Ok(Self { keys, created_at })
    }
}

/// The repeated keys of a shard.
#[derive(Debug, Clone, Default)]
pub struct KeyFaults {
    /// The number of rows that repeat the key of another row.
    pub duplicates: u64,
    /// The smallest key that is repeated.
    pub first_duplicate: Option<String>,
}

/// The key column of a batch.
pub fn keys(rows: &RecordBatch) -> Result<&StringArray> {
    let column = rows.column_by_name(KEY).and_then(|column| column.as_string_opt::<i32>());
    column.ok_or_else(|| Error::engine("reading keys")(format!("no {KEY}")))
}

/// Aligns the rows of a profile with `keys`. Both must be sorted by key.
///
/// Customers that the profile does not contain get rows of nulls.
pub fn align(source: &RecordBatch, keys: &StringArray) -> Result<RecordBatch> {
    let known = self::keys(source)?;
    let mut next = 0;
    let order: UInt32Array = keys
        .iter()
        .flatten()
        .map(|key| {
            while next < known.len() && known.value(next) < key {
                next += 1;
            }
            (next < known.len() && known.value(next) == key).then_some(next as u32)
        })
        .collect();
    let fields: Vec<Field> = source
        .schema()
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    let nullable = RecordBatch::try_new(Arc::new(Schema::new(fields)), source.columns().to_vec())
        .map_err(Error::engine("aligning the profile"))?;
    crate::store::parquet::take(&nullable, &order)
}

/// The fields that earlier runs filled in, by row. They are read from the column [`FILLED`], which the job
/// itself writes.
pub fn filled_before(source: &RecordBatch) -> Vec<Vec<String>> {
    let lists = source.column_by_name(FILLED).and_then(|column| column.as_list_opt::<i32>());
    let Some(lists) = lists else { return vec![Vec::new(); source.num_rows()] };
    (0..lists.len())
        .map(|row| {
            if lists.is_null(row) {
                return Vec::new();
            }
            let names = lists.value(row);
            let names = names
                .as_string_opt::<i32>()
                .map(|names| names.iter().flatten().map(str::to_owned).collect());
            names.unwrap_or_default()
        })
        .collect()
}

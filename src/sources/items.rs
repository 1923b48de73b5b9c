//! The table of items: attributes of the items that may be recommended.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};

use super::files::{RawTable, RawType};
use super::footers::Footers;
use super::profile::normalize;
use super::{SourceContext, SourceProblem};
use crate::error::{Error, Result};
use crate::store::bucket::resolve;
use crate::store::parquet::concat;

/// A checked table of items.
#[derive(Debug, Clone)]
pub struct ItemTable {
    /// The files and raw columns of the table.
    pub table: RawTable,
    /// The column that holds the key of the item.
    pub key: String,
    context: SourceContext,
}

impl ItemTable {
    /// Reads the footers of the table and checks its key.
    pub fn open(path: &str, key: &str, context: &SourceContext, place: &str) -> Result<Self> {
        let table =
            RawTable::open(&resolve(&context.root, path), None, place, &Footers::default())?;
        match table.get(key).map(|column| column.ty) {
            Some(RawType::Text | RawType::Integer) => {}
            Some(_) => {
                let (place, key) = (place.to_owned(), key.to_owned());
                return Err(SourceProblem::ItemKey { place, key }.into());
            }
            None => {
                let known = table.raw.iter().map(|column| column.name.as_str());
                return Err(Error::unknown(format!("{place} key"), "column", key, known));
            }
        }
        Ok(Self { table, key: key.to_owned(), context: context.clone() })
    }

    /// Reads the keys as text, and `columns` in the types that expressions use.
    ///
    /// # Errors
    /// A contract violation if the table has no rows or if a key occurs twice.
    pub fn read(&self, columns: &BTreeSet<&str>) -> Result<(StringArray, RecordBatch)> {
        let wanted: Vec<&str> = columns.iter().copied().chain([self.key.as_str()]).collect();
        let mut batches = Vec::new();
        for file in &self.table.files {
            for batch in self.table.batches(file, Some(&wanted), None)? {
                batches.push(batch?);
            }
        }
        let file = &self.table.files[0];
        let rows = concat(&batches)?.ok_or_else(|| SourceProblem::NoRows {
            file: file.clone(),
            required: "a table of items needs at least one",
        })?;
        let column = |name: &str| {
            rows.column_by_name(name)
                .ok_or_else(|| Error::engine("reading items")(format!("there is no column {name}")))
        };
        let keys = arrow_cast::cast(column(&self.key)?, &DataType::Utf8)
            .map_err(Error::engine("reading items"))?;
        let keys = keys.as_string::<i32>().clone();
        let mut seen = std::collections::HashSet::new();
        if let Some(twice) = keys.iter().flatten().find(|key| !seen.insert(*key)) {
            let problem = SourceProblem::RepeatedKey {
                file: file.clone(),
                column: self.key.clone(),
                key: twice.to_owned(),
                required: "a table of items has one row per item".to_owned(),
            };
            return Err(problem.into());
        }
        let known = self.table.raw.iter().filter(|raw| columns.contains(raw.name.as_str()));
        let mut fields = Vec::new();
        let mut arrays: Vec<ArrayRef> = Vec::new();
        for raw in known {
            let array = normalize(column(&raw.name)?, raw.ty, &self.context)?;
            fields.push(Field::new(&raw.name, array.data_type().clone(), true));
            arrays.push(array);
        }
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(keys.len()));
        let schema = Arc::new(Schema::new(fields));
        let rows = RecordBatch::try_new_with_options(schema, arrays, &options);
        Ok((keys, rows.map_err(Error::engine("reading items"))?))
    }
}

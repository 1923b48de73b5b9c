//! The command `show`: the first rows of a table of the store.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use serde_json::json;

use super::CommandProblem;
use super::published::scored_at;
use crate::error::{Error, Result};
use crate::report::rows::{cell, columns_text, objects};
use crate::report::{Output, Table};
use crate::store::Store;
use crate::store::parquet::{Writer, batches, concat};
use crate::time::Instant;

/// The tables of a scored as-of. Those of features are `features/<view>`.
const TABLES: [&str; 5] = ["profile", "scores", "segments", "segment_changes", "recommendations"];
/// The greatest number of columns that a text table has. The rows of wider ones are shown one below the other.
const COLUMNS: usize = 12;

/// How rows are shown as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// For people.
    Text,
    /// As CSV, nested values as text.
    Csv,
}

/// Shows the first rows of a table at an as-of, which is that of the current profile if none is named, or the latest one
/// of features if nothing has been scored.
///
/// # Errors
/// Returns a configuration error for an unknown table, and [`CommandProblem::NotScored`] for an as-of without one.
pub fn show(
    store: &Store,
    table: &str,
    head: usize,
    at: Option<Instant>,
    layout: Layout,
) -> Result<Output> {
    let rows = first_rows(store, table, head, at)?;
    let text = match layout {
        Layout::Csv => csv(&rows)?,
        Layout::Text => text(&rows),
    };
    Ok(Output { text, json: json!(objects(&rows)) })
}

/// Gives the first rows of a table as the bytes of a Parquet file.
///
/// # Errors
/// Those of [`show`].
pub fn parquet(store: &Store, table: &str, head: usize, at: Option<Instant>) -> Result<Vec<u8>> {
    let rows = first_rows(store, table, head, at)?;
    let file =
        tempfile::NamedTempFile::new().map_err(Error::io("create", &std::env::temp_dir()))?;
    Writer::create(file.path(), &rows.schema())?.write_only(&rows)?;
    std::fs::read(file.path()).map_err(Error::io("read", file.path()))
}

fn first_rows(store: &Store, table: &str, head: usize, at: Option<Instant>) -> Result<RecordBatch> {
    let root = store.root()?;
    let views = root.folders_in("features").filter_map(|folder| Some(folder.rsplit_once('/')?.0));
    let views: BTreeSet<String> = views.map(str::to_owned).collect();
    let known: Vec<String> = TABLES.map(str::to_owned).into_iter().chain(views).collect();
    if !known.iter().any(|known| known == table) {
        return Err(Error::unknown("show", "table", table, known));
    }
    // Features may be built at as-ofs that are not scored.
    let built = at.or_else(|| {
        let latest = Instant::from_folder(root.as_ofs(table).pop_last()?);
        latest.filter(|_| root.profile.is_none())
    });
    let at = match built.filter(|_| table.starts_with("features/")) {
        Some(at) => at,
        None => scored_at(&root, at)?,
    };
    let folder = format!("{table}/as_of={}", at.folder());
    let mut found = Vec::new();
    let mut left = head;
    for file in &store.below(&root, &folder)? {
        for rows in batches(&store.file(&root, file)?, None, None)? {
            let rows = rows?;
            let count = rows.num_rows().min(left);
            found.push(rows.slice(0, count));
            left -= count;
            if left == 0 {
                break;
            }
        }
        if left == 0 {
            break;
        }
    }
    let scored = || root.as_ofs(table).into_iter().map(str::to_owned).collect();
    concat(&found)?.ok_or_else(|| CommandProblem::NotScored { at, scored: scored() }.into())
}

fn text(rows: &RecordBatch) -> String {
    let schema = rows.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    if names.len() <= COLUMNS {
        return columns_text(rows, &names);
    }
    let of_row = |row: usize| {
        let mut table = Table::new(&["column", &format!("row {}", row + 1)]);
        for (name, column) in names.iter().zip(rows.columns()) {
            table.row([(*name).to_owned(), cell(column, row)]);
        }
        table.render()
    };
    (0..rows.num_rows()).map(of_row).collect::<Vec<_>>().join("\n")
}

fn csv(rows: &RecordBatch) -> Result<String> {
    let texts = |column: &ArrayRef| -> ArrayRef {
        let value = |row: usize| column.is_valid(row).then(|| cell(column, row));
        Arc::new((0..column.len()).map(value).collect::<StringArray>())
    };
    let schema = rows.schema();
    let names = schema.fields().iter().map(|field| field.name().clone());
    let columns = names.zip(rows.columns().iter().map(texts)).map(|(name, c)| (name, c, true));
    let rows =
        RecordBatch::try_from_iter_with_nullable(columns).map_err(Error::engine("writing CSV"))?;
    let mut writer = arrow_csv::Writer::new(Vec::new());
    writer.write(&rows).map_err(Error::engine("writing CSV"))?;
    Ok(String::from_utf8_lossy(&writer.into_inner()).into_owned())
}

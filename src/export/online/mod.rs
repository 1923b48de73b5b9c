//! Pushes of features and scores to an online store. A push sends one row per customer, as text, and only the
//! rows that have changed since the last push.
//!
//! The content of a store has a name, which is a hash of all its rows. The store keeps the name of its last
//! push, and the project keeps the hash of every row under that name. If the two names are the same, a push
//! sends the changes, and otherwise all rows. A store that was emptied, restored or written by another
//! project is therefore never mistaken for the store of the last push. A push that was interrupted leaves no
//! name.

pub mod postgres;
pub mod redis;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, Field, Schema};
use rayon::prelude::*;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::error::{Error, Result};
use crate::sources::profile::keys;
use crate::store::parquet::{metadata, read, write};
use crate::store::staged::Staged;
use crate::time::Instant;

/// The number of rows that are rendered at a time.
const ROWS: usize = 1 << 12;

/// A database that serves features and scores.
pub trait OnlineStore {
    /// The name of the store, without credentials. The same store always has the same name.
    fn target(&self) -> &str;

    /// Returns what the store recorded at the last push, and whether it can still be true.
    fn holds(&mut self) -> Result<Held>;

    /// Brings the store to the content of `push` and returns the number of customers that were removed.
    /// `sent` is called with the number of customers of each batch that was sent.
    ///
    /// # Errors
    /// Returns [`Error::Locked`] if another push is under way, or has ended after [`OnlineStore::holds`] was
    /// called; a configuration error if the store has rows that no push has written; and [`Error::Service`]
    /// if the store does not answer.
    fn push(&mut self, push: &Push, sent: &mut dyn FnMut(u64)) -> Result<u64>;
}

/// The record of the last push in a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// The name of the content that the last push left.
    pub name: Option<String>,
    /// Whether the store still has as many customers as that push.
    pub is_whole: bool,
}

/// The content that a push brings to an online store.
pub struct Push<'a> {
    /// All rows of the content.
    pub rows: &'a Rows,
    /// The as-of of the rows.
    pub as_of: Instant,
    /// The name that [`OnlineStore::holds`] returned.
    pub held: Option<String>,
    /// The differences from the present content of the store.
    pub changes: Changes,
    /// Whether the present content of the store is unknown. The changes are then all rows, and all other rows
    /// of the store are removed.
    pub everything: bool,
    /// The number of customers per batch.
    pub batch: usize,
    /// A text that no other push has.
    pub token: &'a str,
}

/// The differences between two contents of a store.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The indices of the rows that are new or have changed.
    pub rows: Vec<usize>,
    /// The keys of the customers that are not among the rows any more.
    pub gone: Vec<String>,
}

/// The syntax of lists in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lists {
    /// A JSON array: `[0.5,"a"]`.
    Json,
    /// A PostgreSQL array: `{0.5,"a"}`.
    Postgres,
}

/// The rows of a content, sorted by key, with a hash of each.
pub struct Rows {
    batch: RecordBatch,
    hashes: Vec<u64>,
}

impl Rows {
    /// Computes the hashes of rows whose first column is their key.
    pub fn new(batch: RecordBatch) -> Result<Self> {
        let starts: Vec<usize> = (0..batch.num_rows()).step_by(ROWS).collect();
        let hash = |start: usize| {
            let rows = batch.slice(start, ROWS.min(batch.num_rows() - start));
            let mut hashers: Vec<Xxh3> = vec![Xxh3::new(); rows.num_rows()];
            for column in rows.columns() {
                let cells = cells(column, Lists::Json)?;
                for (hasher, cell) in hashers.iter_mut().zip(&cells) {
                    // No UTF-8 text contains these bytes, so that the values of neighbouring columns cannot
                    // be confused.
                    hasher.update(if cell.is_some() { &[0xff] } else { &[0xfe] });
                    hasher.update(cell.as_deref().unwrap_or_default().as_bytes());
                }
            }
            Ok(hashers.iter().map(Xxh3::digest).collect())
        };
        let hashes: Vec<Vec<u64>> = starts.into_par_iter().map(hash).collect::<Result<_>>()?;
        Ok(Self { batch, hashes: hashes.concat() })
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The schema of the rows, with the key as the first column.
    pub fn schema(&self) -> &Schema {
        self.batch.schema_ref()
    }

    /// The keys of the rows.
    pub fn keys(&self) -> Result<&StringArray> {
        keys(&self.batch)
    }

    /// Computes a hash of the names and types of the columns.
    pub fn columns(&self) -> String {
        let column = |field: &Arc<Field>| format!("{} {}\n", field.name(), field.data_type());
        let columns: String = self.schema().fields().iter().map(column).collect();
        format!("{:016x}", xxh3_64(columns.as_bytes()))
    }

    /// Computes the name of a content that has exactly these rows.
    pub fn name(&self) -> String {
        let mut hasher = Xxh3::new();
        hasher.update(self.columns().as_bytes());
        self.hashes.iter().for_each(|hash| hasher.update(&hash.to_le_bytes()));
        format!("{:032x}", hasher.digest128())
    }

    /// Computes the differences from the rows of an earlier push.
    pub fn changes(&self, before: &Pushed) -> Result<Changes> {
        let own = self.keys()?;
        let mut changes = Changes::default();
        let mut old = before.rows.iter().peekable();
        for (row, key) in own.iter().flatten().enumerate() {
            while let Some((gone, _)) = old.next_if(|(name, _)| name.as_str() < key) {
                changes.gone.push(gone.clone());
            }
            match old.peek().map(|(name, hash)| (name.as_str().cmp(key), *hash)) {
                Some((Ordering::Equal, hash)) => {
                    old.next();
                    if hash != self.hashes[row] {
                        changes.rows.push(row);
                    }
                }
                _ => changes.rows.push(row),
            }
        }
        changes.gone.extend(old.map(|(name, _)| name.clone()));
        Ok(changes)
    }

    /// Renders some rows as text, column by column.
    pub fn render(&self, rows: &[usize], lists: Lists) -> Result<Vec<Vec<Option<String>>>> {
        let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        let rows = crate::store::parquet::take(&self.batch, &rows.into())?;
        rows.columns().iter().map(|column| cells(column, lists)).collect()
    }
}

/// The hashes of the rows of a push.
#[derive(Debug, Default)]
pub struct Pushed {
    /// The name of the content.
    pub name: String,
    /// The hash of the columns, as [`Rows::columns`] computes it.
    pub columns: String,
    /// The hash of each row by key, in ascending order.
    rows: Vec<(String, u64)>,
}

/// The metadata keys of a file of hashes: the name of the content, and the hash of its columns.
const NAME: &str = "c360.push";
const COLUMNS: &str = "c360.columns";

impl Pushed {
    /// Reads the file that the last push to a target has left in a project's store. Returns None if there is
    /// no such file or it cannot be read.
    pub fn read(path: &Path) -> Option<Self> {
        let batches = read(path, None).ok()?;
        let metadata = metadata(path).ok()?;
        let told = |key: &str| metadata.get(key).cloned();
        let mut pushed = Self { name: told(NAME)?, columns: told(COLUMNS)?, rows: Vec::new() };
        for batch in batches {
            let hashes = batch
                .column_by_name("hash")?
                .as_primitive_opt::<arrow_array::types::Int64Type>()?
                .clone();
            let keys = keys(&batch).ok()?.iter().flatten();
            pushed.rows.extend(keys.zip(hashes.values()).map(|(k, h)| (k.to_owned(), *h as u64)));
        }
        Some(pushed)
    }

    /// Writes the hashes of the rows that a store was given.
    pub fn write(path: &Path, rows: &Rows) -> Result<()> {
        let hashes: Int64Array = rows.hashes.iter().map(|hash| *hash as i64).collect();
        let fields = vec![
            Field::new("customer360_id", DataType::Utf8, false),
            Field::new("hash", DataType::Int64, false),
        ];
        let told = [(NAME, rows.name()), (COLUMNS, rows.columns())];
        let told: HashMap<String, String> = told.map(|(k, v)| (k.to_owned(), v)).into();
        let schema = Arc::new(Schema::new(fields).with_metadata(told));
        let columns: Vec<ArrayRef> = vec![Arc::new(rows.keys()?.clone()), Arc::new(hashes)];
        let batch = RecordBatch::try_new(schema.clone(), columns);
        let batch = batch.map_err(Error::engine("keeping what was pushed"))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let staged = Staged::beside(path)?;
        write(staged.path(), &schema, [&batch])?;
        staged.publish()
    }

    /// The path of a target's file, in the folder `pushes/`.
    pub fn file(target: &str) -> String {
        format!("pushes/{:016x}.parquet", xxh3_64(target.as_bytes()))
    }
}

/// Renders the values of a column as text: instants by RFC 3339, money in major units, and numbers in the
/// shortest form that gives the same value when it is read.
fn cells(column: &ArrayRef, lists: Lists) -> Result<Vec<Option<String>>> {
    let present = |row: &usize| column.is_valid(*row);
    let rows = 0..column.len();
    if let Some(times) = column.as_primitive_opt::<TimestampMicrosecondType>() {
        let text = |row: usize| present(&row).then(|| Instant(times.value(row)).to_string());
        return Ok(rows.map(text).collect());
    }
    if let Some(list) = column.as_list_opt::<i32>() {
        let text =
            |row: usize| present(&row).then(|| elements(&list.value(row), lists)).transpose();
        return rows.map(text).collect();
    }
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(column.as_ref(), &options);
    let formatter = formatter.map_err(Error::engine("writing a value as text"))?;
    Ok(rows.map(|row| present(&row).then(|| formatter.value(row).to_string())).collect())
}

fn elements(array: &ArrayRef, lists: Lists) -> Result<String> {
    let (open, close, none) = match lists {
        Lists::Json => ('[', ']', "null"),
        Lists::Postgres => ('{', '}', "NULL"),
    };
    let mut text = String::from(open);
    for row in 0..array.len() {
        if row > 0 {
            text.push(',');
        }
        if array.is_null(row) {
            text.push_str(none);
        } else if let Some(numbers) = array.as_primitive_opt::<Float32Type>() {
            text.push_str(&numbers.value(row).to_string());
        } else if let Some(words) = array.as_string_opt::<i32>() {
            match lists {
                Lists::Json => text.push_str(&serde_json::json!(words.value(row)).to_string()),
                Lists::Postgres => {
                    let word = words.value(row).replace('\\', "\\\\").replace('"', "\\\"");
                    text += &format!("\"{word}\"");
                }
            }
        } else {
            return Err(Error::Engine {
                context: "writing a list as text",
                message: format!("a list of {}", array.data_type()),
            });
        }
    }
    text.push(close);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use arrow_array::builder::{Float32Builder, ListBuilder, StringBuilder};
    use arrow_array::{Decimal128Array, Float64Array, TimestampMicrosecondArray};

    use super::*;

    fn rows(list: &[(&str, Option<f64>, Option<f64>)]) -> Rows {
        let keys: StringArray = list.iter().map(|row| Some(row.0)).collect();
        let a: Float64Array = list.iter().map(|row| row.1).collect();
        let b: Float64Array = list.iter().map(|row| row.2).collect();
        let columns = [
            ("customer360_id", Arc::new(keys) as ArrayRef, false),
            ("a", Arc::new(a), true),
            ("b", Arc::new(b), true),
        ];
        Rows::new(RecordBatch::try_from_iter_with_nullable(columns).unwrap()).unwrap()
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let before =
            rows(&[("a", Some(1.0), None), ("c", None, Some(1.0)), ("d", Some(2.0), None)]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pushes/x.parquet");
        assert!(Pushed::read(&path).is_none());
        Pushed::write(&path, &before).unwrap();
        let pushed = Pushed::read(&path).unwrap();
        assert_eq!((&pushed.name, &pushed.columns), (&before.name(), &before.columns()));
        assert_eq!(before.changes(&pushed).unwrap(), Changes::default());
        // The value of c is now in the other column, d is gone, and b and e are new.
        let now = rows(&[
            ("a", Some(1.0), None),
            ("b", Some(0.1), None),
            ("c", Some(1.0), None),
            ("e", None, None),
        ]);
        assert_ne!(now.name(), before.name());
        let changes = now.changes(&pushed).unwrap();
        assert_eq!(changes, Changes { rows: vec![1, 2, 3], gone: vec!["d".into()] });
        let all = now.changes(&Pushed::default()).unwrap();
        assert_eq!((all.rows.len(), all.gone.len()), (4, 0));
        std::fs::write(&path, "cut short").unwrap();
        assert!(Pushed::read(&path).is_none());
    }

    #[test]
    fn values_are_text_that_reads_back() {
        let text = |column: ArrayRef, lists| cells(&column, lists).unwrap();
        let some = |list: &[&str]| list.iter().map(|t| Some((*t).to_owned())).collect::<Vec<_>>();
        let doubles = Arc::new(Float64Array::from(vec![0.1, 1e-9, 1e300, -0.0]));
        let told = text(doubles, Lists::Json);
        let back: Vec<f64> = told.iter().flatten().map(|t| t.parse().unwrap()).collect();
        assert_eq!(back, [0.1, 1e-9, 1e300, -0.0], "{told:?}");
        let money = Decimal128Array::from(vec![Some(-5), None, Some(123_456)]);
        let money = text(Arc::new(money.with_precision_and_scale(18, 2).unwrap()), Lists::Json);
        assert_eq!(money, [Some("-0.05".to_owned()), None, Some("1234.56".to_owned())]);
        let times =
            TimestampMicrosecondArray::from(vec![1_719_792_000_000_001]).with_timezone("UTC");
        assert_eq!(text(Arc::new(times), Lists::Json), some(&["2024-07-01T00:00:00.000001Z"]));
        let mut vectors = ListBuilder::new(Float32Builder::new());
        vectors.append_value([Some(0.1), Some(-2.0)]);
        vectors.append_value([]);
        let vectors: ArrayRef = Arc::new(vectors.finish());
        assert_eq!(text(vectors.clone(), Lists::Json), some(&["[0.1,-2]", "[]"]));
        assert_eq!(text(vectors, Lists::Postgres), some(&["{0.1,-2}", "{}"]));
        let mut words = ListBuilder::new(StringBuilder::new());
        words.append_value([Some("a \"b\"\\ – c"), None]);
        let words: ArrayRef = Arc::new(words.finish());
        assert_eq!(text(words.clone(), Lists::Json), some(&[r#"["a \"b\"\\ – c",null]"#]));
        assert_eq!(text(words, Lists::Postgres), some(&[r#"{"a \"b\"\\ – c",NULL}"#]));
    }
}

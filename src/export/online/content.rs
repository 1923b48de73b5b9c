//! The rows that an online store is to have, with a hash of each.

use std::cmp::Ordering;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128};

use super::{Lists, Pushed};
use crate::engine;
use crate::error::{Error, Result};
use crate::export::ExportProblem;
use crate::shard::{Shard, Shards};
use crate::sources::profile::keys;
use crate::store::parquet::take;
use crate::store::spill::Spill;
use crate::time::Instant;

/// The rows that an online store is to have, shard by shard.
pub trait Source: Sync {
    /// The shards of the rows.
    fn shards(&self) -> Shards;

    /// Reads the rows of a shard, sorted by their key, which is the first column. All shards have the same
    /// columns. Returns None if the shard has no rows.
    fn rows(&self, shard: Shard) -> Result<Option<RecordBatch>>;
}

/// The content of an online store. Its rows are read when they are sent; their hashes are kept on disk.
pub struct Content<'a> {
    source: &'a dyn Source,
    schema: SchemaRef,
    hashes: Spill,
    counts: Vec<usize>,
    name: String,
}

/// The summary of a shard: its schema, its number of rows and the sum of their hashes.
type Summary = Option<(SchemaRef, usize, u128)>;

impl<'a> Content<'a> {
    /// Reads all rows once and computes their hashes. `done` is called after each shard.
    ///
    /// # Errors
    /// Returns the errors of the source, and an error if there are no rows.
    pub fn of(source: &'a dyn Source, scratch: &Path, mut done: impl FnMut()) -> Result<Self> {
        let shards = source.shards();
        let hashes = Spill::create(scratch, shards.count())?;
        let stage = |shard: Shard| -> Result<Summary> {
            let Some(rows) = source.rows(shard)? else { return Ok(None) };
            let of_rows = row_hashes(&rows)?;
            hashes.add_rows(shard.place(), &[hashed(&rows, &of_rows)?])?;
            // The sum does not depend on the order of the rows, and so not on the number of shards.
            let sum = of_rows.iter().fold(0_u128, |sum, hash| sum.wrapping_add(*hash));
            Ok(Some((rows.schema(), of_rows.len(), sum)))
        };
        let (mut schema, mut counts, mut sum) = (None, Vec::new(), 0_u128);
        engine::run(shards, stage, |_, summary: Summary| {
            let rows = summary.as_ref().map_or(0, |(_, rows, _)| *rows);
            counts.push(rows);
            if let Some((own, _, hashes)) = summary {
                schema.get_or_insert(own);
                sum = sum.wrapping_add(hashes);
            }
            done();
            Ok(())
        })?;
        let schema = schema.ok_or(ExportProblem::NoCustomers)?;
        let named = [columns_of(&schema).as_bytes(), &sum.to_le_bytes()].concat();
        let name = format!("{:032x}", xxh3_128(&named));
        Ok(Self { source, schema, hashes, counts, name })
    }

    /// The shards of the rows.
    pub fn shards(&self) -> Shards {
        self.source.shards()
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of rows of each shard.
    pub fn counts(&self) -> &[usize] {
        &self.counts
    }

    /// The schema of the rows, with the key as the first column.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The name of a content that has exactly these rows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Computes a hash of the names and types of the columns.
    pub fn columns(&self) -> String {
        columns_of(&self.schema)
    }

    /// Reads the keys of a shard with the hashes of their rows, in ascending order.
    pub fn hashes(&self, shard: Shard) -> Result<Hashes> {
        let chunks = self.hashes.read_rows(shard.place())?;
        Hashes::of(chunks.into_iter().flatten())
    }

    /// Reads some rows of a shard.
    pub fn rows(&self, shard: Shard, rows: &[u32]) -> Result<Option<RecordBatch>> {
        let all = self.source.rows(shard)?;
        all.map(|all| take(&all, &rows.to_vec().into())).transpose()
    }

    /// Compares a shard with an earlier content. Without one, all rows are new.
    pub fn difference(&self, shard: Shard, before: Option<&Pushed>) -> Result<Difference> {
        let before = before.map(|before| before.hashes(shard)).transpose()?.unwrap_or_default();
        Ok(Difference::between(&before, &self.hashes(shard)?))
    }
}

/// Keys with the hashes of their rows, in ascending order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hashes(Vec<(String, u64)>);

impl Hashes {
    /// Reads batches of the columns that [`Hashes::schema`] describes.
    pub fn of(batches: impl IntoIterator<Item = RecordBatch>) -> Result<Self> {
        let mut all = Vec::new();
        for batch in batches {
            let hashes = batch.column(1).as_primitive::<Int64Type>().values();
            let rows = keys(&batch)?.iter().flatten().zip(hashes);
            all.extend(rows.map(|(key, hash)| (key.to_owned(), *hash as u64)));
        }
        Ok(Self(all))
    }

    /// Whether there is a row with this key.
    pub fn has(&self, key: &str) -> bool {
        self.0.binary_search_by(|(own, _)| own.as_str().cmp(key)).is_ok()
    }

    /// The columns of keys and hashes on disk.
    pub fn schema() -> Schema {
        Schema::new(vec![
            Field::new("customer360_id", DataType::Utf8, false),
            Field::new("hash", DataType::Int64, false),
        ])
    }

    /// The keys and hashes as columns.
    pub fn batch(&self, schema: SchemaRef) -> Result<RecordBatch> {
        let keys: arrow_array::StringArray = self.0.iter().map(|(key, _)| Some(key)).collect();
        let hashes: Int64Array = self.0.iter().map(|(_, hash)| *hash as i64).collect();
        RecordBatch::try_new(schema, vec![Arc::new(keys), Arc::new(hashes)])
            .map_err(Error::engine("keeping what was pushed"))
    }
}

/// The differences of a shard between two contents.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// The indices of the rows that are new or have changed.
    pub rows: Vec<u32>,
    /// The keys that are not there any more.
    pub gone: Vec<String>,
}

impl Difference {
    fn between(before: &Hashes, now: &Hashes) -> Self {
        let mut difference = Self::default();
        let mut old = before.0.iter().peekable();
        for (row, (key, hash)) in now.0.iter().enumerate() {
            while let Some((gone, _)) = old.next_if(|(name, _)| name < key) {
                difference.gone.push(gone.clone());
            }
            match old.peek().map(|(name, hash)| (name.cmp(key), *hash)) {
                Some((Ordering::Equal, former)) => {
                    old.next();
                    if former != *hash {
                        difference.rows.push(row as u32);
                    }
                }
                _ => difference.rows.push(row as u32),
            }
        }
        difference.gone.extend(old.map(|(name, _)| name.clone()));
        difference
    }
}

/// Computes a hash of the names and types of columns.
fn columns_of(schema: &Schema) -> String {
    let column = |field: &Arc<Field>| format!("{} {}\n", field.name(), field.data_type());
    let columns: String = schema.fields().iter().map(column).collect();
    format!("{:016x}", xxh3_64(columns.as_bytes()))
}

/// Computes a hash of each row, over all its values as text.
fn row_hashes(rows: &RecordBatch) -> Result<Vec<u128>> {
    let mut hashers: Vec<Xxh3> = vec![Xxh3::new(); rows.num_rows()];
    for column in rows.columns() {
        for (hasher, cell) in hashers.iter_mut().zip(cells(column, Lists::Json)?) {
            // No UTF-8 text contains these bytes, so that the values of neighbouring columns cannot be
            // confused.
            hasher.update(if cell.is_some() { &[0xff] } else { &[0xfe] });
            hasher.update(cell.as_deref().unwrap_or_default().as_bytes());
        }
    }
    Ok(hashers.iter().map(Xxh3::digest128).collect())
}

fn hashed(rows: &RecordBatch, hashes: &[u128]) -> Result<RecordBatch> {
    let hashes: Int64Array = hashes.iter().map(|hash| *hash as i64).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(keys(rows)?.clone()), Arc::new(hashes)];
    RecordBatch::try_new(Arc::new(Hashes::schema()), columns)
        .map_err(Error::engine("computing the hashes of rows"))
}

/// Renders the values of a column as text: instants by RFC 3339, money in major units, and numbers in the
/// shortest form that gives the same value when it is read.
pub fn cells(column: &ArrayRef, lists: Lists) -> Result<Vec<Option<String>>> {
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
            return Err(Error::engine("writing a list as text")(format!(
                "a list of {}",
                array.data_type()
            )));
        }
    }
    text.push(close);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use arrow_array::builder::{Float32Builder, ListBuilder, StringBuilder};
    use arrow_array::{Decimal128Array, Float64Array, StringArray, TimestampMicrosecondArray};

    use super::*;
    use crate::shard::Shards;

    /// Customers with two values each, scattered over shards.
    struct Customers(Shards, Vec<(&'static str, Option<f64>, Option<f64>)>);

    impl Source for Customers {
        fn shards(&self) -> Shards {
            self.0
        }

        fn rows(&self, shard: Shard) -> Result<Option<RecordBatch>> {
            let own: Vec<_> = self.1.iter().filter(|row| shard.has(row.0)).collect();
            let keys: StringArray = own.iter().map(|row| Some(row.0)).collect();
            let a: Float64Array = own.iter().map(|row| row.1).collect();
            let b: Float64Array = own.iter().map(|row| row.2).collect();
            let columns = [
                ("customer360_id", Arc::new(keys) as ArrayRef, false),
                ("a", Arc::new(a), true),
                ("b", Arc::new(b), true),
            ];
            let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
            Ok((!own.is_empty()).then_some(rows))
        }
    }

    fn content(source: &Customers) -> Content<'_> {
        Content::of(source, &std::env::temp_dir(), || {}).unwrap()
    }

    /// The keys of the rows that differ and of those that are gone, each in ascending order.
    fn changes(now: &Content, before: Option<&Pushed>) -> (Vec<String>, Vec<String>) {
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        for shard in now.shards().all() {
            let difference = now.difference(shard, before).unwrap();
            if let Some(rows) = now.rows(shard, &difference.rows).unwrap() {
                changed.extend(keys(&rows).unwrap().iter().flatten().map(str::to_owned));
            }
            gone.extend(difference.gone);
        }
        changed.sort();
        gone.sort();
        (changed, gone)
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let first = vec![("a", Some(1.0), None), ("c", None, Some(1.0)), ("d", Some(2.0), None)];
        // The value of c is now in the other column, d is gone, and b and e are new.
        let second = vec![
            ("a", Some(1.0), None),
            ("b", Some(0.1), None),
            ("c", Some(1.0), None),
            ("e", None, None),
        ];
        let mut names = Vec::new();
        for shards in [1, 2, 8].map(|count| Shards::new(count).unwrap()) {
            let (first, second) =
                (Customers(shards, first.clone()), Customers(shards, second.clone()));
            let (before, now) = (content(&first), content(&second));
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.parquet");
            assert!(Pushed::open(&path).is_none());
            Pushed::write(&path, &before).unwrap();
            let pushed = Pushed::open(&path).unwrap();
            assert_eq!((pushed.name.as_str(), &pushed.columns), (before.name(), &before.columns()));
            assert_eq!(changes(&before, Some(&pushed)), (vec![], vec![]));
            let strings = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
            let expected = (strings(&["b", "c", "e"]), strings(&["d"]));
            assert_eq!(changes(&now, Some(&pushed)), expected);
            assert_eq!(changes(&now, None), (strings(&["a", "b", "c", "e"]), vec![]));
            names.push([before.name(), now.name()].map(str::to_owned));
            std::fs::write(&path, "cut short").unwrap();
            assert!(Pushed::open(&path).is_none());
        }
        // The name of a content does not depend on the number of shards.
        assert_ne!(names[0][0], names[0][1]);
        assert!(names.iter().all(|name| *name == names[0]));
    }

    #[test]
    fn values_are_text_that_reads_back() {
        let text = |column: ArrayRef, lists| cells(&column, lists).unwrap();
        let some = |list: &[&str]| list.iter().map(|t| Some((*t).to_owned())).collect::<Vec<_>>();
        let doubles = Arc::new(Float64Array::from(vec![0.1, 1e-9, 1e300, -0.0]));
        let texts = text(doubles, Lists::Json);
        let back: Vec<f64> = texts.iter().flatten().map(|t| t.parse().unwrap()).collect();
        assert_eq!(back, [0.1, 1e-9, 1e300, -0.0], "{texts:?}");
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

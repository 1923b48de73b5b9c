//! Reads and writes Parquet files through arrow-rs, with one set of writer properties.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use crate::error::{Error, Result};
use crate::shard::Shard;

/// The number of rows per row group of written files.
const ROW_GROUP: usize = 1 << 18;

/// Writes batches of one schema to a file.
///
/// # Errors
/// Returns an I/O error that names the file, for example if the disk is full.
pub fn write<'a>(
    path: &Path,
    schema: &SchemaRef,
    batches: impl IntoIterator<Item = &'a RecordBatch>,
) -> Result<()> {
    let mut writer = Writer::create(path, schema)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()
}

/// A Parquet file that is written batch by batch.
pub struct Writer {
    inner: ArrowWriter<File>,
    path: std::path::PathBuf,
}

impl Writer {
    /// Creates a file with this schema.
    pub fn create(path: &Path, schema: &SchemaRef) -> Result<Self> {
        let file = File::create(path).map_err(Error::io("create", path))?;
        let level = ZstdLevel::try_new(1).map_err(Error::engine("choosing the compression"))?;
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_row_count(Some(ROW_GROUP))
            .set_created_by("c360-ml".into());
        // Doubles rarely repeat, so that a dictionary of them would be built and then discarded.
        for field in schema.fields().iter().filter(|f| *f.data_type() == DataType::Float64) {
            let column = ColumnPath::from(field.name().as_str());
            properties = properties.set_column_dictionary_enabled(column, false);
        }
        let properties = properties.build();
        let inner = ArrowWriter::try_new(file, schema.clone(), Some(properties))
            .map_err(|source| written(source, path))?;
        Ok(Self { inner, path: path.to_owned() })
    }

    /// Writes a batch.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.inner.write(batch).map_err(|source| written(source, &self.path))
    }

    /// Ends the row group, if it has any rows.
    pub fn end_row_group(&mut self) -> Result<()> {
        self.inner.flush().map_err(|source| written(source, &self.path))
    }

    /// Writes the footer.
    pub fn finish(self) -> Result<()> {
        self.inner.close().map(|_| ()).map_err(|source| written(source, &self.path))
    }
}

fn written(error: ParquetError, path: &Path) -> Error {
    match error {
        ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            Ok(io) => Error::io("write", path)(*io),
            Err(other) => Error::io("write", path)(std::io::Error::other(other.to_string())),
        },
        other => Error::io("write", path)(std::io::Error::other(other.to_string())),
    }
}

/// Reads a file, either the named top-level columns or all columns.
///
/// # Errors
/// Returns [`Error::Parquet`] if the file cannot be decoded.
pub fn read(path: &Path, columns: Option<&[&str]>) -> Result<Vec<RecordBatch>> {
    batches(path, columns, None)?.collect()
}

/// Reads the record batches of a file one after another, either the named top-level columns or all columns,
/// of one row group or of all.
///
/// # Errors
/// Returns [`Error::Parquet`] if the file cannot be decoded.
pub fn batches(
    path: &Path,
    columns: Option<&[&str]>,
    row_group: Option<usize>,
) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    let path = path.to_owned();
    let failed = |source| Error::Parquet { path: path.clone(), source };
    let file = File::open(&path).map_err(Error::io("open", &path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(failed)?;
    let builder = match columns {
        None => builder,
        Some(columns) => {
            let indices = builder
                .schema()
                .fields()
                .iter()
                .enumerate()
                .filter(|(_, field)| columns.contains(&field.name().as_str()))
                .map(|(index, _)| index)
                .collect::<Vec<_>>();
            let mask = ProjectionMask::roots(builder.parquet_schema(), indices);
            builder.with_projection(mask)
        }
    };
    let builder = match row_group {
        None => builder,
        Some(row_group) => builder.with_row_groups(vec![row_group]),
    };
    let reader = builder.with_batch_size(1 << 16).build().map_err(failed)?;
    Ok(reader.map(move |batch| {
        batch.map_err(|error| Error::Parquet {
            path: path.clone(),
            source: ParquetError::ArrowError(error.to_string()),
        })
    }))
}

/// The number of rows in each row group of a file.
///
/// # Errors
/// Returns [`Error::Parquet`] if the footer cannot be decoded.
pub fn row_groups(path: &Path) -> Result<Vec<usize>> {
    let failed = |source| Error::Parquet { path: path.to_owned(), source };
    let file = File::open(path).map_err(Error::io("open", path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(failed)?;
    Ok(builder.metadata().row_groups().iter().map(|group| group.num_rows() as usize).collect())
}

/// Reads the key-value metadata of a file's schema.
pub fn metadata(path: &Path) -> Result<HashMap<String, String>> {
    let failed = |source| Error::Parquet { path: path.to_owned(), source };
    let file = File::open(path).map_err(Error::io("open", path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(failed)?;
    let metadata = builder.schema().metadata().iter();
    Ok(metadata.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// Reads files of one schema into one batch. Returns None if there are no batches.
pub fn read_all<'a>(
    paths: impl IntoIterator<Item = &'a Path>,
    columns: Option<&[&str]>,
) -> Result<Option<RecordBatch>> {
    let mut batches = Vec::new();
    for path in paths {
        batches.extend(read(path, columns)?);
    }
    concat(&batches)
}

/// Concatenates batches of one schema. Returns None if there are no batches.
pub fn concat(batches: &[RecordBatch]) -> Result<Option<RecordBatch>> {
    let Some(first) = batches.first() else { return Ok(None) };
    let schema = first.schema();
    arrow_select::concat::concat_batches(&schema, batches)
        .map(Some)
        .map_err(Error::engine("joining record batches"))
}

/// Selects rows of `batch` by index. A null index gives a row of nulls.
pub fn take(batch: &RecordBatch, rows: &arrow_array::UInt32Array) -> Result<RecordBatch> {
    let context = "taking rows";
    let columns: std::result::Result<Vec<_>, _> =
        batch.columns().iter().map(|column| arrow_select::take::take(column, rows, None)).collect();
    RecordBatch::try_new(batch.schema(), columns.map_err(Error::engine(context))?)
        .map_err(Error::engine(context))
}

/// Selects the rows of a batch whose customers are in a shard.
pub fn of_shard(batch: &RecordBatch, shard: Shard) -> Result<RecordBatch> {
    use arrow_array::cast::AsArray;
    let keys = batch.column_by_name("customer360_id").and_then(|keys| keys.as_string_opt::<i32>());
    let keys = keys
        .ok_or_else(|| Error::engine("reading a shard")("a table has no column customer360_id"))?;
    let own: arrow_array::BooleanArray =
        keys.iter().map(|key| Some(key.is_some_and(|key| shard.has(key)))).collect();
    arrow_select::filter::filter_record_batch(batch, &own).map_err(Error::engine("reading a shard"))
}

/// Sorts `batch` by its text column `key`, bytewise.
pub fn sort_by_key(batch: &RecordBatch, key: &str) -> Result<RecordBatch> {
    use arrow_array::cast::AsArray;
    let keys = batch
        .column_by_name(key)
        .ok_or_else(|| Error::engine("sorting by key")(format!("there is no column {key}")))?;
    let keys = keys.as_string::<i32>();
    let mut order: Vec<u32> = (0..batch.num_rows() as u32).collect();
    let key = |row: u32| keys.is_valid(row as usize).then(|| keys.value(row as usize));
    order.sort_by(|a, b| key(*a).cmp(&key(*b)));
    take(batch, &arrow_array::UInt32Array::from(order))
}

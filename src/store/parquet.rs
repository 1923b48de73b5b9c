//! Reads and writes Parquet files through arrow-rs, with one set of writer properties.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::bucket::is_url;
use super::readable::Readable;
use super::staging::StagedFile;
use crate::error::{Error, Result};
use crate::shard::Shard;

/// The number of rows per row group of written files.
const ROW_GROUP: usize = 1 << 18;

/// The maximum number of footers of objects that are kept in memory.
const MOST_FOOTERS: usize = 64;
/// The footers of the objects that were read last, so that each row group does not take a request for the same one. A
/// process reads an object only as it first saw it.
static FOOTERS: LazyLock<Mutex<HashMap<PathBuf, ArrowReaderMetadata>>> =
    LazyLock::new(Mutex::default);

/// A Parquet file that is written batch by batch.
pub struct Writer<W: Write + Send = File> {
    inner: ArrowWriter<W>,
    path: PathBuf,
}

impl Writer {
    /// Creates a file with this schema.
    pub fn create(path: &Path, schema: &SchemaRef) -> Result<Self> {
        let file = File::create(path).map_err(Error::io("create", path))?;
        Self::to(file, path, schema)
    }
}

impl Writer<StagedFile> {
    /// Begins a file of the store with this schema.
    pub fn stage(file: StagedFile, schema: &SchemaRef) -> Result<Self> {
        let path = file.path().to_owned();
        Self::to(file, &path, schema)
    }
}

impl<W: Write + Send> Writer<W> {
    fn to(file: W, path: &Path, schema: &SchemaRef) -> Result<Self> {
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

    /// Writes the only batch of the file.
    ///
    /// # Errors
    /// Returns an I/O error that names the file, for example if the disk is full.
    pub fn write_only(mut self, batch: &RecordBatch) -> Result<()> {
        self.write(batch)?;
        self.finish()
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
    let io = by_disk(error).unwrap_or_else(|other| std::io::Error::other(other.to_string()));
    Error::io("write", path)(io)
}

fn undecodable(error: ParquetError, path: &Path) -> Error {
    match by_disk(error) {
        Ok(io) => Error::io("read", path)(io),
        Err(source) => Error::Parquet { path: path.to_owned(), source },
    }
}

/// What the disk said, if the error came from it.
fn by_disk(error: ParquetError) -> std::result::Result<std::io::Error, ParquetError> {
    match error {
        ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            Ok(io) => Ok(*io),
            Err(other) => Err(ParquetError::External(other)),
        },
        other => Err(other),
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
    let (metadata, file) = footer(&path, Readable::open(&path)?)?;
    let mask = match columns {
        None => ProjectionMask::all(),
        Some(columns) => {
            let fields = metadata.schema().fields().iter().enumerate();
            let wanted = fields.filter(|(_, field)| columns.contains(&field.name().as_str()));
            let wanted: Vec<usize> = wanted.map(|(index, _)| index).collect();
            ProjectionMask::roots(metadata.parquet_schema(), wanted)
        }
    };
    let row_groups: Vec<usize> = match row_group {
        None => (0..metadata.metadata().num_row_groups()).collect(),
        Some(row_group) => vec![row_group],
    };
    // Of an object, the columns of one row group are in memory at a time.
    let parts: Vec<Vec<usize>> = match is_url(&path) {
        true => row_groups.into_iter().map(|row_group| vec![row_group]).collect(),
        false => vec![row_groups],
    };
    let open = move |row_groups: Vec<usize>| -> Result<Box<dyn Iterator<Item = _> + Send>> {
        let path = path.clone();
        let failed = |source| Error::Parquet { path: path.clone(), source };
        let file = file.again(&path)?.with(chunks(&metadata, &row_groups, &mask))?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone())
            .with_projection(mask.clone())
            .with_row_groups(row_groups)
            .with_batch_size(1 << 16)
            .build()
            .map_err(failed)?;
        Ok(Box::new(reader.map(move |batch| {
            batch.map_err(|error| Error::Parquet {
                path: path.clone(),
                source: ParquetError::ArrowError(error.to_string()),
            })
        })))
    };
    Ok(parts.into_iter().flat_map(move |row_groups| {
        open(row_groups).unwrap_or_else(|error| Box::new(std::iter::once(Err(error))))
    }))
}

/// Where the selected columns of row groups are in a file.
fn chunks(
    metadata: &ArrowReaderMetadata,
    row_groups: &[usize],
    mask: &ProjectionMask,
) -> Vec<Range<u64>> {
    let of_group = |group: &usize| {
        let columns = metadata.metadata().row_group(*group).columns().iter().enumerate();
        columns.filter(|(leaf, _)| mask.leaf_included(*leaf)).map(|(_, column)| {
            let (start, length) = column.byte_range();
            start..start + length
        })
    };
    row_groups.iter().flat_map(of_group).collect()
}

/// Reads the footer of a file.
///
/// # Errors
/// Returns [`Error::Parquet`] if the footer cannot be decoded.
pub fn metadata_of(path: &Path) -> Result<ArrowReaderMetadata> {
    match known_footer(path) {
        Some(metadata) => Ok(metadata),
        None => Ok(footer(path, Readable::open(path)?)?.0),
    }
}

fn known_footer(path: &Path) -> Option<ArrowReaderMetadata> {
    FOOTERS.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
}

/// The footer of an open file, and the file with what was read for it.
fn footer(path: &Path, file: Readable) -> Result<(ArrowReaderMetadata, Readable)> {
    if let Some(metadata) = known_footer(path) {
        return Ok((metadata, file));
    }
    let file = file.with_tail()?;
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::default())
        .map_err(|source| undecodable(source, path))?;
    if is_url(path) {
        let mut known = FOOTERS.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_FOOTERS {
            known.clear();
        }
        known.insert(path.to_owned(), metadata.clone());
    }
    Ok((metadata, file))
}

/// The number of rows in each row group of a file.
///
/// # Errors
/// Returns [`Error::Parquet`] if the footer cannot be decoded.
pub fn row_groups(path: &Path) -> Result<Vec<usize>> {
    let metadata = metadata_of(path)?;
    Ok(metadata.metadata().row_groups().iter().map(|group| group.num_rows() as usize).collect())
}

/// Reads the key-value metadata of a file's schema.
pub fn metadata(path: &Path) -> Result<HashMap<String, String>> {
    let metadata = metadata_of(path)?;
    let metadata = metadata.schema().metadata().iter();
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

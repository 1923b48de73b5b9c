//! Delta tables as sources: the files of a version of a table, and which of their rows and columns count.
//!
//! `delta_kernel` reads the table's log. The files are read like those of any other source: only the columns that are
//! needed, a row group at a time.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arrow_array::{BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_schema::{Field, FieldRef, Fields, Schema, SchemaRef};
use delta_kernel::engine::arrow_conversion::TryIntoArrow;
use delta_kernel::scan::Scan;
use delta_kernel::scan::state::{DvInfo, ScanFile};
use delta_kernel::schema::{
    ColumnMetadataKey, DataType as DeltaType, MetadataValue, PrimitiveType, StructField, StructType,
};
use delta_kernel::table_features::ColumnMappingMode;
use delta_kernel::{Engine, KernelError, Snapshot};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use url::Url;

use super::SourceProblem;
use super::fingerprint::Fingerprint;
use crate::error::{Error, Result};
use crate::store::conform::{Misfit, find, reshape};
use crate::store::parquet::{batches, metadata_of};
use crate::store::{bucket, delta};

/// A version of a Delta table.
#[derive(Clone)]
pub struct DeltaTable {
    engine: Arc<dyn Engine>,
    root: Url,
    /// The number of the version.
    pub version: u64,
    columns: Vec<Column>,
    files: BTreeMap<PathBuf, DeltaFile>,
}

/// A column of the table.
#[derive(Debug, Clone)]
struct Column {
    /// The column as readers see it.
    logical: FieldRef,
    place: Place,
}

/// Where the values of a column are.
#[derive(Debug, Clone)]
enum Place {
    /// In the files, under the names and IDs that this field has.
    File(FieldRef),
    /// In the log, one value for each file, under this name.
    Log(String, PrimitiveType),
}

/// An active file of the table.
#[derive(Debug, Clone)]
struct DeltaFile {
    bytes: u64,
    /// When the file was added, in milliseconds since 1970-01-01T00:00:00Z.
    modified: i64,
    /// The number of rows, deleted ones too; `None` if the log does not say it.
    rows: Option<u64>,
    /// The number of deleted rows.
    deleted_count: u64,
    /// The rows that were deleted since the file was written.
    deleted: DvInfo,
    deleted_rows: Arc<OnceLock<Vec<u64>>>,
    /// The values of partition columns.
    values: HashMap<String, String>,
}

impl std::fmt::Debug for DeltaTable {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "version {} of {}, {} files", self.version, self.root, self.files.len())
    }
}

impl DeltaTable {
    /// Opens the latest version of the table at a path or URL, or the given one. Returns `None` if there is no table.
    ///
    /// # Errors
    /// Returns [`SourceProblem::Delta`] if the log cannot be read, lacks the version, or needs a feature of the format
    /// that is not known. Error messages start with `place`, which names the setting.
    pub fn open(path: &Path, version: Option<u64>, place: &str) -> Result<Option<Self>> {
        let Some((engine, root)) = delta::find(path)? else { return Ok(None) };
        let failed = |source: KernelError| SourceProblem::Delta {
            place: place.to_owned(),
            path: path.to_owned(),
            version,
            source: Box::new(source),
        };
        let mut builder = Snapshot::builder_for(root.as_str());
        if let Some(version) = version {
            builder = builder.at_version(version);
        }
        let snapshot = builder.build(engine.as_ref()).map_err(&failed)?;
        let mapping = snapshot.table_properties().column_mapping_mode;
        let is_mapped = mapping.is_some_and(|mode| mode != ColumnMappingMode::None);
        let scan = snapshot.clone().scan_builder().build().map_err(&failed)?;
        let columns = columns_of(&scan, is_mapped)?;
        let mut files = BTreeMap::new();
        for file in active_files(&scan, engine.as_ref()).map_err(&failed)? {
            let deleted_count = file.dv_info.cardinality().map_err(&failed)?.unwrap_or(0);
            let own = DeltaFile {
                bytes: file.size.unsigned_abs(),
                modified: file.modification_time,
                rows: file.stats.map(|stats| stats.num_records),
                deleted_count,
                deleted: file.dv_info,
                deleted_rows: Arc::default(),
                values: file.partition_values,
            };
            files.insert(delta::path_of(&root, path, &file.path)?, own);
        }
        let version = snapshot.version();
        Ok(Some(Self { engine, root, version, columns, files }))
    }

    /// The active files in the order of their paths.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    /// The Arrow schema of the table.
    pub fn schema(&self) -> SchemaRef {
        let fields: Vec<FieldRef> = self.columns.iter().map(|c| c.logical.clone()).collect();
        Arc::new(Schema::new(fields))
    }

    /// The number of rows of all files.
    pub fn rows(&self) -> Result<u64> {
        let count = |(path, file): (&PathBuf, &DeltaFile)| -> Result<u64> {
            let all = match file.rows {
                Some(rows) => rows,
                None => {
                    let metadata = self.metadata(path)?;
                    metadata.metadata().file_metadata().num_rows().unsigned_abs()
                }
            };
            Ok(all.saturating_sub(file.deleted_count))
        };
        self.files.iter().map(count).sum()
    }

    /// Reads the footer of an active file.
    ///
    /// # Errors
    /// Returns [`SourceProblem::DeltaFile`] if the file is not there.
    pub fn metadata(&self, path: &Path) -> Result<ArrowReaderMetadata> {
        metadata_of(path).map_err(|error| match error.is_not_found() {
            true => SourceProblem::DeltaFile { file: path.to_owned() }.into(),
            false => error,
        })
    }

    /// The name that a column has in a file with these fields; `None` if the file does not have it.
    pub fn name_in_file<'a>(&self, column: &str, fields: &'a Fields) -> Option<&'a str> {
        let column = self.columns.iter().find(|known| known.logical.name() == column)?;
        let Place::File(field) = &column.place else { return None };
        Some(fields[find(fields, field)?].name())
    }

    /// Where the columns are whose values are not in the files under their own names. It changes if a name gets
    /// another column.
    pub fn places(&self) -> String {
        let place = |column: &Column| {
            let name = column.logical.name();
            let physical = match &column.place {
                Place::File(field) => field.name(),
                Place::Log(physical, _) => physical,
            };
            (physical != name).then(|| format!(" {name}={physical}"))
        };
        self.columns.iter().filter_map(place).collect()
    }

    /// A fingerprint of an active file, which changes when rows of it are deleted. Nothing is read for it.
    pub fn fingerprint(&self, path: &Path) -> Option<Fingerprint> {
        let file = self.files.get(path)?;
        // The kernel does not tell the name of a deletion vector, but prints it.
        let deleted = format!("{:?}", file.deleted);
        let deleted = xxhash_rust::xxh3::xxh3_64(deleted.as_bytes());
        Some(Fingerprint {
            bytes: file.bytes,
            modified: file.modified.saturating_mul(1000),
            footer: format!("delta {deleted:016x}"),
        })
    }

    /// Reads the rows of an active file that count, one record batch after another: the named columns or all, of one
    /// row group or of all.
    ///
    /// # Errors
    /// Returns [`Error::Parquet`] if the file cannot be decoded.
    pub fn batches(
        &self,
        path: &Path,
        wanted: Option<&[&str]>,
        row_group: Option<usize>,
    ) -> Result<impl Iterator<Item = Result<RecordBatch>> + Send + use<>> {
        let Some(file) = self.files.get(path) else {
            return Err(Error::io("open", path)(std::io::ErrorKind::NotFound.into()));
        };
        if bucket::is_url(path) {
            bucket::BucketObject::expect(path, file.bytes, None)?;
        }
        let is_wanted =
            |c: &&Column| wanted.is_none_or(|wanted| wanted.contains(&c.logical.name().as_str()));
        let columns: Vec<Column> = self.columns.iter().filter(is_wanted).cloned().collect();
        let metadata = self.metadata(path)?;
        let in_file: Vec<String> = columns
            .iter()
            .filter_map(|column| match &column.place {
                Place::File(field) => find(metadata.schema().fields(), field),
                Place::Log(..) => None,
            })
            .map(|index| metadata.schema().field(index).name().clone())
            .collect();
        let names: Vec<&str> = in_file.iter().map(String::as_str).collect();
        let groups = metadata.metadata().row_groups();
        let before = row_group.map_or(0, |end| groups[..end].iter().map(|g| g.num_rows()).sum());
        let deleted = self.deleted(file)?;
        let values = file.values.clone();
        let (mut at, file_path) = (before.unsigned_abs(), path.to_owned());
        let rows = batches(path, Some(&names), row_group)?;
        Ok(rows.map(move |rows| {
            let rows = rows?;
            let start = at;
            at += rows.num_rows() as u64;
            let rows = logical(&rows, &columns, &values, &file_path)?;
            without(rows, start, deleted.get().map_or(&[], Vec::as_slice))
        }))
    }

    /// The rows of a file that were deleted, which are read when they are first asked for.
    fn deleted(&self, file: &DeltaFile) -> Result<Arc<OnceLock<Vec<u64>>>> {
        if file.deleted.has_vector() && file.deleted_rows.get().is_none() {
            let read = file.deleted.get_row_indexes(self.engine.as_ref(), &self.root);
            let mut rows = read
                .map_err(Error::engine("reading the deleted rows of a Delta table"))?
                .unwrap_or_default();
            rows.sort_unstable();
            // Another thread may have read the same rows.
            let _ = file.deleted_rows.set(rows);
        }
        Ok(file.deleted_rows.clone())
    }
}

/// The columns of a table, and where their values are.
fn columns_of(scan: &Scan, is_mapped: bool) -> Result<Vec<Column>> {
    let arrow = |fields: &StructType| -> Result<Schema> {
        fields.try_into_arrow().map_err(Error::engine("reading the schema of a Delta table"))
    };
    let logical = arrow(scan.logical_schema())?;
    let physical = arrow(scan.physical_schema())?;
    let column = |(field, shown): (&StructField, &FieldRef)| {
        let name = physical_name(field, is_mapped);
        let place = match (physical.field_with_name(name), field.data_type()) {
            (Ok(field), _) => Place::File(Arc::new(field.clone())),
            (Err(_), DeltaType::Primitive(ty)) => Place::Log(name.to_owned(), ty.clone()),
            (Err(_), _) => unreachable!("columns that are in no file have simple types"),
        };
        // Files that are older than a column do not have it, whatever the schema says.
        let logical = Arc::new(plain(shown).with_nullable(true));
        Column { logical, place }
    };
    Ok(scan.logical_schema().fields().zip(logical.fields()).map(column).collect())
}

/// What the log says of each active file.
fn active_files(
    scan: &Scan,
    engine: &dyn Engine,
) -> std::result::Result<Vec<ScanFile>, KernelError> {
    let mut found = Vec::new();
    for metadata in scan.scan_metadata(engine)? {
        found = metadata?.visit_scan_files(found, |found, file| found.push(file))?;
    }
    Ok(found)
}

/// The name of a column in the files and in the log.
fn physical_name(field: &StructField, is_mapped: bool) -> &str {
    match field.get_config_value(&ColumnMetadataKey::ColumnMappingPhysicalName) {
        Some(MetadataValue::String(name)) if is_mapped => name,
        _ => field.name(),
    }
}

/// A field without the metadata of the log.
fn plain(field: &Field) -> Field {
    field.clone().with_metadata(HashMap::new())
}

/// The rows of a file as readers of the table see them.
fn logical(
    rows: &RecordBatch,
    columns: &[Column],
    values: &HashMap<String, String>,
    file: &Path,
) -> Result<RecordBatch> {
    let failed = "reading a file of a Delta table";
    let schema = rows.schema();
    let count = rows.num_rows();
    let mut arrays = Vec::new();
    for column in columns {
        let ty = column.logical.data_type();
        arrays.push(match &column.place {
            Place::File(field) => match find(schema.fields(), field) {
                Some(index) => {
                    let fitted = reshape(rows.column(index), field.data_type(), ty);
                    let (column, ty) = (column.logical.name().clone(), ty.clone());
                    let misfit = |source| Box::new(Misfit { column, ty, source });
                    let file = file.to_owned();
                    fitted.map_err(|e| SourceProblem::Misfit { file, source: misfit(e) })?
                }
                None => new_null_array(ty, count),
            },
            Place::Log(name, primitive) => {
                let value = values.get(name).map_or("", String::as_str);
                let value = primitive.parse_scalar(value).map_err(Error::engine(failed))?;
                value.to_array(count).map_err(Error::engine(failed))?
            }
        });
    }
    let fields: Vec<FieldRef> = columns.iter().map(|column| column.logical.clone()).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .map_err(Error::engine(failed))
}

/// The rows that are not among the deleted ones. `start` is the number of the first row within its file.
fn without(rows: RecordBatch, start: u64, deleted: &[u64]) -> Result<RecordBatch> {
    let end = start + rows.num_rows() as u64;
    let from = deleted.partition_point(|row| *row < start);
    let to = deleted.partition_point(|row| *row < end);
    if from == to {
        return Ok(rows);
    }
    let mut kept = vec![true; rows.num_rows()];
    deleted[from..to].iter().for_each(|row| kept[(row - start) as usize] = false);
    arrow_select::filter::filter_record_batch(&rows, &BooleanArray::from(kept))
        .map_err(Error::engine("leaving out deleted rows"))
}

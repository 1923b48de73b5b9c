//! The Parquet files of a source.
//!
//! They are found by path, folder, glob or Hive partition, on a disk or in a bucket. Their footers are read and their
//! schemas are compared before any row is read.

use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Fields, SchemaRef};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use rayon::prelude::*;

use super::SourceProblem;
use super::delta::DeltaTable;
use super::fingerprint::{Fingerprint, hash_of};
use super::footers::Footers;
use super::widen::{Drifted, Union};
use crate::error::{Error, Result};
use crate::expression::{Columns, Type};
use crate::money::Scale;
use crate::store::bucket::{BucketObject, has_credentials, is_known, is_url};
use crate::store::conform::conform;
use crate::store::disk;
use crate::store::parquet::metadata_of;

/// The number of objects whose footers are read at the same time.
const AT_ONCE: usize = 16;

/// The type of a raw column, as far as expressions can use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawType {
    /// An integer of any width.
    Integer,
    /// A floating-point number of any width.
    Double,
    /// A decimal with this number of decimal places.
    Decimal(i8),
    /// Text, also if it is dictionary-encoded.
    Text,
    /// True or false.
    Boolean,
    /// A timestamp with or without a time zone.
    Timestamp {
        /// Whether the column has a time zone.
        zoned: bool,
    },
    /// A calendar day.
    Date,
    /// Any other type. Such columns are carried along, but expressions cannot use them.
    Other,
}

impl RawType {
    /// The type of an Arrow column.
    pub fn of(ty: &DataType) -> Self {
        match ty {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Self::Integer,
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
                Self::Integer
            }
            DataType::Float16 | DataType::Float32 | DataType::Float64 => Self::Double,
            DataType::Decimal128(_, scale) => Self::Decimal(*scale),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::Dictionary(_, value) => Self::of(value),
            DataType::Boolean => Self::Boolean,
            DataType::Timestamp(_, zone) => Self::Timestamp { zoned: zone.is_some() },
            DataType::Date32 | DataType::Date64 => Self::Date,
            _ => Self::Other,
        }
    }

    /// The type that expressions see, or None if they cannot use the column.
    ///
    /// A decimal with more decimal places than money is a double.
    pub fn logical(self, scale: Scale) -> Option<Type> {
        Some(match self {
            Self::Integer => Type::Integer,
            Self::Double => Type::Double,
            Self::Decimal(places) if places <= scale.places() as i8 => Type::Money,
            Self::Decimal(_) => Type::Double,
            Self::Text => Type::Text,
            Self::Boolean => Type::Boolean,
            Self::Timestamp { .. } => Type::Timestamp,
            Self::Date => Type::Date,
            Self::Other => return None,
        })
    }
}

/// A column of the raw files.
#[derive(Debug, Clone)]
pub struct RawColumn {
    /// The name of the column in the files.
    pub name: String,
    /// The type of the column.
    pub ty: RawType,
    /// Whether the values come from the names of Hive partition folders instead of the files.
    pub hive: bool,
}

/// A set of Parquet files, read in the schema that they have together.
#[derive(Debug, Clone)]
pub struct RawTable {
    /// The files in the order of their paths.
    pub files: Vec<PathBuf>,
    /// The Arrow schema of the files, without the Hive columns. A column has the widest of its types.
    pub schema: SchemaRef,
    /// All columns. Hive columns come last.
    pub raw: Vec<RawColumn>,
    /// The number of rows in all files.
    pub rows: u64,
    /// The columns that not all files have, or not in the same type.
    pub drifted: Vec<Drifted>,
    /// The Delta table that the files belong to; `None` for files that are read as they are.
    pub delta: Option<DeltaTable>,
    /// The footers of the files that are objects with an ETag.
    pub footers: Footers,
}

impl RawTable {
    /// Finds the files at `path` and reads their footers, unless these are `known`. If `path` is a Delta table, its log
    /// is read instead, at `version` or as it is now. Error messages start with `place`, which names the setting.
    ///
    /// # Errors
    /// Those of [`DeltaTable::open`]. A configuration error if a version is given but there is no Delta table, if
    /// `path` is a URL of an unknown kind, does not exist, or is not a valid glob. A contract violation if there are no
    /// files, if a footer cannot be read, if two columns of a file have the same name, if only some of the timestamps
    /// have a time zone, or if a column has types of which none is the wider one.
    pub fn open(path: &Path, version: Option<u64>, place: &str, known: &Footers) -> Result<Self> {
        if has_credentials(path) {
            return Err(SourceProblem::Credentials { place: place.to_owned() }.into());
        }
        if let Some(delta) = DeltaTable::open(path, version, place)? {
            return Self::of_delta(delta, path, place);
        }
        if let Some(version) = version {
            let (place, path) = (place.to_owned(), path.to_owned());
            return Err(SourceProblem::NoDelta { place, path, version }.into());
        }
        let files = find(path, place)?;
        let (mut union, mut rows) = (Union::default(), 0);
        let mut footers = Footers::default();
        for (file, (tag, found)) in files.iter().zip(read_footers(&files, known)?) {
            if let Some(tag) = tag {
                footers.add(file, tag, &found);
            }
            let (schema, count) = found;
            if let Some(column) = repeated(&schema) {
                return Err(SourceProblem::SameName { file: file.clone(), column }.into());
            }
            union.add(file, &schema)?;
            rows += count;
        }
        let (schema, drifted) = union.finish();
        let mut raw = raw_columns(&schema, &files[0])?;
        for name in hive_columns(&files[0]) {
            if !raw.iter().any(|column| column.name == name.0) {
                raw.push(RawColumn { name: name.0, ty: RawType::Text, hive: true });
            }
        }
        Ok(Self { files, schema, raw, rows, drifted, delta: None, footers })
    }

    /// The active files of a Delta table, in the schema of the table.
    fn of_delta(delta: DeltaTable, path: &Path, place: &str) -> Result<Self> {
        let files: Vec<PathBuf> = delta.paths().cloned().collect();
        let Some(first) = files.first() else {
            let (place, path, version) = (place.to_owned(), path.to_owned(), delta.version);
            return Err(SourceProblem::EmptyDelta { place, path, version }.into());
        };
        let schema = delta.schema();
        let raw = raw_columns(&schema, first)?;
        let rows = delta.rows()?;
        Ok(Self {
            files,
            schema,
            raw,
            rows,
            drifted: Vec::new(),
            delta: Some(delta),
            footers: Footers::default(),
        })
    }

    /// A fingerprint of one of the files.
    ///
    /// # Errors
    /// Returns an I/O error if the file cannot be read.
    pub fn fingerprint(&self, file: &Path) -> Result<Fingerprint> {
        let known = self.delta.as_ref().and_then(|delta| delta.fingerprint(file));
        known.map_or_else(|| Fingerprint::of(file), Ok)
    }

    /// A hash of all bytes of one of the files, of what the names of its folders say, and of what the log of a Delta
    /// table says of it.
    ///
    /// # Errors
    /// Returns an I/O error if the file cannot be read.
    pub fn hash_of(&self, file: &Path) -> Result<String> {
        Ok(hash_of(file)? + &self.said_of(file)?)
    }

    /// What is known of the rows of a file besides its bytes.
    ///
    /// # Errors
    /// Returns an I/O error if the file cannot be read.
    pub fn said_of(&self, file: &Path) -> Result<String> {
        let of_log = match &self.delta {
            Some(delta) => {
                let schema = delta.schema();
                format!("{:?} {schema:?} {}", self.fingerprint(file)?, delta.places())
            }
            None => String::new(),
        };
        Ok(format!("{:?}{of_log}", hive_columns(file)))
    }

    /// Reads the footer of one of the files.
    ///
    /// # Errors
    /// Returns [`Error::Parquet`] if it cannot be decoded.
    pub fn metadata(&self, file: &Path) -> Result<ArrowReaderMetadata> {
        self.delta.as_ref().map_or_else(|| metadata_of(file), |delta| delta.metadata(file))
    }

    /// The name that a column has in a file with these fields; `None` if the file does not have it.
    pub fn name_in_file<'a>(&self, column: &str, fields: &'a Fields) -> Option<&'a str> {
        match &self.delta {
            Some(delta) => delta.name_in_file(column, fields),
            None => Some(fields.find(column)?.1.name()),
        }
    }

    /// Reads the record batches of a file one after another, in the schema that the files have together: either the
    /// named columns or all columns, of one row group or of all.
    ///
    /// # Errors
    /// Returns [`Error::Parquet`] if the file cannot be decoded.
    pub fn batches<'a>(
        &'a self,
        file: &Path,
        columns: Option<&'a [&'a str]>,
        row_group: Option<usize>,
    ) -> Result<Box<dyn Iterator<Item = Result<RecordBatch>> + 'a>> {
        if let Some(delta) = &self.delta {
            return Ok(Box::new(delta.batches(file, columns, row_group)?));
        }
        let batches = crate::store::parquet::batches(file, columns, row_group)?;
        let file = file.to_owned();
        Ok(Box::new(batches.map(move |batch| {
            conform(&batch?, &self.schema, columns).map_err(|misfit| {
                let (file, source) = (file.clone(), Box::new(misfit));
                SourceProblem::Misfit { file, source }.into()
            })
        })))
    }

    /// The columns that expressions can use, under their raw names.
    pub fn columns(&self, scale: Scale) -> Columns {
        let typed = self.raw.iter().filter_map(|c| Some((c.name.clone(), c.ty.logical(scale)?)));
        Columns::new(scale, typed)
    }

    /// The raw column called `name`.
    pub fn get(&self, name: &str) -> Option<&RawColumn> {
        self.raw.iter().find(|column| column.name == name)
    }
}

fn find(path: &Path, place: &str) -> Result<Vec<PathBuf>> {
    let text = path.to_string_lossy().into_owned();
    let place = place.to_owned();
    let mut files = Vec::new();
    if is_url(path) {
        files = find_objects(path, place.clone())?;
    } else if disk::is_file(path)? {
        files.push(path.to_owned());
    } else if disk::is_folder(path)? {
        walk(path, &mut files)?;
    } else if text.contains(['*', '?', '[']) {
        let entries = match glob::glob(&text) {
            Ok(entries) => entries,
            Err(source) => return Err(SourceProblem::Glob { place, path: text, source }.into()),
        };
        for entry in entries {
            let listed =
                entry.map_err(|error| (error.path().to_owned(), std::io::Error::from(error)));
            let path = listed.map_err(|(path, error)| Error::io("list", path)(error))?;
            if !disk::is_folder(&path)? {
                files.push(path);
            }
        }
    } else {
        return Err(SourceProblem::NoPath { place, path: text }.into());
    }
    files.sort();
    if files.is_empty() {
        return Err(SourceProblem::NoFiles { place, path: text }.into());
    }
    Ok(files)
}

/// Finds the objects of a URL: the object itself, those that match a glob, or those of a folder.
fn find_objects(url: &Path, place: String) -> Result<Vec<PathBuf>> {
    let text = url.to_string_lossy();
    if !is_known(url) {
        return Err(SourceProblem::Url { place, path: text.into_owned() }.into());
    }
    // The name of an object may have the characters of a glob.
    if !text.ends_with('/') && BucketObject::find(url)?.is_some() {
        return Ok(vec![url.to_owned()]);
    }
    let Some(wild) = text.find(['*', '?', '[']) else {
        let found = BucketObject::below(url)?.into_iter().map(|object| object.url);
        return Ok(found.filter(|file| is_table(file.strip_prefix(url).unwrap_or(file))).collect());
    };
    let pattern = match glob::Pattern::new(&text) {
        Ok(pattern) => pattern,
        Err(source) => {
            return Err(SourceProblem::Glob { place, path: text.into_owned(), source }.into());
        }
    };
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    let folder = text[..wild].rfind('/').map_or("", |end| &text[..=end]);
    let found = BucketObject::below(Path::new(folder))?.into_iter().map(|object| object.url);
    Ok(found.filter(|file| pattern.matches_with(&file.to_string_lossy(), options)).collect())
}

/// Whether a path within a folder ends in `.parquet` and no part of it is hidden.
fn is_table(path: &Path) -> bool {
    let is_hidden =
        |part: std::path::Component| part.as_os_str().to_string_lossy().starts_with(['.', '_']);
    path.extension().is_some_and(|extension| extension == "parquet")
        && !path.components().any(is_hidden)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let hidden = name.is_some_and(|name| name.starts_with(['.', '_']));
        if hidden {
            continue;
        }
        if disk::is_folder(&path)? {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            files.push(path);
        }
    }
    Ok(())
}

/// The schema and the number of rows of each file, with the ETags of objects. Footers are read at the same time, because
/// a bucket takes long to answer but answers many.
fn read_footers(files: &[PathBuf], known: &Footers) -> Result<Vec<(Option<String>, Found)>> {
    let read = |file: &PathBuf| -> Result<(Option<String>, Found)> {
        let object = if is_url(file) { BucketObject::find(file)? } else { None };
        let tag = object.and_then(|object| object.meta.e_tag);
        let found = tag.as_ref().and_then(|tag| known.get(file, tag));
        Ok((tag, found.map_or_else(|| footer(file), Ok)?))
    };
    if !files.iter().any(|file| is_url(file)) {
        return files.iter().map(read).collect();
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(AT_ONCE).build();
    let pool = pool.map_err(Error::engine("starting threads"))?;
    pool.install(|| files.par_iter().map(read).collect())
}

/// The Arrow schema and the number of rows of a file.
type Found = (SchemaRef, u64);

fn footer(path: &Path) -> Result<Found> {
    let metadata = metadata_of(path)?;
    let rows = metadata.metadata().file_metadata().num_rows();
    Ok((metadata.schema().clone(), rows.unsigned_abs()))
}

/// The columns of files with this schema.
///
/// # Errors
/// A contract violation that names `file` if only some of the timestamps have a time zone.
fn raw_columns(schema: &SchemaRef, file: &Path) -> Result<Vec<RawColumn>> {
    let of = |field: &arrow_schema::FieldRef| RawColumn {
        name: field.name().clone(),
        ty: RawType::of(field.data_type()),
        hive: false,
    };
    let raw: Vec<RawColumn> = schema.fields().iter().map(of).collect();
    let zones = |wanted: bool| {
        raw.iter()
            .filter(move |c| c.ty == RawType::Timestamp { zoned: wanted })
            .map(|c| c.name.clone())
            .collect::<Vec<_>>()
    };
    let (zoned, naive) = (zones(true), zones(false));
    if !zoned.is_empty() && !naive.is_empty() {
        return Err(SourceProblem::MixedZones { file: file.to_owned(), zoned, naive }.into());
    }
    Ok(raw)
}

/// A name that more than one column of a file has.
fn repeated(schema: &SchemaRef) -> Option<String> {
    let mut names = std::collections::HashSet::new();
    let mut fields = schema.fields().iter().map(|field| field.name());
    fields.find(|name| !names.insert(name.as_str())).cloned()
}

/// The names and values of the `name=value` folders on the path of a file.
pub fn hive_columns(path: &Path) -> Vec<(String, String)> {
    let folders = path.parent().into_iter().flat_map(Path::components);
    folders
        .filter_map(|part| {
            let text = part.as_os_str().to_string_lossy().into_owned();
            let (name, value) = text.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        })
        .collect()
}

//! The Parquet files of a source.
//!
//! They are found by path, folder, glob or Hive partition, on a disk or in a bucket. Their footers are read and their schemas are
//! compared before any row is read.

use std::io::Read;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef};
use serde::{Deserialize, Serialize};

use super::SourceProblem;
use super::widen::{Drifted, Union, conform};
use crate::error::{Error, Result};
use crate::expression::{Columns, Type};
use crate::money::Scale;
use crate::store::bucket::{BucketObject, is_known, is_url};
use crate::store::hash;
use crate::store::parquet::metadata_of;
use crate::store::readable::Readable;

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
}

impl RawTable {
    /// Finds the files at `path` and reads their footers. Error messages start with `place`, which names the
    /// setting.
    ///
    /// # Errors
    /// A configuration error if `path` is a URL of an unknown kind, does not exist, or is not a valid glob. A contract violation
    /// if there are no files, if a footer cannot be read, if two columns of a file have the same name, if
    /// only some of the timestamps have a time zone, or if a column has types of which none is the wider one.
    pub fn open(path: &Path, place: &str) -> Result<Self> {
        let files = find(path, place)?;
        let (mut union, mut rows) = (Union::default(), 0);
        for file in &files {
            let (schema, count) = footer(file)?;
            if let Some(column) = repeated(&schema) {
                return Err(SourceProblem::SameName { file: file.clone(), column }.into());
            }
            union.add(file, &schema)?;
            rows += count;
        }
        let (schema, drifted) = union.finish();
        let mut raw: Vec<RawColumn> = Vec::new();
        for field in schema.fields() {
            let ty = RawType::of(field.data_type());
            raw.push(RawColumn { name: field.name().clone(), ty, hive: false });
        }
        let zones = |wanted: bool| {
            raw.iter()
                .filter(move |c| c.ty == RawType::Timestamp { zoned: wanted })
                .map(|c| c.name.clone())
                .collect::<Vec<_>>()
        };
        let (zoned, naive) = (zones(true), zones(false));
        if !zoned.is_empty() && !naive.is_empty() {
            return Err(SourceProblem::MixedZones { file: files[0].clone(), zoned, naive }.into());
        }
        for name in hive_columns(&files[0]) {
            if !raw.iter().any(|column| column.name == name.0) {
                raw.push(RawColumn { name: name.0, ty: RawType::Text, hive: true });
            }
        }
        Ok(Self { files, schema, raw, rows, drifted })
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
    ) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<'a>> {
        let batches = crate::store::parquet::batches(file, columns, row_group)?;
        Ok(batches.map(move |batch| conform(&batch?, &self.schema, columns)))
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
    } else if path.is_file() {
        files.push(path.to_owned());
    } else if path.is_dir() {
        walk(path, &mut files)?;
    } else if text.contains(['*', '?', '[']) {
        let entries = match glob::glob(&text) {
            Ok(entries) => entries,
            Err(source) => return Err(SourceProblem::Glob { place, path: text, source }.into()),
        };
        files.extend(entries.filter_map(|entry| entry.ok()).filter(|entry| entry.is_file()));
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
    let Some(wild) = text.find(['*', '?', '[']) else {
        if !text.ends_with('/') && BucketObject::find(url)?.is_some() {
            return Ok(vec![url.to_owned()]);
        }
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
        if path.is_dir() && !hidden {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "parquet") && !hidden {
            files.push(path);
        }
    }
    Ok(())
}

/// A fingerprint that tells whether a file has changed since it was read, without reading its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The length of the file in bytes.
    pub bytes: u64,
    /// The time of the last modification, in microseconds since 1970-01-01T00:00:00Z.
    pub modified: i64,
    /// The XXH3-64 hash of the footer, which contains the schema and the location and metadata of every
    /// column chunk. Of an object it is the ETag.
    pub footer: String,
}

impl Fingerprint {
    /// Computes the fingerprint of a Parquet file. Only the end of the file is read.
    pub fn of(path: &Path) -> Result<Self> {
        let file = Readable::open(path)?;
        if let Ok((bytes, modified, Some(tag))) = file.version() {
            return Ok(Self { bytes, modified, footer: tag.to_owned() });
        }
        let file = file.with_tail()?;
        let read = || -> std::io::Result<Self> {
            let (bytes, modified, _) = file.version()?;
            let mut tail = [0; 4];
            file.from(bytes.saturating_sub(8))?.read_exact(&mut tail)?;
            let length = u64::from(u32::from_le_bytes(tail)) + 8;
            let (_, footer) = hash(file.from(bytes.saturating_sub(length))?)?;
            Ok(Self { bytes, modified, footer })
        };
        read().map_err(Error::io("read", path))
    }
}

/// The Arrow schema and the number of rows of a file.
pub fn footer(path: &Path) -> Result<(SchemaRef, u64)> {
    let metadata = metadata_of(path)?;
    let rows = metadata.metadata().file_metadata().num_rows();
    Ok((metadata.schema().clone(), rows.unsigned_abs()))
}

/// The XXH3-64 hash of the bytes of a file, in hexadecimal.
///
/// # Errors
/// Returns an I/O error if the file cannot be read.
pub fn hash_of(path: &Path) -> Result<String> {
    let file = Readable::open(path)?;
    let hash = file.from(0).and_then(hash).map_err(Error::io("read", path))?;
    Ok(hash.1)
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

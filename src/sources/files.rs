//! The Parquet files of a source.
//!
//! They are found by path, folder, glob or Hive partition. Their footers are read and their schemas are
//! compared before any row is read.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use serde::{Deserialize, Serialize};

use super::SourceProblem;
use super::widen::{Drifted, Union, conform};
use crate::error::{Error, Result};
use crate::expression::{Columns, Type};
use crate::money::Scale;

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
    /// A configuration error if `path` is a URL, does not exist, or is not a valid glob. A contract violation
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
    if text.contains("://") {
        return Err(SourceProblem::Url { place, path: text }.into());
    }
    let mut files = Vec::new();
    if path.is_file() {
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
    /// column chunk.
    pub footer: String,
}

impl Fingerprint {
    /// Computes the fingerprint of a Parquet file. Only the end of the file is read.
    pub fn of(path: &Path) -> Result<Self> {
        let read = || -> std::io::Result<Self> {
            let mut file = File::open(path)?;
            let metadata = file.metadata()?;
            let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH);
            let modified = modified.map_or(0, |since| since.as_micros() as i64);
            let mut tail = [0; 8];
            file.seek(SeekFrom::End(-8))?;
            file.read_exact(&mut tail)?;
            let [a, b, c, d, ..] = tail;
            let length = u64::from(u32::from_le_bytes([a, b, c, d])) + 8;
            let mut footer = Vec::new();
            file.seek(SeekFrom::Start(metadata.len().saturating_sub(length)))?;
            file.read_to_end(&mut footer)?;
            let footer = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&footer));
            Ok(Self { bytes: metadata.len(), modified, footer })
        };
        read().map_err(Error::io("read", path))
    }
}

/// The Arrow schema and the number of rows of a file.
pub fn footer(path: &Path) -> Result<(SchemaRef, u64)> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::default())
        .map_err(|source| Error::Parquet { path: path.to_owned(), source })?;
    let rows = metadata.metadata().file_metadata().num_rows();
    Ok((metadata.schema().clone(), rows.unsigned_abs()))
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

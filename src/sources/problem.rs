//! What can be wrong with a source: its settings, its files and the rows in them.

use std::path::{Path, PathBuf};

use arrow_schema::DataType;

use crate::error::Problem;
use crate::exit::Exit;
use crate::store::conform::Misfit;

/// A wrong setting of a source, or a violation of its contract.
#[derive(Debug, thiserror::Error)]
pub enum SourceProblem {
    #[error("{place}: {path} is no address of a bucket")]
    Url { place: String, path: String },
    #[error("{place}: the URL has a user name or a password in it")]
    Credentials { place: String },
    #[error("{place}: {path} is not a glob")]
    Glob { place: String, path: String, source: glob::PatternError },
    /// The log of a Delta table cannot be read.
    #[error("{place}: {} cannot be read", version_of(path, *version))]
    Delta {
        place: String,
        path: PathBuf,
        version: Option<u64>,
        source: Box<delta_kernel::KernelError>,
    },
    /// A file that the log names was removed.
    #[error("the Delta table names {}, which is not there", file.display())]
    DeltaFile { file: PathBuf },
    #[error("{place}: version {version} of the Delta table {} has no rows", path.display())]
    EmptyDelta { place: String, path: PathBuf, version: u64 },
    /// A value does not fit into the type that the files have together.
    #[error("{}: {source}", file.display())]
    Misfit { file: PathBuf, source: Box<Misfit> },
    #[error("{place}: version = {version}, but {} is no Delta table", path.display())]
    NoDelta { place: String, path: PathBuf, version: u64 },
    #[error("{place}: there is no file or folder {path}")]
    NoPath { place: String, path: String },
    #[error("{place}: the key {key} is neither text nor an integer")]
    ItemKey { place: String, key: String },
    #[error("{place}: `{key}` is {key_type} but `{on}` is {on_type}")]
    LookupTypes {
        place: String,
        key: String,
        key_type: &'static str,
        on: String,
        on_type: &'static str,
    },
    #[error("c360.toml [consent] scores customers by their consent, but the profile has no {}", columns.join(" and no "))]
    NoConsent { columns: Vec<&'static str> },
    #[error("{place}: no Parquet file in {path}")]
    NoFiles { place: String, path: String },
    #[error("{}: two columns are called {column}", file.display())]
    SameName { file: PathBuf, column: String },
    #[error("{}: {} has a time zone but {} has none", file.display(), zoned.join(", "), naive.join(", "))]
    MixedZones { file: PathBuf, zoned: Vec<String>, naive: Vec<String> },
    #[error("the column {column} is {ty} in {} but {other_type} in {}", file.display(), other.display())]
    MixedTypes { column: String, file: PathBuf, ty: DataType, other: PathBuf, other_type: DataType },
    /// The column has a meaning for events, but no expression can use its type.
    #[error("{}: the column {column} has type {ty}, which is not read", file.display())]
    UnreadType { file: PathBuf, column: String, ty: String, place: String },
    /// The column is required, and no setting below `place` maps it.
    #[error("{}: the column {column} is missing", file.display())]
    Unmapped { file: PathBuf, column: String, place: String, found: Vec<String> },
    /// The column is required in a file that is read as it is.
    #[error("{}: the column {column} is missing", file.display())]
    Missing { file: PathBuf, column: String, required: String },
    #[error("{place}: the column {column} has type {found}, not {wanted}")]
    EventType { place: String, column: String, found: &'static str, wanted: &'static str },
    #[error("{}: column {column} has type {found}, not {wanted}", file.display())]
    ProfileType { file: PathBuf, column: String, found: String, wanted: String },
    #[error("{}: column {column} is no {wanted}", file.display())]
    EntityType { file: PathBuf, column: String, wanted: &'static str },
    #[error("{} has no rows", file.display())]
    NoRows { file: PathBuf, required: &'static str },
    #[error("{}: column {column}: row {row} is null or blank", file.display())]
    NullKey { file: PathBuf, column: String, row: usize, required: &'static str },
    #[error("{}: column {column}: {key} occurs more than once", file.display())]
    RepeatedKey { file: PathBuf, column: String, key: String, required: String },
}

impl Problem for SourceProblem {
    fn exit(&self) -> Exit {
        match self {
            Self::Url { .. }
            | Self::Credentials { .. }
            | Self::Glob { .. }
            | Self::NoPath { .. }
            | Self::NoDelta { .. }
            | Self::ItemKey { .. }
            | Self::NoConsent { .. }
            | Self::LookupTypes { .. } => Exit::Configuration,
            _ => Exit::Contract,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Url { .. } => "addresses of buckets begin with s3://, gs://, az:// or abfss://",
            Self::NoConsent { .. } => {
                "nobody's consent would be known; map the column in [sources.profile.columns], or remove the table [consent]"
            }
            Self::Glob { .. } => "`*` and `?` stand for characters of a name, and `**` for folders",
            Self::NoPath { .. } => {
                "paths of a project are relative to its folder, those of an option to the current folder"
            }
            Self::Delta { .. } => {
                "check `version`, and that the table can be read with DuckDB or Spark; without `version` the latest is read"
            }
            Self::DeltaFile { .. } => {
                "VACUUM has removed it; leave `version` out, or name a later one that still has its files"
            }
            Self::EmptyDelta { .. } => "name another version, or write to the table first",
            Self::Misfit { .. } => {
                "other files have a type that cannot hold it; write the column in one type, or leave it out of the mapping"
            }
            Self::Credentials { .. } => {
                "leave them out, and set the environment variables that the documentation of your bucket names"
            }
            Self::NoDelta { .. } => "leave `version` out; only Delta tables have versions",
            Self::ItemKey { .. } => "an item is text or an integer",
            Self::LookupTypes { .. } => "both columns of a lookup must have the same type",
            Self::NoFiles { .. } => "files must end in .parquet",
            Self::SameName { .. } => "rename one of them where the file is written",
            Self::MixedZones { .. } => {
                "write all timestamps with a zone, or all without (then project.timezone holds)"
            }
            Self::MixedTypes { .. } => {
                "neither type holds the values of the other; write the older files again, or map them apart"
            }
            Self::UnreadType { column, place, .. } => {
                return Some(format!(
                    "convert it where the file is written, rename it, or map another column under {place} columns, {column} = \"…\""
                ));
            }
            Self::Unmapped { column, place, found, .. } => {
                let found = found.join(", ");
                return Some(format!(
                    "map it under {place} columns, {column} = \"…\"; found: {found}"
                ));
            }
            Self::EventType { column, found, wanted, .. } => {
                let is_number = ["integer", "double", "money"].contains(found);
                return Some(match is_number && *wanted == "timestamp" {
                    true => format!(
                        "map it: {column} = \"to_timestamp(…, 's')\", 'ms' or 'us' since 1970"
                    ),
                    false => format!("map it: {column} = \"cast(… as {wanted})\""),
                });
            }
            Self::ProfileType { column, .. } => {
                return Some(format!(
                    "in c360.toml [sources.profile.columns] convert it, {column} = \"cast(… as …)\", or \
                     map it to a name of its own, {column}_raw = \"{column}\""
                ));
            }
            Self::EntityType { .. } => "convert it where the file is written",
            Self::NoRows { required, .. } | Self::NullKey { required, .. } => required,
            Self::Missing { required, .. } | Self::RepeatedKey { required, .. } => required,
        };
        Some(hint.to_owned())
    }
}

fn version_of(table: &Path, version: Option<u64>) -> String {
    let version = version.map(|version| format!("version {version} of "));
    format!("{}the Delta table {}", version.unwrap_or_default(), table.display())
}

//! The reasons for which a model, or the rows of the store, cannot be exported.

use std::path::PathBuf;

use crate::error::Problem;
use crate::exit::Exit;

/// A wrong option of an export, or something that its target does not take.
#[derive(Debug, thiserror::Error)]
pub enum ExportProblem {
    #[error("{model} {version} looks at no input")]
    NoInputs { model: String, version: String },
    #[error("the profile has no customers")]
    NoCustomers,
    #[error("--prefix is empty: the keys would be those of any other program")]
    EmptyPrefix,
    #[error("--url is not the address of a Redis server")]
    RedisUrl { source: redis::RedisError },
    #[error("there are keys {keys}* that no push has written")]
    RedisKeys { keys: String },
    /// The message does not repeat the URL, because it may contain a password.
    #[error("--url is not the address of a PostgreSQL database")]
    PostgresUrl,
    #[error("--table {table} is no name of a table")]
    PostgresTable { table: String, longest: usize },
    #[error("{column} can be no column in PostgreSQL: over {longest} bytes, or as_of")]
    PostgresColumn { column: String, longest: usize },
    #[error("the table {table} has rows that no push has written")]
    PostgresRows { table: String },
    #[error("{table}: {column} is {found}, and would be {wanted}")]
    PostgresType { table: String, column: String, found: String, wanted: String },
    #[error(
        "{column} of customer {customer:?} has a NUL character, which PostgreSQL does not take"
    )]
    PostgresNul { column: String, customer: String },
    #[error("cannot write the Delta table {}", table.display())]
    Delta { table: PathBuf, source: Box<delta_kernel::KernelError> },
    #[error("the Delta table {} was changed meanwhile: another program wrote version {version}", table.display())]
    DeltaConflict { table: PathBuf, version: u64 },
    #[error("{}: the column {column} is {ty}", table.display())]
    DeltaType { table: PathBuf, column: String, ty: String },
    #[error("{}: no column of a Delta table can be called {column:?}", table.display())]
    DeltaName { table: PathBuf, column: String },
    #[error("`{uri}` is no address of an MLflow server")]
    MlflowUrl { uri: String },
    #[error("the experiment `{experiment}` of {server} was deleted")]
    MlflowExperiment { experiment: String, server: String },
    #[error("{server} keeps the artifacts of its runs at `{uri}`")]
    MlflowArtifacts { server: String, uri: String },
}

impl Problem for ExportProblem {
    fn exit(&self) -> Exit {
        match self {
            Self::NoCustomers => Exit::NotMet,
            Self::PostgresNul { .. } => Exit::Contract,
            Self::Delta { .. } => Exit::Unexpected,
            Self::DeltaConflict { .. } => Exit::Locked,
            _ => Exit::Configuration,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoInputs { .. } => {
                "a graph without inputs cannot know how many rows there are; train with other features"
            }
            Self::NoCustomers => "run `c360-ml run` first",
            Self::EmptyPrefix => "--prefix c360:",
            Self::RedisUrl { .. } => "redis://127.0.0.1:6379/0, or rediss:// for TLS",
            Self::RedisKeys { .. } => "choose another --prefix, or remove them",
            Self::PostgresUrl => {
                "postgres://user@host:5432/database; in a password @ is %40, / is %2F, : is %3A"
            }
            Self::PostgresTable { longest, .. } => {
                return Some(format!(
                    "schema.table, or table; with _push at its end {longest} bytes at most"
                ));
            }
            Self::PostgresColumn { .. } => "rename the feature, or leave out its view with --views",
            Self::PostgresRows { .. } => "choose another --table, or empty this one",
            Self::PostgresType { .. } => "drop the column, or push to another table with --table",
            Self::PostgresNul { .. } => "map the column to a text without it",
            Self::Delta { .. } | Self::DeltaConflict { .. } => {
                "the store has the profile; run `c360-ml score` again to write the table"
            }
            Self::DeltaType { .. } => {
                "map the column to another type, or name another table in writeback.delta"
            }
            Self::DeltaName { .. } => {
                "map the column to a name without spaces, commas, semicolons, brackets and equals signs"
            }
            Self::MlflowUrl { .. } => {
                "start `mlflow server` and give its http:// or https:// address"
            }
            Self::MlflowExperiment { .. } => "restore it there, or name another by --experiment",
            Self::MlflowArtifacts { .. } => {
                "only a server that takes artifacts itself can be sent some: start it with \
                 --serve-artifacts and --artifacts-destination; params and metrics have been sent"
            }
        };
        Some(hint.to_owned())
    }
}

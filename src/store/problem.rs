//! What can be wrong with a store and with the files in it.

use std::path::{Path, PathBuf};

use crate::error::{Problem, Result};
use crate::exit::Exit;

/// A store that cannot be used, or a file that is not as it was written.
#[derive(Debug, thiserror::Error)]
pub enum StoreProblem {
    #[error("project.store = {} is no address of a bucket", path.display())]
    Url { path: PathBuf },
    #[error("project.store: the URL has a user name or a password in it")]
    Credentials,
    #[error("the store {} is of an earlier version of c360-ml", path.display())]
    OldFormat { path: PathBuf },
    #[error("the store {} has no root {number}", path.display())]
    NoRoot { path: PathBuf, number: u64 },
    #[error(
        "--root {number}: this command writes to the store, which only continues the latest root"
    )]
    PastRoot { number: u64 },
    #[error("{} is damaged: it says which files of a folder are live", path.display())]
    NoManifest { path: PathBuf },
    #[error("root {root} of the store names no {name}")]
    NotLive { name: String, root: u64 },
    #[error("the store {} has been changed meanwhile: root {number} was published by {by}", path.display())]
    Overtaken { path: PathBuf, number: u64, by: String },
    #[error("{} is being written by another process", path.display())]
    BeingWritten { path: PathBuf },
    #[error("it is not known whether {} was written", path.display())]
    NotPublished { path: PathBuf },
    #[error("the store {} has lost its latest roots: root {said} was published, and {}", path.display(), there(*greatest))]
    LostRoots { path: PathBuf, said: u64, greatest: Option<u64> },
    #[error("{} is damaged: it says what is live", path.display())]
    DamagedRoot { path: PathBuf },
    #[error("{} is damaged: its bytes are not those that were written", path.display())]
    Damaged { path: PathBuf },
    #[error("{} is not valid", path.display())]
    Invalid { path: PathBuf, source: serde_json::Error },
    #[error("{} has format_version {version}; this binary reads {readable}", path.display())]
    OtherFormat { path: PathBuf, version: u64, readable: u32 },
    #[error("{} is damaged: it was changed or truncated", path.display())]
    DamagedTimelines { path: PathBuf },
    #[error("{}: the number of coefficients does not match the inputs", path.display())]
    EditedModel { path: PathBuf },
    /// A request to a bucket fails for good.
    #[error("cannot {action} {}", url.display())]
    Request { action: &'static str, url: PathBuf, source: object_store::Error },
    /// A file lacks a column of its table, or has it in another type.
    #[error("{} is not a table of {table}", path.display())]
    NotATable { path: PathBuf, table: &'static str },
}

impl Problem for StoreProblem {
    fn exit(&self) -> Exit {
        match self {
            Self::NotATable { .. } => Exit::Contract,
            Self::Overtaken { .. } | Self::BeingWritten { .. } => Exit::Locked,
            Self::Request { .. }
            | Self::Damaged { .. }
            | Self::DamagedTimelines { .. }
            | Self::NoManifest { .. }
            | Self::NotPublished { .. }
            | Self::LostRoots { .. }
            | Self::DamagedRoot { .. } => Exit::Unexpected,
            _ => Exit::Configuration,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Url { .. } => {
                "a store is a folder, or s3://, gs://, az:// or abfss:// with the name of a bucket"
            }
            Self::Credentials => {
                "leave them out, and set the environment variables that the documentation of your bucket names"
            }
            Self::OldFormat { .. } => {
                "name another store and run again; snapshots and models are made anew"
            }
            Self::NoRoot { .. } => "`c360-ml history` lists the roots",
            Self::PastRoot { .. } => "leave --root out",
            Self::Damaged { path } | Self::NoManifest { path } => return Some(mend(path)),
            Self::NotLive { .. } => "run the command that writes it",
            Self::Overtaken { .. } => "nothing of this run is live; run it again",
            Self::BeingWritten { .. } => "wait for it to end",
            Self::NotPublished { .. } => {
                "`c360-ml history` says whether the run is live; run it again if it is not"
            }
            Self::LostRoots { .. } => {
                "take the folder roots/ from a backup; without one, remove latest.json and current.sql to go on with what is there"
            }
            Self::DamagedRoot { .. } => {
                "take it from a backup, or remove it and latest.json to go on with the root before it"
            }
            Self::Invalid { .. } => {
                "it was changed or cut short; take it from a backup, or train or score again"
            }
            Self::OtherFormat { .. } => "use the binary that wrote it, or write it anew",
            Self::DamagedTimelines { .. } => {
                "`c360-ml features build --full` reads all events again and writes it anew"
            }
            Self::EditedModel { .. } => "the file was edited; train again",
            Self::Request { source: object_store::Error::Precondition { .. }, .. } => {
                "it was replaced during the run; run again"
            }
            Self::Request { url, .. } => match url.to_string_lossy().split("://").next() {
                Some("s3" | "s3a") => {
                    "check the URL, AWS_REGION, AWS_ENDPOINT_URL, and AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
                }
                Some("gs") => "check the URL and GOOGLE_APPLICATION_CREDENTIALS",
                _ => "check the URL, AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
            },
            Self::NotATable { .. } => {
                "it was changed after it was written; run the command that wrote it again"
            }
        };
        Some(hint.to_owned())
    }
}

/// What a file of the store has given, or `None` if it cannot be used because it is gone or of another format.
///
/// # Errors
/// Returns the error if the file, or what names it, was changed.
pub fn unless_damaged<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.problem() {
            Some(StoreProblem::Damaged { .. } | StoreProblem::NoManifest { .. }) => Err(error),
            _ => Ok(None),
        },
    }
}

/// How a damaged file of a store is mended.
fn mend(path: &Path) -> String {
    let parts: Vec<String> =
        path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    let below = |folder: &str| {
        let place = parts.iter().rposition(|part| part == folder)?;
        Some(parts[place + 1..].iter().map(String::as_str).collect::<Vec<_>>())
    };
    let as_of = parts.iter().find_map(|part| part.strip_prefix("as_of="));
    let again = match (below("models"), below("features"), as_of) {
        _ if below("timelines").is_some() => {
            "`c360-ml features build --full` reads all events again and writes it anew".to_owned()
        }
        (Some(of_model), ..) if of_model.len() > 2 => {
            let (model, version) = (of_model[0], of_model[1]);
            format!(
                "train again, or go back to another version with `c360-ml models rollback {model}`; `c360-ml models adopt {model} {version}` takes in a model.json that was edited on purpose"
            )
        }
        (_, Some(_), Some(as_of)) => {
            format!("`c360-ml features build --as-of {as_of}` writes it anew")
        }
        (_, _, Some(as_of)) => format!("`c360-ml score --as-of {as_of} --force` writes it anew"),
        _ => "a root before it may name another one: see `c360-ml history`".to_owned(),
    };
    format!("take it from a backup; {again}")
}

fn there(greatest: Option<u64>) -> String {
    greatest.map_or("there is none".to_owned(), |number| format!("the greatest is {number}"))
}

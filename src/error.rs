//! The error type of the library. An error says what failed, where, with which value, and what the user can
//! try next.
//!
//! Every variant belongs to one exit code of the command line, so that an orchestrator can tell a broken
//! configuration from data that violate the contract and from a quality gate that was not met.

use std::path::{Path, PathBuf};

use crate::exit::Exit;

/// The result type of every fallible function of the library.
pub type Result<T> = std::result::Result<T, Error>;

/// An error that a module declares for what it works on, as an enum with the values of each case.
pub trait Problem: std::error::Error + Send + Sync + 'static {
    /// The exit status of a run that ends with the error.
    fn exit(&self) -> Exit;

    /// What the user can try next, if there is something.
    fn hint(&self) -> Option<String>;
}

/// A [`Problem`] of any module.
#[derive(Debug)]
pub struct AnyProblem(Box<dyn Problem>);

impl std::fmt::Display for AnyProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for AnyProblem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl<P: Problem> From<P> for Error {
    fn from(problem: P) -> Self {
        Self::Problem(AnyProblem(Box::new(problem)))
    }
}

/// An error with enough context to act on: its message names the file, the column, the value and the row.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error that a module has declared. The module decides on the exit code.
    #[error(transparent)]
    Problem(AnyProblem),
    /// A setting has a value that it cannot have. Exit code 2.
    #[error("{place}: {setting} = {value}, but it must be {required}")]
    Setting { place: String, setting: String, value: String, required: String, example: String },
    /// A name is declared twice. Exit code 2.
    #[error("{place}: there is already a {noun} `{name}`")]
    Duplicate { place: String, noun: &'static str, name: String },
    /// A name that does not exist where it is used. Exit code 2.
    #[error("{place}: unknown {noun} `{name}`")]
    UnknownName { place: String, noun: &'static str, name: String, valid: Vec<String> },
    /// Another run holds the store. Exit code 5.
    #[error("the store {path} is held by another run: {holder}")]
    Locked { path: PathBuf, holder: String },
    /// A file that cannot be read or written. Exit code 1.
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// A Parquet file that cannot be decoded. Exit code 3.
    #[error("{path} is not a readable Parquet file")]
    Parquet { path: PathBuf, source: parquet::errors::ParquetError },
    /// A server of another program cannot be reached or refuses a request. Exit code 1.
    #[error("{service}: {message}")]
    Service { service: String, message: String, hint: String },
    /// An error in a file of the project, with the line that it is about.
    #[error("{text}")]
    Located { text: String, error: Box<Error> },
    /// A computation of Arrow, Parquet or Polars failed in a way that no input should cause. Exit code 1.
    #[error("{context} failed")]
    Engine { context: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
}

impl Error {
    /// Creates an error for a setting whose value is not what is required, with an example of a valid one.
    pub fn setting(
        place: impl Into<String>,
        setting: impl Into<String>,
        value: impl std::fmt::Display,
        required: impl Into<String>,
        example: impl Into<String>,
    ) -> Self {
        Self::Setting {
            place: place.into(),
            setting: setting.into(),
            value: value.to_string(),
            required: required.into(),
            example: example.into(),
        }
    }

    /// Creates an error for a name that is declared twice.
    pub fn duplicate(
        place: impl Into<String>,
        noun: &'static str,
        name: impl Into<String>,
    ) -> Self {
        Self::Duplicate { place: place.into(), noun, name: name.into() }
    }

    /// Creates an error for a name that is not among the valid names.
    pub fn unknown<S: AsRef<str>>(
        place: impl Into<String>,
        noun: &'static str,
        name: &str,
        valid: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut valid: Vec<String> = valid.into_iter().map(|v| v.as_ref().to_owned()).collect();
        valid.sort();
        valid.dedup();
        Self::UnknownName { place: place.into(), noun, name: name.to_owned(), valid }
    }

    /// Returns a closure for `map_err` on file operations.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Returns a closure for `map_err` on calls of Arrow, Parquet and Polars that fail only because of a
    /// defect.
    pub fn engine<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        context: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Engine { context, source: source.into() }
    }

    /// The causes of the error, the nearest first. A cause that the text before it tells already is left out.
    pub fn causes(&self) -> Vec<String> {
        use std::error::Error as _;
        let error = match self {
            Self::Located { error, .. } => error,
            error => error,
        };
        let mut told = self.to_string();
        let mut causes = Vec::new();
        let mut next = error.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            if !told.contains(&text) {
                causes.push(text.clone());
                told = text;
            }
            next = cause.source();
        }
        causes
    }

    /// The error as JSON: its text, causes, hint and exit code.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "error": self.to_string(),
            "causes": self.causes(),
            "hint": self.hint(),
            "exit_code": self.exit_code(),
        })
    }

    /// Whether the cause is a file or an object that does not exist.
    pub fn is_not_found(&self) -> bool {
        use std::error::Error as _;
        let mut next = self.source();
        while let Some(cause) = next {
            let io = cause.downcast_ref::<std::io::Error>();
            let object = cause.downcast_ref::<object_store::Error>();
            if io.is_some_and(|io| io.kind() == std::io::ErrorKind::NotFound)
                || matches!(object, Some(object_store::Error::NotFound { .. }))
            {
                return true;
            }
            next = cause.source();
        }
        false
    }

    /// The problem of one kind that a module has declared; `None` for another error.
    pub fn problem<P: Problem>(&self) -> Option<&P> {
        match self {
            Self::Problem(AnyProblem(problem)) => {
                let error: &dyn std::error::Error = &**problem;
                error.downcast_ref()
            }
            Self::Located { error, .. } => error.problem(),
            _ => None,
        }
    }

    /// The exit status of a run that ends with this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Problem(problem) => problem.0.exit(),
            Self::Located { error, .. } => error.exit(),
            Self::Setting { .. } | Self::Duplicate { .. } | Self::UnknownName { .. } => {
                Exit::Configuration
            }
            Self::Parquet { .. } => Exit::Contract,
            Self::Locked { .. } => Exit::Locked,
            Self::Io { .. } | Self::Service { .. } | Self::Engine { .. } => Exit::Unexpected,
        }
    }

    /// The exit code of a run that ends with this error.
    pub fn exit_code(&self) -> u8 {
        self.exit().code()
    }

    /// A hint at what the user can try next, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Problem(problem) => problem.0.hint(),
            Self::Located { error, .. } => error.hint(),
            Self::Service { hint, .. } => (!hint.is_empty()).then(|| hint.clone()),
            Self::Setting { example, .. } => (!example.is_empty()).then(|| example.clone()),
            Self::Duplicate { noun, .. } => Some(format!("give each {noun} a name of its own")),
            Self::UnknownName { name, valid, .. } => Some(hint_for_unknown(name, valid)),
            Self::Locked { .. } => {
                Some("wait for that run to end; a lock whose holder has died is taken over".into())
            }
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => Some("check the path, and `project.store`".into()),
                std::io::ErrorKind::PermissionDenied => Some("check who owns the folder".into()),
                std::io::ErrorKind::StorageFull => Some("free some space and run again".into()),
                std::io::ErrorKind::ReadOnlyFilesystem => {
                    Some("set `project.store` to a folder that can be written".into())
                }
                std::io::ErrorKind::NotADirectory | std::io::ErrorKind::AlreadyExists => {
                    Some("there is a file where a folder is needed; check `project.store`".into())
                }
                _ => None,
            },
            Self::Parquet { .. } => {
                Some("is it Parquet? was it cut short while being written? write it again".into())
            }
            Self::Engine { .. } => None,
        }
    }
}

fn hint_for_unknown(name: &str, valid: &[String]) -> String {
    let nearest = valid.iter().min_by_key(|candidate| strsim::levenshtein(name, candidate));
    let list = valid.join(", ");
    match nearest {
        Some(nearest) if strsim::levenshtein(name, nearest) <= name.len().max(3) / 3 => {
            format!("did you mean `{nearest}`? valid: {list}")
        }
        Some(_) => format!("valid: {list}"),
        None => "there are none".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_suggests_the_nearest() {
        let error = Error::unknown("features/a.toml", "column", "amuont", ["amount", "channel"]);
        assert_eq!(error.to_string(), "features/a.toml: unknown column `amuont`");
        assert_eq!(error.hint().unwrap(), "did you mean `amount`? valid: amount, channel");
        assert_eq!(error.exit_code(), 2);
    }
}

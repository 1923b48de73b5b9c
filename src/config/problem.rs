//! What can be wrong with a project as a whole.

use std::path::PathBuf;

use crate::error::Problem;
use crate::exit::Exit;

/// A project or one of its files that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ProjectProblem {
    #[error("there is no c360.toml in {}", folder.display())]
    NoProject { folder: PathBuf },
    #[error("no as-of is given")]
    NoAsOf,
    #[error("{} line {line}: {message}", file.display())]
    Toml { file: PathBuf, line: usize, message: String },
}

impl Problem for ProjectProblem {
    fn exit(&self) -> Exit {
        Exit::Configuration
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoProject { .. } => "go to the project's folder, or name it with --project",
            Self::NoAsOf => "name it: --as-of 2024-07-01, or project.as_of",
            Self::Toml { .. } => "keys are listed in the README's configuration reference",
        };
        Some(hint.to_owned())
    }
}

//! What can be wrong with a project as a whole.

use std::path::PathBuf;

use chrono::NaiveDate;

use super::files::FileKind;
use crate::error::Problem;
use crate::exit::Exit;

/// A project or one of its files that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ProjectProblem {
    #[error("there is no c360.toml in {}", folder.display())]
    NoProject { folder: PathBuf },
    #[error("no as-of is given")]
    NoAsOf { after: Option<NaiveDate> },
    #[error("{} line {line}: {message}", file.display())]
    Toml { file: PathBuf, line: usize, message: String, kind: Option<FileKind> },
}

impl Problem for ProjectProblem {
    fn exit(&self) -> Exit {
        Exit::Configuration
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoProject { .. } => "go to the project's folder, or name it with --project",
            Self::NoAsOf { after: Some(day) } => {
                return Some(format!(
                    "the day after the last event is {day}: --as-of {day}, or project.as_of in c360.toml"
                ));
            }
            Self::NoAsOf { after: None } => {
                "name it: --as-of 2024-07-01, or project.as_of in c360.toml"
            }
            Self::Toml { kind: Some(kind), .. } => {
                let kind = kind.name();
                return Some(format!(
                    "`c360-ml schema --of {kind}` prints all settings of this file, and the reference of settings describes them"
                ));
            }
            Self::Toml { kind: None, .. } => {
                "the reference of settings in the documentation describes every file"
            }
        };
        Some(hint.to_owned())
    }
}

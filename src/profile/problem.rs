//! What can be wrong with writing to the profile.

use crate::error::Problem;
use crate::exit::Exit;

/// A wrong setting of the write-back, or a profile that would lose what it knows.
#[derive(Debug, thiserror::Error)]
pub enum ProfileProblem {
    #[error("{place}: {feature} is not a count")]
    NotACount { place: String, feature: String },
    #[error(
        "recomputing {field} would lose history for {lost} of {known} customers (a counter falls or a first time moves later)"
    )]
    LostHistory { field: String, lost: u64, known: u64 },
}

impl Problem for ProfileProblem {
    fn exit(&self) -> Exit {
        match self {
            Self::NotACount { .. } => Exit::Configuration,
            Self::LostHistory { .. } => Exit::Contract,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotACount { .. } => "name a feature with op = \"count\"",
            Self::LostHistory { .. } => {
                "the event log does not reach back to its beginning: set writeback.derived to keep or fill_missing"
            }
        };
        Some(hint.to_owned())
    }
}

//! What can be wrong with the rules of segments, beyond a single setting or name.

use crate::error::Problem;
use crate::exit::Exit;
use crate::expression::Type;
use crate::time::Duration;

/// Rules that contradict each other or the project, or that cannot have members.
#[derive(Debug, thiserror::Error)]
pub enum SegmentProblem {
    #[error("{file}: segment \"{segment}\" has the name of a feature, score or threshold")]
    SegmentIsColumn { file: String, segment: String },
    #[error("{file}: the threshold {threshold} has the name of a feature or score")]
    ThresholdIsColumn { file: String, threshold: String },
    #[error("features/{view}.toml: {feature} is the name of a score")]
    FeatureIsScore { view: String, feature: String },
    #[error("{file}: no rule uses the threshold {threshold}")]
    UnusedThreshold { file: String, threshold: String },
    #[error("{place} expires after {expires}, before its min_dwell of {min_dwell} has ended")]
    ExpiresBeforeDwell { place: String, expires: Duration, min_dwell: Duration },
    #[error("{place} requires consent, but the profile has neither {}", columns.join(" nor "))]
    NoConsent { place: String, columns: Vec<&'static str> },
    #[error("{place} can have no members: no customer can meet `{condition}`")]
    Impossible { place: String, condition: String },
    #[error(
        "{place} can have no members: {} of its group come before it and hold wherever it does",
        quoted(rivals)
    )]
    PreemptedInGroup { place: String, rivals: Vec<String> },
    #[error(
        "{place} can be nobody's primary segment: {} come before it and hold wherever it does",
        quoted(rivals)
    )]
    PreemptedAsPrimary { place: String, rivals: Vec<String> },
    #[error("{place} does not say which segments it expects")]
    ExampleWithoutResult { place: String },
    #[error("{place}: {column} = {value} is not a {}", ty.name())]
    ExampleValue { place: String, column: String, value: String, ty: Type },
}

/// Lists names in quotes.
fn quoted(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    quoted.join(", ")
}

impl Problem for SegmentProblem {
    fn exit(&self) -> Exit {
        Exit::Configuration
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::SegmentIsColumn { .. } => {
                "rename it; rules after it may name it, and must know which of the two is meant"
            }
            Self::ThresholdIsColumn { .. } => "rename the threshold",
            Self::FeatureIsScore { .. } => {
                "rename the feature; rules must know which of the two is meant"
            }
            Self::UnusedThreshold { .. } => "name it in an enter or stay, or remove it",
            Self::ExpiresBeforeDwell { .. } => "make min_dwell shorter, or expires longer",
            Self::NoConsent { .. } => {
                "nobody could be in it; map one of these columns in c360.toml"
            }
            Self::Impossible { .. } => "its conditions exclude each other",
            Self::PreemptedInGroup { .. } | Self::PreemptedAsPrimary { .. } => {
                "move it before them, or narrow them"
            }
            Self::ExampleWithoutResult { .. } => "add primary = \"…\" or segments = [\"…\"]",
            Self::ExampleValue { .. } => {
                "give a value of the column's type, or leave the column out for null"
            }
        };
        Some(hint.to_owned())
    }
}

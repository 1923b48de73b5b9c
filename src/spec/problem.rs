//! What can be wrong with the spec of a model, beyond a single setting or name.

use crate::error::Problem;
use crate::exit::Exit;

/// A spec whose settings contradict each other, the data or another spec.
#[derive(Debug, thiserror::Error)]
pub enum SpecProblem {
    #[error("{file}: a project has one model of this kind")]
    SecondOfKind { file: String },
    #[error("{file}: another model writes {field}")]
    FieldOfTwoModels { file: String, field: String },
    #[error("{place}: {column} is no input of {model}")]
    NotAnInput { place: String, column: String, model: String },
    /// Two settings belong together, and one of them is missing or zero.
    #[error("{place} needs both {first} and {second}, or neither")]
    HalfAPair { place: String, first: &'static str, second: &'static str, example: &'static str },
    #[error("{file}: eligible needs either `where` or `within`")]
    Eligible { file: String },
    #[error(
        "{file}: inputs.attributes: {attribute} changes with customer behaviour; its value today was not known in the past"
    )]
    MovingAttribute { file: String, attribute: String },
    #[error("{file}: inputs.attributes: {attribute} is sensitive")]
    SensitiveAttribute { file: String, attribute: String },
    #[error("{file}: inputs.attributes: the values of {attribute} are no levels")]
    AttributeWithoutLevels { file: String, attribute: String },
    #[error("{file}: inputs.interactions: {first} x {second} occurs more than once")]
    RepeatedInteraction { file: String, first: String, second: String },
    #[error("{file}: no numeric feature is left as an input")]
    NoInputs { file: String },
    #[error("{file}: cohort is first_channel, and events have no channel")]
    NoChannel { file: String },
}

impl Problem for SpecProblem {
    fn exit(&self) -> Exit {
        Exit::Configuration
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::SecondOfKind { .. } => "remove the other file",
            Self::FieldOfTwoModels { .. } => "only one model or feature can write a field",
            Self::NotAnInput { .. } => "name a classifier that uses it, or leave out `against`",
            Self::HalfAPair { example, .. } => example,
            Self::Eligible { .. } => "eligible = { within = \"auto\" }",
            Self::MovingAttribute { .. } => {
                "only static attributes can be inputs; declare a feature over events instead"
            }
            Self::SensitiveAttribute { .. } => {
                "if it is meant to be an input, name it in inputs.allow_sensitive too"
            }
            Self::AttributeWithoutLevels { .. } => "text, whole numbers and booleans can be levels",
            Self::RepeatedInteraction { .. } => "name each pair once, in either order",
            Self::NoInputs { .. } => "name views that have some",
            Self::NoChannel { .. } => "map sources.events.columns.channel",
        };
        Some(hint.to_owned())
    }
}

//! What can be wrong with feature views, with the events that features are computed from, and with stored
//! snapshots.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::Problem;
use crate::exit::Exit;
use crate::expression::Type;

/// A wrong feature view, a violation of the contract of the events, or an unfit snapshot.
#[derive(Debug, thiserror::Error)]
pub enum FeatureProblem {
    #[error("{file}: the name `{name}` is taken")]
    ReservedName { file: String, name: String },
    #[error("{file}: `{name}` is not a name")]
    NotAName { file: String, name: String },
    #[error("{file}: the column {column} is already in view {view}")]
    ColumnOfTwoViews { file: String, column: String, view: String },
    #[error("{place}: derived features depend on each other in a cycle: {}", features.join(", "))]
    Cycle { place: String, features: Vec<String> },
    #[error("features: {feature} writes = \"{field}\", which is {field_type}, but the feature is {}", ty.name())]
    FieldType { feature: String, field: String, field_type: String, ty: Type },
    #[error("features: both {first} and {second} write {field}")]
    FieldOfTwoFeatures { field: String, first: String, second: String },
    #[error("{place}: half_life is required for decayed_sum and not allowed for other operations")]
    HalfLife { place: String },
    #[error("{place}: needs an input")]
    NoInput { place: String },
    #[error("{place}: does not take an input of type {}", ty.name())]
    InputType { place: String, ty: Type },
    #[error("{place}: names no columns")]
    ExpectationOfNothing { place: String },
    #[error("{place}: min {min} is above max {max}")]
    Limits { place: String, min: String, max: String },
    #[error("{place}: max_psi needs numbers, and the column is {}", ty.name())]
    PsiType { place: String, ty: Type },
    #[error("{place}: against belongs to max_psi")]
    AgainstWithoutPsi { place: String },
    #[error("{place}: expects nothing")]
    EmptyExpectation { place: String },
    #[error("{rejected} of {events} events cannot be used ({}), {most} of them in {}", counts(reasons), file.display())]
    UnusableEvents {
        rejected: u64,
        events: u64,
        reasons: BTreeMap<String, u64>,
        /// The file that has the most of them.
        file: PathBuf,
        most: u64,
    },
    #[error("{events} events belong to customers that are not in the profile")]
    Orphans { events: u64 },
    #[error("the sum {column} of customer {customer} is {sum}, too large to hold")]
    Overflow { column: String, customer: String, sum: i128 },
    #[error("a snapshot has no {column} in microseconds")]
    NotASnapshot { column: String },
    #[error("some snapshots have no {column}, or have it in another type")]
    ChangedSnapshots { column: String },
    #[error("the entities already have a column {column}")]
    EntityColumn { column: String },
}

/// Lists reasons with their counts.
fn counts(reasons: &BTreeMap<String, u64>) -> String {
    let counts: Vec<String> = reasons.iter().map(|(reason, n)| format!("{reason}: {n}")).collect();
    counts.join(", ")
}

impl Problem for FeatureProblem {
    fn exit(&self) -> Exit {
        match self {
            Self::UnusableEvents { .. }
            | Self::Orphans { .. }
            | Self::Overflow { .. }
            | Self::NotASnapshot { .. }
            | Self::ChangedSnapshots { .. } => Exit::Contract,
            _ => Exit::Configuration,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::ReservedName { .. } => {
                "keys, timestamps and names with two underscores are the job's own"
            }
            Self::NotAName { .. } => {
                "names are lower case letters, digits and underscores, and begin with a letter"
            }
            Self::ColumnOfTwoViews { .. } => "column names are shared by all views; rename one",
            Self::Cycle { .. } => {
                "a derived feature may use only features that can be computed before it"
            }
            Self::FieldType { .. } => "convert it with a derived feature, cast(… as …)",
            Self::FieldOfTwoFeatures { .. } => {
                "only one model or feature can write a field; give `writes` to a feature of one window"
            }
            Self::HalfLife { .. } => "half_life = \"14d\"",
            Self::NoInput { .. } => "input = \"amount\"",
            Self::InputType { .. } => "leave the input out, or convert it",
            Self::ExpectationOfNothing { .. } => "columns = [\"spend_30d\"]",
            Self::Limits { .. } => "exchange them",
            Self::PsiType { .. } => "expect not_null, max_null_share or limits of it",
            Self::AgainstWithoutPsi { .. } => "max_psi = 0.2",
            Self::EmptyExpectation { .. } => "write not_null, min, max, max_null_share or max_psi",
            Self::UnusableEvents { .. } => {
                "run `c360-ml validate`, or raise sources.events.max_rejected_share"
            }
            Self::Orphans { .. } => "set sources.events.orphans to skip or create",
            Self::Overflow { .. } => {
                "an amount is wrong, or project.money_scale is too fine for this currency"
            }
            Self::NotASnapshot { .. } => "it was not written by `features build` or `score`",
            Self::ChangedSnapshots { .. } => {
                "its definition has changed since; build these as-ofs again"
            }
            Self::EntityColumn { .. } => {
                "rename it, or leave out the view that has a feature of this name"
            }
        };
        Some(hint.to_owned())
    }
}

//! A feature view as its TOML file says it, unchecked.

use serde::{Deserialize, Serialize};

use crate::time::{Duration, Window};

/// What an aggregation computes over the events of one customer in one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Events, or non-null inputs; 0 where there are none.
    Count,
    /// Distinct non-null inputs, exact; 0 where there are none.
    CountDistinct,
    /// The sum of the inputs; 0 where there are none.
    Sum,
    /// The sum of the inputs of the first active day; 0 where there are none.
    FirstDaySum,
    /// The arithmetic mean, a double in major units for money; null where there are none.
    Mean,
    /// The least input.
    Min,
    /// The greatest input.
    Max,
    /// The sample standard deviation (n - 1), in major units for money; null below two inputs.
    Std,
    /// The input of the earliest event, by (event_ts, event_id).
    First,
    /// The input of the latest event, by (event_ts, event_id).
    Last,
    /// Days of 24 hours from the earliest event to the as-of.
    DaysSinceFirst,
    /// Days of 24 hours from the latest event to the as-of.
    DaysSinceLast,
    /// Distinct calendar days of the project's zone; 0 where there are none.
    ActiveDays,
    /// The mean number of days between consecutive active days; null below two of them.
    MeanGapDays,
    /// The median number of days between consecutive active days; null below two of them.
    MedianGapDays,
    /// The greatest number of days between consecutive active days; null below two of them.
    MaxGapDays,
    /// The sample standard deviation (n - 1) of the days between consecutive active days; null below
    /// three of them.
    StdGapDays,
    /// The sum of input x 2^(-age / half_life), input 1 where none is named; 0 without events.
    DecayedSum,
}

impl Op {
    /// Whether it looks at calendar days of the project's zone.
    pub fn counts_days(self) -> bool {
        let gaps = [Self::MeanGapDays, Self::MedianGapDays, Self::MaxGapDays, Self::StdGapDays];
        self == Self::ActiveDays || self == Self::FirstDaySum || gaps.contains(&self)
    }

    /// The bits of its value without events; None for null. Zero is the same bits in every type.
    pub fn empty(self) -> Option<u64> {
        match self {
            Self::Count
            | Self::CountDistinct
            | Self::Sum
            | Self::FirstDaySum
            | Self::ActiveDays
            | Self::DecayedSum => Some(0),
            Self::Mean
            | Self::Min
            | Self::Max
            | Self::Std
            | Self::First
            | Self::Last
            | Self::DaysSinceFirst
            | Self::DaysSinceLast
            | Self::MeanGapDays
            | Self::MedianGapDays
            | Self::MaxGapDays
            | Self::StdGapDays => None,
        }
    }
}

/// One `[[feature]]` table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSpec {
    /// The stem of its column names.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// An expression over the source's columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Which events count.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// One column per window, named `name_window`; without windows one over the lifetime, `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// For `decayed_sum`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_life: Option<Duration>,
    /// The profile field that this feature fills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<String>,
    /// For the reader.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// One `[[derived]]` table: an expression over feature columns.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DerivedSpec {
    /// The column's name.
    pub name: String,
    /// An expression over the columns of any view.
    pub expr: String,
    /// The profile field that this feature fills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<String>,
    /// For the reader.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A file of `features/`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewSpec {
    /// The view's name, also that of its folder in the store.
    pub name: String,
    /// The source it aggregates; `events`.
    pub source: String,
    /// Who answers for it.
    #[serde(default)]
    pub owner: String,
    /// What it is about.
    #[serde(default)]
    pub description: String,
    /// Aggregations over events.
    #[serde(default, rename = "feature")]
    pub features: Vec<FeatureSpec>,
    /// Expressions over features.
    #[serde(default)]
    pub derived: Vec<DerivedSpec>,
    /// What must hold of every snapshot.
    #[serde(default, rename = "expect")]
    pub expectations: Vec<ExpectationSpec>,
}

/// One `[[expect]]` table: what must hold of some columns of a snapshot, else it is not published.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectationSpec {
    /// Columns of the view, or names of its features, which stand for all their windows.
    pub columns: Vec<String>,
    /// Whether every customer has a value.
    #[serde(default)]
    pub not_null: bool,
    /// No value is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<LimitSpec>,
    /// No value is greater.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<LimitSpec>,
    /// The greatest share of customers without a value, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_null_share: Option<f64>,
    /// The greatest population stability index, where it is also more than chance explains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_psi: Option<f64>,
    /// What the index is measured against: `previous`, the snapshot before, or a classifier's name, what its
    /// champion was trained on.
    #[serde(default = "previous")]
    pub against: String,
}

/// [`ExpectationSpec::against`] for the snapshot before.
pub const PREVIOUS: &str = "previous";

fn previous() -> String {
    PREVIOUS.to_owned()
}

/// A least or greatest value: a number, in major units for money, or an instant or a date.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LimitSpec {
    /// Of a numeric column.
    Number(f64),
    /// Of a column of instants or dates.
    Text(String),
    /// The same as TOML writes it.
    Time(toml::value::Datetime),
    /// What is no limit.
    Other(toml::Value),
}

impl std::fmt::Display for LimitSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "\"{text}\""),
            Self::Time(time) => write!(f, "{time}"),
            Self::Other(value) => write!(f, "{value}"),
        }
    }
}

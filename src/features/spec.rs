//! The unchecked spec of a feature view, as its TOML file declares it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::{Duration, Window};

/// The operation of an aggregation over the events of one customer in one window.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// The number of events, or of non-null inputs if there is an input. The value without events is 0.
    Count,
    /// The exact number of distinct non-null inputs. The value without inputs is 0.
    CountDistinct,
    /// The sum of the inputs. The value without inputs is 0.
    Sum,
    /// The sum of the inputs on the first active day. The value without inputs is 0.
    FirstDaySum,
    /// The arithmetic mean of the inputs as a double, in major units for money. The value without inputs is
    /// null.
    Mean,
    /// The minimum of the inputs. The value without inputs is null.
    Min,
    /// The maximum of the inputs. The value without inputs is null.
    Max,
    /// The sample standard deviation (n - 1) of the inputs, in major units for money. The value is null with
    /// fewer than two inputs.
    Std,
    /// The input of the earliest event, by (event_ts, event_id). The value without inputs is null.
    First,
    /// The input of the latest event, by (event_ts, event_id). The value without inputs is null.
    Last,
    /// The number of days of 24 hours from the earliest event to the as-of. The value without events is null.
    DaysSinceFirst,
    /// The number of days of 24 hours from the latest event to the as-of. The value without events is null.
    DaysSinceLast,
    /// The number of distinct calendar days with events, in the time zone of the project. The value without
    /// events is 0.
    ActiveDays,
    /// The mean number of days between consecutive active days. The value is null with fewer than two active
    /// days.
    MeanGapDays,
    /// The median number of days between consecutive active days. The value is null with fewer than two
    /// active days.
    MedianGapDays,
    /// The maximum number of days between consecutive active days. The value is null with fewer than two
    /// active days.
    MaxGapDays,
    /// The sample standard deviation (n - 1) of the days between consecutive active days. The value is null
    /// with fewer than three active days.
    StdGapDays,
    /// The sum of input x 2^(-age / half_life). The input is 1 if none is declared. The value without inputs
    /// is 0.
    DecayedSum,
}

impl Op {
    /// Whether the operation uses calendar days in the time zone of the project.
    pub fn counts_days(self) -> bool {
        let gaps = [Self::MeanGapDays, Self::MedianGapDays, Self::MaxGapDays, Self::StdGapDays];
        self == Self::ActiveDays || self == Self::FirstDaySum || gaps.contains(&self)
    }

    /// The bits of the value without events, or None for null. Zero has the same bits in every type.
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

/// A `[[feature]]` table, which declares an aggregation.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureSpec {
    /// The name of the feature, which its column names begin with.
    pub name: String,
    /// The operation of the aggregation.
    pub op: Op,
    /// The input: an expression over the columns of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The condition that selects the events.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// The windows. There is one column per window, named `name_window`. Without windows there is one column
    /// over the lifetime, named `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// The half-life of the weights of `decayed_sum`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_life: Option<Duration>,
    /// The profile field that this feature fills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<String>,
    /// The description for readers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A `[[derived]]` table, which declares an expression over feature columns.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DerivedSpec {
    /// The name of the column.
    pub name: String,
    /// The expression over the columns of any view.
    pub expr: String,
    /// The profile field that this feature fills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<String>,
    /// The description for readers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A TOML file of the folder `features/`, which declares a view.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ViewSpec {
    /// The name of the view, which is also the name of its folder in the store.
    pub name: String,
    /// The source that is aggregated, always `events`.
    pub source: String,
    /// The person or team responsible for the view.
    #[serde(default)]
    pub owner: String,
    /// The description of the view.
    #[serde(default)]
    pub description: String,
    /// The aggregations over events.
    #[serde(default, rename = "feature")]
    pub features: Vec<FeatureSpec>,
    /// The derived features.
    #[serde(default)]
    pub derived: Vec<DerivedSpec>,
    /// The expectations that every snapshot of the view must meet.
    #[serde(default, rename = "expect")]
    pub expectations: Vec<ExpectationSpec>,
}

/// An `[[expect]]` table, which declares conditions for columns of a snapshot. A snapshot that does not meet
/// them is not published.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpectationSpec {
    /// The columns of the view, or the names of its features, which stand for all their windows.
    pub columns: Vec<String>,
    /// Whether every customer must have a value.
    #[serde(default)]
    pub not_null: bool,
    /// The minimum value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<LimitSpec>,
    /// The maximum value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<LimitSpec>,
    /// The maximum share of customers without a value, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_null_share: Option<f64>,
    /// The maximum population stability index. A higher index breaks the expectation only if it is also
    /// larger than chance explains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_psi: Option<f64>,
    /// The data that the index compares with: `previous` for the previous snapshot, or the name of a
    /// classifier for the rows that its champion was trained on.
    #[serde(default = "previous")]
    pub against: String,
}

/// The value of [`ExpectationSpec::against`] for the previous snapshot.
pub const PREVIOUS: &str = "previous";

fn previous() -> String {
    PREVIOUS.to_owned()
}

/// A minimum or maximum value: a number (in major units for money), an instant, or a date.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LimitSpec {
    /// The limit of a numeric column.
    Number(f64),
    /// The limit of a column of instants or dates, as a string.
    Text(String),
    /// The limit of a column of instants or dates, as a TOML date or time.
    #[schemars(skip)]
    Time(toml::value::Datetime),
    /// Any other TOML value, which is not a valid limit.
    #[schemars(skip)]
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

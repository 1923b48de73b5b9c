//! The spec of RFM scores, with what they read from the events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CardSpec;
use crate::error::Result;
use crate::expression::check::check_as;
use crate::expression::{Expression, Type};
use crate::features::catalog::Aggregation;
use crate::features::spec::Op;
use crate::sources::SourcePlan;
use crate::time::{Duration, Window};

/// The spec of a model of `kind = "rfm"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RfmSpec {
    /// The name of the model.
    pub name: String,
    /// A description for readers.
    #[serde(default)]
    pub description: String,
    /// The predicate for the purchases that count.
    #[serde(rename = "where", default = "default_condition")]
    pub condition: String,
    /// The predicate for the refunds that reduce the monetary value.
    #[serde(default = "default_refunds")]
    pub refunds: String,
    /// The length of time before the as-of from which frequency and monetary value count, or `lifetime`.
    #[serde(default = "default_window")]
    pub window: Window,
    /// The owner, the intended use and the limits for the model's report.
    #[serde(default, skip_serializing_if = "CardSpec::is_empty")]
    pub card: CardSpec,
}

fn default_condition() -> String {
    "event_type = 'purchase' and amount > 0".to_owned()
}

fn default_refunds() -> String {
    "event_type = 'refund'".to_owned()
}

fn default_window() -> Window {
    Window::Trailing(Duration::days(365))
}

/// The columns that [`crate::artifact::rfm`] reads, in this order.
pub const RFM_COLUMNS: [&str; 4] =
    ["rfm__last_purchase_at", "rfm__purchase_days", "rfm__spend", "rfm__refunds"];

pub(super) fn aggregations(
    file: &str,
    spec: &RfmSpec,
    events: &SourcePlan,
) -> Result<Vec<Aggregation>> {
    let columns = events.columns();
    let place = |key: &str| format!("{file}: {key}");
    let bought = check_as(&spec.condition, Type::Boolean, &columns, &place("where"))?;
    let refunded = check_as(&spec.refunds, Type::Boolean, &columns, &place("refunds"))?;
    let amount = check_as("abs(amount)", Type::Money, &columns, file)?;
    let at = Expression::column("event_ts", Type::Timestamp);
    let [recency, days, spend, refunds] = RFM_COLUMNS;
    let make = |column: &str, op, input, condition: &Expression, window, ty| Aggregation {
        column: column.to_owned(),
        op,
        input,
        condition: Some(condition.clone()),
        window,
        half_life: None,
        ty,
    };
    Ok(vec![
        make(recency, Op::Max, Some(at), &bought, Window::Lifetime, Type::Timestamp),
        make(days, Op::ActiveDays, None, &bought, spec.window, Type::Integer),
        make(spend, Op::Sum, Some(amount.clone()), &bought, spec.window, Type::Money),
        make(refunds, Op::Sum, Some(amount), &refunded, spec.window, Type::Money),
    ])
}

//! The spec of the engagement score, with what it reads from the events.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CardSpec, check_weights, kinds_sql, weight_sql};
use crate::error::{Error, Result};
use crate::expression::check::{check, check_as};
use crate::expression::{Expression, Node, Type, Value};
use crate::features::catalog::Aggregation;
use crate::features::spec::Op;
use crate::models::engagement::Composite;
use crate::schema::{EVENT_TYPES, usual_weight};
use crate::sources::SourcePlan;
use crate::time::{Duration, Window};

/// The spec of a model of `kind = "engagement"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EngagementSpec {
    /// The name of the model.
    pub name: String,
    /// A description for readers.
    #[serde(default)]
    pub description: String,
    /// The weight of each event type. Events of other types are ignored. By default, the standard types have the
    /// weights in the table of event types.
    #[serde(default = "default_weights")]
    pub weights: BTreeMap<String, f64>,
    /// The age at which the weight of an event is halved.
    #[serde(default = "default_half_life")]
    pub half_life: Duration,
    /// The length of time before the as-of from which events count, or `lifetime`.
    #[serde(default = "default_window")]
    pub window: Window,
    /// The weights of the parts of the score.
    #[serde(default)]
    pub composite: Composite,
    /// The owner, the intended use and the limits for the model's report.
    #[serde(default, skip_serializing_if = "CardSpec::is_empty")]
    pub card: CardSpec,
}

fn default_weights() -> BTreeMap<String, f64> {
    let weights = EVENT_TYPES.iter().map(|name| Some(((*name).to_owned(), usual_weight(name)?)));
    weights.flatten().collect()
}

fn default_half_life() -> Duration {
    Duration::days(14)
}

fn default_window() -> Window {
    Window::Trailing(Duration::days(180))
}

/// The columns that [`crate::models::engagement`] reads, in this order.
pub const ENGAGEMENT_COLUMNS: [&str; 3] =
    ["engagement__activity", "engagement__active_days", "engagement__channels"];

pub(super) fn aggregations(
    file: &str,
    spec: &EngagementSpec,
    events: &SourcePlan,
) -> Result<Vec<Aggregation>> {
    check_weights(file, &spec.weights, events)?;
    if spec.half_life.0 == 0 {
        let (setting, example) = ("half_life", "half_life = \"14d\"");
        return Err(Error::setting(file, setting, spec.half_life, "longer than 0", example));
    }
    let Composite { activity, active_days, channels } = spec.composite;
    let shares = [activity, active_days, channels];
    let sum: f64 = shares.iter().sum();
    if shares.iter().any(|share| !(0.0..=1.0).contains(share)) || (sum - 1.0).abs() > 1e-9 {
        return Err(Error::setting(
            file,
            "composite",
            format!("{shares:?}"),
            "three shares whose sum is 1",
            "composite = { activity = 0.5, active_days = 0.3, channels = 0.2 }",
        ));
    }
    let columns = events.columns();
    let weight = check_as(&weight_sql(&spec.weights), Type::Double, &columns, file)?;
    let condition = check(&kinds_sql(&spec.weights), &columns, file)?;
    let four_weeks = Window::Trailing(Duration::days(28));
    let [activity, active_days, channels] = ENGAGEMENT_COLUMNS;
    let make = |column: &str, op, input, window, half_life, ty| Aggregation {
        column: column.to_owned(),
        op,
        input,
        condition: Some(condition.clone()),
        window,
        half_life,
        ty,
    };
    let half_life = Some(spec.half_life);
    let mut list = vec![
        make(activity, Op::DecayedSum, Some(weight), spec.window, half_life, Type::Double),
        make(active_days, Op::ActiveDays, None, four_weeks, None, Type::Integer),
    ];
    // Events without a channel column count as one channel.
    let channel = match columns.get("channel") {
        Some(ty) => Expression::column("channel", ty),
        None => Expression { node: Node::Literal(Value::Integer(1)), ty: Type::Integer },
    };
    list.push(make(channels, Op::CountDistinct, Some(channel), four_weeks, None, Type::Integer));
    Ok(list)
}

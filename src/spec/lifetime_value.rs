//! The spec of lifetime value, with what it reads from the events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CardSpec, SpecProblem};
use crate::error::{Error, Result};
use crate::expression::check::check_as;
use crate::expression::{Expression, Type};
use crate::features::catalog::{Aggregation, Catalog, Definition};
use crate::features::plan::FeaturePlan;
use crate::features::spec::Op;
use crate::models::lifetime_value::Family;
use crate::sources::SourcePlan;
use crate::time::{Duration, Window};

/// The method by which lifetime value is computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LifetimeValueMethod {
    /// Revenue net of refunds to date, without a prediction.
    Historic,
    /// Future purchases are predicted by BG/NBD.
    BgNbd,
    /// Future purchases are predicted by MBG/NBD.
    #[default]
    MbgNbd,
    /// Future purchases are predicted by Pareto/NBD.
    ParetoNbd,
}

impl LifetimeValueMethod {
    /// The family of the model of future purchases; `None` if none are predicted.
    pub fn family(self) -> Option<Family> {
        match self {
            Self::Historic => None,
            Self::BgNbd => Some(Family::BgNbd),
            Self::MbgNbd => Some(Family::MbgNbd),
            Self::ParetoNbd => Some(Family::ParetoNbd),
        }
    }
}

/// The grouping of customers into cohorts that are fitted separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cohort {
    /// Cohorts by the channel of the first purchase.
    FirstChannel,
    /// Cohorts by the calendar month of the first purchase.
    FirstMonth,
}

/// The spec of a model of `kind = "lifetime_value"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LifetimeValueSpec {
    /// The name of the model.
    pub name: String,
    /// A description for readers.
    #[serde(default)]
    pub description: String,
    /// The method by which lifetime value is computed.
    #[serde(default)]
    pub method: LifetimeValueMethod,
    /// The revenue to date, as an expression over features.
    pub revenue: String,
    /// The refunds to date, as an expression over features.
    pub refunds: String,
    /// The predicate for the purchases that count, over events.
    #[serde(rename = "where", default = "default_condition")]
    pub condition: String,
    /// The value of a purchase, as an expression over events.
    #[serde(default = "default_value")]
    pub value: String,
    /// The length of time ahead for which purchases are predicted.
    #[serde(default = "default_horizon")]
    pub horizon: Duration,
    /// The yearly discount rate. A value in one year is worth 1 / (1 + rate) now, and the discount
    /// changes by the month.
    #[serde(default = "default_discount_rate")]
    pub discount_rate: f64,
    /// The weight of the hurdle model in the prediction, from 0 (the method alone) to 1 (the hurdle model alone). By
    /// default it is chosen by what customers did after a past snapshot.
    #[serde(default)]
    pub hurdle: Option<f64>,
    /// The grouping into cohorts that are fitted separately; by default all customers are fitted
    /// together.
    #[serde(default)]
    pub cohort: Option<Cohort>,
    /// The minimum number of customers who bought again. With fewer, nothing is fitted.
    #[serde(default = "default_repeaters")]
    pub minimum_repeaters: usize,
    /// The maximum number of buyers that the model is fitted on, chosen by a hash of the key.
    #[serde(default = "default_customers")]
    pub max_customers: usize,
    /// The owner, the intended use and the limits for the model's report.
    #[serde(default, skip_serializing_if = "CardSpec::is_empty")]
    pub card: CardSpec,
}

fn default_condition() -> String {
    "event_type = 'purchase' and amount > 0".to_owned()
}

fn default_value() -> String {
    "amount".to_owned()
}

fn default_horizon() -> Duration {
    Duration::days(365)
}

fn default_discount_rate() -> f64 {
    0.1
}

fn default_repeaters() -> usize {
    100
}

fn default_customers() -> usize {
    1_000_000
}

/// A checked lifetime value model.
#[derive(Debug, Clone)]
pub struct LifetimeValue {
    /// The spec as the file has it.
    pub spec: LifetimeValueSpec,
    /// The revenue to date, of type money, over features.
    pub revenue: Expression,
    /// The refunds to date, of type money, over features.
    pub refunds: Expression,
    /// The predicate for the purchases that count, over event columns.
    pub condition: Expression,
    /// The value of a purchase, of type money, over event columns.
    pub value: Expression,
    /// The features that revenue and refunds depend on and the aggregations over all purchases, in the order
    /// of computation.
    pub definitions: Vec<Definition>,
}

/// The column with the number of calendar days with a purchase.
pub const PURCHASE_DAYS: &str = "lifetime_value__purchase_days";
/// The column with the instant of the first purchase.
pub const FIRST_PURCHASE: &str = "lifetime_value__first_purchase";
/// The column with the instant of the last purchase.
pub const LAST_PURCHASE: &str = "lifetime_value__last_purchase";
/// The column with the spend of all purchases.
pub const SPEND: &str = "lifetime_value__spend";
/// The column with the spend of the purchases on the first day.
pub const FIRST_DAY_SPEND: &str = "lifetime_value__first_day_spend";
/// The column with the channel of the first purchase. It exists only if cohorts are by channel.
pub const FIRST_CHANNEL: &str = "lifetime_value__first_channel";

impl LifetimeValue {
    pub(super) fn check(
        file: &str,
        spec: LifetimeValueSpec,
        catalog: &Catalog,
        events: &SourcePlan,
    ) -> Result<Self> {
        let features = catalog.columns(events.context.scale);
        let columns = events.columns();
        let place = |key: &str| format!("{file}: {key}");
        let revenue = check_as(&spec.revenue, Type::Money, &features, &place("revenue"))?;
        let refunds = check_as(&spec.refunds, Type::Money, &features, &place("refunds"))?;
        let condition = check_as(&spec.condition, Type::Boolean, &columns, &place("where"))?;
        let value = check_as(&spec.value, Type::Money, &columns, &place("value"))?;
        if spec.horizon < Duration::days(1) {
            let example = "horizon = \"365d\"";
            return Err(Error::setting(file, "horizon", spec.horizon, "at least a day", example));
        }
        if !(0.0..=10.0).contains(&spec.discount_rate) {
            let example = "10 % a year is discount_rate = 0.1";
            let required = "between 0 and 10";
            let rate = spec.discount_rate;
            return Err(Error::setting(file, "discount_rate", rate, required, example));
        }
        if let Some(weight) = spec.hurdle.filter(|weight| !(0.0..=1.0).contains(weight)) {
            let example = "the method alone is hurdle = 0.0";
            return Err(Error::setting(file, "hurdle", weight, "between 0 and 1", example));
        }
        let customers = [
            ("minimum_repeaters", spec.minimum_repeaters, 10),
            ("max_customers", spec.max_customers, 1000),
        ];
        if let Some((name, value, least)) = customers.into_iter().find(|c| c.1 < c.2) {
            let hint = "four parameters cannot be estimated from fewer customers";
            return Err(Error::setting(file, name, value, format!("at least {least}"), hint));
        }
        if spec.cohort == Some(Cohort::FirstChannel) && columns.get("channel") != Some(Type::Text) {
            return Err(SpecProblem::NoChannel { file: file.to_owned() }.into());
        }
        let wanted = revenue.columns().into_iter().chain(refunds.columns()).collect();
        let needed = catalog.closure(&wanted).into_iter();
        let mut definitions: Vec<Definition> =
            needed.map(|feature| feature.definition.clone()).collect();
        let mut model = Self { spec, revenue, refunds, condition, value, definitions: Vec::new() };
        definitions.extend(model.aggregations().into_iter().map(Definition::Aggregation));
        model.definitions = definitions;
        Ok(model)
    }

    /// The aggregations over the purchases that count.
    fn aggregations(&self) -> Vec<Aggregation> {
        let time = || Some(Expression::column("event_ts", Type::Timestamp));
        let value = || Some(self.value.clone());
        let mut list = vec![
            self.aggregation(PURCHASE_DAYS, Op::ActiveDays, None, Window::Lifetime, Type::Integer),
            self.aggregation(FIRST_PURCHASE, Op::Min, time(), Window::Lifetime, Type::Timestamp),
            self.aggregation(LAST_PURCHASE, Op::Max, time(), Window::Lifetime, Type::Timestamp),
            self.aggregation(SPEND, Op::Sum, value(), Window::Lifetime, Type::Money),
            self.aggregation(
                FIRST_DAY_SPEND,
                Op::FirstDaySum,
                value(),
                Window::Lifetime,
                Type::Money,
            ),
        ];
        if self.spec.cohort == Some(Cohort::FirstChannel) {
            let channel = Some(Expression::column("channel", Type::Text));
            let window = Window::Lifetime;
            list.push(self.aggregation(FIRST_CHANNEL, Op::First, channel, window, Type::Text));
        }
        list
    }

    /// Builds an aggregation over the purchases that count.
    pub fn aggregation(
        &self,
        column: &str,
        op: Op,
        input: Option<Expression>,
        window: Window,
        ty: Type,
    ) -> Aggregation {
        Aggregation {
            column: column.to_owned(),
            op,
            input,
            condition: Some(self.condition.clone()),
            window,
            half_life: None,
            ty,
        }
    }
}

/// The windows of recent purchases, each as a divisor of the horizon, with the columns of the days with a
/// purchase and of the spend.
pub const RECENT: [(i64, &str, &str); 3] = [
    (1, "lifetime_value__recent_days", "lifetime_value__recent_spend"),
    (2, "lifetime_value__half_days", "lifetime_value__half_spend"),
    (4, "lifetime_value__quarter_days", "lifetime_value__quarter_spend"),
];

impl LifetimeValue {
    /// The features and aggregations that predict the time until `horizon` from a snapshot, in the order of
    /// computation.
    pub fn definitions(&self, horizon: Duration) -> Vec<Definition> {
        let mut definitions = self.definitions.clone();
        for (divisor, days, spend) in RECENT {
            let window = Window::Trailing(Duration(horizon.0 / divisor));
            let value = Some(self.value.clone());
            let days = self.aggregation(days, Op::ActiveDays, None, window, Type::Integer);
            let spend = self.aggregation(spend, Op::Sum, value, window, Type::Money);
            definitions.extend([days, spend].map(Definition::Aggregation));
        }
        definitions
    }

    /// Adds to a plan what predicts the time until `horizon` from a snapshot.
    pub fn plan(&self, plan: FeaturePlan, horizon: Duration) -> FeaturePlan {
        read_by(&self.definitions(horizon), [&self.revenue, &self.refunds], plan)
    }
}

/// Adds all definitions to a plan. Its outputs are the columns that purchase histories are read from, and
/// the columns of the expressions.
pub fn read_by(
    definitions: &[Definition],
    expressions: [&Expression; 2],
    mut plan: FeaturePlan,
) -> FeaturePlan {
    definitions.iter().for_each(|definition| plan.define(definition));
    let own = definitions.iter().map(Definition::column);
    let own = own.filter(|column| column.starts_with("lifetime_value__"));
    for column in own.chain(expressions.into_iter().flat_map(Expression::columns)) {
        if !plan.outputs.iter().any(|output| output == column) {
            plan.outputs.push(column.to_owned());
        }
    }
    plan
}

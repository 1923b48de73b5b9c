//! The spec of lifetime value.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::expression::check::check_as;
use crate::expression::{Expression, Type};
use crate::features::catalog::Catalog;
use crate::sources::SourcePlan;

/// How lifetime value is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LifetimeValueMethod {
    /// Revenue net of refunds to date; nothing is predicted.
    Historic,
}

/// A model of `kind = "lifetime_value"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifetimeValueSpec {
    /// The model's name.
    pub name: String,
    /// For the reader.
    #[serde(default)]
    pub description: String,
    /// How it is computed.
    pub method: LifetimeValueMethod,
    /// Revenue to date, over features.
    pub revenue: String,
    /// Refunds to date, over features.
    pub refunds: String,
}

/// A checked lifetime value model.
#[derive(Debug, Clone)]
pub struct LifetimeValue {
    /// As the file says.
    pub spec: LifetimeValueSpec,
    /// Money, over features.
    pub revenue: Expression,
    /// Money, over features.
    pub refunds: Expression,
}

impl LifetimeValue {
    pub(super) fn check(
        file: &str,
        spec: LifetimeValueSpec,
        catalog: &Catalog,
        events: &SourcePlan,
    ) -> Result<Self> {
        let columns = catalog.columns(events.context.scale);
        let money =
            |sql: &str, key: &str| check_as(sql, Type::Money, &columns, &format!("{file}: {key}"));
        let revenue = money(&spec.revenue, "revenue")?;
        let refunds = money(&spec.refunds, "refunds")?;
        Ok(Self { spec, revenue, refunds })
    }
}

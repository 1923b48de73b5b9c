//! A trained model of lifetime value: what customers have brought, and what predicts purchases to come.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::purchases::Customer;
use crate::error::Result;
use crate::expression::Expression;
use crate::expression::polars::evaluate;
use crate::features::catalog::Definition;
use crate::features::plan::FeaturePlan;
use crate::features::read::numeric;
use crate::models::lifetime_value::{
    Buyer, Discounting, Expected, GammaGamma, Purchasing, Spend, expect,
};
use crate::money::Scale;
use crate::spec::{LifetimeValueSpec, read_by};
use crate::time::Duration;

/// A month of a year of 365 days.
const MONTH: f64 = 365.0 / 12.0;
/// A trained model of lifetime value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifetimeValueArtifact {
    /// The spec it was trained with.
    pub spec: LifetimeValueSpec,
    /// Money to date, over features.
    pub revenue: Expression,
    /// Money to date, over features.
    pub refunds: Expression,
    /// All that is read, in computing order.
    pub definitions: Vec<Definition>,
    /// The share of revenue that is refunded.
    pub refund_rate: f64,
    /// Of purchases to come; None where the spec wants none.
    pub predictor: Option<Predictor>,
}

impl LifetimeValueArtifact {
    /// Adds to a plan what the model reads.
    pub fn plan(&self, plan: FeaturePlan) -> FeaturePlan {
        read_by(&self.definitions, [&self.revenue, &self.refunds], plan)
    }

    /// How purchases to come are counted.
    pub fn discounting(&self) -> Discounting {
        discounting(self.spec.horizon, self.spec.discount_rate)
    }
}

/// Money to date in major units, row by row; nothing is 0.
pub fn to_date(
    expressions: [&Expression; 2],
    rows: &RecordBatch,
    scale: Scale,
) -> Result<[Vec<f64>; 2]> {
    let named: Vec<(String, Expression)> = expressions
        .into_iter()
        .enumerate()
        .map(|(i, expression)| (format!("\u{0}to_date{i}"), expression.clone()))
        .collect();
    let values = evaluate(&named, rows, scale)?;
    let known = |i: usize| -> Result<Vec<f64>> {
        let values = numeric(&values[i])?.into_iter();
        Ok(values.map(|value| if value.is_nan() { 0.0 } else { value }).collect())
    };
    Ok([known(0)?, known(1)?])
}

/// How purchases within `length` are counted at a yearly rate.
pub fn discounting(length: Duration, yearly_rate: f64) -> Discounting {
    Discounting { horizon: length.as_days(), month: MONTH, yearly_rate }
}

/// What is expected of a buyer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// The probability that they have not left for good; None where no model could be fitted.
    pub p_alive: Option<f64>,
    /// Days with a purchase within the horizon.
    pub purchases: f64,
    /// What such a day brings.
    pub spend: f64,
    /// What they bring within the horizon, discounted.
    pub value: f64,
}

/// What predicts purchases to come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predictor {
    /// Of all buyers; None where it could not be fitted.
    pub purchasing: Option<Purchasing>,
    /// Of cohorts of their own.
    pub cohorts: BTreeMap<String, Purchasing>,
    /// What a purchase brings; None where it could not be fitted.
    pub spend: Option<GammaGamma>,
    /// What a day with a purchase brought, on average: where `spend` has no value.
    pub mean_spend: f64,
    /// What customers of that age did: where `purchasing` has no value.
    pub tenure: Vec<TenureMean>,
}

impl Predictor {
    /// What is expected of each customer, in their order.
    pub fn predict(&self, customers: &[Customer], discounting: &Discounting) -> Vec<Prediction> {
        let model_of = |customer: &Customer| {
            let own = customer.cohort.as_deref().and_then(|name| self.cohorts.get(name));
            own.or(self.purchasing.as_ref())
        };
        let mut expected: Vec<Option<Expected>> = vec![None; customers.len()];
        for model in self.purchasing.iter().chain(self.cohorts.values()) {
            let own = |row: &usize| {
                model_of(&customers[*row]).is_some_and(|other| std::ptr::eq(other, model))
            };
            let rows: Vec<usize> = (0..customers.len()).filter(own).collect();
            let buyers: Vec<Buyer> = rows.iter().map(|row| customers[*row].buyer).collect();
            let found = expect(model, &buyers, discounting);
            rows.into_iter().zip(found).for_each(|(row, found)| expected[row] = Some(found));
        }
        let discount = discounting.mean_factor();
        let predict = |(customer, expected): (&Customer, Option<Expected>)| match expected {
            Some(expected) => {
                let spend = self.spend_of(customer);
                Prediction {
                    p_alive: Some(expected.p_alive),
                    purchases: expected.purchases,
                    spend,
                    value: expected.discounted * spend,
                }
            }
            None => {
                let mean = tenure_mean(&self.tenure, customer.buyer.age);
                let [purchases, value] = mean.map(|daily| daily * discounting.horizon);
                let spend = if purchases > 0.0 { value / purchases } else { 0.0 };
                Prediction { p_alive: None, purchases, spend, value: value * discount }
            }
        };
        customers.iter().zip(expected).map(predict).collect()
    }

    fn spend_of(&self, customer: &Customer) -> f64 {
        let own = customer.repeat_spend().unwrap_or(Spend { frequency: 0.0, mean: 0.0 });
        let expected = self.spend.and_then(|model| model.expected(own.frequency, own.mean));
        expected.unwrap_or(self.mean_spend)
    }
}

/// What customers of an age did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenureMean {
    /// Days since the first purchase, up to; None for the oldest.
    pub up_to: Option<f64>,
    /// Customers.
    pub customers: usize,
    /// Days with a purchase, per customer and day.
    pub purchases: f64,
    /// What they brought, per customer and day.
    pub spend: f64,
}

/// Purchases and spend per day of customers of that age; of all where there was nobody of it.
pub fn tenure_mean(means: &[TenureMean], age: f64) -> [f64; 2] {
    let own = means.iter().find(|mean| mean.up_to.is_none_or(|up_to| age <= up_to));
    if let Some(own) = own.filter(|mean| mean.customers > 0) {
        return [own.purchases, own.spend];
    }
    let count: usize = means.iter().map(|mean| mean.customers).sum();
    let mean = |of: fn(&TenureMean) -> f64| {
        let sum: f64 = means.iter().map(|mean| of(mean) * mean.customers as f64).sum();
        sum / count.max(1) as f64
    };
    [mean(|mean| mean.purchases), mean(|mean| mean.spend)]
}

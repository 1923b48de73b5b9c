//! The artifact of a lifetime value model: revenue to date, and the prediction of future purchases.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::purchases::{Customer, Spending};
use crate::error::Result;
use crate::expression::Expression;
use crate::expression::polars::evaluate;
use crate::features::catalog::Definition;
use crate::features::plan::FeaturePlan;
use crate::features::read::numeric;
use crate::models::lifetime_value::{
    Buyer, Discounting, Expected, GammaGamma, Hurdle, Purchasing, Spend, expect,
};
use crate::models::matrix::Matrix;
use crate::money::Scale;
use crate::spec::{LifetimeValueSpec, read_by};
use crate::time::Duration;

/// The length of a month in days, as a twelfth of 365 days.
const MONTH: f64 = 365.0 / 12.0;
/// The least spend that a mean is taken of, in major units. It stands in for a prediction of 0.
const LEAST_SPEND: f64 = 0.001;

/// A trained model of lifetime value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifetimeValueArtifact {
    /// The spec that the model was trained with.
    pub spec: LifetimeValueSpec,
    /// The revenue to date, as an expression over features.
    pub revenue: Expression,
    /// The refunds to date, as an expression over features.
    pub refunds: Expression,
    /// The features and aggregations that the model reads, in the order of computation.
    pub definitions: Vec<Definition>,
    /// The share of revenue that is refunded.
    pub refund_rate: f64,
    /// The predictor of future purchases; `None` if the spec predicts none.
    pub predictor: Option<Predictor>,
}

impl LifetimeValueArtifact {
    /// Adds the features that the model reads to a plan.
    pub fn plan(&self, plan: FeaturePlan) -> FeaturePlan {
        read_by(&self.definitions, [&self.revenue, &self.refunds], plan)
    }

    /// The discounting of future purchases.
    pub fn discounting(&self) -> Discounting {
        discounting(self.spec.horizon, self.spec.discount_rate)
    }
}

/// Computes revenue and refunds to date in major units, for each row. A missing value is 0.
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

/// The discounting of purchases within `length` at a yearly rate.
pub fn discounting(length: Duration, yearly_rate: f64) -> Discounting {
    Discounting { horizon: length.as_days(), month: MONTH, yearly_rate }
}

/// The prediction for one buyer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// The probability that the buyer has not left for good; `None` if no model could be fitted.
    pub p_alive: Option<f64>,
    /// The expected days with a purchase within the horizon.
    pub purchases: f64,
    /// The expected spend on such a day.
    pub spend: f64,
    /// The expected discounted spend within the horizon.
    pub value: f64,
}

impl Prediction {
    /// What is expected within the horizon, without discounting.
    pub fn spending(&self) -> Spending {
        Spending { purchases: self.purchases, spend: self.purchases * self.spend }
    }
}

/// The correction of predictions by a hurdle model over features, as it was learnt at a past snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correction {
    /// The hurdle model.
    pub hurdle: Hurdle,
    /// The weight of the hurdle model in the geometric mean with the model of purchases and spend.
    pub weight: f64,
    /// The factor of the expected purchases.
    pub purchases: f64,
    /// The factor of the expected spend.
    pub value: f64,
}

impl Correction {
    /// The inputs of the hurdle model, in this order. Each is the logarithm of the named number plus 1. All mean the
    /// same at every snapshot: an input that grows with the age of the data, such as the time since the first
    /// purchase, has values at scoring that no fit has seen.
    pub const INPUTS: [&str; 9] = [
        "purchases expected within the horizon",
        "spend expected on a day with a purchase",
        "days with a purchase, without the first",
        "mean spend on a day with a purchase",
        "time since the last purchase, in horizons",
        "days with a purchase within the last half of a horizon",
        "spend within the last half of a horizon",
        "days with a purchase within the last quarter of a horizon",
        "spend within the last quarter of a horizon",
    ];

    /// Computes the inputs of the hurdle model, one row per customer, given the predictions of the model of
    /// purchases and spend for a horizon in days.
    pub fn inputs(customers: &[Customer], predictions: &[Prediction], horizon: f64) -> Matrix {
        let mut inputs = Matrix::with_capacity(Self::INPUTS.len(), customers.len());
        for (customer, prediction) in customers.iter().zip(predictions) {
            let Some([_, half, quarter]) = customer.recent else {
                unreachable!("a version with a hurdle model reads recent purchases")
            };
            let own: [f64; Self::INPUTS.len()] = [
                prediction.purchases,
                prediction.spend,
                customer.buyer.frequency,
                customer.spend / customer.purchases(),
                (customer.buyer.age - customer.buyer.recency) / horizon,
                half.purchases,
                half.spend,
                quarter.purchases,
                quarter.spend,
            ];
            inputs.push(own.into_iter().map(|value| value.max(0.0).ln_1p()));
        }
        inputs
    }

    /// The mean of two predictions of spend, where `hurdle` has the given weight: the geometric mean, because
    /// spend differs between customers by factors.
    pub fn mean(other: f64, hurdle: f64, weight: f64) -> f64 {
        let [other, hurdle] = [other, hurdle].map(|spend| spend.max(LEAST_SPEND));
        other.powf(1.0 - weight) * hurdle.powf(weight)
    }

    fn apply(
        &self,
        customers: &[Customer],
        predictions: &mut [Prediction],
        discounting: &Discounting,
    ) {
        let inputs = Self::inputs(customers, predictions, discounting.horizon);
        let hurdle = self.hurdle.predict(&inputs);
        for (prediction, hurdle) in predictions.iter_mut().zip(hurdle) {
            let before = prediction.spending().spend;
            let discount =
                if before > 0.0 { prediction.value / before } else { discounting.mean_factor() };
            let spend = self.value * Self::mean(before, hurdle, self.weight);
            prediction.purchases *= self.purchases;
            if prediction.purchases > 0.0 {
                prediction.spend = spend / prediction.purchases;
            }
            prediction.value = spend * discount;
        }
    }
}

/// The fitted models that predict future purchases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predictor {
    /// The model over all buyers; `None` if it could not be fitted.
    pub purchasing: Option<Purchasing>,
    /// The models of the cohorts that were fitted separately, by the name of the cohort.
    pub cohorts: BTreeMap<String, Purchasing>,
    /// The model of spend per purchase; `None` if it could not be fitted.
    pub spend: Option<GammaGamma>,
    /// The mean spend on a day with a purchase, used if `spend` has no value.
    pub mean_spend: f64,
    /// The means of customers by age, used if there is no model of purchases.
    pub tenure: Vec<TenureMean>,
    /// The correction by a hurdle model; `None` if the history is too short to learn and to test one.
    #[serde(default)]
    pub correction: Option<Correction>,
}

impl Predictor {
    /// Predicts each customer, in the order of the customers.
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
        let mut predictions: Vec<Prediction> =
            customers.iter().zip(expected).map(predict).collect();
        if let Some(correction) = &self.correction {
            correction.apply(customers, &mut predictions, discounting);
        }
        predictions
    }

    fn spend_of(&self, customer: &Customer) -> f64 {
        let own = customer.repeat_spend().unwrap_or(Spend { frequency: 0.0, mean: 0.0 });
        let expected = self.spend.and_then(|model| model.expected(own.frequency, own.mean));
        expected.unwrap_or(self.mean_spend)
    }
}

/// The means of what customers of an age class did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenureMean {
    /// The upper end of the class in days since the first purchase; `None` for the oldest class.
    pub up_to: Option<f64>,
    /// The number of customers.
    pub customers: usize,
    /// Days with a purchase, per customer and day.
    pub purchases: f64,
    /// The spend, per customer and day.
    pub spend: f64,
}

/// The purchases and the spend per day of customers of that age. If the class has no customers, the mean
/// over all classes is returned.
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

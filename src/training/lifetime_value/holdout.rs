//! Tests lifetime value on a holdout: a model of the past is compared with what customers did afterwards,
//! and with two predictions that need no model.

use serde::{Deserialize, Serialize};

use super::fit::{PurchaseData, correlation, fit};
use crate::artifact::lifetime_value::{TenureMean, discounting};
use crate::artifact::purchases::Customer;
use crate::models::lifetime_value::Buyer;
use crate::spec::LifetimeValueSpec;
use crate::time::{Duration, Instant};

/// The upper ends of the age classes in days. The last class has no end.
const TENURES: [f64; 4] = [30.0, 90.0, 180.0, 365.0];
/// The lowest frequency of each class. The last class has no end.
const FREQUENCIES: [f64; 7] = [0.0, 1.0, 2.0, 3.0, 4.0, 7.0, 13.0];
/// The number of groups of equally many customers by predicted value.
const GROUPS: usize = 10;

/// The totals and errors of one prediction over the customers of a holdout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Errors {
    /// The name of the prediction.
    pub name: String,
    /// The predicted days with a purchase, summed over all customers.
    pub purchases: f64,
    /// The relative error of that total; 0.1 means that 10 % too many were predicted.
    pub purchases_error: f64,
    /// The mean absolute error of the purchases of a customer.
    pub purchases_mae: f64,
    /// The correlation between predicted and actual purchases.
    pub purchases_correlation: f64,
    /// The predicted spend, summed over all customers.
    pub spend: f64,
    /// The relative error of that total.
    pub spend_error: f64,
    /// The mean absolute error of the spend of a customer.
    pub spend_mae: f64,
    /// The normalized Gini coefficient: that of the actual spend in the order of the prediction, divided
    /// by that in its own order. 1 is a perfect ranking, and 0 is no ranking.
    pub spend_gini: f64,
}

/// A group of customers, by frequency or by predicted spend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// The repeat purchases up to the holdout, or the number of the group from the lowest predicted
    /// spend.
    pub name: String,
    /// The number of customers.
    pub customers: usize,
    /// The mean predicted number of purchases.
    pub predicted: f64,
    /// The mean actual number of purchases.
    pub actual: f64,
    /// The mean predicted spend.
    pub predicted_spend: f64,
    /// The mean actual spend.
    pub actual_spend: f64,
}

/// A fit of the past compared with the holdout after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holdout {
    /// The start of the holdout. The model is fitted on purchases before it.
    pub from: Instant,
    /// The end of the holdout.
    pub until: Instant,
    /// The number of customers who had bought before the start.
    pub customers: usize,
    /// The days with a purchase of these customers in the holdout.
    pub purchases: f64,
    /// The spend of these customers in the holdout.
    pub spend: f64,
    /// The errors of the model.
    pub model: Errors,
    /// The errors of predictions without a model.
    pub baselines: Vec<Errors>,
    /// The customers by repeat purchases before the holdout.
    pub by_frequency: Vec<Class>,
    /// The customers in ten groups of equal size by predicted spend.
    pub by_value: Vec<Class>,
}

/// A pair of purchases and spend.
type Pair = [f64; 2];

/// Fits the buyers known at `at` and compares the predictions with what they did up to `until`. Also
/// returns the means of what customers of each age did in that time.
pub fn evaluate(
    spec: &LifetimeValueSpec,
    data: &PurchaseData,
    at: Instant,
    until: Instant,
) -> (Holdout, Vec<TenureMean>) {
    let customers: Vec<Customer> = data.then.iter().map(|(customer, _)| customer.clone()).collect();
    let actual: Vec<Pair> = customers.iter().map(|customer| since(customer, data)).collect();
    let length = Duration(until.0 - at.0);
    let days = length.as_days();
    let tenure = tenure_means(&customers, &actual, days);
    // If nothing can be fitted, means stand in. They are of the time before the holdout, because means of
    // the holdout itself would be a leak.
    let predictor = fit(spec, &customers, earlier_means(data, days)).predictor;
    let predictions = predictor.predict(&customers, &discounting(length, 0.0));
    let predicted: Vec<Pair> = predictions.iter().map(|p| [p.purchases, p.value]).collect();
    // The first purchase starts the period that the rate is taken over, so it is not counted in the rate.
    let run_rate = |customer: &Customer| {
        let share = days / customer.buyer.age.max(1.0);
        let spend = (customer.spend - customer.first_day_spend) * share;
        [customer.buyer.frequency * share, spend]
    };
    let run_rates: Vec<Pair> = customers.iter().map(run_rate).collect();
    let again: Vec<Pair> = data.then.iter().map(|(_, recent)| *recent).collect();
    let total = |i: usize| actual.iter().map(|pair| pair[i]).sum();
    let holdout = Holdout {
        from: at,
        until,
        customers: customers.len(),
        purchases: total(0),
        spend: total(1),
        model: errors("this model", &predicted, &actual),
        baselines: vec![
            errors(
                "each customer continues at their own rate of repeat purchases",
                &run_rates,
                &actual,
            ),
            errors(&format!("the last {days:.0} days again"), &again, &actual),
        ],
        by_frequency: by_frequency(&customers, &predicted, &actual),
        by_value: by_value(&predicted, &actual),
    };
    (holdout, tenure)
}

/// Computes the means by age of what customers did in the same number of days before the holdout.
fn earlier_means(data: &PurchaseData, days: f64) -> Vec<TenureMean> {
    let there = data.then.iter().filter(|(customer, _)| customer.buyer.age >= days);
    let (customers, did): (Vec<Customer>, Vec<Pair>) = there
        .map(|(customer, recent)| {
            let buyer = Buyer { age: customer.buyer.age - days, ..customer.buyer };
            (Customer { buyer, ..customer.clone() }, *recent)
        })
        .unzip();
    tenure_means(&customers, &did, days)
}

/// Computes what a customer did between the start of the holdout and the as-of.
fn since(then: &Customer, data: &PurchaseData) -> Pair {
    match data.now.binary_search_by_key(&then.hash, |customer| customer.hash) {
        Ok(found) => {
            let now = &data.now[found];
            [now.purchases() - then.purchases(), now.spend - then.spend]
        }
        // The customer's purchases were known at the start of the holdout and have been withdrawn since.
        Err(_) => [0.0; 2],
    }
}

fn errors(name: &str, predicted: &[Pair], actual: &[Pair]) -> Errors {
    let count = actual.len().max(1) as f64;
    let total = |values: &[Pair], i: usize| values.iter().map(|pair| pair[i]).sum::<f64>();
    let share = |i: usize| {
        let happened = total(actual, i);
        if happened > 0.0 { total(predicted, i) / happened - 1.0 } else { 0.0 }
    };
    let mae = |i: usize| {
        let errors = predicted.iter().zip(actual).map(|(p, a)| (p[i] - a[i]).abs());
        errors.sum::<f64>() / count
    };
    let of_purchases: Vec<Pair> = predicted.iter().zip(actual).map(|(p, a)| [p[0], a[0]]).collect();
    let of_spend: Vec<Pair> = predicted.iter().zip(actual).map(|(p, a)| [p[1], a[1]]).collect();
    Errors {
        name: name.to_owned(),
        purchases: total(predicted, 0),
        purchases_error: share(0),
        purchases_mae: mae(0),
        purchases_correlation: correlation(&of_purchases),
        spend: total(predicted, 1),
        spend_error: share(1),
        spend_mae: mae(1),
        spend_gini: normalized_gini(&of_spend),
    }
}

/// Computes the normalized Gini coefficient of pairs (predicted, actual).
///
/// It is the area between the cumulative share of the actual values in the order of the prediction and
/// the diagonal, divided by the same area for their own order. Ties share their mean.
pub fn normalized_gini(pairs: &[Pair]) -> f64 {
    let area = |key: usize| {
        let mut sorted: Vec<&Pair> = pairs.iter().collect();
        sorted.sort_by(|a, b| b[key].total_cmp(&a[key]));
        let count = sorted.len() as f64;
        let total: f64 = sorted.iter().map(|pair| pair[1]).sum();
        let (mut cumulative, mut area) = (0.0, 0.0);
        for ties in sorted.chunk_by(|a, b| a[key] == b[key]) {
            let own: f64 = ties.iter().map(|pair| pair[1]).sum();
            // Each tie counts the mean of the cumulative share over all ties.
            area += ties.len() as f64 * (cumulative + own / 2.0);
            cumulative += own;
        }
        area / total / count - 0.5
    };
    let best = area(1);
    if best > 0.0 { area(0) / best } else { 0.0 }
}

fn class(name: String, rows: &[usize], predicted: &[Pair], actual: &[Pair]) -> Class {
    let mean = |values: &[Pair], i: usize| {
        rows.iter().map(|row| values[*row][i]).sum::<f64>() / rows.len().max(1) as f64
    };
    Class {
        name,
        customers: rows.len(),
        predicted: mean(predicted, 0),
        actual: mean(actual, 0),
        predicted_spend: mean(predicted, 1),
        actual_spend: mean(actual, 1),
    }
}

fn by_frequency(customers: &[Customer], predicted: &[Pair], actual: &[Pair]) -> Vec<Class> {
    let mut classes = Vec::new();
    for (i, from) in FREQUENCIES.iter().enumerate() {
        let end = FREQUENCIES.get(i + 1);
        let own = |row: &usize| {
            let frequency = customers[*row].buyer.frequency;
            frequency >= *from && end.is_none_or(|end| frequency < *end)
        };
        let rows: Vec<usize> = (0..customers.len()).filter(own).collect();
        let name = match end {
            Some(end) if *end == from + 1.0 => format!("{from}"),
            Some(end) => format!("{from} to {}", end - 1.0),
            None => format!("{from} and more"),
        };
        if !rows.is_empty() {
            classes.push(class(name, &rows, predicted, actual));
        }
    }
    classes
}

fn by_value(predicted: &[Pair], actual: &[Pair]) -> Vec<Class> {
    let mut rows: Vec<usize> = (0..predicted.len()).collect();
    rows.sort_by(|a, b| predicted[*a][1].total_cmp(&predicted[*b][1]));
    let group = |i: usize| {
        let of = &rows[i * rows.len() / GROUPS..(i + 1) * rows.len() / GROUPS];
        class(format!("{}", i + 1), of, predicted, actual)
    };
    (0..GROUPS).map(group).filter(|class| class.customers > 0).collect()
}

fn tenure_means(customers: &[Customer], actual: &[Pair], days: f64) -> Vec<TenureMean> {
    let mut means = Vec::new();
    let mut from = f64::NEG_INFINITY;
    for up_to in TENURES.map(Some).into_iter().chain([None]) {
        let to = up_to.unwrap_or(f64::INFINITY);
        let own = customers.iter().zip(actual).filter(|(customer, _)| {
            let age = customer.buyer.age;
            age > from && age <= to
        });
        let own: Vec<&Pair> = own.map(|(_, pair)| pair).collect();
        let mean =
            |i: usize| own.iter().map(|pair| pair[i]).sum::<f64>() / own.len().max(1) as f64 / days;
        means.push(TenureMean { up_to, customers: own.len(), purchases: mean(0), spend: mean(1) });
        from = to;
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gini_is_one_in_the_right_order_and_minus_one_in_the_wrong_one() {
        let pairs =
            |order: [f64; 4]| order.into_iter().zip([0.0, 1.0, 2.0, 7.0]).map(|(p, a)| [p, a]);
        let gini = |order| normalized_gini(&pairs(order).collect::<Vec<_>>());
        assert!((gini([1.0, 2.0, 3.0, 4.0]) - 1.0).abs() < 1e-12);
        assert!((gini([4.0, 3.0, 2.0, 1.0]) + 1.0).abs() < 1e-12);
        assert!(gini([5.0; 4]).abs() < 1e-12, "ties tell nothing");
    }

    #[test]
    fn correlation_is_pearsons() {
        // numpy.corrcoef([1, 2, 4, 7], [2, 1, 5, 6])[0, 1]
        let pairs = [[1.0, 2.0], [2.0, 1.0], [4.0, 5.0], [7.0, 6.0]];
        assert!((correlation(&pairs) - 0.899_735_4).abs() < 1e-6, "{}", correlation(&pairs));
        assert_eq!(correlation(&[[1.0, 2.0], [1.0, 3.0]]), 0.0);
    }
}

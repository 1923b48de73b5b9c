//! Tests lifetime value on a holdout: a model of the past is compared with what customers did afterwards,
//! and with two predictions that need no model.

use serde::{Deserialize, Serialize};

use super::correction::{Lesson, Past, learn};
use super::data::{Holdouts, PurchaseData};
use super::fit::{correlation, fit};
use crate::artifact::lifetime_value::{Correction, Prediction, Predictor, TenureMean, discounting};
use crate::artifact::purchases::{Customer, Spending};
use crate::error::Result;
use crate::models::lifetime_value::Buyer;
use crate::spec::LifetimeValueSpec;
use crate::time::{Duration, Instant};
use crate::training::evaluation::bootstrap::{Difference, draws};

/// The upper ends of the age classes in days. The last class has no end.
const TENURES: [f64; 4] = [30.0, 90.0, 180.0, 365.0];
/// The lowest frequency of each class. The last class has no end.
const FREQUENCIES: [f64; 7] = [0.0, 1.0, 2.0, 3.0, 4.0, 7.0, 13.0];
/// The number of groups of equally many customers by predicted value.
const GROUPS: usize = 10;
/// The maximum number of customers that differences are judged on, those with the smallest hashes of their keys.
const JUDGED: usize = 100_000;

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

/// The differences between the errors of the model and those of another prediction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Differences {
    /// The difference of [`Errors::spend_mae`].
    pub spend_mae: Difference,
    /// The difference of [`Errors::spend_gini`].
    pub spend_gini: Difference,
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
    /// The differences of the model from each baseline, in the same order.
    #[serde(default)]
    pub differences: Vec<Differences>,
    /// The errors of the parts of the model, each without the other and without the factors of the totals.
    #[serde(default)]
    pub parts: Vec<Errors>,
    /// What the correction of the tested model was learnt from; `None` if it has none.
    #[serde(default)]
    pub lesson: Option<Lesson>,
    /// The customers by repeat purchases before the holdout.
    pub by_frequency: Vec<Class>,
    /// The customers in ten groups of equal size by predicted spend.
    pub by_value: Vec<Class>,
}

/// The result of a test on the last holdout.
pub(super) struct Evaluation {
    pub(super) holdout: Holdout,
    /// The means of what customers of each age did in the holdout.
    pub(super) tenure: Vec<TenureMean>,
    /// The correction that the last holdout teaches. `None` if the tested model has none, because what has not been
    /// tested is not used.
    pub(super) learnt: Option<(Correction, Lesson)>,
}

/// A model fitted at the start of a holdout, with what customers did in it.
struct Snapshot<'a> {
    at: Instant,
    until: Instant,
    customers: &'a [Customer],
    predictor: Predictor,
    /// The predictions without a correction.
    predictions: Vec<Prediction>,
    outcomes: Vec<Spending>,
}

impl<'a> Snapshot<'a> {
    /// Fits the buyers known at `at`. Their outcomes are in the buyers known at `until`.
    fn new(
        spec: &LifetimeValueSpec,
        (at, customers): (Instant, &'a [Customer]),
        (until, later): (Instant, &[Customer]),
    ) -> Self {
        let length = Duration(until.0 - at.0);
        // If nothing can be fitted, means stand in. They are of the time before the holdout, because means of
        // the holdout itself would be a leak.
        let means = earlier_means(customers, length.as_days());
        let predictor = fit(spec, customers, means).predictor;
        let predictions = predictor.predict(customers, &discounting(length, 0.0));
        let outcomes = customers.iter().map(|customer| since(customer, later)).collect();
        Self { at, until, customers, predictor, predictions, outcomes }
    }

    fn days(&self) -> f64 {
        Duration(self.until.0 - self.at.0).as_days()
    }

    fn learn(&self, spec: &LifetimeValueSpec) -> Result<Option<(Correction, Lesson)>> {
        let Self { at, until, customers, .. } = *self;
        let (predictions, outcomes) = (&self.predictions, &self.outcomes);
        learn(spec, &Past { at, until, customers, predictions, outcomes })
    }
}

/// Fits the buyers known at the start of the last holdout and compares the predictions with what they did up to
/// `until`.
pub(super) fn evaluate(
    spec: &LifetimeValueSpec,
    data: &PurchaseData,
    holdouts: Holdouts,
    until: Instant,
) -> Result<Evaluation> {
    let Holdouts { last, earlier } = holdouts;
    let earlier =
        earlier.map(|at| Snapshot::new(spec, (at, &data.earlier), (last, &data.then)).learn(spec));
    let mut snapshot = Snapshot::new(spec, (last, &data.then), (until, &data.now));
    let taught = earlier.transpose()?.flatten();
    let learnt = if taught.is_some() { snapshot.learn(spec)? } else { None };
    let (customers, days) = (snapshot.customers, snapshot.days());
    let (correction, lesson) = taught.unzip();
    let actual = &snapshot.outcomes;
    let spending = |predictions: &[Prediction]| -> Vec<Spending> {
        predictions.iter().map(Prediction::spending).collect()
    };
    let uncorrected = spending(&snapshot.predictions);
    let mut parts = Vec::new();
    if let Some(correction) = &correction {
        let inputs = Correction::inputs(customers, &snapshot.predictions, days);
        let hurdle = correction.hurdle.predict(&inputs).into_iter().zip(&uncorrected);
        let hurdle: Vec<Spending> = hurdle.map(|(spend, own)| Spending { spend, ..*own }).collect();
        parts.push(errors("purchases times spend alone", &uncorrected, actual));
        parts.push(errors("the hurdle model alone", &hurdle, actual));
    }
    snapshot.predictor.correction = correction;
    let discounting = discounting(Duration(until.0 - last.0), 0.0);
    let predicted = spending(&snapshot.predictor.predict(customers, &discounting));
    // The first purchase starts the period that the rate is taken over, so it is not counted in the rate.
    let run_rate = |customer: &Customer| {
        let share = days / customer.buyer.age.max(1.0);
        let spend = (customer.spend - customer.first_day_spend) * share;
        Spending { purchases: customer.buyer.frequency * share, spend }
    };
    let again = |customer: &Customer| customer.recent.map_or(Spending::default(), |[all, ..]| all);
    let baselines: [(String, Vec<Spending>); 2] = [
        (
            "each customer continues at their own rate of repeat purchases".to_owned(),
            customers.iter().map(run_rate).collect(),
        ),
        (format!("the last {days:.0} days again"), customers.iter().map(again).collect()),
    ];
    let total = |of: fn(&Spending) -> f64| actual.iter().map(of).sum();
    let holdout = Holdout {
        from: last,
        until,
        customers: customers.len(),
        purchases: total(|own| own.purchases),
        spend: total(|own| own.spend),
        model: errors("this model", &predicted, actual),
        baselines: baselines.iter().map(|(name, other)| errors(name, other, actual)).collect(),
        differences: baselines
            .iter()
            .map(|(_, other)| differences(&predicted, other, actual))
            .collect(),
        parts,
        lesson,
        by_frequency: by_frequency(customers, &predicted, actual),
        by_value: by_value(&predicted, actual),
    };
    let tenure = tenure_means(customers, actual, days);
    Ok(Evaluation { holdout, tenure, learnt })
}

/// Computes the means by age of what customers did in the same number of days before the holdout.
fn earlier_means(customers: &[Customer], days: f64) -> Vec<TenureMean> {
    let there = customers.iter().filter(|customer| customer.buyer.age >= days);
    let (customers, did): (Vec<Customer>, Vec<Spending>) = there
        .filter_map(|customer| {
            let buyer = Buyer { age: customer.buyer.age - days, ..customer.buyer };
            let [recent, ..] = customer.recent?;
            Some((Customer { buyer, ..customer.clone() }, recent))
        })
        .unzip();
    tenure_means(&customers, &did, days)
}

/// Computes what a customer did since a past snapshot, given the buyers at a later one.
fn since(then: &Customer, later: &[Customer]) -> Spending {
    match later.binary_search_by_key(&then.hash, |customer| customer.hash) {
        Ok(found) => {
            let now = &later[found];
            let purchases = now.purchases() - then.purchases();
            Spending { purchases, spend: now.spend - then.spend }
        }
        // The customer's purchases were known at the start of the holdout and have been withdrawn since.
        Err(_) => Spending::default(),
    }
}

/// Compares the errors of two predictions of spend on the same draws of customers.
fn differences(model: &[Spending], other: &[Spending], actual: &[Spending]) -> Differences {
    let rows = actual.len().min(JUDGED);
    let of = |spending: &[Spending]| spending[..rows].iter().map(|own| own.spend).collect();
    let [model, other, actual]: [Vec<f64>; 3] = [of(model), of(other), of(actual)];
    let errors: Vec<f64> = (0..rows)
        .map(|row| (model[row] - actual[row]).abs() - (other[row] - actual[row]).abs())
        .collect();
    let rankings = [&model, &other, &actual].map(|by| Ranking::new(by, &actual));
    let measure = |times: &[u32]| {
        let mae = errors.iter().zip(times).map(|(error, times)| error * f64::from(*times));
        let [model, other, best] = rankings.each_ref().map(|ranking| ranking.area(times));
        let gini = if best > 0.0 { (model - other) / best } else { 0.0 };
        [mae.sum::<f64>() / rows.max(1) as f64, gini]
    };
    let [mae, gini] = measure(&vec![1; rows]);
    let (maes, ginis): (Vec<f64>, Vec<f64>) =
        draws(rows, measure).into_iter().map(|[mae, gini]| (mae, gini)).unzip();
    Differences { spend_mae: Difference::of(mae, &maes), spend_gini: Difference::of(gini, &ginis) }
}

/// Values in the order of a prediction of them, the greatest prediction first.
struct Ranking<'a> {
    actual: &'a [f64],
    /// The rows; each group has the same prediction.
    groups: Vec<Vec<u32>>,
}

impl<'a> Ranking<'a> {
    fn new(by: &[f64], actual: &'a [f64]) -> Self {
        let mut rows: Vec<u32> = (0..by.len() as u32).collect();
        rows.sort_by(|a, b| by[*b as usize].total_cmp(&by[*a as usize]));
        let groups = rows.chunk_by(|a, b| by[*a as usize] == by[*b as usize]);
        Self { actual, groups: groups.map(<[u32]>::to_vec).collect() }
    }

    /// The area between the cumulative share of the values and the diagonal, where each row counts as many
    /// times as given. Ties share their mean.
    fn area(&self, times: &[u32]) -> f64 {
        let (mut cumulative, mut area, mut count) = (0.0, 0.0, 0.0);
        for group in &self.groups {
            let (mut own, mut rows) = (0.0, 0.0);
            for row in group {
                let times = f64::from(times[*row as usize]);
                own += times * self.actual[*row as usize];
                rows += times;
            }
            // Each tie counts the mean of the cumulative share over all ties.
            area += rows * (cumulative + own / 2.0);
            cumulative += own;
            count += rows;
        }
        if cumulative > 0.0 { area / cumulative / count - 0.5 } else { 0.0 }
    }
}

fn errors(name: &str, predicted: &[Spending], actual: &[Spending]) -> Errors {
    let count = actual.len().max(1) as f64;
    let purchases = |of: &[Spending]| -> Vec<f64> { of.iter().map(|own| own.purchases).collect() };
    let spend = |of: &[Spending]| -> Vec<f64> { of.iter().map(|own| own.spend).collect() };
    let error = |predicted: &[f64], actual: &[f64]| {
        let happened: f64 = actual.iter().sum();
        if happened > 0.0 { predicted.iter().sum::<f64>() / happened - 1.0 } else { 0.0 }
    };
    let mae = |predicted: &[f64], actual: &[f64]| {
        predicted.iter().zip(actual).map(|(p, a)| (p - a).abs()).sum::<f64>() / count
    };
    let (days, actual_days) = (purchases(predicted), purchases(actual));
    let (money, actual_money) = (spend(predicted), spend(actual));
    let pairs: Vec<[f64; 2]> = days.iter().zip(&actual_days).map(|(p, a)| [*p, *a]).collect();
    Errors {
        name: name.to_owned(),
        purchases: days.iter().sum(),
        purchases_error: error(&days, &actual_days),
        purchases_mae: mae(&days, &actual_days),
        purchases_correlation: correlation(&pairs),
        spend: money.iter().sum(),
        spend_error: error(&money, &actual_money),
        spend_mae: mae(&money, &actual_money),
        spend_gini: normalized_gini(&money, &actual_money),
    }
}

/// Computes the normalized Gini coefficient.
///
/// It is the area between the cumulative share of the actual values in the order of the prediction and
/// the diagonal, divided by the same area for their own order. Ties share their mean.
pub fn normalized_gini(predicted: &[f64], actual: &[f64]) -> f64 {
    let once = vec![1; actual.len()];
    let best = Ranking::new(actual, actual).area(&once);
    if best > 0.0 { Ranking::new(predicted, actual).area(&once) / best } else { 0.0 }
}

fn class(name: String, rows: &[usize], predicted: &[Spending], actual: &[Spending]) -> Class {
    let mean = |values: &[Spending], of: fn(&Spending) -> f64| {
        rows.iter().map(|row| of(&values[*row])).sum::<f64>() / rows.len().max(1) as f64
    };
    Class {
        name,
        customers: rows.len(),
        predicted: mean(predicted, |own| own.purchases),
        actual: mean(actual, |own| own.purchases),
        predicted_spend: mean(predicted, |own| own.spend),
        actual_spend: mean(actual, |own| own.spend),
    }
}

fn by_frequency(customers: &[Customer], predicted: &[Spending], actual: &[Spending]) -> Vec<Class> {
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

fn by_value(predicted: &[Spending], actual: &[Spending]) -> Vec<Class> {
    let mut rows: Vec<usize> = (0..predicted.len()).collect();
    rows.sort_by(|a, b| predicted[*a].spend.total_cmp(&predicted[*b].spend));
    let group = |i: usize| {
        let of = &rows[i * rows.len() / GROUPS..(i + 1) * rows.len() / GROUPS];
        class(format!("{}", i + 1), of, predicted, actual)
    };
    (0..GROUPS).map(group).filter(|class| class.customers > 0).collect()
}

fn tenure_means(customers: &[Customer], actual: &[Spending], days: f64) -> Vec<TenureMean> {
    let mut means = Vec::new();
    let mut from = f64::NEG_INFINITY;
    for up_to in TENURES.map(Some).into_iter().chain([None]) {
        let to = up_to.unwrap_or(f64::INFINITY);
        let own = customers.iter().zip(actual).filter(|(customer, _)| {
            let age = customer.buyer.age;
            age > from && age <= to
        });
        let own: Vec<&Spending> = own.map(|(_, did)| did).collect();
        let mean = |of: fn(&Spending) -> f64| {
            own.iter().map(|did| of(did)).sum::<f64>() / own.len().max(1) as f64 / days
        };
        let (purchases, spend) = (mean(|did| did.purchases), mean(|did| did.spend));
        means.push(TenureMean { up_to, customers: own.len(), purchases, spend });
        from = to;
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gini_is_one_in_the_right_order_and_minus_one_in_the_wrong_one() {
        let gini = |order: [f64; 4]| normalized_gini(&order, &[0.0, 1.0, 2.0, 7.0]);
        assert!((gini([1.0, 2.0, 3.0, 4.0]) - 1.0).abs() < 1e-12);
        assert!((gini([4.0, 3.0, 2.0, 1.0]) + 1.0).abs() < 1e-12);
        assert!(gini([5.0; 4]).abs() < 1e-12, "ties tell nothing");
    }

    /// A customer who is drawn twice counts like two equal customers, and one who is not drawn not at all.
    #[test]
    fn a_drawn_area_is_that_of_the_drawn_customers() {
        let (by, actual) = ([5.0, 5.0, 3.0, 1.0], [2.0, 0.0, 4.0, 1.0]);
        let drawn = Ranking::new(&by, &actual).area(&[2, 1, 0, 1]);
        let actual = [2.0, 2.0, 0.0, 1.0];
        let repeated = Ranking::new(&[5.0, 5.0, 5.0, 1.0], &actual).area(&[1; 4]);
        assert!((drawn - repeated).abs() < 1e-12, "{drawn} {repeated}");
    }

    #[test]
    fn correlation_is_pearsons() {
        // numpy.corrcoef([1, 2, 4, 7], [2, 1, 5, 6])[0, 1]
        let pairs = [[1.0, 2.0], [2.0, 1.0], [4.0, 5.0], [7.0, 6.0]];
        assert!((correlation(&pairs) - 0.899_735_4).abs() < 1e-6, "{}", correlation(&pairs));
        assert_eq!(correlation(&[[1.0, 2.0], [1.0, 3.0]]), 0.0);
    }
}

//! Learns at a past snapshot how the model of purchases and spend is corrected by a hurdle model.
//!
//! The model of purchases knows only how often and when a customer purchased. The hurdle model also knows how
//! much, and what was lately. Both, and any mean of them, have a total that is wrong by about the same at
//! the next snapshot, so that the total is corrected by what was actually spent.

use serde::{Deserialize, Serialize};

use crate::artifact::lifetime_value::{Correction, Prediction};
use crate::artifact::purchases::{Customer, Spending};
use crate::error::Result;
use crate::models::lifetime_value::Hurdle;
use crate::models::matrix::Matrix;
use crate::spec::LifetimeValueSpec;
use crate::time::{Duration, Instant};

/// The weights of the hurdle model that are tried.
const WEIGHTS: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];
/// The number of parts of the customers. Each part is predicted by a fit on the others.
const FOLDS: u64 = 5;
/// The limits of the factors of a total.
const FACTORS: [f64; 2] = [0.5, 2.0];

/// How a weight of the hurdle model did at a past snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The weight of the hurdle model; the rest is that of the model of purchases and spend.
    pub weight: f64,
    /// The mean Tweedie deviance of power 1.5 of a customer's spend, predicted by fits on the other customers.
    pub deviance: f64,
}

/// What was learnt at a past snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lesson {
    /// The snapshot.
    pub at: Instant,
    /// The end of the outcomes.
    pub until: Instant,
    /// The number of buyers at the snapshot.
    pub customers: usize,
    /// The number of these who purchased until the end.
    pub purchased: usize,
    /// The weights that were tried; one if the spec sets it.
    pub trials: Vec<Trial>,
    /// The chosen weight of the hurdle model.
    pub weight: f64,
    /// The actual purchases divided by the predicted ones.
    pub purchases: f64,
    /// The actual spend divided by the predicted one.
    pub value: f64,
}

/// A snapshot with what followed.
pub(super) struct Past<'a> {
    pub(super) at: Instant,
    pub(super) until: Instant,
    pub(super) customers: &'a [Customer],
    /// The predictions of the model of purchases and spend that was fitted at the snapshot.
    pub(super) predictions: &'a [Prediction],
    pub(super) outcomes: &'a [Spending],
}

/// Learns a correction. Returns `None` if fewer customers purchased than a fit needs.
pub(super) fn learn(spec: &LifetimeValueSpec, past: &Past) -> Result<Option<(Correction, Lesson)>> {
    let Past { customers, predictions, outcomes, .. } = *past;
    let horizon = Duration(past.until.0 - past.at.0).as_days();
    let inputs = Correction::inputs(customers, predictions, horizon);
    let spend: Vec<f64> = outcomes.iter().map(|outcome| outcome.spend.max(0.0)).collect();
    let purchased = spend.iter().filter(|spend| **spend > 0.0).count();
    if purchased < spec.minimum_repeaters {
        return Ok(None);
    }
    let Some(hurdle) = Hurdle::fit(&inputs, &spend)? else { return Ok(None) };
    let others = by_others(customers, &inputs, &spend, &hurdle)?;
    let weights = match &spec.hurdle {
        Some(weight) => std::slice::from_ref(weight),
        None => &WEIGHTS,
    };
    let base: Vec<f64> = predictions.iter().map(|own| own.spending().spend).collect();
    let tries: Vec<(Trial, f64)> = weights
        .iter()
        .map(|weight| {
            let pairs = base.iter().zip(&others);
            let predicted: Vec<f64> =
                pairs.map(|(base, hurdle)| Correction::mean(*base, *hurdle, *weight)).collect();
            let factor = ratio(spend.iter().sum(), predicted.iter().sum());
            let deviances = predicted.iter().zip(&spend);
            let deviances = deviances.map(|(mean, spend)| deviance(factor * mean, *spend));
            let deviance = deviances.sum::<f64>() / spend.len() as f64;
            (Trial { weight: *weight, deviance }, factor)
        })
        .collect();
    let best = tries.iter().copied().reduce(|a, b| if b.0.deviance < a.0.deviance { b } else { a });
    let Some((Trial { weight, .. }, value)) = best else {
        unreachable!("at least one weight is tried")
    };
    let made: f64 = outcomes.iter().map(|outcome| outcome.purchases).sum();
    let purchases = ratio(made, predictions.iter().map(|p| p.purchases).sum());
    let lesson = Lesson {
        at: past.at,
        until: past.until,
        customers: customers.len(),
        purchased,
        trials: tries.iter().map(|(trial, _)| *trial).collect(),
        weight,
        purchases,
        value,
    };
    Ok(Some((Correction { hurdle, weight, purchases, value }, lesson)))
}

/// Predicts the spend of each customer by a fit on the customers of the other parts. A part whose fit has too
/// few purchases is predicted by the fit on all.
fn by_others(
    customers: &[Customer],
    inputs: &Matrix,
    spend: &[f64],
    all: &Hurdle,
) -> Result<Vec<f64>> {
    let mut predicted = vec![0.0; spend.len()];
    for fold in 0..FOLDS {
        let is_own = |row: &usize| customers[*row].hash % FOLDS == fold;
        let (own, others): (Vec<usize>, Vec<usize>) = (0..spend.len()).partition(is_own);
        let of_others: Vec<f64> = others.iter().map(|row| spend[*row]).collect();
        let fitted = Hurdle::fit(&inputs.select(&others), &of_others)?;
        let values = fitted.as_ref().unwrap_or(all).predict(&inputs.select(&own));
        own.into_iter().zip(values).for_each(|(row, value)| predicted[row] = value);
    }
    Ok(predicted)
}

fn ratio(actual: f64, predicted: f64) -> f64 {
    if predicted > 0.0 { (actual / predicted).clamp(FACTORS[0], FACTORS[1]) } else { 1.0 }
}

/// The Tweedie deviance of power 1.5 of one value, which is that of a compound Poisson and gamma distribution: many
/// zeros, and a variance that grows with the mean to the power of 1.5 (Jørgensen 1987).
fn deviance(mean: f64, actual: f64) -> f64 {
    4.0 * (mean.sqrt() - actual.sqrt()).powi(2) / mean.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviance_is_tweedies() {
        // sklearn.metrics.mean_tweedie_deviance([y], [mu], power=1.5)
        for (mean, actual, expected) in
            [(2.0, 0.0, 5.6568542), (2.0, 3.0, 0.2857292), (0.5, 40.0, 178.5061545)]
        {
            assert!((deviance(mean, actual) - expected).abs() < 1e-6, "{mean} {actual}");
        }
    }
}

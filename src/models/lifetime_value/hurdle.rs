//! A hurdle model of spend: the probability of any purchase times the spend of those who purchase.
//!
//! The probability is a logistic regression. The spend is a ridge regression on its logarithm, carried back by
//! smearing (Duan 1983), here the ratio of the actual spend to the predicted one, which does not assume
//! that the errors are equal or normal. Inputs are clipped to the range of the fit, so that a customer
//! unlike any of the fit is not extrapolated.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::models::cholesky;
use crate::models::logistic::Logistic;
use crate::models::logit::{logit, sigmoid};
use crate::models::matrix::Matrix;
use crate::models::newton::Objective;

/// The L2 penalty of both regressions on standardized inputs, in rows: that of one standard normal prior.
const PENALTY: f64 = 1.0;
/// The minimum number of customers who purchased, and of those who did not, from which a probability is fitted.
const LEAST_OF_A_CLASS: usize = 20;

/// The range of an input in the fit, and its standardization.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scaling {
    least: f64,
    greatest: f64,
    mean: f64,
    deviation: f64,
}

impl Scaling {
    fn fit(values: &[f64]) -> Self {
        let count = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        let deviation = if variance > 0.0 { variance.sqrt() } else { 1.0 };
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self { least, greatest, mean, deviation }
    }

    fn apply(&self, value: f64) -> f64 {
        (value.clamp(self.least, self.greatest) - self.mean) / self.deviation
    }
}

/// A fitted linear regression: y = intercept + coefficients . x.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// The value of a row of zeros.
    pub intercept: f64,
    /// One coefficient per column.
    pub coefficients: Vec<f64>,
}

impl Linear {
    /// Fits by least squares with an L2 penalty on the coefficients. The columns need not have the mean 0.
    fn fit(rows: &Matrix, y: &[f64]) -> Self {
        let (width, count) = (rows.width, y.len() as f64);
        let mut means = vec![0.0; width];
        (0..rows.len()).for_each(|row| add(&mut means, rows.row(row), 1.0 / count));
        let mean = y.iter().sum::<f64>() / count;
        // The lower half of X'X and X'y, both of centred columns.
        let mut products = vec![0.0; width * width];
        let mut with_y = vec![0.0; width];
        for (row, y) in y.iter().enumerate() {
            let x: Vec<f64> = rows.row(row).iter().zip(&means).map(|(x, mean)| x - mean).collect();
            for (i, own) in x.iter().enumerate() {
                add(&mut products[i * width..=i * width + i], &x[..=i], *own);
            }
            add(&mut with_y, &x, y - mean);
        }
        (0..width).for_each(|i| products[i * width + i] += PENALTY);
        cholesky::solve(&mut products, &mut with_y, width);
        let shift: f64 = with_y.iter().zip(&means).map(|(w, mean)| w * mean).sum();
        Self { intercept: mean - shift, coefficients: with_y }
    }

    fn value(&self, row: &[f64]) -> f64 {
        self.intercept + row.iter().zip(&self.coefficients).map(|(x, w)| x * w).sum::<f64>()
    }
}

/// A fitted hurdle model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hurdle {
    inputs: Vec<Scaling>,
    /// The logit of the probability of a purchase within the horizon.
    pub any: Logistic,
    /// The logarithm of the spend of those who purchase, by the same inputs.
    pub amount: Linear,
    /// The factor by which exp(amount) is multiplied: the actual spend divided by the predicted spend of the
    /// customers of the fit who purchased.
    pub smearing: f64,
}

impl Hurdle {
    /// Fits the spend of each row of `inputs`. A spend of 0 or below is no purchase. Inputs must be finite.
    ///
    /// Returns `None` if fewer than 20 rows have a spend.
    ///
    /// # Errors
    /// Returns an engine error if the logistic regression does not converge.
    pub fn fit(inputs: &Matrix, spend: &[f64]) -> Result<Option<Self>> {
        let labels: Vec<bool> = spend.iter().map(|spend| *spend > 0.0).collect();
        let bought: Vec<usize> = (0..labels.len()).filter(|row| labels[*row]).collect();
        if bought.len() < LEAST_OF_A_CLASS {
            return Ok(None);
        }
        let column = |i: usize| (0..inputs.len()).map(|row| inputs.row(row)[i]).collect::<Vec<_>>();
        let scalings: Vec<Scaling> = (0..inputs.width).map(|i| Scaling::fit(&column(i))).collect();
        let rows = standardized(&scalings, inputs);
        let others = labels.len() - bought.len();
        let any = if others < LEAST_OF_A_CLASS {
            let share = (bought.len() as f64 + 0.5) / (labels.len() as f64 + 1.0);
            Logistic { intercept: logit(share), coefficients: vec![0.0; inputs.width] }
        } else {
            let l2 = PENALTY / labels.len() as f64;
            let objective = Objective { rows: &rows, labels: &labels, class_weights: [1.0; 2], l2 };
            Logistic::fit(objective, None)?
        };
        let own = rows.select(&bought);
        let logs: Vec<f64> = bought.iter().map(|row| spend[*row].ln()).collect();
        let amount = Linear::fit(&own, &logs);
        let actual: f64 = bought.iter().map(|row| spend[*row]).sum();
        let predicted: f64 = (0..own.len()).map(|row| amount.value(own.row(row)).exp()).sum();
        let smearing = actual / predicted;
        Ok(Some(Self { inputs: scalings, any, amount, smearing }))
    }

    /// Predicts the spend of each row.
    pub fn predict(&self, inputs: &Matrix) -> Vec<f64> {
        let rows = standardized(&self.inputs, inputs);
        let predict = |row: usize| {
            let row = rows.row(row);
            sigmoid(self.any.logit(row)) * self.smearing * self.amount.value(row).exp()
        };
        (0..rows.len()).map(predict).collect()
    }
}

fn standardized(scalings: &[Scaling], inputs: &Matrix) -> Matrix {
    let mut rows = Matrix::with_capacity(inputs.width, inputs.len());
    for row in 0..inputs.len() {
        let values = inputs.row(row).iter().zip(scalings);
        rows.push(values.map(|(value, scaling)| scaling.apply(*value)));
    }
    rows
}

fn add(sums: &mut [f64], values: &[f64], times: f64) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += times * value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows are made by sine and cosine, so that scikit-learn can be given the same ones.
    fn rows() -> (Matrix, Vec<f64>) {
        let mut inputs = Matrix::new(2);
        let mut spend = Vec::new();
        for i in 0..200 {
            let (a, b) = ((f64::from(i) * 1.7).sin(), (f64::from(i) * 0.9).cos() * 3.0);
            let noise = (f64::from(i) * 12.9).sin();
            inputs.push([a, b]);
            let buys = a + 0.3 * b + noise > 0.0;
            spend.push(if buys { (1.0 + 0.5 * a - 0.2 * b + 0.4 * noise).exp() } else { 0.0 });
        }
        (inputs, spend)
    }

    /// The expected values are from scikit-learn 1.9: StandardScaler, LogisticRegression(C=1, tol=1e-10) on whether
    /// there is a spend, Ridge(alpha=1) on the logarithm of the spend that there is, and the ratio of the
    /// actual spend to the predicted one.
    #[test]
    fn equals_scikit_learn() {
        let (inputs, spend) = rows();
        let model = Hurdle::fit(&inputs, &spend).unwrap().unwrap();
        let found = [
            model.any.intercept,
            model.any.coefficients[0],
            model.any.coefficients[1],
            model.amount.intercept,
            model.amount.coefficients[0],
            model.amount.coefficients[1],
            model.smearing,
            model.predict(&inputs)[17],
        ];
        let expected = [
            0.092_670_7,
            1.427_762_2,
            1.331_004_2,
            1.246_674_2,
            0.231_819_0,
            -0.520_658_8,
            1.022_447_9,
            0.326_585_7,
        ];
        for (found, expected) in found.into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found} instead of {expected}");
        }
    }

    #[test]
    fn inputs_beyond_the_fit_are_clipped_to_it() {
        let (inputs, spend) = rows();
        let model = Hurdle::fit(&inputs, &spend).unwrap().unwrap();
        let greatest = |i: usize| (0..200).map(|row| inputs.row(row)[i]).fold(f64::MIN, f64::max);
        let at = |row: [f64; 2]| model.predict(&Matrix::of(2, row.to_vec(), 1))[0];
        assert_eq!(at([1e9, 0.5]), at([greatest(0), 0.5]));
    }

    #[test]
    fn too_few_purchases_fit_nothing_and_too_few_others_give_a_share() {
        let (inputs, mut spend) = rows();
        let mut few = spend.clone();
        few[19..].fill(0.0);
        assert_eq!(Hurdle::fit(&inputs, &few).unwrap(), None);
        spend.iter_mut().for_each(|spend| *spend += 1.0);
        let model = Hurdle::fit(&inputs, &spend).unwrap().unwrap();
        assert_eq!(model.any.coefficients, [0.0, 0.0]);
        assert!(model.any.intercept > 5.0);
    }
}

//! L2-penalized logistic regression by Newton's method. If that does not converge, linfa-logistic is used
//! with additional checks.
//!
//! linfa takes the majority class as positive, returns `Ok` if it has not converged, panics if the number
//! of columns is wrong, and stops at an absolute gradient of a summed loss. This module names the
//! positive class, checks convergence and the number of columns, and lets the tolerance grow with the
//! number of rows. linfa's L-BFGS starts where Newton's method ended. Tests check that both end at the
//! same solution.

use linfa::prelude::{DatasetBase, Fit};
use linfa_logistic::LogisticRegression;
use ndarray::{Array1, ArrayView2};
use serde::{Deserialize, Serialize};

use super::logit::logit;
use super::matrix::Matrix;
use super::newton::Objective;
use crate::error::{Error, Result};

/// The maximum number of L-BFGS iterations, after which a fit fails.
const ITERATIONS: u64 = 500;
/// The greatest gradient component per row at which a fit has converged.
const TOLERANCE: f64 = 1e-5;

const CONTEXT: &str = "fitting a logistic model";

fn fault(message: String) -> Error {
    Error::engine(CONTEXT)(message)
}

/// A fitted model: logit = intercept + coefficients . x.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logistic {
    /// The logit of a row of zeros.
    pub intercept: f64,
    /// One coefficient per column.
    pub coefficients: Vec<f64>,
}

impl Logistic {
    /// Fits P(y = true) by minimizing the mean log loss + l2 / 2 x |coefficients|^2. The intercept is not
    /// penalized.
    ///
    /// A `start` near the solution, such as the fit with a neighbouring penalty, saves most of the
    /// iterations. linfa is used only if Newton's method has not converged and the class weights are
    /// equal, because linfa does not support class weights.
    ///
    /// # Errors
    /// Returns an engine error if all labels are of one class, which training rules out, or if there are
    /// not as many labels as rows, if a value is not finite, or if the fit does not converge.
    pub fn fit(objective: Objective, start: Option<&Self>) -> Result<Self> {
        Self::fit_to(objective, start, None)
    }

    /// Fits to the accuracy that convergence requires and no further, which is enough to compare fits.
    ///
    /// # Errors
    /// Returns the errors of [`Logistic::fit`].
    pub fn roughly(objective: Objective, start: Option<&Self>) -> Result<Self> {
        Self::fit_to(objective, start, Some(TOLERANCE))
    }

    fn fit_to(objective: Objective, start: Option<&Self>, tolerance: Option<f64>) -> Result<Self> {
        let Objective { rows, labels, class_weights, l2 } = objective;
        let count = labels.len();
        if rows.len() != count {
            return Err(fault(format!("{} rows but {count} labels", rows.len())));
        }
        if rows.values.iter().any(|value| !value.is_finite()) {
            return Err(fault("an input is not finite".into()));
        }
        let positives = labels.iter().filter(|label| **label).count();
        if positives == 0 || positives == count {
            return Err(fault(format!("all {count} labels are {}", positives > 0)));
        }
        let prior =
            logit(positives as f64 / count as f64) + (class_weights[1] / class_weights[0]).ln();
        if rows.width == 0 {
            return Ok(Self { intercept: prior, coefficients: Vec::new() });
        }
        let start = start.filter(|start| start.coefficients.len() == rows.width);
        let weights = match start {
            Some(start) => [start.coefficients.as_slice(), &[start.intercept]].concat(),
            None => [vec![0.0; rows.width], vec![prior]].concat(),
        };
        let least = match tolerance {
            Some(tolerance) => objective.minimize_to(weights, tolerance),
            None => objective.minimize(weights),
        };
        if least.gradient <= TOLERANCE {
            let (coefficients, intercept) = least.weights.split_at(rows.width);
            return Ok(Self { intercept: intercept[0], coefficients: coefficients.to_vec() });
        }
        if class_weights[0] != class_weights[1] {
            return Err(fault(format!("no convergence (gradient {:.2e} per row)", least.gradient)));
        }
        Self::by_linfa(ITERATIONS, rows, labels, l2, Some(least.weights))
    }

    /// Fits with linfa from `start`, which has the coefficients followed by the intercept.
    fn by_linfa(
        iterations: u64,
        rows: &Matrix,
        labels: &[bool],
        l2: f64,
        start: Option<Vec<f64>>,
    ) -> Result<Self> {
        let count = labels.len();
        let records = ArrayView2::from_shape((count, rows.width), &rows.values)
            .map_err(Error::engine(CONTEXT))?;
        let targets = Array1::from_iter(labels.iter().copied());
        let dataset = DatasetBase::new(records, targets);
        let mut parameters = LogisticRegression::default()
            .alpha(l2 * count as f64)
            .max_iterations(iterations)
            .gradient_tolerance(TOLERANCE * 0.5 * count as f64);
        if let Some(start) = start {
            // linfa solves for its own positive class: the majority, or the class of the first row in a
            // tie.
            let positives = labels.iter().filter(|label| **label).count();
            let negatives = count - positives;
            let ours = positives > negatives || positives == negatives && labels[0];
            let sign = if ours { 1.0 } else { -1.0 };
            parameters = parameters.initial_params(start.iter().map(|w| sign * w).collect());
        }
        let fitted = parameters.fit(&dataset).map_err(|error| fault(error.to_string()))?;
        // linfa calls the class with more rows positive. Here it is always `true`.
        let sign = if fitted.labels().pos.class { 1.0 } else { -1.0 };
        let model = Self {
            intercept: sign * fitted.intercept(),
            coefficients: fitted.params().iter().map(|w| sign * w).collect(),
        };
        let objective = Objective { rows, labels, class_weights: [1.0; 2], l2 };
        let weights = [model.coefficients.as_slice(), &[model.intercept]].concat();
        let gradient = objective.gradient(weights);
        if gradient.is_nan() || gradient > TOLERANCE {
            return Err(fault(format!(
                "no convergence in {iterations} iterations (gradient {gradient:.2e} per row)"
            )));
        }
        Ok(model)
    }

    /// Computes the logit of one row.
    ///
    /// # Panics
    /// Panics if the number of columns of the row differs from that of the model. Callers check artifacts
    /// when they load them.
    pub fn logit(&self, row: &[f64]) -> f64 {
        assert_eq!(row.len(), self.coefficients.len(), "columns of a row and of its model");
        self.intercept + row.iter().zip(&self.coefficients).map(|(x, w)| x * w).sum::<f64>()
    }

    /// Computes the logits of all rows.
    pub fn logits(&self, rows: &Matrix) -> Vec<f64> {
        if rows.width == 0 {
            return vec![self.intercept; rows.len()];
        }
        (0..rows.len()).map(|row| self.logit(rows.row(row))).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::models::logit::sigmoid;

    fn plain(
        rows: &Matrix,
        labels: &[bool],
        l2: f64,
        start: Option<&Logistic>,
    ) -> Result<Logistic> {
        Logistic::fit(Objective { rows, labels, class_weights: [1.0; 2], l2 }, start)
    }

    fn matrix(rows: &[[f64; 2]]) -> Matrix {
        let mut matrix = Matrix::new(2);
        rows.iter().for_each(|row| matrix.push(*row));
        matrix
    }

    /// The expected values are from scikit-learn 1.x: LogisticRegression(C=1/(l2*n), tol=1e-10,
    /// max_iter=10000) on these eight rows with l2 = 0.1.
    #[test]
    fn equals_scikit_learn() {
        let rows = matrix(&[
            [0.5, 1.2],
            [-1.0, 0.3],
            [1.5, -0.7],
            [0.2, 0.1],
            [-0.4, -1.5],
            [2.0, 0.9],
            [-1.3, 1.1],
            [0.7, -0.2],
        ]);
        let labels = [true, false, true, false, false, true, false, true];
        let model = plain(&rows, &labels, 0.1, None).unwrap();
        let expected = [1.414659590, 0.346620011, -0.405038538];
        let found = [model.coefficients[0], model.coefficients[1], model.intercept];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-7, "{found} {expected}");
        }
    }

    /// The expected values are from scikit-learn 1.9.1: LogisticRegression(C=1/l2, tol=1e-12,
    /// solver="newton-cholesky") on a thousand rows of eight columns with unequal scales, which a formula
    /// gives, without and with class_weight="balanced". The intercept comes first.
    #[test]
    fn equals_scikit_learn_on_many_rows() {
        const BETA: [f64; 8] = [0.8, -0.5, 0.3, 0.0, -0.2, 0.1, 0.05, -0.15];
        let (mut rows, mut labels) = (Matrix::new(8), Vec::new());
        for i in 0..1000_u32 {
            let x: [f64; 8] = std::array::from_fn(|j| {
                let j = j as f64;
                ((f64::from(i) + 1.0) * (j + 1.0) * 0.7 + j * j * 0.3).sin() * (1.0 + j)
            });
            let z = x.iter().zip(BETA).map(|(x, b)| x * b).sum::<f64>() - 0.7;
            rows.push(x);
            labels.push((f64::from(i * 7919 % 1009) + 0.5) / 1009.0 < sigmoid(z));
        }
        let balanced = {
            let positives = labels.iter().filter(|label| **label).count() as f64;
            [500.0 / (1000.0 - positives), 500.0 / positives]
        };
        for (l2, class_weights, expected) in [
            (
                1.0,
                [1.0; 2],
                [
                    -0.6790831407,
                    0.7619835522,
                    -0.4770956999,
                    0.2996146961,
                    -0.0063029599,
                    -0.1956612836,
                    0.0791999877,
                    0.0411732098,
                    -0.1527648336,
                ],
            ),
            (
                100.0,
                [1.0; 2],
                [
                    -0.6255150903,
                    0.3467238986,
                    -0.3531657539,
                    0.2508448677,
                    -0.0103073157,
                    -0.1790713472,
                    0.0717512328,
                    0.0364419329,
                    -0.1374568370,
                ],
            ),
            (
                10.0,
                balanced,
                [
                    -0.2367006082,
                    0.6885067413,
                    -0.4580157084,
                    0.2938098449,
                    -0.0063228290,
                    -0.1941097640,
                    0.0771896740,
                    0.0406146754,
                    -0.1499771947,
                ],
            ),
        ] {
            let l2 = l2 / 1000.0;
            let objective = Objective { rows: &rows, labels: &labels, class_weights, l2 };
            let model = Logistic::fit(objective, None).unwrap();
            let found = std::iter::once(&model.intercept).chain(&model.coefficients);
            for (found, expected) in found.zip(expected) {
                assert!((found - expected).abs() < 1e-6, "L2 {l2}: {found} {expected}");
            }
        }
    }

    /// linfa takes the majority as the positive class. Here it is `true` in either case.
    #[test]
    fn the_positive_class_is_true_whatever_its_share() {
        let rows = matrix(&[[1.0, 0.0], [2.0, 0.1], [3.0, 0.0], [-1.0, 0.2], [0.5, 0.0]]);
        for labels in [[true, true, true, false, false], [false, true, true, false, false]] {
            let model = plain(&rows, &labels, 0.01, None).unwrap();
            assert!(model.coefficients[0] > 0.0, "{labels:?}: {model:?}");
        }
    }

    /// A start changes the number of iterations but not the solution, for either positive class of linfa.
    #[test]
    fn a_start_does_not_move_the_solution() {
        let rows =
            matrix(&[[0.5, 1.2], [-1.0, 0.3], [1.5, -0.7], [0.2, 0.1], [-0.4, -1.5], [2.0, 0.9]]);
        for positives in 1..=5 {
            let labels: Vec<bool> = (0..6).map(|i| (i * 5 + 1) % 6 < positives).collect();
            let cold = plain(&rows, &labels, 0.1, None).unwrap();
            let near = plain(&rows, &labels, 0.05, None).unwrap();
            let warm = plain(&rows, &labels, 0.1, Some(&near)).unwrap();
            for (a, b) in cold.coefficients.iter().zip(&warm.coefficients) {
                assert!((a - b).abs() < 1e-3, "{cold:?} {warm:?}");
            }
        }
    }

    /// Newton's method and linfa without a start find the same solution, even with nearly equal columns.
    #[test]
    fn equals_linfa_from_nowhere() {
        let mut random = ChaCha8Rng::seed_from_u64(20);
        let (mut rows, mut labels) = (Matrix::new(6), Vec::new());
        for _ in 0..5_000 {
            let x: [f64; 3] = std::array::from_fn(|_| random.random_range(-2.0..2.0));
            let near = x.map(|x| x + random.random_range(-0.05..0.05));
            rows.push(x.into_iter().chain(near));
            labels.push(random.random_bool(sigmoid(x[0] - 2.0 * near[1] - 1.0)));
        }
        for l2 in [1e-1, 1e-3] {
            let ours = plain(&rows, &labels, l2, None).unwrap();
            let linfas = Logistic::by_linfa(ITERATIONS, &rows, &labels, l2, None).unwrap();
            for (a, b) in ours.coefficients.iter().zip(&linfas.coefficients) {
                assert!((a - b).abs() < 1e-2, "{ours:?} {linfas:?}");
            }
            for (a, b) in ours.logits(&rows).iter().zip(linfas.logits(&rows)) {
                assert!((a - b).abs() < 1e-3, "{a} {b}");
            }
        }
    }

    /// linfa's tolerance applies to a summed gradient, so it would never be reached on many rows, and too
    /// early on few rows. Here it is per row, so repeating the rows changes nothing.
    #[test]
    fn the_tolerance_is_per_row() {
        let few = [[0.5, 1.2], [-1.0, 0.3], [1.5, -0.7], [0.2, 0.1], [-0.4, -1.5], [2.0, 0.9]];
        let labels = [true, false, true, false, true, false];
        let fit = |times: usize| {
            let rows = matrix(&few.repeat(times));
            Logistic::by_linfa(ITERATIONS, &rows, &labels.repeat(times), 0.01, None).unwrap()
        };
        let (once, often) = (fit(1), fit(5_000));
        for (a, b) in once.coefficients.iter().zip(&often.coefficients) {
            assert!((a - b).abs() < 1e-3, "{once:?} {often:?}");
        }
    }

    /// linfa returns `Ok` if it stops early. Here that is an error.
    #[test]
    fn a_fit_that_does_not_converge_is_an_error() {
        let rows = matrix(&[[3.0, 0.1], [-2.0, 5.0], [0.5, -7.0], [1.0, 1.0]]);
        let labels = [true, false, false, true];
        assert!(Logistic::by_linfa(ITERATIONS, &rows, &labels, 0.01, None).is_ok());
        let error = Logistic::by_linfa(1, &rows, &labels, 0.01, None).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("no convergence in 1 iterations"), "{cause}");
    }

    /// If every input is constant, the prior is the model.
    #[test]
    fn without_columns_the_prior_is_left() {
        let mut rows = Matrix::new(0);
        (0..4).for_each(|_| rows.push([]));
        let model = plain(&rows, &[true, false, false, false], 0.1, None).unwrap();
        for found in model.logits(&rows) {
            assert!((sigmoid(found) - 0.25).abs() < 1e-12);
        }
        assert_eq!(model.logits(&rows).len(), 4);
    }

    /// linfa panics if the number of rows or columns is wrong. Here that is an error.
    #[test]
    fn wrong_shapes_and_single_classes_are_errors() {
        let rows = matrix(&[[1.0, 0.0], [-1.0, 0.0]]);
        assert!(plain(&rows, &[true], 0.1, None).is_err());
        assert!(plain(&rows, &[true, true], 0.1, None).is_err());
    }

    #[test]
    fn sigmoid_and_logit_are_inverse() {
        for p in [1e-9, 0.2, 0.5, 0.9] {
            assert!((sigmoid(logit(p)) - p).abs() < 1e-12);
        }
        assert_eq!(sigmoid(-1e9), 0.0);
        assert_eq!(sigmoid(1e9), 1.0);
    }
}

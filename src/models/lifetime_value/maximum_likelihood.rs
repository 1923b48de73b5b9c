//! Maximum likelihood by BFGS from several starts, over the logarithms of positive parameters.

use std::sync::Mutex;

use argmin::core::{CostFunction, Executor, Gradient, State, TerminationReason, TerminationStatus};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::BFGS;
use serde::{Deserialize, Serialize};

use crate::models::cholesky;

/// The maximum number of iterations from one start.
const ITERATIONS: u64 = 500;
/// The norm of the gradient of the mean negative log-likelihood below which a start has converged.
const TOLERANCE: f64 = 1e-7;
/// The greatest absolute logarithm of a parameter that is within bounds.
const BOUND: f64 = 30.0;
/// The step of the differences of gradients that approximate the second derivatives.
const STEP: f64 = 1e-4;

/// A mean negative log-likelihood to minimize.
pub trait Likelihood: Sync {
    /// Computes the value, and its gradient with respect to the logarithm of each parameter.
    fn evaluate(&self, parameters: &[f64]) -> (f64, Vec<f64>);

    /// The number of rows that the mean is over.
    fn rows(&self) -> f64;
}

/// One start of a fit with its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The parameters at the start.
    pub from: Vec<f64>,
    /// The log-likelihood at the end, summed over rows; `None` if the fit from this start failed.
    pub log_likelihood: Option<f64>,
    /// The number of iterations.
    pub iterations: u64,
    /// Whether the gradient vanished.
    pub converged: bool,
}

/// The best result over all starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fit {
    /// The parameters, which are all positive.
    pub parameters: Vec<f64>,
    /// The standard error of each parameter, by the observed information and the delta method; `None` if
    /// the likelihood is flat at the solution.
    pub standard_errors: Option<Vec<f64>>,
    /// The log-likelihood, summed over rows.
    pub log_likelihood: f64,
    /// The number of rows.
    pub rows: f64,
    /// Whether the gradient vanished.
    pub converged: bool,
    /// All starts that were tried.
    pub starts: Vec<Start>,
}

/// The last parameters with their value and gradient. The solver asks for the value and the gradient of
/// the same point in separate calls.
type Last = Mutex<Option<(Vec<f64>, f64, Vec<f64>)>>;

struct Problem<'a> {
    likelihood: &'a dyn Likelihood,
    last: &'a Last,
}

impl Problem<'_> {
    fn at(&self, logarithms: &[f64]) -> (f64, Vec<f64>) {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((point, value, gradient)) = &*last
            && point == logarithms
        {
            return (*value, gradient.clone());
        }
        let (value, gradient) = evaluate(self.likelihood, logarithms);
        *last = Some((logarithms.to_vec(), value, gradient.clone()));
        (value, gradient)
    }
}

/// Evaluates the likelihood at the logarithms of parameters. Beyond the bounds a quadratic penalty leads
/// the solver back.
fn evaluate(likelihood: &dyn Likelihood, logarithms: &[f64]) -> (f64, Vec<f64>) {
    let inside: Vec<f64> = logarithms.iter().map(|z| z.clamp(-BOUND, BOUND).exp()).collect();
    let (mut value, mut gradient) = likelihood.evaluate(&inside);
    for (slope, z) in gradient.iter_mut().zip(logarithms) {
        let beyond = z - z.clamp(-BOUND, BOUND);
        value += beyond * beyond;
        *slope += 2.0 * beyond;
    }
    (value, gradient)
}

impl CostFunction for Problem<'_> {
    type Param = Vec<f64>;
    type Output = f64;
    fn cost(&self, logarithms: &Vec<f64>) -> Result<f64, argmin::core::Error> {
        Ok(self.at(logarithms).0)
    }
}

impl Gradient for Problem<'_> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;
    fn gradient(&self, logarithms: &Vec<f64>) -> Result<Vec<f64>, argmin::core::Error> {
        Ok(self.at(logarithms).1)
    }
}

/// Maximizes the likelihood from each of `starts`. Returns `None` if the fit fails from all of them.
pub fn maximize(likelihood: &dyn Likelihood, starts: &[Vec<f64>]) -> Option<Fit> {
    let rows = likelihood.rows();
    let mut tried = Vec::new();
    let mut best: Option<(f64, Vec<f64>, bool)> = None;
    for from in starts {
        let end = from_one(likelihood, from);
        let (log_likelihood, iterations, converged) = match &end {
            Some((value, _, iterations, converged)) => {
                (Some(-value * rows), *iterations, *converged)
            }
            None => (None, 0, false),
        };
        tried.push(Start { from: from.clone(), log_likelihood, iterations, converged });
        if let Some((value, point, _, converged)) = end
            && best.as_ref().is_none_or(|(least, ..)| value < *least)
        {
            best = Some((value, point, converged));
        }
    }
    let (value, logarithms, converged) = best?;
    let parameters: Vec<f64> = logarithms.iter().map(|z| z.exp()).collect();
    let standard_errors = standard_errors(likelihood, &logarithms);
    let log_likelihood = -value * rows;
    Some(Fit { parameters, standard_errors, log_likelihood, rows, converged, starts: tried })
}

/// Minimizes from one start. Returns the value, the logarithms of the parameters, the iterations, and
/// whether the gradient vanished.
fn from_one(likelihood: &dyn Likelihood, from: &[f64]) -> Option<(f64, Vec<f64>, u64, bool)> {
    let last = Last::default();
    let first: Vec<f64> = from.iter().map(|value| value.ln()).collect();
    let size = first.len();
    let identity: Vec<Vec<f64>> =
        (0..size).map(|i| (0..size).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    let solver = BFGS::new(MoreThuenteLineSearch::new())
        .with_tolerance_grad(TOLERANCE)
        .and_then(|solver| solver.with_tolerance_cost(0.0))
        .ok()?;
    let executor = Executor::new(Problem { likelihood, last: &last }, solver);
    let configured = executor
        .configure(|state| state.param(first).inv_hessian(identity).max_iters(ITERATIONS))
        .timer(false);
    // The solver returns an error if a line search ends in rounding. The last point it evaluated is then
    // used.
    let (iterations, stopped) = match configured.run() {
        Ok(result) => {
            let state = result.state();
            let converged = matches!(
                state.get_termination_status(),
                TerminationStatus::Terminated(TerminationReason::SolverConverged)
            );
            let best = state.get_best_param().cloned();
            (state.get_iter(), best.map(|point| (point, converged)))
        }
        Err(_) => (0, None),
    };
    let last = last.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (point, said) = stopped.or_else(|| last.map(|(point, ..)| (point, false)))?;
    let (value, gradient) = evaluate(likelihood, &point);
    let norm = gradient.iter().map(|slope| slope * slope).sum::<f64>().sqrt();
    let inside = point.iter().all(|z| z.abs() < BOUND);
    let converged = inside && (said || norm < 10.0 * TOLERANCE);
    value.is_finite().then_some((value, point, iterations, converged))
}

/// Computes the square roots of the diagonal of the inverse of the second derivatives, times the
/// parameters.
fn standard_errors(likelihood: &dyn Likelihood, logarithms: &[f64]) -> Option<Vec<f64>> {
    let size = logarithms.len();
    let mut information = vec![0.0; size * size];
    for j in 0..size {
        let moved = |by: f64| {
            let mut point = logarithms.to_vec();
            point[j] += by;
            evaluate(likelihood, &point).1
        };
        let (up, down) = (moved(STEP), moved(-STEP));
        for i in 0..size {
            let second = (up[i] - down[i]) / (2.0 * STEP) * likelihood.rows();
            information[i * size + j] += second / 2.0;
            information[j * size + i] += second / 2.0;
        }
    }
    let mut errors = Vec::new();
    for (j, logarithm) in logarithms.iter().enumerate() {
        let mut unit = vec![0.0; size];
        unit[j] = 1.0;
        cholesky::solve(&mut information.clone(), &mut unit, size);
        // The result is meaningless if the matrix is not positive definite.
        let variance = unit[j];
        if !(variance > 0.0 && variance < 1e6) {
            return None;
        }
        errors.push(variance.sqrt() * logarithm.exp());
    }
    Some(errors)
}

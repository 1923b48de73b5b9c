//! Newton's method for the L2-penalized log loss.
//!
//! The windows of one feature are nearly collinear. L-BFGS then passes over the rows hundreds of
//! times where Newton, who knows the curvature, passes ten times. Sums are taken over blocks of a
//! fixed number of rows and added in the order of the blocks: threads never change a bit.

use ndarray::Array2;
use rayon::prelude::*;

use super::cholesky;
use super::logistic::sigmoid;
use super::preprocessing::Matrix;

/// Rows whose sums are taken together.
const BLOCK: usize = 1 << 12;
/// Steps at most; a handful suffices unless the classes are separable.
const STEPS: usize = 50;
/// The greatest gradient component, per row, of a solution.
const TOLERANCE: f64 = 1e-9;
/// A step is halved so often at most before it counts as no progress.
const HALVINGS: usize = 30;
/// The share of the decrease promised by the gradient that a step must bring (Armijo's condition;
/// Nocedal and Wright, Numerical Optimization, 2006, section 3.1).
const DECREASE: f64 = 1e-4;

/// The mean log loss with its penalty at some weights, and its derivatives.
struct Point {
    weights: Vec<f64>,
    loss: f64,
    gradient: Vec<f64>,
    /// Row after row, of as many rows as there are weights.
    hessian: Vec<f64>,
}

/// Minimizes mean log loss + l2 / 2 x |coefficients|^2 from `start`, coefficients and then the
/// intercept, which is not penalized; gives the weights in the same order. They are the best that
/// was found, converged or not.
pub fn minimize(rows: &Matrix, labels: &[bool], l2: f64, start: Vec<f64>) -> Vec<f64> {
    let mut point = evaluate(rows, labels, l2, start);
    for _ in 0..STEPS {
        if point.gradient.iter().all(|g| g.abs() <= TOLERANCE) {
            break;
        }
        match descend(rows, labels, l2, &point) {
            Some(next) => point = next,
            None => break,
        }
    }
    point.weights
}

/// The point after one damped step; None where no length of it lowers the loss.
fn descend(rows: &Matrix, labels: &[bool], l2: f64, point: &Point) -> Option<Point> {
    let mut step = point.gradient.clone();
    cholesky::solve(&mut point.hessian.clone(), &mut step, point.weights.len());
    let promised: f64 = step.iter().zip(&point.gradient).map(|(s, g)| s * g).sum();
    let mut length = 1.0;
    for _ in 0..HALVINGS {
        let weights = point.weights.iter().zip(&step).map(|(w, s)| w - length * s).collect();
        let next = evaluate(rows, labels, l2, weights);
        if next.loss <= point.loss - DECREASE * length * promised {
            return Some(next);
        }
        length /= 2.0;
    }
    None
}

fn evaluate(rows: &Matrix, labels: &[bool], l2: f64, weights: Vec<f64>) -> Point {
    let size = weights.len();
    let blocks: Vec<(f64, Vec<f64>, Array2<f64>)> = rows
        .values
        .par_chunks(BLOCK * rows.width)
        .zip(labels.par_chunks(BLOCK))
        .map(|(rows, labels)| block(rows, labels, &weights))
        .collect();
    let (mut loss, mut gradient, mut hessian) = (0.0, vec![0.0; size], vec![0.0; size * size]);
    for (block_loss, block_gradient, block_hessian) in blocks {
        loss += block_loss;
        gradient.iter_mut().zip(block_gradient).for_each(|(sum, g)| *sum += g);
        hessian.iter_mut().zip(block_hessian).for_each(|(sum, h)| *sum += h);
    }
    let count = labels.len() as f64;
    loss /= count;
    gradient.iter_mut().for_each(|g| *g /= count);
    hessian.iter_mut().for_each(|h| *h /= count);
    for i in 0..rows.width {
        loss += l2 / 2.0 * weights[i] * weights[i];
        gradient[i] += l2 * weights[i];
        hessian[i * size + i] += l2;
    }
    Point { weights, loss, gradient, hessian }
}

/// Sums over some rows: log loss, gradient, Hessian (X' W X with W = p (1 - p)).
fn block(rows: &[f64], labels: &[bool], weights: &[f64]) -> (f64, Vec<f64>, Array2<f64>) {
    let width = weights.len() - 1;
    let mut loss = 0.0;
    let mut gradient = vec![0.0; width + 1];
    let mut scaled = Array2::zeros((labels.len(), width + 1));
    let lines = rows.chunks_exact(width).zip(labels).zip(scaled.outer_iter_mut());
    for ((x, label), mut scaled) in lines {
        let logit = weights[width] + x.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>();
        let (p, y) = (sigmoid(logit), f64::from(u8::from(*label)));
        // ln(1 + e^logit) - y logit, without overflow.
        loss += logit.max(0.0) + (-logit.abs()).exp().ln_1p() - y * logit;
        let root = (p * (1.0 - p)).sqrt();
        for ((x, g), s) in x.iter().chain([&1.0]).zip(&mut gradient).zip(&mut scaled) {
            *g += (p - y) * x;
            *s = root * x;
        }
    }
    let hessian = scaled.t().dot(&scaled);
    (loss, gradient, hessian)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gradient and Hessian against central differences of the loss, over more than one block.
    #[test]
    fn derivatives_are_those_of_the_loss() {
        let mut rows = Matrix::new(2);
        let mut labels = Vec::new();
        for i in 0..BLOCK + 7 {
            let x = (i as f64 * 0.7).sin();
            rows.push([x, (i as f64 * 0.3).cos() + x]);
            labels.push(i % 3 == 0 || x > 0.6);
        }
        let at = |weights: [f64; 3]| evaluate(&rows, &labels, 0.2, weights.to_vec());
        let point = at([0.4, -0.8, 0.1]);
        let step = 1e-5;
        for i in 0..3 {
            let moved = |sign: f64| {
                let mut weights = [0.4, -0.8, 0.1];
                weights[i] += sign * step;
                at(weights)
            };
            let (up, down) = (moved(1.0), moved(-1.0));
            let slope = (up.loss - down.loss) / (2.0 * step);
            assert!((slope - point.gradient[i]).abs() < 1e-8, "{i}");
            for j in 0..3 {
                let curvature = (up.gradient[j] - down.gradient[j]) / (2.0 * step);
                assert!((curvature - point.hessian[i * 3 + j]).abs() < 1e-8, "{i} {j}");
            }
        }
    }

    /// Separable classes have no finite optimum without a penalty; with one, Newton finds it.
    #[test]
    fn separable_classes_converge() {
        let mut rows = Matrix::new(1);
        let labels: Vec<bool> = (0..200).map(|i| i >= 100).collect();
        (0..200).for_each(|i| rows.push([f64::from(i) - 99.5]));
        let weights = minimize(&rows, &labels, 1e-4, vec![0.0, 3.0]);
        let point = evaluate(&rows, &labels, 1e-4, weights);
        assert!(point.gradient.iter().all(|g| g.abs() <= 1e-8), "{:?}", point.gradient);
    }
}

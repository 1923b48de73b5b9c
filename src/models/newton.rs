//! Newton's method for the L2-penalized log loss.
//!
//! The windows of one feature are nearly collinear. L-BFGS then needs hundreds of passes over the rows,
//! where Newton's method, which uses the curvature, needs about ten. The Hessian costs far more than the
//! gradient, so it is kept for as long as steps with it shrink the gradient fast (the chord method; Kelley,
//! Iterative Methods for Linear and Nonlinear Equations, 1995, section 5.4). Sums are over blocks of a fixed
//! number of rows and are added in the order of the blocks, so the result does not depend on the number of
//! threads.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::cholesky;
use super::logit::sigmoid;
use super::matrix::Matrix;

/// The number of rows in one partial sum.
const BLOCK: usize = 1 << 10;
/// The number of rows above which the method starts on a part of the rows to come near the solution, and
/// the step with which these rows are taken.
const COARSE_FROM: usize = 1 << 16;
const COARSE_STEP: usize = 16;
/// The greatest gradient component at which the solution on a part of the rows is near enough.
const COARSE_TOLERANCE: f64 = 1e-4;
/// The maximum number of steps. A handful is enough unless the classes are separable.
const STEPS: usize = 100;
/// The factor by which a step must shrink the gradient for the next step to use the same Hessian.
const FAST: f64 = 0.1;
/// The share of the loss below which a difference of losses is rounding.
const ROUNDING: f64 = 1e-13;
/// The greatest gradient component, per row, at a solution.
const TOLERANCE: f64 = 1e-9;
/// The maximum number of times that a step is halved before it counts as no progress.
const HALVINGS: usize = 30;
/// The share of the decrease predicted by the gradient that a step must reach (Armijo's condition;
/// Nocedal and Wright, Numerical Optimization, 2006, section 3.1).
const DECREASE: f64 = 1e-4;

/// The result of a minimization.
#[derive(Debug, Clone, PartialEq)]
pub struct Least {
    /// The coefficients, followed by the intercept.
    pub weights: Vec<f64>,
    /// The greatest absolute component of the gradient at these weights; NaN if a component is not a
    /// number.
    pub gradient: f64,
}

/// The penalized mean log loss at some weights, with its derivatives.
struct Point {
    weights: Vec<f64>,
    loss: f64,
    gradient: Vec<f64>,
}

impl Point {
    fn steepest(&self) -> f64 {
        let steeper = |a: f64, b: f64| if b.is_nan() || b > a { b } else { a };
        self.gradient.iter().map(|g| g.abs()).fold(0.0, steeper)
    }
}

/// The objective to minimize: the weighted mean log loss + l2 / 2 x |coefficients|^2.
#[derive(Debug, Clone, Copy)]
pub struct Objective<'a> {
    /// The standardized columns.
    pub rows: &'a Matrix,
    /// The labels.
    pub labels: &'a [bool],
    /// The weights of rows with y = 0 and with y = 1.
    pub class_weights: [f64; 2],
    /// The strength of the penalty, which does not apply to the intercept.
    pub l2: f64,
}

impl Objective<'_> {
    /// Minimizes the objective from `start`, which has the coefficients followed by the intercept.
    /// Returns the best weights that were found in the same order, even if the method has not converged.
    pub fn minimize(&self, start: Vec<f64>) -> Least {
        self.minimize_to(start, TOLERANCE)
    }

    /// Minimizes the objective like [`Objective::minimize`], but only until no component of the gradient
    /// is above `tolerance`.
    pub fn minimize_to(&self, start: Vec<f64>, tolerance: f64) -> Least {
        let start = if self.labels.len() > COARSE_FROM { self.coarse(start) } else { start };
        self.descend(start, tolerance)
    }

    /// Computes the greatest absolute component of the gradient at some weights.
    pub fn gradient(&self, weights: Vec<f64>) -> f64 {
        self.evaluate(weights).steepest()
    }

    /// Computes the standard errors of the weights at the minimum, with rows grouped by `clusters`.
    ///
    /// Rows of one cluster, such as those of one customer, are not independent of each other. The
    /// variance is the product of the inverse penalized Hessian, the sum of the outer products of the
    /// clusters' gradients, and the inverse Hessian again (Liang and Zeger 1986).
    pub fn standard_errors(&self, weights: Vec<f64>, clusters: &[u64]) -> Vec<f64> {
        let size = weights.len();
        let mut order: Vec<usize> = (0..self.labels.len()).collect();
        order.sort_by_key(|row| clusters[*row]);
        let mut scores = Matrix::new(size);
        let mut sum = vec![0.0; size];
        for (i, row) in order.iter().enumerate() {
            let x = self.rows.row(*row);
            let label = self.labels[*row];
            let logit = weights[size - 1] + x.iter().zip(&weights).map(|(x, w)| x * w).sum::<f64>();
            let weight = self.class_weights[usize::from(label)];
            let residual = weight * (sigmoid(logit) - f64::from(u8::from(label)));
            x.iter().chain([&1.0]).zip(&mut sum).for_each(|(x, sum)| *sum += residual * x);
            if order.get(i + 1).is_none_or(|next| clusters[*next] != clusters[*row]) {
                scores.push(std::mem::replace(&mut sum, vec![0.0; size]));
            }
        }
        let total = self.total_weight();
        let middle: Vec<f64> = scores
            .correlations()
            .into_iter()
            .map(|c| c * scores.len() as f64 / (total * total))
            .collect();
        let hessian = self.hessian(&weights);
        // The diagonal of H^-1 M H^-1, from the rows of H^-1.
        let solve = |mut right: Vec<f64>| {
            cholesky::solve(&mut hessian.clone(), &mut right, size);
            right
        };
        let inverse: Vec<Vec<f64>> = (0..size)
            .map(|i| solve((0..size).map(|j| f64::from(u8::from(i == j))).collect()))
            .collect();
        inverse
            .iter()
            .map(|row| {
                let spread: f64 = (0..size)
                    .flat_map(|a| (0..size).map(move |b| (a, b)))
                    .map(|(a, b)| row[a] * middle[a * size + b] * row[b])
                    .sum();
                spread.max(0.0).sqrt()
            })
            .collect()
    }

    fn total_weight(&self) -> f64 {
        let positives = self.labels.iter().filter(|label| **label).count() as f64;
        let negatives = self.labels.len() as f64 - positives;
        negatives * self.class_weights[0] + positives * self.class_weights[1]
    }

    /// Minimizes the objective on every n-th row, which comes near the minimum on all rows.
    fn coarse(&self, start: Vec<f64>) -> Vec<f64> {
        let some: Vec<usize> = (0..self.labels.len()).step_by(COARSE_STEP).collect();
        let labels: Vec<bool> = some.iter().map(|row| self.labels[*row]).collect();
        let rows = self.rows.select(&some);
        Objective { rows: &rows, labels: &labels, ..*self }.descend(start, COARSE_TOLERANCE).weights
    }

    fn descend(&self, start: Vec<f64>, tolerance: f64) -> Least {
        let mut point = self.evaluate(start);
        // The decomposed Hessian at the present or at an earlier point.
        let mut factor: Option<Vec<f64>> = None;
        for _ in 0..STEPS {
            if point.steepest() <= tolerance {
                break;
            }
            let is_new = factor.is_none();
            let own = factor.take().unwrap_or_else(|| {
                let mut hessian = self.hessian(&point.weights);
                cholesky::factor(&mut hessian, point.weights.len());
                hessian
            });
            match self.step(&point, &own) {
                Some(next) => {
                    let shrunk = next.steepest() / point.steepest();
                    factor = Some(own).filter(|_| shrunk < FAST);
                    point = next;
                }
                None if is_new => break,
                None => {}
            }
        }
        Least { gradient: point.steepest(), weights: point.weights }
    }

    /// Makes one damped step, given the decomposed Hessian. Returns `None` if no tried length of the step
    /// lowers the loss.
    fn step(&self, point: &Point, factor: &[f64]) -> Option<Point> {
        let mut step = point.gradient.clone();
        cholesky::substitute(factor, &mut step, point.weights.len());
        let promised: f64 = step.iter().zip(&point.gradient).map(|(s, g)| s * g).sum();
        let mut length = 1.0;
        for _ in 0..HALVINGS {
            let weights = point.weights.iter().zip(&step).map(|(w, s)| w - length * s).collect();
            let next = self.evaluate(weights);
            let is_equal = (next.loss - point.loss).abs() <= ROUNDING * point.loss.abs();
            if next.loss <= point.loss - DECREASE * length * promised
                || is_equal && next.steepest() < point.steepest()
            {
                return Some(next);
            }
            length /= 2.0;
        }
        None
    }

    fn evaluate(&self, weights: Vec<f64>) -> Point {
        let blocks: Vec<(f64, Vec<f64>)> =
            self.blocks(|rows, labels| slopes(rows, labels, self.class_weights, &weights));
        let (mut loss, mut gradient) = (0.0, vec![0.0; weights.len()]);
        for (block_loss, block_gradient) in blocks {
            loss += block_loss;
            gradient.iter_mut().zip(block_gradient).for_each(|(sum, g)| *sum += g);
        }
        let total = self.total_weight();
        loss /= total;
        gradient.iter_mut().for_each(|g| *g /= total);
        for i in 0..self.rows.width {
            loss += self.l2 / 2.0 * weights[i] * weights[i];
            gradient[i] += self.l2 * weights[i];
        }
        Point { weights, loss, gradient }
    }

    /// Computes the Hessian in row-major order, with as many rows as there are weights.
    fn hessian(&self, weights: &[f64]) -> Vec<f64> {
        let size = weights.len();
        let blocks: Vec<Array2<f64>> =
            self.blocks(|rows, labels| curvatures(rows, labels, self.class_weights, weights));
        let mut hessian = vec![0.0; size * size];
        for block in blocks {
            hessian.iter_mut().zip(block).for_each(|(sum, h)| *sum += h);
        }
        let total = self.total_weight();
        hessian.iter_mut().for_each(|h| *h /= total);
        (0..self.rows.width).for_each(|i| hessian[i * size + i] += self.l2);
        hessian
    }

    /// Computes something for each block of rows, in the order of the blocks.
    fn blocks<Sum: Send>(&self, of_block: impl Fn(&[f64], &[bool]) -> Sum + Sync) -> Vec<Sum> {
        let width = self.rows.width;
        let blocks = self.labels.par_chunks(BLOCK).enumerate();
        let blocks = blocks.map(|(i, labels)| {
            let first = i * BLOCK * width;
            of_block(&self.rows.values[first..first + labels.len() * width], labels)
        });
        blocks.collect()
    }
}

/// Computes sums over some rows: the log loss and its gradient.
fn slopes(
    rows: &[f64],
    labels: &[bool],
    class_weights: [f64; 2],
    weights: &[f64],
) -> (f64, Vec<f64>) {
    let width = weights.len() - 1;
    let mut loss = Loss::default();
    let mut gradient = vec![0.0; width + 1];
    let coefficients = ArrayView1::from(&weights[..width]);
    for (row, label) in labels.iter().enumerate() {
        let x = &rows[row * width..(row + 1) * width];
        let logit = weights[width] + ArrayView1::from(x).dot(&coefficients);
        let p = sigmoid(logit);
        loss.add(*label, logit, p);
        let residual = class_weights[usize::from(*label)] * (p - f64::from(u8::from(*label)));
        for (x, g) in x.iter().chain([&1.0]).zip(&mut gradient) {
            *g += residual * x;
        }
    }
    (loss.total(class_weights), gradient)
}

/// Computes the Hessian summed over some rows: X' W X with W = p (1 - p).
fn curvatures(
    rows: &[f64],
    labels: &[bool],
    class_weights: [f64; 2],
    weights: &[f64],
) -> Array2<f64> {
    let width = weights.len() - 1;
    let coefficients = ArrayView1::from(&weights[..width]);
    let mut scaled = Array2::zeros((labels.len(), width + 1));
    for ((row, label), mut scaled) in labels.iter().enumerate().zip(scaled.rows_mut()) {
        let x = ArrayView1::from(&rows[row * width..(row + 1) * width]);
        let p = sigmoid(weights[width] + x.dot(&coefficients));
        let root = (class_weights[usize::from(*label)] * p * (1.0 - p)).sqrt();
        scaled.iter_mut().zip(x.iter().chain([&1.0])).for_each(|(s, x)| *s = root * x);
    }
    square(scaled.view())
}

/// The number of columns from which a product is split.
const SPLIT: usize = 48;

/// Computes X' X. The two halves of the matrix are the same, so the upper right quarter is computed only
/// once.
fn square(x: ArrayView2<f64>) -> Array2<f64> {
    let width = x.ncols();
    if width < SPLIT {
        return x.t().dot(&x);
    }
    let (left, right) = x.split_at(Axis(1), width / 2);
    let corner = left.t().dot(&right);
    let mut out = Array2::zeros((width, width));
    let half = width / 2;
    out.slice_mut(s![..half, ..half]).assign(&square(left));
    out.slice_mut(s![half.., half..]).assign(&square(right));
    out.slice_mut(s![..half, half..]).assign(&corner);
    out.slice_mut(s![half.., ..half]).assign(&corner.t());
    out
}

/// The sum of -ln(probability of the outcome), by class. Probabilities are multiplied until the product
/// comes near the smallest double, because a logarithm costs more than the rest of the work for a row.
#[derive(Default)]
struct Loss {
    sums: [f64; 2],
    products: [Option<f64>; 2],
}

impl Loss {
    fn add(&mut self, label: bool, logit: f64, p: f64) {
        let class = usize::from(label);
        let likelihood = if label { p } else { 1.0 - p };
        if likelihood < 1e-3 {
            // ln(1 + e^-z) for the signed logit z, without the rounding of 1 - p.
            let z = if label { logit } else { -logit };
            self.sums[class] += (-z).max(0.0) + (-z.abs()).exp().ln_1p();
            return;
        }
        let product = self.products[class].unwrap_or(1.0) * likelihood;
        if product < 1e-290 {
            self.sums[class] -= product.ln();
            self.products[class] = None;
        } else {
            self.products[class] = Some(product);
        }
    }

    fn total(&self, class_weights: [f64; 2]) -> f64 {
        let of_class = |class: usize| self.sums[class] - self.products[class].unwrap_or(1.0).ln();
        class_weights[0] * of_class(0) + class_weights[1] * of_class(1)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Gradient and Hessian agree with central differences of the loss, over more than one block.
    #[test]
    fn derivatives_are_those_of_the_loss() {
        let mut rows = Matrix::new(2);
        let mut labels = Vec::new();
        for i in 0..BLOCK + 7 {
            let x = (i as f64 * 0.7).sin();
            rows.push([x, (i as f64 * 0.3).cos() + x]);
            labels.push(i % 3 == 0 || x > 0.6);
        }
        let objective = |class_weights: [f64; 2]| Objective {
            rows: &rows,
            labels: &labels,
            class_weights,
            l2: 0.2,
        };
        let at = |weights: [f64; 3]| objective([0.5, 2.0]).evaluate(weights.to_vec());
        let point = at([0.4, -0.8, 0.1]);
        let hessian = objective([0.5, 2.0]).hessian(&point.weights);
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
                assert!((curvature - hessian[i * 3 + j]).abs() < 1e-8, "{i} {j}");
            }
        }
    }

    /// Separable classes have no finite optimum without a penalty. With one, Newton's method finds it.
    #[test]
    fn separable_classes_converge() {
        let mut rows = Matrix::new(1);
        let labels: Vec<bool> = (0..200).map(|i| i >= 100).collect();
        (0..200).for_each(|i| rows.push([f64::from(i) - 99.5]));
        let objective =
            Objective { rows: &rows, labels: &labels, class_weights: [1.0; 2], l2: 1e-4 };
        let point = objective.evaluate(objective.minimize(vec![0.0, 3.0]).weights);
        assert!(point.gradient.iter().all(|g| g.abs() <= 1e-8), "{:?}", point.gradient);
    }

    /// A class with weight two gives the same fit as a class whose rows occur twice.
    #[test]
    fn weights_are_repeated_rows() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let (mut rows, mut labels) = (Matrix::new(2), Vec::new());
        let (mut repeated, mut twice) = (Matrix::new(2), Vec::new());
        for _ in 0..500 {
            let x = [random.random_range(-1.0..1.0), random.random_range(-1.0..1.0)];
            let label = random.random_bool(sigmoid(2.0 * x[0] - x[1] - 1.0));
            rows.push(x);
            labels.push(label);
            for _ in 0..1 + usize::from(label) {
                repeated.push(x);
                twice.push(label);
            }
        }
        let weighted =
            Objective { rows: &rows, labels: &labels, class_weights: [1.0, 2.0], l2: 0.01 };
        let plain =
            Objective { rows: &repeated, labels: &twice, class_weights: [1.0; 2], l2: 0.01 };
        let [a, b] = [weighted, plain].map(|objective| objective.minimize(vec![0.0; 3]).weights);
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-7), "{a:?} {b:?}");
    }

    /// Without clusters the errors are near those of the inverse Hessian, as expected if the model is
    /// true. If every row occurs four times within its cluster, the errors do not shrink by half.
    #[test]
    fn errors_know_which_rows_belong_together() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let (mut rows, mut labels, mut clusters) = (Matrix::new(2), Vec::new(), Vec::new());
        for i in 0..4000 {
            let x = [random.random_range(-2.0..2.0), random.random_range(-2.0..2.0)];
            rows.push(x);
            labels.push(random.random_bool(sigmoid(x[0] - 0.5 * x[1] + 0.3)));
            clusters.push(i);
        }
        let one = Objective { rows: &rows, labels: &labels, class_weights: [1.0; 2], l2: 1e-6 };
        let weights = one.minimize(vec![0.0; 3]).weights;
        let errors = one.standard_errors(weights.clone(), &clusters);
        let hessian = one.hessian(&weights);
        for i in 0..3 {
            let mut unit: Vec<f64> = (0..3).map(|j| f64::from(u8::from(i == j))).collect();
            cholesky::solve(&mut hessian.clone(), &mut unit, 3);
            let expected = (unit[i] / 4000.0).sqrt();
            assert!((errors[i] / expected - 1.0).abs() < 0.05, "{} {expected}", errors[i]);
        }
        let four = rows.select(&(0..16_000).map(|i| i % 4000).collect::<Vec<_>>());
        let (labels, clusters) = (labels.repeat(4), clusters.repeat(4));
        let four = Objective { rows: &four, labels: &labels, class_weights: [1.0; 2], l2: 1e-6 };
        let repeated = four.standard_errors(weights, &clusters);
        for (a, b) in errors.iter().zip(&repeated) {
            assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}");
        }
    }

    /// Starting with a part of the rows gives the same solution as starting with all of them.
    #[test]
    fn coarse_rows_do_not_move_the_solution() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let (mut rows, mut labels) = (Matrix::new(1), Vec::new());
        for _ in 0..COARSE_FROM + 1000 {
            let x = random.random_range(-2.0..2.0);
            rows.push([x]);
            labels.push(random.random_bool(sigmoid(x - 1.0)));
        }
        let all = Objective { rows: &rows, labels: &labels, class_weights: [1.0; 2], l2: 1e-3 };
        let (a, b) =
            (all.minimize(vec![0.0; 2]).weights, all.descend(vec![0.0; 2], TOLERANCE).weights);
        // Both stop when no component of the gradient is above 1e-9, which here is within 1e-7 of the
        // minimum.
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-7), "{a:?} {b:?}");
    }
}

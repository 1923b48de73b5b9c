//! Solves dense symmetric systems of up to some hundred unknowns, for least squares and Newton steps.
//!
//! The decomposition is that of linfa-linalg. Matrices are slices in row-major order.

use linfa_linalg::LinalgError;
use linfa_linalg::cholesky::CholeskyInplace;
use linfa_linalg::triangular::{SolveTriangularInplace, UPLO};
use ndarray::{ArrayView2, ArrayViewMut2, ShapeError};

/// The share of the greatest diagonal element that is first added to the diagonal of a matrix which is not
/// positive definite, and the factor by which it grows.
const RIDGE: f64 = 1e-12;
const RIDGE_GROWTH: f64 = 10.0;

/// Solves a x = b in place for a symmetric positive definite `a` of `f` rows. Only its lower half is
/// read.
pub fn solve(a: &mut [f64], b: &mut [f64], f: usize) {
    factor(a, f);
    substitute(a, b, f);
}

/// Replaces the lower half of a symmetric positive definite `a` of `f` rows by L, where a = L L'.
///
/// The penalties of the callers make their matrices positive definite. If rounding has made a matrix
/// indefinite, a little is added to its diagonal.
pub fn factor(a: &mut [f64], f: usize) {
    let given = a.to_vec();
    let greatest = (0..f).map(|i| given[i * f + i].abs()).fold(f64::MIN_POSITIVE, f64::max);
    let mut ridge = 0.0;
    loop {
        match square(a, f).cholesky_inplace_dirty() {
            Ok(_) => return,
            Err(LinalgError::NotPositiveDefinite) => {}
            Err(error) => unreachable!("a square matrix has a decomposition: {error}"),
        }
        ridge = if ridge == 0.0 { RIDGE * greatest } else { ridge * RIDGE_GROWTH };
        a.copy_from_slice(&given);
        (0..f).for_each(|i| a[i * f + i] += ridge);
    }
}

/// Solves L L' x = b in place, given the L that [`factor`] computes.
pub fn substitute(l: &[f64], b: &mut [f64], f: usize) {
    let l = shaped(ArrayView2::from_shape((f, f), l));
    let mut x = shaped(ArrayViewMut2::from_shape((f, 1), b));
    for (triangle, half) in [(l, UPLO::Lower), (l.reversed_axes(), UPLO::Upper)] {
        if let Err(error) = triangle.solve_triangular_inplace(&mut x, half) {
            unreachable!("a triangular matrix of the same size has a solution: {error}");
        }
    }
}

fn square(a: &mut [f64], f: usize) -> ArrayViewMut2<'_, f64> {
    shaped(ArrayViewMut2::from_shape((f, f), a))
}

fn shaped<View>(view: Result<View, ShapeError>) -> View {
    view.unwrap_or_else(|error| unreachable!("the slice has a value for each element: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The matrix is L L' with L = [[2, 0, 0], [6, 1, 0], [-8, 5, 3]]. Its upper half is not read.
    #[test]
    fn solves_a_known_system() {
        let nan = f64::NAN;
        let mut a = vec![4.0, nan, nan, 12.0, 37.0, nan, -16.0, -43.0, 98.0];
        let x = [1.0, -2.0, 0.5];
        let mut b = vec![4.0 - 24.0 - 8.0, 12.0 - 74.0 - 21.5, -16.0 + 86.0 + 49.0];
        solve(&mut a, &mut b, 3);
        b.iter().zip(x).for_each(|(found, x)| assert!((found - x).abs() < 1e-12, "{b:?}"));
    }

    /// The system x + y = 2 twice has no unique solution. The least change of the diagonal finds x = y = 1.
    #[test]
    fn solves_an_indefinite_system() {
        let mut b = vec![2.0, 2.0];
        solve(&mut [1.0, 1.0, 1.0, 1.0], &mut b, 2);
        b.iter().for_each(|x| assert!((x - 1.0).abs() < 1e-3, "{b:?}"));
    }
}

//! Solves dense symmetric systems of up to some hundred unknowns, for least squares and Newton steps.

/// Solves a x = b in place for a symmetric positive definite `a` of `f` rows. Only its lower half is
/// read.
pub fn solve(a: &mut [f64], b: &mut [f64], f: usize) {
    factor(a, f);
    substitute(a, b, f);
}

/// Replaces the lower half of a symmetric positive definite `a` of `f` rows by L, where a = L L'.
pub fn factor(a: &mut [f64], f: usize) {
    for j in 0..f {
        let mut diagonal = a[j * f + j];
        for k in 0..j {
            diagonal -= a[j * f + k] * a[j * f + k];
        }
        // The penalty keeps the matrix positive definite. The floor protects against rounding.
        let diagonal = diagonal.max(1e-12).sqrt();
        a[j * f + j] = diagonal;
        for i in j + 1..f {
            let mut value = a[i * f + j];
            for k in 0..j {
                value -= a[i * f + k] * a[j * f + k];
            }
            a[i * f + j] = value / diagonal;
        }
    }
}

/// Solves L L' x = b in place, given the L that [`factor`] computes.
pub fn substitute(l: &[f64], b: &mut [f64], f: usize) {
    for i in 0..f {
        let known: f64 = (0..i).map(|k| l[i * f + k] * b[k]).sum();
        b[i] = (b[i] - known) / l[i * f + i];
    }
    for i in (0..f).rev() {
        let known: f64 = (i + 1..f).map(|k| l[k * f + i] * b[k]).sum();
        b[i] = (b[i] - known) / l[i * f + i];
    }
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
}

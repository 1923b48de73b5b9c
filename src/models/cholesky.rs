//! Dense symmetric systems of some hundred unknowns, as least squares and Newton steps need them.

/// Solves a x = b in place for a symmetric positive definite `a` of `f` rows, of which the lower
/// half is read.
pub fn solve(a: &mut [f64], b: &mut [f64], f: usize) {
    for j in 0..f {
        let mut diagonal = a[j * f + j];
        for k in 0..j {
            diagonal -= a[j * f + k] * a[j * f + k];
        }
        // The penalty keeps the matrix positive definite; the floor is for rounding.
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
    for i in 0..f {
        let known: f64 = (0..i).map(|k| a[i * f + k] * b[k]).sum();
        b[i] = (b[i] - known) / a[i * f + i];
    }
    for i in (0..f).rev() {
        let known: f64 = (i + 1..f).map(|k| a[k * f + i] * b[k]).sum();
        b[i] = (b[i] - known) / a[i * f + i];
    }
}

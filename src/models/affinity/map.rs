//! Projects the factors onto a plane: the two directions in which the directions of the factors vary
//! most.

/// The number of steps of power iteration. A direction has converged after them, or it is one of several
/// that are equally good.
const STEPS: usize = 500;

/// The first two principal components of the vectors after scaling each to length 1. A vector of zeros is
/// scaled to zeros.
pub(super) fn map(vectors: &[Vec<f64>], width: usize) -> Vec<[f64; 2]> {
    let length = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
    let mut rows: Vec<Vec<f64>> = vectors
        .iter()
        .map(|vector| {
            let own = length(vector).max(f64::MIN_POSITIVE);
            vector.iter().map(|value| value / own).collect()
        })
        .collect();
    for column in 0..width {
        let mean = rows.iter().map(|row| row[column]).sum::<f64>() / rows.len().max(1) as f64;
        rows.iter_mut().for_each(|row| row[column] -= mean);
    }
    let mut covariance = vec![vec![0.0; width]; width];
    for row in &rows {
        for (line, x) in covariance.iter_mut().zip(row) {
            line.iter_mut().zip(row).for_each(|(sum, y)| *sum += x * y);
        }
    }
    let mut places = vec![[0.0; 2]; rows.len()];
    for axis in 0..2 {
        let Some(direction) = greatest(&covariance) else { break };
        let product = |line: &[f64]| line.iter().zip(&direction).map(|(a, b)| a * b).sum::<f64>();
        let along: f64 = covariance.iter().zip(&direction).map(|(line, x)| product(line) * x).sum();
        for (line, x) in covariance.iter_mut().zip(&direction) {
            line.iter_mut().zip(&direction).for_each(|(value, y)| *value -= along * x * y);
        }
        places.iter_mut().zip(&rows).for_each(|(place, row)| place[axis] = product(row));
    }
    places
}

/// The direction of the greatest variance, by power iteration. Its component with the greatest absolute
/// value is positive. Returns `None` if nothing varies.
fn greatest(covariance: &[Vec<f64>]) -> Option<Vec<f64>> {
    let widest = (0..covariance.len())
        .max_by(|a, b| covariance[*a][*a].total_cmp(&covariance[*b][*b]).then(b.cmp(a)))?;
    // A row of the matrix is already one step of the iteration away from a unit vector.
    let mut direction = covariance[widest].clone();
    for _ in 0..STEPS {
        let own = direction.iter().map(|v| v * v).sum::<f64>().sqrt();
        if own < 1e-12 {
            return None;
        }
        direction.iter_mut().for_each(|value| *value /= own);
        direction = covariance
            .iter()
            .map(|line| line.iter().zip(&direction).map(|(a, b)| a * b).sum())
            .collect();
    }
    let own = direction.iter().map(|v| v * v).sum::<f64>().sqrt();
    let most = direction.iter().copied().reduce(|a, b| if b.abs() > a.abs() { b } else { a })?;
    (own > 1e-12).then(|| direction.iter().map(|value| value / own * most.signum()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_keeps_the_greatest_differences() {
        let vectors = vec![vec![2.0, 0.0, 0.0], vec![0.0, 3.0, 0.0], vec![0.1, 0.0, 0.1]];
        let places = map(&vectors, 3);
        let far = |a: usize, b: usize| {
            let [x, y] = [0, 1].map(|i| places[a][i] - places[b][i]);
            (x * x + y * y).sqrt()
        };
        // Three points lie in a plane, so every distance is kept.
        assert!((far(0, 1) - 2_f64.sqrt()).abs() < 1e-9, "{places:?}");
        assert!((far(0, 2) - (2.0 - 2_f64.sqrt()).sqrt()).abs() < 1e-9, "{places:?}");
        assert!((far(1, 2) - 2_f64.sqrt()).abs() < 1e-9, "{places:?}");
        assert_eq!(map(&[vec![1.0, 1.0], vec![1.0, 1.0]], 2), [[0.0; 2]; 2]);
    }
}

//! One alternation of the solver: all rows of one side, given the other side.

use rayon::prelude::*;

/// The number of values of a row that are processed at once. Rows are padded with zeros to a multiple of
/// it.
pub(super) const LANES: usize = 8;
/// The number of conjugate gradient steps per row and alternation.
const STEPS: usize = 3;
/// The number of rows in one partial sum of Y'Y. Partial sums are added in a fixed order.
const BLOCK: usize = 4096;

/// Interactions as rows of (column, weight).
pub type Sparse = Vec<Vec<(u32, f64)>>;

/// The options of a fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// The number of factors, which is the length of each vector.
    pub factors: usize,
    /// The confidence per unit of weight.
    pub alpha: f64,
    /// The L2 penalty.
    pub regularization: f64,
    /// The number of alternations.
    pub iterations: usize,
    /// The seed of the first item factors.
    pub seed: u64,
}

/// Interactions in compressed rows.
pub(super) struct Compressed {
    offsets: Vec<usize>,
    entries: Vec<(u32, f32)>,
}

impl Compressed {
    pub(super) fn of(rows: &Sparse) -> Self {
        let mut all = Self { offsets: vec![0], entries: Vec::new() };
        for row in rows {
            all.entries.extend(row.iter().map(|(column, weight)| (*column, *weight as f32)));
            all.offsets.push(all.entries.len());
        }
        all
    }

    fn row(&self, row: usize) -> &[(u32, f32)] {
        &self.entries[self.offsets[row]..self.offsets[row + 1]]
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    for (x, y) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum()
}

fn add(to: &mut [f32], scale: f32, values: &[f32]) {
    for (x, y) in to.chunks_exact_mut(LANES).zip(values.chunks_exact(LANES)) {
        for lane in 0..LANES {
            x[lane] += scale * y[lane];
        }
    }
}

/// Moves each row of `own` towards the solution of its normal equations, given the other side.
pub(super) fn alternate(
    rows: &Compressed,
    other: &[f32],
    own: &mut [f32],
    width: usize,
    options: Options,
) {
    let parts: Vec<Vec<f32>> = other
        .par_chunks(BLOCK * width)
        .map(|block| {
            let mut gram = vec![0.0; width * width];
            for vector in block.chunks_exact(width) {
                for (row, scale) in gram.chunks_exact_mut(width).zip(vector) {
                    add(row, *scale, vector);
                }
            }
            gram
        })
        .collect();
    let mut gram = vec![0.0_f32; width * width];
    parts.iter().for_each(|part| add(&mut gram, 1.0, part));
    for i in 0..width {
        gram[i * width + i] += options.regularization as f32;
    }
    let alpha = options.alpha as f32;
    own.par_chunks_exact_mut(width).enumerate().for_each_init(
        || [vec![0.0; width], vec![0.0; width], vec![0.0; width]],
        |[residual, direction, image], (row, solution)| {
            let entries = rows.row(row);
            if entries.is_empty() {
                return solution.fill(0.0);
            }
            let vector = |column: u32| &other[column as usize * width..][..width];
            // The residual of the normal equations at the last solution.
            for (value, of) in residual.iter_mut().zip(gram.chunks_exact(width)) {
                *value = -dot(of, solution);
            }
            for (column, weight) in entries {
                let (y, extra) = (vector(*column), alpha * weight);
                add(residual, 1.0 + extra - extra * dot(y, solution), y);
            }
            direction.copy_from_slice(residual);
            let mut left = dot(residual, residual);
            for _ in 0..STEPS {
                if left < 1e-20 {
                    break;
                }
                for (value, of) in image.iter_mut().zip(gram.chunks_exact(width)) {
                    *value = dot(of, direction);
                }
                for (column, weight) in entries {
                    let y = vector(*column);
                    add(image, alpha * weight * dot(y, direction), y);
                }
                let step = left / dot(direction, image);
                add(solution, step, direction);
                add(residual, -step, image);
                let now = dot(residual, residual);
                let turn = now / left;
                for (value, residual) in direction.iter_mut().zip(&*residual) {
                    *value = residual + turn * *value;
                }
                left = now;
            }
        },
    );
}

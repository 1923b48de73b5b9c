//! A matrix of numbers, for gathered inputs and for the columns that a model uses.

/// A matrix of input values in row-major order. NaN is a missing value.
#[derive(Debug, Clone, Default)]
pub struct Matrix {
    /// The number of columns.
    pub width: usize,
    /// The values, `width` for each row.
    pub values: Vec<f64>,
    rows: usize,
}

impl Matrix {
    /// Creates an empty matrix of `width` columns.
    pub fn new(width: usize) -> Self {
        Self { width, values: Vec::new(), rows: 0 }
    }

    /// Creates an empty matrix with space for `rows` rows. Reserved space uses no memory until rows are
    /// written to it.
    pub fn with_capacity(width: usize, rows: usize) -> Self {
        Self { width, values: Vec::with_capacity(width * rows), rows: 0 }
    }

    /// Appends a row of `width` values.
    pub fn push(&mut self, row: impl IntoIterator<Item = f64>) {
        self.values.extend(row);
        self.rows += 1;
        debug_assert_eq!(self.values.len(), self.rows * self.width);
    }

    /// Appends the rows of another matrix with the same number of columns.
    pub fn append(&mut self, other: Self) {
        debug_assert_eq!(self.width, other.width);
        self.values.extend(other.values);
        self.rows += other.rows;
    }

    /// The number of rows. It may be above 0 even if there are no columns.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The values of one row.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    /// The values of one row, to be changed.
    pub fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.values[row * self.width..(row + 1) * self.width]
    }

    /// Copies the rows with these indices, in this order.
    pub fn select(&self, rows: &[usize]) -> Self {
        let mut values = Vec::with_capacity(rows.len() * self.width);
        for row in rows {
            values.extend_from_slice(self.row(*row));
        }
        Self { width: self.width, values, rows: rows.len() }
    }

    /// Creates a matrix from values in row-major order. `rows` is given because `width` may be 0.
    pub fn of(width: usize, values: Vec<f64>, rows: usize) -> Self {
        debug_assert_eq!(values.len(), rows * width);
        Self { width, values, rows }
    }

    /// Copies the columns with these indices, in this order.
    pub fn columns(&self, columns: &[usize]) -> Self {
        let mut values = Vec::with_capacity(self.rows * columns.len());
        for row in 0..self.rows {
            let row = self.row(row);
            values.extend(columns.iter().map(|column| row[*column]));
        }
        Self { width: columns.len(), values, rows: self.rows }
    }

    /// The values of one column.
    pub fn column(&self, column: usize) -> impl Iterator<Item = f64> + '_ {
        (0..self.len()).map(move |row| self.values[row * self.width + column])
    }
}

impl Matrix {
    /// Computes the products of all pairs of columns, summed over the rows and divided by the number of
    /// rows. For standardized columns these are the correlations.
    ///
    /// The result is in row-major order and has `width` squared values. Sums are over fixed blocks of
    /// rows, so that the result does not depend on the number of threads.
    pub fn correlations(&self) -> Vec<f64> {
        use rayon::prelude::*;
        let width = self.width;
        let mut sums = vec![0.0; width * width];
        if width == 0 {
            return sums;
        }
        let blocks: Vec<ndarray::Array2<f64>> = self
            .values
            .par_chunks(width << 12)
            .map(|block| {
                let rows = block.len() / width;
                match ndarray::ArrayView2::from_shape((rows, width), block) {
                    Ok(view) => view.t().dot(&view),
                    Err(_) => ndarray::Array2::zeros((width, width)),
                }
            })
            .collect();
        for block in blocks {
            sums.iter_mut().zip(block).for_each(|(sum, value)| *sum += value);
        }
        let count = self.rows.max(1) as f64;
        sums.iter_mut().for_each(|sum| *sum /= count);
        sums
    }
}

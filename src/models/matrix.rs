//! Rows of numbers: what is gathered, and what a model sees.

/// Values of some inputs for some rows, row after row; NaN is a missing value.
#[derive(Debug, Clone, Default)]
pub struct Matrix {
    /// Columns.
    pub width: usize,
    /// `width` values per row.
    pub values: Vec<f64>,
    rows: usize,
}

impl Matrix {
    /// An empty matrix of `width` columns.
    pub fn new(width: usize) -> Self {
        Self { width, values: Vec::new(), rows: 0 }
    }

    /// An empty matrix with room for `rows` rows, which costs nothing until they come.
    pub fn with_capacity(width: usize, rows: usize) -> Self {
        Self { width, values: Vec::with_capacity(width * rows), rows: 0 }
    }

    /// Appends a row of `width` values.
    pub fn push(&mut self, row: impl IntoIterator<Item = f64>) {
        self.values.extend(row);
        self.rows += 1;
        debug_assert_eq!(self.values.len(), self.rows * self.width);
    }

    /// Adds the rows of another matrix of as many columns.
    pub fn append(&mut self, other: Self) {
        debug_assert_eq!(self.width, other.width);
        self.values.extend(other.values);
        self.rows += other.rows;
    }

    /// Rows, of which there may be some even without columns.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    /// The rows with these numbers.
    pub fn select(&self, rows: &[usize]) -> Self {
        let mut values = Vec::with_capacity(rows.len() * self.width);
        for row in rows {
            values.extend_from_slice(self.row(*row));
        }
        Self { width: self.width, values, rows: rows.len() }
    }

    /// A matrix of `values`, row after row; `rows` is told because there may be no column.
    pub fn of(width: usize, values: Vec<f64>, rows: usize) -> Self {
        debug_assert_eq!(values.len(), rows * width);
        Self { width, values, rows }
    }

    /// The columns with these numbers.
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
    /// The products of all pairs of columns over the rows, divided by the rows; of standardized
    /// columns their correlations. Row after row, `width` squared. Summed in fixed blocks of rows.
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

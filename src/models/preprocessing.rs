//! Raw feature values to the standardized columns that a linear model sees, and back to names.

use serde::{Deserialize, Serialize};

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

    fn column(&self, column: usize) -> impl Iterator<Item = f64> + '_ {
        (0..self.len()).map(move |row| self.values[row * self.width + column])
    }
}

/// Mean and standard deviation over the training rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// The mean.
    pub mean: f64,
    /// The standard deviation (population), above 0.
    pub deviation: f64,
}

impl Scaling {
    fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
        let deviation = variance.sqrt();
        // Below this the column is constant but for rounding.
        (deviation > 1e-9 * mean.abs().max(1e-9)).then_some(Self { mean, deviation })
    }

    fn apply(self, value: f64) -> f64 {
        (value - self.mean) / self.deviation
    }
}

/// How one input becomes one or two columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The feature's column.
    pub column: String,
    /// The feature's name without its window; contributions are summed by it.
    pub group: String,
    /// What stands for a missing value: the median of the training rows.
    pub impute: f64,
    /// Whether ln(1 + x) is taken; chosen where no value is negative and the skewness is over 1.
    pub log1p: bool,
    /// Of the value; None where it is constant.
    pub scaling: Option<Scaling>,
    /// Of the column that says whether the value was missing; None where it always or never was.
    pub missing: Option<Scaling>,
}

/// The transformation of all inputs of a model, as fitted on its training rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Preprocessing {
    /// In the order of the matrix columns.
    pub inputs: Vec<Input>,
}

impl Preprocessing {
    /// Fits the transformation; `names` gives column and group of each matrix column.
    pub fn fit(names: &[(String, String)], rows: &Matrix) -> Self {
        let inputs = names.iter().enumerate().map(|(column, (name, group))| {
            let values: Vec<f64> = rows.column(column).collect();
            let mut present: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
            present.sort_by(f64::total_cmp);
            let impute = present.get(present.len() / 2).copied().unwrap_or(0.0);
            let log1p =
                present.first().is_some_and(|least| *least >= 0.0) && skewness(&present) > 1.0;
            let missing: Vec<f64> =
                values.iter().map(|v| f64::from(u8::from(v.is_nan()))).collect();
            let mut input = Input {
                column: name.clone(),
                group: group.clone(),
                impute,
                log1p,
                scaling: None,
                missing: Scaling::of(&missing),
            };
            let shaped: Vec<f64> = values.iter().map(|v| input.shape(*v)).collect();
            input.scaling = Scaling::of(&shaped);
            input
        });
        Self { inputs: inputs.collect() }
    }

    /// The names and groups of the columns that [`Preprocessing::apply`] makes.
    pub fn terms(&self) -> Vec<(String, String)> {
        let mut terms = Vec::new();
        for input in &self.inputs {
            if input.scaling.is_some() {
                terms.push((input.column.clone(), input.group.clone()));
            }
            if input.missing.is_some() {
                terms.push((format!("{} is missing", input.column), input.group.clone()));
            }
        }
        terms
    }

    /// Appends the transformed columns of one row to `out`.
    pub fn apply(&self, row: &[f64], out: &mut Vec<f64>) {
        for (input, value) in self.inputs.iter().zip(row) {
            if let Some(scaling) = input.scaling {
                out.push(scaling.apply(input.shape(*value)));
            }
            if let Some(missing) = input.missing {
                out.push(missing.apply(f64::from(u8::from(value.is_nan()))));
            }
        }
    }

    /// The transformed matrix.
    pub fn transform(&self, rows: &Matrix) -> Matrix {
        let mut values = Vec::with_capacity(rows.values.len());
        (0..rows.len()).for_each(|row| self.apply(rows.row(row), &mut values));
        Matrix { width: self.terms().len(), values, rows: rows.len() }
    }
}

impl Input {
    fn shape(&self, value: f64) -> f64 {
        let value = if value.is_nan() { self.impute } else { value };
        // A value below the training range must not leave the logarithm's domain.
        if self.log1p { value.max(0.0).ln_1p() } else { value }
    }
}

/// The third standardized moment; 0 for a constant.
fn skewness(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let moment = |power: i32| values.iter().map(|v| (v - mean).powi(power)).sum::<f64>() / count;
    let variance = moment(2);
    if variance > 0.0 { moment(3) / variance.powf(1.5) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standardizes_imputes_and_flags() {
        let mut rows = Matrix::new(2);
        [1.0, 3.0, f64::NAN, 5.0].into_iter().for_each(|a| rows.push([a, 5.0]));
        let names = [("a_30d", "a"), ("b", "b")].map(|(x, y)| (x.to_owned(), y.to_owned()));
        let fitted = Preprocessing::fit(&names, &rows);
        let terms: Vec<String> = fitted.terms().into_iter().map(|(name, _)| name).collect();
        assert_eq!(terms, ["a_30d", "a_30d is missing"], "a constant column is dropped");
        assert_eq!(fitted.inputs[0].impute, 3.0);
        let transformed = fitted.transform(&rows);
        for column in 0..transformed.width {
            let values: Vec<f64> = transformed.column(column).collect();
            let mean = values.iter().sum::<f64>() / 4.0;
            let variance = values.iter().map(|v| v * v).sum::<f64>() / 4.0;
            assert!(mean.abs() < 1e-12 && (variance - 1.0).abs() < 1e-12);
        }
    }
}

//! Turns raw feature values into the standardized columns of a linear model, and names these columns.
//! What is fitted here is stored in the artifact, so training and scoring apply it with the same code.

pub mod shape;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::shape::{Levels, Shape, ShapeChoice, quantile};
use super::matrix::Matrix;

/// The share of unexplained variance up to which a column counts as determined by the columns before it.
const COLLINEAR: f64 = 1e-6;
/// The number of rows that are transformed together.
const CHUNK: usize = 1 << 12;

/// The mean and the standard deviation over the training rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// The mean.
    pub mean: f64,
    /// The population standard deviation, above 0.
    pub deviation: f64,
}

impl Scaling {
    fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
        let deviation = variance.sqrt();
        // Below this limit the column is constant except for rounding.
        (deviation > 1e-9 * mean.abs().max(1e-9)).then_some(Self { mean, deviation })
    }

    fn apply(self, value: f64) -> f64 {
        (value - self.mean) / self.deviation
    }
}

/// An input before it is fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The feature's or attribute's column.
    pub column: String,
    /// The name of the feature without its window. Contributions are summed by this name.
    pub group: String,
    /// The shape that turns the input into columns.
    pub shape: ShapeChoice,
    /// The levels of an attribute; `None` for a number.
    pub levels: Option<Vec<String>>,
}

/// The fitted transformation of one input into columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The feature's or attribute's column.
    pub column: String,
    /// The name of the feature without its window. Contributions are summed by this name.
    pub group: String,
    /// The value that replaces a missing one: the median of the training rows. `None` if the model
    /// handles missing values itself.
    pub impute: Option<f64>,
    /// The fitted shape.
    pub shape: Shape,
    /// The scaling of each column of the shape; `None` for a column that is left out.
    pub scaling: Vec<Option<Scaling>>,
    /// The scaling of the column that marks missing values; `None` if that column is left out.
    pub missing: Option<Scaling>,
}

impl Input {
    fn fit(candidate: &Candidate, values: &[f64], labels: &[bool]) -> Self {
        let mut present: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
        present.sort_by(f64::total_cmp);
        let impute = present.get(present.len() / 2).copied().unwrap_or(0.0);
        let shape = match &candidate.levels {
            Some(levels) => Shape::Levels(Levels::fit(levels, values)),
            None => Shape::fit(candidate.shape, &present, values, labels)
                .or_else(|| Shape::fit(ShapeChoice::Simple, &present, values, labels))
                .unwrap_or(Shape::Linear),
        };
        let count = shape.columns("").len();
        let mut shaped = Vec::with_capacity(values.len() * count);
        values.iter().for_each(|value| shape.apply(*value, impute, &mut shaped));
        let scaling = (0..count)
            .map(|column| {
                let values: Vec<f64> = shaped.iter().skip(column).step_by(count).copied().collect();
                Scaling::of(&values)
            })
            .collect();
        let missing: Vec<f64> = values.iter().map(|v| f64::from(u8::from(v.is_nan()))).collect();
        Self {
            column: candidate.column.clone(),
            group: candidate.group.clone(),
            impute: Some(impute),
            shape,
            scaling,
            missing: Scaling::of(&missing),
        }
    }

    /// The number of columns, without those that are left out.
    fn width(&self) -> usize {
        self.scaling.iter().flatten().count() + usize::from(self.missing.is_some())
    }

    /// The names of the columns, including those that are left out.
    fn names(&self) -> Vec<String> {
        let mut names = self.shape.columns(&self.column);
        names.push(format!("{} is missing", self.column));
        names
    }

    fn apply(&self, value: f64, buffer: &mut Vec<f64>, out: &mut Vec<f64>) {
        buffer.clear();
        self.shape.apply(value, self.impute.unwrap_or(f64::NAN), buffer);
        for (scaling, shaped) in self.scaling.iter().zip(buffer) {
            out.extend(scaling.map(|scaling| scaling.apply(*shaped)));
        }
        out.extend(self.missing.map(|missing| missing.apply(f64::from(u8::from(value.is_nan())))));
    }

    /// The standardized value for an interaction. A heavy-tailed value is replaced by its logarithm
    /// first.
    fn factor(&self, value: f64) -> f64 {
        let mut shaped = Vec::new();
        self.shape.apply(value, self.impute.unwrap_or(f64::NAN), &mut shaped);
        match (shaped.first(), self.scaling.first()) {
            (Some(shaped), Some(Some(scaling))) => scaling.apply(*shaped),
            _ => 0.0,
        }
    }
}

/// An interaction: the product of two inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interaction {
    /// The indices of the inputs.
    pub inputs: [usize; 2],
    /// The name of the product.
    pub name: String,
    /// The scaling of the product of the standardized values; `None` if the product is left out.
    pub scaling: Option<Scaling>,
}

/// A column that is left out of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// The name of the column.
    pub term: String,
    /// The reason for leaving it out.
    pub because: String,
}

/// The transformation of all inputs of a model, as fitted on its training rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// The inputs, in the order of the columns of the raw matrix.
    pub inputs: Vec<Input>,
    /// The interactions, whose columns follow those of the inputs.
    pub interactions: Vec<Interaction>,
    /// The columns that were left out.
    pub dropped: Vec<Dropped>,
}

impl Preprocessing {
    /// Fits the transformation on raw rows with labels. Only weights of evidence use the labels.
    /// `interactions` are pairs of input indices.
    pub fn fit(
        candidates: &[Candidate],
        interactions: &[[usize; 2]],
        rows: &Matrix,
        labels: &[bool],
    ) -> Self {
        Self::fit_transform(candidates, interactions, rows, labels).0
    }

    /// Fits the transformation like [`Preprocessing::fit`], and returns the transformed rows as well.
    pub fn fit_transform(
        candidates: &[Candidate],
        interactions: &[[usize; 2]],
        rows: &Matrix,
        labels: &[bool],
    ) -> (Self, Matrix) {
        let inputs = candidates.par_iter().enumerate().map(|(column, candidate)| {
            Input::fit(candidate, &rows.column(column).collect::<Vec<_>>(), labels)
        });
        let mut fitted =
            Self { inputs: inputs.collect(), interactions: Vec::new(), dropped: Vec::new() };
        for pair in interactions {
            let factors = pair.map(|input| &fitted.inputs[input]);
            let products: Vec<f64> = (0..rows.len())
                .map(|row| {
                    let values = rows.row(row);
                    factors[0].factor(values[pair[0]]) * factors[1].factor(values[pair[1]])
                })
                .collect();
            fitted.interactions.push(Interaction {
                inputs: *pair,
                name: format!("{} x {}", factors[0].column, factors[1].column),
                scaling: Scaling::of(&products),
            });
        }
        fitted.drop_constant();
        let columns = fitted.transform(rows);
        let columns = fitted.drop_collinear(columns);
        (fitted, columns)
    }

    /// Builds the transformation for trees: numbers as they are, including missing ones, and one column
    /// per level.
    pub fn plain(candidates: &[Candidate], rows: &Matrix) -> Self {
        let as_is = Some(Scaling { mean: 0.0, deviation: 1.0 });
        let inputs = candidates.iter().enumerate().map(|(column, candidate)| {
            let shape = match &candidate.levels {
                Some(levels) => {
                    Shape::Levels(Levels::fit(levels, &rows.column(column).collect::<Vec<_>>()))
                }
                None => Shape::Linear,
            };
            Input {
                column: candidate.column.clone(),
                group: candidate.group.clone(),
                impute: None,
                scaling: vec![as_is; shape.columns("").len()],
                shape,
                missing: None,
            }
        });
        Self { inputs: inputs.collect(), interactions: Vec::new(), dropped: Vec::new() }
    }

    /// The names and groups of the columns that [`Preprocessing::apply`] appends.
    pub fn terms(&self) -> Vec<(String, String)> {
        let mut terms = Vec::new();
        self.each(&mut |name, group, scaling| {
            if scaling.is_some() {
                terms.push((name, group.to_owned()));
            }
        });
        terms
    }

    /// Appends the transformed columns of one row to `out`.
    pub fn apply(&self, row: &[f64], out: &mut Vec<f64>) {
        self.apply_with(row, &mut Vec::new(), out);
    }

    fn apply_with(&self, row: &[f64], buffer: &mut Vec<f64>, out: &mut Vec<f64>) {
        for (input, value) in self.inputs.iter().zip(row) {
            input.apply(*value, buffer, out);
        }
        out.extend(
            self.interactions.iter().filter_map(|interaction| self.product(interaction, row)),
        );
    }

    /// The scaled product of an interaction; `None` if it is left out.
    fn product(&self, interaction: &Interaction, row: &[f64]) -> Option<f64> {
        let [a, b] = interaction.inputs;
        let scaling = interaction.scaling?;
        Some(scaling.apply(self.inputs[a].factor(row[a]) * self.inputs[b].factor(row[b])))
    }

    /// Transforms all rows of a matrix, in parallel.
    pub fn transform(&self, rows: &Matrix) -> Matrix {
        let width = self.width();
        let mut values = vec![0.0; rows.len() * width];
        let chunks = values.par_chunks_mut((CHUNK * width).max(1)).enumerate();
        chunks.for_each(|(chunk, values)| {
            let (mut buffer, mut row) = (Vec::new(), Vec::with_capacity(width));
            for (place, values) in values.chunks_exact_mut(width).enumerate() {
                row.clear();
                self.apply_with(rows.row(chunk * CHUNK + place), &mut buffer, &mut row);
                values.copy_from_slice(&row);
            }
        });
        Matrix::of(width, values, rows.len())
    }

    /// Brings transformed rows up to date with raw rows that differ in some inputs only.
    pub fn update(&self, rows: &Matrix, inputs: &[usize], transformed: &mut Matrix) {
        let places: Vec<_> = inputs.iter().map(|input| self.places(*input)).collect();
        let first = self.inputs.iter().map(Input::width).sum::<usize>();
        let products = self.interactions.iter().filter(|interaction| interaction.scaling.is_some());
        let products: Vec<(usize, &Interaction)> = (first..).zip(products).collect();
        let is_concerned = |interaction: &Interaction| {
            interaction.inputs.iter().any(|input| inputs.contains(input))
        };
        let (mut buffer, mut own) = (Vec::new(), Vec::new());
        for row in 0..rows.len() {
            let raw = rows.row(row);
            let values = transformed.row_mut(row);
            for (input, places) in inputs.iter().zip(&places) {
                own.clear();
                self.inputs[*input].apply(raw[*input], &mut buffer, &mut own);
                values[places.clone()].copy_from_slice(&own);
            }
            for (place, interaction) in products.iter().filter(|(_, i)| is_concerned(i)) {
                values[*place] = self.product(interaction, raw).unwrap_or_default();
            }
        }
    }

    /// The number of transformed columns.
    fn width(&self) -> usize {
        let products = self.interactions.iter().filter(|interaction| interaction.scaling.is_some());
        self.inputs.iter().map(Input::width).sum::<usize>() + products.count()
    }

    /// Visits the name, the group and the scaling of every column, including those that are left out.
    fn each(&self, visit: &mut dyn FnMut(String, &str, Option<Scaling>)) {
        for input in &self.inputs {
            let scalings = input.scaling.iter().chain([&input.missing]);
            for (name, scaling) in input.names().into_iter().zip(scalings) {
                visit(name, &input.group, *scaling);
            }
        }
        for interaction in &self.interactions {
            visit(interaction.name.clone(), &interaction.name, interaction.scaling);
        }
    }

    fn drop_constant(&mut self) {
        let mut constant: Vec<String> = Vec::new();
        self.each(&mut |name, _, scaling| {
            // A missing-value column that is constant needs no mention.
            if scaling.is_none() && !name.ends_with(" is missing") {
                constant.push(name);
            }
        });
        let because = "constant over the training rows".to_owned();
        self.dropped
            .extend(constant.into_iter().map(|term| Dropped { term, because: because.clone() }));
    }

    /// Leaves out every transformed column that the columns before it determine, and returns the others.
    ///
    /// These columns are found by a Cholesky decomposition of the correlations: what remains of the
    /// diagonal is the variance that the other columns do not explain.
    fn drop_collinear(&mut self, columns: Matrix) -> Matrix {
        let terms = self.terms();
        let correlations = columns.correlations();
        let width = terms.len();
        let mut factor = vec![0.0; width * width];
        let mut repeated: Vec<(String, String)> = Vec::new();
        let mut kept = Vec::with_capacity(width);
        for i in 0..width {
            let mut rest = correlations[i * width + i];
            for j in 0..i {
                let explained: f64 =
                    (0..j).map(|k| factor[i * width + k] * factor[j * width + k]).sum();
                let pivot = factor[j * width + j];
                let value = if pivot == 0.0 {
                    0.0
                } else {
                    (correlations[i * width + j] - explained) / pivot
                };
                factor[i * width + j] = value;
                rest -= value * value;
            }
            if rest > COLLINEAR {
                factor[i * width + i] = rest.sqrt();
                kept.push(i);
            } else {
                let twin = (0..i).find(|j| correlations[i * width + j].abs() > 1.0 - COLLINEAR);
                let because = match twin {
                    Some(twin) => format!("the same as {} but for scale", terms[twin].0),
                    None => "determined by the columns before it".to_owned(),
                };
                repeated.push((terms[i].0.clone(), because));
            }
        }
        for (term, because) in repeated {
            self.leave_out(&term);
            self.dropped.push(Dropped { term, because });
        }
        if kept.len() == width { columns } else { columns.columns(&kept) }
    }

    fn leave_out(&mut self, term: &str) {
        for input in &mut self.inputs {
            let names = input.names();
            let scalings = input.scaling.iter_mut().chain([&mut input.missing]);
            scalings.zip(names).filter(|(_, name)| name == term).for_each(|(s, _)| *s = None);
        }
        for interaction in self.interactions.iter_mut().filter(|i| i.name == term) {
            interaction.scaling = None;
        }
    }

    /// The range of the transformed columns that belong to an input.
    pub fn places(&self, input: usize) -> std::ops::Range<usize> {
        let before: usize = self.inputs[..input].iter().map(Input::width).sum();
        before..before + self.inputs[input].width()
    }
}

/// Chooses the values at which the shape of an input is drawn: distinct quantiles of the training rows.
pub fn drawn_at(rows: &Matrix, column: usize) -> Vec<f64> {
    let mut values: Vec<f64> = rows.column(column).filter(|value| !value.is_nan()).collect();
    values.sort_by(f64::total_cmp);
    let mut at: Vec<f64> =
        (0..=40).map(|i| quantile(&values, 0.01 + 0.98 * f64::from(i) / 40.0)).collect();
    at.retain(|value| !value.is_nan());
    at.dedup();
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(column: &str, group: &str) -> Candidate {
        let (column, group) = (column.to_owned(), group.to_owned());
        Candidate { column, group, shape: ShapeChoice::Simple, levels: None }
    }

    fn names(fitted: &Preprocessing) -> Vec<String> {
        fitted.terms().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn standardizes_imputes_and_flags() {
        let mut rows = Matrix::new(2);
        [1.0, 3.0, f64::NAN, 5.0].into_iter().for_each(|a| rows.push([a, 5.0]));
        let candidates = [number("a_30d", "a"), number("b", "b")];
        let fitted = Preprocessing::fit(&candidates, &[], &rows, &[true, false, true, false]);
        assert_eq!(names(&fitted), ["a_30d", "a_30d is missing"]);
        assert_eq!(fitted.dropped[0].term, "b");
        assert_eq!(fitted.inputs[0].impute, Some(3.0));
        let transformed = fitted.transform(&rows);
        for column in 0..transformed.width {
            let values: Vec<f64> = transformed.column(column).collect();
            let mean = values.iter().sum::<f64>() / 4.0;
            let variance = values.iter().map(|v| v * v).sum::<f64>() / 4.0;
            assert!(mean.abs() < 1e-12 && (variance - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn collinear_columns_are_left_out_with_a_word() {
        let mut rows = Matrix::new(4);
        for i in 0..100 {
            let (a, b) = (f64::from(i % 7), f64::from(i % 11));
            rows.push([a, 3.0 * a + 1.0, b, a - b]);
        }
        let candidates = ["a", "twin", "b", "difference"].map(|name| number(name, name));
        let labels: Vec<bool> = (0..100).map(|i| i % 2 == 0).collect();
        let fitted = Preprocessing::fit(&candidates, &[[0, 2]], &rows, &labels);
        assert_eq!(names(&fitted), ["a", "b", "a x b"]);
        let because: Vec<&str> = fitted.dropped.iter().map(|d| d.because.as_str()).collect();
        assert_eq!(because, ["the same as a but for scale", "determined by the columns before it"]);
        assert_eq!(fitted.transform(&rows).width, 3);
        assert_eq!(fitted.places(2), 1..2);
    }

    /// An artifact gives the same numbers after it is written to JSON and read again.
    #[test]
    fn survives_json() {
        let mut rows = Matrix::new(2);
        let mut labels = Vec::new();
        for i in 0..400 {
            let x = f64::from(i * 37 % 101) / 7.0;
            rows.push([if i % 13 == 0 { f64::NAN } else { x }, f64::from(i % 3)]);
            labels.push(i % 5 < 2);
        }
        for shape in [ShapeChoice::Spline, ShapeChoice::Bins, ShapeChoice::Log1p] {
            let mut candidates = vec![number("x", "x"), number("level", "level")];
            candidates[0].shape = shape;
            candidates[1].levels = Some(["p", "q", "r"].map(str::to_owned).to_vec());
            let fitted = Preprocessing::fit(&candidates, &[[0, 1]], &rows, &labels);
            let text = serde_json::to_string(&fitted).unwrap();
            let read: Preprocessing = serde_json::from_str(&text).unwrap();
            assert_eq!(read, fitted);
            assert_eq!(read.transform(&rows).values, fitted.transform(&rows).values);
            assert_eq!(fitted.inputs[0].shape.name(), shape.name());
        }
    }
}

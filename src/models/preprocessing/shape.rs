//! Shapes, which turn the values of one input into columns: linear, logarithm, bins, splines and levels.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The quantiles of the training values at which a spline has its knots (Harrell, Regression Modeling
/// Strategies, 2015, table 2.3, five knots).
const KNOT_SHARES: [f64; 5] = [0.05, 0.275, 0.5, 0.725, 0.95];
/// The maximum number of quantile bins.
const BINS: usize = 10;
/// The minimum share of the training rows in a bin, and in a level with a column of its own.
const LEAST_SHARE: f64 = 0.02;
/// The minimum number of training rows in a level with a column of its own.
const LEAST_ROWS: usize = 50;
/// The skewness above which a value that is never negative counts as heavy-tailed.
const HEAVY_TAIL: f64 = 1.0;

/// A shape that a spec may ask for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ShapeChoice {
    /// The shape that purged folds inside the training snapshots find best for the input alone.
    Auto,
    /// The value, or its logarithm if it is heavy-tailed.
    Simple,
    /// The value as it is.
    Linear,
    /// ln(1 + value).
    Log1p,
    /// Quantile bins with the weight of evidence of each.
    Bins,
    /// A natural cubic spline.
    Spline,
}

impl ShapeChoice {
    /// The name of the shape as a spec writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Simple => "simple",
            Self::Linear => "linear",
            Self::Log1p => "log1p",
            Self::Bins => "bins",
            Self::Spline => "spline",
        }
    }
}

/// The shape of one input, as fitted on its training rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Shape {
    /// One column with the value.
    Linear,
    /// One column with ln(1 + value).
    Log1p,
    /// One column with the weight of evidence of the value's bin.
    Bins(Bins),
    /// A column with the value, and two fewer further columns than there are knots.
    Spline(Spline),
    /// One column for each level that has enough rows, and one column for all other levels.
    Levels(Levels),
}

/// Quantile bins with the weight of evidence of each. It is the logarithm of the bin's odds of y = 1
/// divided by the odds of all rows, with half a row of either class added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bins {
    /// The lower bound of each bin except the first, ascending.
    pub from: Vec<f64>,
    /// The weight of evidence of each bin. There is one more than there are bounds in `from`.
    pub evidence: Vec<f64>,
    /// The weight of evidence of a missing value.
    pub missing: f64,
}

/// A natural (restricted) cubic spline, which is linear beyond the outer knots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spline {
    /// Whether the spline is of ln(1 + value).
    pub log1p: bool,
    /// The knots, at least three, ascending.
    pub knots: Vec<f64>,
}

/// The levels of an attribute. In a matrix, a level is its index in `names`, a level that is not in
/// `names` is the length of `names`, and a missing level is NaN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Levels {
    /// The levels that occur in the training data, up to a maximum number.
    pub names: Vec<String>,
    /// Whether each level has a column of its own. The other levels share the last column.
    pub own: Vec<bool>,
}

impl Shape {
    /// Fits a shape to values, with those that are present in ascending order. Returns `None` if the values do
    /// not allow it: a spline needs three distinct knots, and bins need two distinct values.
    pub fn fit(
        choice: ShapeChoice,
        present: &[f64],
        values: &[f64],
        labels: &[bool],
    ) -> Option<Self> {
        let heavy =
            present.first().is_some_and(|least| *least >= 0.0) && skewness(present) > HEAVY_TAIL;
        Some(match choice {
            ShapeChoice::Auto | ShapeChoice::Simple if heavy => Self::Log1p,
            ShapeChoice::Auto | ShapeChoice::Simple | ShapeChoice::Linear => Self::Linear,
            ShapeChoice::Log1p => Self::Log1p,
            ShapeChoice::Bins => Self::Bins(Bins::fit(present, values, labels)?),
            ShapeChoice::Spline => Self::Spline(Spline::fit(present, heavy)?),
        })
    }

    /// The name of the shape in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Log1p => "log1p",
            Self::Bins(_) => "bins",
            Self::Spline(_) => "spline",
            Self::Levels(_) => "levels",
        }
    }

    /// Whether the shape is of ln(1 + value).
    pub fn is_log(&self) -> bool {
        match self {
            Self::Log1p => true,
            Self::Spline(spline) => spline.log1p,
            Self::Linear | Self::Bins(_) | Self::Levels(_) => false,
        }
    }

    /// The names of the columns of an input called `name`.
    pub fn columns(&self, name: &str) -> Vec<String> {
        match self {
            Self::Linear => vec![name.to_owned()],
            Self::Log1p => vec![format!("ln(1 + {name})")],
            Self::Bins(_) => vec![format!("evidence of {name}")],
            Self::Spline(spline) => {
                let linear = if spline.log1p { format!("ln(1 + {name})") } else { name.to_owned() };
                let curved = (1..spline.knots.len() - 1).map(|k| format!("{linear}, curve {k}"));
                std::iter::once(linear.clone()).chain(curved).collect()
            }
            Self::Levels(levels) => {
                let own = levels.names.iter().zip(&levels.own).filter(|(_, own)| **own);
                let own = own.map(|(level, _)| format!("{name} = {level}"));
                own.chain([format!("{name} = another")]).collect()
            }
        }
    }

    /// Appends the columns of a value. `impute` replaces a missing value.
    pub fn apply(&self, value: f64, impute: f64, out: &mut Vec<f64>) {
        let present = if value.is_nan() { impute } else { value };
        match self {
            Self::Linear => out.push(present),
            Self::Log1p => out.push(log1p(present)),
            Self::Bins(bins) => out.push(bins.at(value)),
            Self::Spline(spline) => spline.apply(present, out),
            Self::Levels(levels) => levels.apply(value, out),
        }
    }
}

/// Computes ln(1 + value). A negative value, which training has not seen, is taken as 0 so that the
/// logarithm is defined.
fn log1p(value: f64) -> f64 {
    value.max(0.0).ln_1p()
}

/// The quantile of sorted values at `share`, interpolated linearly; NaN if there are no values.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = (sorted.len().max(1) - 1) as f64 * share;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(a), Some(b)) => a + (b - a) * (place - low as f64),
        _ => f64::NAN,
    }
}

impl Bins {
    fn fit(sorted: &[f64], values: &[f64], labels: &[bool]) -> Option<Self> {
        let mut from: Vec<f64> = Vec::new();
        let least = (values.len() as f64 * LEAST_SHARE).max(1.0);
        let mut begun = 0;
        for bin in 1..BINS {
            let edge = sorted.get(bin * sorted.len() / BINS).copied()?;
            let place = sorted.partition_point(|value| *value < edge);
            if (place - begun) as f64 >= least && (sorted.len() - place) as f64 >= least {
                from.push(edge);
                begun = place;
            }
        }
        if from.is_empty() {
            return None;
        }
        // Rows and positives per bin. The last bin is that of missing values.
        let mut counts = vec![(0.0, 0.0); from.len() + 2];
        for (value, label) in values.iter().zip(labels) {
            let bin = if value.is_nan() { from.len() + 1 } else { bin(&from, *value) };
            counts[bin].0 += 1.0;
            counts[bin].1 += f64::from(u8::from(*label));
        }
        let rows: f64 = counts.iter().map(|(rows, _)| rows).sum();
        let positives: f64 = counts.iter().map(|(_, positives)| positives).sum();
        let all = ((positives + 0.5) / (rows - positives + 0.5)).ln();
        let evidence = |(rows, positives): &(f64, f64)| {
            if *rows == 0.0 {
                0.0
            } else {
                ((positives + 0.5) / (rows - positives + 0.5)).ln() - all
            }
        };
        let mut evidence: Vec<f64> = counts.iter().map(evidence).collect();
        let missing = evidence.pop().unwrap_or_default();
        Some(Self { from, evidence, missing })
    }

    fn at(&self, value: f64) -> f64 {
        if value.is_nan() { self.missing } else { self.evidence[bin(&self.from, value)] }
    }
}

fn bin(from: &[f64], value: f64) -> usize {
    from.partition_point(|edge| *edge <= value)
}

impl Spline {
    fn fit(sorted: &[f64], heavy: bool) -> Option<Self> {
        let at = |share: f64| {
            let value = quantile(sorted, share);
            if heavy { log1p(value) } else { value }
        };
        let mut knots: Vec<f64> = KNOT_SHARES.iter().map(|share| at(*share)).collect();
        let spread = knots.last()? - knots.first()?;
        // Knots that are very close to each other would give nearly equal columns.
        knots.dedup_by(|later, earlier| *later - *earlier <= 0.01 * spread);
        (knots.len() >= 3 && spread > 0.0).then_some(Self { log1p: heavy, knots })
    }

    /// Appends the value and the basis of Harrell, Regression Modeling Strategies (2015), section 2.4.5,
    /// divided by the squared distance of the outer knots.
    ///
    /// Beyond the last knot, the cubes of distant values would cancel and leave only rounding errors.
    /// There the basis continues along its tangent at the last knot, which is the same line.
    fn apply(&self, value: f64, out: &mut Vec<f64>) {
        let x = if self.log1p { log1p(value) } else { value };
        out.push(x);
        let within = x.min(self.last());
        let cube = |knot: f64| (within - knot).max(0.0).powi(3);
        for curve in self.curves() {
            out.push(
                curve.rising * cube(curve.knot)
                    + curve.falling * cube(curve.before_last)
                    + curve.tangent * (x - within),
            );
        }
    }

    /// The value of the last knot.
    pub fn last(&self) -> f64 {
        self.knots.last().copied().unwrap_or(f64::INFINITY)
    }

    /// The coefficients of the curved columns.
    pub fn curves(&self) -> impl Iterator<Item = Curve> {
        let parts = match self.knots.as_slice() {
            [curved @ .., before_last, last] => Some((curved, *before_last, *last)),
            _ => None,
        };
        parts.into_iter().flat_map(move |(curved, before_last, last)| {
            let span = last - curved.first().copied().unwrap_or(before_last);
            let scale = span * span;
            curved.iter().map(move |knot| Curve {
                knot: *knot,
                rising: 1.0 / scale,
                before_last,
                falling: -(last - knot) / (last - before_last) / scale,
                tangent: 3.0 * (last - knot) * (before_last - knot) / scale,
            })
        })
    }
}

/// A curved column of a natural spline. Up to the last knot it is rising x (x - knot)+^3 + falling x (x -
/// before_last)+^3, and beyond the last knot it continues along the tangent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Curve {
    /// The knot at which the column begins to rise.
    pub knot: f64,
    /// The coefficient of the cube from this knot on.
    pub rising: f64,
    /// The last knot but one.
    pub before_last: f64,
    /// The coefficient of the cube from the last knot but one on.
    pub falling: f64,
    /// The slope beyond the last knot.
    pub tangent: f64,
}

impl Levels {
    /// Gives a column of its own to every level that has enough training rows.
    pub fn fit(names: &[String], values: &[f64]) -> Self {
        let least = LEAST_ROWS.max((values.len() as f64 * LEAST_SHARE) as usize);
        let mut rows = vec![0; names.len()];
        for value in values.iter().filter(|value| !value.is_nan()) {
            if let Some(count) = rows.get_mut(*value as usize) {
                *count += 1;
            }
        }
        Self { names: names.to_vec(), own: rows.iter().map(|rows| *rows >= least).collect() }
    }

    /// The number that represents a level in a matrix.
    pub fn encode(&self, level: Option<&str>) -> f64 {
        match level {
            Some(level) => {
                let place = self.names.iter().position(|name| name == level);
                place.unwrap_or(self.names.len()) as f64
            }
            None => f64::NAN,
        }
    }

    fn apply(&self, value: f64, out: &mut Vec<f64>) {
        let level = (!value.is_nan()).then_some(value as usize);
        let own = level.filter(|level| self.own.get(*level) == Some(&true));
        for i in (0..self.own.len()).filter(|i| self.own[*i]) {
            out.push(f64::from(u8::from(own == Some(i))));
        }
        out.push(f64::from(u8::from(level.is_some() && own.is_none())));
    }
}

/// The skewness: the third standardized moment. It is 0 for a constant.
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

    fn columns(shape: &Shape, value: f64) -> Vec<f64> {
        let mut out = Vec::new();
        shape.apply(value, 0.0, &mut out);
        out
    }

    /// By hand at x = 2: x itself, then (2 - 0)^3 / (4 - 0)^2 and (2 - 1)^3 / (4 - 0)^2.
    #[test]
    fn a_spline_is_linear_beyond_its_outer_knots() {
        let shape = Shape::Spline(Spline { log1p: false, knots: vec![0.0, 1.0, 3.0, 4.0] });
        assert_eq!(columns(&shape, 2.0), [2.0, 0.5, 0.0625]);
        assert_eq!(columns(&shape, -3.0), [-3.0, 0.0, 0.0]);
        let [a, b, c] = [10.0, 11.0, 12.0].map(|x| columns(&shape, x));
        for i in 0..3 {
            assert!((c[i] - 2.0 * b[i] + a[i]).abs() < 1e-9, "column {i} bends");
        }
        assert_eq!(shape.columns("x").len(), 3);
    }

    /// The cubes of a value that is a million times as far away as the knots would cancel and leave
    /// rounding errors that are larger than the result.
    #[test]
    fn a_spline_is_exact_far_beyond_its_knots() {
        let shape = Shape::Spline(Spline { log1p: false, knots: vec![0.0, 1.0, 3.0, 4.0] });
        let (slope, at) = (3.0 * 4.0 * 3.0 / 16.0, columns(&shape, 4.0)[1]);
        let far = columns(&shape, 4e6)[1];
        assert!((far - (at + slope * (4e6 - 4.0))).abs() < 1e-6, "{far}");
        assert_eq!(columns(&shape, 4e6 + 1.0)[1] - far, slope);
    }

    #[test]
    fn evidence_is_the_log_odds_against_all_rows() {
        let values: Vec<f64> = (0..1000).map(|i| f64::from(i % 10)).collect();
        let labels: Vec<bool> = (0..1000).map(|i| i % 10 >= 5).collect();
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(Shape::Bins(bins)) = Shape::fit(ShapeChoice::Bins, &sorted, &values, &labels)
        else {
            panic!("bins need two distinct values")
        };
        assert_eq!(bins.from, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        let expected = (100.5_f64 / 0.5).ln();
        assert!((bins.at(7.3) - expected).abs() < 1e-12);
        assert!((bins.at(-4.0) + expected).abs() < 1e-12);
        assert_eq!(bins.at(f64::NAN), 0.0, "training saw no missing value");
        assert_eq!(Shape::fit(ShapeChoice::Bins, &[3.0; 50], &[3.0; 50], &[true; 50]), None);
    }

    #[test]
    fn rare_and_unseen_levels_share_a_column() {
        let names = ["de", "fr", "li"].map(str::to_owned);
        let values: Vec<f64> = (0..200)
            .map(|i| {
                if i < 100 {
                    0.0
                } else if i < 190 {
                    1.0
                } else {
                    2.0
                }
            })
            .collect();
        let levels = Levels::fit(&names, &values);
        assert_eq!(levels.own, [true, true, false]);
        let shape = Shape::Levels(levels.clone());
        assert_eq!(columns(&shape, levels.encode(Some("fr"))), [0.0, 1.0, 0.0]);
        assert_eq!(columns(&shape, levels.encode(Some("li"))), [0.0, 0.0, 1.0]);
        assert_eq!(columns(&shape, levels.encode(Some("us"))), [0.0, 0.0, 1.0]);
        assert_eq!(columns(&shape, levels.encode(None)), [0.0, 0.0, 0.0]);
        assert_eq!(shape.columns("country")[2], "country = another");
    }
}

//! Calibration: functions that turn logits into probabilities that agree with observed rates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::logit::{logit, sigmoid};

/// Platt scaling: P = sigmoid(slope x logit + intercept).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platt {
    /// The factor of the logit. It is below 1 if the model is overconfident.
    pub slope: f64,
    /// The constant that is added on the logit scale.
    pub intercept: f64,
}

impl Platt {
    /// Fits slope and intercept by maximum likelihood, on rows that the model was not fitted on.
    ///
    /// The method is that of Platt (1999), with the numerically safe Newton iteration of Lin, Lin and
    /// Weng (2007). Platt's smoothed targets keep the slope finite if the classes are separable.
    pub fn fit(logits: &[f64], labels: &[bool]) -> Self {
        let positives = labels.iter().filter(|label| **label).count() as f64;
        let negatives = labels.len() as f64 - positives;
        let targets = [1.0 / (negatives + 2.0), (positives + 1.0) / (positives + 2.0)];
        let target = |label: bool| targets[usize::from(label)];
        let (mut slope, mut intercept) = (1.0, 0.0);
        let loss = |slope: f64, intercept: f64| -> f64 {
            logits
                .iter()
                .zip(labels)
                .map(|(x, label)| {
                    let z = slope * x + intercept;
                    // ln(1 + e^z) - t z, without overflow.
                    z.max(0.0) + (-z.abs()).exp().ln_1p() - target(*label) * z
                })
                .sum()
        };
        let mut current = loss(slope, intercept);
        for _ in 0..100 {
            let (mut g0, mut g1, mut h00, mut h01, mut h11) = (0.0, 0.0, 1e-12, 0.0, 1e-12);
            for (x, label) in logits.iter().zip(labels) {
                let p = sigmoid(slope * x + intercept);
                let (residual, weight) = (p - target(*label), p * (1.0 - p));
                g0 += residual * x;
                g1 += residual;
                h00 += weight * x * x;
                h01 += weight * x;
                h11 += weight;
            }
            if g0.abs() < 1e-9 * labels.len() as f64 && g1.abs() < 1e-9 * labels.len() as f64 {
                break;
            }
            let determinant = h00 * h11 - h01 * h01;
            let (d0, d1) = if determinant > 0.0 {
                ((h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant)
            } else {
                (g0 / h00, g1 / h11)
            };
            let mut step = 1.0;
            let improved = loop {
                let tried = loss(slope - step * d0, intercept - step * d1);
                if tried < current {
                    slope -= step * d0;
                    intercept -= step * d1;
                    current = tried;
                    break true;
                }
                step /= 2.0;
                if step < 1e-10 {
                    break false;
                }
            };
            if !improved {
                break;
            }
        }
        Self { slope, intercept }
    }

    fn logit(&self, raw: f64) -> f64 {
        self.slope * raw + self.intercept
    }
}

/// The calibration that a spec asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CalibrationChoice {
    /// An isotonic curve if there are at least a thousand rows and its log loss on rows that it has not
    /// seen is lower than that of Platt scaling by more than one standard error; otherwise Platt scaling.
    #[default]
    Auto,
    /// A line on the logit scale.
    Platt,
    /// An isotonic curve, which never falls.
    Isotonic,
}

/// The minimum number of rows for which `auto` considers an isotonic curve.
const ISOTONIC_ROWS: usize = 1000;
/// The number of parts of the rows. Each part is predicted by a calibration that was fitted on the other
/// parts.
const PARTS: usize = 5;
/// The greatest absolute offset that is searched.
const FARTHEST_OFFSET: f64 = 20.0;
/// The difference up to which two logits count as equal.
const SAME_LOGIT: f64 = 1e-9;

/// A fitted calibration, which is a rising function of the raw logit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Calibration {
    /// A line on the logit scale.
    Platt(Platt),
    /// A curve through the blocks of an isotonic fit.
    Isotonic(Curve),
}

/// An isotonic fit without its steps, so that it keeps the order of customers.
///
/// On the logit scale, straight lines join the centres of its blocks (centered isotonic regression, Oron
/// and Flournoy 2017). Beyond the outer blocks the curve continues with the slope of Platt scaling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    /// The mean raw logit of each block, ascending.
    pub raw: Vec<f64>,
    /// The logit of the rate of each block, ascending.
    pub logit: Vec<f64>,
    /// The slope beyond the outer blocks.
    pub slope: f64,
}

impl Curve {
    fn fit(logits: &[f64], labels: &[bool]) -> Self {
        let steps = Isotonic::fit(logits, labels, (labels.len() / 100).max(20), 0.5);
        // Each block has the sum of raw logits, the number of rows and the logit of the rate. Rates that
        // differ only by rounding belong to one block.
        let mut blocks: Vec<(f64, f64, f64)> = Vec::new();
        let mut place = Vec::with_capacity(steps.from.len());
        for rate in &steps.value {
            let value = logit(*rate);
            if blocks.last().is_none_or(|(_, _, last)| value - last > SAME_LOGIT) {
                blocks.push((0.0, 0.0, value));
            }
            place.push(blocks.len() - 1);
        }
        for raw in logits {
            let block = &mut blocks[place[steps.step(*raw)]];
            (block.0, block.1) = (block.0 + raw, block.1 + 1.0);
        }
        Self {
            raw: blocks.iter().map(|(sum, rows, _)| sum / rows).collect(),
            logit: blocks.iter().map(|(_, _, logit)| *logit).collect(),
            slope: Platt::fit(logits, labels).slope.max(0.0),
        }
    }

    fn logit(&self, raw: f64) -> f64 {
        let next = self.raw.partition_point(|x| *x <= raw);
        match (next.checked_sub(1), self.raw.get(next)) {
            (None, Some(first)) => self.logit[0] + self.slope * (raw - first),
            (Some(last), None) => self.logit[last] + self.slope * (raw - self.raw[last]),
            (Some(before), Some(after)) => {
                let share = (raw - self.raw[before]) / (after - self.raw[before]);
                self.logit[before] + share * (self.logit[next] - self.logit[before])
            }
            (None, None) => raw,
        }
    }
}

impl Calibration {
    /// Fits the calibration that `choice` asks for, on rows that the model was not fitted on.
    pub fn fit(choice: CalibrationChoice, logits: &[f64], labels: &[bool]) -> Self {
        let isotonic = match choice {
            CalibrationChoice::Platt => false,
            CalibrationChoice::Isotonic => true,
            CalibrationChoice::Auto => isotonic_is_better(logits, labels),
        };
        Self::of_kind(isotonic, logits, labels)
    }

    /// Fits the same kind again on other rows.
    pub fn refit(&self, logits: &[f64], labels: &[bool]) -> Self {
        Self::of_kind(matches!(self, Self::Isotonic(_)), logits, labels)
    }

    fn of_kind(isotonic: bool, logits: &[f64], labels: &[bool]) -> Self {
        match isotonic {
            true => Self::Isotonic(Curve::fit(logits, labels)),
            false => Self::Platt(Platt::fit(logits, labels)),
        }
    }

    /// Computes the calibrated probability of a raw logit, with `offset` added on the logit scale.
    pub fn probability(&self, raw: f64, offset: f64) -> f64 {
        sigmoid(self.logit(raw) + offset)
    }

    /// Computes the calibrated logit of a raw logit.
    pub fn logit(&self, raw: f64) -> f64 {
        match self {
            Self::Platt(platt) => platt.logit(raw),
            Self::Isotonic(curve) => curve.logit(raw),
        }
    }

    /// Describes the calibration in a few words.
    pub fn describe(&self) -> String {
        match self {
            Self::Platt(platt) => {
                format!("Platt, slope {:.4}, intercept {:.4}", platt.slope, platt.intercept)
            }
            Self::Isotonic(curve) => format!("isotonic, {} blocks", curve.raw.len()),
        }
    }
}

/// Whether the log loss of an isotonic curve is lower than that of Platt scaling by more than one
/// standard error, on parts of the rows that neither was fitted on.
fn isotonic_is_better(logits: &[f64], labels: &[bool]) -> bool {
    if labels.len() < ISOTONIC_ROWS {
        return false;
    }
    let mut gains: Vec<f64> = Vec::with_capacity(labels.len());
    for part in 0..PARTS {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for row in (0..labels.len()).filter(|row| row % PARTS != part) {
            x.push(logits[row]);
            y.push(labels[row]);
        }
        if !(y.contains(&true) && y.contains(&false)) {
            return false;
        }
        let both = [false, true].map(|isotonic| Calibration::of_kind(isotonic, &x, &y));
        for row in (part..labels.len()).step_by(PARTS) {
            let [platt, isotonic] = both.each_ref().map(|calibration| {
                let p = calibration.probability(logits[row], 0.0).clamp(1e-15, 1.0 - 1e-15);
                -if labels[row] { p.ln() } else { (1.0 - p).ln() }
            });
            gains.push(platt - isotonic);
        }
    }
    let count = gains.len() as f64;
    let mean = gains.iter().sum::<f64>() / count;
    let variance = gains.iter().map(|gain| (gain - mean) * (gain - mean)).sum::<f64>() / count;
    mean > (variance / count).sqrt()
}

/// Finds the offset to logits at which the mean probability equals the observed rate, by bisection.
///
/// The mean rises with the offset, so the solution is unique. The search is limited to -20 to 20, which
/// matters if all outcomes are the same.
pub fn base_rate_offset(logits: &[f64], labels: &[bool]) -> f64 {
    let positives = labels.iter().filter(|label| **label).count() as f64;
    let (mut low, mut high) = (-FARTHEST_OFFSET, FARTHEST_OFFSET);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        let predicted: f64 = logits.iter().map(|z| sigmoid(z + middle)).sum();
        if predicted < positives { low = middle } else { high = middle }
    }
    low
}

/// A step function that never falls, fitted by pooling adjacent violators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isotonic {
    /// The value of x at which each step begins, ascending.
    pub from: Vec<f64>,
    /// The value of each step.
    pub value: Vec<f64>,
}

impl Isotonic {
    /// Fits the non-decreasing function of `x` that is nearest in least squares (Ayer et al. 1955) to the
    /// rates of groups of at least `rows` neighbouring rows.
    ///
    /// Each group gets `prior` additional rows of either class (one half is Jeffreys' prior), so that no
    /// rate is exactly 0 or 1. Equal values of `x` share one value.
    pub fn fit(x: &[f64], labels: &[bool], rows: usize, prior: f64) -> Self {
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|a, b| x[*a].total_cmp(&x[*b]));
        let mut groups: Vec<Group> = Vec::new();
        for i in order {
            let label = f64::from(u8::from(labels[i]));
            match groups.last_mut() {
                // A group also takes all rows with the same x as its last row.
                Some(group) if group.rows < rows as f64 || group.last == x[i] => {
                    group.last = x[i];
                    group.positives += label;
                    group.rows += 1.0;
                }
                _ => groups.push(Group { from: x[i], last: x[i], positives: label, rows: 1.0 }),
            }
        }
        let rate = |group: &Group| (group.positives + prior) / (group.rows + 2.0 * prior);
        // Blocks of (start, rate x weight, weight).
        let mut pooled: Vec<(f64, f64, f64)> = Vec::new();
        for group in &groups {
            pooled.push((group.from, rate(group) * group.rows, group.rows));
            while let [.., (_, s0, w0), (_, s1, w1)] = pooled.as_slice()
                && s0 / w0 >= s1 / w1
            {
                let (_, sum, weight) = pooled.pop().unwrap_or_default();
                if let Some(last) = pooled.last_mut() {
                    last.1 += sum;
                    last.2 += weight;
                }
            }
        }
        Self {
            from: pooled.iter().map(|block| block.0).collect(),
            value: pooled.iter().map(|block| block.1 / block.2).collect(),
        }
    }

    /// The value at `x`. Before the first step it is the value of the first step.
    pub fn at(&self, x: f64) -> f64 {
        self.value.get(self.step(x)).copied().unwrap_or(0.5)
    }

    fn step(&self, x: f64) -> usize {
        self.from.partition_point(|from| *from <= x).saturating_sub(1)
    }
}

/// A group of neighbouring rows of an isotonic fit.
struct Group {
    from: f64,
    last: f64,
    positives: f64,
    rows: f64,
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn steps_of_many_rows_are_never_certain() {
        let x: Vec<f64> = (0..1000).map(f64::from).collect();
        let labels: Vec<bool> = (0..1000).map(|i| i >= 500).collect();
        let fitted = Isotonic::fit(&x, &labels, 100, 0.5);
        assert!((fitted.at(0.0) - 0.5 / 101.0).abs() < 1e-12);
        assert!((fitted.at(999.0) - 100.5 / 101.0).abs() < 1e-12);
        assert!(fitted.value.is_sorted());
    }

    #[test]
    fn isotonic_pools_violators() {
        // scikit-learn: IsotonicRegression().fit([1,2,3,4,5],[0,1,0,1,1]) -> [0, .5, .5, 1, 1]
        let labels = [false, true, false, true, true];
        let fitted = Isotonic::fit(&[1.0, 2.0, 3.0, 4.0, 5.0], &labels, 1, 0.0);
        let values: Vec<f64> = [1.0, 2.0, 3.0, 4.0, 5.0].map(|x| fitted.at(x)).to_vec();
        assert_eq!(values, [0.0, 0.5, 0.5, 1.0, 1.0]);
        assert_eq!(fitted.at(-10.0), 0.0);
        assert_eq!(fitted.at(3.5), 0.5);
    }

    #[test]
    fn platt_recovers_a_known_distortion() {
        // Labels are in exact proportion to sigmoid(0.5 x - 1) at each of nine points.
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for step in -4..=4 {
            let x = f64::from(step);
            let positives = (sigmoid(0.5 * x - 1.0) * 10_000.0).round() as usize;
            for i in 0..10_000 {
                logits.push(x);
                labels.push(i < positives);
            }
        }
        let platt = Platt::fit(&logits, &labels);
        assert!((platt.slope - 0.5).abs() < 1e-3, "{platt:?}");
        assert!((platt.intercept + 1.0).abs() < 1e-3, "{platt:?}");
        let calibrated: Vec<f64> = logits.iter().map(|x| platt.logit(*x)).collect();
        assert!(base_rate_offset(&calibrated, &labels).abs() < 1e-3);
        // With half of the slope the mean changes, and the offset makes it equal to the observed rate.
        let flat: Vec<f64> = logits.iter().map(|x| 0.25 * x).collect();
        let offset = base_rate_offset(&flat, &labels);
        let mean = flat.iter().map(|z| sigmoid(z + offset)).sum::<f64>() / flat.len() as f64;
        let observed = labels.iter().filter(|label| **label).count() as f64 / flat.len() as f64;
        assert!((mean - observed).abs() < 1e-9, "{mean} {observed}");
    }

    /// Outcomes from a line on the logit scale choose Platt scaling, and those from a bent curve choose
    /// isotonic. The isotonic curve then follows the bend and never changes the order of two customers.
    #[test]
    fn the_rule_follows_the_shape() {
        let mut random = ChaCha8Rng::seed_from_u64(8);
        let truth = |x: f64, bent: bool| sigmoid(if bent { 2.0 * x.abs() * x } else { x - 0.5 });
        for bent in [false, true] {
            let logits: Vec<f64> = (0..8000).map(|_| random.random_range(-2.0..2.0)).collect();
            let labels: Vec<bool> =
                logits.iter().map(|x| random.random_bool(truth(*x, bent))).collect();
            let fitted = Calibration::fit(CalibrationChoice::Auto, &logits, &labels);
            assert_eq!(matches!(fitted, Calibration::Isotonic(_)), bent, "{fitted:?}");
            let grid: Vec<f64> = (-300..=300).map(|i| f64::from(i) / 100.0).collect();
            let found: Vec<f64> = grid.iter().map(|x| fitted.probability(*x, 0.0)).collect();
            for (x, pair) in grid.iter().zip(found.windows(2)) {
                assert!(pair[0] < pair[1], "not rising after {x}: {pair:?}");
            }
            for (x, p) in grid.iter().zip(&found).filter(|(x, _)| x.abs() < 1.8) {
                assert!((p - truth(*x, bent)).abs() < 0.06, "{bent} {x} {p}");
            }
        }
    }
}

//! Calibration: logits to probabilities that mean what they say.

use serde::{Deserialize, Serialize};

use super::logistic::{logit, sigmoid};

/// Platt scaling: P = sigmoid(slope x logit + intercept).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platt {
    /// Below 1 where the model is too sure of itself.
    pub slope: f64,
    /// Added to the logit.
    pub intercept: f64,
}

impl Platt {
    /// Fits slope and intercept by maximum likelihood (Platt 1999, with the numerically safe Newton
    /// iteration of Lin, Lin and Weng 2007) on rows that the model has not seen, with Platt's
    /// smoothed targets so that separable rows do not send the slope to infinity.
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

    /// The calibrated probability of a raw logit, moved by `offset` on the logit scale.
    pub fn probability(&self, raw: f64, offset: f64) -> f64 {
        sigmoid(self.slope * raw + self.intercept + offset)
    }
}

/// What moves the mean prediction to the observed rate: logit(observed) - logit(mean predicted).
pub fn base_rate_offset(probabilities: &[f64], labels: &[bool]) -> f64 {
    let count = labels.len() as f64;
    let observed = labels.iter().filter(|label| **label).count() as f64 / count;
    logit(observed) - logit(probabilities.iter().sum::<f64>() / count)
}

/// A step function that never falls, fitted by pooling adjacent violators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isotonic {
    /// Where each step begins, ascending.
    pub from: Vec<f64>,
    /// The value from there on.
    pub value: Vec<f64>,
}

impl Isotonic {
    /// The non-decreasing function of `x` nearest in least squares (Ayer et al. 1955) to the rates of
    /// groups of at least `rows` neighbours, each with `prior` more rows of either class (Jeffreys:
    /// one half), so that no rate is exactly 0 or 1. Equal `x` share one value.
    pub fn fit(x: &[f64], labels: &[bool], rows: usize, prior: f64) -> Self {
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|a, b| x[*a].total_cmp(&x[*b]));
        let mut groups: Vec<Group> = Vec::new();
        for i in order {
            let label = f64::from(u8::from(labels[i]));
            match groups.last_mut() {
                // A group also takes all rows of its last x.
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

    /// The value at `x`; before the first step the first value.
    pub fn at(&self, x: f64) -> f64 {
        let step = self.from.partition_point(|from| *from <= x).saturating_sub(1);
        self.value.get(step).copied().unwrap_or(0.5)
    }
}

/// Neighbouring rows of an isotonic fit.
struct Group {
    from: f64,
    last: f64,
    positives: f64,
    rows: f64,
}

#[cfg(test)]
mod tests {
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
        // Labels in exact proportion to sigmoid(0.5 x - 1) at each of nine points.
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
        let probabilities: Vec<f64> = logits.iter().map(|x| platt.probability(*x, 0.0)).collect();
        assert!(base_rate_offset(&probabilities, &labels).abs() < 1e-3);
    }
}

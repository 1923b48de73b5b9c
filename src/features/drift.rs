//! Drift: whether inputs or scores are distributed as they were in training.

use serde::{Deserialize, Serialize};

/// Quantile bins of the earlier rows; a value of two quantiles is a bin of its own, and missing values are.
const BINS: usize = 10;
/// From which stability index a shift is called large (the field's rule of thumb).
const LARGE: f64 = 0.2;
/// The normal quantile of 99 %.
const NORMAL_99: f64 = 2.326_348;

/// How far one column has moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// The column.
    pub column: String,
    /// The population stability index, sum of (p - q) ln(p / q) over the bins.
    pub psi: f64,
    /// What chance exceeds in one of a hundred columns that have not moved, given both numbers of
    /// rows.
    pub threshold: f64,
    /// In a word.
    pub verdict: Verdict,
}

/// What a stability index means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No more than chance.
    Stable,
    /// More than chance.
    Moved,
    /// More than chance, and large.
    MovedFar,
}

impl Verdict {
    /// As a reader sees it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Moved => "moved",
            Self::MovedFar => "moved far",
        }
    }
}

/// How the values of a column are distributed over quantile bins, missing ones in a bin of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// Where each bin but the first begins, ascending.
    pub edges: Vec<f64>,
    /// Rows of each bin, those of missing values last.
    pub rows: Vec<u64>,
}

impl Distribution {
    /// The distribution of values over their own quantiles; NaN is missing.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        let quantiles: Vec<f64> =
            (1..BINS).filter_map(|bin| sorted.get(bin * sorted.len() / BINS).copied()).collect();
        let mut edges = Vec::new();
        for equal in quantiles.chunk_by(|a, b| a == b) {
            edges.push(equal[0]);
            // What so many rows have is a bin of its own, else those above it would be lost in it: most
            // customers of a shop have not bought this week.
            if equal.len() > 1 {
                edges.push(equal[0].next_up());
            }
        }
        edges.dedup();
        let mut empty = Self { rows: vec![0; edges.len() + 2], edges };
        values.iter().for_each(|value| empty.add(*value));
        empty
    }

    /// The same bins without any row.
    pub fn empty(&self) -> Self {
        Self { edges: self.edges.clone(), rows: vec![0; self.rows.len()] }
    }

    /// Counts a value.
    pub fn add(&mut self, value: f64) {
        let bin = match value.is_nan() {
            true => self.edges.len() + 1,
            false => self.edges.partition_point(|edge| *edge <= value),
        };
        self.rows[bin] += 1;
    }

    /// Counts the rows of another of the same bins.
    pub fn merge(&mut self, other: &Self) {
        self.rows.iter_mut().zip(&other.rows).for_each(|(rows, more)| *rows += more);
    }

    /// Rows in all.
    pub fn total(&self) -> u64 {
        self.rows.iter().sum()
    }
}

/// The stability of a column from earlier rows to later ones of the same bins.
///
/// Without a shift the index is about (1/n + 1/m) times a chi-squared variable of one fewer degrees
/// of freedom than bins (Yurdakul, Statistical Properties of Population Stability Index, 2018).
pub fn drift(column: &str, earlier: &Distribution, later: &Distribution) -> Drift {
    let (n, m) = (earlier.total().max(1) as f64, later.total().max(1) as f64);
    let mut psi = 0.0;
    let mut used = 0;
    for (a, b) in earlier.rows.iter().zip(&later.rows).filter(|(a, b)| **a + **b > 0) {
        // Half a row more in either, so that an empty bin has a logarithm.
        let (p, q) = ((*a as f64 + 0.5) / (n + 0.5), (*b as f64 + 0.5) / (m + 0.5));
        psi += (p - q) * (p / q).ln();
        used += 1;
    }
    let threshold = (1.0 / n + 1.0 / m) * chi_squared_99(f64::from(used - 1).max(1.0));
    let verdict = match psi > threshold {
        false => Verdict::Stable,
        true if psi > LARGE => Verdict::MovedFar,
        true => Verdict::Moved,
    };
    Drift { column: column.to_owned(), psi, threshold, verdict }
}

/// The 99th percentile of chi-squared (Wilson and Hilferty 1931).
fn chi_squared_99(freedom: f64) -> f64 {
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + NORMAL_99 * spread.sqrt()).powi(3)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn between(earlier: &[f64], later: &[f64]) -> Drift {
        let earlier = Distribution::of(earlier);
        let mut counted = earlier.empty();
        later.iter().for_each(|value| counted.add(*value));
        drift("x", &earlier, &counted)
    }

    /// Of columns that have not moved about one in a hundred is said to have, whatever the rows.
    #[test]
    fn the_threshold_knows_the_rows() {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        for (n, m) in [(400, 300), (5000, 800)] {
            let mut moved = 0;
            for _ in 0..1000 {
                let mut draw = |count: usize| -> Vec<f64> {
                    (0..count).map(|_| random.random_range(0.0..1.0)).collect()
                };
                let (earlier, later) = (draw(n), draw(m));
                moved += u32::from(between(&earlier, &later).verdict != Verdict::Stable);
            }
            assert!((2..=30).contains(&moved), "{moved} of 1000 at {n} and {m} rows");
        }
    }

    #[test]
    fn a_shift_and_missing_values_are_seen() {
        let earlier: Vec<f64> = (0..2000).map(|i| f64::from(i % 100)).collect();
        let later: Vec<f64> = (0..2000).map(|i| f64::from(i % 100) + 30.0).collect();
        assert_eq!(between(&earlier, &later).verdict, Verdict::MovedFar);
        let holes: Vec<f64> =
            (0..2000).map(|i| if i % 4 == 0 { f64::NAN } else { f64::from(i % 100) }).collect();
        assert_eq!(between(&earlier, &holes).verdict, Verdict::MovedFar);
        assert_eq!(between(&earlier, &earlier).verdict, Verdict::Stable);
        // One in twenty-five has a value, then all have, then nobody has.
        let sparse: Vec<f64> = (0..2000).map(|i| f64::from(i32::from(i % 25 == 0))).collect();
        assert_eq!(between(&sparse, &sparse).psi, 0.0);
        assert_eq!(between(&sparse, &vec![1.0; 2000]).verdict, Verdict::MovedFar);
        assert_eq!(between(&sparse, &vec![0.0; 2000]).verdict, Verdict::MovedFar);
        assert_eq!(between(&vec![3.0; 2000], &vec![2.0; 2000]).verdict, Verdict::MovedFar);
        assert_eq!(between(&vec![3.0; 2000], &vec![3.0; 900]).verdict, Verdict::Stable);
        // R: qchisq(0.99, 9) = 21.66599
        assert!((chi_squared_99(9.0) - 21.666).abs() < 0.05);
    }
}

//! Drift: how far the distribution of a feature, an input or a score has moved between two sets of rows.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ChiSquared, ContinuousCDF};

/// The number of quantile bins of the earlier rows.
///
/// A value that is equal to several quantiles is a bin of its own. Missing values have a separate bin.
const BINS: usize = 10;
/// The population stability index above which a shift is called large (a common rule of thumb).
const LARGE: f64 = 0.2;

/// The drift of one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// The name of the column.
    pub column: String,
    /// The population stability index: the sum of (p - q) ln(p / q) over the bins.
    pub psi: f64,
    /// The threshold that the index of a column without drift exceeds by chance in one of a hundred cases,
    /// given the numbers of earlier and later rows.
    pub threshold: f64,
    /// The interpretation of the index.
    pub verdict: Verdict,
}

/// The interpretation of a population stability index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The index is no larger than chance explains.
    Stable,
    /// The index is larger than chance explains.
    Moved,
    /// The index is larger than chance explains and indicates a large shift.
    MovedFar,
}

impl Verdict {
    /// The name of the verdict in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Moved => "moved",
            Self::MovedFar => "moved far",
        }
    }
}

/// The distribution of a column over quantile bins, with a separate bin for missing values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// The lower bounds of all bins but the first, ascending.
    pub edges: Vec<f64>,
    /// The number of rows in each bin. The bin of missing values comes last.
    pub rows: Vec<u64>,
}

impl Distribution {
    /// The distribution of values over their own quantiles. NaN is a missing value.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        let mut counter = SortedCounter::new(sorted.len());
        sorted.iter().for_each(|value| counter.add(*value));
        counter.finish((values.len() - sorted.len()) as u64)
    }

    /// A distribution over the same bins, without any rows.
    pub fn empty(&self) -> Self {
        Self { edges: self.edges.clone(), rows: vec![0; self.rows.len()] }
    }

    /// Adds a value to its bin. NaN is a missing value.
    pub fn add(&mut self, value: f64) {
        let bin = match value.is_nan() {
            true => self.edges.len() + 1,
            false => self.edges.partition_point(|edge| *edge <= value),
        };
        self.rows[bin] += 1;
    }

    /// Adds the rows of another distribution over the same bins.
    pub fn merge(&mut self, other: &Self) {
        self.rows.iter_mut().zip(&other.rows).for_each(|(rows, more)| *rows += more);
    }

    /// The number of rows in all bins.
    pub fn total(&self) -> u64 {
        self.rows.iter().sum()
    }
}

/// Computes the [`Distribution`] of values over their own quantiles from values that arrive in ascending
/// order.
#[derive(Debug)]
pub struct SortedCounter {
    count: usize,
    seen: usize,
    /// The index of the next bin whose lower bound is to be found.
    bin: usize,
    /// The latest value and the number of smaller values.
    last: Option<(f64, usize)>,
    /// The number of quantiles that the latest value is equal to, and the value at the first of them.
    quantiles: (usize, f64),
    edges: Vec<f64>,
    /// For each edge, the number of smaller values.
    below: Vec<usize>,
}

impl SortedCounter {
    /// Creates a counter for `count` values.
    pub fn new(count: usize) -> Self {
        Self {
            count,
            seen: 0,
            bin: 1,
            last: None,
            quantiles: (0, 0.0),
            edges: Vec::new(),
            below: Vec::new(),
        }
    }

    /// Adds the next value, which must not be NaN.
    pub fn add(&mut self, value: f64) {
        if self.last.is_none_or(|(last, _)| last != value) {
            self.end_of_equals();
            self.last = Some((value, self.seen));
        }
        while self.bin < BINS && self.bin * self.count / BINS == self.seen {
            self.quantiles = match self.quantiles {
                (0, _) => (1, value),
                (times, first) => (times + 1, first),
            };
            self.bin += 1;
        }
        self.seen += 1;
    }

    /// Adds the edges for the run of equal values that has ended.
    fn end_of_equals(&mut self) {
        let (times, value) = std::mem::take(&mut self.quantiles);
        let Some((_, less)) = self.last.filter(|_| times > 0) else { return };
        let mut push = |edge: f64, below: usize| {
            if self.edges.last() != Some(&edge) {
                self.edges.push(edge);
                self.below.push(below);
            }
        };
        push(value, less);
        // A value that so many rows have gets a bin of its own. Otherwise the larger values would be lost in
        // the same bin: for example, most customers of a shop have not bought anything this week.
        if times > 1 {
            push(value.next_up(), self.seen);
        }
    }

    /// The distribution of the values that were added and of `missing` missing values.
    pub fn finish(mut self, missing: u64) -> Distribution {
        self.end_of_equals();
        let starts = [0].into_iter().chain(self.below.iter().copied());
        let ends = self.below.iter().copied().chain([self.seen]);
        let rows = starts.zip(ends).map(|(start, end)| (end - start) as u64);
        Distribution { rows: rows.chain([missing]).collect(), edges: self.edges }
    }
}

/// The drift of a column from earlier rows to later rows, counted over the same bins.
///
/// Without a shift, the index is distributed approximately as (1/n + 1/m) times a chi-squared variable. Its
/// degrees of freedom are the number of bins minus one (Yurdakul, Statistical Properties of Population
/// Stability Index, 2018).
pub fn drift(column: &str, earlier: &Distribution, later: &Distribution) -> Drift {
    let (n, m) = (earlier.total().max(1) as f64, later.total().max(1) as f64);
    let mut psi = 0.0;
    let mut used = 0;
    for (a, b) in earlier.rows.iter().zip(&later.rows).filter(|(a, b)| **a + **b > 0) {
        // Half a row is added to both counts, so that the logarithm is defined for an empty bin.
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

/// The 99th percentile of the chi-squared distribution.
fn chi_squared_99(freedom: f64) -> f64 {
    match ChiSquared::new(freedom) {
        Ok(distribution) => distribution.inverse_cdf(0.99),
        Err(_) => unreachable!("{freedom} is no number of degrees of freedom"),
    }
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

    /// Values that are added in ascending order are counted in the same way as by [`Distribution::add`].
    #[test]
    fn sorted_values_are_counted_as_any() {
        let seed = 5;
        println!("seed {seed}");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..500 {
            let (count, kinds) = (random.random_range(0..60), random.random_range(1..40));
            let value = |random: &mut ChaCha8Rng| match random.random_range(0..10) {
                0 => f64::NAN,
                1 => [0.0, -0.0][random.random_range(0..2)],
                _ => f64::from(random.random_range(-kinds..kinds)) / 4.0,
            };
            let values: Vec<f64> = (0..count).map(|_| value(&mut random)).collect();
            let found = Distribution::of(&values);
            let mut counted = found.empty();
            values.iter().for_each(|value| counted.add(*value));
            assert_eq!(found, counted, "{values:?}");
        }
    }

    /// About one in a hundred columns without drift is reported as moved, whatever the number of rows.
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
        // First one row in twenty-five has the value 1, then all rows have it, then no row.
        let sparse: Vec<f64> = (0..2000).map(|i| f64::from(i32::from(i % 25 == 0))).collect();
        assert_eq!(between(&sparse, &sparse).psi, 0.0);
        assert_eq!(between(&sparse, &vec![1.0; 2000]).verdict, Verdict::MovedFar);
        assert_eq!(between(&sparse, &vec![0.0; 2000]).verdict, Verdict::MovedFar);
        assert_eq!(between(&vec![3.0; 2000], &vec![2.0; 2000]).verdict, Verdict::MovedFar);
        assert_eq!(between(&vec![3.0; 2000], &vec![3.0; 900]).verdict, Verdict::Stable);
        // R: qchisq(0.99, 9) = 21.66599
        assert!((chi_squared_99(9.0) - 21.665_994).abs() < 1e-4, "scipy.stats.chi2.ppf(0.99, 9)");
    }
}

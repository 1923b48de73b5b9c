//! The engagement score: how much, how often and on how many channels a customer is active.

use crate::error::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An empirical distribution function, frozen at training as its values at evenly spaced ranks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ecdf {
    /// The values, ascending. The share of the distribution at or below the i-th of n values is i / (n -
    /// 1).
    pub knots: Vec<f64>,
}

/// The maximum number of values that are kept, which gives a resolution of 0.1 %.
const KNOTS: usize = 1001;

impl Ecdf {
    /// Freezes the distribution of `count` values, which come in ascending order.
    ///
    /// # Errors
    /// Returns the first error of the values.
    pub fn fit(count: usize, values: impl Iterator<Item = Result<f64>>) -> Result<Self> {
        let kept = count.min(KNOTS);
        let share = |knot: usize| knot as f64 / (kept - 1).max(1) as f64;
        let rank = |knot: usize| (share(knot) * (count - 1) as f64).round() as usize;
        let mut knots = Vec::with_capacity(kept);
        for (i, value) in values.enumerate() {
            let value = value?;
            if knots.len() < kept && rank(knots.len()) == i {
                knots.push(value);
            }
        }
        Ok(Self { knots })
    }

    /// The share of the distribution below `value`, with ties counted half. It is between 0 and 1 and
    /// never falls when `value` rises.
    pub fn at(&self, value: f64) -> f64 {
        let below = self.knots.partition_point(|knot| *knot < value);
        let up_to = self.knots.partition_point(|knot| *knot <= value);
        match self.knots.len() {
            0 => 1.0,
            count => (below + up_to) as f64 / 2.0 / count as f64,
        }
    }
}

/// The weights of the parts, which sum to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Composite {
    /// The rank of the decayed, weighted activity.
    pub activity: f64,
    /// The active days among the last 28.
    pub active_days: f64,
    /// The channels used in the last 28 days.
    pub channels: f64,
}

impl Default for Composite {
    fn default() -> Self {
        Self { activity: 0.5, active_days: 0.3, channels: 0.2 }
    }
}

/// The parts of one customer's score, each between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parts {
    /// The rank of the decayed, weighted activity.
    pub activity: f64,
    /// The share of active days among the last 28.
    pub frequency: f64,
    /// The channels used in the last 28 days, at most four, divided by four.
    pub breadth: f64,
}

impl Parts {
    /// Computes the parts from decayed activity, active days in 28 days and channels in 28 days.
    pub fn new(ecdf: &Ecdf, activity: f64, active_days: f64, channels: f64) -> Self {
        Self {
            activity: if activity > 0.0 { ecdf.at(activity) } else { 0.0 },
            frequency: (active_days / 28.0).clamp(0.0, 1.0),
            breadth: channels.clamp(0.0, 4.0) / 4.0,
        }
    }

    /// The points of each part out of 100, in the order activity, frequency, breadth.
    pub fn points(self, composite: &Composite) -> [f64; 3] {
        [
            100.0 * composite.activity * self.activity,
            100.0 * composite.active_days * self.frequency,
            100.0 * composite.channels * self.breadth,
        ]
    }

    /// The score, from 0 to 100.
    pub fn score(self, composite: &Composite) -> f64 {
        let [activity, frequency, breadth] = [self.activity, self.frequency, self.breadth];
        let Composite { activity: a, active_days: b, channels: c } = composite;
        (100.0 * (a * activity + b * frequency + c * breadth)).min(100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    #[test]
    fn the_score_goes_from_0_to_100() {
        let ecdf = Ecdf::fit(5000, (1..=5000).map(|value| Ok(f64::from(value)))).unwrap();
        assert_eq!(ecdf.knots.len(), 1001);
        let composite = Composite::default();
        assert_eq!(Parts::new(&ecdf, 0.0, 0.0, 0.0).score(&composite), 0.0);
        let most = Parts::new(&ecdf, 1e9, 28.0, 9.0);
        assert_eq!(most.score(&composite), 100.0);
        assert_eq!(most.points(&composite), [50.0, 30.0, 20.0]);
    }

    /// More activity, days or channels never lower the score, for any distribution.
    #[test]
    fn more_never_lowers() {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..2000 {
            let count = random.random_range(0..2500);
            let some = |random: &mut rand_chacha::ChaCha8Rng| {
                // Values are often among a few, so that there are ties.
                f64::from(random.random_range(0..20)) * random.random_range(0.0..1.0_f64).round()
            };
            let mut values: Vec<f64> = (0..count).map(|_| some(&mut random)).collect();
            values.sort_by(f64::total_cmp);
            let ecdf = Ecdf::fit(values.len(), values.into_iter().map(Ok)).unwrap();
            let shares: [f64; 3] = std::array::from_fn(|_| random.random_range(0.01..1.0));
            let [activity, active_days, channels] =
                shares.map(|share| share / shares.iter().sum::<f64>());
            let composite = Composite { activity, active_days, channels };
            let mut more = |value: f64| value + some(&mut random) * 0.5;
            let less = [more(0.0), more(0.0), more(0.0)];
            let greater = less.map(&mut more);
            let score = |[activity, days, channels]: [f64; 3]| {
                Parts::new(&ecdf, activity, days, channels).score(&composite)
            };
            assert!((0.0..=100.0).contains(&score(greater)));
            assert!(score(greater) >= score(less), "{less:?} {greater:?} {composite:?}");
        }
    }
}

//! The engagement score: how much, how often and on how many channels a customer is active now.

use serde::{Deserialize, Serialize};

/// An empirical distribution function frozen at training, as its values at evenly spaced ranks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ecdf {
    /// Ascending; the i-th of n has i / (n - 1) of the distribution at or below it.
    pub knots: Vec<f64>,
}

/// Knots kept of a distribution: a resolution of a tenth of a per cent.
const KNOTS: usize = 1001;

impl Ecdf {
    /// Freezes the distribution of `values`.
    pub fn fit(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        if values.len() <= KNOTS {
            return Self { knots: values };
        }
        let last = (values.len() - 1) as f64;
        let rank = |i: usize| (i as f64 / (KNOTS - 1) as f64 * last).round() as usize;
        Self { knots: (0..KNOTS).map(|i| values[rank(i)]).collect() }
    }

    /// The share of the distribution below `value`, with ties counted half; between 0 and 1, and
    /// never falling in `value`.
    pub fn at(&self, value: f64) -> f64 {
        let below = self.knots.partition_point(|knot| *knot < value);
        let up_to = self.knots.partition_point(|knot| *knot <= value);
        match self.knots.len() {
            0 => 1.0,
            count => (below + up_to) as f64 / 2.0 / count as f64,
        }
    }
}

/// The parts of one customer's score, each between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parts {
    /// The rank of the decayed, weighted activity.
    pub activity: f64,
    /// Active days of the last 28.
    pub frequency: f64,
    /// Channels of the last 28 days, at most four.
    pub breadth: f64,
}

impl Parts {
    /// The parts from decayed activity, active days in 28 days and channels in 28 days.
    pub fn new(ecdf: &Ecdf, activity: f64, active_days: f64, channels: f64) -> Self {
        Self {
            activity: if activity > 0.0 { ecdf.at(activity) } else { 0.0 },
            frequency: (active_days / 28.0).clamp(0.0, 1.0),
            breadth: channels.clamp(0.0, 4.0) / 4.0,
        }
    }

    /// 0 to 100.
    pub fn score(self) -> f64 {
        100.0 * (0.5 * self.activity + 0.3 * self.frequency + 0.2 * self.breadth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_events_score_nothing_and_more_never_lowers() {
        let ecdf = Ecdf::fit((1..=5000).map(f64::from).collect());
        assert_eq!(ecdf.knots.len(), 1001);
        assert_eq!(Parts::new(&ecdf, 0.0, 0.0, 0.0).score(), 0.0);
        let mut last = 0.0;
        for step in 1..1000 {
            let score =
                Parts::new(&ecdf, f64::from(step) * 7.0, f64::from(step % 28), 2.0).activity;
            assert!(score >= last);
            last = score;
        }
        assert_eq!(Parts::new(&ecdf, 1e9, 28.0, 9.0).score(), 100.0);
    }
}

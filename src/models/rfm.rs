//! Recency, frequency and monetary value (RFM) as quintiles, with cut points that are frozen at training.

use crate::error::Result;
use serde::{Deserialize, Serialize};

/// The lowest values of the scores 2, 3, 4 and 5.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Quintiles {
    /// The cut points, ascending. `None`, stored as null, is an infinite cut point.
    pub cuts: Vec<Option<f64>>,
}

impl Quintiles {
    /// Fits the cut points to `count` values, which come in ascending order, so that each value has the score
    /// 1 + floor(5 (rank - 1) / n). The rank is one more than the number of smaller values, so that ties share
    /// a score.
    ///
    /// # Errors
    /// Returns the first error of the values.
    pub fn fit(count: usize, values: impl Iterator<Item = Result<f64>>) -> Result<Self> {
        let mut cuts = Vec::new();
        let (mut below, mut last) = (0, f64::NEG_INFINITY);
        for (i, value) in values.enumerate() {
            let value = value?;
            if value > last {
                (below, last) = (i, value);
            }
            // The cut point of a score is the lowest value that has at least (score - 1) / 5 of all values
            // strictly below it.
            while cuts.len() < 4 && 5 * below >= (cuts.len() + 1) * count {
                cuts.push(Some(value));
            }
        }
        cuts.resize(4, None);
        Ok(Self { cuts })
    }

    /// The score from 1 to 5. A higher value has a higher score.
    pub fn score(&self, value: f64) -> u8 {
        1 + self.cuts.iter().flatten().filter(|cut| value >= **cut).count() as u8
    }
}

/// The frozen cut points of recency, frequency and monetary value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rfm {
    /// The cut points of minus the days since the last purchase.
    pub recency: Quintiles,
    /// The cut points of the number of days with a purchase.
    pub frequency: Quintiles,
    /// The cut points of net spend in major units.
    pub monetary: Quintiles,
}

impl Rfm {
    /// Scores a buyer from 1 to 5 by days since the last purchase, days with a purchase and net spend.
    /// All scores are 0 for a customer who has never bought.
    pub fn score(&self, buyer: Option<[f64; 3]>) -> [u8; 3] {
        buyer.map_or([0; 3], |[since, days, net_spend]| {
            [self.recency.score(-since), self.frequency.score(days), self.monetary.score(net_spend)]
        })
    }
}

/// The usual name of the segment with these recency, frequency and monetary scores.
///
/// The segment is given by recency and by the mean of the other two scores, rounded up. Every combination
/// of scores has one of eleven names. A prospect has never bought.
pub fn segment([recency, frequency, monetary]: [u8; 3]) -> &'static str {
    match (recency, (frequency + monetary).div_ceil(2)) {
        (0, _) => "Prospect",
        (5, 4..) => "Champions",
        (3..=4, 4..) => "Loyal",
        (4..=5, 2..=3) => "Potential loyalist",
        (5, _) => "New customer",
        (4, _) => "Promising",
        (3, 3) => "Needs attention",
        (3, _) => "About to sleep",
        (1 | 2, 5) => "Can't lose",
        (1 | 2, 3 | 4) => "At risk",
        (1, 1) => "Lost",
        _ => "Hibernating",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    #[test]
    fn every_cell_has_one_of_eleven_names() {
        let mut names = std::collections::BTreeSet::new();
        for cell in 0..125 {
            names.insert(segment([1 + cell / 25, 1 + cell / 5 % 5, 1 + cell % 5]));
        }
        assert_eq!(names.len(), 11, "{names:?}");
        assert_eq!(segment([0; 3]), "Prospect");
        for (scores, name) in [
            ([5, 5, 5], "Champions"),
            ([4, 5, 4], "Loyal"),
            ([5, 1, 1], "New customer"),
            ([1, 5, 5], "Can't lose"),
            ([2, 3, 4], "At risk"),
            ([1, 1, 1], "Lost"),
            ([1, 2, 1], "Hibernating"),
        ] {
            assert_eq!(segment(scores), name);
        }
    }

    #[test]
    fn frozen_cuts_give_the_scores_of_the_definition() {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..200 {
            let count = random.random_range(1..60);
            let values: Vec<f64> =
                (0..count).map(|_| f64::from(random.random_range(0..12))).collect();
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let fitted = Quintiles::fit(sorted.len(), sorted.into_iter().map(Ok)).unwrap();
            for value in &values {
                let below = values.iter().filter(|other| *other < value).count();
                let expected = 1 + (5 * below / values.len()) as u8;
                assert_eq!(fitted.score(*value), expected, "{value} of {values:?}");
            }
        }
    }
}

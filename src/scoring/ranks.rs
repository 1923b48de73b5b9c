//! The global part of scoring: exact ranks, and the distribution of all scores.
//!
//! Every shard writes its sorted scores of a model to disk. A merge over all shards gives each shard its
//! percentiles, and computes the quantiles and the histogram of the report at the same time. The scores
//! are never all in memory.

use std::path::Path;

use crate::error::Result;
use crate::features::drift::{Drift, SortedCounter, drift};
use crate::store::sorted::SortedRuns;
use crate::store::spill::Spill;

/// The number of bars of a histogram of scores.
pub const BARS: usize = 20;
/// The number of percentiles that are written to disk together.
const WRITTEN: usize = 1 << 12;

/// The start and the width of the bars of a histogram.
#[derive(Debug, Clone, Copy)]
pub struct Bars {
    low: f64,
    width: f64,
    count: usize,
}

impl Bars {
    /// Creates the bars for scores within a range. If all scores are whole numbers and the range is small
    /// enough, each whole number has a bar of its own.
    pub fn new([low, high]: [f64; 2], are_whole: bool) -> Self {
        let probability = low >= 0.0 && high <= 1.0;
        let (low, high) = if probability { (0.0, 1.0) } else { (low, high) };
        if are_whole && high - low < BARS as f64 {
            // With narrower or wider bars, some would hold two whole numbers and others none.
            return Self { low, width: 1.0, count: (high - low) as usize + 1 };
        }
        Self { low, width: ((high - low) / BARS as f64).max(f64::MIN_POSITIVE), count: BARS }
    }

    /// The value at which each bar begins.
    pub fn from(self) -> Vec<f64> {
        (0..self.count).map(|bar| self.low + self.width * bar as f64).collect()
    }

    fn bar(self, score: f64) -> usize {
        (((score - self.low) / self.width) as usize).min(self.count - 1)
    }
}

/// The distribution of the scores of a model over all customers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distributed {
    /// The number of scores.
    pub count: usize,
    /// The mean; NaN if there are no scores.
    pub mean: f64,
    /// The 10th, 50th and 90th percentile.
    pub quantiles: [f64; 3],
    /// The share of the scores in each bar; empty if there are no scores.
    pub shares: Vec<f64>,
}

/// The shares of [`Distributed::quantiles`].
const SHARES: [f64; 3] = [0.1, 0.5, 0.9];

/// Counts scores, which must be added in ascending order.
struct Counter {
    bars: Bars,
    count: usize,
    seen: usize,
    sum: f64,
    in_bar: [u64; BARS],
    /// For each share of `SHARES`, the scores before and after its place.
    around: [[f64; 2]; 3],
}

impl Counter {
    fn new(bars: Bars, count: usize) -> Self {
        Self { bars, count, seen: 0, sum: 0.0, in_bar: [0; BARS], around: [[f64::NAN; 2]; 3] }
    }

    /// The place of a share among all scores. It may lie between two scores.
    fn place(&self, share: f64) -> f64 {
        (self.count.max(1) - 1) as f64 * share
    }

    fn add(&mut self, score: f64) {
        self.sum += score;
        self.in_bar[self.bars.bar(score)] += 1;
        for (i, share) in SHARES.into_iter().enumerate() {
            let place = self.place(share);
            if place.floor() as usize == self.seen {
                self.around[i][0] = score;
            }
            if place.ceil() as usize == self.seen {
                self.around[i][1] = score;
            }
        }
        self.seen += 1;
    }

    fn finish(self) -> Distributed {
        let quantile = |i: usize| {
            let (place, [low, high]) = (self.place(SHARES[i]), self.around[i]);
            low + (high - low) * place.fract()
        };
        let count = self.count as f64;
        let shares = self.in_bar[..self.bars.count].iter().map(|rows| *rows as f64 / count);
        Distributed {
            count: self.count,
            mean: self.sum / count,
            quantiles: [0, 1, 2].map(quantile),
            shares: if self.count == 0 { Vec::new() } else { shares.collect() },
        }
    }
}

/// The ranks and the distribution of a model's scores.
#[derive(Debug)]
pub struct Ranked {
    /// For each shard, the percentiles of its ranked customers in the order of their scores.
    percentiles: Spill,
    /// The distribution of all scores.
    pub now: Distributed,
    /// The distribution of all scores of the last as-of.
    pub before: Distributed,
    /// The drift of the scores since the last as-of; `None` if one of the two has no scores.
    pub moved: Option<Drift>,
}

/// Ranks the scores of all shards.
///
/// A percentile, 0-100, is the share of the ranked scores below, with ties counted half. `before` has the
/// scores of the last as-of.
pub fn rank(
    model: &str,
    now: &SortedRuns,
    before: &SortedRuns,
    bars: Bars,
    (folder, shards): (&Path, usize),
) -> Result<Ranked> {
    let (mut earlier_counter, mut earlier) =
        (SortedCounter::new(before.len()), Counter::new(bars, before.len()));
    for next in before.merge()? {
        let score = next?.value;
        earlier_counter.add(score);
        earlier.add(score);
    }
    let earlier_bins = earlier_counter.finish(0);
    let mut later_bins = earlier_bins.empty();
    let mut all = Counter::new(bars, now.len());
    let mut ranks = Ranks::new(folder, shards, now.marked())?;
    for next in now.merge()? {
        let next = next?;
        all.add(next.value);
        later_bins.add(next.value);
        if next.is_marked {
            ranks.add(next.value, next.run)?;
        }
    }
    let both = !before.is_empty() && !now.is_empty();
    Ok(Ranked {
        percentiles: ranks.finish()?,
        now: all.finish(),
        before: earlier.finish(),
        moved: both.then(|| drift(model, &earlier_bins, &later_bins)),
    })
}

impl Ranked {
    /// Returns the percentiles of a shard's customers. `ranked` has the ranked scores of the shard.
    pub fn percentiles(
        &self,
        place: usize,
        ranked: &arrow_array::Float64Array,
    ) -> Result<arrow_array::Float64Array> {
        let mut rows: Vec<(f64, usize)> =
            ranked.iter().enumerate().filter_map(|(row, score)| Some((score?, row))).collect();
        rows.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let percentiles = self.percentiles.read_numbers(place)?;
        assert_eq!(percentiles.len(), rows.len(), "a shard is ranked by its own scores");
        let mut by_row = vec![None; ranked.len()];
        for ((_, row), percentile) in rows.into_iter().zip(percentiles) {
            by_row[row] = Some(percentile);
        }
        Ok(by_row.into_iter().collect())
    }
}

/// A writer of percentiles to the shards.
struct Ranks {
    spill: Spill,
    total: usize,
    /// The number of ranked scores below the current score.
    below: usize,
    /// The current score. `runs` has the number of equal scores for each shard.
    equal: Option<f64>,
    runs: Vec<(usize, usize)>,
    waiting: Vec<Vec<f64>>,
}

impl Ranks {
    fn new(folder: &Path, shards: usize, total: usize) -> Result<Self> {
        Ok(Self {
            spill: Spill::create(folder, shards)?,
            total,
            below: 0,
            equal: None,
            runs: Vec::new(),
            waiting: vec![Vec::new(); shards],
        })
    }

    fn add(&mut self, score: f64, run: usize) -> Result<()> {
        if self.equal != Some(score) {
            self.end_of_equals()?;
            self.equal = Some(score);
        }
        match self.runs.last_mut().filter(|(last, _)| *last == run) {
            Some((_, count)) => *count += 1,
            None => self.runs.push((run, 1)),
        }
        Ok(())
    }

    fn end_of_equals(&mut self) -> Result<()> {
        let count: usize = self.runs.iter().map(|(_, count)| count).sum();
        let up_to = self.below + count;
        let percentile = 100.0 * (self.below + up_to) as f64 / 2.0 / self.total as f64;
        for (run, count) in std::mem::take(&mut self.runs) {
            let waiting = &mut self.waiting[run];
            waiting.extend(std::iter::repeat_n(percentile, count));
            if waiting.len() >= WRITTEN {
                self.spill.add_numbers(run, waiting)?;
                waiting.clear();
            }
        }
        self.below = up_to;
        Ok(())
    }

    fn finish(mut self) -> Result<Spill> {
        self.end_of_equals()?;
        for (run, waiting) in self.waiting.iter().enumerate().filter(|(_, w)| !w.is_empty()) {
            self.spill.add_numbers(run, waiting)?;
        }
        Ok(self.spill)
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{Array, Float64Array};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::models::preprocessing::shape::quantile;

    /// Computes the percentile of one score by definition: the share of ranked scores below, with ties
    /// counted half.
    fn percentile(scores: &[(f64, bool)], score: f64) -> f64 {
        let ranked = || scores.iter().filter(|(_, is_ranked)| *is_ranked);
        let below = ranked().filter(|(other, _)| *other < score).count();
        let up_to = ranked().filter(|(other, _)| *other <= score).count();
        100.0 * (below + up_to) as f64 / 2.0 / ranked().count() as f64
    }

    #[test]
    fn ranks_are_those_of_all_shards_together() {
        let seed = 17;
        println!("seed {seed}");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        for shards in [1, 4, 16] {
            let now = SortedRuns::create(folder.path(), shards).unwrap();
            let before = SortedRuns::create(folder.path(), 1).unwrap();
            let score = |random: &mut ChaCha8Rng| f64::from(random.random_range(0..200)) / 200.0;
            let scores: Vec<Vec<(f64, bool)>> = (0..shards)
                .map(|shard| {
                    let count = if shard == 2 { 0 } else { random.random_range(1..300) };
                    (0..count).map(|_| (score(&mut random), random.random_bool(0.7))).collect()
                })
                .collect();
            scores.iter().enumerate().for_each(|(i, own)| now.put(i, own.clone()).unwrap());
            let earlier: Vec<f64> = (0..500).map(|_| score(&mut random)).collect();
            before.put(0, earlier.iter().map(|score| (*score, false)).collect()).unwrap();
            let bars = Bars::new([0.0, 1.0], false);
            let found = rank("m", &now, &before, bars, (folder.path(), shards)).unwrap();
            let all: Vec<(f64, bool)> = scores.concat();
            for (shard, own) in scores.iter().enumerate() {
                let ranked: Float64Array = own.iter().map(|(s, is)| is.then_some(*s)).collect();
                let percentiles = found.percentiles(shard, &ranked).unwrap();
                for (row, (score, is_ranked)) in own.iter().enumerate() {
                    assert_eq!(percentiles.is_valid(row), *is_ranked);
                    if *is_ranked {
                        assert_eq!(percentiles.value(row), percentile(&all, *score));
                    }
                }
            }
            let mut sorted: Vec<f64> = all.iter().map(|(score, _)| *score).collect();
            sorted.sort_by(f64::total_cmp);
            assert_eq!(found.now.quantiles, SHARES.map(|share| quantile(&sorted, share)));
            assert_eq!(found.now.mean, sorted.iter().sum::<f64>() / sorted.len() as f64);
            assert!((found.now.shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            let bins = crate::features::drift::Distribution::of(&earlier);
            let mut later = bins.empty();
            sorted.iter().for_each(|score| later.add(*score));
            assert_eq!(found.moved, Some(drift("m", &bins, &later)));
        }
    }

    #[test]
    fn without_scores_there_is_nothing_to_tell() {
        let folder = tempfile::tempdir().unwrap();
        let runs = || SortedRuns::create(folder.path(), 2).unwrap();
        let bars = Bars::new([f64::MAX, f64::MIN], true);
        let found = rank("m", &runs(), &runs(), bars, (folder.path(), 2)).unwrap();
        assert_eq!((found.now.count, found.now.shares.len(), found.moved), (0, 0, None));
    }

    #[test]
    fn whole_numbers_have_bars_of_their_own() {
        let whole = Bars::new([3.0, 15.0], true).from();
        assert_eq!((whole.len(), whole[..3].to_vec(), whole[12]), (13, vec![3.0, 4.0, 5.0], 15.0));
        assert_eq!(Bars::new([0.2, 0.7], false).from()[1], 0.05);
        assert_eq!(Bars::new([0.0, 40.0], true).from()[1], 2.0);
    }
}

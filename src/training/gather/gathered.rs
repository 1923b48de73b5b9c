//! What is gathered of the customers of a shard for the models; samples of different shards add up.
//!
//! Of each snapshot a classifier keeps the rows of a fixed sample of customers, chosen by the hash of their
//! keys, and counts all of them: what is held does not grow with the number of customers.

use std::collections::{HashMap, HashSet};

use crate::artifact::Schedule;
use crate::features::catalog::Aggregation;
use crate::features::events::BuildReport;
use crate::features::plan::FeaturePlan;
use crate::models::matrix::Matrix;
use crate::time::{Duration, Instant};
use crate::training::affinity::Windows;
use crate::training::affinity::sample::InteractionData;
use crate::training::lifetime_value::PurchaseData;
use crate::training::skew::Differences;

/// A number that decides which customers are sampled: those with the least ones. The hash of the key decides
/// shards, too; multiplying spreads it anew.
pub fn spread(hash: u64) -> u64 {
    hash.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// How many rows there may be before those that are not kept are dropped.
fn limit(most: usize) -> usize {
    most + most / 4
}

/// The rows of one classifier at one snapshot.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Customers who are there.
    pub customers: usize,
    /// The eligible among them by whole days since their last label event, rounded up, and by outcome; those
    /// of whom the days do not decide, at 0.
    pub eligible: Vec<[usize; 2]>,
    /// Hashes of the sampled eligible customers' keys. What follows is of them, in the same order.
    pub hashes: Vec<u64>,
    /// Keys, kept only for the last snapshot.
    pub keys: Vec<String>,
    /// Inputs.
    pub inputs: Matrix,
    /// Days since their last label event; NaN for none.
    pub recency: Vec<f64>,
    /// Outcomes.
    pub labels: Vec<bool>,
    /// Of a sample of those with a past label event who are not eligible: the hash, recency and outcome.
    pub lapsed: Vec<(u64, f64, bool)>,
}

impl Snapshot {
    /// A snapshot without customers yet, of so many inputs.
    pub fn new(width: usize) -> Self {
        Self { inputs: Matrix::new(width), ..Self::default() }
    }

    /// Counts a customer who is eligible, so many days after their last label event if these decide.
    pub fn count(&mut self, days: Option<f64>, label: bool) {
        let place = days.map_or(0, |days| days.ceil() as usize);
        if self.eligible.len() <= place {
            self.eligible.resize(place + 1, [0; 2]);
        }
        self.eligible[place][usize::from(label)] += 1;
    }

    /// Leaves out of what was counted those whose last label event is longer ago.
    pub fn within(&mut self, length: Duration) {
        self.eligible.truncate(length.as_days() as usize + 1);
    }

    /// The eligible with and without y = 1, sampled or not.
    pub fn classes(&self) -> [usize; 2] {
        self.eligible.iter().fold([0; 2], |sum, own| [sum[0] + own[0], sum[1] + own[1]])
    }

    /// Adds the customers of another shard, and keeps the rows of `most` customers.
    pub fn add(&mut self, other: Self, most: usize) {
        self.customers += other.customers;
        self.eligible.resize(self.eligible.len().max(other.eligible.len()), [0; 2]);
        for (own, more) in self.eligible.iter_mut().zip(other.eligible) {
            *own = [own[0] + more[0], own[1] + more[1]];
        }
        self.hashes.extend(other.hashes);
        self.keys.extend(other.keys);
        self.inputs.append(other.inputs);
        self.recency.extend(other.recency);
        self.labels.extend(other.labels);
        self.lapsed.extend(other.lapsed);
        if self.hashes.len() > limit(most) {
            self.keep(most);
        }
        if self.lapsed.len() > limit(most) {
            keep_least(&mut self.lapsed, most, |(hash, ..)| *hash);
        }
    }

    /// Keeps the rows of `most` customers.
    fn keep(&mut self, most: usize) {
        if self.hashes.len() <= most {
            return;
        }
        let mut spreads: Vec<u64> = self.hashes.iter().map(|hash| spread(*hash)).collect();
        let (_, last, _) = spreads.select_nth_unstable(most - 1);
        let last = *last;
        let kept = (0..self.hashes.len()).filter(|row| spread(self.hashes[*row]) <= last);
        self.select(&kept.collect::<Vec<_>>());
    }

    /// Keeps the eligible rows with these numbers, in this order.
    pub fn select(&mut self, rows: &[usize]) {
        self.hashes = rows.iter().map(|row| self.hashes[*row]).collect();
        self.inputs = self.inputs.select(rows);
        self.recency = rows.iter().map(|row| self.recency[*row]).collect();
        self.labels = rows.iter().map(|row| self.labels[*row]).collect();
        if !self.keys.is_empty() {
            self.keys = rows.iter().map(|row| self.keys[*row].clone()).collect();
        }
    }
}

/// Leaves the `most` rows with the least [`spread`] of their hashes.
fn keep_least<T>(rows: &mut Vec<T>, most: usize, hash: impl Fn(&T) -> u64) {
    if rows.len() > most {
        rows.select_nth_unstable_by_key(most - 1, |row| spread(hash(row)));
        rows.truncate(most);
    }
}

/// What metrics of a test row are shown by.
#[derive(Debug, Clone, Default)]
pub struct SliceRow {
    /// Days since the first event.
    pub tenure: f64,
    /// Amount of the label's events over a year, in major units; NaN where events have none.
    pub value: f64,
    /// Channel of the last event.
    pub channel: Option<String>,
    /// Levels of the attributes that the spec slices by.
    pub levels: Vec<Option<String>>,
}

/// What is gathered for one classifier.
#[derive(Debug, Default)]
pub struct ClassifierSample {
    /// In time order: training, calibration, test.
    pub snapshots: Vec<Snapshot>,
    /// Customers' median gaps between days with a label event, at the last training snapshot.
    pub gaps: Vec<f64>,
    /// Sampled customers at the test snapshot, by the hash of the key.
    pub slices: HashMap<u64, SliceRow>,
    /// The raw logits of the version in use, by the hash of the key, at the test snapshot.
    pub champion: HashMap<u64, f64>,
    /// As-ofs of past scores, each with the hashes of those who had an event of the label since.
    pub happened: Vec<(Instant, HashSet<u64>)>,
}

impl ClassifierSample {
    /// Adds the customers of another shard, and keeps the rows of `most` customers of each snapshot.
    pub fn add(&mut self, other: Self, most: usize) {
        self.snapshots.iter_mut().zip(other.snapshots).for_each(|(own, more)| own.add(more, most));
        self.gaps.extend(other.gaps);
        self.slices.extend(other.slices);
        self.champion.extend(other.champion);
        for ((_, own), (_, more)) in self.happened.iter_mut().zip(other.happened) {
            own.extend(more);
        }
        // They are of everybody at the test snapshot, and needed for its rows alone.
        if self.slices.len().max(self.champion.len()) > 2 * limit(most) {
            self.drop_unsampled();
        }
    }

    /// Keeps the rows of `most` customers of each snapshot, and what is known of the test's.
    pub fn keep(&mut self, most: usize) {
        self.snapshots.iter_mut().for_each(|snapshot| snapshot.keep(most));
        self.drop_unsampled();
    }

    fn drop_unsampled(&mut self) {
        let Some(test) = self.snapshots.last() else { return };
        let sampled: HashSet<u64> = test.hashes.iter().copied().collect();
        self.slices.retain(|hash, _| sampled.contains(hash));
        self.champion.retain(|hash, _| sampled.contains(hash));
    }
}

/// What is gathered for all models.
#[derive(Debug, Default)]
pub struct Samples {
    /// In the order of the models.
    pub classifiers: Vec<ClassifierSample>,
    /// Decayed activity of customers who have any.
    pub activity: Vec<f64>,
    /// Minus recency, purchase days, net spend of buyers.
    pub buyers: Vec<[f64; 3]>,
    /// What buyers have bought.
    pub purchases: PurchaseData,
    /// What customers have interacted with.
    pub interactions: InteractionData,
    /// Features that are others than when they were served.
    pub skew: Differences,
}

/// What one classifier needs.
#[derive(Debug)]
pub struct ClassifierData {
    /// When.
    pub schedule: Schedule,
    /// The aggregation behind recency.
    pub recency: Aggregation,
    /// The closure of the inputs and of eligibility.
    pub plan: FeaturePlan,
    /// The levels of the attributes that are inputs, in the order of the spec.
    pub levels: Vec<Vec<String>>,
    /// As [`ClassifierSample::snapshots`].
    pub snapshots: Vec<Snapshot>,
    /// As [`ClassifierSample::gaps`].
    pub gaps: Vec<f64>,
    /// As [`ClassifierSample::slices`].
    pub slices: HashMap<u64, SliceRow>,
    /// As [`ClassifierSample::champion`].
    pub champion: HashMap<u64, f64>,
    /// As [`ClassifierSample::happened`].
    pub happened: Vec<(Instant, HashSet<u64>)>,
}

/// All that training needs.
#[derive(Debug)]
pub struct Gathered {
    /// In the order of the models.
    pub classifiers: Vec<ClassifierData>,
    /// As [`Samples::activity`].
    pub activity: Vec<f64>,
    /// As [`Samples::buyers`].
    pub buyers: Vec<[f64; 3]>,
    /// As [`Samples::purchases`].
    pub purchases: PurchaseData,
    /// The instant from which purchases are held out; None where none are.
    pub holdout: Option<Instant>,
    /// As [`Samples::interactions`].
    pub interactions: InteractionData,
    /// When their ranking is chosen and tested; None where the history is too short.
    pub windows: Option<Windows>,
    /// As [`Samples::skew`].
    pub skew: Differences,
    /// What was read.
    pub report: BuildReport,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::hash;

    fn snapshot(customers: std::ops::Range<usize>) -> Snapshot {
        let mut snapshot = Snapshot::new(1);
        for i in customers {
            let label = i % 3 == 0;
            snapshot.customers += 1;
            snapshot.hashes.push(hash(&format!("c{i}")));
            snapshot.inputs.push([i as f64]);
            snapshot.recency.push(i as f64 % 50.0);
            snapshot.labels.push(label);
            snapshot.count(Some(i as f64 % 50.0), label);
            snapshot.lapsed.push((hash(&format!("l{i}")), i as f64, label));
        }
        snapshot
    }

    /// By hash, whatever the order in which they came.
    fn rows(snapshot: &Snapshot) -> Vec<(u64, f64, bool)> {
        let rows = 0..snapshot.hashes.len();
        let row = |i: usize| (snapshot.hashes[i], snapshot.inputs.row(i)[0], snapshot.labels[i]);
        let mut rows: Vec<_> = rows.map(row).collect();
        rows.sort_by_key(|row| row.0);
        rows
    }

    #[test]
    fn the_sample_is_the_same_however_customers_are_split() {
        let mut whole = snapshot(0..1000);
        whole.keep(100);
        assert_eq!(whole.hashes.len(), 100);
        for parts in [1, 7, 50] {
            let mut merged = Snapshot::new(1);
            for part in 0..parts {
                let mut own = snapshot(part * 1000 / parts..(part + 1) * 1000 / parts);
                own.keep(100);
                merged.add(own, 100);
            }
            merged.keep(100);
            keep_least(&mut merged.lapsed, 100, |(hash, ..)| *hash);
            assert_eq!(rows(&merged), rows(&whole));
            assert_eq!(merged.lapsed.len(), 100);
            // All are counted, sampled or not.
            assert_eq!((merged.customers, merged.classes()), (1000, [666, 334]));
            merged.within(Duration::days(9));
            assert_eq!(merged.classes().iter().sum::<usize>(), 200);
        }
    }
}

//! The samples that are gathered for the models. Samples of different shards can be added.
//!
//! For each snapshot, a classifier counts all customers but keeps the rows only of a fixed sample of
//! them, chosen by the hash of their keys. Memory therefore does not grow with the number of customers.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::artifact::Schedule;
use crate::error::Result;
use crate::features::catalog::Aggregation;
use crate::features::events::BuildReport;
use crate::features::plan::FeaturePlan;
use crate::models::matrix::Matrix;
use crate::shard::{Shard, Shards};
use crate::store::sorted::SortedRuns;
use crate::time::{Duration, Instant};
use crate::training::affinity::Windows;
use crate::training::affinity::sample::InteractionData;
use crate::training::lifetime_value::{Holdouts, PurchaseData};
use crate::training::sampling::spread;
use crate::training::skew::Differences;

/// The number of customers whose rows are kept of a snapshot of which only the base rate is used. A rate of a
/// half then has a standard error of half a percentage point.
pub const BASE_RATE_ROWS: usize = 10_000;

/// The number of rows from which the rows that are not kept are dropped.
fn limit(most: usize) -> usize {
    most + most / 4
}

/// The rows of one classifier at one snapshot.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The number of customers at the snapshot.
    pub customers: usize,
    /// Counts of the eligible customers by outcome, indexed by the days since their last label event,
    /// rounded up. All counts are at index 0 if these days do not decide who is eligible.
    pub eligible: Vec<[usize; 2]>,
    /// The hashes of the keys of the sampled eligible customers. The next four fields have one entry for
    /// each of them, in the same order.
    pub hashes: Vec<u64>,
    /// The keys of these customers, kept only for the last snapshot.
    pub keys: Vec<String>,
    /// The raw inputs, one row per customer.
    pub inputs: Matrix,
    /// The days since the last label event; NaN if there is none.
    pub recency: Vec<f64>,
    /// The labels.
    pub labels: Vec<bool>,
    /// Hash, recency in days and label of a sample of the customers who have a past label event but are
    /// not eligible.
    pub lapsed: Vec<(u64, f64, bool)>,
}

impl Snapshot {
    /// Creates a snapshot without customers, for `width` inputs.
    pub fn new(width: usize) -> Self {
        Self { inputs: Matrix::new(width), ..Self::default() }
    }

    /// Counts an eligible customer. `days` is the time since the last label event if it decides who is
    /// eligible.
    pub fn count(&mut self, days: Option<f64>, label: bool) {
        let place = days.map_or(0, |days| days.ceil() as usize);
        if self.eligible.len() <= place {
            self.eligible.resize(place + 1, [0; 2]);
        }
        self.eligible[place][usize::from(label)] += 1;
    }

    /// Removes the counts of customers whose last label event is longer ago than `length`.
    pub fn within(&mut self, length: Duration) {
        self.eligible.truncate(length.as_days() as usize + 1);
    }

    /// The numbers of eligible customers with y = 0 and with y = 1, sampled or not.
    pub fn classes(&self) -> [usize; 2] {
        self.eligible.iter().fold([0; 2], |sum, own| [sum[0] + own[0], sum[1] + own[1]])
    }

    /// Adds the customers of another shard and keeps the rows of `most` customers.
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
        if self.hashes.len().max(self.lapsed.len()) > limit(most) {
            self.keep(most);
        }
    }

    /// Keeps the rows of `most` customers, and as many of those who are not eligible.
    fn keep(&mut self, most: usize) {
        keep_least(&mut self.lapsed, most, |(hash, ..)| *hash);
        if self.hashes.len() <= most {
            return;
        }
        let mut spreads: Vec<u64> = self.hashes.iter().map(|hash| spread(*hash)).collect();
        let (_, last, _) = spreads.select_nth_unstable(most - 1);
        let last = *last;
        let kept = (0..self.hashes.len()).filter(|row| spread(self.hashes[*row]) <= last);
        self.select(&kept.collect::<Vec<_>>());
    }

    /// Keeps the eligible rows with these indices, in this order.
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

/// Keeps the `most` rows with the smallest [`spread`] of their hashes.
fn keep_least<T>(rows: &mut Vec<T>, most: usize, hash: impl Fn(&T) -> u64) {
    if rows.len() > most {
        rows.select_nth_unstable_by_key(most - 1, |row| spread(hash(row)));
        rows.truncate(most);
    }
}

/// The values that the slices of a test row are formed by.
#[derive(Debug, Clone, Default)]
pub struct SliceRow {
    /// The days since the first event.
    pub tenure: f64,
    /// The sum of the amounts of the label's events over a year, in major units; NaN if the events have
    /// no amount.
    pub value: f64,
    /// The channel of the last event.
    pub channel: Option<String>,
    /// The levels of the attributes that the spec slices by.
    pub levels: Vec<Option<String>>,
}

/// The sample that is gathered for one classifier.
#[derive(Debug, Default)]
pub struct ClassifierSample {
    /// The snapshots in time order: training, calibration, test.
    pub snapshots: Vec<Snapshot>,
    /// The snapshots of which only the base rates are used, in time order.
    pub base_rate: Vec<Snapshot>,
    /// The values to slice by at the test snapshot, by the hash of the key.
    pub slices: HashMap<u64, SliceRow>,
    /// The champion's logits before calibration at the test snapshot, by the hash of the key.
    pub champion: HashMap<u64, f64>,
    /// The as-ofs of past scores, each with the hashes of the customers who had a label event since.
    pub happened: Vec<(Instant, HashSet<u64>)>,
}

impl ClassifierSample {
    /// Adds the customers of another shard and keeps the rows of `most` customers of each snapshot.
    pub fn add(&mut self, other: Self, most: usize) {
        self.snapshots.iter_mut().zip(other.snapshots).for_each(|(own, more)| own.add(more, most));
        let base_rate = self.base_rate.iter_mut().zip(other.base_rate);
        base_rate.for_each(|(own, more)| own.add(more, most.min(BASE_RATE_ROWS)));
        self.slices.extend(other.slices);
        self.champion.extend(other.champion);
        for ((_, own), (_, more)) in self.happened.iter_mut().zip(other.happened) {
            own.extend(more);
        }
        // Both maps hold all customers at the test snapshot, but are needed for its sampled rows only.
        if self.slices.len().max(self.champion.len()) > 2 * limit(most) {
            self.drop_unsampled();
        }
    }

    /// Keeps the rows of `most` customers of each snapshot, and of the maps what belongs to the test
    /// rows.
    pub fn keep(&mut self, most: usize) {
        self.snapshots.iter_mut().for_each(|snapshot| snapshot.keep(most));
        let least = most.min(BASE_RATE_ROWS);
        self.base_rate.iter_mut().for_each(|snapshot| snapshot.keep(least));
        self.drop_unsampled();
    }

    fn drop_unsampled(&mut self) {
        let Some(test) = self.snapshots.last() else { return };
        let sampled: HashSet<u64> = test.hashes.iter().copied().collect();
        self.slices.retain(|hash, _| sampled.contains(hash));
        self.champion.retain(|hash, _| sampled.contains(hash));
    }
}

/// A number of each customer, for the distributions that models need of all customers.
#[derive(Debug, Default)]
pub struct CustomerNumbers {
    /// The decayed activity of each customer who has any.
    pub activity: Vec<f64>,
    /// For each buyer: minus the recency in days, the number of days with a purchase, and the net spend.
    pub buyers: [Vec<f64>; 3],
    /// For each classifier, each customer's median gap between days with a label event, at the last training
    /// snapshot, in days.
    pub gaps: Vec<Vec<f64>>,
}

/// The [`CustomerNumbers`] of all shards. They are on disk, so that memory does not grow with the number of customers.
#[derive(Debug)]
pub struct Distributions {
    /// The activity, as in [`CustomerNumbers::activity`].
    pub activity: SortedRuns,
    /// The numbers of the buyers, as in [`CustomerNumbers::buyers`].
    pub buyers: [SortedRuns; 3],
    /// The median gaps, as in [`CustomerNumbers::gaps`].
    pub gaps: Vec<SortedRuns>,
}

impl Distributions {
    /// Creates distributions without numbers in files below `folder`.
    pub fn create(folder: &Path, shards: Shards, classifiers: usize) -> Result<Self> {
        let runs = || SortedRuns::create(folder, shards.count());
        let gaps = (0..classifiers).map(|_| runs()).collect::<Result<_>>()?;
        Ok(Self { activity: runs()?, buyers: [runs()?, runs()?, runs()?], gaps })
    }

    /// Writes the numbers of a shard. It is called once for each shard.
    pub fn put(&self, shard: Shard, numbers: CustomerNumbers) -> Result<()> {
        let all = [(&self.activity, numbers.activity)].into_iter();
        let all = all.chain(self.buyers.iter().zip(numbers.buyers));
        for (runs, own) in all.chain(self.gaps.iter().zip(numbers.gaps)) {
            runs.put(shard.place(), own.into_iter().map(|number| (number, false)).collect())?;
        }
        Ok(())
    }
}

/// The samples that are gathered for all models.
#[derive(Debug, Default)]
pub struct Samples {
    /// The samples of the classifiers, in the order of the models.
    pub classifiers: Vec<ClassifierSample>,
    /// The numbers of the customers of one shard.
    pub numbers: CustomerNumbers,
    /// The purchases of buyers.
    pub purchases: PurchaseData,
    /// The interactions of customers with items.
    pub interactions: InteractionData,
    /// The features whose values differ from those that were served.
    pub skew: Differences,
}

/// The data that one classifier is trained on.
#[derive(Debug)]
pub struct ClassifierData {
    /// The snapshots at which the classifier is trained, calibrated and tested.
    pub schedule: Schedule,
    /// The aggregation that computes recency.
    pub recency: Aggregation,
    /// The features of the inputs and of eligibility, with the features that they depend on.
    pub plan: FeaturePlan,
    /// The levels of the attributes that are inputs, in the order of the spec.
    pub levels: Vec<Vec<String>>,
    /// The snapshots, as in [`ClassifierSample::snapshots`].
    pub snapshots: Vec<Snapshot>,
    /// Further snapshots, as in [`ClassifierSample::base_rate`].
    pub base_rate: Vec<Snapshot>,
    /// The median gaps, as in [`CustomerNumbers::gaps`].
    pub gaps: SortedRuns,
    /// The values to slice by, as in [`ClassifierSample::slices`].
    pub slices: HashMap<u64, SliceRow>,
    /// The champion's logits, as in [`ClassifierSample::champion`].
    pub champion: HashMap<u64, f64>,
    /// The outcomes of past scores, as in [`ClassifierSample::happened`].
    pub happened: Vec<(Instant, HashSet<u64>)>,
}

/// The data that all models are trained on.
#[derive(Debug)]
pub struct Gathered {
    /// The data of the classifiers, in the order of the models.
    pub classifiers: Vec<ClassifierData>,
    /// The decayed activity, as in [`CustomerNumbers::activity`].
    pub activity: SortedRuns,
    /// The buyers, as in [`CustomerNumbers::buyers`].
    pub buyers: [SortedRuns; 3],
    /// The purchases, as in [`Samples::purchases`].
    pub purchases: PurchaseData,
    /// The times that are held out of the purchases; `None` if none are.
    pub holdouts: Option<Holdouts>,
    /// The interactions, as in [`Samples::interactions`].
    pub interactions: InteractionData,
    /// The instants at which the ranking of items is chosen and tested; `None` if the history is too
    /// short.
    pub windows: Option<Windows>,
    /// The skewed features, as in [`Samples::skew`].
    pub skew: Differences,
    /// The report of what was read.
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

    /// Lists the rows by hash, independent of the order in which they were added.
    fn rows(snapshot: &Snapshot) -> Vec<(u64, f64, bool)> {
        let rows = 0..snapshot.hashes.len();
        let row = |i: usize| (snapshot.hashes[i], snapshot.inputs.row(i)[0], snapshot.labels[i]);
        let mut rows: Vec<_> = rows.map(row).collect();
        rows.sort_by_key(|row| row.0);
        rows
    }

    /// Lists the customers who are not eligible, independent of the order in which they were added.
    fn lapsed(snapshot: &Snapshot) -> Vec<u64> {
        let mut hashes: Vec<u64> = snapshot.lapsed.iter().map(|(hash, ..)| *hash).collect();
        hashes.sort_unstable();
        hashes
    }

    #[test]
    fn the_sample_is_the_same_however_customers_are_split() {
        let mut whole = snapshot(0..1000);
        whole.keep(100);
        assert_eq!((whole.hashes.len(), whole.lapsed.len()), (100, 100));
        for parts in [1, 7, 50] {
            let mut merged = Snapshot::new(1);
            for part in 0..parts {
                let mut own = snapshot(part * 1000 / parts..(part + 1) * 1000 / parts);
                own.keep(100);
                merged.add(own, 100);
            }
            merged.keep(100);
            assert_eq!(rows(&merged), rows(&whole));
            assert_eq!(lapsed(&merged), lapsed(&whole));
            // All customers are counted, sampled or not.
            assert_eq!((merged.customers, merged.classes()), (1000, [666, 334]));
            merged.within(Duration::days(9));
            assert_eq!(merged.classes().iter().sum::<usize>(), 200);
        }
    }
}

//! Columns whose distribution is compared with that of other rows.
//!
//! The values are sorted on disk, so that they need not be held in memory.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::ArrayRef;

use super::judge::numbers;
use crate::error::Result;
use crate::features::drift::{Distribution, SortedCounter};
use crate::store::sorted::SortedRuns;

/// The values of a column, collected from any number of shards or files.
#[derive(Debug)]
pub struct ComparedColumn {
    runs: SortedRuns,
    missing: AtomicU64,
}

impl ComparedColumn {
    /// Creates an empty column for the values of `runs` shards or files. `folder` is the folder of the
    /// temporary file.
    pub fn create(folder: &Path, runs: usize) -> Result<Self> {
        Ok(Self { runs: SortedRuns::create(folder, runs)?, missing: AtomicU64::new(0) })
    }

    /// Adds the values of one shard or file.
    pub fn put(&self, run: usize, arrays: &[ArrayRef]) -> Result<()> {
        let mut values = Vec::new();
        for array in arrays {
            values.extend(numbers(array)?);
        }
        let count = values.len();
        values.retain(|value| !value.is_nan());
        self.missing.fetch_add((count - values.len()) as u64, Ordering::Relaxed);
        self.runs.put(run, values.into_iter().map(|value| (value, false)).collect())
    }

    /// The distribution over the column's own quantiles.
    pub fn distribution(&self) -> Result<Distribution> {
        let mut counter = SortedCounter::new(self.runs.len());
        for next in self.runs.merge()? {
            counter.add(next?.value);
        }
        Ok(counter.finish(self.missing.load(Ordering::Relaxed)))
    }

    /// The distribution over the bins of an earlier distribution.
    pub fn over(&self, earlier: &Distribution) -> Result<Distribution> {
        let mut counted = earlier.empty();
        for next in self.runs.merge()? {
            counted.add(next?.value);
        }
        for _ in 0..self.missing.load(Ordering::Relaxed) {
            counted.add(f64::NAN);
        }
        Ok(counted)
    }
}

//! Numbers in order that are too many for memory: every shard sorts its own and puts them on disk, and
//! all of them are merged without ever being held at once.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::spill::{Spill, numbers};
use crate::error::Result;

/// Bytes of all runs that a merge holds at most.
const BUFFERED: usize = 64 << 20;

/// Sorted runs of numbers, each with a mark.
#[derive(Debug)]
pub struct SortedRuns {
    /// By run at twice its place the numbers, and after it the marks.
    spill: Spill,
    runs: usize,
    marked: AtomicUsize,
}

/// A number of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Numbered {
    /// The number.
    pub value: f64,
    /// Whether it is marked.
    pub is_marked: bool,
    /// Its run.
    pub run: usize,
}

impl SortedRuns {
    /// No numbers yet, in so many runs.
    pub fn create(folder: &Path, runs: usize) -> Result<Self> {
        let spill = Spill::create(folder, 2 * runs)?;
        Ok(Self { spill, runs, marked: AtomicUsize::new(0) })
    }

    /// Puts the numbers of a run aside; called once for each run. None of them may be NaN.
    pub fn put(&self, run: usize, mut numbers: Vec<(f64, bool)>) -> Result<()> {
        numbers.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let values: Vec<f64> = numbers.iter().map(|(value, _)| *value).collect();
        let marked = numbers.iter().filter(|(_, is_marked)| *is_marked).count();
        self.marked.fetch_add(marked, Relaxed);
        let marks: Vec<u8> = numbers.iter().map(|(_, is_marked)| u8::from(*is_marked)).collect();
        self.spill.add_numbers(2 * run, &values)?;
        self.spill.add(2 * run + 1, &marks)
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        (0..self.runs).map(|run| self.spill.length(2 * run + 1)).sum()
    }

    /// How many of them are marked.
    pub fn marked(&self) -> usize {
        self.marked.load(Relaxed)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All numbers in ascending order, equal ones in the order of their runs.
    pub fn merge(&self) -> Result<Merge<'_>> {
        let buffer = (BUFFERED / self.runs.max(1) / 8).clamp(512, 1 << 16);
        let mut merge =
            Merge { spill: &self.spill, buffer, cursors: Vec::new(), heap: BinaryHeap::new() };
        for run in 0..self.runs {
            let cursor = Cursor { taken: 0, read: 0, values: Vec::new(), marks: Vec::new() };
            merge.cursors.push(cursor);
            merge.push(run)?;
        }
        Ok(merge)
    }
}

/// The numbers of all runs, one after the other.
pub struct Merge<'a> {
    spill: &'a Spill,
    /// Numbers that are read of a run at a time.
    buffer: usize,
    cursors: Vec<Cursor>,
    heap: BinaryHeap<Reverse<Next>>,
}

/// Where in a run a merge is.
struct Cursor {
    /// Numbers of those read that were taken.
    taken: usize,
    /// Numbers of the run that were read before these.
    read: usize,
    values: Vec<f64>,
    marks: Vec<u8>,
}

/// The least number of a run that was not taken yet.
#[derive(PartialEq)]
struct Next(f64, usize, bool);

impl Eq for Next {}

impl Ord for Next {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Merge<'_> {
    /// Puts the next number of a run among those to choose from.
    fn push(&mut self, run: usize) -> Result<()> {
        let cursor = &mut self.cursors[run];
        if cursor.taken == cursor.values.len() {
            cursor.read += cursor.values.len();
            let bytes = self.spill.read_from(2 * run, 8 * cursor.read, 8 * self.buffer)?;
            cursor.values = numbers(&bytes).collect();
            cursor.marks = self.spill.read_from(2 * run + 1, cursor.read, cursor.values.len())?;
            cursor.taken = 0;
        }
        if let (Some(value), Some(mark)) =
            (cursor.values.get(cursor.taken), cursor.marks.get(cursor.taken))
        {
            self.heap.push(Reverse(Next(*value, run, *mark == 1)));
            cursor.taken += 1;
        }
        Ok(())
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<Numbered>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse(Next(value, run, is_marked)) = self.heap.pop()?;
        if let Err(error) = self.push(run) {
            self.heap.clear();
            return Some(Err(error));
        }
        Some(Ok(Numbered { value, is_marked, run }))
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn a_merge_is_a_sort() {
        let seed = 3;
        println!("seed {seed}");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        let runs = SortedRuns::create(folder.path(), 5).unwrap();
        let mut all: Vec<(f64, usize, bool)> = Vec::new();
        // One run longer than what is read at a time, one empty, many ties.
        for (run, count) in [100_000, 0, 7, 3_000, 1].into_iter().enumerate() {
            let number = |random: &mut ChaCha8Rng| {
                (f64::from(random.random_range(-500..500)) / 8.0, random.random_bool(0.5))
            };
            let numbers: Vec<(f64, bool)> = (0..count).map(|_| number(&mut random)).collect();
            all.extend(numbers.iter().map(|(value, is_marked)| (*value, run, *is_marked)));
            runs.put(run, numbers).unwrap();
        }
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        let merged = runs.merge().unwrap().map(|next| next.unwrap());
        let merged: Vec<_> = merged.map(|n| (n.value, n.run, n.is_marked)).collect();
        assert_eq!(runs.len(), all.len());
        assert!(merged == all);
    }
}

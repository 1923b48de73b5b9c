//! Sorted numbers that do not fit in memory. Every shard sorts its own numbers and writes them to disk, and a
//! merge reads all of them in order without holding them at once.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::spill::{Spill, numbers};
use crate::error::Result;

/// The greatest number of bytes that a merge buffers over all runs.
const BUFFERED: usize = 64 << 20;

/// Sorted runs of numbers, each number with a mark.
#[derive(Debug)]
pub struct SortedRuns {
    /// The numbers of run r at place 2 r, and their marks at place 2 r + 1, in chunks of equally many.
    spill: Spill,
    runs: usize,
    /// The count of numbers in a chunk. A merge has one chunk of each run in memory.
    chunk: usize,
    marked: AtomicUsize,
}

/// A number of a merge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Numbered {
    /// The value of the number.
    pub value: f64,
    /// Whether the number is marked.
    pub is_marked: bool,
    /// The index of the number's run.
    pub run: usize,
}

impl SortedRuns {
    /// Creates this many runs, with no numbers yet.
    pub fn create(folder: &Path, runs: usize) -> Result<Self> {
        let spill = Spill::create(folder, 2 * runs)?;
        let chunk = (BUFFERED / runs.max(1) / 8).clamp(512, 1 << 16);
        Ok(Self { spill, runs, chunk, marked: AtomicUsize::new(0) })
    }

    /// Writes the numbers of a run to disk. It is called once for each run. None of the numbers may be NaN.
    pub fn put(&self, run: usize, mut numbers: Vec<(f64, bool)>) -> Result<()> {
        numbers.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let marked = numbers.iter().filter(|(_, is_marked)| *is_marked).count();
        self.marked.fetch_add(marked, Relaxed);
        numbers.chunks(self.chunk).try_for_each(|chunk| {
            let values: Vec<f64> = chunk.iter().map(|(value, _)| *value).collect();
            let marks: Vec<u8> = chunk.iter().map(|(_, is_marked)| u8::from(*is_marked)).collect();
            self.spill.add_numbers(2 * run, &values)?;
            self.spill.add(2 * run + 1, &marks)
        })
    }

    /// The total length of all runs.
    pub fn len(&self) -> usize {
        (0..self.runs).map(|run| self.spill.length(2 * run + 1)).sum()
    }

    /// The count of marked numbers in all runs.
    pub fn marked(&self) -> usize {
        self.marked.load(Relaxed)
    }

    /// Whether there are no numbers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Merges the values of all runs in ascending order.
    pub fn values(&self) -> Result<impl Iterator<Item = Result<f64>>> {
        Ok(self.merge()?.map(|next| Ok(next?.value)))
    }

    /// Merges all runs in ascending order. Equal numbers are in the order of their runs.
    pub fn merge(&self) -> Result<Merge<'_>> {
        let mut merge = Merge { spill: &self.spill, cursors: Vec::new(), heap: BinaryHeap::new() };
        for run in 0..self.runs {
            merge.cursors.push(Cursor::default());
            merge.push(run)?;
        }
        Ok(merge)
    }
}

/// An iterator over the numbers of all runs, in ascending order.
pub struct Merge<'a> {
    spill: &'a Spill,
    cursors: Vec<Cursor>,
    heap: BinaryHeap<Reverse<Next>>,
}

/// The position of a merge in a run.
#[derive(Default)]
struct Cursor {
    /// The count of numbers of the chunk that have been taken.
    taken: usize,
    /// The count of chunks that have been read.
    chunks: usize,
    values: Vec<f64>,
    marks: Vec<u8>,
}

/// The least number of a run that has not been taken.
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
    /// Adds the next number of a run to the heap.
    fn push(&mut self, run: usize) -> Result<()> {
        let cursor = &mut self.cursors[run];
        if cursor.taken == cursor.values.len() {
            let chunk = |place: usize| self.spill.read_chunk(place, cursor.chunks);
            let values = chunk(2 * run)?.unwrap_or_default();
            let marks = chunk(2 * run + 1)?.unwrap_or_default();
            *cursor = Cursor {
                taken: 0,
                chunks: cursor.chunks + 1,
                values: numbers(&values).collect(),
                marks,
            };
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
        // One run is longer than the buffer, one is empty, and there are many ties.
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

//! Classes: events grouped by their combination of flags. Few of the possible combinations occur.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::layout::Layout;

/// Numbers the distinct combinations of flag words in the order of their first occurrence.
#[derive(Debug, Default)]
pub struct Combinations {
    table: HashTable<u32>,
    latest: usize,
    all: Vec<Vec<u64>>,
}

impl Combinations {
    /// The number of a combination. A new combination gets the next number.
    pub fn of(&mut self, flags: &[u64]) -> usize {
        if self.all.get(self.latest).is_some_and(|latest| latest == flags) {
            return self.latest;
        }
        let known = self.table.find(hash(flags), |index| self.all[*index as usize] == flags);
        self.latest = known.map_or(self.all.len(), |index| *index as usize);
        if self.latest == self.all.len() {
            self.all.push(flags.to_vec());
            let all = &self.all;
            let rehash = |index: &u32| hash(&all[*index as usize]);
            self.table.insert_unique(hash(flags), self.latest as u32, rehash);
        }
        self.latest
    }

    /// All combinations in the order of their numbers.
    pub fn all(&self) -> &[Vec<u64>] {
        &self.all
    }
}

fn hash(flags: &[u64]) -> u64 {
    flags.iter().fold(0, |hash, word| xxh3_64(&(hash ^ word).to_le_bytes()))
}

/// The combinations of flags that have occurred, with the streams of each.
#[derive(Debug, Default)]
pub struct Classes {
    combinations: Combinations,
    /// The indices of the streams by combination and plan.
    streams: Vec<Vec<Vec<u32>>>,
}

impl Classes {
    /// The streams of a plan of `layout` to which an event with these flag words belongs.
    pub fn streams(&mut self, flags: &[u64], layout: &Layout, plan: usize) -> &[u32] {
        let class = self.combinations.of(flags);
        if class == self.streams.len() {
            self.streams.push(layout.streams(flags));
        }
        &self.streams[class][plan]
    }
}

//! Events by the streams that they belong to: of all combinations of flags, few occur.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::layout::Layout;

/// The combinations of flags met so far, and the streams of each.
#[derive(Debug, Default)]
pub struct Classes {
    table: HashTable<u32>,
    latest: usize,
    /// By class.
    flags: Vec<Vec<u64>>,
    /// By class, plan: its streams.
    streams: Vec<Vec<Vec<u32>>>,
}

impl Classes {
    /// The streams of a plan of `layout` that an event with these flag words belongs to.
    pub fn streams(&mut self, flags: &[u64], layout: &Layout, plan: usize) -> &[u32] {
        let class = self.of(flags, layout);
        &self.streams[class][plan]
    }

    /// The class of an event, new or known.
    pub fn of(&mut self, flags: &[u64], layout: &Layout) -> usize {
        if self.flags.get(self.latest).is_some_and(|latest| latest == flags) {
            return self.latest;
        }
        let known = self.table.find(hash(flags), |class| self.flags[*class as usize] == flags);
        self.latest = known.map_or_else(|| self.flags.len(), |class| *class as usize);
        if self.latest == self.flags.len() {
            self.flags.push(flags.to_vec());
            self.streams.push(layout.streams(flags));
            let all = &self.flags;
            let rehash = |class: &u32| hash(&all[*class as usize]);
            self.table.insert_unique(hash(flags), self.latest as u32, rehash);
        }
        self.latest
    }
}

fn hash(flags: &[u64]) -> u64 {
    flags.iter().fold(0, |hash, word| xxh3_64(&(hash ^ word).to_le_bytes()))
}

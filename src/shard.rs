//! Shards: every customer belongs to one of N shards, by a hash of the key.
//!
//! The shard is the unit of memory, of work and of files. Events, timelines, profile rows and written tables
//! all use the hash of this module, so that one shard can be read, computed and written alone. N is a power
//! of two, so that the shards of a larger N are a refinement of the shards of a smaller N.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::xxh64;

/// The number of events per shard. A shard with more events is too large for a small worker.
const EVENTS: u64 = 500_000;
/// The number of customers per shard.
const CUSTOMERS: u64 = 20_000;
/// The greatest number of shards. With more shards the files would be too small.
const MOST: u32 = 1 << 14;

/// Hashes a key to assign its customer to a shard. The hash is XXH64 of the key's UTF-8 bytes with seed 42,
/// which equals Spark's `xxhash64(customer360_id)`.
pub fn hash(key: &str) -> u64 {
    xxh64(key.as_bytes(), 42)
}

/// The number of shards of a store, a power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u32", into = "u32")]
#[schemars(inline, extend("minimum" = 1, "maximum" = 16384))]
pub struct Shards(u32);

impl Shards {
    /// A single shard for all customers.
    pub const ONE: Self = Self(1);

    /// Creates a number of shards. Returns None unless `count` is a power of two and at most 16,384.
    pub fn new(count: u32) -> Option<Self> {
        (count.is_power_of_two() && count <= MOST).then_some(Self(count))
    }

    /// Chooses the number of shards for a source with this many events and customers.
    pub fn for_rows(events: u64, customers: u64) -> Self {
        let wanted = (events.div_ceil(EVENTS)).max(customers.div_ceil(CUSTOMERS)).max(1);
        Self(wanted.next_power_of_two().min(u64::from(MOST)) as u32)
    }

    /// The number of shards.
    pub fn count(self) -> usize {
        self.0 as usize
    }

    /// The index of the shard of a [`hash`]: the hash modulo N.
    pub fn index(self, hash: u64) -> usize {
        (hash & u64::from(self.0 - 1)) as usize
    }

    /// The shard with this index.
    pub fn shard(self, index: usize) -> Shard {
        Shard { index: index as u32, of: self }
    }

    /// Iterates over all shards in the order of their indices.
    pub fn all(self) -> impl Iterator<Item = Shard> {
        (0..self.0).map(move |index| Shard { index, of: self })
    }
}

impl TryFrom<u32> for Shards {
    type Error = String;

    fn try_from(count: u32) -> Result<Self, Self::Error> {
        Self::new(count).ok_or_else(|| {
            format!("{count} is not a number of shards: a power of two up to {MOST}")
        })
    }
}

impl From<Shards> for u32 {
    fn from(shards: Shards) -> Self {
        shards.0
    }
}

impl fmt::Display for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The shard of the customers whose [`hash`] is `index` modulo `of`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shard {
    /// The index of the shard, from 0 to `of` - 1.
    pub index: u32,
    /// The number of shards.
    pub of: Shards,
}

impl Shard {
    /// The shard that holds all customers.
    pub const ALL: Self = Self { index: 0, of: Shards::ONE };

    /// Whether the customer with this key is in the shard.
    pub fn has(self, key: &str) -> bool {
        self.of == Shards::ONE || self.of.index(hash(key)) == self.index as usize
    }

    /// The position of the shard among the shards of its store.
    pub fn place(self) -> usize {
        self.index as usize
    }

    /// Whether a customer can be in both shards. The two may belong to different numbers of shards.
    pub fn meets(self, other: Self) -> bool {
        let fewer = self.of.0.min(other.of.0);
        self.index % fewer == other.index % fewer
    }

    /// Whether every customer of this shard is in `other` too.
    pub fn is_within(self, other: Self) -> bool {
        self.of.0 >= other.of.0 && self.meets(other)
    }

    /// The name of the file that generation `number` of a store writes for the shard.
    pub fn file_name(self, number: u64) -> String {
        format!("{:05}-of-{:05}-{number}.parquet", self.index, self.of.0)
    }

    /// The shard that a file holds, taken from the file's name. A file with any other name may hold all
    /// customers.
    pub fn of_file(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        let mut parts = name.split('-');
        let mut number = || parts.next().map(str::parse::<u32>);
        let index = number();
        let is_of = parts.next() == Some("of");
        let of = parts.next().and_then(|count| Shards::new(count.parse().ok()?));
        match (index, of) {
            (Some(Ok(index)), Some(of)) if is_of && index < of.0 => Self { index, of },
            _ => Self::ALL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference values: `xxhash.xxh64(key.encode(), seed=42).intdigest()` of python-xxhash 3. The first
    /// value is also the result that Spark's documentation gives for `xxhash64('Spark')`.
    #[test]
    fn the_hash_is_that_of_spark() {
        assert_eq!(hash("Spark") as i64, -4_294_468_057_691_064_905);
        let of_256 = |key: &str| Shards::new(256).unwrap().index(hash(key));
        assert_eq!(hash("c360_0000001"), 3_369_893_653_208_904_150);
        assert_eq!((of_256("c360_0000001"), of_256("Grüße"), of_256("")), (214, 6, 4));
    }

    #[test]
    fn shards_are_a_partition_and_refine_each_other() {
        let (few, many) = (Shards::new(4).unwrap(), Shards::new(64).unwrap());
        for i in 0..1000 {
            let key = format!("c360_{i}");
            assert_eq!(few.all().filter(|shard| shard.has(&key)).count(), 1);
            let own = many.all().find(|shard| shard.has(&key)).unwrap();
            let coarse = few.all().find(|shard| shard.has(&key)).unwrap();
            assert!(own.is_within(coarse) && own.meets(coarse) && coarse.meets(own));
            assert!(!coarse.is_within(own));
            assert_eq!(few.all().filter(|shard| shard.meets(own)).count(), 1);
            assert!(own.is_within(Shard::ALL));
        }
    }

    #[test]
    fn a_shard_is_known_by_its_file() {
        let shard = Shards::new(64).unwrap().shard(17);
        assert_eq!(shard.file_name(12), "00017-of-00064-12.parquet");
        assert_eq!(Shard::of_file("scores/as_of=2024-07-01/00017-of-00064-12.parquet"), shard);
        for other in ["part-0-3.parquet", "00017-of-00063-1.parquet", "00064-of-00064-1.parquet"] {
            assert_eq!(Shard::of_file(other), Shard::ALL);
        }
    }

    #[test]
    fn the_number_of_shards_follows_the_rows() {
        let count = |events, customers| Shards::for_rows(events, customers).count();
        assert_eq!(count(0, 0), 1);
        assert_eq!(count(94_000, 2_000), 1);
        assert_eq!(count(22_311_604, 498_481), 64);
        assert_eq!(count(10, 5_000_000), 256);
        assert_eq!(count(220_000_000, 5_000_000), 512);
        assert!(Shards::new(3).is_none() && Shards::new(0).is_none());
        assert!(serde_json::from_str::<Shards>("12").is_err());
    }
}

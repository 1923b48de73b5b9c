//! Samples of customers by the hash of their keys, so that all snapshots, shards and runs sample the same
//! customers.

/// Mixes the hash of a key into a number that decides who is sampled: the customers with the smallest
/// numbers. The hash itself also decides the shard, so it is multiplied to be independent of it.
pub fn spread(hash: u64) -> u64 {
    hash.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// A share of all customers, given by the greatest [`spread`] that is sampled.
#[derive(Debug, Clone, Copy)]
pub struct Share(u64);

impl Share {
    /// The share that has about `most` of `total` customers.
    pub fn of(most: usize, total: usize) -> Self {
        let share = (most as f64 / total.max(1) as f64).min(1.0);
        Self((share * u64::MAX as f64) as u64)
    }

    /// Whether the customer with this hash is sampled.
    pub fn has(self, hash: u64) -> bool {
        spread(hash) <= self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_about_as_many_customers_as_it_says() {
        let hashes: Vec<u64> = (0..100_000).map(|i| crate::shard::hash(&format!("c{i}"))).collect();
        let sampled = |share: Share| hashes.iter().filter(|hash| share.has(**hash)).count();
        for most in [100, 5_000, 50_000] {
            let (found, most) = (sampled(Share::of(most, hashes.len())) as f64, most as f64);
            assert!((found - most).abs() < 5.0 * most.sqrt(), "{found} instead of {most}");
        }
        assert_eq!(sampled(Share::of(100_000, hashes.len())), hashes.len());
        assert_eq!(sampled(Share::of(1, 0)), hashes.len());
    }
}

//! Items that the same customers have (item-item collaborative filtering, Sarwar et al. 2001).

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Sparse;

/// The number of similar items that are kept of an item.
const NEIGHBOURS: usize = 100;
/// The number of pairs of items that are counted at most. Further customers are left out.
const PAIRS: usize = 5_000_000_000;

/// For each item the most similar items with their cosines, over the customers who have both, the most similar first.
/// The item itself, with a cosine of 1, is among them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Neighbours(Vec<Vec<(u32, f32)>>);

impl Neighbours {
    /// Counts the customers of each pair of items. `rows` are customers, in an order that says nothing of them.
    pub fn count(items: usize, rows: &Sparse) -> Self {
        let mut holders: Vec<Vec<u32>> = vec![Vec::new(); items];
        let mut pairs = 0;
        for (customer, row) in rows.iter().enumerate() {
            pairs += row.len() * row.len();
            if pairs > PAIRS {
                break;
            }
            row.iter().for_each(|(item, _)| holders[*item as usize].push(customer as u32));
        }
        let similar = |both: &mut Vec<u32>, item: usize| {
            let mut met: Vec<u32> = Vec::new();
            for customer in &holders[item] {
                for (other, _) in &rows[*customer as usize] {
                    if both[*other as usize] == 0 {
                        met.push(*other);
                    }
                    both[*other as usize] += 1;
                }
            }
            let cosine = |other: &u32| {
                let alone = holders[item].len() as f64 * holders[*other as usize].len() as f64;
                (*other, (f64::from(both[*other as usize]) / alone.sqrt()) as f32)
            };
            let mut list: Vec<(u32, f32)> = met.iter().map(cosine).collect();
            met.iter().for_each(|other| both[*other as usize] = 0);
            list.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            list.truncate(NEIGHBOURS);
            list
        };
        Self((0..items).into_par_iter().map_init(|| vec![0; items], similar).collect())
    }

    /// Computes the similarity of each item to a customer's own items, the sum of weight times cosine, and the
    /// greatest of them, which is 0 without interactions.
    pub fn similarities(&self, row: &[(u32, f64)]) -> (Vec<f64>, f64) {
        let mut sums = vec![0.0; self.0.len()];
        for (item, weight) in row {
            for (other, cosine) in self.0.get(*item as usize).into_iter().flatten() {
                sums[*other as usize] += weight * f64::from(*cosine);
            }
        }
        let most = sums.iter().copied().fold(0.0, f64::max);
        (sums, most)
    }

    /// The cosine of two items, which is 0 unless the second one is among the most similar items of the first.
    pub fn cosine(&self, item: u32, other: u32) -> f64 {
        let mut similar = self.0.get(item as usize).into_iter().flatten();
        similar.find(|(of, _)| *of == other).map_or(0.0, |(_, cosine)| f64::from(*cosine))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarities_are_cosines() {
        let rows = vec![vec![(0, 1.0), (1, 1.0)], vec![(0, 1.0)], vec![(1, 1.0), (2, 1.0)]];
        let neighbours = Neighbours::count(3, &rows);
        let (sums, most) = neighbours.similarities(&[(0, 2.0)]);
        assert!((sums[0] - 2.0).abs() < 1e-6 && (sums[1] - 1.0).abs() < 1e-6, "{sums:?}");
        assert_eq!((sums[2], most), (0.0, sums[0]));
        assert!((neighbours.cosine(0, 1) - 0.5).abs() < 1e-6);
        assert_eq!(neighbours.cosine(0, 2), 0.0);
    }

    /// Ten thousand items take no more memory than their neighbours.
    #[test]
    fn of_many_items_the_most_similar_are_kept() {
        let rows: Sparse =
            vec![(0..10_000).map(|item| (item, 1.0)).collect(), vec![(7, 1.0), (9000, 1.0)]];
        let neighbours = Neighbours::count(10_000, &rows);
        assert!(neighbours.0.iter().all(|similar| similar.len() == NEIGHBOURS));
        let first: Vec<u32> = neighbours.0[7].iter().map(|(item, _)| *item).take(2).collect();
        assert_eq!(first, [7, 9000]);
    }
}

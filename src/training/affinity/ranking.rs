//! Judges how well items are ranked for customers whose next interactions are known.

use std::collections::HashSet;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::models::affinity::{ItemFactors, Sparse};

/// The number of items at the top of a ranking that it is judged by.
pub const TOP: usize = 10;
/// The maximum number of items for which all pairs are counted.
const MOST_PAIRED: usize = 4000;

/// The quality of the first ten items of a ranking, as a mean over customers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranking {
    /// The name of what ranks the items.
    pub name: String,
    /// Normalized discounted cumulative gain: the discounted gain of the hits over that of the best
    /// possible order (Järvelin and Kekäläinen 2002).
    pub ndcg: f64,
    /// The share of the wanted items of a customer that are among the first ten.
    pub recall: f64,
    /// Mean reciprocal rank: one over the rank of the first hit, and 0 without a hit.
    pub mrr: f64,
    /// The share of all items that are shown to at least one customer.
    pub coverage: f64,
    /// Novelty: the mean of -log2 of the share of customers who have an item. It is high if rare items
    /// are shown.
    pub novelty: f64,
}

/// A customer whose next interactions are known.
#[derive(Debug)]
pub struct Case {
    /// The items that the customer has so far, with weights, sorted by item.
    pub own: Vec<(u32, f64)>,
    /// The vector that is folded in from these items.
    pub vector: Vec<f64>,
    /// The items that must not be shown, sorted.
    pub hidden: Vec<u32>,
    /// The items of the next interactions, without the hidden ones. Items that the model does not know
    /// are included.
    pub wanted: HashSet<u32>,
}

/// A way to rank items for a customer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ranker<'a> {
    /// The product of the factors, plus this share of the customer's own interactions.
    Blend(f64),
    /// The customer's own items by weight, followed by the other items by popularity.
    Own,
    /// All items by popularity.
    Popularity,
    /// The items of customers who have the same items.
    Pairs(&'a Pairs),
}

/// Ranks the items for a case and returns the first of them.
fn first(model: &ItemFactors, case: &Case, ranker: Ranker) -> Vec<u32> {
    let mut scores: Vec<f64> = match ranker {
        Ranker::Blend(own) => model.scores(&case.vector, &case.own, own),
        Ranker::Popularity => model.popularity.clone(),
        Ranker::Own => {
            let most = model.popularity.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
            // Popularity is scaled to less than any weight that counts.
            let mut scores: Vec<f64> =
                model.popularity.iter().map(|popularity| 1e-12 * popularity / most).collect();
            case.own.iter().for_each(|(item, weight)| scores[*item as usize] += weight);
            scores
        }
        Ranker::Pairs(pairs) => pairs.scores(&case.own),
    };
    case.hidden.iter().for_each(|item| scores[*item as usize] = f64::NEG_INFINITY);
    let shown = scores.len() - case.hidden.len();
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let better =
        |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
    let top = TOP.min(shown);
    if order.len() > top && top > 0 {
        order.select_nth_unstable_by(top - 1, better);
    }
    order.truncate(top);
    order.sort_by(better);
    order
}

/// Judges one ranking over all cases.
pub fn judge(name: &str, model: &ItemFactors, cases: &[Case], ranker: Ranker) -> Ranking {
    let shown: Vec<Vec<u32>> = cases.par_iter().map(|case| first(model, case, ranker)).collect();
    let count = cases.len().max(1) as f64;
    let gain = |rank: usize| 1.0 / (rank as f64 + 2.0).log2();
    let customers = model.customers.max(1) as f64;
    let (mut ndcg, mut recall, mut mrr, mut novelty, mut items) = (0.0, 0.0, 0.0, 0.0, 0_usize);
    let mut covered: HashSet<u32> = HashSet::new();
    for (case, shown) in cases.iter().zip(&shown) {
        let hits: Vec<usize> = shown
            .iter()
            .enumerate()
            .filter(|(_, item)| case.wanted.contains(item))
            .map(|(rank, _)| rank)
            .collect();
        let ideal: f64 = (0..case.wanted.len().min(TOP)).map(gain).sum();
        ndcg += hits.iter().map(|rank| gain(*rank)).sum::<f64>() / ideal;
        recall += hits.len() as f64 / case.wanted.len() as f64;
        mrr += hits.first().map_or(0.0, |rank| 1.0 / (*rank as f64 + 1.0));
        for item in shown {
            novelty -= (f64::from(model.holders[*item as usize].max(1)) / customers).log2();
            items += 1;
            covered.insert(*item);
        }
    }
    Ranking {
        name: name.to_owned(),
        ndcg: ndcg / count,
        recall: recall / count,
        mrr: mrr / count,
        coverage: covered.len() as f64 / model.items.len().max(1) as f64,
        novelty: novelty / items.max(1) as f64,
    }
}

/// The cosine of each pair of items, over the customers who have both.
#[derive(Debug, PartialEq)]
pub struct Pairs {
    count: usize,
    cosines: Vec<f32>,
}

impl Pairs {
    /// Counts the customers of each pair of items. Returns `None` if there are too many items to keep all
    /// pairs.
    pub fn count(items: usize, rows: &Sparse) -> Option<Self> {
        if items > MOST_PAIRED {
            return None;
        }
        let mut cosines = vec![0.0_f32; items * items];
        for row in rows {
            for (a, _) in row {
                for (b, _) in row {
                    cosines[*a as usize * items + *b as usize] += 1.0;
                }
            }
        }
        let alone: Vec<f32> = (0..items).map(|item| cosines[item * items + item]).collect();
        for (a, row) in cosines.chunks_exact_mut(items.max(1)).enumerate() {
            for (b, value) in row.iter_mut().enumerate() {
                *value /= (alone[a] * alone[b]).sqrt().max(1.0);
            }
        }
        Some(Self { count: items, cosines })
    }

    fn scores(&self, own: &[(u32, f64)]) -> Vec<f64> {
        let mut scores = vec![0.0; self.count];
        for (item, weight) in own {
            let row = &self.cosines[*item as usize * self.count..][..self.count];
            scores.iter_mut().zip(row).for_each(|(s, cosine)| *s += weight * f64::from(*cosine));
        }
        scores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ItemFactors {
        ItemFactors {
            factors: 1,
            alpha: 1.0,
            regularization: 1.0,
            items: (0..12).map(|i| format!("{i:02}")).collect(),
            vectors: (0..12).map(|i| vec![f64::from(i)]).collect(),
            popularity: (0..12).map(|i| f64::from(12 - i)).collect(),
            holders: (0..12).map(|i| 12 - i).collect(),
            customers: 12,
        }
    }

    fn case(own: &[(u32, f64)], hidden: &[u32], wanted: &[u32]) -> Case {
        Case {
            own: own.to_vec(),
            vector: vec![1.0],
            hidden: hidden.to_vec(),
            wanted: wanted.iter().copied().collect(),
        }
    }

    /// Three items are wanted, and hits are at ranks 1 and 3: (1 + 1/2) / (1 + 0.6309 + 1/2), by hand.
    #[test]
    fn ndcg_recall_and_rank_are_those_of_the_definition() {
        let cases = [case(&[], &[], &[0, 2, 11])];
        let found = judge("popularity", &model(), &cases, Ranker::Popularity);
        let ideal = 1.0 + 1.0 / 3_f64.log2() + 0.5;
        assert!((found.ndcg - 1.5 / ideal).abs() < 1e-12, "{found:?}");
        assert!((found.recall - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(found.mrr, 1.0);
        assert!((found.coverage - 10.0 / 12.0).abs() < 1e-12);
    }

    #[test]
    fn hidden_items_are_not_shown_and_own_ones_come_first() {
        let model = model();
        let own = case(&[(5, 3.0), (7, 4.0)], &[0], &[1]);
        assert_eq!(first(&model, &own, Ranker::Own)[..3], [7, 5, 1]);
        assert_eq!(first(&model, &own, Ranker::Blend(0.0))[..2], [11, 10]);
        assert_eq!(first(&model, &own, Ranker::Blend(100.0))[..3], [7, 5, 11]);
        assert!(!first(&model, &own, Ranker::Popularity).contains(&0));
    }

    #[test]
    fn pairs_are_cosines() {
        let rows = vec![vec![(0, 1.0), (1, 1.0)], vec![(0, 1.0)], vec![(1, 1.0), (2, 1.0)]];
        let pairs = Pairs::count(3, &rows).unwrap();
        assert_eq!(pairs.scores(&[(0, 2.0)]), [2.0, 1.0, 0.0]);
        assert_eq!(Pairs::count(MOST_PAIRED + 1, &rows), None);
    }
}

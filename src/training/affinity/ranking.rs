//! Judges how well items are ranked for customers whose next interactions are known.

use std::collections::HashSet;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::models::affinity::{Blend, Recommender};
use crate::training::evaluation::bootstrap::{Difference, draws};

/// The number of items at the top of a ranking that it is judged by.
pub const TOP: usize = 10;
/// The minimum number of customers that a ranking is judged on. A result over fewer is not reliable.
pub(super) const LEAST_JUDGED: usize = 30;

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
    /// The NDCG of this model minus that of this ranking, on the same customers. `None` for this model itself, and in
    /// files of earlier versions.
    #[serde(default)]
    pub difference: Option<Difference>,
}

/// A ranking with its NDCG for each customer.
#[derive(Debug)]
pub struct Judged {
    /// The means over the customers.
    pub ranking: Ranking,
    ndcg: Vec<f64>,
}

impl Judged {
    /// The NDCG of this ranking minus that of another on the same customers, with an interval by drawing them again.
    pub fn against(&self, other: &Self) -> Difference {
        let each: Vec<f64> = self.ndcg.iter().zip(&other.ndcg).map(|(a, b)| a - b).collect();
        let count = each.len().max(1) as f64;
        let mean = |times: &[u32]| {
            times.iter().zip(&each).map(|(times, d)| f64::from(*times) * d).sum::<f64>() / count
        };
        Difference::of(self.ranking.ndcg - other.ranking.ndcg, &draws(each.len(), mean))
    }
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

/// Finds the places of the `count` greatest scores, greatest first. Of equal scores, the first place comes first.
pub(super) fn best(scores: &[f64], count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let better =
        |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
    if order.len() > count && count > 0 {
        order.select_nth_unstable_by(count - 1, better);
    }
    order.truncate(count);
    order.sort_unstable_by(better);
    order
}

/// The discounted gain of a hit, where the first rank is 0.
pub(super) fn gain(rank: usize) -> f64 {
    1.0 / (rank as f64 + 2.0).log2()
}

/// The discounted gain of the best possible order of so many wanted items.
pub(super) fn ideal(wanted: usize) -> f64 {
    (0..wanted.min(TOP)).map(gain).sum()
}

/// Ranks the items for a case and returns the first of them.
fn first(model: &Recommender, case: &Case, blend: &Blend) -> Vec<u32> {
    let mut scores = model.scores(&case.vector, &case.own, blend);
    case.hidden.iter().for_each(|item| scores[*item as usize] = f64::NEG_INFINITY);
    best(&scores, TOP.min(scores.len() - case.hidden.len()))
}

/// Judges one ranking over all cases.
pub fn judge(name: &str, model: &Recommender, cases: &[Case], blend: &Blend) -> Judged {
    let shown: Vec<Vec<u32>> = cases.par_iter().map(|case| first(model, case, blend)).collect();
    let factors = &model.factors;
    let count = cases.len().max(1) as f64;
    let customers = factors.customers.max(1) as f64;
    let (mut recall, mut mrr, mut novelty, mut items) = (0.0, 0.0, 0.0, 0_usize);
    let mut ndcg = Vec::with_capacity(cases.len());
    let mut covered: HashSet<u32> = HashSet::new();
    for (case, shown) in cases.iter().zip(&shown) {
        let hits: Vec<usize> = shown
            .iter()
            .enumerate()
            .filter(|(_, item)| case.wanted.contains(item))
            .map(|(rank, _)| rank)
            .collect();
        ndcg.push(hits.iter().map(|rank| gain(*rank)).sum::<f64>() / ideal(case.wanted.len()));
        recall += hits.len() as f64 / case.wanted.len() as f64;
        mrr += hits.first().map_or(0.0, |rank| 1.0 / (*rank as f64 + 1.0));
        for item in shown {
            novelty -= (f64::from(factors.holders[*item as usize].max(1)) / customers).log2();
            items += 1;
            covered.insert(*item);
        }
    }
    let ranking = Ranking {
        name: name.to_owned(),
        ndcg: ndcg.iter().sum::<f64>() / count,
        recall: recall / count,
        mrr: mrr / count,
        coverage: covered.len() as f64 / factors.items.len().max(1) as f64,
        novelty: novelty / items.max(1) as f64,
        difference: None,
    };
    Judged { ranking, ndcg }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::affinity::{ItemFactors, Neighbours};

    fn model() -> Recommender {
        let factors = ItemFactors {
            factors: 1,
            alpha: 1.0,
            regularization: 1.0,
            items: (0..12).map(|i| format!("{i:02}")).collect(),
            vectors: (0..12).map(|i| vec![f64::from(i)]).collect(),
            popularity: (0..12).map(|i| f64::from(12 - i)).collect(),
            holders: (0..12).map(|i| 12 - i).collect(),
            customers: 12,
        };
        Recommender { factors, neighbours: Neighbours::default(), blend: Blend::FACTORS }
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
        let found = judge("popularity", &model(), &cases, &Blend::POPULAR).ranking;
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
        assert_eq!(first(&model, &own, &Blend::OWN)[..3], [7, 5, 1]);
        assert_eq!(first(&model, &own, &Blend::FACTORS)[..2], [11, 10]);
        assert_eq!(first(&model, &own, &Blend { own: 100.0, ..Blend::FACTORS })[..3], [7, 5, 11]);
        assert!(!first(&model, &own, &Blend::POPULAR).contains(&0));
    }

    /// The interval of a difference is paired: two rankings that are the same for each customer do not differ, however
    /// much customers do.
    #[test]
    fn differences_are_paired() {
        let cases: Vec<Case> =
            (0..200).map(|i| case(&[(i % 12, 1.0)], &[], &[(i * 7) % 12, (i * 5) % 12])).collect();
        let model = model();
        let popularity = judge("popularity", &model, &cases, &Blend::POPULAR);
        let same = popularity.against(&popularity);
        assert_eq!((same.difference, same.standard_error), (0.0, 0.0));
        let own = judge("own", &model, &cases, &Blend::OWN);
        let found = own.against(&popularity);
        assert!((found.difference - (own.ranking.ndcg - popularity.ranking.ndcg)).abs() < 1e-12);
        assert!(found.interval.contains(found.difference) && found.standard_error > 0.0);
    }
}

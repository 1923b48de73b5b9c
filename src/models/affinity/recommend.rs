//! Chooses the items that are recommended to a customer, and the reason for each.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use serde::{Deserialize, Serialize};

use super::{Folded, ItemFactors};
use crate::models::cholesky;

/// The items that may be recommended. Lists are in the order of the model's items.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// The number of recommendations per customer.
    pub top: usize,
    /// Whether items that a customer has interacted with may be recommended to them.
    pub repeat: bool,
    /// Whether each item may be recommended to anyone; `None` if all may.
    pub allowed: Option<Vec<bool>>,
    /// The category of each item, and the maximum number of recommendations of one category per customer.
    pub categories: Option<(Vec<u32>, usize)>,
}

/// The reason why an item is recommended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// The customer has already interacted with the item.
    Own,
    /// The factors predict an affinity for the item. The contained item of the customer adds most to the
    /// prediction.
    Affinity(u32),
    /// The item is popular, and the customer has no interactions.
    Popular,
}

/// A recommended item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The index of the item in the model.
    pub item: usize,
    /// The predicted preference, or the popularity of the item.
    pub score: f64,
    /// The reason for the recommendation.
    pub because: Because,
}

/// An item with its score, ordered by score. Of equal scores, the item whose name comes first is greater.
#[derive(PartialEq)]
struct Ranked(f64, usize);

impl Eq for Ranked {}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0).then(other.1.cmp(&self.1))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl ItemFactors {
    /// Chooses the best items for a customer, best first.
    ///
    /// `row` has the customer's own interactions, sorted by item, and `own` is as in
    /// [`ItemFactors::scores`]. A customer without interactions gets the most popular items.
    pub fn recommend(
        &self,
        customer: &Folded,
        row: &[(u32, f64)],
        own: f64,
        offer: &Offer,
    ) -> Vec<Choice> {
        let scores = match row.is_empty() {
            true => self.popularity.clone(),
            false => self.scores(&customer.vector, row, own),
        };
        let had = |item: usize| row.binary_search_by_key(&(item as u32), |(i, _)| *i).is_ok();
        let may = |item: &usize| {
            offer.allowed.as_ref().is_none_or(|allowed| allowed[*item])
                && (offer.repeat || !had(*item))
        };
        let candidates = (0..self.items.len()).filter(may).map(|item| Ranked(scores[item], item));
        let mut best: BinaryHeap<Ranked> = candidates.collect::<Vec<_>>().into();
        let mut taken: HashMap<u32, usize> = HashMap::new();
        let mut choices = Vec::with_capacity(offer.top);
        while let (true, Some(Ranked(score, item))) = (choices.len() < offer.top, best.pop()) {
            if let Some((categories, most)) = &offer.categories {
                let count = taken.entry(categories[item]).or_default();
                if *count == *most {
                    continue;
                }
                *count += 1;
            }
            let because = match (row.is_empty(), had(item)) {
                (true, _) => Because::Popular,
                (_, true) => Because::Own,
                _ => Because::Affinity(self.because(customer, row, item)),
            };
            choices.push(Choice { item, score, because });
        }
        choices
    }

    /// Finds the own item that adds most to the prediction for `item`. With z the solution of (Y'CY +
    /// lambda I) z = y of that item, an own item j adds c_j z'y_j (Hu, Koren and Volinsky 2008, section
    /// 5).
    fn because(&self, customer: &Folded, row: &[(u32, f64)], item: usize) -> u32 {
        let mut z = self.vectors[item].clone();
        cholesky::substitute(&customer.system, &mut z, self.factors);
        let adds = |(own, weight): &(u32, f64)| {
            let y = &self.vectors[*own as usize];
            let product: f64 = y.iter().zip(&z).map(|(y, z)| y * z).sum();
            (1.0 + self.alpha * weight) * product
        };
        let greatest = row.iter().map(|own| Ranked(adds(own), own.0 as usize)).max();
        greatest.map_or(item as u32, |Ranked(_, own)| own as u32)
    }
}

/// The number of steps from the lowest to the highest score of an item.
const STEPS: usize = 20;

/// The distribution of each item's score over customers, frozen with the model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranks {
    /// For each item, the lowest score and the score at each further twentieth of the customers.
    pub quantiles: Vec<Vec<f32>>,
}

impl Ranks {
    /// Computes the distributions. `scores` returns the scores of all customers for one item.
    pub fn fit(items: usize, scores: impl Fn(usize) -> Vec<f64> + Sync) -> Self {
        use rayon::prelude::*;
        let of_item = |item: usize| {
            let mut scores = scores(item);
            scores.sort_by(f64::total_cmp);
            let last = scores.len().saturating_sub(1);
            let at = |step: usize| {
                let place = (last * step) as f64 / STEPS as f64;
                scores.get(place.round() as usize).copied().unwrap_or_default() as f32
            };
            (0..=STEPS).map(at).collect()
        };
        Self { quantiles: (0..items).into_par_iter().map(of_item).collect() }
    }

    /// The share of customers, 0-100, whose score of `item` is below `score`, interpolated between
    /// twentieths. Returns `None` if no distribution was frozen.
    pub fn percentile(&self, item: usize, score: f64) -> Option<f64> {
        let quantiles = self.quantiles.get(item)?;
        let at = |step: usize| quantiles.get(step).map(|value| f64::from(*value));
        let above = quantiles.partition_point(|value| f64::from(*value) <= score);
        let share = match (above.checked_sub(1).and_then(at), at(above)) {
            (None, _) => 0.0,
            (_, None) => STEPS as f64,
            (Some(low), Some(high)) => (above - 1) as f64 + (score - low) / (high - low),
        };
        Some(100.0 * share / STEPS as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ItemFactors, Options};
    use super::*;

    fn model() -> ItemFactors {
        let items = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        let row = |i: u32| match i % 3 {
            0 => vec![(0, 1.0), (1, 1.0)],
            1 => vec![(2, 1.0), (3, 2.0)],
            _ => vec![(2, 1.0), (3, 1.0), (4, 1.0)],
        };
        let options =
            Options { factors: 3, alpha: 4.0, regularization: 0.1, iterations: 20, seed: 1 };
        ItemFactors::fit(items, &(0..60).map(row).collect(), options)
    }

    const ALL: Offer = Offer { top: 5, repeat: true, allowed: None, categories: None };

    fn items(choices: &[Choice]) -> Vec<usize> {
        choices.iter().map(|choice| choice.item).collect()
    }

    #[test]
    fn what_own_items_add_is_the_prediction() {
        let model = model();
        let row = [(0, 1.5), (2, 0.5), (4, 2.0)];
        let customer = model.fold_in(&row, &model.gram());
        for item in 0..5 {
            let mut z = model.vectors[item].clone();
            cholesky::substitute(&customer.system, &mut z, 3);
            let adds = row.map(|(own, weight)| {
                let y = &model.vectors[own as usize];
                (1.0 + 4.0 * weight) * y.iter().zip(&z).map(|(a, b)| a * b).sum::<f64>()
            });
            let score = model.scores(&customer.vector, &row, 0.0)[item];
            assert!((adds.iter().sum::<f64>() - score).abs() < 1e-9, "{adds:?} {score}");
        }
    }

    #[test]
    fn an_offer_is_kept() {
        let model = model();
        let row = [(3, 1.0)];
        let customer = model.fold_in(&row, &model.gram());
        let all = model.recommend(&customer, &row, 0.0, &ALL);
        for choice in &all {
            let own = choice.item == 3;
            assert_eq!(choice.because, if own { Because::Own } else { Because::Affinity(3) });
        }
        assert!(items(&all)[..2].contains(&2), "{all:?}");
        let new = model.recommend(&customer, &row, 0.0, &Offer { repeat: false, ..ALL });
        let others: Vec<usize> = items(&all).into_iter().filter(|item| *item != 3).collect();
        assert_eq!(items(&new), others);
        let allowed = Some(vec![true, true, false, true, true]);
        let some = model.recommend(&customer, &row, 0.0, &Offer { allowed, ..ALL });
        assert_eq!(some.len(), 4);
        assert!(!items(&some).contains(&2));
        // The items 0 and 1 are of one category, and 2, 3 and 4 of the other. One of each is chosen.
        let categories = Some((vec![0, 0, 1, 1, 1], 1));
        let capped = model.recommend(&customer, &row, 0.0, &Offer { categories, ..ALL });
        let low = items(&all).into_iter().find(|item| *item < 2).unwrap();
        assert_eq!(items(&capped), [all[0].item, low]);
        let cold = model.recommend(&model.fold_in(&[], &model.gram()), &[], 1.0, &ALL);
        assert_eq!((cold[0].item, cold[0].because), (3, Because::Popular));
    }

    #[test]
    fn a_percentile_is_the_share_below() {
        let ranks = Ranks::fit(1, |_| (0..=100).map(f64::from).collect());
        for (score, share) in [(-1.0, 0.0), (0.0, 0.0), (12.0, 12.0), (50.0, 50.0), (100.0, 100.0)]
        {
            assert!((ranks.percentile(0, score).unwrap() - share).abs() < 1e-9, "{score}");
        }
        // For tied scores it is the share of customers who are not above.
        let ties = Ranks::fit(1, |_| vec![0.0, 0.0, 0.0, 1.0]);
        assert!(ties.percentile(0, 0.0).unwrap() < 100.0);
        assert_eq!(Ranks::default().percentile(0, 1.0), None);
    }
}

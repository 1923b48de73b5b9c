//! Chooses the items that are recommended to a customer, and the reason for each.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use serde::{Deserialize, Serialize};

use super::{Folded, Recommender};
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
    /// Customers with the same items have the item. The contained item of the customer adds most to the
    /// score.
    Affinity(u32),
    /// The item is popular, and none of the customer's own items adds to the score.
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

impl Recommender {
    /// Chooses the best items for a customer, best first.
    ///
    /// `row` has the customer's own interactions, sorted by item. A customer without interactions gets the most
    /// popular items.
    pub fn recommend(&self, customer: &Folded, row: &[(u32, f64)], offer: &Offer) -> Vec<Choice> {
        let scores = match row.is_empty() {
            true => self.factors.popularity.clone(),
            false => self.scores(&customer.vector, row, &self.blend),
        };
        let had = |item: usize| row.binary_search_by_key(&(item as u32), |(i, _)| *i).is_ok();
        let may = |item: &usize| {
            offer.allowed.as_ref().is_none_or(|allowed| allowed[*item])
                && (offer.repeat || !had(*item))
        };
        let most = match self.blend.similar > 0.0 {
            true => self.neighbours.similarities(row).1,
            false => 0.0,
        };
        let candidates = (0..scores.len()).filter(may).map(|item| Ranked(scores[item], item));
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
            let because = match had(item) {
                true => Because::Own,
                false => self
                    .because(customer, row, most, item)
                    .map_or(Because::Popular, |own| Because::Affinity(own as u32)),
            };
            choices.push(Choice { item, score, because });
        }
        choices
    }

    /// Finds the own item that adds most to the score of `item`; `None` if none adds to it.
    ///
    /// With z the solution of (Y'CY + lambda I) z = y of that item, an own item j adds c_j z'y_j to the product of the
    /// factors (Hu, Koren and Volinsky 2008, section 5). To the similarity it adds its weight times the cosine, over
    /// `most`, the greatest similarity of any item.
    fn because(
        &self,
        customer: &Folded,
        row: &[(u32, f64)],
        most: f64,
        item: usize,
    ) -> Option<usize> {
        let factors = &self.factors;
        let mut z = factors.vectors[item].clone();
        if self.blend.factors > 0.0 && !row.is_empty() {
            cholesky::substitute(&customer.system, &mut z, factors.factors);
        }
        let scale = if most > 0.0 { self.blend.similar / most } else { 0.0 };
        let adds = |(own, weight): &(u32, f64)| {
            let y = &factors.vectors[*own as usize];
            let product: f64 = y.iter().zip(&z).map(|(y, z)| y * z).sum();
            let by_factors = self.blend.factors * (1.0 + factors.alpha * weight) * product;
            match scale > 0.0 {
                true => by_factors + scale * weight * self.neighbours.cosine(*own, item as u32),
                false => by_factors,
            }
        };
        let greatest = row.iter().map(|own| Ranked(adds(own), own.0 as usize)).max();
        greatest.filter(|Ranked(adds, _)| *adds != 0.0).map(|Ranked(_, own)| own)
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
    /// twentieths. Scores that differ only beyond the digits of an f32 are tied. Returns `None` if no distribution was
    /// frozen.
    pub fn percentile(&self, item: usize, score: f64) -> Option<f64> {
        let quantiles = self.quantiles.get(item)?;
        let at = |step: usize| quantiles.get(step).map(|value| f64::from(*value));
        let score = f64::from(score as f32);
        let above = quantiles.partition_point(|value| f64::from(*value) < score);
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
    use super::super::{Blend, ItemFactors, Neighbours, Options, Sparse};
    use super::*;

    fn model(blend: Blend) -> Recommender {
        let items = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        let row = |i: u32| match i % 3 {
            0 => vec![(0, 1.0), (1, 1.0)],
            1 => vec![(2, 1.0), (3, 2.0)],
            _ => vec![(2, 1.0), (3, 1.0), (4, 1.0)],
        };
        let options =
            Options { factors: 3, alpha: 4.0, regularization: 0.1, iterations: 20, seed: 1 };
        let rows: Sparse = (0..60).map(row).collect();
        let neighbours = Neighbours::count(items.len(), &rows);
        Recommender { factors: ItemFactors::fit(items, &rows, options), neighbours, blend }
    }

    const ALL: Offer = Offer { top: 5, repeat: true, allowed: None, categories: None };

    fn items(choices: &[Choice]) -> Vec<usize> {
        choices.iter().map(|choice| choice.item).collect()
    }

    #[test]
    fn what_own_items_add_is_the_prediction() {
        let model = model(Blend::FACTORS);
        let row = [(0, 1.5), (2, 0.5), (4, 2.0)];
        let customer = model.factors.fold_in(&row, &model.factors.gram());
        for item in 0..5 {
            let mut z = model.factors.vectors[item].clone();
            cholesky::substitute(&customer.system, &mut z, 3);
            let adds = row.map(|(own, weight)| {
                let y = &model.factors.vectors[own as usize];
                (1.0 + 4.0 * weight) * y.iter().zip(&z).map(|(a, b)| a * b).sum::<f64>()
            });
            let score = model.scores(&customer.vector, &row, &model.blend)[item];
            assert!((adds.iter().sum::<f64>() - score).abs() < 1e-9, "{adds:?} {score}");
        }
    }

    #[test]
    fn an_offer_is_kept() {
        let model = model(Blend::FACTORS);
        let row = [(3, 1.0)];
        let customer = model.factors.fold_in(&row, &model.factors.gram());
        let all = model.recommend(&customer, &row, &ALL);
        for choice in &all {
            let own = choice.item == 3;
            assert_eq!(choice.because, if own { Because::Own } else { Because::Affinity(3) });
        }
        assert!(items(&all)[..2].contains(&2), "{all:?}");
        let new = model.recommend(&customer, &row, &Offer { repeat: false, ..ALL });
        let others: Vec<usize> = items(&all).into_iter().filter(|item| *item != 3).collect();
        assert_eq!(items(&new), others);
        let allowed = Some(vec![true, true, false, true, true]);
        let some = model.recommend(&customer, &row, &Offer { allowed, ..ALL });
        assert_eq!(some.len(), 4);
        assert!(!items(&some).contains(&2));
        // The items 0 and 1 are of one category, and 2, 3 and 4 of the other. One of each is chosen.
        let categories = Some((vec![0, 0, 1, 1, 1], 1));
        let capped = model.recommend(&customer, &row, &Offer { categories, ..ALL });
        let low = items(&all).into_iter().find(|item| *item < 2).unwrap();
        assert_eq!(items(&capped), [all[0].item, low]);
        let nobody = model.factors.fold_in(&[], &model.factors.gram());
        let cold = model.recommend(&nobody, &[], &ALL);
        assert_eq!((cold[0].item, cold[0].because), (3, Because::Popular));
    }

    /// The parts of a score are weighed by the blend, and the reason follows what adds to it.
    #[test]
    fn a_blend_weighs_its_parts() {
        let weights = Blend { factors: 0.5, own: 2.0, similar: 3.0, popular: 0.25 };
        let model = model(weights);
        let row = [(0, 1.0), (2, 4.0)];
        let customer = model.factors.fold_in(&row, &model.factors.gram());
        let by = |blend: Blend| model.scores(&customer.vector, &row, &blend);
        let (factors, similar) = (by(Blend::FACTORS), by(Blend::SIMILAR));
        let (own, popular) = ([0.25, 0.0, 1.0, 0.0, 0.0], by(Blend::POPULAR));
        for (item, score) in by(weights).into_iter().enumerate() {
            let sum = 0.5 * factors[item] + 2.0 * own[item] + 3.0 * similar[item];
            assert!((score - sum - 0.25 * popular[item]).abs() < 1e-9, "{item}: {score}");
        }
        assert!((similar.iter().copied().fold(0.0, f64::max) - 1.0).abs() < 1e-9);
        let new = Offer { repeat: false, ..ALL };
        let found = Recommender { blend: Blend::SIMILAR, ..model.clone() };
        let first = found.recommend(&customer, &row, &new)[0];
        assert_eq!((first.item, first.because), (3, Because::Affinity(2)));
        let found = Recommender { blend: Blend::OWN, ..model };
        let all = found.recommend(&customer, &row, &ALL);
        assert_eq!((all[0].item, all[0].because), (2, Because::Own));
        assert_eq!((all[2].item, all[2].because), (3, Because::Popular));
    }

    #[test]
    fn a_percentile_is_the_share_below() {
        let ranks = Ranks::fit(1, |_| (0..=100).map(f64::from).collect());
        for (score, share) in [(-1.0, 0.0), (0.0, 0.0), (12.0, 12.0), (50.0, 50.0), (100.0, 100.0)]
        {
            assert!((ranks.percentile(0, score).unwrap() - share).abs() < 1e-9, "{score}");
        }
        // Of tied customers none is below another, also if their scores differ by rounding.
        let ties = Ranks::fit(1, |_| vec![0.0, 1.0, 1.0, 1.0]);
        for score in [1.0, 1.0 + 1e-12] {
            let percentile = ties.percentile(0, score).unwrap();
            assert!((15.0..=35.0).contains(&percentile), "{percentile}");
        }
        assert_eq!(Ranks::default().percentile(0, 1.0), None);
    }
}

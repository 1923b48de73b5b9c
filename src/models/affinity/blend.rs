//! The score of an item for a customer: a weighted sum of four parts.
//!
//! Which parts predict well differs by the kind of item: groceries are bought again, films are not. The weights are
//! chosen at training. A ranking without a model is a blend of one part.

use serde::{Deserialize, Serialize};

use super::{ItemFactors, Neighbours};

/// The weights of the parts of a score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blend {
    /// The weight of the product of the factors.
    pub factors: f64,
    /// The weight of the customer's own interactions with the item, where 1 is their greatest with any item.
    pub own: f64,
    /// The weight of the similarity to the customer's own items, where 1 is the greatest of any item.
    pub similar: f64,
    /// The weight of the popularity of the item, where 1 is that of the most popular item.
    pub popular: f64,
}

impl Blend {
    /// No part at all.
    pub const NONE: Self = Self { factors: 0.0, own: 0.0, similar: 0.0, popular: 0.0 };
    /// The factors alone.
    pub const FACTORS: Self = Self { factors: 1.0, ..Self::NONE };
    /// The customer's own items by weight, followed by the other items, which are tied, by popularity.
    pub const OWN: Self = Self { own: 1.0, ..Self::NONE };
    /// The items that customers with the same items have.
    pub const SIMILAR: Self = Self { similar: 1.0, ..Self::NONE };
    /// All items by popularity.
    pub const POPULAR: Self = Self { popular: 1.0, ..Self::NONE };

    /// The weights in the order factors, own, similar, popular.
    pub fn weights(&self) -> [f64; 4] {
        [self.factors, self.own, self.similar, self.popular]
    }

    /// The weights by which items are ranked. Popularity always counts a little, so that it decides between items that
    /// are tied.
    pub fn ranking_weights(&self) -> [f64; 4] {
        [self.factors, self.own, self.similar, self.popular.max(TIES)]
    }

    /// The blend with these weights, in the order of [`Blend::weights`].
    pub fn of([factors, own, similar, popular]: [f64; 4]) -> Self {
        Self { factors, own, similar, popular }
    }
}

/// The least weight of popularity. It is less than any difference that matters.
const TIES: f64 = 1e-12;

/// The names of the parts for readers, in the order of [`Blend::weights`].
pub const PARTS: [&str; 4] = ["factors", "own items", "similar items", "popularity"];

impl std::fmt::Display for Blend {
    /// Writes the parts that count, such as `1 x factors + 0.3 x similar items`.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let parts = self.weights().into_iter().zip(PARTS);
        let counted = parts.filter(|(weight, _)| *weight > 0.0);
        let terms: Vec<String> =
            counted.map(|(weight, name)| format!("{weight} x {name}")).collect();
        f.write_str(&terms.join(" + "))
    }
}

/// What items are scored by: factors, similar items, and how both are blended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recommender {
    /// The factors of the items.
    pub factors: ItemFactors,
    /// The similar items of each item; of no item if they do not count.
    pub neighbours: Neighbours,
    /// The weights of the parts.
    pub blend: Blend,
}

impl Recommender {
    /// Computes the score of every item for a customer. `vector` is the folded-in customer, and `row` the customer's
    /// own interactions.
    pub fn scores(&self, vector: &[f64], row: &[(u32, f64)], blend: &Blend) -> Vec<f64> {
        let [mut scores, others @ ..] = self.parts(vector, row, blend);
        for part in &others {
            scores.iter_mut().zip(part).for_each(|(score, part)| *score += part);
        }
        scores
    }

    /// Computes the four parts of every item's score, each times its weight, in the order of [`Blend::weights`]. A
    /// part of weight 0 is all zeros, but for popularity, which decides between items that are tied.
    pub fn parts(&self, vector: &[f64], row: &[(u32, f64)], blend: &Blend) -> [Vec<f64>; 4] {
        let items = self.factors.items.len();
        let mut parts = [(); 4].map(|()| vec![0.0; items]);
        if blend.factors > 0.0 {
            for (part, item) in parts[0].iter_mut().zip(&self.factors.vectors) {
                let product: f64 = item.iter().zip(vector).map(|(y, x)| x * y).sum();
                *part = blend.factors * product;
            }
        }
        own(row, blend).for_each(|(item, part)| parts[1][item as usize] = part);
        self.similar(row, blend).for_each(|(item, part)| parts[2][item as usize] = part);
        parts[3] = self.popular(blend);
        parts
    }

    /// What the similarity to the customer's own items adds, for the items to which it adds.
    pub fn similar(
        &self,
        row: &[(u32, f64)],
        blend: &Blend,
    ) -> impl Iterator<Item = (u32, f64)> + use<> {
        let (sums, most) = match blend.similar > 0.0 {
            true => self.neighbours.similarities(row),
            false => (Vec::new(), 0.0),
        };
        let scale = if most > 0.0 { blend.similar / most } else { 0.0 };
        let added = sums.into_iter().enumerate().filter(|(_, sum)| *sum > 0.0);
        added.map(move |(item, sum)| (item as u32, scale * sum))
    }

    /// What the popularity of each item adds.
    pub fn popular(&self, blend: &Blend) -> Vec<f64> {
        let popularity = &self.factors.popularity;
        let most = popularity.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let weight = blend.popular.max(TIES);
        popularity.iter().map(|popularity| weight * popularity / most).collect()
    }
}

/// What a customer's own interactions add to the scores of their items.
pub fn own(row: &[(u32, f64)], blend: &Blend) -> impl Iterator<Item = (u32, f64)> {
    let most = row.iter().map(|(_, weight)| *weight).fold(f64::MIN_POSITIVE, f64::max);
    let scale = blend.own / most;
    row.iter().map(move |(item, weight)| (*item, scale * weight))
}

//! Rotates a newly fitted model towards an earlier version, so that vectors of different weeks can be
//! compared.
//!
//! Factors are determined only up to a rotation: rotating both items and customers leaves all products as
//! they are. The rotation is chosen that brings the items of both versions nearest to their earlier
//! places (the orthogonal Procrustes problem, Schönemann 1966). It is R = U V', where U S V' is the
//! singular value decomposition of A'B, A holds the new factors of these items and B the earlier ones.

use std::collections::HashMap;

use linfa_linalg::svd::SVD;
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::ItemFactors;

/// The distance between the items of two versions, before and after the rotation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alignment {
    /// The number of items that both versions have.
    pub items: usize,
    /// The mean over these items of the cosine between an item's two vectors, before the rotation.
    pub before: f64,
    /// The same mean after the rotation.
    pub after: f64,
}

impl ItemFactors {
    /// Rotates the item vectors towards those of `past`.
    ///
    /// Returns `None` and changes nothing if the vectors differ in length, or if fewer than half of the
    /// items are in both versions.
    pub fn align(&mut self, past: &ItemFactors) -> Option<Alignment> {
        let f = self.factors;
        let places: HashMap<&str, usize> =
            past.items.iter().enumerate().map(|(i, item)| (item.as_str(), i)).collect();
        let both: Vec<(usize, usize)> = self
            .items
            .iter()
            .enumerate()
            .filter_map(|(i, item)| Some((i, *places.get(item.as_str())?)))
            .collect();
        if f != past.factors || 2 * both.len() < self.items.len() {
            return None;
        }
        let before = self.cosine(past, &both);
        let mut product = Array2::<f64>::zeros((f, f));
        for (new, old) in &both {
            for (i, a) in self.vectors[*new].iter().enumerate() {
                for (j, b) in past.vectors[*old].iter().enumerate() {
                    product[[i, j]] += a * b;
                }
            }
        }
        let (Some(u), _, Some(v)) = product.svd(true, true).ok()? else { return None };
        let rotation = u.dot(&v);
        for vector in &mut self.vectors {
            let turned = (0..f).map(|j| (0..f).map(|i| vector[i] * rotation[[i, j]]).sum());
            *vector = turned.collect();
        }
        Some(Alignment { items: both.len(), before, after: self.cosine(past, &both) })
    }

    fn cosine(&self, past: &ItemFactors, both: &[(usize, usize)]) -> f64 {
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let cosine = |(new, old): &(usize, usize)| {
            let (a, b) = (&self.vectors[*new], &past.vectors[*old]);
            product(a, b) / (product(a, a) * product(b, b)).sqrt().max(f64::MIN_POSITIVE)
        };
        both.iter().map(cosine).sum::<f64>() / both.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;
    use rand::{Rng, SeedableRng};

    fn fitted(seed: u64) -> ItemFactors {
        let items = (0..12).map(|i| format!("{i:02}")).collect();
        let row = |i: u32| vec![(i % 12, 1.0), (i / 3 % 12, 2.0), (i * i % 11, 1.0)];
        let sorted = |i: u32| {
            let mut row = row(i);
            row.sort_unstable_by_key(|(item, _)| *item);
            row.dedup_by_key(|(item, _)| *item);
            row
        };
        let options = Options { factors: 4, alpha: 2.0, regularization: 0.1, iterations: 30, seed };
        ItemFactors::fit(items, &(0..90).map(sorted).collect(), options)
    }

    #[test]
    fn a_rotated_copy_is_turned_back() {
        let past = fitted(1);
        let mut new = past.clone();
        // Two planes are rotated by different angles, and one axis is mirrored.
        let (s, c) = 0.7_f64.sin_cos();
        for vector in &mut new.vectors {
            let [a, b, x, y] = vector[..] else { panic!("four factors") };
            *vector = vec![c * a - s * b, s * a + c * b, -y, -x];
        }
        let alignment = new.align(&past).unwrap();
        assert!(alignment.before < 0.9 && alignment.after > 1.0 - 1e-9, "{alignment:?}");
        for (a, b) in new.vectors.iter().flatten().zip(past.vectors.iter().flatten()) {
            assert!((a - b).abs() < 1e-9, "{a} {b}");
        }
    }

    /// The rotation changes no score, and no further rotation brings the items nearer.
    #[test]
    fn another_fit_comes_as_near_as_it_can() {
        let (past, free) = (fitted(1), fitted(2));
        let mut new = free.clone();
        let alignment = new.align(&past).unwrap();
        assert!(alignment.after > alignment.before, "{alignment:?}");
        let row = [(1, 1.0), (5, 2.0)];
        let scores = |model: &ItemFactors| {
            let vector = model.fold_in(&row, &model.gram()).vector;
            let product = |y: &Vec<f64>| y.iter().zip(&vector).map(|(y, x)| y * x).sum();
            model.vectors.iter().map(product).collect::<Vec<f64>>()
        };
        for (a, b) in scores(&new).iter().zip(scores(&free)) {
            assert!((a - b).abs() < 1e-9, "{a} {b}");
        }
        let distance = |model: &ItemFactors| -> f64 {
            let pairs = model.vectors.iter().flatten().zip(past.vectors.iter().flatten());
            pairs.map(|(a, b)| (a - b) * (a - b)).sum()
        };
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..200 {
            let (i, j) = (random.random_range(0..4), random.random_range(0..4));
            let (s, c) = random.random_range(-1.0..1.0_f64).sin_cos();
            let mut turned = new.clone();
            for vector in turned.vectors.iter_mut().filter(|_| i != j) {
                (vector[i], vector[j]) =
                    (c * vector[i] - s * vector[j], s * vector[i] + c * vector[j]);
            }
            assert!(distance(&turned) >= distance(&new) - 1e-9);
        }
        assert_eq!(fitted(3).align(&ItemFactors { factors: 5, ..past }), None);
        // There are fewer items than factors. The rotation is then not unique, but still a rotation.
        let few = |seed: u64| {
            let options =
                Options { factors: 4, alpha: 2.0, regularization: 0.1, iterations: 30, seed };
            let rows = (0..20).map(|i| vec![(i % 2, 1.0), (2, f64::from(i % 3))]).collect();
            ItemFactors::fit(["a", "b", "c"].map(str::to_owned).to_vec(), &rows, options)
        };
        let mut new = few(1);
        let alignment = new.align(&few(2)).unwrap();
        assert!(alignment.after > 0.99, "{alignment:?}");
        let lengths = |model: &ItemFactors| -> Vec<f64> {
            model.vectors.iter().map(|v| v.iter().map(|x| x * x).sum()).collect()
        };
        for (a, b) in lengths(&new).iter().zip(lengths(&few(1))) {
            assert!((a - b).abs() < 1e-9, "{a} {b}");
        }
    }
}

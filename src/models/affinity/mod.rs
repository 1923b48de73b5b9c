//! Affinity: implicit-feedback matrix factorization by alternating least squares.
//!
//! The method is that of Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets"
//! (2008). The preference is 1 if a customer has interacted with an item, with confidence 1 + alpha r.
//! The `implicit` package uses the confidence alpha r, so its alpha is this alpha + 1 where r is 1.
//!
//! The fit takes a few steps of conjugate gradients per row in single precision, starting where the last
//! alternation ended (Takács, Pilászy and Tikk 2011). Customers are folded in exactly, by Cholesky
//! decomposition. Each row is solved on its own and rows are solved in parallel, so the result does not
//! depend on the number of threads.

mod align;
mod alternating;
mod blend;
mod map;
mod neighbours;
mod recommend;

use rand::SeedableRng;
use rand_distr::{Distribution, Normal};
use serde::{Deserialize, Serialize};

use self::alternating::{Compressed, LANES, alternate};
use super::cholesky;

pub use align::Alignment;
pub use alternating::{Options, Sparse};
pub use blend::{Blend, PARTS, Recommender, own};
pub use neighbours::Neighbours;
pub use recommend::{Because, Choice, Offer, Ranks};

/// Item factors, frozen at training. Customers are folded in when they are scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemFactors {
    /// The number of factors, which is the length of each vector.
    pub factors: usize,
    /// The confidence per unit of weight.
    pub alpha: f64,
    /// The L2 penalty.
    pub regularization: f64,
    /// The items in the order of their names.
    pub items: Vec<String>,
    /// One vector of factors per item.
    pub vectors: Vec<Vec<f64>>,
    /// The total weight of each item. Items are recommended by it to customers without interactions.
    pub popularity: Vec<f64>,
    /// The number of customers who have each item.
    pub holders: Vec<u32>,
    /// The number of customers that the factors were fitted on.
    pub customers: u32,
}

/// A customer in the space of the item factors.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// The solution x of (Y'Y + Y'(C - I)Y + lambda I) x = Y'C p.
    pub vector: Vec<f64>,
    /// The lower half of the Cholesky factor of that system. For a customer without interactions it is
    /// the system itself.
    system: Vec<f64>,
}

impl ItemFactors {
    /// Factorizes the interactions of `customers`, which are rows of (item index, weight > 0).
    pub fn fit(items: Vec<String>, customers: &Sparse, options: Options) -> Self {
        let f = options.factors;
        let mut by_item: Sparse = vec![Vec::new(); items.len()];
        let mut popularity = vec![0.0; items.len()];
        let mut holders = vec![0; items.len()];
        for (customer, row) in customers.iter().enumerate() {
            for (item, weight) in row {
                by_item[*item as usize].push((customer as u32, *weight));
                popularity[*item as usize] += weight;
                holders[*item as usize] += 1;
            }
        }
        let (rows, columns) = (Compressed::of(customers), Compressed::of(&by_item));
        let width = f.next_multiple_of(LANES);
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(options.seed);
        let normal = Normal::new(0.0, 0.01).unwrap_or_else(|_| unreachable!("0.01 is a deviation"));
        let mut first = |count: usize| {
            let mut values = vec![0.0_f32; count * width];
            for row in values.chunks_exact_mut(width) {
                row[..f].iter_mut().for_each(|value| *value = normal.sample(&mut random));
            }
            values
        };
        let mut of_items = first(items.len());
        let mut of_customers = first(customers.len());
        for _ in 0..options.iterations {
            alternate(&rows, &of_items, &mut of_customers, width, options);
            alternate(&columns, &of_customers, &mut of_items, width, options);
        }
        let vectors = of_items
            .chunks_exact(width)
            .map(|row| row[..f].iter().map(|value| f64::from(*value)).collect())
            .collect();
        Self {
            factors: f,
            alpha: options.alpha,
            regularization: options.regularization,
            items,
            vectors,
            popularity,
            holders,
            customers: customers.len() as u32,
        }
    }

    /// Computes the vector of a customer from interactions sorted by item. It is zero if there are none.
    pub fn fold_in(&self, row: &[(u32, f64)], gram: &[f64]) -> Folded {
        let f = self.factors;
        let (mut system, mut vector) = (gram.to_vec(), vec![0.0; f]);
        for i in 0..f {
            system[i * f + i] += self.regularization;
        }
        for (index, weight) in row {
            let y = &self.vectors[*index as usize];
            let extra = self.alpha * weight;
            for i in 0..f {
                vector[i] += (1.0 + extra) * y[i];
                for j in 0..=i {
                    system[i * f + j] += extra * y[i] * y[j];
                }
            }
        }
        if !row.is_empty() {
            cholesky::solve(&mut system, &mut vector, f);
        }
        Folded { vector, system }
    }

    /// Computes a point on a plane for each item. Items that the same customers like are near each other.
    pub fn map(&self) -> Vec<[f64; 2]> {
        map::map(&self.vectors, self.factors)
    }

    /// Computes Y'Y of the items, which [`ItemFactors::fold_in`] needs.
    pub fn gram(&self) -> Vec<f64> {
        gram(&self.vectors, self.factors)
    }
}

/// Computes Y'Y in row-major order, summed in the order of the vectors.
fn gram(vectors: &[Vec<f64>], f: usize) -> Vec<f64> {
    let mut gram = vec![0.0; f * f];
    for vector in vectors {
        for (i, x) in vector.iter().enumerate() {
            for (j, y) in vector.iter().enumerate().take(i + 1) {
                gram[i * f + j] += x * y;
            }
        }
    }
    for i in 0..f {
        for j in 0..i {
            gram[j * f + i] = gram[i * f + j];
        }
    }
    gram
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_groups() -> (Vec<String>, Sparse) {
        let items = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        let row = |i: u32| {
            let base = if i.is_multiple_of(2) { 0 } else { 2 };
            match i % 5 {
                0 => vec![(base, 2.0)],
                _ => vec![(base, 1.0), (base + 1, 1.0)],
            }
        };
        (items, (0..40).map(row).collect())
    }

    const OPTIONS: Options =
        Options { factors: 2, alpha: 5.0, regularization: 0.1, iterations: 20, seed: 1 };

    #[test]
    fn recommends_what_customers_like_them_have() {
        let (items, customers) = two_groups();
        let factors = ItemFactors::fit(items, &customers, OPTIONS);
        let customer = factors.fold_in(&[(0, 1.0)], &factors.gram());
        let offer = Offer { top: 2, repeat: false, ..Offer::default() };
        let (neighbours, blend) = (Neighbours::default(), Blend::FACTORS);
        let model = Recommender { factors, neighbours, blend };
        let best = model.recommend(&customer, &[(0, 1.0)], &offer);
        assert_eq!(best[0].item, 1, "who has a is offered b: {best:?}");
        assert_eq!(best[0].because, Because::Affinity(0));
    }

    #[test]
    fn a_solution_satisfies_its_normal_equations() {
        let (items, customers) = two_groups();
        let model = ItemFactors::fit(items, &customers, OPTIONS);
        let (gram, row) = (model.gram(), [(0, 1.5), (2, 0.5)]);
        let x = model.fold_in(&row, &gram).vector;
        for i in 0..2 {
            let mut left: f64 = (0..2).map(|j| gram[i * 2 + j] * x[j]).sum::<f64>() + 0.1 * x[i];
            let mut right = 0.0;
            for (item, weight) in row {
                let y = &model.vectors[item as usize];
                let dot: f64 = y.iter().zip(&x).map(|(a, b)| a * b).sum();
                left += 5.0 * weight * dot * y[i];
                right += (1.0 + 5.0 * weight) * y[i];
            }
            assert!((left - right).abs() < 1e-9, "{left} {right}");
        }
    }
}

//! Chooses the weights of the parts of an item's score by what customers did next in the past.
//!
//! A simpler ranking is kept unless a less simple one is better by more than chance. Of the rankings by one part, each
//! must be better than the simpler ones by one standard error (the rule of Breiman, Friedman, Olshen and Stone 1984).
//! From there the search changes one weight at a time while NDCG@10 grows (coordinate ascent, as in Metzler and Croft
//! 2007). Its end, which is the best of many, must be better by two standard errors.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::ranking::{Case, TOP, best, gain, ideal};
use crate::models::affinity::{Blend, Recommender};
use crate::spec::BlendSpec;

/// The weights that are tried.
const WEIGHTS: [f64; 10] = [0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
/// The number of rounds over all parts.
const ROUNDS: usize = 3;
/// The maximum number of customers, of each window, that choose.
const CHOOSING: usize = 5_000;
/// The number of items that are kept of each part. An item that is in the first of no part is in the first ten of no
/// blend, but for rare exceptions.
const CANDIDATES: usize = 100;

/// A step of the search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The weights.
    pub blend: Blend,
    /// The mean NDCG@10 over the customers that choose.
    pub ndcg: f64,
}

/// The best items of each part for one customer.
pub struct Candidates {
    /// The parts of each item's score, in the order of [`Blend::weights`].
    parts: Vec<[f32; 4]>,
    /// Whether each item is wanted.
    wanted: Vec<bool>,
    ideal: f64,
}

/// The items that can be among the first of a blend, for the first customers of `cases`.
pub fn candidates(model: &Recommender, cases: &[Case]) -> Vec<Candidates> {
    let all = Blend::of([1.0; 4]);
    let of = |case: &Case| {
        let mut parts = model.parts(&case.vector, &case.own, &all);
        let mut items: Vec<u32> = Vec::new();
        for part in &mut parts {
            case.hidden.iter().for_each(|item| part[*item as usize] = f64::NEG_INFINITY);
            let found = best(part, CANDIDATES.min(part.len() - case.hidden.len()));
            items.extend(found);
        }
        items.sort_unstable();
        items.dedup();
        let of_item =
            |item: &u32| [0, 1, 2, 3].map(|part: usize| parts[part][*item as usize] as f32);
        Candidates {
            parts: items.iter().map(of_item).collect(),
            wanted: items.iter().map(|item| case.wanted.contains(item)).collect(),
            ideal: ideal(case.wanted.len()),
        }
    };
    cases.par_iter().take(CHOOSING).map(of).collect()
}

/// The NDCG@10 of a blend for each customer.
fn ndcg(cases: &[Candidates], blend: &Blend) -> Vec<f64> {
    let weights = blend.ranking_weights();
    let of = |case: &Candidates| {
        let score = |parts: &[f32; 4]| {
            parts.iter().zip(weights).map(|(part, weight)| weight * f64::from(*part)).sum()
        };
        let scores: Vec<f64> = case.parts.iter().map(score).collect();
        let first = best(&scores, TOP.min(scores.len()));
        let hits = first.iter().enumerate().filter(|(_, item)| case.wanted[**item as usize]);
        hits.map(|(rank, _)| gain(rank)).sum::<f64>() / case.ideal
    };
    cases.par_iter().map(of).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Whether the mean of `values` is above that of `others`, which are of the same customers, by more than so many
/// standard errors.
fn is_better(values: &[f64], others: &[f64], errors: f64) -> bool {
    let each: Vec<f64> = values.iter().zip(others).map(|(value, other)| value - other).collect();
    let (mean, count) = (mean(&each), each.len() as f64);
    let squares: f64 = each.iter().map(|d| (d - mean) * (d - mean)).sum();
    count > 1.0 && mean > errors * (squares / (count - 1.0) / count).sqrt()
}

/// Searches the weights with the highest NDCG@10. Weights that the spec sets stay as they are. Returns the steps of
/// the search; the last one is chosen.
pub fn choose(cases: &[Candidates], spec: &BlendSpec) -> Vec<Step> {
    let set = spec.weights();
    let step = |mut weights: [f64; 4]| {
        weights.iter_mut().zip(set).for_each(|(weight, set)| *weight = set.unwrap_or(*weight));
        let blend = Blend::of(weights);
        Step { blend, ndcg: mean(&ndcg(cases, &blend)) }
    };
    let mut start = step(Blend::POPULAR.weights());
    for part in [Blend::OWN, Blend::SIMILAR, Blend::FACTORS] {
        let next = step(part.weights());
        if is_better(&ndcg(cases, &next.blend), &ndcg(cases, &start.blend), 1.0) {
            start = next;
        }
    }
    let mut steps = vec![start];
    for _ in 0..ROUNDS {
        let before = steps.len();
        for part in (0..4).filter(|part| set[*part].is_none()) {
            let Some(last) = steps.last().copied() else { break };
            let mut better = last;
            for weight in WEIGHTS {
                let mut weights = last.blend.weights();
                weights[part] = weight;
                let tried = step(weights);
                if tried.ndcg > better.ndcg && tried.blend != Blend::NONE {
                    better = tried;
                }
            }
            if better != last {
                steps.push(better);
            }
        }
        if steps.len() == before {
            break;
        }
    }
    let end = steps.last().map_or(start.blend, |step| step.blend);
    if !is_better(&ndcg(cases, &end), &ndcg(cases, &start.blend), 2.0) {
        steps.truncate(1);
    }
    steps
}

//! Trains an affinity model from gathered interactions, and tests how well it predicts the next
//! interactions of customers.

pub mod ranking;
pub mod sample;

use std::collections::HashSet;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::ranking::{Case, Pairs, Ranker, Ranking, judge};
use self::sample::{InteractionData, Items, Row, Sample};
use crate::artifact::AffinityArtifact;
use crate::error::Result;
use crate::models::affinity::{Alignment, ItemFactors, Options, Ranks, Sparse, habit};
use crate::spec::{Affinity, AffinitySpec};
use crate::time::{Duration, Instant};
use crate::training::TrainingProblem;

/// The maximum number of customers that a ranking is judged on.
const JUDGED: usize = 20_000;
/// The maximum number of customers that the distribution of an item's scores is taken from.
const RANKED: usize = 5_000;
/// The minimum number of customers that a ranking is judged on. A result over fewer is not reliable.
const LEAST_JUDGED: usize = 30;
/// The shares of a customer's own interactions that are tried. The last one puts the customer's own items
/// before all others.
const OWN: [f64; 8] = [0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 100.0];
/// The name of the ranking by the factors alone, which are one part of this model's ranking.
const FACTORS: &str = "its factors alone";
/// The share of own interactions that is used if no share can be tried.
const USUAL_OWN: f64 = 1.0;

/// The instants at which a ranking is chosen and tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// The instant after which interactions choose the share of own interactions.
    pub chosen: Instant,
    /// The instant after which interactions test the ranking.
    pub tested: Instant,
}

impl Windows {
    /// Places the two instants two horizons and one horizon before the as-of. Returns `None` if the
    /// history does not reach one horizon further back.
    pub fn new(horizon: Duration, as_of: Instant, first: Instant) -> Option<Self> {
        let tested = as_of.minus(horizon);
        let chosen = tested.minus(horizon);
        (chosen.minus(horizon) >= first).then_some(Self { chosen, tested })
    }
}

/// The results of the test for one choice of items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Customers with at least one interaction to predict.
    pub customers: usize,
    /// The ranking of this model, followed by the simpler ones.
    pub rankings: Vec<Ranking>,
}

impl Setting {
    /// The ranking with the highest NDCG among those that need no model.
    pub fn best_simple(&self) -> Option<&Ranking> {
        let others = self.rankings.iter().skip(1).filter(|other| other.name != FACTORS);
        others.reduce(|a, b| if b.ndcg > a.ndcg { b } else { a })
    }
}

/// The test of the ranking on the last horizon before the as-of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tested {
    /// The end of the interactions that the tested factors were fitted on.
    pub from: Instant,
    /// The end of the interactions that were predicted.
    pub until: Instant,
    /// The result over all items that may be recommended.
    pub all: Setting,
    /// The result over items that the customer had not interacted with within `new_after`.
    pub new: Setting,
}

/// The content of `metrics.json` of an affinity version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AffinityMetrics {
    /// The format version of this file.
    pub format_version: u32,
    /// The as-of of the training, up to which interactions were read.
    pub as_of: Instant,
    /// The number of items that were factorized.
    pub items: usize,
    /// The number of customers that the items were factorized with.
    pub customers: usize,
    /// The share of a customer's own interactions in the score of an item.
    pub own: f64,
    /// The instant after which interactions chose the share; `None` if no share could be tried.
    pub chosen_at: Option<Instant>,
    /// The shares that were tried, each with its NDCG at that instant.
    pub tried: Vec<(f64, f64)>,
    /// The version that the vectors were rotated to, and how near they are to it. `None` for the first
    /// version, and if the vectors differ in length or fewer than half of the items are in both versions.
    #[serde(default)]
    pub aligned: Option<(String, Alignment)>,
    /// The test of the ranking; `None` if the history is too short or there are too few customers to judge on.
    pub tested: Option<Tested>,
    /// The number of customers to judge on if they are too few.
    #[serde(default)]
    pub judged: Option<usize>,
}

impl AffinityMetrics {
    /// Describes in sentences how well the model predicted the last horizon.
    pub fn sentences(&self) -> Vec<String> {
        let near = self.aligned.as_ref().map(|(version, near)| {
            format!(
                "Its vectors were turned to those of {version}: over {} items the mean cosine went from {:.2} to {:.2}.",
                near.items, near.before, near.after
            )
        });
        let Some(tested) = &self.tested else {
            let why = match self.judged {
                Some(customers) => format!(
                    "Only {customers} customers had interactions before the test window and new ones in it, and {LEAST_JUDGED} are needed"
                ),
                None => "The history is too short to hold out a part of it".to_owned(),
            };
            return vec![format!("{why}, so the ranking is not tested.")];
        };
        let sentence = |what: &str, setting: &Setting| {
            let (own, best) = (setting.rankings.first()?, setting.best_simple()?);
            let (verdict, interval) = match &best.difference {
                Some(found) => (
                    match (found.interval.low > 0.0, found.interval.high < 0.0) {
                        (true, _) => "better than",
                        (_, true) => "worse than",
                        _ => "not significantly different from",
                    },
                    format!(
                        " (difference {:+.4}, 95 % interval {:+.4} to {:+.4})",
                        found.difference, found.interval.low, found.interval.high
                    ),
                ),
                None if own.ndcg > best.ndcg => ("better than", String::new()),
                None => ("no better than", String::new()),
            };
            Some(format!(
                "{what} its ranking is {verdict} {}, the best without a model: NDCG@10 {:.4} against {:.4}{interval} over {} customers.",
                best.name, own.ndcg, best.ndcg, setting.customers
            ))
        };
        let all = sentence("Of all items", &tested.all);
        let new = sentence("Of items new to the customer", &tested.new);
        all.into_iter().chain(new).chain(near).collect()
    }
}

/// Factorizes the interactions of customers and tests the ranking.
///
/// # Errors
/// Returns [`TrainingProblem`] if there is no interaction or if the factorization diverges.
pub fn train(
    model: &Affinity,
    mut data: InteractionData,
    as_of: Instant,
    windows: Option<Windows>,
    past: Option<&(String, AffinityArtifact)>,
) -> Result<(AffinityArtifact, AffinityMetrics)> {
    let spec = &model.spec;
    data.sort();
    let items = &data.items;
    let (mut factors, rows) = factorize(spec, items, &data.now)
        .ok_or_else(|| TrainingProblem::NoInteractions { model: spec.name.clone() })?;
    if factors.vectors.iter().flatten().any(|value| !value.is_finite()) {
        return Err(TrainingProblem::InfiniteFactors { model: spec.name.clone() }.into());
    }
    let mut tried = Vec::new();
    let mut chosen_at = None;
    if let (None, Some(windows)) = (spec.own, windows)
        && let Some((past, rows)) = factorize(spec, items, &data.past[0])
    {
        let cases = cases(spec, &past, &rows, &data, 0, false);
        if cases.len() >= LEAST_JUDGED {
            let ndcg = |own: f64| (own, judge("", &past, &cases, Ranker::Blend(own)).ranking.ndcg);
            tried = OWN.map(ndcg).to_vec();
            chosen_at = Some(windows.chosen);
        }
    }
    let best = tried.iter().copied().reduce(|a, b| if b.1 > a.1 { b } else { a });
    let own = spec.own.or(best.map(|(own, _)| own)).unwrap_or(USUAL_OWN);
    let alignment = past.and_then(|(_, past)| factors.align(&past.model));
    let ranks = ranks(&factors, &rows, own);
    let tested = windows.map(|windows| test(spec, &data, own, windows.tested, as_of));
    let (tested, judged) = match tested {
        None => (None, None),
        Some(Ok(tested)) => (Some(tested), None),
        Some(Err(customers)) => (None, Some(customers)),
    };
    let metrics = AffinityMetrics {
        format_version: crate::store::FORMAT_VERSION,
        as_of,
        items: factors.items.len(),
        customers: factors.customers as usize,
        own,
        chosen_at,
        tried,
        aligned: past.zip(alignment).map(|((version, _), near)| (version.clone(), near)),
        tested,
        judged,
    };
    let artifact = AffinityArtifact {
        spec: spec.clone(),
        interactions: model.interactions.clone(),
        own,
        model: factors,
        ranks,
        aligned_to: metrics.aligned.as_ref().map(|(version, _)| version.clone()),
    };
    Ok((artifact, metrics))
}

/// Computes the distribution of each item's score over the customers with the smallest hashes.
fn ranks(factors: &ItemFactors, rows: &[(u64, Row)], own: f64) -> Ranks {
    let rows: Vec<&Row> = rows.iter().map(|(_, row)| row).take(RANKED).collect();
    let gram = factors.gram();
    let vectors: Vec<Vec<f64>> =
        rows.par_iter().map(|row| factors.fold_in(row, &gram).vector).collect();
    let mut habits: Vec<Vec<(usize, f64)>> = vec![Vec::new(); factors.items.len()];
    for (customer, row) in rows.iter().enumerate() {
        for (item, share) in habit(row, own) {
            habits[item as usize].push((customer, share));
        }
    }
    Ranks::fit(factors.items.len(), |item| {
        let y = &factors.vectors[item];
        let product = |x: &Vec<f64>| x.iter().zip(y).map(|(x, y)| x * y).sum();
        let mut scores: Vec<f64> = vectors.iter().map(product).collect();
        habits[item].iter().for_each(|(customer, share)| scores[*customer] += share);
        scores
    })
}

/// Factorizes a sample and returns the factors with the rows of the sample in their item order; `None` if
/// the sample is empty.
fn factorize(
    spec: &AffinitySpec,
    items: &Items,
    sample: &Sample,
) -> Option<(ItemFactors, Vec<(u64, Row)>)> {
    let met: HashSet<u32> =
        sample.customers.iter().flat_map(|(_, row)| row.iter().map(|(item, _)| *item)).collect();
    let mut names: Vec<u32> = met.into_iter().collect();
    names.sort_unstable_by_key(|code| items.name(*code));
    let mut place = vec![u32::MAX; items.count()];
    names.iter().enumerate().for_each(|(i, code)| place[*code as usize] = i as u32);
    let rows: Vec<(u64, Row)> =
        sample.customers.iter().map(|(hash, row)| (*hash, in_places(row, &place))).collect();
    let options = Options {
        factors: spec.factors,
        alpha: spec.alpha,
        regularization: spec.regularization,
        iterations: spec.iterations,
        seed: spec.seed,
    };
    let sparse: Sparse = rows.iter().map(|(_, row)| row.clone()).collect();
    let names: Vec<String> = names.into_iter().map(|code| items.name(code).to_owned()).collect();
    (!names.is_empty()).then(|| (ItemFactors::fit(names, &sparse, options), rows))
}

/// Renumbers the items of a row by `place` and sorts the row by them.
fn in_places(row: &Row, place: &[u32]) -> Row {
    let mut row: Row = row.iter().map(|(item, weight)| (place[*item as usize], *weight)).collect();
    row.sort_unstable_by_key(|(item, _)| *item);
    row
}

/// Builds the cases of one window: customers with interactions before it who also have some in the
/// horizon after it. With `new`, the items that a customer interacted with within `new_after` are hidden.
fn cases(
    spec: &AffinitySpec,
    model: &ItemFactors,
    rows: &[(u64, Row)],
    data: &InteractionData,
    window: usize,
    new: bool,
) -> Vec<Case> {
    let gram = model.gram();
    // An item that the model does not know can never be a hit.
    let unknown = |code: u32| model.items.len() as u32 + code;
    let place = |code: u32| {
        let name = data.items.name(code);
        let known = model.items.binary_search_by(|item| item.as_str().cmp(name));
        known.map_or_else(|_| unknown(code), |place| place as u32)
    };
    let places: Vec<u32> = (0..data.items.count() as u32).map(place).collect();
    let known = |item: &u32| (*item as usize) < model.items.len();
    let case = |(hash, own): &(u64, Row)| {
        let later = data.later[window].find(*hash)?;
        let hidden: Row = match (new, spec.repeat) {
            (true, _) => {
                let lately = data.recent.find(*hash);
                lately.map_or_else(Row::new, |row| in_places(row, &places))
            }
            (false, true) => Vec::new(),
            (false, false) => own.clone(),
        };
        let mut hidden: Vec<u32> = hidden.into_iter().map(|(item, _)| item).collect();
        if new && !spec.repeat {
            hidden.extend(own.iter().map(|(item, _)| *item));
            hidden.sort_unstable();
            hidden.dedup();
        }
        let later = later.iter().map(|(item, _)| places[*item as usize]);
        let wanted: HashSet<u32> =
            later.filter(|item| hidden.binary_search(item).is_err()).collect();
        hidden.retain(known);
        let vector = model.fold_in(own, &gram).vector;
        (!wanted.is_empty()).then(|| Case { own: own.clone(), vector, hidden, wanted })
    };
    let cases: Vec<Option<Case>> = rows.par_iter().map(case).collect();
    cases.into_iter().flatten().take(JUDGED).collect()
}

/// Tests the ranking on the interactions after the second window. Returns the number of customers to judge on if they
/// are too few, and the test otherwise.
fn test(
    spec: &AffinitySpec,
    data: &InteractionData,
    own: f64,
    from: Instant,
    until: Instant,
) -> std::result::Result<Tested, usize> {
    let (model, rows) = factorize(spec, &data.items, &data.past[1]).ok_or(0_usize)?;
    let all = cases(spec, &model, &rows, data, 1, false);
    if all.len() < LEAST_JUDGED {
        return Err(all.len());
    }
    let sparse: Sparse = rows.iter().take(JUDGED).map(|(_, row)| row.clone()).collect();
    let pairs = Pairs::count(model.items.len(), &sparse);
    let setting = |cases: &[Case]| {
        let ours = judge("this model", &model, cases, Ranker::Blend(own));
        let others = [
            (FACTORS, Ranker::Blend(0.0)),
            ("the customer's own frequency", Ranker::Own),
            ("popularity", Ranker::Popularity),
            ("items bought together", Ranker::Pairs(&pairs)),
        ];
        let others = others.map(|(name, ranker)| {
            let theirs = judge(name, &model, cases, ranker);
            Ranking { difference: Some(ours.against(&theirs)), ..theirs.ranking }
        });
        let rankings = std::iter::once(ours.ranking).chain(others).collect();
        Setting { customers: cases.len(), rankings }
    };
    let new = setting(&cases(spec, &model, &rows, data, 1, true));
    Ok(Tested { from, until, all: setting(&all), new })
}

//! Taste from gathered interactions to an artifact, and how well it foretells what customers do next.

pub mod ranking;
pub mod sample;

use std::collections::HashSet;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::ranking::{Case, Pairs, Ranker, Ranking, judge};
use self::sample::{InteractionData, Items, Row, Sample};
use crate::artifact::AffinityArtifact;
use crate::error::{Error, Result};
use crate::models::affinity::{Alignment, ItemFactors, Options, Ranks, Sparse, habit};
use crate::spec::{Affinity, AffinitySpec};
use crate::time::{Duration, Instant};

/// Customers that a ranking is judged by at most.
const JUDGED: usize = 20_000;
/// Customers that an item's distribution of scores is taken from at most.
const RANKED: usize = 5_000;
/// Fewer tell nothing.
const LEAST_JUDGED: usize = 30;
/// Shares of a customer's own habits that are tried; the last one puts these first whatever else.
const OWN: [f64; 8] = [0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 100.0];
/// The ranking that is a part of ours.
const FACTORS: &str = "its factors alone";
/// The share where nothing can be tried.
const USUAL_OWN: f64 = 1.0;

/// The instants at which a ranking is chosen and tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// The share of own habits is chosen by what follows this one.
    pub chosen: Instant,
    /// The ranking is tested by what follows this one.
    pub tested: Instant,
}

impl Windows {
    /// One and two horizons before the as-of; None where the history does not reach a horizon further.
    pub fn new(horizon: Duration, as_of: Instant, first: Instant) -> Option<Self> {
        let tested = as_of.minus(horizon);
        let chosen = tested.minus(horizon);
        (chosen.minus(horizon) >= first).then_some(Self { chosen, tested })
    }
}

/// One way to look at the test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Customers who did something that counts.
    pub customers: usize,
    /// This model, then what is simpler.
    pub rankings: Vec<Ranking>,
}

impl Setting {
    /// The best of what is no model.
    pub fn best_simple(&self) -> Option<&Ranking> {
        let others = self.rankings.iter().skip(1).filter(|other| other.name != FACTORS);
        others.reduce(|a, b| if b.ndcg > a.ndcg { b } else { a })
    }
}

/// What was foretold of the last horizon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tested {
    /// Fitted on what came before.
    pub from: Instant,
    /// What customers did up to here was to be foretold.
    pub until: Instant,
    /// All items that may be recommended.
    pub all: Setting,
    /// Only items that the customer had not had lately.
    pub new: Setting,
}

/// `metrics.json` of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AffinityMetrics {
    /// Of this file.
    pub format_version: u32,
    /// Up to when interactions were read.
    pub as_of: Instant,
    /// Items that were factorized.
    pub items: usize,
    /// Customers that they were factorized with.
    pub customers: usize,
    /// The share of a customer's own habits in the score of an item.
    pub own: f64,
    /// By what followed this instant; None where nothing could be tried.
    pub chosen_at: Option<Instant>,
    /// Shares with the NDCG of each at that instant.
    pub tried: Vec<(f64, f64)>,
    /// The version that its vectors were turned to, and how near they are; None for the first one, and
    /// where the lengths of vectors differ.
    #[serde(default)]
    pub aligned: Option<(String, Alignment)>,
    /// None where the history is too short.
    pub tested: Option<Tested>,
}

impl AffinityMetrics {
    /// How well it foretold the last horizon, in words.
    pub fn sentences(&self) -> Vec<String> {
        let near = self.aligned.as_ref().map(|(version, near)| {
            format!(
                "Its vectors were turned to those of {version}: over {} items the mean cosine went from {:.2} to {:.2}.",
                near.items, near.before, near.after
            )
        });
        let Some(tested) = &self.tested else {
            return vec!["The history is too short to foretell a part of it: nothing says how well this does.".to_owned()];
        };
        let sentence = |what: &str, setting: &Setting| {
            let (own, best) = (setting.rankings.first()?, setting.best_simple()?);
            let verdict = if own.ndcg > best.ndcg { "better" } else { "no better" };
            Some(format!(
                "{what} it ranks {verdict} than {}, the best without a model: NDCG@10 {:.4} against {:.4} over {} customers.",
                best.name, own.ndcg, best.ndcg, setting.customers
            ))
        };
        let all = sentence("Of all items", &tested.all);
        let new = sentence("Of items new to the customer", &tested.new);
        all.into_iter().chain(new).chain(near).collect()
    }
}

/// Factorizes the interactions of customers.
///
/// # Errors
/// [`Error::NotEnough`] where there is no interaction, or the factorization diverges.
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
    let (mut factors, rows) = factorize(spec, items, &data.now).ok_or_else(|| {
        Error::not_enough(
            format!("the model {} has no interactions to learn from", spec.name),
            "check its item, weights and window",
        )
    })?;
    if factors.vectors.iter().flatten().any(|value| !value.is_finite()) {
        return Err(Error::not_enough(
            format!("the factors of the model {} do not stay finite", spec.name),
            "lower its alpha or weights, or raise its regularization",
        ));
    }
    let mut tried = Vec::new();
    let mut chosen_at = None;
    if let (None, Some(windows)) = (spec.own, windows)
        && let Some((past, rows)) = factorize(spec, items, &data.past[0])
    {
        let cases = cases(spec, &past, &rows, &data, 0, false);
        if cases.len() >= LEAST_JUDGED {
            let ndcg = |own: f64| (own, judge("", &past, &cases, Ranker::Blend(own)).ndcg);
            tried = OWN.map(ndcg).to_vec();
            chosen_at = Some(windows.chosen);
        }
    }
    let best = tried.iter().copied().reduce(|a, b| if b.1 > a.1 { b } else { a });
    let own = spec.own.or(best.map(|(own, _)| own)).unwrap_or(USUAL_OWN);
    let alignment = past.and_then(|(_, past)| factors.align(&past.model));
    let ranks = ranks(&factors, &rows, own);
    let tested = windows.and_then(|windows| test(spec, &data, own, windows.tested, as_of));
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

/// The distribution of each item's score over the customers with the least hashes.
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

/// The factors of a sample, with its rows in their items; None where it is empty.
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

/// A row in the order of the places of its items.
fn in_places(row: &Row, place: &[u32]) -> Row {
    let mut row: Row = row.iter().map(|(item, weight)| (place[*item as usize], *weight)).collect();
    row.sort_unstable_by_key(|(item, _)| *item);
    row
}

/// Customers with a past at one of the windows who did something in the horizon after it; of those who
/// are to be shown something new only, what they have had lately is hidden.
fn cases(
    spec: &AffinitySpec,
    model: &ItemFactors,
    rows: &[(u64, Row)],
    data: &InteractionData,
    window: usize,
    new: bool,
) -> Vec<Case> {
    let gram = model.gram();
    // An item that the model does not know can only be missed.
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

/// Foretells what followed the second window.
fn test(
    spec: &AffinitySpec,
    data: &InteractionData,
    own: f64,
    from: Instant,
    until: Instant,
) -> Option<Tested> {
    let (model, rows) = factorize(spec, &data.items, &data.past[1])?;
    let sparse: Sparse = rows.iter().take(JUDGED).map(|(_, row)| row.clone()).collect();
    let pairs = Pairs::count(model.items.len(), &sparse);
    let setting = |new: bool| {
        let cases = cases(spec, &model, &rows, data, 1, new);
        let mut rankers = vec![
            ("this model", Ranker::Blend(own)),
            (FACTORS, Ranker::Blend(0.0)),
            ("the customer's own frequency", Ranker::Own),
            ("popularity", Ranker::Popularity),
        ];
        rankers.extend(pairs.as_ref().map(|pairs| ("items bought together", Ranker::Pairs(pairs))));
        let rankings =
            rankers.into_iter().map(|(name, ranker)| judge(name, &model, &cases, ranker));
        Setting { customers: cases.len(), rankings: rankings.collect() }
    };
    let (all, new) = (setting(false), setting(true));
    (all.customers >= LEAST_JUDGED).then_some(Tested { from, until, all, new })
}

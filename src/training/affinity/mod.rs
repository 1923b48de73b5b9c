//! Trains an affinity model from gathered interactions, and tests how well it predicts the next
//! interactions of customers.

mod choice;
pub mod metrics;
pub mod ranking;
pub mod sample;

use std::collections::HashSet;

use rayon::prelude::*;

pub use self::choice::{Step, candidates, choose};
pub use self::metrics::{AffinityMetrics, Setting, Tested};
use self::metrics::{FACTORS, untested};
use self::ranking::{Case, LEAST_JUDGED, Ranking, judge};
use self::sample::{InteractionData, Items, Row, Sample};
use crate::artifact::AffinityArtifact;
use crate::error::Result;
use crate::models::affinity::{
    Blend, ItemFactors, Neighbours, Options, Ranks, Recommender, Sparse, own,
};
use crate::spec::{Affinity, AffinitySpec};
use crate::time::{Duration, Instant};
use crate::training::TrainingProblem;
use crate::training::evaluation::bootstrap::Difference;
use crate::training::promotion::Gate;

/// The maximum number of customers that a ranking is judged on.
const JUDGED: usize = 20_000;
/// The maximum number of customers that the distribution of an item's scores is taken from.
const RANKED: usize = 5_000;
/// The maximum number of single additions to scores that this distribution is taken from. Further customers are left
/// out.
const ADDED: usize = 10_000_000;
/// The maximum number of instants that choose the weights of the blend.
const CHOICES: usize = 3;
/// The weights if none can be chosen.
const USUAL: Blend = Blend { factors: 1.0, own: 1.0, similar: 0.0, popular: 0.0 };

/// The instants at which a ranking is chosen and tested, one horizon apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// The instants after which interactions choose the weights of the blend, in order of time.
    pub chosen: Vec<Instant>,
    /// The instant after which interactions test the ranking.
    pub tested: Instant,
}

impl Windows {
    /// Places the test one horizon before the as-of, and up to three choices before it. Returns `None` if the history
    /// does not reach three horizons back.
    pub fn new(horizon: Duration, as_of: Instant, first: Instant) -> Option<Self> {
        let tested = as_of.minus(horizon);
        let earlier =
            std::iter::successors(Some(tested.minus(horizon)), |at| Some(at.minus(horizon)));
        let mut chosen: Vec<Instant> =
            earlier.take_while(|at| at.minus(horizon) >= first).take(CHOICES).collect();
        chosen.reverse();
        (!chosen.is_empty()).then_some(Self { chosen, tested })
    }

    /// The instants up to which interactions are known, in order of time. The last one tests.
    pub fn past(&self) -> Vec<Instant> {
        self.chosen.iter().copied().chain([self.tested]).collect()
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
    champion: Option<&(String, AffinityArtifact)>,
) -> Result<(AffinityArtifact, AffinityMetrics)> {
    let spec = &model.spec;
    data.sort();
    let (mut factors, rows) = factorize(spec, &data.items, &data.now)
        .ok_or_else(|| TrainingProblem::NoInteractions { model: spec.name.clone() })?;
    if factors.vectors.iter().flatten().any(|value| !value.is_finite()) {
        return Err(TrainingProblem::InfiniteFactors { model: spec.name.clone() }.into());
    }
    let (steps, chosen_at) = windows.as_ref().map_or_else(Default::default, |windows| {
        let past = windows.chosen.iter().enumerate();
        let cases: Vec<_> = past.map(|(window, _)| chosen_by(spec, &data, window)).collect();
        match cases.iter().map(Vec::len).sum::<usize>() >= LEAST_JUDGED {
            true => (
                choose(&cases.into_iter().flatten().collect::<Vec<_>>(), &spec.blend),
                windows.chosen.clone(),
            ),
            false => Default::default(),
        }
    });
    let blend = steps.last().map_or_else(|| spec.blend.or(USUAL), |step| step.blend);
    let alignment = champion.and_then(|(_, champion)| factors.align(&champion.model.factors));
    let comparison = champion.filter(|(_, champion)| champion.interactions == model.interactions);
    let (tested, judged) = match windows {
        None => (None, None),
        Some(windows) => match test(spec, &data, blend, &windows, as_of, comparison) {
            Ok(tested) => (Some(tested), None),
            Err(customers) => (None, Some(customers)),
        },
    };
    let something_else = champion.filter(|(_, champion)| champion.spec.item != spec.item);
    let metrics = AffinityMetrics {
        format_version: crate::store::FORMAT_VERSION,
        as_of,
        items: factors.items.len(),
        customers: factors.customers as usize,
        blend,
        chosen_at,
        steps,
        aligned: champion.zip(alignment).map(|((version, _), near)| (version.clone(), near)),
        gate: gate(tested.as_ref(), judged, something_else.map(|(version, _)| version.as_str())),
        tested,
        judged,
    };
    let neighbours = match blend.similar > 0.0 {
        true => Neighbours::count(factors.items.len(), &sparse(&rows)),
        false => Neighbours::default(),
    };
    let recommender = Recommender { factors, neighbours, blend };
    let ranks = ranks(&recommender, &rows);
    let artifact = AffinityArtifact {
        spec: spec.clone(),
        interactions: model.interactions.clone(),
        model: recommender,
        ranks,
        aligned_to: metrics.aligned.as_ref().map(|(version, _)| version.clone()),
    };
    Ok((artifact, metrics))
}

/// The conditions for a version to come into use: the ranking was tested, it is not worse than the best ranking
/// without a model, and not worse than the champion, both but for chance.
fn gate(tested: Option<&Tested>, judged: Option<usize>, something_else: Option<&str>) -> Gate {
    let Some(Tested { all, .. }) = tested else {
        return Gate::untested("a tested ranking", untested(judged));
    };
    fn compared(other: &Ranking) -> Option<(&str, Difference)> {
        Some((other.name.as_str(), other.difference?))
    }
    let (baseline, champion) = (all.best_simple(), all.champion.as_ref());
    Gate::of_ranking(baseline.and_then(compared), champion.and_then(compared), something_else)
}

/// The best items by each part for the customers whose next interactions after a window choose the weights.
fn chosen_by(
    spec: &AffinitySpec,
    data: &InteractionData,
    window: usize,
) -> Vec<choice::Candidates> {
    let past = data.past.get(window).and_then(|past| factorize(spec, &data.items, past));
    let Some((factors, rows)) = past else { return Vec::new() };
    let model = unblended(factors, &rows);
    candidates(&model, &cases(spec, &model.factors, &rows, data, window, false))
}

/// Factors with all their neighbours, to be ranked by any blend.
fn unblended(factors: ItemFactors, rows: &[(u64, Row)]) -> Recommender {
    let neighbours = Neighbours::count(factors.items.len(), &sparse(rows));
    Recommender { factors, neighbours, blend: Blend::NONE }
}

fn sparse(rows: &[(u64, Row)]) -> Sparse {
    rows.iter().map(|(_, row)| row.clone()).collect()
}

/// Computes the distribution of each item's score over the customers with the smallest hashes.
fn ranks(model: &Recommender, rows: &[(u64, Row)]) -> Ranks {
    let (factors, blend) = (&model.factors, &model.blend);
    let mut added: Vec<Vec<(usize, f64)>> = vec![Vec::new(); factors.items.len()];
    let (mut additions, mut customers) = (0, Vec::new());
    for (customer, (_, row)) in rows.iter().take(RANKED).enumerate() {
        if additions > ADDED {
            break;
        }
        customers.push(row);
        for (item, part) in own(row, blend).chain(model.similar(row, blend)) {
            added[item as usize].push((customer, part));
            additions += 1;
        }
    }
    let gram = factors.gram();
    let vectors: Vec<Vec<f64>> =
        customers.par_iter().map(|row| factors.fold_in(row, &gram).vector).collect();
    let popular = model.popular(blend);
    Ranks::fit(factors.items.len(), |item| {
        let y = &factors.vectors[item];
        let product = |x: &Vec<f64>| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let score = |x: &Vec<f64>| popular[item] + blend.factors * product(x);
        let mut scores: Vec<f64> = vectors.iter().map(score).collect();
        added[item].iter().for_each(|(customer, part)| scores[*customer] += part);
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
    let sparse = sparse(&rows);
    let names: Vec<String> = names.into_iter().map(|code| items.name(code).to_owned()).collect();
    (!names.is_empty()).then(|| (ItemFactors::fit(names, &sparse, options(spec)), rows))
}

fn options(spec: &AffinitySpec) -> Options {
    Options {
        factors: spec.factors,
        alpha: spec.alpha,
        regularization: spec.regularization,
        iterations: spec.iterations,
        seed: spec.seed,
    }
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

/// Tests the ranking on the interactions after the last window. Returns the number of customers to judge on if they
/// are too few, and the test otherwise.
fn test(
    spec: &AffinitySpec,
    data: &InteractionData,
    blend: Blend,
    windows: &Windows,
    until: Instant,
    champion: Option<&(String, AffinityArtifact)>,
) -> std::result::Result<Tested, usize> {
    let last = windows.chosen.len();
    let past = data.past.get(last).ok_or(0_usize)?;
    let (factors, rows) = factorize(spec, &data.items, past).ok_or(0_usize)?;
    let model = unblended(factors, &rows);
    let all = cases(spec, &model.factors, &rows, data, last, false);
    if all.len() < LEAST_JUDGED {
        return Err(all.len());
    }
    // The settings of the champion, fitted on the same interactions.
    let champion = champion.and_then(|(version, champion)| {
        let same = options(&champion.spec) == options(spec);
        let theirs = match same {
            true if champion.model.blend == blend => return None,
            true => model.clone(),
            false => Recommender {
                factors: factorize(&champion.spec, &data.items, past)?.0,
                ..model.clone()
            },
        };
        Some((version, theirs, champion.model.blend))
    });
    let setting = |new: bool| {
        let of = |factors: &ItemFactors| cases(spec, factors, &rows, data, last, new);
        let cases = of(&model.factors);
        let ours = judge("this model", &model, &cases, &blend);
        let others = [
            (FACTORS, Blend::FACTORS),
            ("the customer's own frequency", Blend::OWN),
            ("popularity", Blend::POPULAR),
            ("items that the same customers have", Blend::SIMILAR),
        ];
        let others = others.map(|(name, blend)| {
            let theirs = judge(name, &model, &cases, &blend);
            Ranking { difference: Some(ours.against(&theirs)), ..theirs.ranking }
        });
        let champion = champion.as_ref().map(|(version, model, blend)| {
            let theirs = judge(version, model, &of(&model.factors), blend);
            Ranking { difference: Some(ours.against(&theirs)), ..theirs.ranking }
        });
        let rankings = std::iter::once(ours.ranking).chain(others).collect();
        Setting { customers: cases.len(), rankings, champion }
    };
    Ok(Tested { from: windows.tested, until, all: setting(false), new: setting(true) })
}

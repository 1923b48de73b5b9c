//! The report of one version of an affinity model.

use maud::{Markup, html};
use plotly::Scatter;
use plotly::common::{Marker, Mode, Position};

use super::card;
use super::chart::{BLUE, Chart, GREY};
use super::page::{self, Cell, Page, Section, day, facts, page, table};
use crate::artifact::{AffinityArtifact, Artifact};
use crate::models::affinity::{ItemFactors, PARTS};
use crate::report::findings::Findings;
use crate::report::thousands;
use crate::training::affinity::ranking::Ranking;
use crate::training::affinity::{AffinityMetrics, Setting, Step};

/// The space that a name needs on the map, as shares of its width and height.
const ROOM: [f64; 2] = [0.16, 0.045];
/// The greatest number of items shown on the map.
const SHOWN: usize = 500;

/// Renders the whole file.
pub fn render(
    project: &str,
    artifact: &Artifact,
    model: &AffinityArtifact,
    metrics: &AffinityMetrics,
) -> Page {
    let section = |id, title, body| Section { id, title, body };
    let sections = [
        section("verdict", "Verdict", verdict(metrics)),
        section("ranking", "Predicting the next interactions", rankings(metrics)),
        section("map", "The map of items", map(&model.model.factors)),
        section("card", "Model card", model_card(artifact, model, metrics)),
    ];
    let title = format!("{} {}", artifact.name, artifact.version);
    page(&title, &format!("{project}: {}", model.spec.description), &sections)
}

fn verdict(metrics: &AffinityMetrics) -> Markup {
    let [items, customers] = [metrics.items, metrics.customers].map(|n| thousands(n as u64));
    page::verdict(
        &format!("{items} items of {customers} customers"),
        &Findings::of_affinity(metrics),
    )
}

fn rankings(metrics: &AffinityMetrics) -> Markup {
    let Some(tested) = &metrics.tested else {
        return html! { p { (metrics.gate.failures()) "." } };
    };
    let row = |step: &Step| {
        let weights = step.blend.weights().map(|weight| Cell::text(weight.to_string()));
        weights.into_iter().chain([Cell::number(step.ndcg, 4)]).collect()
    };
    let steps: Vec<Vec<Cell>> = metrics.steps.iter().map(row).collect();
    let head: Vec<&str> = PARTS.into_iter().chain(["NDCG@10"]).collect();
    html! {
        p {
            "The same model, fitted on what was known at " (day(tested.from)) ", ranks what each customer will do; "
            "then it is looked at what they did up to " (day(tested.until)) "."
        }
        (setting("all", "All items, whatever the offer leaves out", &tested.all))
        (setting("new", "Only items that the customer had not had lately", &tested.new))
        @if let [first, ..] = metrics.chosen_at[..] {
            h3 { "How the parts of a score are weighted" }
            p {
                "The weights are chosen by what followed " (metrics.chosen_at.len()) " instants before the test, the "
                "first of them " (day(first)) ". The search begins with the best ranking by one part and changes one "
                "weight at a time while NDCG@10 grows."
            }
            (table("Steps of the search", &head, &steps))
        }
    }
}

fn setting(id: &str, caption: &str, setting: &Setting) -> Markup {
    let head =
        ["ranked by", "NDCG@10", "this model's less it", "recall@10", "MRR", "coverage", "novelty"];
    let rankings: Vec<&Ranking> = setting.rankings.iter().chain(&setting.champion).collect();
    let rows = rankings.iter().map(|ranking| {
        vec![
            Cell::text(ranking.name.clone()),
            Cell::number(ranking.ndcg, 4),
            ranking.difference.as_ref().map_or(Cell::Empty, |found| {
                Cell::interval(found.difference, found.interval.low, found.interval.high)
            }),
            Cell::number(ranking.recall, 4),
            Cell::number(ranking.mrr, 4),
            Cell::percent(ranking.coverage),
            Cell::number(ranking.novelty, 2),
        ]
    });
    let names = rankings.iter().map(|ranking| ranking.name.clone()).collect();
    let values = rankings.iter().map(|ranking| ranking.ndcg).collect();
    let caption = format!("{caption}: {} customers", thousands(setting.customers as u64));
    let says = format!("NDCG@10 of each ranking. {caption}; the table below has the numbers.");
    html! {
        (Chart::new(&format!("ndcg-{id}"), &caption, "NDCG@10", "").lying("NDCG@10", BLUE, names, values).says(says).render())
        (table(&caption, &head, &rows.collect::<Vec<_>>()))
    }
}

/// Splits items, in the order of their popularity, into those whose names fit beside each other on the map
/// and the others.
fn apart(order: &[usize], places: &[[f64; 2]]) -> (Vec<usize>, Vec<usize>) {
    let range = |axis: usize| {
        let values = || order.iter().map(|item| places[*item][axis]);
        let (low, high) = (values().reduce(f64::min), values().reduce(f64::max));
        (high.unwrap_or(0.0) - low.unwrap_or(0.0)).max(f64::MIN_POSITIVE)
    };
    let ranges = [range(0), range(1)];
    let (mut named, mut others): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    for item in order {
        let far = |other: &usize| {
            let away =
                |axis: usize| (places[*item][axis] - places[*other][axis]).abs() / ranges[axis];
            away(0) > ROOM[0] || away(1) > ROOM[1]
        };
        let has_room = named.iter().all(far);
        if has_room { named.push(*item) } else { others.push(*item) }
    }
    (named, others)
}

fn map(model: &ItemFactors) -> Markup {
    let places = model.map();
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by(|a, b| model.popularity[*b].total_cmp(&model.popularity[*a]).then(a.cmp(b)));
    order.truncate(SHOWN);
    let (named, others) = apart(&order, &places);
    let points = |items: &[usize]| -> (Vec<f64>, Vec<f64>, Vec<String>) {
        let x = items.iter().map(|item| places[*item][0]).collect();
        let y = items.iter().map(|item| places[*item][1]).collect();
        (x, y, items.iter().map(|item| model.items[*item].clone()).collect())
    };
    let ((x, y, names), (x_others, y_others, other_names)) = (points(&named), points(&others));
    let rows = order.iter().map(|item| {
        vec![
            Cell::text(model.items[*item].clone()),
            Cell::count(model.holders[*item] as usize),
            Cell::number(places[*item][0], 3),
            Cell::number(places[*item][1], 3),
        ]
    });
    Chart::new("item-map", "Items that the same customers like are near each other", "", "")
        .tall()
        .with(
            Scatter::new(x_others, y_others)
                .name("others")
                .mode(Mode::Markers)
                .text_array(other_names)
                .marker(Marker::new().color(GREY).size(5)),
        )
        .with(
            Scatter::new(x, y)
                .name("named")
                .mode(Mode::MarkersText)
                .text_array(names)
                .text_position(Position::TopCenter)
                .marker(Marker::new().color(BLUE).size(7)),
        )
        .numbers(&["item", "customers", "first axis", "second axis"], rows.collect())
        .says(
            "A map of the items by the directions of their factors; the table has the places."
                .to_owned(),
        )
        .render()
}

fn model_card(artifact: &Artifact, model: &AffinityArtifact, metrics: &AffinityMetrics) -> Markup {
    let spec = &model.spec;
    let usual = "To predict what a customer is likely to want next, and how similar the affinities of customers are.";
    let [owner, intended] = card::head(&spec.card, usual);
    html! {
        (facts(&[
            owner,
            intended,
            ("trained as of", format!("{}, with what was known at {}", artifact.as_of, artifact.known_at)),
            ("an item", spec.item.clone()),
            ("look-back", format!("{}, weights halve in {}", spec.window, spec.half_life)),
            ("factors", format!("{}, L2 {}, confidence 1 + {} x weight, {} alternations, seed {}", spec.factors, spec.regularization, spec.alpha, spec.iterations, spec.seed)),
            ("score of an item", metrics.blend.to_string()),
            ("turned to", model.aligned_to.clone().unwrap_or_else(|| "no earlier version".to_owned())),
            ("data", artifact.data_fingerprint.clone()),
            ("spec", artifact.spec_fingerprint.clone()),
        ]))
        p {
            "Of each item the distribution of customers' scores is kept, so that a recommendation has a percentile "
            "within its item. What may be recommended (offer, top, repeat) is read from the project at every scoring."
        }
        (card::limits(&spec.card, &[
            "What customers were shown is not known, so that what is popular stays popular.",
            "An item that nobody has interacted with yet is never recommended.",
        ]))
    }
}

//! The index page of all versions and scoring runs of a store.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::chart::{BLUE, Chart, GREY, ORANGE};
use super::page::{Page, Section, day, page};
use crate::models::metrics::Metrics;
use crate::report::findings::{Findings, Level};
use crate::report::thousands;
use crate::scoring::summary::RunMetrics;
use crate::time::Instant;
use crate::training::affinity::{AffinityMetrics, Setting};
use crate::training::lifetime_value::LifetimeValueMetrics;
use crate::training::lifetime_value::holdout::Errors;

/// One version of a model, as a row of the index page.
#[derive(Debug, Clone)]
pub struct Version {
    /// The name of the model.
    pub model: String,
    /// The name of the version.
    pub version: String,
    /// The as-of of its training.
    pub as_of: Instant,
    /// Whether the version is the champion.
    pub champion: bool,
    /// Whether the version has a report.
    pub report: bool,
    /// The grade of the version, in a word.
    pub grade: String,
    /// The level of the worst finding on the version.
    pub level: Level,
    /// The results of the version's test.
    pub numbers: Vec<Number>,
}

/// A number that versions are compared by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Number {
    /// The name of the number.
    pub name: &'static str,
    /// The value; None if it could not be computed.
    pub value: Option<f64>,
    /// Whether the number is drawn over time.
    pub drawn: bool,
}

/// Creates the list of the drawn numbers followed by the others.
fn numbers<const D: usize, const N: usize>(
    drawn: [(&'static str, Option<f64>); D],
    others: [(&'static str, Option<f64>); N],
) -> Vec<Number> {
    let number = |drawn: bool| move |(name, value)| Number { name, value, drawn };
    drawn.into_iter().map(number(true)).chain(others.into_iter().map(number(false))).collect()
}

/// The numbers of a classifier on its own test snapshot.
pub fn of_classifier(metrics: &Metrics) -> Vec<Number> {
    numbers(
        [
            ("ROC AUC", Some(metrics.roc_auc)),
            ("average precision", Some(metrics.average_precision)),
            ("base rate", Some(metrics.positives as f64 / metrics.rows as f64)),
        ],
        [("Brier", Some(metrics.brier)), ("ECE", Some(metrics.ece))],
    )
}

/// The numbers of a lifetime value model on its holdout.
pub fn of_lifetime_value(metrics: &LifetimeValueMetrics) -> Vec<Number> {
    let holdout = metrics.holdout.as_ref();
    let model = |value: fn(&Errors) -> f64| holdout.map(|holdout| value(&holdout.model));
    let simple = holdout.and_then(|holdout| {
        holdout.baselines.iter().map(|errors| errors.spend_gini).reduce(f64::max)
    });
    numbers(
        [
            ("normalized Gini of spend", model(|errors| errors.spend_gini)),
            ("of the better baseline", simple),
            ("correlation of purchases", model(|errors| errors.purchases_correlation)),
        ],
        [
            ("error of all purchases", model(|errors| errors.purchases_error)),
            ("error of all spend", model(|errors| errors.spend_error)),
        ],
    )
}

/// The numbers of an affinity model on the interactions that followed its test instant.
pub fn of_affinity(metrics: &AffinityMetrics) -> Vec<Number> {
    let tested = metrics.tested.as_ref();
    let own = |setting: &Setting| setting.rankings.first().map(|ranking| ranking.ndcg);
    let simple = |setting: &Setting| setting.best_simple().map(|ranking| ranking.ndcg);
    numbers(
        [
            ("NDCG@10", tested.and_then(|tested| own(&tested.all))),
            ("of the best baseline", tested.and_then(|tested| simple(&tested.all))),
        ],
        [
            ("NDCG@10 of new items", tested.and_then(|tested| own(&tested.new))),
            ("of the best baseline, new", tested.and_then(|tested| simple(&tested.new))),
        ],
    )
}

/// Renders the whole file. Links are relative to the store's folder.
pub fn render(project: &str, versions: &[Version], runs: &[RunMetrics]) -> Page {
    let mut by_model: BTreeMap<&str, Vec<&Version>> = BTreeMap::new();
    for version in versions {
        by_model.entry(&version.model).or_default().push(version);
    }
    let models = html! {
        @if by_model.is_empty() { p { "No model is trained yet." } }
        @for (model, versions) in &by_model { (of_model(model, versions)) }
    };
    let sections = [
        Section { id: "models", title: "Models", body: models },
        Section { id: "runs", title: "Scoring runs", body: of_runs(runs) },
    ];
    page(&format!("{project}: models and runs"), "Every version and every scoring run", &sections)
}

fn of_model(model: &str, versions: &[&Version]) -> Markup {
    let mut versions = versions.to_vec();
    versions.sort_by(|a, b| a.as_of.cmp(&b.as_of).then_with(|| a.version.cmp(&b.version)));
    let at: Vec<String> = versions.iter().map(|version| day(version.as_of)).collect();
    let names = versions.last().map_or(&[][..], |version| version.numbers.as_slice());
    let value = |version: &Version, name: &str| {
        version.numbers.iter().find(|number| number.name == name)?.value
    };
    let title = format!("{model}: each version by its own test");
    let mut chart = Chart::new(&format!("over-time-{model}"), &title, "trained as of", "").legend();
    let drawn = names.iter().filter(|number| number.drawn);
    for (number, color) in drawn.zip([BLUE, ORANGE, GREY]) {
        let values = versions.iter().map(|v| value(v, number.name).unwrap_or(f64::NAN)).collect();
        chart = chart.series(number.name, color, at.clone(), values);
    }
    let has_numbers =
        |version: &&Version| version.numbers.iter().any(|number| number.value.is_some());
    let chart = chart
        .says(format!("Numbers of {} versions of {model}; the table has them.", versions.len()));
    html! {
        h3 { (model) }
        @if versions.iter().filter(|version| has_numbers(version)).count() > 1 { (chart.render()) }
        div.scroll tabindex="0" role="region" aria-label={ "Versions of " (model) } { table.sortable {
            caption { "Versions of " (model) }
            thead { tr {
                @for name in ["version", "in use", "verdict"].into_iter().chain(names.iter().map(|n| n.name)) {
                    th scope="col" { button type="button" { (name) } }
                }
            } }
            tbody { @for version in versions.iter().rev() { tr {
                td {
                    @if version.report {
                        a href={ "models/" (model) "/" (version.version) "/report.html" } { (version.version) }
                    } @else { (version.version) }
                }
                td { @if version.champion { "champion" } }
                td class=(version.level.name()) {
                    @if version.report { (version.level.name()) ": " (version.grade) }
                }
                @for number in names {
                    @match value(version, number.name) {
                        Some(value) => td.number data-value=(value) { (format!("{value:.4}")) },
                        None => td.number data-value="-1e9" { "–" },
                    }
                }
            } } }
        } }
    }
}

fn of_runs(runs: &[RunMetrics]) -> Markup {
    html! {
        @if runs.is_empty() { p { "Nothing is scored yet." } } @else {
            div.scroll tabindex="0" role="region" aria-label="Scoring runs" { table.sortable {
                caption { "Scoring runs, the latest first" }
                thead { tr { @for name in ["run", "as of", "findings", "customers", "changed primary segment"] {
                    th scope="col" { button type="button" { (name) } }
                } } }
                tbody { @for run in runs.iter().rev() { tr {
                    td {
                    a href={ "runs/" (run.run) "/report.html" } { (run.run) } ", "
                    a href={ "runs/" (run.run) "/segments.html" } { "segments" }
                }
                    td { (day(run.as_of)) }
                    @let level = Findings::of_run(run).level().name();
                    td class=(level) { (level) }
                    td.number data-value=(run.customers) { (thousands(run.customers as u64)) }
                    @let changed: usize = run.flows.iter()
                        .filter(|flow| flow.is_change())
                        .map(|flow| flow.customers).sum();
                    td.number data-value=(changed) { (thousands(changed as u64)) }
                } } }
            } }
        }
    }
}

//! The page over all versions and scoring runs of a store.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::chart::{BLUE, Chart, GREY, ORANGE};
use super::page::{Section, day, page};
use crate::report::thousands;
use crate::scoring::summary::RunMetrics;
use crate::time::Instant;
use crate::training::evaluation::metrics::Metrics;

/// One version of a classifier.
#[derive(Debug, Clone)]
pub struct Version {
    /// The model.
    pub model: String,
    /// The version.
    pub version: String,
    /// The as-of of its training.
    pub as_of: Instant,
    /// Whether it is in use.
    pub champion: bool,
    /// In a word.
    pub grade: String,
    /// On its test snapshot.
    pub metrics: Metrics,
}

/// The whole file; links are relative to the store's folder.
pub fn render(project: &str, versions: &[Version], runs: &[RunMetrics]) -> String {
    let mut by_model: BTreeMap<&str, Vec<&Version>> = BTreeMap::new();
    for version in versions {
        by_model.entry(&version.model).or_default().push(version);
    }
    let models = html! {
        @if by_model.is_empty() { p { "No classifier is trained yet." } }
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
    let of = |value: fn(&Metrics) -> f64| versions.iter().map(|v| value(&v.metrics)).collect();
    let chart = Chart::new(
        &format!("over-time-{model}"),
        &format!("{model}: metrics of each version on its own test snapshot"),
        "trained as of",
        "",
    )
    .legend()
    .series("ROC AUC", BLUE, at.clone(), of(|m| m.roc_auc))
    .series("average precision", ORANGE, at.clone(), of(|m| m.average_precision))
    .series("base rate", GREY, at, of(|m| m.positives as f64 / m.rows as f64))
    .says(format!("Metrics of {} versions of {model}; the table has the numbers.", versions.len()));
    html! {
        h3 { (model) }
        (chart.render())
        div.scroll tabindex="0" role="region" aria-label={ "Versions of " (model) } { table.sortable {
            caption { "Versions of " (model) }
            thead { tr { @for name in ["version", "in use", "grade", "ROC AUC", "average precision", "Brier", "ECE"] {
                th scope="col" { button type="button" { (name) } }
            } } }
            tbody { @for version in versions.iter().rev() { tr {
                td { a href={ "models/" (model) "/" (version.version) "/report.html" } { (version.version) } }
                td { @if version.champion { "champion" } }
                td { (version.grade) }
                @for value in [
                    version.metrics.roc_auc,
                    version.metrics.average_precision,
                    version.metrics.brier,
                    version.metrics.ece,
                ] { td.number data-value=(value) { (format!("{value:.4}")) } }
            } } }
        } }
    }
}

fn of_runs(runs: &[RunMetrics]) -> Markup {
    html! {
        @if runs.is_empty() { p { "Nothing is scored yet." } } @else {
            div.scroll tabindex="0" role="region" aria-label="Scoring runs" { table.sortable {
                caption { "Scoring runs, the latest first" }
                thead { tr { @for name in ["run", "as of", "customers", "changed primary segment"] {
                    th scope="col" { button type="button" { (name) } }
                } } }
                tbody { @for run in runs.iter().rev() { tr {
                    td { a href={ "runs/" (run.run) "/report.html" } { (run.run) } }
                    td { (day(run.as_of)) }
                    td.number data-value=(run.customers) { (thousands(run.customers as u64)) }
                    @let changed: usize = run.flows.iter()
                        .filter(|flow| flow.from != "new" && flow.from != flow.to)
                        .map(|flow| flow.customers).sum();
                    td.number data-value=(changed) { (thousands(changed as u64)) }
                } } }
            } }
        }
    }
}

//! The report of one version of a classifier: the verdict first, and then the evidence for it.

mod evaluation;
mod inputs;

use maud::{Markup, html};

use super::card;
use super::chart::{BLUE, Chart, GREY, ORANGE};
use super::page::{self, Cell, Page, Section, day, facts, page, table};
use crate::artifact::{Artifact, ClassifierArtifact, ResolvedEligible};
use crate::features::catalog::Definition;
use crate::models::metrics::Metrics;
use crate::report::findings::Findings;
use crate::report::thousands;
use crate::segments::{self, Cut, Segments};
use crate::spec::{LabelKind, SENSITIVE};
use crate::time::{Duration, Window};
use crate::training::evaluation::bootstrap::Interval;
use crate::training::metrics::ClassifierMetrics;

/// The greatest number of rows shown of long lists of terms, importance and drift.
const SHOWN: usize = 25;

/// The contents of a report. They do not depend on the clock, so that the same version gives the same file.
#[derive(Debug, Clone, Copy)]
pub struct ModelReport<'a> {
    /// The name of the project.
    pub project: &'a str,
    /// The artifact with its version and fingerprints.
    pub artifact: &'a Artifact,
    /// The classifier of the artifact.
    pub model: &'a ClassifierArtifact,
    /// The metrics of the version.
    pub metrics: &'a ClassifierMetrics,
    /// Where the rules of the project's segments cut the score.
    pub cuts: &'a [Cut],
}

/// Finds where the rules of segments cut the score of a classifier, as a score or as a percentile.
pub fn cuts(segments: &Segments, model: &ClassifierArtifact) -> Vec<Cut> {
    let field = model.spec.writes.as_str();
    segments::cuts(segments, &[field, &field.replace("_score", "_percentile")])
}

/// Renders the whole file.
pub fn render(report: &ModelReport) -> Page {
    let ModelReport { project, artifact, metrics, .. } = *report;
    let sections = [
        section("verdict", "Verdict", verdict(report)),
        section("windows", "What is predicted, and when", windows(report)),
        section("ranking", "Ranking", evaluation::ranking(metrics)),
        section("calibration", "Calibration", evaluation::calibration(report)),
        section("thresholds", "Thresholds", evaluation::thresholds(report)),
        section("inputs", "What moves the score", inputs::inputs(report)),
        section("slices", "Slices", evaluation::slices(metrics)),
        section("stability", "Stability over time", evaluation::stability(report)),
        section("matured", "Past scores and what happened", evaluation::matured(metrics)),
        section("drift", "Drift and leaks", inputs::drift(metrics)),
        section("events", "Events over time", inputs::events(metrics)),
        section("choices", "How it was chosen", choices(report)),
        section("card", "Model card", model_card(report)),
    ];
    let title = format!("{} {}", artifact.name, artifact.version);
    let subtitle = format!("{project}: {}", report.model.spec.description);
    page(&title, &subtitle, &sections)
}

fn section(id: &'static str, title: &'static str, body: Markup) -> Section {
    Section { id, title, body }
}

fn four(value: f64) -> String {
    format!("{value:.4}")
}

fn span(interval: &Interval) -> String {
    format!("95 % interval {:.4} to {:.4}", interval.low, interval.high)
}

fn verdict(report: &ModelReport) -> Markup {
    let metrics = report.metrics;
    let (test, intervals) = (&metrics.test.metrics, &metrics.test.intervals);
    let recency = metrics.baselines.iter().find(|baseline| baseline.name == "recency alone");
    let against = |value: fn(&Metrics) -> f64| {
        recency.map_or(String::new(), |r| format!("recency alone {:.4}", value(&r.metrics)))
    };
    let cards = [
        ("ROC AUC", four(test.roc_auc), span(&intervals.roc_auc), against(|m| m.roc_auc)),
        (
            "average precision",
            four(test.average_precision),
            span(&intervals.average_precision),
            against(|m| m.average_precision),
        ),
        ("Brier score", four(test.brier), span(&intervals.brier), against(|m| m.brier)),
        (
            "calibration error",
            four(test.ece),
            span(&intervals.ece),
            format!("chance stays below {:.4}", metrics.test.ece_by_chance),
        ),
        (
            "lift of the top tenth",
            format!("{:.2}", test.lift_10),
            format!("base rate {:.1} %", 100.0 * test.positives as f64 / test.rows as f64),
            against(|m| m.lift_10),
        ),
    ];
    let head = ["on the same test rows", "ROC AUC", "average precision", "Brier", "ECE"];
    let mut rows = vec![vec![
        Cell::text("this version"),
        Cell::number(test.roc_auc, 4),
        Cell::number(test.average_precision, 4),
        Cell::number(test.brier, 4),
        Cell::number(test.ece, 4),
    ]];
    let other = metrics.other_algorithm.as_ref();
    let others = metrics.baselines.iter().chain(other.map(|other| &other.comparison));
    for baseline in others {
        let m = &baseline.metrics;
        let cell = |value: f64, change: &crate::training::evaluation::bootstrap::Difference| {
            let Interval { low, high } = change.interval;
            let note = format!("ours {:+.4}, {low:+.4} to {high:+.4}", change.difference);
            Cell::Noted(value, four(value), note)
        };
        rows.push(vec![
            Cell::text(baseline.name.clone()),
            cell(m.roc_auc, &baseline.roc_auc),
            cell(m.average_precision, &baseline.average_precision),
            cell(m.brier, &baseline.brier),
            cell(m.ece, &baseline.ece),
        ]);
    }
    html! {
        (page::verdict(&format!("Grade: {}", metrics.grade.grade), &Findings::of_classifier(metrics)))
        ul.cards { @for (name, value, note, other) in &cards { li {
            span.name { (name) }
            span.value { (value) }
            span.note { (note) }
            span.note { (other) }
        } } }
        p.soft {
            "Test snapshot " (day(report.model.schedule.test)) ", scored once: "
            (test.rows) " customers, " (test.positives) " " (report.model.positive_class)
            ". Intervals are by drawing the customers again; differences are paired."
        }
        (table("Against what is simpler, earlier, or another algorithm", &head, &rows))
        h3 { "Gate" }
        ul { @for check in &metrics.gate.checks { li {
            @if check.passed { span.good { "✓ met" } } @else { span.bad { "✗ not met" } }
            ": " (check.asks) " — " (check.found)
        } } }
        @if let Some(other) = other {
            h3 { "The other algorithm" }
            p {
                "The other algorithm (" (other.configuration.describe()) ") has average precision "
                (four(other.comparison.metrics.average_precision)) " on the same rows; this version less the other: "
                (format!("{:+.4}", other.comparison.average_precision.difference)) " ("
                (span(&other.comparison.average_precision.interval)) "). It was fitted on "
                (thousands(other.fitted_on[1] as u64)) " rows, this version on "
                (thousands(other.fitted_on[0] as u64)) "."
            }
        }
    }
}

fn windows(report: &ModelReport) -> Markup {
    let (model, metrics) = (report.model, report.metrics);
    let label = &model.spec.label;
    let windows = model.definitions.iter().filter_map(|definition| match definition {
        Definition::Aggregation(aggregation) => Some(aggregation.window),
        Definition::Derived(_) => None,
    });
    let trailing = windows.clone().filter_map(|window| match window {
        Window::Trailing(length) => Some(length),
        Window::Lifetime => None,
    });
    let lookback = trailing.max().unwrap_or(Duration::days(90));
    let all_before = windows.clone().any(|window| window == Window::Lifetime);
    let seen = match all_before {
        true => format!("observation ({lookback}, and all before it)"),
        false => format!("observation ({lookback})"),
    };
    let mut chart = Chart::new(
        "windows-chart",
        "Observation, gap and outcome window of each snapshot",
        "",
        "",
    )
    .legend()
    .says(format!(
        "A line per snapshot on a time axis: events before the snapshot are seen, a gap of {} follows, outcomes count in the {} after it. The outcome windows of training snapshots end before the calibration snapshot, and that of the calibration snapshot ends before the test snapshot.",
        label.gap, label.horizon
    ));
    let parts = [(seen.as_str(), GREY), ("gap", ORANGE), ("outcome", BLUE)];
    let mut rows = Vec::new();
    for (number, (name, colour)) in parts.into_iter().enumerate() {
        // Each part is one series with breaks between the snapshots.
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for funnel in &metrics.funnel {
            let t = funnel.as_of;
            let ends =
                [t.minus(lookback), t, t.plus(label.gap), t.plus(label.gap).plus(label.horizon)];
            let row = format!("{} {}", funnel.used_for, day(t));
            x.extend([Some(day(ends[number])), Some(day(ends[number + 1])), None]);
            y.extend([Some(row.clone()), Some(row.clone()), None]);
            if number == 0 {
                rows.push(vec![
                    Cell::text(row),
                    Cell::text(day(ends[1])),
                    Cell::text(day(ends[2])),
                    Cell::text(day(ends[3])),
                ]);
            }
        }
        let line = plotly::common::Line::new().color(colour).width(9.0);
        chart = chart.with(
            plotly::Scatter::new(x, y).name(name).mode(plotly::common::Mode::Lines).line(line),
        );
    }
    let chart = chart.numbers(&["snapshot", "seen until", "gap until", "outcome until"], rows);
    let eligible = match &model.eligible {
        ResolvedEligible::Within(length) => format!("an event of the label's kind within {length}"),
        ResolvedEligible::Where(_) => model.spec.eligible.condition.clone().unwrap_or_default(),
    };
    let kind = match label.kind {
        LabelKind::Absence => "no event",
        LabelKind::Presence => "at least one event",
    };
    let head = ["snapshot", "used for", "customers", "eligible", "positives", "base rate"];
    let funnel: Vec<Vec<Cell>> = metrics
        .funnel
        .iter()
        .map(|row| {
            vec![
                Cell::text(day(row.as_of)),
                Cell::text(row.used_for.clone()),
                Cell::count(row.customers),
                Cell::count(row.eligible),
                Cell::count(row.positives),
                Cell::percent(row.base_rate),
            ]
        })
        .collect();
    html! {
        (facts(&[
            ("y = 1", format!("{}: {kind} where {}", model.positive_class, label.condition)),
            ("gap and horizon", format!("{} and {}", label.gap, label.horizon)),
            ("eligible", eligible),
        ]))
        (chart.render())
        (table("The funnel of each snapshot", &head, &funnel))
        @if let Some(truncation) = &metrics.truncation {
            @for sentence in truncation.sentences() { p { (sentence) } }
        }
    }
}

fn choices(report: &ModelReport) -> Markup {
    let metrics = report.metrics;
    let mut tried: Vec<_> = metrics.tried.iter().collect();
    tried.sort_by(|a, b| {
        let loss = |tried: &crate::training::selection::Tried| tried.log_loss.unwrap_or(f64::MAX);
        loss(a).total_cmp(&loss(b))
    });
    let folds: Vec<String> = tried
        .first()
        .map(|first| first.folds.iter().map(|fold| day(fold.as_of)).collect())
        .unwrap_or_default();
    let mut head = vec!["configuration", "mean log loss", "mean average precision", "mean ROC AUC"];
    head.extend(folds.iter().map(String::as_str));
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let values: Vec<f64> = values.collect();
        Cell::number(values.iter().sum::<f64>() / values.len() as f64, 4)
    };
    let rows: Vec<Vec<Cell>> = tried
        .iter()
        .map(|tried| {
            let ships = tried.configuration == report.model.configuration;
            let name = tried.configuration.describe();
            let mut cells = vec![
                Cell::text(if ships { format!("{name} — chosen") } else { name }),
                tried.log_loss.map_or(Cell::Empty, |loss| Cell::number(loss, 4)),
                mean(&mut tried.folds.iter().map(|fold| fold.average_precision)),
                mean(&mut tried.folds.iter().map(|fold| fold.roc_auc)),
            ];
            cells.extend(tried.folds.iter().map(|fold| Cell::number(fold.log_loss, 4)));
            cells
        })
        .collect();
    let shapes: Vec<Vec<Cell>> = metrics
        .shapes
        .iter()
        .map(|shape| {
            let loss = |name: &str| {
                let found = shape.log_loss.iter().find(|(other, _)| other == name);
                found.map_or(Cell::Empty, |(_, loss)| Cell::number(*loss, 4))
            };
            vec![
                Cell::text(shape.column.clone()),
                loss("simple"),
                loss("spline"),
                loss("bins"),
                Cell::text(shape.chosen.clone()),
            ]
        })
        .collect();
    html! {
        @if folds.is_empty() {
            p {
                "Nothing was chosen: no training snapshot's outcome had ended before another, so there is no fold. "
                "Inputs are simple, and penalty and trees are the middle ones of the spec: "
                (report.model.configuration.describe()) "."
            }
        } @else {
            p {
                "Every choice was made by folds inside training: each snapshot predicted from those whose "
                "outcomes had ended by then. The test snapshot had no say."
            }
            (table("Every configuration that was tried, with its log loss on each fold", &head, &rows))
        }
        @if !shapes.is_empty() && !folds.is_empty() { details {
            summary { "Shapes of single inputs" }
            (table("Mean log loss over the folds of each input alone", &["input", "simple", "spline", "bins", "chosen"], &shapes))
        } }
    }
}

fn model_card(report: &ModelReport) -> Markup {
    let ModelReport { artifact, model, .. } = *report;
    let sensitive: Vec<&str> = model.attributes().filter(|name| SENSITIVE.contains(name)).collect();
    let attributes: Vec<&str> = model.attributes().collect();
    let intended = format!(
        "To rank and reach eligible customers by the probability that they are {} in the {} that begin {} after scoring.",
        model.positive_class, model.spec.label.horizon, model.spec.label.gap
    );
    let definitions = serde_json::to_string(&model.definitions).unwrap_or_default();
    let definitions = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(definitions.as_bytes()));
    let card = &model.spec.card;
    let [owner, intended] = card::head(card, &intended);
    html! {
        (facts(&[
            owner,
            intended,
            ("trained as of", format!("{}, with what was known at {}", artifact.as_of, artifact.known_at)),
            ("chosen", model.configuration.describe()),
            ("inputs", format!("{} features as {} terms", model.preprocessing.inputs.len(), model.terms.len())),
            ("attributes as inputs", if attributes.is_empty() { "none".into() } else { attributes.join(", ") }),
            ("sensitive attributes as inputs", if sensitive.is_empty() { "none".into() } else { sensitive.join(", ") }),
            ("data fingerprint", artifact.data_fingerprint.clone()),
            ("spec fingerprint", artifact.spec_fingerprint.clone()),
            ("definitions fingerprint", definitions),
        ]))
        (card::limits(card, &[
            "Risk is not uplift: a high probability does not say that reaching the customer changes it. Keep a random control group that is not treated, and measure the difference.",
            "Not for decisions about credit, employment, housing or insurance, nor for prices of single customers.",
            "It is defined for the eligible only; others carry an observed rate or nothing, as the basis of the score says.",
            "Attributes are taken as they are today, not as they were at each snapshot.",
            "It has seen one market and one period; after a change of prices, assortment or tracking, train again and look at drift.",
        ]))
    }
}

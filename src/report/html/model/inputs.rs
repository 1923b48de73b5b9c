//! The inputs of a version: the sections on inputs, drift, leaks and events.

use maud::{Markup, html};

use super::super::chart::{BLUE, Chart, GREY, ORANGE};
use super::super::page::{Cell, day, table};
use super::{ModelReport, SHOWN, four};
use crate::features::drift::Verdict;
use crate::time::Duration;
use crate::training::metrics::{ClassifierMetrics, InputCurve};
use crate::training::skew::SUSPECT;

/// Renders the importance, the coefficients and the curves of the inputs.
pub fn inputs(report: &ModelReport) -> Markup {
    let metrics = report.metrics;
    let shown = || metrics.importance.iter().take(SHOWN);
    let importance = Chart::new(
        "importance",
        "Permutation importance: how much worse predictions get without a group of inputs",
        "rise of the log loss",
        "",
    )
    .tall()
    .lying(
        "log loss",
        BLUE,
        shown().map(|row| row.group.clone()).collect(),
        shown().map(|row| row.log_loss).collect(),
    )
    .says(format!(
        "The groups that matter most: {}.",
        shown().take(5).map(|row| row.group.as_str()).collect::<Vec<_>>().join(", ")
    ))
    .numbers(
        &["group", "rise of the log loss", "fall of average precision"],
        metrics
            .importance
            .iter()
            .map(|row| {
                vec![
                    Cell::text(row.group.clone()),
                    Cell::number(row.log_loss, 5),
                    Cell::number(row.average_precision, 5),
                ]
            })
            .collect(),
    );
    let shown = || metrics.coefficients.iter().take(SHOWN);
    let coefficients = Chart::new(
        "coefficients",
        "Penalized coefficients of standardized terms with 95 % intervals (customers as clusters; what the penalty shrinks and the choices add is not in them)",
        "added to the logit per standard deviation",
        "",
    )
    .tall()
    .dots(
        "coefficient",
        BLUE,
        shown().map(|row| row.term.clone()).collect(),
        &shown()
            .map(|row| (row.coefficient, row.interval.low, row.interval.high))
            .collect::<Vec<_>>(),
    )
    .says(format!(
        "The greatest coefficients: {}.",
        shown()
            .take(5)
            .map(|row| format!("{} {:+.3}", row.term, row.coefficient))
            .collect::<Vec<_>>()
            .join(", ")
    ))
    .numbers(
        &["term", "group", "coefficient"],
        metrics
            .coefficients
            .iter()
            .map(|row| {
                vec![
                    Cell::text(row.term.clone()),
                    Cell::text(row.group.clone()),
                    Cell::interval(row.coefficient, row.interval.low, row.interval.high),
                ]
            })
            .collect(),
    );
    html! {
        div.grid {
            (importance.render())
            @if !metrics.coefficients.is_empty() { (coefficients.render()) }
        }
        @if !metrics.curves.is_empty() {
            h3 { "What single inputs add to the logit, against the training mean" }
            p.soft { "Windows of one feature move together; read them as a group." }
            div.grid.small { @for (number, curve) in metrics.curves.iter().enumerate() {
                (input_curve(number, curve).render())
            } }
        }
        @if !metrics.dropped.is_empty() {
            details {
                summary { "Columns that were left out: " (metrics.dropped.len()) }
                ul { @for dropped in &metrics.dropped { li { (dropped.term) ": " (dropped.because) } } }
            }
        }
    }
}

fn input_curve(number: usize, curve: &InputCurve) -> Chart {
    let (first, last) = (curve.contribution.first(), curve.contribution.last());
    let chart = Chart::new(
        &format!("curve-{number}"),
        &format!("{} ({})", curve.column, curve.shape),
        "",
        "logit",
    )
    .says(format!(
        "Contribution of {} from {:+.3} at its least to {:+.3} at its greatest value; {:+.3} where it is missing.",
        curve.column,
        first.copied().unwrap_or_default(),
        last.copied().unwrap_or_default(),
        curve.missing
    ));
    if curve.levels.is_empty() {
        let points: Vec<[f64; 2]> =
            curve.value.iter().zip(&curve.contribution).map(|(x, y)| [*x, *y]).collect();
        chart.line(&curve.column, BLUE, &points)
    } else {
        chart.bars(&curve.column, BLUE, curve.levels.clone(), curve.contribution.clone())
    }
}

/// Renders the drift of the inputs and the leak suspects.
pub fn drift(metrics: &ClassifierMetrics) -> Markup {
    let moved = metrics.drift.iter().filter(|drift| drift.verdict != Verdict::Stable).count();
    let shown = || metrics.drift.iter().take(SHOWN);
    let chart = Chart::new(
        "drift-chart",
        "Population stability index of the test rows against training",
        "PSI",
        "",
    )
    .tall()
    .legend()
    .lying(
        "PSI",
        BLUE,
        shown().map(|row| row.column.clone()).collect(),
        shown().map(|row| row.psi).collect(),
    )
    .dots(
        "what chance exceeds once in a hundred",
        ORANGE,
        shown().map(|row| row.column.clone()).collect(),
        &shown().map(|row| (row.threshold, row.threshold, row.threshold)).collect::<Vec<_>>(),
    )
    .says(format!("{moved} of {} inputs have moved by more than chance.", metrics.drift.len()))
    .numbers(
        &["input", "PSI", "threshold", "verdict"],
        metrics
            .drift
            .iter()
            .map(|row| {
                vec![
                    Cell::text(row.column.clone()),
                    Cell::number(row.psi, 4),
                    Cell::number(row.threshold, 4),
                    Cell::text(row.verdict.name()),
                ]
            })
            .collect(),
    );
    html! {
        p {
            (moved) " of " (metrics.drift.len()) " inputs have moved by more than chance since training. "
            "Inputs over a lifetime or a year grow as the history does, until it is longer than they look back."
        }
        (chart.render())
        h3 { "Leak suspects" }
        @if metrics.leak_suspects.is_empty() {
            p { span.good { "✓ " } "No single input ranks the outcome with an area under the ROC curve above 0.95." }
        } @else {
            ul { @for suspect in &metrics.leak_suspects { li.bad {
                (suspect.column) " alone has " (four(suspect.roc_auc))
                ": does it know what happens after the snapshot?"
            } } }
        }
        (skew(metrics))
    }
}

/// Renders the inputs whose values differ now from those at scoring time.
fn skew(metrics: &ClassifierMetrics) -> Markup {
    let Some(skew) = &metrics.skew else {
        return html! {
            p.soft { "Nobody had been scored before this training, so inputs cannot be compared with what was served." }
        };
    };
    let head = ["input", "customers for whom it differs", "mean when served", "mean today"];
    let rows = skew.inputs.iter().take(SHOWN).map(|input| {
        vec![
            Cell::text(input.column.clone()),
            Cell::percent(input.share),
            Cell::number(input.served, 4),
            Cell::number(input.now, 4),
        ]
    });
    let rows: Vec<Vec<Cell>> = rows.collect();
    let suspects = skew.inputs.iter().filter(|input| input.share >= SUSPECT).count();
    let scored = day(skew.scored);
    html! {
        @if suspects == 0 {
            p { span.good { "✓ " } "Of " (skew.compared) " inputs of " (skew.customers)
                " customers none differs for one in a hundred between what scoring had on " (scored)
                " and what the events say of that day now." }
        } @else {
            p.bad { (suspects) " of " (skew.compared) " inputs differ between what scoring had on "
                (scored) " and what the events say of that day now: training sees what scoring could not know. "
                "Do events arrive late without ingested_at, or are they rewritten?" }
        }
        @if !rows.is_empty() { (table("Offline/online skew", &head, &rows)) }
    }
}

/// Renders the number of events over time, by type.
pub fn events(metrics: &ClassifierMetrics) -> Markup {
    const COLOURS: [&str; 9] =
        [BLUE, ORANGE, GREY, "#2e9e6b", "#b05bb5", "#c9a227", "#4aa3a2", "#c2544f", "#7a6fd0"];
    let history = &metrics.history;
    let points = history.events.first().map_or(0, |(_, counts)| counts.len());
    let at: Vec<String> = (0..points)
        .map(|i| day(history.from.plus(Duration::days(i as i64 * history.step))))
        .collect();
    let per = if history.step == 1 { "day".to_owned() } else { format!("{} days", history.step) };
    let mut chart = Chart::new("events-chart", &format!("Events per {per} by type"), "", "events")
        .legend()
        .says(format!(
            "Events per {per} since {}, a line per type: a gap here looks like churn.",
            day(history.from)
        ));
    for ((name, counts), colour) in history.events.iter().zip(COLOURS) {
        let y: Vec<f64> = counts.iter().map(|count| *count as f64).collect();
        let line = plotly::common::Line::new().color(colour).width(1.5);
        let trace = plotly::Scatter::new(at.clone(), y).name(name);
        chart = chart.with(trace.mode(plotly::common::Mode::Lines).line(line));
    }
    let total = |counts: &[u64]| counts.iter().sum::<u64>() as usize;
    let empty = |counts: &[u64]| counts.iter().filter(|count| **count == 0).count();
    let rows = history.events.iter().map(|(name, counts)| {
        vec![Cell::text(name.clone()), Cell::count(total(counts)), Cell::count(empty(counts))]
    });
    html! {
        p.soft { "A tracking outage looks like customers who have left: look for gaps before trusting a fall." }
        (chart.render())
        (table("Events by type", &["type", "events", "points without any"], &rows.collect::<Vec<_>>()))
    }
}

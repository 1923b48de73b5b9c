//! The report of one version of a classifier: the verdict first, then what it rests on.

use maud::{Markup, html};

use super::chart::{BLUE, Chart, GREY, ORANGE};
use super::page::{Cell, Section, day, facts, page, table};
use crate::models::spec::{LabelKind, SENSITIVE};
use crate::time::Duration;
use crate::training::artifact::{
    Artifact, ClassifierArtifact, ClassifierMetrics, InputCurve, ResolvedEligible,
};
use crate::training::evaluation::bootstrap::Interval;
use crate::training::evaluation::drift::Verdict;
use crate::training::evaluation::metrics::Metrics;
use crate::training::evaluation::tables::Gain;

/// Rows shown of long lists of terms, importance and drift.
const SHOWN: usize = 25;

/// What a report is made from; nothing of it knows a clock, so the same version gives the same file.
#[derive(Debug, Clone, Copy)]
pub struct ModelReport<'a> {
    /// The project's name.
    pub project: &'a str,
    /// Version, fingerprints.
    pub artifact: &'a Artifact,
    /// The classifier in it.
    pub model: &'a ClassifierArtifact,
    /// Its numbers.
    pub metrics: &'a ClassifierMetrics,
}

/// The whole file.
pub fn render(report: &ModelReport) -> String {
    let ModelReport { project, artifact, metrics, .. } = *report;
    let sections = [
        section("verdict", "Verdict", verdict(report)),
        section("windows", "What is predicted, and when", windows(report)),
        section("ranking", "Ranking", ranking(metrics)),
        section("calibration", "Calibration", calibration(report)),
        section("thresholds", "Thresholds", thresholds(report)),
        section("inputs", "What moves the score", inputs(report)),
        section("slices", "Slices", slices(metrics)),
        section("stability", "Stability over time", stability(metrics)),
        section("matured", "Past scores and what happened", matured(metrics)),
        section("drift", "Drift and leaks", drift(metrics)),
        section("events", "Events over time", events(metrics)),
        section("choices", "How it was chosen", choices(report)),
        section("card", "Model card", card(report)),
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
    let passed = metrics.gate.passed;
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
        div.verdict.failed[!passed] {
            strong { "Grade: " (metrics.grade.grade) }
            @if !passed { p.bad { "The gate was not passed: this version was not put in use." } }
            ul { @for sentence in &metrics.grade.sentences { li { (sentence) } } }
        }
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
            h3 { "What linearity costs" }
            p {
                "The other algorithm (" (other.configuration.describe()) ") has average precision "
                (four(other.comparison.metrics.average_precision)) " on the same rows; this version less the other: "
                (format!("{:+.4}", other.comparison.average_precision.difference)) " ("
                (span(&other.comparison.average_precision.interval)) ")."
            }
        }
    }
}

fn windows(report: &ModelReport) -> Markup {
    let (model, metrics) = (report.model, report.metrics);
    let label = &model.spec.label;
    let lookback = Duration::days(90);
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
    let parts = [("observation (last 90 days)", GREY), ("gap", ORANGE), ("outcome", BLUE)];
    let mut rows = Vec::new();
    for (number, (name, colour)) in parts.into_iter().enumerate() {
        // One series with breaks between the snapshots.
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
    }
}

fn ranking(metrics: &ClassifierMetrics) -> Markup {
    let test = &metrics.test;
    let base = test.metrics.positives as f64 / test.metrics.rows as f64;
    let roc = Chart::new("roc", "ROC curve", "false positive rate", "true positive rate")
        .within(Some([0.0, 1.0]), Some([0.0, 1.02]))
        .line("model", BLUE, &test.curves.roc)
        .reference("chance", &[[0.0, 0.0], [1.0, 1.0]])
        .says(format!("ROC curve; the area under it is {:.4}.", test.metrics.roc_auc));
    let precision = Chart::new("precision-recall", "Precision and recall", "recall", "precision")
        .within(Some([0.0, 1.0]), Some([0.0, 1.02]))
        .line("model", BLUE, &test.curves.precision_recall)
        .reference("base rate", &[[0.0, base], [1.0, base]])
        .says(format!(
            "Precision by recall; average precision {:.4}, base rate {base:.4}.",
            test.metrics.average_precision
        ));
    let tenth = |gain: &Gain| format!("{} %", 10 * gain.decile);
    let deciles: Vec<String> = test.gains.iter().map(tenth).collect();
    let lift =
        Chart::new("lift", "Lift by decile, highest scores first", "up to this share", "lift")
            .bars("lift", BLUE, deciles, test.gains.iter().map(|gain| gain.lift).collect())
            .says(format!(
                "The top tenth has {:.2} times the base rate, the last {:.2} times.",
                test.gains[0].lift,
                test.gains.last().map_or(f64::NAN, |gain| gain.lift)
            ))
            .numbers(
                &["decile", "rows", "positives", "predicted", "lift", "gain"],
                test.gains
                    .iter()
                    .map(|gain| {
                        vec![
                            Cell::count(gain.decile),
                            Cell::count(gain.rows),
                            Cell::count(gain.positives),
                            Cell::number(gain.predicted, 4),
                            Cell::number(gain.lift, 2),
                            Cell::percent(gain.gain),
                        ]
                    })
                    .collect(),
            );
    let points = test.gains.iter().map(|gain| [gain.decile as f64 / 10.0, gain.gain]);
    let points: Vec<[f64; 2]> = std::iter::once([0.0, 0.0]).chain(points).collect();
    let gains = Chart::new("gains", "Gains", "share of customers", "share of positives reached")
        .within(Some([0.0, 1.0]), Some([0.0, 1.02]))
        .line("model", BLUE, &points)
        .reference("at random", &[[0.0, 0.0], [1.0, 1.0]])
        .says(format!(
            "The three tenths with the highest scores hold {:.0} % of the positives.",
            100.0 * test.gains[2].gain
        ));
    html! { div.grid { (roc.render()) (precision.render()) (lift.render()) (gains.render()) } }
}

fn calibration(report: &ModelReport) -> Markup {
    let (metrics, model) = (report.metrics, report.model);
    let test = &metrics.test;
    let points: Vec<[f64; 2]> =
        test.reliability.iter().map(|bin| [bin.predicted, bin.observed]).collect();
    let top = points.iter().flatten().copied().fold(0.0, f64::max) * 1.08;
    let reliability = Chart::new(
        "reliability",
        "Reliability: ten bins of equal count",
        "mean predicted",
        "observed share",
    )
    .within(Some([0.0, top]), Some([0.0, top]))
    .reference("perfect", &[[0.0, 0.0], [top, top]])
    .with(
        plotly::Scatter::new(
            points.iter().map(|p| p[0]).collect(),
            points.iter().map(|p| p[1]).collect(),
        )
        .name("model")
        .mode(plotly::common::Mode::LinesMarkers)
        .line(plotly::common::Line::new().color(BLUE))
        .marker(plotly::common::Marker::new().color(BLUE).size(9)),
    )
    .says(format!(
        "Observed share by mean predicted probability; expected calibration error {:.4}.",
        test.metrics.ece
    ))
    .numbers(
        &["rows", "mean predicted", "observed"],
        test.reliability
            .iter()
            .map(|bin| {
                vec![
                    Cell::count(bin.rows),
                    Cell::number(bin.predicted, 4),
                    Cell::number(bin.observed, 4),
                ]
            })
            .collect(),
    );
    let from: Vec<String> = test.histogram.iter().map(|bar| format!("{:.2}", bar.from)).collect();
    let histogram = Chart::new(
        "histogram",
        "Probabilities of the test rows by outcome",
        "probability from",
        "customers",
    )
    .stacked()
    .legend()
    .bars(
        "y = 0",
        GREY,
        from.clone(),
        test.histogram.iter().map(|bar| bar.negatives as f64).collect(),
    )
    .bars("y = 1", ORANGE, from, test.histogram.iter().map(|bar| bar.positives as f64).collect())
    .says("How many customers have which probability, by what happened.".into())
    .numbers(
        &["from", "y = 0", "y = 1"],
        test.histogram
            .iter()
            .map(|bar| {
                let counts = [bar.negatives, bar.positives].map(Cell::count);
                std::iter::once(Cell::number(bar.from, 2)).chain(counts).collect()
            })
            .collect(),
    );
    let line = &test.calibration;
    html! {
        (facts(&[
            ("slope (1 is perfect)", format!("{:.3} ({})", line.slope, span(&line.slope_interval))),
            ("intercept (0 is perfect)", format!("{:+.3} ({})", line.intercept, span(&line.intercept_interval))),
            ("mean predicted, observed", format!(
                "{:.4}, {:.4}",
                test.metrics.mean_predicted,
                test.metrics.positives as f64 / test.metrics.rows as f64,
            )),
            ("tested", format!("{}, offset {:+.4}", model.tested.calibration.describe(), model.tested.offset)),
            ("shipped, refitted with the test rows", format!("{}, offset {:+.4}", model.shipped.calibration.describe(), model.shipped.offset)),
        ]))
        div.grid { (reliability.render()) (histogram.render()) }
    }
}

fn thresholds(report: &ModelReport) -> Markup {
    let rows = &report.metrics.test.thresholds;
    let spec = &report.model.spec.evaluation;
    let value = spec.benefit.is_some();
    let mut head = vec!["probability from", "share of customers", "precision", "recall"];
    if value {
        head.push("value per customer");
    }
    let cells = rows.iter().map(|row| {
        let mut cells = vec![
            Cell::number(row.probability, 2),
            Cell::percent(row.share),
            row.precision.map_or(Cell::Empty, Cell::percent),
            Cell::percent(row.recall),
        ];
        cells.extend(row.value.map(|value| Cell::number(value, 3)));
        cells
    });
    html! {
        @match (spec.benefit, spec.cost) {
            (Some(benefit), Some(cost)) => p {
                "Reaching a customer costs " (cost) " and brings " (benefit)
                " where y = 1; it pays for itself from a probability of " (format!("{:.3}", cost / benefit)) "."
            },
            _ => p.soft { "With benefit and cost under [evaluation] of the spec this table has the value of each threshold." },
        }
        (table("Taking everyone from a probability on", &head, &cells.collect::<Vec<_>>()))
    }
}

fn inputs(report: &ModelReport) -> Markup {
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
        "Coefficients of standardized terms with 95 % intervals (customers as clusters)",
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
                summary { (metrics.dropped.len()) " columns were left out" }
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

fn slices(metrics: &ClassifierMetrics) -> Markup {
    let known: Vec<_> = metrics
        .slices
        .iter()
        .filter_map(|slice| Some((slice, slice.metrics.as_ref()?)))
        .take(2 * SHOWN)
        .collect();
    let chart = Chart::new("slices-chart", "ROC AUC by slice with 95 % intervals", "ROC AUC", "")
        .tall()
        .dots(
            "ROC AUC",
            BLUE,
            known.iter().map(|(slice, _)| format!("{}: {}", slice.by, slice.level)).collect(),
            &known
                .iter()
                .map(|(_, m)| (m.roc_auc, m.roc_auc_interval.low, m.roc_auc_interval.high))
                .collect::<Vec<_>>(),
        )
        .says(
            "How well the model ranks within each slice; the table has the same and more.".into(),
        );
    let head =
        ["by", "slice", "rows", "predicted", "observed", "ROC AUC", "average precision", "ECE"];
    let rows: Vec<Vec<Cell>> = metrics
        .slices
        .iter()
        .map(|slice| {
            let mut cells = vec![
                Cell::text(slice.by.clone()),
                Cell::text(slice.level.clone()),
                Cell::count(slice.rows),
                Cell::number(slice.predicted, 4),
                Cell::number(slice.observed, 4),
            ];
            match &slice.metrics {
                Some(m) => {
                    let Interval { low, high } = m.roc_auc_interval;
                    cells.push(Cell::interval(m.roc_auc, low, high));
                    cells.push(Cell::number(m.average_precision, 4));
                    cells.push(Cell::number(m.ece, 4));
                }
                None => cells.extend([Cell::Empty, Cell::Empty, Cell::Empty]),
            }
            cells
        })
        .collect();
    html! {
        @if rows.is_empty() { p { "There is nothing to slice by." } } @else {
            (chart.render())
            (table("Metrics of test rows that share something; too few of a class give none", &head, &rows))
        }
    }
}

fn stability(metrics: &ClassifierMetrics) -> Markup {
    let rows = &metrics.stability;
    let at: Vec<String> = rows.iter().map(|row| day(row.as_of)).collect();
    let ranking = Chart::new("stability-chart", "Out of time, snapshot by snapshot", "", "")
        .legend()
        .series("ROC AUC", BLUE, at.clone(), rows.iter().map(|row| row.roc_auc).collect())
        .series(
            "average precision",
            ORANGE,
            at.clone(),
            rows.iter().map(|row| row.average_precision).collect(),
        )
        .series("base rate", GREY, at, rows.iter().map(|row| row.base_rate).collect())
        .says(format!(
            "ROC AUC from {:.4} to {:.4} over {} snapshots.",
            rows.iter().map(|row| row.roc_auc).fold(f64::MAX, f64::min),
            rows.iter().map(|row| row.roc_auc).fold(f64::MIN, f64::max),
            rows.len()
        ));
    let head = [
        "snapshot",
        "predicted as",
        "rows",
        "base rate",
        "ROC AUC",
        "average precision",
        "log loss",
    ];
    let cells: Vec<Vec<Cell>> = rows
        .iter()
        .map(|row| {
            vec![
                Cell::text(day(row.as_of)),
                Cell::text(row.predicted_as.clone()),
                Cell::count(row.rows),
                Cell::percent(row.base_rate),
                Cell::number(row.roc_auc, 4),
                Cell::number(row.average_precision, 4),
                Cell::number(row.log_loss, 4),
            ]
        })
        .collect();
    html! {
        p.soft {
            "A fold is predicted by the same configuration fitted on the snapshots before it, not yet calibrated; "
            "the calibration snapshot by a fit that has not seen it, and it has fitted the calibration; the test snapshot has fitted nothing."
        }
        (ranking.render())
        (table("Metrics of each snapshot", &head, &cells))
    }
}

fn matured(metrics: &ClassifierMetrics) -> Markup {
    if metrics.matured.is_empty() {
        return html! { p.soft {
            "No past scoring run's outcome window has closed yet. Here its predictions will stand beside what happened."
        } };
    }
    let at: Vec<String> = metrics.matured.iter().map(|row| day(row.scored)).collect();
    let share = |m: &Metrics| m.positives as f64 / m.rows as f64;
    let rows = || metrics.matured.iter().map(|row| &row.metrics);
    let chart = Chart::new(
        "matured-chart",
        "Mean predicted and what happened, by scored as-of",
        "",
        "share",
    )
    .legend()
    .series("mean predicted", BLUE, at.clone(), rows().map(|m| m.mean_predicted).collect())
    .series("what happened", ORANGE, at, rows().map(share).collect())
    .says("Mean predicted probability of past scoring runs beside the share that happened.".into());
    let head = [
        "scored",
        "version",
        "customers",
        "predicted",
        "happened",
        "ROC AUC",
        "average precision",
        "ECE",
    ];
    let cells: Vec<Vec<Cell>> = metrics
        .matured
        .iter()
        .map(|row| {
            let m = &row.metrics;
            vec![
                Cell::text(day(row.scored)),
                Cell::text(row.version.clone()),
                Cell::count(m.rows),
                Cell::number(m.mean_predicted, 4),
                Cell::number(share(m), 4),
                Cell::number(m.roc_auc, 4),
                Cell::number(m.average_precision, 4),
                Cell::number(m.ece, 4),
            ]
        })
        .collect();
    html! {
        (chart.render())
        (table("Every past scoring run whose outcome window has closed", &head, &cells))
    }
}

fn events(metrics: &ClassifierMetrics) -> Markup {
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

fn drift(metrics: &ClassifierMetrics) -> Markup {
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
        p {
            "Every choice was made by folds inside training: each snapshot predicted from those whose "
            "outcomes had ended by then. The test snapshot had no say."
        }
        (table("Every configuration that was tried, with its log loss on each fold", &head, &rows))
        @if !shapes.is_empty() { details {
            summary { "Shapes of single inputs" }
            (table("Mean log loss over the folds of each input alone", &["input", "simple", "spline", "bins", "chosen"], &shapes))
        } }
    }
}

fn card(report: &ModelReport) -> Markup {
    let ModelReport { artifact, model, .. } = *report;
    let sensitive: Vec<&str> = model.attributes().filter(|name| SENSITIVE.contains(name)).collect();
    let attributes: Vec<&str> = model.attributes().collect();
    let intended = format!(
        "To rank and reach eligible customers by the probability that they are {} in the {} that begin {} after scoring.",
        model.positive_class, model.spec.label.horizon, model.spec.label.gap
    );
    let definitions = serde_json::to_string(&model.definitions).unwrap_or_default();
    let definitions = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(definitions.as_bytes()));
    html! {
        (facts(&[
            ("intended use", intended),
            ("trained as of", format!("{}, with what was known at {}", artifact.as_of, artifact.known_at)),
            ("chosen", model.configuration.describe()),
            ("inputs", format!("{} features as {} terms", model.preprocessing.inputs.len(), model.terms.len())),
            ("attributes as inputs", if attributes.is_empty() { "none".into() } else { attributes.join(", ") }),
            ("sensitive attributes as inputs", if sensitive.is_empty() { "none".into() } else { sensitive.join(", ") }),
            ("data fingerprint", artifact.data_fingerprint.clone()),
            ("spec fingerprint", artifact.spec_fingerprint.clone()),
            ("definitions fingerprint", definitions),
        ]))
        h3 { "Limits" }
        ul {
            li { "Risk is not uplift: a high probability does not say that reaching the customer changes it. Keep a random control group that is not treated, and measure the difference." }
            li { "Not for decisions about credit, employment, housing or insurance, nor for prices of single customers." }
            li { "It is defined for the eligible only; others carry an observed rate or nothing, as score_basis says." }
            li { "Attributes are taken as they are today, not as they were at each snapshot." }
            li { "It has seen one market and one period; after a change of prices, assortment or tracking, train again and look at drift." }
        }
    }
}

//! The quality of a version: the sections on ranking, calibration, thresholds, slices and time.

use maud::{Markup, html};

use super::super::chart::{BLUE, Chart, GREY, ORANGE};
use super::super::page::{Cell, day, facts, table};
use super::{ModelReport, SHOWN, four, span};
use crate::artifact::Calibrated;
use crate::models::metrics::Metrics;
use crate::segments::Cut;
use crate::training::evaluation::bootstrap::Interval;
use crate::training::evaluation::tables::Gain;
use crate::training::evaluation::thresholds::{Recommended, Threshold};
use crate::training::metrics::ClassifierMetrics;

/// Renders the ROC curve, precision and recall, lift and gains.
pub fn ranking(metrics: &ClassifierMetrics) -> Markup {
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

/// Renders the reliability curve, the histogram, the slope and the intercept.
pub fn calibration(report: &ModelReport) -> Markup {
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
            ("mean predicted", match &metrics.expected_rate {
                Some(interval) => format!("{:.4} ({})", test.metrics.mean_predicted, span(interval)),
                None => four(test.metrics.mean_predicted),
            }),
            ("observed share", four(test.metrics.positives as f64 / test.metrics.rows as f64)),
            ("tested", calibrated(&model.tested)),
            ("shipped, refitted with the test rows", calibrated(&model.shipped)),
        ]))
        div.grid { (reliability.render()) (histogram.render()) }
    }
}

/// Describes a calibration with its offset.
fn calibrated(calibrated: &Calibrated) -> String {
    format!(
        "{}, offset {:+.3} (standard error {:.3})",
        calibrated.calibration.describe(),
        calibrated.offset,
        calibrated.offset_error,
    )
}

/// Renders the base rates from which that of the coming outcomes is forecast.
fn base_rates(report: &ModelReport) -> Markup {
    let rows = &report.metrics.base_rates;
    let shipped = &report.model.shipped;
    let at: Vec<String> = rows.iter().map(|row| day(row.as_of)).collect();
    let chart = Chart::new("base-rate-chart", "Base rate by snapshot", "", "share")
        .legend()
        .series("observed", ORANGE, at.clone(), rows.iter().map(|row| row.observed).collect())
        .series("model with the offset that ships", BLUE, at, rows.iter().map(|row| row.expected).collect())
        .says("The observed share of each snapshot beside what the model with the shipped offset expects.".into());
    let cells: Vec<Vec<Cell>> = rows
        .iter()
        .map(|row| {
            vec![
                Cell::text(day(row.as_of)),
                Cell::count(row.rows),
                Cell::percent(row.observed),
                Cell::percent(row.expected),
                Cell::text(format!("{:+.3} ± {:.3}", row.offset, row.error)),
            ]
        })
        .collect();
    let head = ["snapshot", "rows", "observed", "expected", "offset ± standard error"];
    html! {
        p {
            "The offset that ships is a forecast from the offsets of " (rows.len())
            " snapshots whose outcomes had ended: " (format!("{:+.3}", shipped.offset)) ", with a standard error of "
            (format!("{:.3}", shipped.offset_error)) " on the logit scale. "
            "The offset of a snapshot is what the calibrated logits lack for their mean to be the observed share."
        }
        @if rows.len() > 1 { (chart.render()) }
        (table("Base rate and offset of each snapshot", &head, &cells))
    }
}

/// The probabilities that the threshold table shows, beside the recommended one.
const SHOWN_THRESHOLDS: [f64; 11] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95];

/// Renders the recommended threshold, where segments cut, and the results of selecting every customer from a
/// probability upwards.
pub fn thresholds(report: &ModelReport) -> Markup {
    let test = &report.metrics.test;
    let is_shown = |row: &&Threshold| {
        let recommended = test.recommended.is_some_and(|r| r.probability == row.probability);
        recommended || SHOWN_THRESHOLDS.contains(&row.probability)
    };
    let rows: Vec<Vec<Cell>> =
        test.thresholds.iter().filter(is_shown).map(|row| threshold_cells(row).into()).collect();
    let head =
        ["probability from", "share of customers", "precision", "recall", "value per customer"];
    html! {
        (recommended(report))
        (cuts(report))
        (table("Taking everyone from a probability on", &head, &rows))
    }
}

fn threshold_cells(row: &Threshold) -> [Cell; 5] {
    [
        Cell::number(row.probability, 3),
        Cell::percent(row.share),
        row.precision.map_or(Cell::Empty, Cell::percent),
        Cell::percent(row.recall),
        row.value.map_or(Cell::Empty, |value| Cell::number(value, 3)),
    ]
}

/// What is below a threshold: the rest of the rows and of the positives.
fn below(row: &Threshold, all: &Metrics) -> Threshold {
    let base = all.positives as f64 / all.rows as f64;
    let (share, recall) = (1.0 - row.share, 1.0 - row.recall);
    let precision = (share > 0.0).then(|| base * recall / share);
    Threshold { probability: row.probability, share, precision, recall, value: None }
}

fn recommended(report: &ModelReport) -> Markup {
    let spec = &report.model.spec.evaluation;
    let (Some(benefit), Some(cost), Some(recommended)) =
        (spec.benefit, spec.cost, &report.metrics.test.recommended)
    else {
        return html! { p.soft {
            "Set benefit and cost under [evaluation] of the spec, and a threshold is recommended here: what reaching a "
            "customer brings if y = 1, and what reaching any customer costs."
        } };
    };
    let Recommended { probability, value, value_interval, everybody, best, best_interval } =
        recommended;
    let confirmed = match best_interval.contains(*probability) {
        true => "The data cannot tell the two apart.",
        false => {
            "The probabilities are off near the threshold; look at the calibration before you use it."
        }
    };
    html! {
        p {
            strong { "Recommended: reach customers from a probability of " (format!("{probability:.3}")) " on. " }
            "Reaching a customer costs " (cost) " and brings " (benefit) " where y = 1, so it pays for itself from cost / benefit. "
            "On the test snapshot this is worth " (format!("{value:.3}")) " per eligible customer ("
            (span(value_interval)) "); reaching everybody would be worth " (format!("{everybody:.3}")) ". "
            "The threshold that turned out best there is " (format!("{best:.3}")) " (" (span(best_interval)) "). "
            (confirmed)
        }
        @if benefit <= cost { p.bad { "The benefit does not exceed the cost: nobody is worth reaching." } }
    }
}

/// Renders where the rules of segments cut the score.
fn cuts(report: &ModelReport) -> Markup {
    let test = &report.metrics.test;
    let rows = &test.thresholds;
    let percentile = |cut: &Cut| cut.column.ends_with("_percentile");
    // A percentile is a share of all customers, a score is a probability.
    let nearest = |cut: &Cut| {
        let off = |row: &&Threshold| match percentile(cut) {
            true => (row.share - (1.0 - cut.at / 100.0)).abs(),
            false => (row.probability - cut.at).abs(),
        };
        rows.iter().min_by(|a, b| off(a).total_cmp(&off(b)))
    };
    // Rules with the same number share a row.
    let same = |a: &Cut, b: &Cut| a.column == b.column && a.at == b.at && a.above == b.above;
    let mut groups: Vec<(&Cut, Vec<String>)> = Vec::new();
    for cut in report.cuts {
        let name = format!("{} ({})", cut.segment, cut.part);
        match groups.iter_mut().find(|(known, _)| same(known, cut)) {
            Some((_, names)) => names.push(name),
            None => groups.push((cut, vec![name])),
        }
    }
    let cells: Vec<Vec<Cell>> = groups
        .into_iter()
        .filter_map(|(cut, names)| {
            let side = if cut.above { "from" } else { "below" };
            let own = [format!("{} {side} {}", cut.column, cut.at), names.join(", ")];
            let row = nearest(cut)?;
            let row = if cut.above { row.clone() } else { below(row, &test.metrics) };
            Some(own.map(Cell::Text).into_iter().chain(threshold_cells(&row)).collect())
        })
        .collect();
    if cells.is_empty() {
        return html! { p.soft { "No segment rule compares this score with a number." } };
    }
    let head = [
        "rules take",
        "segments",
        "probability",
        "share of customers",
        "precision",
        "recall",
        "value per customer",
    ];
    table("Where segments cut, by the nearest hundredth on the test snapshot", &head, &cells)
}

/// Renders the metrics of slices, which are test rows with a level in common.
pub fn slices(metrics: &ClassifierMetrics) -> Markup {
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
    let head = [
        "by",
        "slice",
        "rows",
        "predicted",
        "observed",
        "ROC AUC",
        "average precision",
        "ECE",
        "ECE by chance, below",
    ];
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
                    let chance = m.ece_by_chance.map(|chance| Cell::number(chance, 4));
                    cells.push(chance.unwrap_or(Cell::Empty));
                }
                None => cells.extend([Cell::Empty, Cell::Empty, Cell::Empty, Cell::Empty]),
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

/// Renders the metrics of each snapshot of the backtest.
pub fn stability(report: &ModelReport) -> Markup {
    let metrics = report.metrics;
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
        "ECE",
        "slope",
        "intercept",
    ];
    let known =
        |value: Option<f64>, decimals| value.map_or(Cell::Empty, |v| Cell::number(v, decimals));
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
                known(row.log_loss, 4),
                known(row.ece, 4),
                known(row.slope, 2),
                known(row.intercept, 2),
            ]
        })
        .collect();
    html! {
        p.soft {
            "A backtest: each snapshot is predicted by what was chosen, fitted on snapshots whose outcomes had ended by then "
            "and calibrated by those that were predicted before it; the first has none to calibrate it. "
            "The folds have had a say in the choice, the test snapshot in nothing."
        }
        @if rows.len() > 1 { (ranking.render()) }
        (table("Metrics of each snapshot", &head, &cells))
        @if !metrics.base_rates.is_empty() { (base_rates(report)) }
    }
}

/// Renders past predictions beside the outcomes.
pub fn matured(metrics: &ClassifierMetrics) -> Markup {
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
        @if metrics.matured.len() > 1 { (chart.render()) }
        (table("Every past scoring run whose outcome window has closed", &head, &cells))
    }
}

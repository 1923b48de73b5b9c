//! Versions of models as text.

use super::{Table, thousands};
use crate::training::artifact::{ClassifierArtifact, ClassifierMetrics, ResolvedEligible};
use crate::training::evaluation::bootstrap::Interval;

/// Coefficients shown at most.
const SHOWN: usize = 20;

fn number(value: f64) -> String {
    format!("{value:.4}")
}

/// Verdict, funnel, test metrics and baselines of one classifier.
pub fn describe(name: &str, version: &str, metrics: &ClassifierMetrics) -> String {
    let mut text = format!("{name} {version}: {}\n", metrics.grade.grade);
    for sentence in &metrics.grade.sentences {
        text += &format!("  {sentence}\n");
    }
    let mut funnel =
        Table::new(&["snapshot", "used for", "customers", "eligible", "positives", "base rate"]);
    for row in &metrics.funnel {
        funnel.row([
            row.as_of.folder(),
            row.used_for.clone(),
            thousands(row.customers as u64),
            thousands(row.eligible as u64),
            thousands(row.positives as u64),
            number(row.base_rate),
        ]);
    }
    let evaluation = &metrics.test;
    let (test, intervals) = (&evaluation.metrics, &evaluation.intervals);
    let mut head = vec!["on the test snapshot", "model", "95 % interval"];
    head.extend(metrics.baselines.iter().map(|baseline| baseline.name.as_str()));
    let other = metrics.other_algorithm.as_ref();
    head.extend(other.map(|_| "other algorithm"));
    let mut table = Table::new(&head);
    let others = || {
        let baselines = metrics.baselines.iter().map(|baseline| &baseline.metrics);
        baselines.chain(other.map(|other| &other.comparison.metrics))
    };
    let span = |interval: &Interval| format!("{:.4} to {:.4}", interval.low, interval.high);
    let mut row = |name: &str, value: fn(&Metrics) -> f64, interval: Option<&Interval>| {
        let mut cells = vec![name.to_owned(), number(value(test))];
        cells.push(interval.map_or("-".into(), span));
        cells.extend(others().map(|metrics| number(value(metrics))));
        table.row(cells);
    };
    use crate::training::evaluation::metrics::Metrics;
    row("ROC AUC", |m| m.roc_auc, Some(&intervals.roc_auc));
    row("average precision", |m| m.average_precision, Some(&intervals.average_precision));
    row("lift at 10 %", |m| m.lift_10, None);
    row("log loss", |m| m.log_loss, Some(&intervals.log_loss));
    row("Brier", |m| m.brier, Some(&intervals.brier));
    row("ECE", |m| m.ece, Some(&intervals.ece));
    row("mean predicted", |m| m.mean_predicted, None);
    row("observed", |m| m.positives as f64 / m.rows as f64, None);
    text += &format!("\n{}\n{}", funnel.render(), table.render());
    if let Some(other) = other {
        let change = &other.comparison.average_precision;
        text += &format!(
            "the other algorithm ({}): average precision of the model less its own {:+.4} ({})\n",
            other.configuration.describe(),
            change.difference,
            span(&change.interval)
        );
    }
    for check in &metrics.gate.checks {
        let met = if check.passed { "met" } else { "not met" };
        text += &format!("gate, {met}: {}: {}\n", check.asks, check.found);
    }
    text
}

/// What a version is made of: who is eligible, what was chosen, the greatest coefficients.
pub fn makeup(model: &ClassifierArtifact, metrics: &ClassifierMetrics) -> String {
    let eligible = match &model.eligible {
        ResolvedEligible::Within(length) => format!("the label's event within {length}"),
        ResolvedEligible::Where(_) => model.spec.eligible.condition.clone().unwrap_or_default(),
    };
    let mut text = format!(
        "positive class: {}\neligible: {eligible}\nchosen: {}\ncalibration: {}, offset {:.4}\n",
        model.positive_class,
        model.configuration.describe(),
        model.shipped.calibration.describe(),
        model.shipped.offset,
    );
    let mut table = Table::new(&["term (standardized)", "coefficient", "95 % interval"]);
    for coefficient in metrics.coefficients.iter().take(SHOWN) {
        let Interval { low, high } = coefficient.interval;
        table.row([
            coefficient.term.clone(),
            number(coefficient.coefficient),
            format!("{low:.4} to {high:.4}"),
        ]);
    }
    if !metrics.coefficients.is_empty() {
        text += &format!("\n{}", table.render());
    }
    let more = metrics.coefficients.len().saturating_sub(SHOWN);
    if more > 0 {
        text += &format!("… and {more} smaller ones in metrics.json\n");
    }
    for dropped in &metrics.dropped {
        text += &format!("left out: {}, {}\n", dropped.term, dropped.because);
    }
    text
}

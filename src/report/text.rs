//! Text about versions of models, and about the contributions to one customer's score.

use super::findings::Findings;
use super::{Table, thousands};
use crate::artifact::{ClassifierArtifact, ResolvedEligible};
use crate::scoring::waterfall::Waterfall;
use crate::training::affinity::AffinityMetrics;
use crate::training::evaluation::bootstrap::Interval;
use crate::training::lifetime_value::LifetimeValueMetrics;
use crate::training::metrics::ClassifierMetrics;
use crate::training::truncation::Truncation;

/// The greatest number of coefficients shown.
const SHOWN: usize = 20;

/// The greatest number of steps shown of a waterfall, and the least contribution of a step that is shown.
const STEPS: usize = 25;
const LEAST_STEP: f64 = 0.005;
/// The widths of a waterfall's axis and of the values of one group, in characters.
const AXIS: usize = 40;
const VALUES: usize = 60;

fn number(value: f64) -> String {
    format!("{value:.4}")
}

/// Renders the verdict, the funnel, the test metrics and the baselines of one classifier.
pub fn describe(name: &str, version: &str, metrics: &ClassifierMetrics) -> String {
    let mut text = format!("{name} {version}: {}\n", metrics.grade.grade);
    text += &Findings::of_classifier(metrics).text();
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
    use crate::models::metrics::Metrics;
    row("ROC AUC", |m| m.roc_auc, Some(&intervals.roc_auc));
    row("average precision", |m| m.average_precision, Some(&intervals.average_precision));
    row("lift at 10 %", |m| m.lift_10, None);
    row("log loss", |m| m.log_loss, Some(&intervals.log_loss));
    row("Brier", |m| m.brier, Some(&intervals.brier));
    row("ECE", |m| m.ece, Some(&intervals.ece));
    row("mean predicted", |m| m.mean_predicted, metrics.expected_rate.as_ref());
    row("observed", |m| m.positives as f64 / m.rows as f64, None);
    text += &format!("\n{}", funnel.render());
    for sentence in metrics.truncation.iter().flat_map(Truncation::sentences) {
        text += &format!("{sentence}\n");
    }
    text += &format!("\n{}", table.render());
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

/// Renders the fits and the holdout of a lifetime value model.
pub fn lifetime_value(name: &str, version: &str, metrics: &LifetimeValueMetrics) -> String {
    let buyers = thousands(metrics.customers as u64);
    let mut text = format!("{name} {version}: {} over {buyers} buyers\n", metrics.method());
    text += &Findings::of_lifetime_value(metrics).text();
    let mut fits = Table::new(&["fit", "parameter", "value", "standard error", "log-likelihood"]);
    for (what, parameters, fit) in metrics.fits() {
        for (i, parameter) in parameters.iter().enumerate() {
            let error = fit.standard_errors.as_ref().map(|errors| number(errors[i]));
            let likelihood = format!("{:.2}", fit.log_likelihood);
            fits.row([
                if i == 0 { what.clone() } else { String::new() },
                parameter.clone(),
                number(fit.parameters[i]),
                error.unwrap_or_else(|| "-".to_owned()),
                if i == 0 { likelihood } else { String::new() },
            ]);
        }
    }
    if !metrics.purchasing.is_empty() || metrics.spend.is_some() {
        text += &format!("\n{}", fits.render());
    }
    if let Some(holdout) = &metrics.holdout {
        let mut table = Table::new(&[
            "on the holdout",
            "purchases",
            "MAE",
            "correlation",
            "spend",
            "MAE of spend",
            "normalized Gini",
        ]);
        let happened = ["what happened".to_owned(), format!("{:.0}", holdout.purchases)];
        let none = || "-".to_owned();
        let spend = format!("{:.0}", holdout.spend);
        table.row(happened.into_iter().chain([none(), none(), spend, none(), none()]));
        let others = holdout.parts.iter().chain(&holdout.baselines);
        for errors in [&holdout.model].into_iter().chain(others) {
            table.row([
                errors.name.clone(),
                format!("{:.0}", errors.purchases),
                number(errors.purchases_mae),
                number(errors.purchases_correlation),
                format!("{:.0}", errors.spend),
                format!("{:.2}", errors.spend_mae),
                number(errors.spend_gini),
            ]);
        }
        text += &format!("\n{}", table.render());
    }
    text
}

/// Renders the size of an affinity model and how well it predicts the next interactions of customers.
pub fn affinity(name: &str, version: &str, metrics: &AffinityMetrics) -> String {
    let mut text = format!(
        "{name} {version}: {} items of {} customers\n",
        thousands(metrics.items as u64),
        thousands(metrics.customers as u64),
    );
    text += &Findings::of_affinity(metrics).text();
    let Some(tested) = &metrics.tested else { return text };
    for (what, setting) in [("all items", &tested.all), ("new to the customer", &tested.new)] {
        let head = format!("{what}, {} customers", thousands(setting.customers as u64));
        let mut table = Table::new(&[
            &head,
            "NDCG@10",
            "95 % interval of the model's less it",
            "recall@10",
            "MRR",
            "coverage",
            "novelty",
        ]);
        for ranking in setting.rankings.iter().chain(&setting.champion) {
            table.row([
                ranking.name.clone(),
                number(ranking.ndcg),
                ranking.difference.as_ref().map_or_else(
                    || "-".to_owned(),
                    |found| format!("{:+.4} to {:+.4}", found.interval.low, found.interval.high),
                ),
                number(ranking.recall),
                number(ranking.mrr),
                number(ranking.coverage),
                format!("{:.2}", ranking.novelty),
            ]);
        }
        text += &format!("\n{}", table.render());
    }
    text
}

/// Renders the definition of a version: eligibility, chosen configuration, calibration and greatest
/// coefficients.
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

/// Renders the path from the mean of the training rows to one customer's logit, with a bar for each step. A
/// full bar raises the score, and a shaded bar lowers it.
pub fn waterfall(waterfall: &Waterfall) -> String {
    let shown = |contribution: f64| contribution.abs() >= LEAST_STEP;
    let count = waterfall.steps.iter().filter(|step| shown(step.contribution)).count().min(STEPS);
    let (steps, rest) = waterfall.steps.split_at(count);
    let mut lines: Vec<(f64, String)> = steps
        .iter()
        .map(|step| {
            let values = step.values.iter().map(|(column, value)| {
                let window = column.strip_prefix(&format!("{}_", step.feature));
                let value = value.as_deref().unwrap_or("missing");
                window.map_or_else(|| value.to_owned(), |window| format!("{window}: {value}"))
            });
            let mut values = values.collect::<Vec<_>>().join(", ");
            if values.chars().count() > VALUES {
                values = values.chars().take(VALUES - 1).chain(['…']).collect();
            }
            (step.contribution, format!("{}  {values}", step.feature).trim_end().to_owned())
        })
        .collect();
    if !rest.is_empty() {
        let sum = rest.iter().map(|step| step.contribution).sum();
        lines.push((sum, format!("{} others together", rest.len())));
    }
    let mut levels = vec![waterfall.base];
    for (contribution, _) in &lines {
        levels.push(levels[levels.len() - 1] + contribution);
    }
    let low = levels.iter().copied().fold(f64::INFINITY, f64::min);
    let high = levels.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let span = (high - low).max(1e-9);
    let place = |level: f64| ((level - low) / span * (AXIS - 1) as f64).round() as usize;
    let line = |number: &str, from: usize, to: usize, mark: char, label: &str| {
        let bar: String = std::iter::repeat_n(mark, to - from + 1).collect();
        let bar = " ".repeat(from) + &bar;
        format!("    {number:>7} {bar:AXIS$}  {label}\n")
    };
    let end = |level: f64, probability: f64, label: &str| {
        let label = format!("{label}, probability {probability:.4}");
        line(&format!("{level:.3}"), place(level), place(level), '|', &label)
    };
    let mut text = end(waterfall.base, waterfall.base_probability, "mean of the training rows");
    for ((contribution, label), level) in lines.iter().zip(levels.windows(2)) {
        let (a, b) = (place(level[0]), place(level[1]));
        let mark = if *contribution < 0.0 { '░' } else { '█' };
        text += &line(&format!("{contribution:+.3}"), a.min(b), a.max(b), mark, label);
    }
    text + &end(waterfall.raw, waterfall.probability, "this customer")
}

//! The findings on a version or a run, in sentences. Each has a level, and the worst one is that of the whole.

use serde::Serialize;

use super::thousands;
use crate::features::drift::{Drift, Verdict};
use crate::scoring::summary::RunMetrics;
use crate::sources::contract::Status;
use crate::training::affinity::{AffinityMetrics, Setting};
use crate::training::lifetime_value::LifetimeValueMetrics;
use crate::training::lifetime_value::holdout::{Errors, Holdout};
use crate::training::metrics::ClassifierMetrics;
use crate::training::promotion::Gate;

/// The share of a model's inputs above which their drift is many inputs'.
const MANY: f64 = 0.1;
/// The error of all spend above which a reader must know of it.
const WRONG_TOTAL: f64 = 0.1;

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing needs to be done.
    Good,
    /// Somebody should look at it.
    Caution,
    /// A version must not be used, or a run must not be trusted.
    Bad,
}

impl Level {
    /// The name of the level, which is also its class in HTML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Caution => "caution",
            Self::Bad => "bad",
        }
    }
}

/// One finding in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How good it is.
    pub level: Level,
    /// The sentence.
    pub text: String,
}

impl Finding {
    fn new(level: Level, text: impl Into<String>) -> Self {
        Self { level, text: text.into() }
    }
}

/// All findings on a version or a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// The level of the worst finding.
    pub fn level(&self) -> Level {
        self.0.iter().map(|finding| finding.level).max().unwrap_or(Level::Good)
    }

    /// Renders each finding as a line of text. A level other than good is named before it.
    pub fn text(&self) -> String {
        let line = |Finding { level, text }: &Finding| match level {
            Level::Good => format!("  {text}\n"),
            level => format!("  {}: {text}\n", level.name()),
        };
        self.0.iter().map(line).collect()
    }

    /// The findings on a version of a classifier.
    pub fn of_classifier(metrics: &ClassifierMetrics) -> Self {
        let mut list: Vec<Finding> = of_gate(&metrics.gate).into_iter().collect();
        let recency = metrics.baselines.iter().find(|baseline| baseline.name == "recency alone");
        let ranking = match recency.map(|recency| &recency.average_precision) {
            Some(gain) if gain.interval.low > 0.0 => Level::Good,
            Some(gain) if gain.difference <= 0.0 => Level::Bad,
            _ => Level::Caution,
        };
        let calibration = match metrics.grade.grade.contains("miscalibrated") {
            true => Level::Caution,
            false => Level::Good,
        };
        // The sentences of a grade are about the ranking, the calibration, the champion and the choices.
        let levels = [ranking, calibration].into_iter().chain(std::iter::repeat(Level::Good));
        let sentences = levels.zip(&metrics.grade.sentences);
        list.extend(sentences.map(|(level, sentence)| Finding::new(level, sentence)));
        list.extend(of_drift(&metrics.drift, "between the training and the test snapshots"));
        Self(list)
    }

    /// The findings on a version of lifetime value.
    pub fn of_lifetime_value(metrics: &LifetimeValueMetrics) -> Self {
        let mut list: Vec<Finding> = metrics.gate.iter().filter_map(of_gate).collect();
        if let Some(holdout) = &metrics.holdout {
            list.push(of_totals(holdout));
            list.extend(holdout.baselines.iter().map(|other| beside(&holdout.model, other)));
        }
        list.extend(metrics.lesson.as_ref().map(|lesson| {
            Finding::new(
                Level::Good,
                format!(
                    "The hurdle model over features has a weight of {} in the prediction, chosen by what {} buyers did between {} and {}.",
                    lesson.weight,
                    thousands(lesson.customers as u64),
                    lesson.at.folder(),
                    lesson.until.folder()
                ),
            )
        }));
        if metrics.holdout.is_some() && metrics.lesson.is_none() {
            list.push(Finding::new(
                Level::Good,
                "No hurdle model corrects the prediction, because the history is too short, or too few customers purchased, to learn one and to test it.",
            ));
        }
        let warnings = metrics.warnings.iter();
        list.extend(warnings.map(|warning| Finding::new(Level::Caution, warning)));
        Self(list)
    }

    /// The findings on a version of affinity.
    pub fn of_affinity(metrics: &AffinityMetrics) -> Self {
        let mut list: Vec<Finding> = of_gate(&metrics.gate).into_iter().collect();
        if let Some(tested) = &metrics.tested {
            list.extend(of_ranking("Of all items", &tested.all));
            list.extend(of_ranking("Of items new to the customer", &tested.new));
        }
        let chosen = match metrics.chosen_at.first() {
            Some(first) => {
                format!("The weights are those that best predicted what followed {first}")
            }
            None => "The weights could not be chosen by past interactions".to_owned(),
        };
        let blend = format!("The score of an item is {}. {chosen}.", metrics.blend);
        list.push(Finding::new(Level::Good, blend));
        list.extend(metrics.aligned.as_ref().map(|(version, near)| {
            Finding::new(
                Level::Good,
                format!(
                    "Its vectors were rotated to those of {version}: over {} items the mean cosine went from {:.2} to {:.2}.",
                    near.items, near.before, near.after
                ),
            )
        }));
        Self(list)
    }

    /// The findings on a scoring run.
    pub fn of_run(metrics: &RunMetrics) -> Self {
        let mut list = Vec::new();
        if metrics.previous.is_some() {
            let moved = |drift: &Drift| drift.verdict != Verdict::Stable;
            let models = metrics.models.iter().filter(|m| m.moved.as_ref().is_some_and(moved));
            let names: Vec<&str> = models.map(|model| model.model.as_str()).collect();
            list.push(match names.is_empty() {
                true => Finding::new(
                    Level::Good,
                    "No distribution of a score has moved by more than chance since the last run.",
                ),
                false => Finding::new(
                    Level::Caution,
                    format!(
                        "These scores have moved by more than chance since the last run: {}.",
                        names.join(", ")
                    ),
                ),
            });
            let changes = metrics.flows.iter().filter(|flow| flow.is_change());
            let changed: usize = changes.map(|flow| flow.customers).sum();
            list.push(Finding::new(
                Level::Good,
                format!(
                    "{} customers have changed their primary segment.",
                    thousands(changed as u64)
                ),
            ));
        }
        for model in &metrics.models {
            let when = format!("of {} since its training", model.model);
            list.extend(of_drift(&model.drift, &when));
        }
        let empty = metrics.segments.iter().filter(|size| size.members == 0);
        let empty: Vec<&str> = empty.map(|size| size.segment.as_str()).collect();
        if !empty.is_empty() {
            let text = format!("Nobody is in these segments: {}.", empty.join(", "));
            list.push(Finding::new(Level::Caution, text));
        }
        for (status, level, what) in [
            (Status::Warning, Level::Caution, "should be looked at"),
            (Status::Violation, Level::Bad, "are violated"),
        ] {
            let count = metrics.checks.iter().filter(|check| check.status == status).count();
            if count > 0 {
                let text = format!("{count} checks of the contract {what}.");
                list.push(Finding::new(level, text));
            }
        }
        Self(list)
    }
}

/// The finding on a gate that was not passed.
fn of_gate(gate: &Gate) -> Option<Finding> {
    let text = || format!("The gate is not passed: {}.", gate.failures());
    (!gate.passed).then(|| Finding::new(Level::Bad, text()))
}

/// The finding on inputs that have drifted, if any have.
fn of_drift(drift: &[Drift], when: &str) -> Option<Finding> {
    let moved: Vec<&Drift> =
        drift.iter().filter(|drift| drift.verdict != Verdict::Stable).collect();
    let farthest = moved.iter().copied().reduce(|a, b| if b.psi > a.psi { b } else { a })?;
    let level = match moved.len() as f64 > MANY * drift.len() as f64 {
        true => Level::Caution,
        false => Level::Good,
    };
    let text = format!(
        "{} of {} inputs have moved by more than chance {when}, {} the farthest (PSI {:.2}).",
        moved.len(),
        drift.len(),
        farthest.column,
        farthest.psi
    );
    Some(Finding::new(level, text))
}

/// The finding on the totals of a holdout.
fn of_totals(holdout: &Holdout) -> Finding {
    let model = &holdout.model;
    let percent = |error: f64| format!("{:+.1} %", 100.0 * error);
    let text = format!(
        "Fitted on the time before {} it expected {:.0} purchases up to {} where {:.0} were made ({}), and {:.0} of spend where {:.0} came ({}).",
        holdout.from.folder(),
        model.purchases,
        holdout.until.folder(),
        holdout.purchases,
        percent(model.purchases_error),
        model.spend,
        holdout.spend,
        percent(model.spend_error),
    );
    let off = model.spend_error.abs() > WRONG_TOTAL;
    Finding::new(if off { Level::Caution } else { Level::Good }, text)
}

/// The finding on a model of lifetime value beside a naive prediction.
fn beside(model: &Errors, other: &Errors) -> Finding {
    let (is_nearer, is_better) =
        (model.spend_mae < other.spend_mae, model.spend_gini > other.spend_gini);
    let found = match (is_nearer, is_better) {
        (true, true) => "Its error per customer is lower and its ranking is better than with",
        (true, false) => {
            "Its error per customer is lower, but its ranking is not better, than with"
        }
        (false, true) => {
            "Its ranking is better, but its error per customer is not lower, than with"
        }
        (false, false) => "Neither its error per customer nor its ranking is better than with",
    };
    let text = format!(
        "{found} \u{201c}{}\u{201d}: mean absolute error {:.2} against {:.2}, normalized Gini {:.4} against {:.4}.",
        other.name, model.spend_mae, other.spend_mae, model.spend_gini, other.spend_gini
    );
    Finding::new(if is_nearer && is_better { Level::Good } else { Level::Caution }, text)
}

/// The finding on a ranking beside the best ranking without a model.
fn of_ranking(what: &str, setting: &Setting) -> Option<Finding> {
    let (own, best) = (setting.rankings.first()?, setting.best_simple()?);
    let found = best.difference?;
    if own.ndcg == best.ndcg && found.interval.low == found.interval.high {
        let text = format!(
            "{what} it ranks as {} does, the best ranking without a model: NDCG@10 {:.4} over {} customers.",
            best.name,
            own.ndcg,
            thousands(setting.customers as u64)
        );
        return Some(Finding::new(Level::Good, text));
    }
    let (level, word) = match (found.interval.low > 0.0, found.interval.high < 0.0) {
        (true, _) => (Level::Good, "better than"),
        (_, true) => (Level::Bad, "worse than"),
        _ => (Level::Caution, "not significantly different from"),
    };
    let text = format!(
        "{what} its ranking is {word} {}, the best without a model: NDCG@10 {:.4} against {:.4} (difference {:+.4}, 95 % interval {:+.4} to {:+.4}) over {} customers.",
        best.name,
        own.ndcg,
        best.ndcg,
        found.difference,
        found.interval.low,
        found.interval.high,
        thousands(setting.customers as u64)
    );
    Some(Finding::new(level, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drift(psi: f64, verdict: Verdict) -> Drift {
        Drift { column: format!("input_{psi}"), psi, threshold: 0.1, verdict }
    }

    #[test]
    fn the_worst_finding_is_that_of_the_whole() {
        assert_eq!(Findings::default().level(), Level::Good);
        let finding = |level| Finding::new(level, "A sentence.");
        let all = Findings(vec![finding(Level::Caution), finding(Level::Good)]);
        assert_eq!(all.level(), Level::Caution);
        assert_eq!(all.text(), "  caution: A sentence.\n  A sentence.\n");
        let gate = Gate::untested("a test", "there is none".into());
        let failed = of_gate(&gate).unwrap();
        assert_eq!(failed.level, Level::Bad);
        assert!(failed.text.contains("a test: there is none"), "{failed:?}");
    }

    #[test]
    fn the_drift_of_many_inputs_is_a_caution() {
        let mut inputs = vec![drift(0.01, Verdict::Stable); 20];
        assert_eq!(of_drift(&inputs, "lately"), None);
        inputs[0] = drift(3.7, Verdict::MovedFar);
        assert_eq!(of_drift(&inputs, "lately").unwrap().level, Level::Good);
        inputs[1] = drift(0.2, Verdict::Moved);
        inputs[2] = drift(0.3, Verdict::Moved);
        let found = of_drift(&inputs, "lately").unwrap();
        assert_eq!(found.level, Level::Caution);
        assert!(found.text.starts_with("3 of 20 inputs have moved by more than chance lately"));
        assert!(found.text.contains("input_3.7 the farthest (PSI 3.70)"), "{found:?}");
    }
}

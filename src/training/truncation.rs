//! Snapshots at which the windows of inputs reach before the first event.
//!
//! Such a window counts fewer days than its name says, and fewer than the same window at a later snapshot: a model
//! that is fitted on both confuses little activity with little history. The folds decide whether the values are kept,
//! made missing, or the snapshots left out.

use serde::{Deserialize, Serialize};

use super::gather::{ClassifierData, Snapshot};
use super::selection::{Inputs, fold_losses, surely_less};
use crate::artifact::Schedule;
use crate::error::Result;
use crate::features::catalog::{Catalog, Definition};
use crate::models::preprocessing::shape::ShapeChoice;
use crate::spec::Classifier;
use crate::time::{Duration, Instant, Window};

/// The inputs of one snapshot whose windows reach before the first event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TruncatedSnapshot {
    /// The as-of of the snapshot.
    pub as_of: Instant,
    /// The names of the inputs.
    pub inputs: Vec<String>,
}

/// What may be done with truncated windows of training snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Treatment {
    /// The values are used as they are.
    Kept,
    /// The values are made missing.
    MadeMissing,
    /// The snapshots are not used for training.
    LeftOut,
}

impl Treatment {
    /// The name for readers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::MadeMissing => "made missing",
            Self::LeftOut => "left out",
        }
    }
}

/// A treatment beside keeping the values, on the folds that both can predict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TriedTreatment {
    /// The treatment.
    pub treatment: Treatment,
    /// The number of folds.
    pub folds: usize,
    /// The mean log loss over the folds.
    pub log_loss: f64,
    /// The mean log loss if the values are kept.
    pub kept: f64,
}

/// The truncated windows of a training, and what was done about them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truncation {
    /// The time of the first event.
    pub first: Instant,
    /// The snapshots with truncated windows, in time order, the test snapshot included.
    pub snapshots: Vec<TruncatedSnapshot>,
    /// What was done about the training snapshots.
    pub treatment: Treatment,
    /// What was tried instead of keeping the values; empty if nothing could be compared.
    pub tried: Vec<TriedTreatment>,
}

impl Truncation {
    /// Describes the truncation in sentences; none if there is none.
    pub fn sentences(&self) -> Vec<String> {
        let (Some(last), Some(most)) =
            (self.snapshots.last(), self.snapshots.iter().max_by_key(|s| s.inputs.len()))
        else {
            return Vec::new();
        };
        let names: Vec<&str> = most.inputs.iter().map(String::as_str).take(NAMED).collect();
        let more = if most.inputs.len() > NAMED { ", …" } else { "" };
        let day = |at: Instant| at.to_string().split('T').next().unwrap_or_default().to_owned();
        let mut sentences = vec![format!(
            "At {} snapshots up to {} the windows of up to {} inputs reach before the first event ({}): {}{more}. They count fewer days there than later.",
            self.snapshots.len(),
            day(last.as_of),
            most.inputs.len(),
            day(self.first),
            names.join(", "),
        )];
        let of = |tried: &TriedTreatment| {
            format!(
                "{}: {:.4} against {:.4} over {} folds",
                tried.treatment.name(),
                tried.log_loss,
                tried.kept,
                tried.folds
            )
        };
        let tried = self.tried.iter().map(of).collect::<Vec<_>>().join("; ");
        sentences.push(match self.treatment {
            _ if tried.is_empty() => "No fold could compare another treatment, so the values are kept.".to_owned(),
            Treatment::Kept => format!("The values are kept, because no other treatment had a surely lower log loss ({tried})."),
            treatment => format!("In training snapshots they are {}, which had a surely lower log loss ({tried}).", treatment.name()),
        });
        sentences
    }
}

/// The number of standard errors by which another treatment must be better.
const SURE: f64 = 2.0;
/// The minimum number of folds that can change the treatment.
const LEAST_FOLDS: usize = 3;
/// The number of inputs that are named in a sentence.
const NAMED: usize = 6;

/// Finds truncated windows, chooses a treatment by the folds, and applies it to the data.
///
/// An input that is truncated at the test snapshot too is truncated wherever the model is used, so that it is only
/// reported. Anything but keeping the values must lower the log loss by more than two standard errors over the folds.
///
/// # Errors
/// Returns an error if a fit fails.
pub fn treat(
    classifier: &Classifier,
    catalog: &Catalog,
    inputs: &Inputs,
    first: Instant,
    data: &mut ClassifierData,
) -> Result<Truncation> {
    let windows: Vec<Option<Duration>> =
        classifier.inputs.iter().map(|name| longest(catalog, name)).collect();
    let truncated = |at: Instant| -> Vec<usize> {
        let short =
            |window: &Option<Duration>| window.is_some_and(|length| at.minus(length) < first);
        (0..windows.len()).filter(|place| short(&windows[*place])).collect()
    };
    let at_test = truncated(data.schedule.test);
    let treatable = |at: Instant| -> Vec<usize> {
        truncated(at).into_iter().filter(|place| !at_test.contains(place)).collect()
    };
    let named = |as_of: Instant| TruncatedSnapshot {
        as_of,
        inputs: truncated(as_of).into_iter().map(|i| classifier.inputs[i].clone()).collect(),
    };
    let mut found = Truncation {
        first,
        snapshots: data.schedule.all().into_iter().map(named).collect(),
        treatment: Treatment::Kept,
        tried: Vec::new(),
    };
    found.snapshots.retain(|snapshot| !snapshot.inputs.is_empty());
    let training: Vec<(Instant, &Snapshot)> =
        data.schedule.training.iter().copied().zip(&data.snapshots).collect();
    if training.iter().all(|(at, _)| treatable(*at).is_empty()) {
        return Ok(found);
    }
    let masked: Vec<Snapshot> =
        training.iter().map(|(at, snapshot)| without(snapshot, &treatable(*at))).collect();
    let masked = training.iter().map(|(at, _)| *at).zip(&masked).collect();
    let whole: Vec<(Instant, &Snapshot)> =
        training.iter().copied().filter(|(at, _)| treatable(*at).is_empty()).collect();
    let mut inputs = inputs.clone();
    let shape = |shape| if shape == ShapeChoice::Auto { ShapeChoice::Simple } else { shape };
    inputs.candidates.iter_mut().for_each(|candidate| candidate.shape = shape(candidate.shape));
    let losses = |snapshots: &[(Instant, &Snapshot)]| fold_losses(classifier, &inputs, snapshots);
    let kept = losses(&training)?;
    let mut best = 0.0;
    for (treatment, snapshots) in [(Treatment::MadeMissing, masked), (Treatment::LeftOut, whole)] {
        let enough =
            classes(&snapshots).into_iter().min() >= Some(classifier.spec.fit.minimum_class);
        let theirs = if enough { losses(&snapshots)? } else { Vec::new() };
        // Compared on the snapshots that both predict.
        let both = kept.iter().filter_map(|(at, loss)| {
            Some((*loss, theirs.iter().find(|(other, _)| other == at)?.1))
        });
        let (ours, theirs): (Vec<f64>, Vec<f64>) = both.unzip();
        if ours.is_empty() {
            continue;
        }
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let (log_loss, kept) = (mean(&theirs), mean(&ours));
        found.tried.push(TriedTreatment { treatment, folds: ours.len(), log_loss, kept });
        let is_sure = ours.len() >= LEAST_FOLDS && surely_less(&theirs, &ours, SURE);
        if is_sure && log_loss - kept < best {
            (found.treatment, best) = (treatment, log_loss - kept);
        }
    }
    let ClassifierData { schedule, snapshots, base_rate, .. } = data;
    apply(found.treatment, &treatable, schedule, snapshots, base_rate);
    Ok(found)
}

/// Applies a treatment to the snapshots of a schedule, given the places of the inputs to treat at an instant.
fn apply(
    treatment: Treatment,
    treatable: &dyn Fn(Instant) -> Vec<usize>,
    schedule: &mut Schedule,
    snapshots: &mut Vec<Snapshot>,
    base_rate: &mut [Snapshot],
) {
    match treatment {
        Treatment::Kept => {}
        Treatment::MadeMissing => {
            let instants = schedule.all().into_iter().zip(snapshots);
            for (at, snapshot) in instants.chain(schedule.base_rate.iter().copied().zip(base_rate))
            {
                mask(snapshot, &treatable(at));
            }
        }
        Treatment::LeftOut => {
            let is_left_out = |at: &Instant| !treatable(*at).is_empty();
            let instants = std::mem::take(&mut schedule.training);
            let (mut training, held_out) = (std::mem::take(snapshots), instants.len());
            let rest = training.split_off(held_out);
            let kept = instants.into_iter().zip(training).filter(|(at, _)| !is_left_out(at));
            (schedule.training, *snapshots) = kept.unzip();
            snapshots.extend(rest);
        }
    }
}

/// The longest trailing window that an input depends on; `None` if it has none.
fn longest(catalog: &Catalog, name: &str) -> Option<Duration> {
    match &catalog.get(name)?.definition {
        Definition::Aggregation(aggregation) => match aggregation.window {
            Window::Trailing(length) => Some(length),
            Window::Lifetime => None,
        },
        Definition::Derived(derived) => {
            let columns = derived.expression.columns();
            columns.into_iter().filter_map(|column| longest(catalog, column)).max()
        }
    }
}

/// A copy of the rows that folds need, with some inputs missing.
fn without(snapshot: &Snapshot, inputs: &[usize]) -> Snapshot {
    let mut copy = Snapshot {
        eligible: snapshot.eligible.clone(),
        hashes: snapshot.hashes.clone(),
        inputs: snapshot.inputs.clone(),
        labels: snapshot.labels.clone(),
        ..Snapshot::default()
    };
    mask(&mut copy, inputs);
    copy
}

fn mask(snapshot: &mut Snapshot, inputs: &[usize]) {
    for row in 0..snapshot.labels.len() {
        let row = snapshot.inputs.row_mut(row);
        inputs.iter().for_each(|place| row[*place] = f64::NAN);
    }
}

/// The numbers of eligible customers with y = 0 and with y = 1.
fn classes(snapshots: &[(Instant, &Snapshot)]) -> [usize; 2] {
    let each = snapshots.iter().map(|(_, snapshot)| snapshot.classes());
    each.fold([0; 2], |sum, own| [sum[0] + own[0], sum[1] + own[1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::matrix::Matrix;

    fn snapshot(value: f64) -> Snapshot {
        let inputs = Matrix::of(2, vec![value, value], 1);
        Snapshot { inputs, labels: vec![true], hashes: vec![1], ..Snapshot::default() }
    }

    /// Three training snapshots, a calibration snapshot and a test snapshot on the days 1 to 5, and day 0 for the base
    /// rate. The window of the second input is truncated up to day 2.
    fn treated(treatment: Treatment) -> (Schedule, Vec<Snapshot>, Vec<Snapshot>) {
        let mut schedule = Schedule {
            training: vec![Instant(1), Instant(2), Instant(3)],
            later: Vec::new(),
            calibration: Instant(4),
            test: Instant(5),
            base_rate: vec![Instant(0)],
        };
        let mut snapshots: Vec<Snapshot> = (1..6).map(|day| snapshot(f64::from(day))).collect();
        let mut base_rate = vec![snapshot(0.0)];
        let treatable = |at: Instant| if at <= Instant(2) { vec![1] } else { Vec::new() };
        apply(treatment, &treatable, &mut schedule, &mut snapshots, &mut base_rate);
        (schedule, snapshots, base_rate)
    }

    #[test]
    fn truncated_values_are_made_missing() {
        let (schedule, snapshots, base_rate) = treated(Treatment::MadeMissing);
        assert_eq!(schedule.training.len(), 3);
        let second: Vec<f64> = snapshots.iter().map(|s| s.inputs.row(0)[1]).collect();
        assert!(second[..2].iter().all(|value| value.is_nan()) && second[2..] == [3.0, 4.0, 5.0]);
        assert_eq!(snapshots[0].inputs.row(0)[0], 1.0);
        assert!(base_rate[0].inputs.row(0)[1].is_nan());
    }

    #[test]
    fn truncated_snapshots_are_left_out() {
        let (schedule, snapshots, base_rate) = treated(Treatment::LeftOut);
        assert_eq!(schedule.training, [Instant(3)]);
        let first: Vec<f64> = snapshots.iter().map(|s| s.inputs.row(0)[0]).collect();
        assert_eq!((first, base_rate.len()), (vec![3.0, 4.0, 5.0], 1));
    }
}

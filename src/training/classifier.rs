//! One classifier from gathered snapshots to an artifact.
//!
//! The penalty is chosen by purged time-ordered folds inside training; the calibration snapshot
//! fits Platt's scaling; the test snapshot is scored once. Then the calibration alone is fitted
//! again, on calibration and test rows, for what ships.

use rayon::prelude::*;

use super::artifact::{ClassifierArtifact, ClassifierMetrics, Funnel, ResolvedEligible, Tried};
use super::evaluation::{Metrics, Ranking, ece, reliability};
use super::gather::{ClassifierData, LONGEST_AUTO, Snapshot};
use crate::error::{Error, Result};
use crate::features::catalog::{Catalog, Definition};
use crate::models::calibration::{Isotonic, Platt, base_rate_offset};
use crate::models::logistic::{Logistic, sigmoid};
use crate::models::preprocessing::{Matrix, Preprocessing};
use crate::models::spec::{Classifier, Eligible, LabelKind};
use crate::store::FORMAT_VERSION;
use crate::time::{Duration, Instant};

/// The shortest time that `auto` eligibility may find.
const SHORTEST_AUTO: Duration = Duration::days(30);
/// The least rows behind one step of the lapsed rate, and the most steps.
const LAPSED_ROWS: usize = 100;
const LAPSED_STEPS: usize = 50;
/// Folds use at most one in so many of the rows that the fit may use.
const FOLD_SHARE: usize = 5;

/// A test row with what was predicted for it.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// customer360_id.
    pub key: String,
    /// The logit before calibration.
    pub raw: f64,
    /// The probability as tested, before the calibration was refitted.
    pub probability: f64,
    /// What happened.
    pub label: bool,
}

/// A trained classifier with what the report shows.
#[derive(Debug)]
pub struct TrainedClassifier {
    /// What scoring reads.
    pub artifact: ClassifierArtifact,
    /// What people read.
    pub metrics: ClassifierMetrics,
    /// The test rows.
    pub predictions: Vec<Prediction>,
}

/// Trains on gathered data.
///
/// # Errors
/// [`Error::NotEnough`] where training, calibration or test have too few rows of a class.
pub fn train(
    classifier: &Classifier,
    mut data: ClassifierData,
    catalog: &Catalog,
) -> Result<TrainedClassifier> {
    let eligible = resolve_eligible(classifier, &mut data);
    // In the order of a hash: how the events were partitioned, which events of the future can
    // change, must not reach the sums of a fit.
    data.snapshots.par_iter_mut().for_each(|snapshot| {
        let mut order: Vec<usize> = (0..snapshot.hashes.len()).collect();
        order.sort_by_key(|row| snapshot.hashes[*row]);
        snapshot.select(&order);
        snapshot.lapsed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    });
    let funnel = funnel(&data);
    check_enough(classifier, &data, &funnel)?;
    let lapsed = lapsed_rate(classifier.spec.label.kind, &data.snapshots);

    let names: Vec<(String, String)> = classifier
        .inputs
        .iter()
        .map(|name| {
            let group = catalog.get(name).map_or(name.as_str(), |feature| feature.group.as_str());
            (name.clone(), group.to_owned())
        })
        .collect();
    let count = data.schedule.training.len();
    let (training, held_out) = data.snapshots.split_at(count);
    let [calibration, test] = held_out else {
        return Err(Error::Engine { context: "training", message: "snapshots are missing".into() });
    };
    let (l2, tried) = choose_penalty(classifier, &names, training, &data.schedule.training)?;
    let (rows, labels) = sample(&training.iter().collect::<Vec<_>>(), classifier.spec.fit.max_rows);
    let preprocessing = Preprocessing::fit(&names, &rows);
    let logistic = Logistic::fit(&preprocessing.transform(&rows), &labels, l2, None)?;
    drop(rows);

    let logits = |snapshot: &Snapshot| logistic.logits(&preprocessing.transform(&snapshot.inputs));
    let (calibration_logits, test_logits) = (logits(calibration), logits(test));
    let tested_calibration = Platt::fit(&calibration_logits, &calibration.labels);
    let tested_offset = offset(&tested_calibration, &calibration_logits, &calibration.labels);
    let probabilities: Vec<f64> =
        test_logits.iter().map(|raw| tested_calibration.probability(*raw, tested_offset)).collect();
    let bins = reliability(&probabilities, &test.labels);
    let metrics = Metrics { ece: ece(&bins), ..Metrics::of(&probabilities, &test.labels) };

    // What ships has seen the outcomes of the test snapshot too, in its calibration alone; the base
    // rate is that of the latest outcomes there are.
    let both: Vec<f64> = calibration_logits.iter().chain(&test_logits).copied().collect();
    let outcomes: Vec<bool> = calibration.labels.iter().chain(&test.labels).copied().collect();
    let shipped = Platt::fit(&both, &outcomes);
    let offset = offset(&shipped, &test_logits, &test.labels);

    let sign = if classifier.spec.label.kind == LabelKind::Absence { 1.0 } else { -1.0 };
    let by_recency: Vec<f64> = test
        .recency
        .iter()
        .map(|days| sign * if days.is_nan() { f64::MAX } else { *days })
        .collect();
    let predictions = test
        .keys
        .iter()
        .zip(test_logits.iter().zip(&probabilities))
        .zip(&test.labels)
        .map(|((key, (raw, probability)), label)| Prediction {
            key: key.clone(),
            raw: *raw,
            probability: *probability,
            label: *label,
        })
        .collect();
    let metrics = ClassifierMetrics {
        format_version: FORMAT_VERSION,
        funnel,
        tried,
        recency_alone: Ranking::of(&by_recency, &test.labels),
        reliability: bins,
        test: metrics,
        tested_calibration,
        tested_offset,
    };
    let aggregations = data.plan.aggregations.iter().filter(|a| **a != data.recency).cloned();
    let definitions = aggregations
        .map(Definition::Aggregation)
        .chain(data.plan.derived.iter().cloned().map(Definition::Derived))
        .collect();
    let artifact = ClassifierArtifact {
        spec: classifier.spec.clone(),
        positive_class: classifier.spec.positive.clone(),
        eligible,
        schedule: data.schedule,
        recency: data.recency,
        definitions,
        terms: preprocessing.terms().into_iter().map(|(name, _)| name).collect(),
        preprocessing,
        logistic,
        l2,
        calibration: shipped,
        offset,
        lapsed,
        metrics: metrics.test.clone(),
    };
    Ok(TrainedClassifier { artifact, metrics, predictions })
}

fn offset(platt: &Platt, logits: &[f64], labels: &[bool]) -> f64 {
    let probabilities: Vec<f64> = logits.iter().map(|raw| platt.probability(*raw, 0.0)).collect();
    base_rate_offset(&probabilities, labels)
}

/// Chooses the time of `auto` and moves who is beyond it to the lapsed.
fn resolve_eligible(classifier: &Classifier, data: &mut ClassifierData) -> ResolvedEligible {
    let within = match &classifier.eligible {
        Eligible::Where(condition) => return ResolvedEligible::Where(condition.clone()),
        Eligible::Within(length) => return ResolvedEligible::Within(*length),
        Eligible::Auto => {
            data.gaps.sort_by(f64::total_cmp);
            let rank = (data.gaps.len() as f64 * 0.9).ceil() as usize;
            let days = data.gaps.get(rank.saturating_sub(1)).copied().unwrap_or(365.0);
            let days = days.clamp(SHORTEST_AUTO.as_days(), LONGEST_AUTO.as_days());
            Duration::days(days.ceil() as i64)
        }
    };
    for snapshot in &mut data.snapshots {
        let (mut kept, mut beyond) = (Vec::new(), Vec::new());
        for row in 0..snapshot.recency.len() {
            let list =
                if snapshot.recency[row] <= within.as_days() { &mut kept } else { &mut beyond };
            list.push(row);
        }
        let lapsed = beyond.iter().map(|row| (snapshot.recency[*row], snapshot.labels[*row]));
        snapshot.lapsed.extend(lapsed);
        snapshot.select(&kept);
    }
    ResolvedEligible::Within(within)
}

fn funnel(data: &ClassifierData) -> Vec<Funnel> {
    let uses = data.schedule.training.iter().map(|_| "training").chain(["calibration", "test"]);
    let instants = data.schedule.all();
    instants
        .iter()
        .zip(&data.snapshots)
        .zip(uses)
        .map(|((as_of, snapshot), used_for)| {
            let positives = snapshot.labels.iter().filter(|label| **label).count();
            let eligible = snapshot.labels.len();
            Funnel {
                as_of: *as_of,
                used_for: used_for.to_owned(),
                customers: snapshot.customers,
                eligible,
                positives,
                base_rate: if eligible == 0 { 0.0 } else { positives as f64 / eligible as f64 },
            }
        })
        .collect()
}

fn check_enough(classifier: &Classifier, data: &ClassifierData, funnel: &[Funnel]) -> Result<()> {
    let least = classifier.spec.fit.minimum_class;
    let count = data.schedule.training.len();
    let spans = [
        ("training", &funnel[..count]),
        ("calibration", &funnel[count..count + 1]),
        ("test", &funnel[count + 1..]),
    ];
    for (name, rows) in spans {
        let positives: usize = rows.iter().map(|row| row.positives).sum();
        let negatives: usize = rows.iter().map(|row| row.eligible - row.positives).sum();
        if positives < least || negatives < least {
            let customers = rows.iter().map(|row| row.customers).max().unwrap_or(0);
            return Err(Error::not_enough(
                format!(
                    "the model {} has {positives} rows with y = 1 ({}) and {negatives} with y = 0 for {name} (of {customers} customers), and needs {least} of each",
                    classifier.spec.name, classifier.spec.positive
                ),
                format!(
                    "train at a later as-of, widen `eligible`, or lower fit.minimum_class in {}",
                    classifier.file
                ),
            ));
        }
    }
    Ok(())
}

/// The observed rate of y = 1 among the not eligible, monotone in recency: rising where the label
/// is an absence, falling where it is a presence.
fn lapsed_rate(kind: LabelKind, snapshots: &[Snapshot]) -> Option<Isotonic> {
    let sign = if kind == LabelKind::Absence { 1.0 } else { -1.0 };
    let rows = snapshots.iter().flat_map(|snapshot| &snapshot.lapsed);
    let (x, labels): (Vec<f64>, Vec<bool>) =
        rows.map(|(days, label)| (sign * days, *label)).unzip();
    (!x.is_empty()).then(|| {
        let rows = LAPSED_ROWS.max(x.len() / LAPSED_STEPS);
        Isotonic::fit(&x, &labels, rows, 0.5)
    })
}

/// The rows of some snapshots, sampled by customer above `limit` rows.
fn sample(snapshots: &[&Snapshot], limit: usize) -> (Matrix, Vec<bool>) {
    let total: usize = snapshots.iter().map(|snapshot| snapshot.labels.len()).sum();
    let share = (limit as f64 / total.max(1) as f64).min(1.0);
    let highest = (share * u64::MAX as f64) as u64;
    let width = snapshots.first().map_or(0, |snapshot| snapshot.inputs.width);
    let (mut rows, mut labels) = (Matrix::new(width), Vec::new());
    for snapshot in snapshots {
        for (row, hash) in snapshot.hashes.iter().enumerate() {
            // The key's hash decides parts too; multiplying spreads it anew.
            if share >= 1.0 || hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) <= highest {
                rows.push(snapshot.inputs.row(row).iter().copied());
                labels.push(snapshot.labels[row]);
            }
        }
    }
    (rows, labels)
}

/// Tries each penalty on purged folds: each snapshot that has earlier ones whose outcomes had ended
/// by then is predicted from those.
fn choose_penalty(
    classifier: &Classifier,
    names: &[(String, String)],
    snapshots: &[Snapshot],
    instants: &[Instant],
) -> Result<(f64, Vec<Tried>)> {
    let outcome = classifier.spec.label.gap.plus(classifier.spec.label.horizon);
    let mut penalties = classifier.spec.fit.l2.clone();
    penalties.sort_by(f64::total_cmp);
    // A choice among penalties needs fewer rows than the fit itself.
    let limit = classifier.spec.fit.max_rows / FOLD_SHARE;
    let folds: Vec<Option<Vec<f64>>> = snapshots
        .par_iter()
        .zip(instants)
        .map(|(validation, at)| {
            let ended = snapshots.iter().zip(instants).filter(|(_, t)| t.plus(outcome) <= *at);
            let earlier: Vec<&Snapshot> = ended.map(|(snapshot, _)| snapshot).collect();
            try_penalties(names, &earlier, validation, &penalties, limit)
        })
        .collect::<Result<_>>()?;
    let folds: Vec<Vec<f64>> = folds.into_iter().flatten().collect();
    let losses = |index: usize| folds.iter().map(|fold| fold[index]).collect();
    let tried: Vec<Tried> = penalties
        .iter()
        .enumerate()
        .map(|(index, l2)| Tried { l2: *l2, log_loss: losses(index) })
        .collect();
    let mean = |tried: &Tried| tried.log_loss.iter().sum::<f64>() / tried.log_loss.len() as f64;
    // With one training snapshot there is no fold: the middle of the list stands.
    let middle = tried[tried.len() / 2].l2;
    let best =
        tried.iter().filter(|t| !t.log_loss.is_empty()).min_by(|a, b| mean(a).total_cmp(&mean(b)));
    Ok((best.map_or(middle, |best| best.l2), tried))
}

/// The log loss on one fold of each penalty, ascending; None where a class is missing.
fn try_penalties(
    names: &[(String, String)],
    earlier: &[&Snapshot],
    validation: &Snapshot,
    penalties: &[f64],
    limit: usize,
) -> Result<Option<Vec<f64>>> {
    let (rows, labels) = sample(earlier, limit);
    let (held_out, outcomes) = sample(&[validation], limit);
    let both = |labels: &[bool]| labels.contains(&true) && labels.contains(&false);
    if !both(&labels) || !both(&outcomes) {
        return Ok(None);
    }
    let preprocessing = Preprocessing::fit(names, &rows);
    let (rows, held_out) = (preprocessing.transform(&rows), preprocessing.transform(&held_out));
    let mut losses = Vec::new();
    let mut start: Option<Logistic> = None;
    // From the strongest penalty down, each solution near the next.
    for l2 in penalties.iter().rev() {
        let logistic = Logistic::fit(&rows, &labels, *l2, start.as_ref())?;
        let probabilities: Vec<f64> =
            logistic.logits(&held_out).iter().map(|raw| sigmoid(*raw)).collect();
        losses.push(Metrics::of(&probabilities, &outcomes).log_loss);
        start = Some(logistic);
    }
    losses.reverse();
    Ok(Some(losses))
}

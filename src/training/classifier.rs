//! Trains one classifier, from gathered snapshots to an artifact.
//!
//! Every choice is made by purged time-ordered folds inside the training snapshots. The calibration is
//! fitted on the snapshots of the folds and on the calibration snapshot, each predicted by a fit that
//! used only outcomes which had ended at that snapshot. The model itself is fitted on all rows whose
//! outcomes had ended at the test snapshot, and the test snapshot is scored once. For the version that
//! ships, the calibration alone is then fitted again with the test rows.

use rayon::prelude::*;

use super::backtest::{Kind, PastFit, backtest, calibrate, past_fits, stability};
use super::base_rate::{BaseRates, expected_rate};
use super::evaluation::{Baseline, Evaluation, Grade};
use super::gather::{BASE_RATE_ROWS, ClassifierData, LONGEST_AUTO, Snapshot};
use super::inspection;
use super::matured::Matured;
use super::out_of_time::OutOfTime;
use super::promotion::Gate;
use super::selection::{
    Chosen, Fitted, Fold, Inputs, Rows, compared, fit, per_row, sample, select,
};
use super::skew::Skew;
use super::truncation;
use crate::artifact::Configuration;
use crate::artifact::{Calibrated, ClassifierArtifact, ResolvedEligible};
use crate::error::{Error, Result};
use crate::features::catalog::{Catalog, Definition};
use crate::models::calibration::{Calibration, Isotonic, Platt};
use crate::models::preprocessing::Candidate;
use crate::models::preprocessing::shape::ShapeChoice;
use crate::sources::contract::History;
use crate::spec::{Algorithm, Classifier, ClassifierSpec, Eligible, LabelKind};
use crate::store::FORMAT_VERSION;
use crate::time::{Duration, Instant};
use crate::training::TrainingProblem;
use crate::training::metrics::{ClassifierMetrics, Funnel, OtherAlgorithm};

/// The shortest length that `auto` eligibility may find.
const SHORTEST_AUTO: Duration = Duration::days(30);
/// The minimum number of rows behind one step of the lapsed rate, and the maximum number of steps.
const LAPSED_ROWS: usize = 100;
const LAPSED_STEPS: usize = 50;

/// A test row with its prediction.
#[derive(Debug, Clone)]
pub struct TestPrediction {
    /// The customer's key, `customer360_id`.
    pub key: String,
    /// The logit before calibration.
    pub raw: f64,
    /// The probability as tested, before the calibration was fitted again.
    pub probability: f64,
    /// The observed label.
    pub label: bool,
}

/// A trained classifier with its metrics and test predictions.
#[derive(Debug)]
pub struct TrainedClassifier {
    /// The artifact that scoring reads.
    pub artifact: ClassifierArtifact,
    /// The metrics that the report shows.
    pub metrics: ClassifierMetrics,
    /// The predictions of the test rows.
    pub predictions: Vec<TestPrediction>,
}

/// The champion: the version in use.
#[derive(Debug, Clone, Copy)]
pub struct Champion<'a> {
    /// The name of the version.
    pub version: &'a str,
    /// The artifact of the version.
    pub artifact: &'a ClassifierArtifact,
}

/// What is known of earlier versions, scores and events.
#[derive(Debug)]
pub struct Past<'a> {
    /// The champion to compare with; `None` if no version is in use.
    pub champion: Option<Champion<'a>>,
    /// Inputs compared with their values in the last scoring run; `None` if no run has scored customers.
    pub skew: Option<Skew>,
    /// Past scores compared with the observed outcomes.
    pub matured: Vec<Matured>,
    /// Numbers of events over time.
    pub history: History,
}

/// Trains a classifier on gathered data.
///
/// # Errors
/// Returns [`TrainingProblem`] if training, calibration or test have too few rows of a class.
pub fn train(
    classifier: &Classifier,
    mut data: ClassifierData,
    catalog: &Catalog,
    past: Past,
) -> Result<TrainedClassifier> {
    let eligible = resolve_eligible(classifier, &mut data)?;
    order_by_hash(&mut data);
    let mut funnel = funnel(&data);
    check_enough(classifier, &data, &funnel)?;
    let lapsed = lapsed_rate(classifier.spec.label.kind, &data.snapshots);

    let spec = &classifier.spec;
    let outcome = spec.label.gap.plus(spec.label.horizon);
    let inputs = inputs(classifier, catalog, &data.levels);
    let first = past.history.first;
    let truncation = truncation::treat(classifier, catalog, &inputs, first, &mut data)?;
    for row in &mut funnel {
        if !data.schedule.all().contains(&row.as_of) {
            row.used_for = "left out".to_owned();
        }
    }
    let (training, held_out) = data.snapshots.split_at(data.schedule.training.len());
    let [.., calibration, test] = held_out else {
        return Err(Error::engine("choosing snapshots")("snapshots are missing"));
    };
    let in_time: Vec<(Instant, &Snapshot)> =
        data.schedule.training.iter().copied().zip(training).collect();
    let selection = select(classifier, inputs.clone(), &in_time)?;
    let inputs = Inputs { candidates: selection.candidates.clone(), ..inputs };
    // The calibration snapshot is predicted by a model that has not seen it. The tested model is fitted
    // on everything whose outcome had ended at the test snapshot.
    let split = |limit: usize| {
        let before = |snapshots: &[Snapshot]| sample(&snapshots.iter().collect::<Vec<_>>(), limit);
        let all = &data.snapshots[..data.snapshots.len() - 1];
        let (chosen_on, rows) = (before(training), before(all));
        Split { data: &data, folds: &selection.folds, chosen_on, rows, calibration, test }
    };
    let (ships, other) = match (selection.algorithm, selection.gbdt) {
        (Algorithm::Gbdt, Some(gbdt)) => (gbdt, Some(selection.logistic)),
        (_, gbdt) => (selection.logistic, gbdt),
    };
    let of_ours = split(spec.fit.max_rows);
    check_sampled(classifier, &of_ours.chosen_on)?;
    let ours = Tested::new(spec, &inputs, &ships, &of_ours)?;
    let rows = of_ours.rows;
    let other_algorithm = match other.filter(|_| spec.fit.compare) {
        Some(chosen) => {
            let split = split(compared(&spec.fit));
            let theirs = Tested::new(spec, &inputs, &chosen, &split)?.probabilities;
            let configuration = chosen.configuration;
            let name = configuration.describe();
            let comparison = Baseline::of(&name, &ours.probabilities, &theirs, &test.labels);
            let fitted_on = [rows.labels.len(), split.rows.labels.len()];
            Some(OtherAlgorithm { configuration, fitted_on, comparison })
        }
        None => None,
    };

    let evaluation = Evaluation::of(&ours.probabilities, &test.labels, &spec.evaluation);
    let recency = recency_alone(spec.label.kind, &ours.probabilities, calibration, test);
    let champion =
        past.champion.and_then(|champion| champion_on(spec, champion, &ours, &data, test));
    let other_label = past.champion.filter(|champion| champion.artifact.spec.label != spec.label);
    let other_label = other_label.map(|champion| champion.version);
    let gate = Gate::of(&spec.promotion, &recency, champion.as_ref(), other_label);
    let mut grade = Grade::of(&evaluation, &recency, champion.as_ref());
    if selection.tried.iter().all(|tried| tried.folds.is_empty()) {
        grade.sentences.push(
            "No training snapshot's outcome had ended before another, so there is no fold and nothing was \
             chosen: inputs are simple, the penalty and the number of leaves are the middle ones of their lists, \
             and a quarter of the trees is grown."
                .into(),
        );
    }
    let rate = positives(calibration) / calibration.labels.len() as f64;
    let base = Baseline::of(
        "base rate",
        &ours.probabilities,
        &vec![rate; test.labels.len()],
        &test.labels,
    );

    let predictions = predictions(test, &ours);
    let expected_rate = expected_rate(&ours.test, &ours.calibrated);
    let tested = (&ours.test, &ours.calibrated);
    let stability = stability(&ours.past, &ours.base_rates, spec.calibration.method, tested);
    // Of the model that ships, only the calibration and the base rate have seen the outcomes of the test
    // snapshot.
    let all: Vec<&OutOfTime> = ours.past.iter().chain([&ours.test]).collect();
    let calibration = calibrate(&all, Kind::Same(&ours.calibrated.calibration));
    let mut base_rates = ours.base_rates;
    base_rates.push(ours.test);
    let shipped = base_rates.calibrated(calibration, data.schedule.test.plus(outcome));

    let class_weights = spec.fit.class_weight.of(&rows.labels);
    let ships = ships.configuration;
    let l2 = if let Configuration::Logistic { l2, .. } = ships {
        per_row(l2, &rows, class_weights)
    } else {
        0.0
    };
    let fitted = &ours.fitted;
    let reference = inspection::reference(&rows.inputs);
    let metrics = ClassifierMetrics {
        format_version: FORMAT_VERSION,
        stability,
        base_rates: base_rates.table(&shipped),
        expected_rate: Some(expected_rate),
        truncation: Some(truncation),
        slices: inspection::slices(&classifier.slices, &data, test, &ours.probabilities),
        drift: inspection::drifts(fitted, &reference, &test.inputs),
        importance: inspection::importance(fitted, &ours.calibrated, test),
        coefficients: inspection::coefficients(fitted, &rows, class_weights, l2),
        curves: inspection::curves(fitted, &rows.inputs),
        leak_suspects: inspection::leak_suspects(fitted, &rows),
        dropped: fitted.preprocessing.dropped.clone(),
        baselines: [base, recency].into_iter().chain(champion).collect(),
        tried: selection.tried,
        shapes: selection.shapes,
        test: evaluation,
        funnel,
        grade,
        gate,
        other_algorithm,
        skew: past.skew,
        matured: past.matured,
        history: past.history,
    };
    let aggregations = data.plan.aggregations.iter().filter(|a| **a != data.recency).cloned();
    let definitions = aggregations
        .map(Definition::Aggregation)
        .chain(data.plan.derived.iter().cloned().map(Definition::Derived))
        .collect();
    let artifact = ClassifierArtifact {
        spec: spec.clone(),
        positive_class: spec.positive.clone(),
        eligible,
        schedule: data.schedule,
        recency: data.recency,
        definitions,
        terms: ours.fitted.preprocessing.terms().into_iter().map(|(name, _)| name).collect(),
        preprocessing: ours.fitted.preprocessing,
        estimator: ours.fitted.estimator,
        configuration: ships,
        shipped,
        tested: ours.calibrated,
        lapsed,
        reference,
        metrics: metrics.test.metrics.clone(),
    };
    Ok(TrainedClassifier { artifact, metrics, predictions })
}

/// The rows and snapshots of one fit, by their use.
struct Split<'a> {
    data: &'a ClassifierData,
    folds: &'a [Fold],
    /// Rows of the training snapshots.
    chosen_on: Rows,
    /// Rows of all snapshots whose outcomes had ended at the test snapshot.
    rows: Rows,
    calibration: &'a Snapshot,
    test: &'a Snapshot,
}

/// A fit with its calibration, and its predictions of the test snapshot.
struct Tested<'a> {
    fitted: Fitted,
    calibrated: Calibrated,
    /// The snapshots of the folds and the calibration snapshot, which the calibration is fitted on.
    past: Vec<OutOfTime>,
    /// All snapshots before the test snapshot.
    base_rates: BaseRates<'a>,
    test: OutOfTime,
    probabilities: Vec<f64>,
}

impl<'a> Tested<'a> {
    fn new(
        spec: &'a ClassifierSpec,
        inputs: &Inputs,
        chosen: &Chosen,
        split: &Split,
    ) -> Result<Self> {
        let (calibration, test) = (split.calibration, split.test);
        let schedule = &split.data.schedule;
        let fit = |rows: &Rows| fit(&spec.fit, inputs, &chosen.configuration, rows);
        let (earlier, fitted) = rayon::join(|| fit(&split.chosen_on), || fit(&split.rows));
        let (earlier, fitted) = (earlier?, fitted?);
        let mut fits = past_fits(&spec.fit, chosen, split.folds)?;
        let mut past = backtest(&fits, split.folds, &fitted);
        let predicted = |as_of, by: &Fitted, snapshot: &Snapshot| {
            let (logits, ships) = (by.logits(&snapshot.inputs), fitted.logits(&snapshot.inputs));
            OutOfTime::new(as_of, logits, &ships, snapshot.labels.clone())
        };
        past.push(predicted(schedule.calibration, &earlier, calibration));
        fits.push(PastFit { until: schedule.calibration, fitted: earlier });
        let before = before_test(spec, split.data, &fits, &fitted);
        let base_rates = BaseRates::new(&spec.label, before);
        let shape =
            calibrate(&past.iter().collect::<Vec<_>>(), Kind::Chosen(spec.calibration.method));
        let calibrated = base_rates.calibrated(shape, schedule.test);
        let test = predicted(schedule.test, &fitted, test);
        let probabilities = test.logits.iter().map(|raw| calibrated.probability(*raw)).collect();
        Ok(Self { fitted, calibrated, past, base_rates, test, probabilities })
    }
}

/// Predicts a sample of the rows of each snapshot before the test snapshot, for its base rate.
///
/// Each snapshot is predicted by the latest of `fits` whose outcomes had ended by then, as the test snapshot is by
/// the fit that ships. A snapshot that ended before all rows of the fits is predicted by the first of them. Of other
/// snapshots nothing is known that was not fitted on them, so that they are left out.
fn before_test(
    spec: &ClassifierSpec,
    data: &ClassifierData,
    fits: &[PastFit],
    ships: &Fitted,
) -> Vec<OutOfTime> {
    let outcome = spec.label.gap.plus(spec.label.horizon);
    let instants = data.schedule.base_rate.iter().copied().chain(data.schedule.all());
    let before = data.snapshots.split_last().map_or(&[][..], |(_, before)| before);
    let snapshots = instants.zip(data.base_rate.iter().chain(before));
    let predicted = snapshots.filter_map(|(as_of, snapshot)| {
        let precedes_all =
            data.schedule.training.first().is_some_and(|t| as_of.plus(outcome) <= *t);
        let latest = fits.iter().rfind(|fit| fit.until <= as_of);
        let by = latest.or(fits.first().filter(|_| precedes_all))?;
        let rows: Vec<usize> = (0..snapshot.labels.len().min(BASE_RATE_ROWS)).collect();
        let labels = snapshot.labels[..rows.len()].to_vec();
        let inputs = snapshot.inputs.select(&rows);
        let (logits, ships) = (by.fitted.logits(&inputs), ships.logits(&inputs));
        (!labels.is_empty()).then(|| OutOfTime::new(as_of, logits, &ships, labels))
    });
    predicted.collect()
}

/// Lists the inputs of a classifier in the order of the gathered columns.
fn inputs(classifier: &Classifier, catalog: &Catalog, levels: &[Vec<String>]) -> Inputs {
    let spec = &classifier.spec.inputs;
    let everywhere = spec.shape.unwrap_or(ShapeChoice::Auto);
    let numbers = classifier.inputs.iter().map(|name| Candidate {
        column: name.clone(),
        group: catalog.get(name).map_or(name.as_str(), |feature| feature.group.as_str()).to_owned(),
        shape: spec.shapes.get(name).copied().unwrap_or(everywhere),
        levels: None,
    });
    let attributes = spec.attributes.iter().zip(levels).map(|(name, levels)| Candidate {
        column: name.clone(),
        group: name.clone(),
        shape: ShapeChoice::Simple,
        levels: Some(levels.clone()),
    });
    let place = |name: &String| classifier.inputs.iter().position(|input| input == name);
    let pairs = spec.interactions.iter();
    Inputs {
        candidates: numbers.chain(attributes).collect(),
        interactions: pairs.filter_map(|[a, b]| Some([place(a)?, place(b)?])).collect(),
    }
}

/// Sorts the rows of each snapshot by the hash of the key. Without this, the partitions of the events
/// would decide the order of the sums in a fit, and events after the as-of can change the partitions.
fn order_by_hash(data: &mut ClassifierData) {
    data.snapshots.par_iter_mut().chain(&mut data.base_rate).for_each(|snapshot| {
        let mut order: Vec<usize> = (0..snapshot.hashes.len()).collect();
        order.sort_by_key(|row| snapshot.hashes[*row]);
        snapshot.select(&order);
        snapshot.lapsed.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.2.cmp(&b.2)));
    });
}

fn positives(snapshot: &Snapshot) -> f64 {
    snapshot.labels.iter().filter(|label| **label).count() as f64
}

/// The recency in days of customers without any past event.
const LONG_AGO: f64 = 1e6;

/// The baseline of recency alone: a probability by Platt scaling of the logarithm of the recency, fitted
/// on the calibration snapshot.
fn recency_alone(
    kind: LabelKind,
    ours: &[f64],
    calibration: &Snapshot,
    test: &Snapshot,
) -> Baseline {
    let sign = if kind == LabelKind::Absence { 1.0 } else { -1.0 };
    let scores = |snapshot: &Snapshot| -> Vec<f64> {
        let days = snapshot.recency.iter();
        days.map(|days| sign * if days.is_nan() { LONG_AGO } else { *days }.ln_1p()).collect()
    };
    let mut platt = Platt::fit(&scores(calibration), &calibration.labels);
    // The baseline ranks as recency does, even if the calibration snapshot by chance shows the opposite.
    platt.slope = platt.slope.max(1e-3);
    let platt = Calibration::Platt(platt);
    let theirs: Vec<f64> = scores(test).iter().map(|x| platt.probability(*x, 0.0)).collect();
    Baseline::of("recency alone", ours, &theirs, &test.labels)
}

/// Compares with the champion on the same rows, with the calibration that it was tested with. Returns
/// `None` if the champion predicts another label.
fn champion_on(
    spec: &ClassifierSpec,
    champion: Champion,
    ours: &Tested,
    data: &ClassifierData,
    test: &Snapshot,
) -> Option<Baseline> {
    if champion.artifact.spec.label != spec.label {
        return None;
    }
    let logits: Option<Vec<f64>> =
        test.hashes.iter().map(|hash| data.champion.get(hash).copied()).collect();
    let theirs: Vec<f64> =
        logits?.iter().map(|raw| champion.artifact.tested.probability(*raw)).collect();
    Some(Baseline::of(champion.version, &ours.probabilities, &theirs, &test.labels))
}

fn predictions(test: &Snapshot, ours: &Tested) -> Vec<TestPrediction> {
    let rows = test.keys.iter().zip(&test.labels);
    rows.zip(ours.test.logits.iter().zip(&ours.probabilities))
        .map(|((key, label), (raw, probability))| TestPrediction {
            key: key.clone(),
            raw: *raw,
            probability: *probability,
            label: *label,
        })
        .collect()
}

/// Chooses the length for `auto` eligibility and moves the customers beyond it to the lapsed ones.
fn resolve_eligible(
    classifier: &Classifier,
    data: &mut ClassifierData,
) -> Result<ResolvedEligible> {
    let within = match &classifier.eligible {
        Eligible::Where(condition) => return Ok(ResolvedEligible::Where(condition.clone())),
        Eligible::Within(length) => return Ok(ResolvedEligible::Within(*length)),
        Eligible::Auto => {
            let rank = (data.gaps.len() as f64 * 0.9).ceil() as usize;
            let days = data.gaps.values()?.nth(rank.saturating_sub(1)).transpose()?;
            let days = days.unwrap_or(365.0);
            let days = days.clamp(SHORTEST_AUTO.as_days(), LONGEST_AUTO.as_days());
            Duration::days(days.ceil() as i64)
        }
    };
    for snapshot in data.snapshots.iter_mut().chain(&mut data.base_rate) {
        let (mut kept, mut beyond) = (Vec::new(), Vec::new());
        for row in 0..snapshot.recency.len() {
            let list =
                if snapshot.recency[row] <= within.as_days() { &mut kept } else { &mut beyond };
            list.push(row);
        }
        let lapsed = beyond
            .iter()
            .map(|row| (snapshot.hashes[*row], snapshot.recency[*row], snapshot.labels[*row]));
        snapshot.lapsed.extend(lapsed);
        snapshot.select(&kept);
        snapshot.within(within);
    }
    Ok(ResolvedEligible::Within(within))
}

fn funnel(data: &ClassifierData) -> Vec<Funnel> {
    let schedule = &data.schedule;
    let uses = schedule.training.iter().map(|_| "training");
    let uses = uses.chain(schedule.later.iter().map(|_| "refit")).chain(["calibration", "test"]);
    let instants = data.schedule.all();
    instants
        .iter()
        .zip(&data.snapshots)
        .zip(uses)
        .map(|((as_of, snapshot), used_for)| {
            let [negatives, positives] = snapshot.classes();
            let eligible = negatives + positives;
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
        ("calibration", &funnel[funnel.len() - 2..funnel.len() - 1]),
        ("test", &funnel[funnel.len() - 1..]),
    ];
    for (name, rows) in spans {
        let positives: usize = rows.iter().map(|row| row.positives).sum();
        let negatives: usize = rows.iter().map(|row| row.eligible - row.positives).sum();
        if positives < least || negatives < least {
            let customers = rows.iter().map(|row| row.customers).max().unwrap_or(0);
            let problem = TrainingProblem::FewOfAClass {
                model: classifier.spec.name.clone(),
                file: classifier.file.clone(),
                positive_class: classifier.spec.positive.clone(),
                rows: name,
                positives,
                negatives,
                customers,
                required: least,
            };
            return Err(problem.into());
        }
    }
    Ok(())
}

/// Returns an error if a class has too few rows left in a sample.
fn check_sampled(classifier: &Classifier, rows: &Rows) -> Result<()> {
    let positives = rows.labels.iter().filter(|label| **label).count();
    let least = positives.min(rows.labels.len() - positives);
    if least >= classifier.spec.fit.minimum_class {
        return Ok(());
    }
    let problem = TrainingProblem::FewSampled {
        model: classifier.spec.name.clone(),
        file: classifier.file.clone(),
        positives,
        rows: rows.labels.len(),
        required: classifier.spec.fit.minimum_class,
    };
    Err(problem.into())
}

/// Fits the observed rate of y = 1 among customers who are not eligible, monotone in the days since their
/// last label event. The rate rises with the days if the label is an absence, and falls if it is a
/// presence.
fn lapsed_rate(kind: LabelKind, snapshots: &[Snapshot]) -> Option<Isotonic> {
    let sign = if kind == LabelKind::Absence { 1.0 } else { -1.0 };
    let rows = snapshots.iter().flat_map(|snapshot| &snapshot.lapsed);
    let (x, labels): (Vec<f64>, Vec<bool>) =
        rows.map(|(_, days, label)| (sign * days, *label)).unzip();
    (!x.is_empty()).then(|| {
        let rows = LAPSED_ROWS.max(x.len() / LAPSED_STEPS);
        Isotonic::fit(&x, &labels, rows, 0.5)
    })
}

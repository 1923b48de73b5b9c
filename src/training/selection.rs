//! Makes every choice of a fit by purged time-ordered folds inside the training snapshots: the shapes of
//! inputs, the penalty, and the size of trees. The test snapshot is not used.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::gather::Snapshot;
use super::sampling::Share;
use crate::artifact::Configuration;
use crate::error::Result;
use crate::models::boosting::{Boosted, Growth};
use crate::models::estimator::Estimator;
use crate::models::logistic::Logistic;
use crate::models::logit::sigmoid;
use crate::models::matrix::Matrix;
use crate::models::metrics::Metrics;
use crate::models::newton::Objective;
use crate::models::preprocessing::shape::ShapeChoice;
use crate::models::preprocessing::{Candidate, Preprocessing};
use crate::spec::{Algorithm, Classifier, FitSpec};
use crate::time::{Duration, Instant};

/// The maximum number of folds. The latest ones are taken.
const FOLDS: usize = 5;
/// The divisor of the row limit of a fit that gives the row limit of a fold.
const FOLD_SHARE: usize = 5;
/// The divisor of the row limit of a fit for the algorithm that is fitted only for comparison.
const COMPARED_SHARE: usize = 3;
/// The penalty that is used to compare the shapes of a single input.
const SHAPE_L2: f64 = 1.0;
/// The size of the gradient at which the fit of a single input is accurate enough to be compared.
const SHAPE_TOLERANCE: f64 = 1e-5;
/// The minimum sum of p (1 - p) over the rows of a leaf.
const LEAF_WEIGHT: f64 = 10.0;

/// The result of a configuration on one fold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoldScore {
    /// The snapshot that was predicted from the snapshots whose outcomes had ended at its as-of.
    pub as_of: Instant,
    /// The number of predicted rows.
    pub rows: usize,
    /// The mean log loss.
    pub log_loss: f64,
    /// The area under the ROC curve.
    pub roc_auc: f64,
    /// The average precision.
    pub average_precision: f64,
}

/// A configuration that was tried, with its results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    /// The configuration.
    pub configuration: Configuration,
    /// The mean log loss over the folds; `None` if there was no fold.
    pub log_loss: Option<f64>,
    /// The results of the folds in time order.
    pub folds: Vec<FoldScore>,
}

/// The shapes that were tried for one input alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TriedShape {
    /// The column of the input.
    pub column: String,
    /// The name of each shape, with its mean log loss over the folds.
    pub log_loss: Vec<(String, f64)>,
    /// The name of the chosen shape.
    pub chosen: String,
}

/// A configuration that was tried, with its fit on each fold.
#[derive(Debug)]
struct Trial {
    tried: Tried,
    fits: Vec<Fitted>,
}

/// The best configuration of an algorithm, with its fit on the earlier rows of each fold. The fits of a
/// logistic model are only as accurate as their comparison required.
#[derive(Debug)]
pub struct Chosen {
    /// The configuration.
    pub configuration: Configuration,
    /// The fits in the order of the folds.
    pub fits: Vec<Fitted>,
}

/// The choices that the folds made.
#[derive(Debug)]
pub struct Selection {
    /// The folds in time order.
    pub folds: Vec<Fold>,
    /// The algorithm that ships.
    pub algorithm: Algorithm,
    /// The inputs with their shapes.
    pub candidates: Vec<Candidate>,
    /// The best logistic configuration.
    pub logistic: Chosen,
    /// The best configuration of trees; `None` if trees were not tried.
    pub gbdt: Option<Chosen>,
    /// All configurations that were tried.
    pub tried: Vec<Tried>,
    /// The shapes that were tried for single inputs.
    pub shapes: Vec<TriedShape>,
}

/// A fitted model: preprocessing of raw rows, followed by an estimator.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// The preprocessing that turns raw rows into columns.
    pub preprocessing: Preprocessing,
    /// The estimator that turns columns into logits.
    pub estimator: Estimator,
}

impl Fitted {
    /// Computes the logits of raw rows.
    pub fn logits(&self, rows: &Matrix) -> Vec<f64> {
        self.estimator.logits(&self.preprocessing.transform(rows))
    }
}

/// The inputs of a classifier before they are fitted, and the pairs of inputs that interact.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The candidates in the order of the raw columns.
    pub candidates: Vec<Candidate>,
    /// The interacting pairs, as indices of the inputs.
    pub interactions: Vec<[usize; 2]>,
}

/// Rows of raw inputs with labels.
#[derive(Debug)]
pub struct Rows {
    /// The raw inputs.
    pub inputs: Matrix,
    /// The labels.
    pub labels: Vec<bool>,
    /// The hashes of the customers' keys.
    pub hashes: Vec<u64>,
}

/// Joins the rows of some snapshots. Above `limit` rows, a sample of the customers is taken.
pub fn sample(snapshots: &[&Snapshot], limit: usize) -> Rows {
    let total: usize =
        snapshots.iter().map(|snapshot| snapshot.classes().iter().sum::<usize>()).sum();
    let share = Share::of(limit, total);
    let width = snapshots.first().map_or(0, |snapshot| snapshot.inputs.width);
    let mut rows = Rows { inputs: Matrix::new(width), labels: Vec::new(), hashes: Vec::new() };
    for snapshot in snapshots {
        for (row, hash) in snapshot.hashes.iter().enumerate() {
            if share.has(*hash) {
                rows.inputs.push(snapshot.inputs.row(row).iter().copied());
                rows.labels.push(snapshot.labels[row]);
                rows.hashes.push(*hash);
            }
        }
    }
    rows
}

/// Converts a penalty on the summed loss, such as scikit-learn's 1 / C, into a penalty on the mean loss.
/// A weighted row counts as often as its weight says.
pub fn per_row(l2: f64, rows: &Rows, class_weights: [f64; 2]) -> f64 {
    let weights = rows.labels.iter().map(|label| class_weights[usize::from(*label)]);
    l2 / weights.sum::<f64>().max(1.0)
}

/// The row limit of the algorithm that does not ship.
pub fn compared(spec: &FitSpec) -> usize {
    (spec.max_rows / COMPARED_SHARE).max(1)
}

/// Fits one configuration.
pub fn fit(
    spec: &FitSpec,
    inputs: &Inputs,
    configuration: &Configuration,
    rows: &Rows,
) -> Result<Fitted> {
    let class_weights = spec.class_weight.of(&rows.labels);
    match configuration {
        Configuration::Logistic { l2, .. } => {
            let (preprocessing, columns) = Preprocessing::fit_transform(
                &inputs.candidates,
                &inputs.interactions,
                &rows.inputs,
                &rows.labels,
            );
            let objective = Objective {
                rows: &columns,
                labels: &rows.labels,
                class_weights,
                l2: per_row(*l2, rows, class_weights),
            };
            let estimator = Estimator::Logistic(Logistic::fit(objective, None)?);
            Ok(Fitted { preprocessing, estimator })
        }
        Configuration::Gbdt(growth) => {
            let preprocessing = Preprocessing::plain(&inputs.candidates, &rows.inputs);
            let columns = preprocessing.transform(&rows.inputs);
            let model = Boosted::fit(&columns, &rows.labels, class_weights, *growth)?;
            Ok(Fitted { preprocessing, estimator: Estimator::Gbdt(model) })
        }
    }
}

/// Fits a logistic model on the earlier rows of a fold to convergence, from a fit that was only as accurate as a
/// comparison required. Trees are what they are.
pub fn converged(
    spec: &FitSpec,
    configuration: &Configuration,
    fitted: &Fitted,
    fold: &Fold,
) -> Result<Fitted> {
    let (Configuration::Logistic { l2, .. }, Estimator::Logistic(start)) =
        (configuration, &fitted.estimator)
    else {
        return Ok(fitted.clone());
    };
    let labels = &fold.earlier.labels;
    let class_weights = spec.class_weight.of(labels);
    let rows = &fitted.preprocessing.transform(&fold.earlier.inputs);
    let l2 = per_row(*l2, &fold.earlier, class_weights);
    let model = Logistic::fit(Objective { rows, labels, class_weights, l2 }, Some(start))?;
    let preprocessing = fitted.preprocessing.clone();
    Ok(Fitted { preprocessing, estimator: Estimator::Logistic(model) })
}

/// A snapshot to predict, with the rows of the snapshots whose outcomes had ended at its as-of.
#[derive(Debug)]
pub struct Fold {
    /// The as-of of the snapshot.
    pub as_of: Instant,
    /// The rows of the earlier snapshots.
    pub earlier: Rows,
    /// The rows of the snapshot itself.
    pub later: Rows,
}

/// Builds folds from the latest snapshots whose outcome windows do not overlap, each with the rows before
/// it.
fn folds(classifier: &Classifier, snapshots: &[(Instant, &Snapshot)]) -> Vec<Fold> {
    let spec = &classifier.spec;
    let outcome: Duration = spec.label.gap.plus(spec.label.horizon);
    let limit = (spec.fit.max_rows / FOLD_SHARE).max(1);
    let mut folds: Vec<Fold> = Vec::new();
    for (at, snapshot) in snapshots.iter().rev() {
        if folds.len() == FOLDS || folds.last().is_some_and(|next| at.plus(outcome) > next.as_of) {
            continue;
        }
        let ended = snapshots.iter().filter(|(t, _)| t.plus(outcome) <= *at);
        let earlier: Vec<&Snapshot> = ended.map(|(_, snapshot)| *snapshot).collect();
        let fold = Fold {
            as_of: *at,
            earlier: sample(&earlier, limit),
            later: sample(&[snapshot], limit),
        };
        let both = |rows: &Rows| rows.labels.contains(&true) && rows.labels.contains(&false);
        if both(&fold.earlier) && both(&fold.later) {
            folds.push(fold);
        }
    }
    folds.reverse();
    folds
}

/// The mean log loss of each fold, by a logistic fit with the middle penalty of the spec.
///
/// # Errors
/// Returns an error if a fit fails.
pub fn fold_losses(
    classifier: &Classifier,
    inputs: &Inputs,
    snapshots: &[(Instant, &Snapshot)],
) -> Result<Vec<(Instant, f64)>> {
    let spec = &classifier.spec.fit;
    let l2 = spec.l2.get(spec.l2.len() / 2).copied().unwrap_or(SHAPE_L2);
    let configuration = Configuration::Logistic { shapes: "simple".to_owned(), l2 };
    let loss = |fold: &Fold| {
        let fitted = fit(spec, inputs, &configuration, &fold.earlier)?;
        Ok((fold.as_of, log_loss(&fitted.logits(&fold.later.inputs), &fold.later.labels)))
    };
    folds(classifier, snapshots).par_iter().map(loss).collect()
}

/// Makes every choice on the training snapshots, which are given in time order.
pub fn select(
    classifier: &Classifier,
    mut inputs: Inputs,
    snapshots: &[(Instant, &Snapshot)],
) -> Result<Selection> {
    let spec = &classifier.spec;
    let folds = folds(classifier, snapshots);
    let shapes = choose_shapes(&mut inputs, &folds)?;
    let curved = |c: &Candidate| !matches!(c.shape, ShapeChoice::Simple);
    let chosen = match (shapes.is_empty(), folds.is_empty()) {
        (true, _) => "given",
        // Nothing was chosen, so every input with `auto` is simple.
        (false, true) => "simple",
        (false, false) => "chosen",
    };
    let mut trials = try_penalties(&spec.fit, &inputs, chosen, &folds)?;
    let mut candidates = inputs.candidates.clone();
    let mut tried = Vec::new();
    // Shapes that help single inputs need not help the whole model.
    if !shapes.is_empty() && inputs.candidates.iter().any(curved) {
        let mut simple = inputs.clone();
        for shape in &shapes {
            let found = simple.candidates.iter_mut().find(|c| c.column == shape.column);
            found.into_iter().for_each(|candidate| candidate.shape = ShapeChoice::Simple);
        }
        let mut others = try_penalties(&spec.fit, &simple, "simple", &folds)?;
        tried.extend(trials.iter().chain(&others).map(|trial| trial.tried.clone()));
        if loss(best(&others)) <= loss(best(&trials)) {
            candidates = simple.candidates;
            std::mem::swap(&mut trials, &mut others);
        }
    } else {
        tried.extend(trials.iter().map(|trial| trial.tried.clone()));
    }
    let trees = spec.fit.compare || spec.algorithm != Algorithm::Logistic;
    let grown = if trees { try_trees(&spec.fit, &inputs, &folds)? } else { Vec::new() };
    tried.extend(grown.iter().map(|trial| trial.tried.clone()));
    let algorithm = match spec.algorithm {
        Algorithm::Auto if !grown.is_empty() && loss(best(&grown)) < loss(best(&trials)) => {
            Algorithm::Gbdt
        }
        Algorithm::Auto => Algorithm::Logistic,
        named => named,
    };
    let (logistic, gbdt) = (choose(trials), (!grown.is_empty()).then(|| choose(grown)));
    Ok(Selection { folds, algorithm, candidates, logistic, gbdt, tried, shapes })
}

fn loss(trial: &Trial) -> f64 {
    trial.tried.log_loss.unwrap_or(f64::INFINITY)
}

/// The trial with the least loss, or the middle of the list if there are no folds.
fn best(trials: &[Trial]) -> &Trial {
    &trials[best_place(trials)]
}

fn best_place(trials: &[Trial]) -> usize {
    let known = (0..trials.len()).filter(|place| trials[*place].tried.log_loss.is_some());
    let least = known.min_by(|a, b| loss(&trials[*a]).total_cmp(&loss(&trials[*b])));
    least.unwrap_or(trials.len() / 2)
}

fn choose(mut trials: Vec<Trial>) -> Chosen {
    let Trial { tried, fits } = trials.swap_remove(best_place(&trials));
    Chosen { configuration: tried.configuration, fits }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let count = values.len() as f64;
    (count > 0.0).then(|| values.sum::<f64>() / count)
}

fn log_loss(logits: &[f64], labels: &[bool]) -> f64 {
    let losses = logits.iter().zip(labels).map(|(z, label)| {
        // ln(1 + e^z) - y z, without overflow.
        z.max(0.0) + (-z.abs()).exp().ln_1p() - f64::from(u8::from(*label)) * z
    });
    losses.sum::<f64>() / labels.len() as f64
}

/// Tries the shapes of each input with `auto`, alone. The simple shape is kept unless another has a lower
/// loss by more than one standard error of the differences over the folds.
fn choose_shapes(inputs: &mut Inputs, folds: &[Fold]) -> Result<Vec<TriedShape>> {
    const SHAPES: [ShapeChoice; 3] = [ShapeChoice::Simple, ShapeChoice::Spline, ShapeChoice::Bins];
    let tried: Vec<Option<TriedShape>> = inputs
        .candidates
        .par_iter_mut()
        .enumerate()
        .map(|(column, candidate)| {
            if candidate.shape != ShapeChoice::Auto || candidate.levels.is_some() {
                return Ok(None);
            }
            let mut losses: Vec<(ShapeChoice, Vec<f64>)> = SHAPES.map(|s| (s, Vec::new())).into();
            for fold in folds {
                let of_column = |rows: &Rows| rows.inputs.columns(&[column]);
                let (earlier, later) = (of_column(&fold.earlier), of_column(&fold.later));
                for (shape, losses) in &mut losses {
                    let alone = [Candidate { shape: *shape, ..candidate.clone() }];
                    losses.push(alone_loss(&alone, fold, &earlier, &later));
                }
            }
            let simple = losses[0].1.clone();
            let better = losses.iter().filter(|(_, losses)| surely_less(losses, &simple, 1.0));
            let sum = |losses: &[f64]| losses.iter().sum::<f64>();
            let chosen = better.min_by(|a, b| sum(&a.1).total_cmp(&sum(&b.1)));
            candidate.shape = chosen.map_or(ShapeChoice::Simple, |(shape, _)| *shape);
            let means = losses.iter().filter_map(|(shape, losses)| {
                Some((shape.name().to_owned(), mean(losses.iter().copied())?))
            });
            Ok(Some(TriedShape {
                column: candidate.column.clone(),
                log_loss: means.collect(),
                chosen: candidate.shape.name().to_owned(),
            }))
        })
        .collect::<Result<_>>()?;
    Ok(tried.into_iter().flatten().collect())
}

/// Computes the log loss on a fold of a model with one input, whose values are `earlier` and `later`.
fn alone_loss(alone: &[Candidate], fold: &Fold, earlier: &Matrix, later: &Matrix) -> f64 {
    let labels = &fold.earlier.labels;
    let (preprocessing, rows) = Preprocessing::fit_transform(alone, &[], earlier, labels);
    let l2 = per_row(SHAPE_L2, &fold.earlier, [1.0; 2]);
    let objective = Objective { rows: &rows, labels, class_weights: [1.0; 2], l2 };
    let start = vec![0.0; rows.width + 1];
    let mut weights =
        if rows.width == 0 { start } else { objective.minimize_to(start, SHAPE_TOLERANCE).weights };
    let intercept = weights.pop().unwrap_or_default();
    let model = Logistic { intercept, coefficients: weights };
    log_loss(&model.logits(&preprocessing.transform(later)), &fold.later.labels)
}

/// Whether the mean of the differences is below zero by more than `errors` times its standard error.
pub fn surely_less(losses: &[f64], others: &[f64], errors: f64) -> bool {
    let differences: Vec<f64> = losses.iter().zip(others).map(|(a, b)| a - b).collect();
    let count = differences.len() as f64;
    if count < 2.0 {
        return false;
    }
    let mean = differences.iter().sum::<f64>() / count;
    let squares = differences.iter().map(|d| (d - mean) * (d - mean)).sum::<f64>();
    mean + errors * (squares / (count - 1.0) / count).sqrt() < 0.0
}

/// Tries each penalty on each fold, from the strongest to the weakest. Each fit starts at the solution of
/// the one before.
fn try_penalties(
    spec: &FitSpec,
    inputs: &Inputs,
    shapes: &str,
    folds: &[Fold],
) -> Result<Vec<Trial>> {
    let mut penalties = spec.l2.clone();
    penalties.sort_by(|a, b| b.total_cmp(a));
    let of_folds: Vec<Vec<(FoldScore, Fitted)>> = folds
        .par_iter()
        .map(|fold| {
            let (rows, labels) = (&fold.earlier.inputs, &fold.earlier.labels);
            let (preprocessing, rows) = Preprocessing::fit_transform(
                &inputs.candidates,
                &inputs.interactions,
                rows,
                labels,
            );
            let later = preprocessing.transform(&fold.later.inputs);
            let class_weights = spec.class_weight.of(labels);
            let mut start: Option<Logistic> = None;
            let mut tried = Vec::new();
            for l2 in &penalties {
                let l2 = per_row(*l2, &fold.earlier, class_weights);
                let objective = Objective { rows: &rows, labels, class_weights, l2 };
                let model = Logistic::roughly(objective, start.as_ref())?;
                let score = fold_score(fold, &model.logits(&later), class_weights);
                start = Some(model.clone());
                let estimator = Estimator::Logistic(model);
                tried.push((score, Fitted { preprocessing: preprocessing.clone(), estimator }));
            }
            Ok(tried)
        })
        .collect::<Result<_>>()?;
    let mut of_folds: Vec<_> = of_folds.into_iter().map(Vec::into_iter).collect();
    let trial = |l2: f64| {
        let (folds, fits): (Vec<FoldScore>, Vec<Fitted>) =
            of_folds.iter_mut().filter_map(Iterator::next).unzip();
        let configuration = Configuration::Logistic { shapes: shapes.to_owned(), l2 };
        let log_loss = mean(folds.iter().map(|fold| fold.log_loss));
        Trial { tried: Tried { configuration, log_loss, folds }, fits }
    };
    Ok(penalties.into_iter().map(trial).collect())
}

/// Computes the metrics of a fold after the shift by class weights is removed from its logits.
fn fold_score(fold: &Fold, logits: &[f64], class_weights: [f64; 2]) -> FoldScore {
    let added = (class_weights[1] / class_weights[0]).ln();
    let probabilities: Vec<f64> = logits.iter().map(|z| sigmoid(z - added)).collect();
    let metrics = Metrics::of(&probabilities, &fold.later.labels);
    FoldScore {
        as_of: fold.as_of,
        rows: metrics.rows,
        log_loss: metrics.log_loss,
        roc_auc: metrics.roc_auc,
        average_precision: metrics.average_precision,
    }
}

/// Tries each number of leaves, with the number of trees at which the loss over all folds is least.
fn try_trees(spec: &FitSpec, inputs: &Inputs, folds: &[Fold]) -> Result<Vec<Trial>> {
    let columns: Vec<(Preprocessing, Matrix, Matrix)> = folds
        .par_iter()
        .map(|fold| {
            let plain = Preprocessing::plain(&inputs.candidates, &fold.earlier.inputs);
            let transform = |rows: &Rows| plain.transform(&rows.inputs);
            let (earlier, later) = (transform(&fold.earlier), transform(&fold.later));
            (plain, earlier, later)
        })
        .collect();
    let try_leaves = |leaves: &usize| {
        let growth = Growth {
            trees: spec.trees,
            leaves: *leaves,
            learning_rate: spec.learning_rate,
            leaf_weight: LEAF_WEIGHT,
        };
        let grown: Vec<(Boosted, Vec<f64>)> = folds
            .par_iter()
            .zip(&columns)
            .map(|(fold, (_, earlier, later))| {
                let (earlier, later) =
                    ((earlier, &*fold.earlier.labels), (later, &*fold.later.labels));
                Boosted::grow(earlier, later, spec.class_weight.of(earlier.1), growth)
            })
            .collect::<Result<_>>()?;
        let trees = least_loss(grown.iter().map(|(_, losses)| losses.as_slice()));
        // Without folds there is no rule for when to stop, and too few trees cost less than too many.
        let growth = Growth { trees: trees.unwrap_or(spec.trees.div_ceil(4)), ..growth };
        let of_folds = folds.iter().zip(&columns).zip(grown);
        let (scores, fits): (Vec<FoldScore>, Vec<Fitted>) = of_folds
            .map(|((fold, (plain, _, later)), (model, _))| {
                let weights = spec.class_weight.of(&fold.earlier.labels);
                let model = model.first(growth.trees);
                let score = fold_score(fold, &model.logits(later), weights);
                let estimator = Estimator::Gbdt(model);
                (score, Fitted { preprocessing: plain.clone(), estimator })
            })
            .unzip();
        let configuration = Configuration::Gbdt(growth);
        let log_loss = mean(scores.iter().map(|fold| fold.log_loss));
        Ok(Trial { tried: Tried { configuration, log_loss, folds: scores }, fits })
    };
    spec.leaves.par_iter().map(try_leaves).collect()
}

/// Finds the number of trees with the least loss summed over the folds. Only numbers of trees that all
/// folds have grown are compared.
fn least_loss<'a>(folds: impl Iterator<Item = &'a [f64]> + Clone) -> Option<usize> {
    let grown = folds.clone().map(<[f64]>::len).min()?;
    let sum = |tree: usize| folds.clone().map(|losses| losses[tree]).sum::<f64>();
    let sums = (0..grown).map(sum).enumerate();
    sums.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(tree, _)| tree + 1)
}

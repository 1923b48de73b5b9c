//! Inspects a fitted model: importance, coefficients, curves, drift of its inputs, slices and leaks.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::evaluation::bootstrap::{Drawable, Interval};
use super::evaluation::tables::{self, Slice};
use super::gather::{ClassifierData, SliceRow, Snapshot};
use super::selection::{Fitted, Rows};
use crate::artifact::Calibrated;
use crate::features::drift::{Distribution, Drift};
use crate::models::estimator::Estimator;
use crate::models::matrix::Matrix;
use crate::models::metrics::RankMetrics;
use crate::models::newton::Objective;
use crate::models::preprocessing::drawn_at;
use crate::models::preprocessing::shape::Shape;
use crate::training::metrics::{Coefficient, Importance, InputCurve, LeakSuspect};

/// The maximum number of test rows that importance is computed on.
const IMPORTANCE_ROWS: usize = 20_000;
/// The seed of every shuffle.
const SEED: u64 = 0x1397;
/// The maximum number of curves that are shown.
const CURVES: usize = 12;
/// The area under the ROC curve above which a single input is suspected of a leak.
const LEAK_AUC: f64 = 0.95;
/// The approximate number of rows, from all snapshots, on which a leak is looked for, and the number of
/// quantile bins of a number.
const LEAK_ROWS: usize = 20_000;
const LEAK_BINS: usize = 20;

/// Computes how much the predictions of the test rows get worse if the inputs of one group are shuffled.
/// The group that matters most comes first.
pub fn importance(fitted: &Fitted, calibrated: &Calibrated, test: &Snapshot) -> Vec<Importance> {
    let rows = test.labels.len().min(IMPORTANCE_ROWS);
    let some: Vec<usize> = (0..rows).collect();
    let (inputs, labels) = (test.inputs.select(&some), &test.labels[..rows]);
    let once = vec![1; rows];
    let evaluate = |columns: &Matrix| {
        let logits = fitted.estimator.logits(columns);
        let p: Vec<f64> = logits.iter().map(|raw| calibrated.probability(*raw)).collect();
        Drawable::new(&p, labels).metrics(&once)
    };
    let columns = fitted.preprocessing.transform(&inputs);
    let whole = evaluate(&columns);
    let mut groups: Vec<&str> = Vec::new();
    for input in &fitted.preprocessing.inputs {
        if !groups.contains(&input.group.as_str()) {
            groups.push(&input.group);
        }
    }
    let mut list: Vec<Importance> = groups
        .par_iter()
        .enumerate()
        .map(|(number, group)| {
            let mut random = ChaCha8Rng::seed_from_u64(SEED);
            random.set_stream(number as u64);
            let mut from = some.clone();
            from.shuffle(&mut random);
            let (mut shuffled, mut columns) = (inputs.clone(), columns.clone());
            let own = fitted.preprocessing.inputs.iter().enumerate();
            let own = own.filter(|(_, input)| input.group == **group);
            let own: Vec<usize> = own.map(|(column, _)| column).collect();
            for (row, other) in from.iter().enumerate() {
                let values = shuffled.row_mut(row);
                own.iter().for_each(|column| values[*column] = inputs.row(*other)[*column]);
            }
            fitted.preprocessing.update(&shuffled, &own, &mut columns);
            let without = evaluate(&columns);
            Importance {
                group: (*group).to_owned(),
                log_loss: without.log_loss - whole.log_loss,
                average_precision: whole.average_precision - without.average_precision,
            }
        })
        .collect();
    list.sort_by(|a, b| b.log_loss.total_cmp(&a.log_loss).then_with(|| a.group.cmp(&b.group)));
    list
}

/// Lists the terms of a linear model with 95 % intervals, with standard errors clustered by customer. The
/// greatest absolute coefficient comes first.
pub fn coefficients(
    fitted: &Fitted,
    rows: &Rows,
    class_weights: [f64; 2],
    l2: f64,
) -> Vec<Coefficient> {
    let Estimator::Logistic(model) = &fitted.estimator else { return Vec::new() };
    let columns = fitted.preprocessing.transform(&rows.inputs);
    let objective = Objective { rows: &columns, labels: &rows.labels, class_weights, l2 };
    let weights = [model.coefficients.as_slice(), &[model.intercept]].concat();
    let errors = objective.standard_errors(weights, &rows.hashes);
    let terms = fitted.preprocessing.terms().into_iter();
    let mut list: Vec<Coefficient> = terms
        .zip(model.coefficients.iter().zip(errors))
        .map(|((term, group), (coefficient, error))| Coefficient {
            term,
            group,
            coefficient: *coefficient,
            interval: Interval {
                low: coefficient - 1.96 * error,
                high: coefficient + 1.96 * error,
            },
        })
        .collect();
    list.sort_by(|a, b| b.coefficient.abs().total_cmp(&a.coefficient.abs()));
    list
}

/// Computes what the inputs of a linear model add to the logit, by value. The inputs whose contribution
/// varies most are kept.
pub fn curves(fitted: &Fitted, rows: &Matrix) -> Vec<InputCurve> {
    let Estimator::Logistic(model) = &fitted.estimator else { return Vec::new() };
    let preprocessing = &fitted.preprocessing;
    // The value of another input does not change the columns of this one. Interactions are not drawn.
    let mut row = vec![0.0; preprocessing.inputs.len()];
    let mut list: Vec<(f64, InputCurve)> = Vec::new();
    for (number, input) in preprocessing.inputs.iter().enumerate() {
        let mut contribution = |value: f64| {
            row[number] = value;
            let mut columns = Vec::new();
            preprocessing.apply(&row, &mut columns);
            let own = preprocessing.places(number);
            own.map(|column| columns[column] * model.coefficients[column]).sum::<f64>()
        };
        let (value, levels) = match &input.shape {
            Shape::Levels(levels) => {
                let own = (0..levels.own.len()).filter(|level| levels.own[*level]);
                let mut places: Vec<f64> = own.clone().map(|level| level as f64).collect();
                let mut names: Vec<String> = own.map(|level| levels.names[level].clone()).collect();
                places.push(levels.names.len() as f64);
                names.push("another".into());
                (places, names)
            }
            _ => (drawn_at(rows, number), Vec::new()),
        };
        let contributions: Vec<f64> = value.iter().map(|value| contribution(*value)).collect();
        let greatest = contributions.iter().copied().fold(f64::MIN, f64::max);
        let least = contributions.iter().copied().fold(f64::MAX, f64::min);
        let curve = InputCurve {
            column: input.column.clone(),
            shape: input.shape.name().to_owned(),
            contribution: contributions,
            value,
            levels,
            missing: contribution(f64::NAN),
        };
        list.push((greatest - least, curve));
    }
    list.retain(|(spread, _)| *spread > 0.0);
    list.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.column.cmp(&b.1.column)));
    list.into_iter().take(CURVES).map(|(_, curve)| curve).collect()
}

/// Computes the distribution of each raw input over the training rows.
pub fn reference(training: &Matrix) -> Vec<Distribution> {
    let columns = (0..training.width).into_par_iter();
    columns.map(|column| Distribution::of(&training.column(column).collect::<Vec<_>>())).collect()
}

/// Computes how far each input of the test rows has moved from the training rows. The input that has
/// moved most comes first.
pub fn drifts(fitted: &Fitted, reference: &[Distribution], test: &Matrix) -> Vec<Drift> {
    let mut later: Vec<Distribution> = reference.iter().map(Distribution::empty).collect();
    for row in 0..test.len() {
        later.iter_mut().zip(test.row(row)).for_each(|(bins, value)| bins.add(*value));
    }
    crate::artifact::drifts(&fitted.preprocessing, reference, &later)
}

/// Lists the inputs that alone rank the training outcomes almost perfectly. An input ranks either by its
/// value, with missing values as the lowest, or by the rate of its level or quantile bin in the other
/// half of the rows.
pub fn leak_suspects(fitted: &Fitted, rows: &Rows) -> Vec<LeakSuspect> {
    let every = rows.labels.len().div_ceil(LEAK_ROWS).max(1);
    let some: Vec<usize> = (0..rows.labels.len()).step_by(every).collect();
    let labels: Vec<bool> = some.iter().map(|row| rows.labels[*row]).collect();
    if !(labels.contains(&true) && labels.contains(&false)) {
        return Vec::new();
    }
    let names = fitted.preprocessing.inputs.iter().enumerate();
    let suspects = names.filter_map(|(column, input)| {
        let values: Vec<f64> = some.iter().map(|row| rows.inputs.row(*row)[column]).collect();
        let last: Vec<f64> =
            values.iter().map(|value| if value.is_nan() { f64::MIN } else { *value }).collect();
        let auc = RankMetrics::of(&last, &labels).roc_auc;
        let levels = matches!(input.shape, Shape::Levels(_));
        let roc_auc = auc.max(1.0 - auc).max(auc_by_group(&values, &labels, levels));
        let column = input.column.clone();
        (roc_auc > LEAK_AUC).then_some(LeakSuspect { column, roc_auc })
    });
    suspects.collect()
}

/// Computes how well the rates of the groups in one half of the rows rank the other half, as the mean
/// over both halves.
fn auc_by_group(values: &[f64], labels: &[bool], levels: bool) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    let mut edges: Vec<f64> = if levels {
        sorted.clone()
    } else {
        (1..LEAK_BINS).filter_map(|i| sorted.get(i * sorted.len() / LEAK_BINS).copied()).collect()
    };
    edges.dedup();
    // Missing values are a group of their own, which is the last one.
    let group = |value: f64| match value.is_nan() {
        true => edges.len() + 1,
        false => edges.partition_point(|edge| *edge <= value),
    };
    let groups: Vec<usize> = values.iter().map(|value| group(*value)).collect();
    let half = |fitted: usize| {
        let mut counts = vec![[1.0, 0.5]; edges.len() + 2];
        for row in (0..labels.len()).filter(|row| row % 2 == fitted) {
            let [rows, positives] = &mut counts[groups[row]];
            *rows += 1.0;
            *positives += f64::from(u8::from(labels[row]));
        }
        let others = || (0..labels.len()).filter(|row| row % 2 != fitted);
        let rates: Vec<f64> =
            others().map(|row| counts[groups[row]][1] / counts[groups[row]][0]).collect();
        RankMetrics::of(&rates, &others().map(|row| labels[row]).collect::<Vec<_>>()).roc_auc
    };
    (half(0) + half(1)) / 2.0
}

/// Slices the test rows by tenure, recency, value, channel and the attributes that the spec names.
pub fn slices(
    names: &[String],
    data: &ClassifierData,
    test: &Snapshot,
    probabilities: &[f64],
) -> Vec<Slice> {
    let unknown = SliceRow { tenure: f64::NAN, value: f64::NAN, ..SliceRow::default() };
    let rows: Vec<&SliceRow> =
        test.hashes.iter().map(|hash| data.slices.get(hash).unwrap_or(&unknown)).collect();
    let numbers = |value: fn(&SliceRow) -> f64| rows.iter().map(|r| value(r)).collect::<Vec<_>>();
    let mut by: Vec<(String, Vec<Option<String>>)> = vec![
        ("tenure".into(), tables::thirds(&numbers(|row| row.tenure), " d")),
        ("recency".into(), tables::thirds(&test.recency, " d")),
    ];
    let value = numbers(|row| row.value);
    if value.iter().any(|value| !value.is_nan()) {
        by.push(("value over a year".into(), tables::thirds(&value, "")));
    }
    if rows.iter().any(|row| row.channel.is_some()) {
        by.push(("last channel".into(), rows.iter().map(|row| row.channel.clone()).collect()));
    }
    for (number, name) in names.iter().enumerate() {
        let levels = rows.iter().map(|row| row.levels.get(number).cloned().flatten());
        by.push((name.clone(), levels.collect()));
    }
    let sliced = by
        .iter()
        .map(|(name, levels)| tables::slices(name, levels, probabilities, &test.labels))
        .filter(|slices| slices.len() > 1);
    sliced.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A leak is found even if the telling levels or values are in the middle of the order.
    #[test]
    fn a_leak_need_not_be_in_order() {
        let labels: Vec<bool> = (0..3000).map(|i| i % 3 == 1).collect();
        let levels: Vec<f64> = (0..3000).map(|i| f64::from(i % 3)).collect();
        assert!(auc_by_group(&levels, &labels, true) > 0.99);
        let hump: Vec<f64> = (0..3000).map(|i| f64::from(i % 3) + f64::from(i) / 1e5).collect();
        assert!(auc_by_group(&hump, &labels, false) > 0.95);
        let missing: Vec<f64> =
            labels.iter().map(|label| if *label { f64::NAN } else { 1.0 }).collect();
        assert!(auc_by_group(&missing, &labels, false) > 0.99);
        let noise: Vec<f64> = (0..3000).map(|i| f64::from(i * 7919 % 3001)).collect();
        assert!(auc_by_group(&noise, &labels, false) < 0.6);
    }
}

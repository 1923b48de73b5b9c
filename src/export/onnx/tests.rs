//! Compares graphs with the models that they were built from. The operators are evaluated as the ONNX
//! specification defines them. `tests/outside/onnx.py` runs the same comparison with ONNX Runtime on whole
//! stores.

use std::collections::HashMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::graph::{Constant, Graph};
use super::*;
use crate::models::boosting::Growth;
use crate::models::calibration::{CalibrationChoice, Platt};
use crate::models::logistic::Logistic;
use crate::models::matrix::Matrix;
use crate::models::newton::Objective;
use crate::models::preprocessing::Candidate;
use crate::models::preprocessing::shape::ShapeChoice;

/// A table with cells of one kind, in row-major order. Truth values are 0 and 1.
#[derive(Debug, Clone)]
enum Cells {
    Numbers(Vec<f64>),
    Texts(Vec<String>),
}

#[derive(Debug, Clone)]
struct Table {
    columns: usize,
    cells: Cells,
}

impl Table {
    fn numbers(&self) -> &[f64] {
        match &self.cells {
            Cells::Numbers(numbers) => numbers,
            Cells::Texts(_) => panic!("numbers are needed"),
        }
    }

    fn texts(&self) -> &[String] {
        match &self.cells {
            Cells::Texts(texts) => texts,
            Cells::Numbers(_) => panic!("texts are needed"),
        }
    }

    fn rows(&self) -> usize {
        match &self.cells {
            Cells::Numbers(cells) => cells.len() / self.columns,
            Cells::Texts(cells) => cells.len() / self.columns,
        }
    }

    fn of(columns: usize, numbers: Vec<f64>) -> Self {
        Self { columns, cells: Cells::Numbers(numbers) }
    }
}

/// Applies a function cell by cell. A single row or column is repeated for all rows or columns.
fn broadcast(tables: &[&Table], of: impl Fn(&[f64]) -> f64) -> Table {
    let rows = tables.iter().map(|t| t.rows()).max().unwrap();
    let columns = tables.iter().map(|t| t.columns).max().unwrap();
    let mut out = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            let cells = tables.iter().map(|table| {
                let (row, column) = (row % table.rows(), column % table.columns);
                table.numbers()[row * table.columns + column]
            });
            out.push(of(&cells.collect::<Vec<_>>()));
        }
    }
    Table::of(columns, out)
}

fn evaluate(graph: &Graph, given: HashMap<String, Table>) -> HashMap<String, Table> {
    let mut known = given;
    for (name, constant) in &graph.constants {
        let table = match constant {
            Constant::Table(columns, values) => Table::of(*columns, values.clone()),
            Constant::Integers(values) => {
                Table::of(values.len(), values.iter().map(|v| *v as f64).collect())
            }
            Constant::Booleans(values) => {
                Table::of(values.len(), values.iter().map(|v| f64::from(*v)).collect())
            }
            Constant::Text(text) => Table { columns: 1, cells: Cells::Texts(vec![text.clone()]) },
        };
        known.insert(name.clone(), table);
    }
    for node in &graph.nodes {
        let inputs: Vec<&Table> = node.inputs.iter().map(|name| &known[name]).collect();
        let attribute = |name: &str| node.attributes.iter().find(|(n, _)| *n == name).map(|a| &a.1);
        let truth = |truth: bool| f64::from(u8::from(truth));
        let table = match node.op {
            "Add" => broadcast(&inputs, |x| x[0] + x[1]),
            "Sub" => broadcast(&inputs, |x| x[0] - x[1]),
            "Mul" => broadcast(&inputs, |x| x[0] * x[1]),
            "Max" => broadcast(&inputs, |x| if x[0] >= x[1] { x[0] } else { x[1] }),
            "Min" => broadcast(&inputs, |x| if x[0] <= x[1] { x[0] } else { x[1] }),
            "Log" => broadcast(&inputs, |x| x[0].ln()),
            "Sigmoid" => broadcast(&inputs, |x| 1.0 / (1.0 + (-x[0]).exp())),
            "IsNaN" => broadcast(&inputs, |x| truth(x[0].is_nan())),
            "Where" => broadcast(&inputs, |x| if x[0] == 1.0 { x[1] } else { x[2] }),
            "GreaterOrEqual" => broadcast(&inputs, |x| truth(x[0] >= x[1])),
            "Cast" | "Identity" => inputs[0].clone(),
            "Reshape" => {
                let columns = inputs[1].numbers()[1] as usize;
                Table::of(columns, inputs[0].numbers().to_vec())
            }
            "Gather" => {
                let rows = inputs[0].numbers().chunks(inputs[0].columns);
                let picked = rows.flat_map(|r| inputs[1].numbers().iter().map(|c| r[*c as usize]));
                Table::of(inputs[1].columns, picked.collect())
            }
            "Concat" => {
                let row = |row: usize| {
                    inputs.iter().flat_map(move |table| {
                        let from = row * table.columns;
                        table.numbers()[from..from + table.columns].iter().copied()
                    })
                };
                let columns = inputs.iter().map(|table| table.columns).sum();
                Table::of(columns, (0..inputs[0].rows()).flat_map(row).collect())
            }
            "MatMul" => {
                let (a, b) = (inputs[0], inputs[1]);
                let mut out = Vec::new();
                for row in a.numbers().chunks(a.columns) {
                    for column in 0..b.columns {
                        let b = b.numbers().iter().skip(column).step_by(b.columns);
                        out.push(row.iter().zip(b).map(|(x, y)| x * y).sum());
                    }
                }
                Table::of(b.columns, out)
            }
            "StringConcat" => {
                let first = &inputs[0].texts()[0];
                let texts = inputs[1].texts().iter().map(|text| format!("{first}{text}"));
                Table { columns: 1, cells: Cells::Texts(texts.collect()) }
            }
            "OneHotEncoder" => {
                let Some(Attribute::Texts(known)) = attribute("cats_strings") else { panic!() };
                let texts = inputs[0].texts().iter();
                let flags = texts.flat_map(|text| known.iter().map(move |k| truth(k == text)));
                Table::of(known.len(), flags.collect())
            }
            "TreeEnsembleRegressor" => {
                let integers = |name: &str| match attribute(name) {
                    Some(Attribute::Integers(values)) => values.clone(),
                    _ => panic!("{name}"),
                };
                let doubles = |name: &str| match attribute(name) {
                    Some(Attribute::Doubles(values)) => values.clone(),
                    _ => panic!("{name}"),
                };
                let Some(Attribute::Texts(modes)) = attribute("nodes_modes") else { panic!() };
                let (tree, id) = (integers("nodes_treeids"), integers("nodes_nodeids"));
                let place: HashMap<(i64, i64), usize> =
                    (0..id.len()).map(|i| ((tree[i], id[i]), i)).collect();
                let leaf_ids = integers("target_nodeids");
                let leaves: HashMap<(i64, i64), f64> = integers("target_treeids")
                    .into_iter()
                    .zip(leaf_ids)
                    .zip(doubles("target_weights_as_tensor"))
                    .collect();
                let (column, below) =
                    (integers("nodes_featureids"), doubles("nodes_values_as_tensor"));
                let (yes, no) = (integers("nodes_truenodeids"), integers("nodes_falsenodeids"));
                let missing = integers("nodes_missing_value_tracks_true");
                let trees = *tree.iter().max().unwrap();
                let sum = |row: &[f64]| {
                    let leaf = |tree: i64| {
                        let mut node = (tree, 0);
                        loop {
                            let i = place[&node];
                            if modes[i] == "LEAF" {
                                return leaves[&node];
                            }
                            let x = row[column[i] as usize];
                            let is = if x.is_nan() { missing[i] == 1 } else { x < below[i] };
                            node.1 = if is { yes[i] } else { no[i] };
                        }
                    };
                    (0..=trees).map(leaf).sum()
                };
                Table::of(1, inputs[0].numbers().chunks(inputs[0].columns).map(sum).collect())
            }
            other => panic!("no operator {other}"),
        };
        known.insert(node.output.clone(), table);
    }
    known
}

const COUNTRIES: [&str; 4] = ["de", "fr", "li", "nl"];

/// Random rows: numbers with missing values and long tails, and a country that is often missing.
fn data(random: &mut ChaCha8Rng, rows: usize) -> (Matrix, Vec<bool>) {
    let (mut matrix, mut labels) = (Matrix::new(4), Vec::new());
    for _ in 0..rows {
        let a: f64 = random.random_range(-3.0..3.0);
        let b: f64 = random.random_range(0.0_f64..8.0).exp();
        let c = if random.random_bool(0.2) { f64::NAN } else { random.random_range(0.0..10.0) };
        let level = match random.random_range(0..10) {
            0..4 => 0.0,
            4..6 => 1.0,
            6 => f64::from(random.random_range(2..5)),
            _ => f64::NAN,
        };
        matrix.push([a, b, c, level]);
        let z = a + 0.2 * b.ln() + if level == 1.0 { 1.0 } else { -1.0 };
        labels.push(random.random_bool(1.0 / (1.0 + (-z).exp())));
    }
    (matrix, labels)
}

fn candidates(shape: ShapeChoice) -> Vec<Candidate> {
    let names = ["a", "b", "c", "country"].map(str::to_owned);
    let candidate = |column: String| Candidate {
        group: column.clone(),
        shape,
        levels: (column == "country").then(|| COUNTRIES.map(str::to_owned).to_vec()),
        column,
    };
    names.map(candidate).to_vec()
}

fn check(fitted: &Preprocessing, estimator: &Estimator, shipped: &Calibrated, rows: &Matrix) {
    let graph = build(fitted, estimator, shipped).unwrap();
    let mut given: HashMap<String, Table> = HashMap::new();
    for (number, input) in fitted.inputs.iter().enumerate() {
        let column = rows.column(number);
        let table = match &input.shape {
            Shape::Levels(levels) => {
                let name = |value: f64| match (value.is_nan(), levels.names.get(value as usize)) {
                    (true, _) => String::new(),
                    (_, Some(name)) => name.clone(),
                    (_, None) => "xx".to_owned(),
                };
                Table { columns: 1, cells: Cells::Texts(column.map(name).collect()) }
            }
            _ => Table::of(1, column.collect()),
        };
        given.insert(input.column.clone(), table);
    }
    let known = evaluate(&graph, given);
    let logits = estimator.logits(&fitted.transform(rows));
    for (row, logit) in logits.iter().enumerate() {
        let ours = [*logit, shipped.probability(*logit)];
        let theirs = ["logit", "probability"].map(|name| known[name].numbers()[row]);
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            let near = (ours - theirs).abs() < 1e-9 * ours.abs().max(1.0);
            assert!(near, "row {row} {:?}: {ours} and {theirs}", rows.row(row));
        }
    }
}

fn fit(rows: &Matrix, labels: &[bool]) -> Logistic {
    Logistic::fit(Objective { rows, labels, class_weights: [1.0; 2], l2: 1e-4 }, None).unwrap()
}

#[test]
fn a_graph_computes_what_its_model_computes() {
    let seed = 20;
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (rows, labels) = data(&mut random, 3000);
    let (mut others, _) = data(&mut random, 500);
    // These values do not occur in training.
    others.push([-50.0, 1e9, -7.0, 7.0]);
    others.push([f64::NAN, f64::NAN, f64::NAN, f64::NAN]);
    others.push([1e6, -3.0, 4e5, 0.0]);
    let shapes = [ShapeChoice::Simple, ShapeChoice::Linear, ShapeChoice::Log1p];
    for shape in shapes.into_iter().chain([ShapeChoice::Bins, ShapeChoice::Spline]) {
        let fitted = Preprocessing::fit(&candidates(shape), &[[0, 2], [1, 3]], &rows, &labels);
        let columns = fitted.transform(&rows);
        let estimator = Estimator::Logistic(fit(&columns, &labels));
        let logits = estimator.logits(&columns);
        for choice in [CalibrationChoice::Platt, CalibrationChoice::Isotonic] {
            let calibration = Calibration::fit(choice, &logits, &labels);
            check(
                &fitted,
                &estimator,
                &Calibrated { calibration, offset: 0.3, offset_error: 0.0 },
                &others,
            );
        }
    }
    let fitted = Preprocessing::plain(&candidates(ShapeChoice::Auto), &rows);
    let growth = Growth { trees: 40, leaves: 8, learning_rate: 0.1, leaf_weight: 1.0 };
    let model = Boosted::fit(&fitted.transform(&rows), &labels, [1.0; 2], growth).unwrap();
    let calibration = Calibration::Platt(Platt { slope: 0.9, intercept: -0.1 });
    let shipped = Calibrated { calibration, offset: -0.2, offset_error: 0.0 };
    check(&fitted, &Estimator::Gbdt(model), &shipped, &others);
}

/// An encoded graph reads back with the same names, shapes and constants.
#[test]
fn the_bytes_are_the_graph() {
    let (rows, labels) = data(&mut ChaCha8Rng::seed_from_u64(3), 500);
    let fitted = Preprocessing::fit(&candidates(ShapeChoice::Spline), &[], &rows, &labels);
    let model = fit(&fitted.transform(&rows), &labels);
    let calibration = Calibration::Platt(Platt { slope: 1.0, intercept: 0.0 });
    let shipped = Calibrated { calibration, offset: 0.0, offset_error: 0.0 };
    let graph = build(&fitted, &Estimator::Logistic(model), &shipped).unwrap();
    let bytes = graph.encode("churn", "about", &[("version", "v1".to_owned())]);
    let read = onnx_rs::parse(&bytes).unwrap();
    let body = read.graph.unwrap();
    assert_eq!(body.node.len(), graph.nodes.len());
    assert_eq!(body.initializer.len(), graph.constants.len());
    let names: Vec<&str> = body.input.iter().map(|input| input.name).collect();
    assert_eq!(names, ["a", "b", "c", "country"]);
    assert_eq!(read.metadata_props[0].value, "v1");
}

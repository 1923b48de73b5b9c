//! Renders a classifier as one ONNX graph with preprocessing, model and calibration. All computations are in
//! doubles, except the sum over trees, which ONNX returns as a float.
//!
//! Every input of the model is an input of the graph, a column of N rows. A feature is a double, and NaN
//! where it is missing. A profile attribute is a string, and empty where it is missing. The outputs are
//! `logit`, which is before calibration, and `probability`, which is that of the version as it is shipped.
//! Eligibility is not part of the graph.

mod graph;
mod linear;

use self::graph::{Attribute, Graph, Value};
use crate::artifact::{Artifact, Calibrated, ClassifierArtifact};
use crate::error::Result;
use crate::export::ExportProblem;
use crate::models::boosting::{Boosted, Node};
use crate::models::calibration::Calibration;
use crate::models::estimator::Estimator;
use crate::models::preprocessing::Preprocessing;
use crate::models::preprocessing::shape::{Levels, Shape};

/// The prefix of every text that is compared.
const MARK: &str = "=";

/// A graph in the ONNX format, with the columns that it needs.
#[derive(Debug)]
pub struct Onnx {
    /// The bytes of the file.
    pub bytes: Vec<u8>,
    /// The names of the inputs, with a description of each.
    pub inputs: Vec<(String, String)>,
}

/// Renders a classifier.
///
/// # Errors
/// Returns a configuration error if the model uses no input, because ONNX has no graph for it.
pub fn render(artifact: &Artifact, model: &ClassifierArtifact) -> Result<Onnx> {
    let graph = build(&model.preprocessing, &model.estimator, &model.shipped);
    let graph = graph.ok_or_else(|| {
        let (model, version) = (artifact.name.clone(), artifact.version.clone());
        ExportProblem::NoInputs { model, version }
    })?;
    let facts = [
        ("model", artifact.name.clone()),
        ("version", artifact.version.clone()),
        ("trained_as_of", artifact.as_of.to_string()),
        ("positive_class", model.positive_class.clone()),
        ("writes", model.spec.writes.clone()),
        ("data_fingerprint", artifact.data_fingerprint.clone()),
    ];
    let text = format!(
        "P({}) of a customer for whom the model is defined; features as of the scoring instant",
        model.positive_class
    );
    Ok(Onnx { bytes: graph.encode(&artifact.name, &text, &facts), inputs: graph.inputs() })
}

/// Builds the graph from raw inputs to `logit` and `probability`. Returns None if there is no input.
fn build(
    preprocessing: &Preprocessing,
    estimator: &Estimator,
    shipped: &Calibrated,
) -> Option<Graph> {
    let mut graph = Graph::default();
    let logit = match estimator {
        Estimator::Logistic(model) => linear::logit(&mut graph, preprocessing, model)?,
        Estimator::Gbdt(model) => trees(&mut graph, preprocessing, model)?,
    };
    let calibrated = calibrate(&mut graph, &logit, shipped);
    let probability = graph.add("Sigmoid", &[&calibrated]);
    graph.output("logit", &logit);
    graph.output("probability", &probability);
    Some(graph)
}

/// Adds the calibrated logit with its offset.
fn calibrate(graph: &mut Graph, logit: &Value, shipped: &Calibrated) -> Value {
    let curve = match &shipped.calibration {
        Calibration::Platt(platt) => {
            let scaled = graph.by(logit, platt.slope);
            return graph.plus(&scaled, platt.intercept + shipped.offset);
        }
        Calibration::Isotonic(curve) => curve,
    };
    let (Some(first), Some(last), Some(at_first)) =
        (curve.raw.first(), curve.raw.last(), curve.logit.first())
    else {
        return graph.plus(logit, shipped.offset);
    };
    // The curve is the sum of the line below the first block, ramps between blocks, and the line above the
    // last block.
    let zero = graph.row(vec![0.0]);
    let below = graph.plus(logit, -first);
    let below = graph.add("Min", &[&below, &zero]);
    let above = graph.plus(logit, -last);
    let above = graph.add("Max", &[&above, &zero]);
    let outside = graph.add("Add", &[&below, &above]);
    let mut sum = graph.by(&outside, curve.slope);
    let widths: Vec<f64> = curve.raw.windows(2).map(|pair| pair[1] - pair[0]).collect();
    if !widths.is_empty() {
        let rises = curve.logit.windows(2).map(|pair| pair[1] - pair[0]);
        let slopes: Vec<f64> = rises.zip(&widths).map(|(rise, width)| rise / width).collect();
        let from = graph.row(curve.raw[..widths.len()].to_vec());
        let run = graph.add("Sub", &[logit, &from]);
        let run = graph.add("Max", &[&run, &zero]);
        let widths = graph.row(widths);
        let run = graph.add("Min", &[&run, &widths]);
        let slopes = graph.column(slopes);
        let inside = graph.add("MatMul", &[&run, &slopes]);
        sum = graph.add("Add", &[&sum, &inside]);
    }
    graph.plus(&sum, at_first + shipped.offset)
}

/// Adds the one-hot encoding of a text input: a column for each level of its own, and one for a missing
/// value.
fn one_hot(graph: &mut Graph, column: &str, levels: &Levels) -> Value {
    let text = graph.text_input(column, "a profile attribute, empty where it is missing");
    // The file must not contain an empty text, so that all texts are compared with a prefix.
    let mark = graph.text(MARK);
    let text = graph.add("StringConcat", &[&mark, &text]);
    let names = own(levels).map(|(_, name)| name).chain([""]);
    let known: Vec<String> = names.map(|name| format!("{MARK}{name}")).collect();
    let count = known.len() as i64;
    let attributes = [("cats_strings", Attribute::Texts(known)), ("zeros", Attribute::Integer(1))];
    let flags = graph.add_with("OneHotEncoder", &[&text], attributes.to_vec());
    let shape = graph.integers(vec![-1, count]);
    let flags = graph.add("Reshape", &[&flags, &shape]);
    graph.doubles(&flags)
}

/// The levels that have a column of their own, with their positions.
fn own(levels: &Levels) -> impl Iterator<Item = (usize, &str)> {
    let named = levels.names.iter().zip(&levels.own).enumerate();
    named.filter(|(_, (_, own))| **own).map(|(place, (name, _))| (place, name.as_str()))
}

fn feature(graph: &mut Graph, column: &str) -> Value {
    graph.number_input(column, "a feature, NaN where it is missing")
}

/// Adds the sum of the trees over plain inputs.
fn trees(graph: &mut Graph, preprocessing: &Preprocessing, model: &Boosted) -> Option<Value> {
    let mut blocks: Vec<Value> = Vec::new();
    for input in &preprocessing.inputs {
        let block = match &input.shape {
            Shape::Levels(levels) => {
                let flags = one_hot(graph, &input.column, levels);
                // Own levels keep their column. The last column becomes 1 for any other level, which is
                // neither an own level nor missing.
                let count = own(levels).count();
                let mut weights = vec![0.0; (count + 1) * (count + 1)];
                (0..count).for_each(|i| weights[i * (count + 1) + i] = 1.0);
                (0..=count).for_each(|i| weights[i * (count + 1) + count] = -1.0);
                let weights = graph.table(count + 1, weights);
                let mixed = graph.add("MatMul", &[&flags, &weights]);
                let mut constant = vec![0.0; count];
                constant.push(1.0);
                let constant = graph.row(constant);
                graph.add("Add", &[&mixed, &constant])
            }
            _ => feature(graph, &input.column),
        };
        blocks.push(block);
    }
    let columns = graph.beside(blocks)?;
    let sum = graph.add_with("TreeEnsembleRegressor", &[&columns], ensemble(model));
    let sum = graph.doubles(&sum);
    Some(graph.plus(&sum, model.base_score))
}

/// The attributes of ONNX's tree ensemble.
fn ensemble(model: &Boosted) -> Vec<(&'static str, Attribute)> {
    let mut nodes: [Vec<i64>; 6] = Default::default();
    let [trees, places, columns, first, second, missing_is_below] = &mut nodes;
    let (mut modes, mut below) = (Vec::new(), Vec::new());
    let (mut leaf_trees, mut leaf_places, mut leaves) = (Vec::new(), Vec::new(), Vec::new());
    for (tree, grown) in model.trees.iter().enumerate() {
        for (place, node) in grown.nodes().iter().enumerate() {
            trees.push(tree as i64);
            places.push(place as i64);
            let (mode, column, value, children, missing) = match *node {
                Node::Leaf { value, .. } => {
                    leaf_trees.push(tree as i64);
                    leaf_places.push(place as i64);
                    leaves.push(value);
                    ("LEAF", 0, 0.0, [0, 0], false)
                }
                Node::Split { column, below, children, missing_is_below, .. } => {
                    ("BRANCH_LT", column, below, children, missing_is_below)
                }
            };
            modes.push(mode.to_owned());
            columns.push(column as i64);
            below.push(value);
            first.push(children[0] as i64);
            second.push(children[1] as i64);
            missing_is_below.push(i64::from(missing));
        }
    }
    let [trees, places, columns, first, second, missing_is_below] = nodes.map(Attribute::Integers);
    let targets = vec![0; leaves.len()];
    vec![
        ("n_targets", Attribute::Integer(1)),
        ("nodes_treeids", trees),
        ("nodes_nodeids", places),
        ("nodes_featureids", columns),
        ("nodes_modes", Attribute::Texts(modes)),
        ("nodes_values_as_tensor", Attribute::Doubles(below)),
        ("nodes_truenodeids", first),
        ("nodes_falsenodeids", second),
        ("nodes_missing_value_tracks_true", missing_is_below),
        ("target_treeids", Attribute::Integers(leaf_trees)),
        ("target_nodeids", Attribute::Integers(leaf_places)),
        ("target_ids", Attribute::Integers(targets)),
        ("target_weights_as_tensor", Attribute::Doubles(leaves)),
    ]
}

#[cfg(test)]
mod tests;

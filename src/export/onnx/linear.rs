//! Renders a linear model as a graph. The columns of every shape are sums of a few kinds of basis columns
//! (the value, cubes, steps, flags). All inputs together therefore need only a few wide operations, and the
//! standardization is folded into the weights.

use super::graph::{Graph, Value};
use super::{feature, one_hot, own};
use crate::models::logistic::Logistic;
use crate::models::preprocessing::shape::Shape;
use crate::models::preprocessing::{Input, Preprocessing, Scaling};

/// A basis column, of which the columns of shapes are sums. The first number is the index of the input.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Basis {
    /// The value, or the median where the value is missing; its ln(1 + x) if the shape uses the logarithm.
    Value(usize),
    /// The cube of the distance above a knot, limited at the last knot.
    Cube(usize, f64),
    /// The distance beyond the last knot.
    Beyond(usize),
    /// 1 where the raw value is at or above an edge.
    Step(usize, f64),
    /// 1 where a number is missing.
    Missing(usize),
    /// 1 at a level, given by its position.
    Level(usize, usize),
    /// 1 where an attribute is missing.
    NoLevel(usize),
}

impl Basis {
    fn input(self) -> usize {
        match self {
            Self::Value(input)
            | Self::Cube(input, _)
            | Self::Beyond(input)
            | Self::Step(input, _)
            | Self::Missing(input)
            | Self::Level(input, _)
            | Self::NoLevel(input) => input,
        }
    }
}

/// A weighted sum of basis columns.
#[derive(Debug, Clone, Default)]
struct Sum {
    parts: Vec<(Basis, f64)>,
    constant: f64,
}

impl Sum {
    fn of(basis: Basis) -> Self {
        Self { parts: vec![(basis, 1.0)], constant: 0.0 }
    }

    fn scaled(mut self, scaling: Scaling) -> Self {
        self.parts.iter_mut().for_each(|(_, weight)| *weight /= scaling.deviation);
        self.constant = (self.constant - scaling.mean) / scaling.deviation;
        self
    }

    fn add(&mut self, other: &Self, times: f64) {
        self.parts.extend(other.parts.iter().map(|(basis, weight)| (*basis, weight * times)));
        self.constant += other.constant * times;
    }

    /// The weight of each column in `columns`.
    fn weights(&self, columns: &[Basis]) -> Vec<f64> {
        let mut weights = vec![0.0; columns.len()];
        for (basis, weight) in &self.parts {
            if let Some(place) = columns.iter().position(|column| column == basis) {
                weights[place] += weight;
            }
        }
        weights
    }
}

/// The columns of an input before they are standardized. The last one is the column for a missing value.
fn columns(number: usize, input: &Input) -> Vec<Sum> {
    let (mut columns, missing) = match &input.shape {
        Shape::Linear | Shape::Log1p => {
            (vec![Sum::of(Basis::Value(number))], Basis::Missing(number))
        }
        Shape::Bins(bins) => {
            let first = bins.evidence.first().copied().unwrap_or_default();
            let rises = bins.evidence.windows(2).map(|pair| pair[1] - pair[0]);
            let steps = bins.from.iter().map(|edge| Basis::Step(number, *edge));
            let mut parts: Vec<(Basis, f64)> = steps.zip(rises).collect();
            parts.push((Basis::Missing(number), bins.missing - first));
            (vec![Sum { parts, constant: first }], Basis::Missing(number))
        }
        Shape::Spline(spline) => {
            let curved = spline.curves().map(|curve| Sum {
                parts: vec![
                    (Basis::Cube(number, curve.knot), curve.rising),
                    (Basis::Cube(number, curve.before_last), curve.falling),
                    (Basis::Beyond(number), curve.tangent),
                ],
                constant: 0.0,
            });
            let value = Sum::of(Basis::Value(number));
            (std::iter::once(value).chain(curved).collect(), Basis::Missing(number))
        }
        Shape::Levels(levels) => {
            let own: Vec<Sum> =
                own(levels).map(|(place, _)| Sum::of(Basis::Level(number, place))).collect();
            let mut another = Sum { parts: Vec::new(), constant: 1.0 };
            own.iter().for_each(|level| another.add(level, -1.0));
            another.add(&Sum::of(Basis::NoLevel(number)), -1.0);
            (own.into_iter().chain([another]).collect(), Basis::NoLevel(number))
        }
    };
    columns.push(Sum::of(missing));
    columns
}

/// Adds the logit of a linear model. Returns None if the model uses no input.
pub fn logit(graph: &mut Graph, fitted: &Preprocessing, model: &Logistic) -> Option<Value> {
    let mut coefficients = model.coefficients.iter().copied();
    let mut sum = Sum { parts: Vec::new(), constant: model.intercept };
    for (number, input) in fitted.inputs.iter().enumerate() {
        let scalings = input.scaling.iter().chain([&input.missing]);
        for (column, scaling) in columns(number, input).into_iter().zip(scalings) {
            if let Some(scaling) = scaling {
                sum.add(&column.scaled(*scaling), coefficients.next()?);
            }
        }
    }
    // Each element holds the two factors of a product and its weight in the logit.
    let mut products: Vec<([Sum; 2], f64)> = Vec::new();
    for interaction in &fitted.interactions {
        let Some(scaling) = interaction.scaling else { continue };
        let coefficient = coefficients.next()?;
        let factor = |number: usize| {
            let input = &fitted.inputs[number];
            let first = columns(number, input).into_iter().next();
            let scaling = input.scaling.first().copied().flatten();
            first.zip(scaling).map_or_else(Sum::default, |(column, by)| column.scaled(by))
        };
        products.push((interaction.inputs.map(factor), coefficient / scaling.deviation));
        sum.constant -= coefficient * scaling.mean / scaling.deviation;
    }
    let factors = products.iter().flat_map(|(factors, _)| factors);
    let mut used: Vec<Basis> = Vec::new();
    for (basis, _) in factors.chain([&sum]).flat_map(|sum| &sum.parts) {
        if !used.contains(basis) {
            used.push(*basis);
        }
    }
    let (table, order) = basis(graph, fitted, &used)?;
    let weights = graph.column(sum.weights(&order));
    let mut logit = graph.add("MatMul", &[&table, &weights]);
    if !products.is_empty() {
        let [first, second] = [0, 1].map(|side| {
            let sums: Vec<&Sum> = products.iter().map(|(factors, _)| &factors[side]).collect();
            let weights: Vec<Vec<f64>> = sums.iter().map(|sum| sum.weights(&order)).collect();
            let by_row = (0..order.len()).flat_map(|row| weights.iter().map(move |w| w[row]));
            let weights = graph.table(sums.len(), by_row.collect());
            let constants = graph.row(sums.iter().map(|sum| sum.constant).collect());
            let factor = graph.add("MatMul", &[&table, &weights]);
            graph.add("Add", &[&factor, &constants])
        });
        let product = graph.add("Mul", &[&first, &second]);
        let weights = graph.column(products.iter().map(|(_, weight)| *weight).collect());
        let added = graph.add("MatMul", &[&product, &weights]);
        logit = graph.add("Add", &[&logit, &added]);
    }
    Some(graph.plus(&logit, sum.constant))
}

/// Adds a table of all basis columns that are used, and returns the table with the order of its columns.
fn basis(graph: &mut Graph, fitted: &Preprocessing, used: &[Basis]) -> Option<(Value, Vec<Basis>)> {
    let mut blocks: Vec<Value> = Vec::new();
    let mut order: Vec<Basis> = Vec::new();
    let input = |number: usize| &fitted.inputs[number];
    let is_used = |number: &usize| used.iter().any(|basis| basis.input() == *number);
    let all = (0..fitted.inputs.len()).filter(is_used);
    let (attributes, numbers): (Vec<usize>, Vec<usize>) =
        all.partition(|number| matches!(input(*number).shape, Shape::Levels(_)));
    let place = |basis: &Basis| numbers.iter().position(|number| *number == basis.input());
    let of_kind = |kind: fn(&Basis) -> bool| -> (Vec<Basis>, Vec<usize>) {
        let bases = used.iter().copied().filter(kind);
        bases.filter_map(|basis| place(&basis).map(|place| (basis, place))).unzip()
    };
    let inputs = numbers.iter().map(|number| feature(graph, &input(*number).column)).collect();
    if let Some(raw) = graph.beside(inputs) {
        let zero = graph.row(vec![0.0]);
        let is_missing = graph.add("IsNaN", &[&raw]);
        let medians = numbers.iter().map(|number| input(*number).impute.unwrap_or_default());
        let medians = graph.row(medians.collect());
        let mut value = graph.add("Where", &[&is_missing, &medians, &raw]);
        let logs: Vec<bool> = numbers.iter().map(|number| input(*number).shape.is_log()).collect();
        if logs.contains(&true) {
            let log = graph.add("Max", &[&value, &zero]);
            let log = graph.plus(&log, 1.0);
            let log = graph.add("Log", &[&log]);
            let logs = graph.booleans(logs);
            value = graph.add("Where", &[&logs, &log, &value]);
        }
        let (bases, places) = of_kind(|basis| matches!(basis, Basis::Value(_)));
        if !bases.is_empty() {
            blocks.push(graph.pick(&value, &places));
            order.extend(bases);
        }
        let last = |basis: &Basis| match &input(basis.input()).shape {
            Shape::Spline(spline) => spline.last(),
            _ => f64::INFINITY,
        };
        let (bases, places) = of_kind(|basis| matches!(basis, Basis::Cube(..)));
        if !bases.is_empty() {
            let x = graph.pick(&value, &places);
            let ends = graph.row(bases.iter().map(last).collect());
            let x = graph.add("Min", &[&x, &ends]);
            let knots = bases.iter().map(|basis| match basis {
                Basis::Cube(_, knot) => *knot,
                _ => 0.0,
            });
            let knots = graph.row(knots.collect());
            let x = graph.add("Sub", &[&x, &knots]);
            let x = graph.add("Max", &[&x, &zero]);
            let square = graph.add("Mul", &[&x, &x]);
            blocks.push(graph.add("Mul", &[&square, &x]));
            order.extend(bases);
        }
        let (bases, places) = of_kind(|basis| matches!(basis, Basis::Beyond(_)));
        if !bases.is_empty() {
            let x = graph.pick(&value, &places);
            let ends = graph.row(bases.iter().map(last).collect());
            let x = graph.add("Sub", &[&x, &ends]);
            blocks.push(graph.add("Max", &[&x, &zero]));
            order.extend(bases);
        }
        let (bases, places) = of_kind(|basis| matches!(basis, Basis::Step(..)));
        if !bases.is_empty() {
            let x = graph.pick(&raw, &places);
            let edges = bases.iter().map(|basis| match basis {
                Basis::Step(_, edge) => *edge,
                _ => 0.0,
            });
            let edges = graph.row(edges.collect());
            let steps = graph.add("GreaterOrEqual", &[&x, &edges]);
            blocks.push(graph.doubles(&steps));
            order.extend(bases);
        }
        let (bases, places) = of_kind(|basis| matches!(basis, Basis::Missing(_)));
        if !bases.is_empty() {
            let flags = graph.pick(&is_missing, &places);
            blocks.push(graph.doubles(&flags));
            order.extend(bases);
        }
    }
    for number in attributes {
        if let Shape::Levels(levels) = &input(number).shape {
            blocks.push(one_hot(graph, &input(number).column, levels));
            order.extend(own(levels).map(|(place, _)| Basis::Level(number, place)));
            order.push(Basis::NoLevel(number));
        }
    }
    Some((graph.beside(blocks)?, order))
}

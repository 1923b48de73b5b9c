//! Gradient-boosted trees: the algorithm that a linear model is compared with, or the model itself if a
//! spec asks for it.
//!
//! forust grows the trees. They are converted to nodes of this crate, which are stored and scored, so
//! that an artifact does not depend on the crate that has grown its trees.

mod tree;

use forust_ml::data::Matrix as Columns;
use forust_ml::gradientbooster::{EvaluationData, GradientBooster, GrowPolicy};
use forust_ml::metric::Metric;
use forust_ml::tree::Tree as GrownTree;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::tree::Path;
pub use self::tree::{Node, Tree};

use super::matrix::Matrix;
use crate::error::{Error, Result};

const CONTEXT: &str = "fitting boosted trees";
/// The maximum number of histogram bins of a column.
const BINS: u16 = 64;
/// The number of trees without a gain on other rows after which growing stops.
const PATIENCE: usize = 20;

/// The options of growing trees.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Growth {
    /// The number of trees.
    pub trees: usize,
    /// The maximum number of leaves of a tree.
    pub leaves: usize,
    /// The factor by which the leaves of a tree are multiplied.
    pub learning_rate: f64,
    /// The minimum sum of p (1 - p) over the rows of a leaf.
    pub leaf_weight: f64,
}

/// Fitted trees. The logit is the sum of a base score and one leaf of each tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boosted {
    /// The start of every row's logit.
    pub base_score: f64,
    /// The trees in the order in which they were grown.
    pub trees: Vec<Tree>,
}

impl Boosted {
    /// Fits trees for P(y = true). NaN is a missing value, which gets a branch of its own if that helps.
    /// The same rows give the same trees with any number of threads.
    ///
    /// # Errors
    /// Returns an engine error if forust refuses the data.
    pub fn fit(
        rows: &Matrix,
        labels: &[bool],
        class_weights: [f64; 2],
        growth: Growth,
    ) -> Result<Self> {
        let mut booster = grown(growth);
        let (columns, y) = (by_column(rows), targets(labels));
        let weights = weights(labels, class_weights);
        booster
            .fit(&Columns::new(&columns, rows.len(), rows.width), &y, &weights, None)
            .map_err(Error::engine(CONTEXT))?;
        Self::of(&booster)
    }

    fn of(booster: &GradientBooster) -> Result<Self> {
        let trees = booster.trees.iter().map(tree).collect::<Result<_>>()?;
        Ok(Self { base_score: booster.base_score, trees })
    }

    /// Grows trees on some rows until the loss on other rows has not improved for a number of trees.
    /// Returns the trees with the mean log loss on the other rows after each tree. Runs on one thread,
    /// because folds run in parallel.
    pub fn grow(
        (rows, labels): (&Matrix, &[bool]),
        (others, outcomes): (&Matrix, &[bool]),
        class_weights: [f64; 2],
        growth: Growth,
    ) -> Result<(Self, Vec<f64>)> {
        let mut booster = grown(growth)
            .set_evaluation_metric(Some(Metric::LogLoss))
            .set_early_stopping_rounds(Some(PATIENCE))
            .set_parallel(false);
        let (columns, y) = (by_column(rows), targets(labels));
        let (other_columns, other_y) = (by_column(others), targets(outcomes));
        let other_weights = weights(outcomes, class_weights);
        let evaluation: EvaluationData =
            (Columns::new(&other_columns, others.len(), others.width), &other_y, &other_weights);
        booster
            .fit(
                &Columns::new(&columns, rows.len(), rows.width),
                &y,
                &weights(labels, class_weights),
                Some(vec![evaluation]),
            )
            .map_err(Error::engine(CONTEXT))?;
        let history = booster.evaluation_history.take();
        let mut losses = history.map(|history| history.data).unwrap_or_default();
        losses.truncate(booster.trees.len());
        Ok((Self::of(&booster)?, losses))
    }

    /// Keeps the first `trees` trees.
    pub fn first(mut self, trees: usize) -> Self {
        self.trees.truncate(trees);
        self
    }

    /// Computes the logits of all rows.
    pub fn logits(&self, rows: &Matrix) -> Vec<f64> {
        let logit = |row: usize| {
            let row = rows.row(row);
            self.trees.iter().fold(self.base_score, |sum, tree| sum + tree.value(row))
        };
        (0..rows.len()).into_par_iter().map(logit).collect()
    }

    /// Computes what each column adds to the logit of each row, relative to the training mean. These are
    /// the Shapley values, summed over all trees.
    pub fn contributions(&self, rows: &Matrix) -> Matrix {
        let width = rows.width;
        let mut values = vec![0.0; rows.len() * width];
        values.par_chunks_mut(width.max(1)).enumerate().for_each_init(
            Path::default,
            |path, (row, values)| {
                let row = rows.row(row);
                self.trees.iter().for_each(|tree| tree.add_contributions(row, path, values));
            },
        );
        Matrix::of(width, values, rows.len())
    }
}

/// Converts a grown tree to the nodes of this crate.
fn tree(grown: &GrownTree) -> Result<Tree> {
    let nodes = grown.nodes.iter().map(|node| {
        let cover = f64::from(node.hessian_sum);
        match node.is_leaf {
            true => Node::Leaf { value: f64::from(node.weight_value), cover },
            false => Node::Split {
                column: node.split_feature,
                below: node.split_value,
                children: [node.left_child, node.right_child],
                missing_is_below: node.missing_node == node.left_child,
                cover,
            },
        }
    });
    Tree::try_from(nodes.collect::<Vec<Node>>()).map_err(|message| Error::engine(CONTEXT)(message))
}

fn grown(growth: Growth) -> GradientBooster {
    let mut booster = GradientBooster::default()
        .set_iterations(growth.trees)
        .set_learning_rate(growth.learning_rate as f32)
        .set_max_leaves(growth.leaves)
        .set_max_depth(growth.leaves)
        .set_min_leaf_weight(growth.leaf_weight as f32)
        .set_nbins(BINS)
        .set_allow_missing_splits(true)
        .set_initialize_base_score(true)
        .set_missing(f64::NAN)
        .set_parallel(true);
    booster.grow_policy = GrowPolicy::LossGuide;
    booster
}

/// Lists the values column by column, as forust reads them.
fn by_column(rows: &Matrix) -> Vec<f64> {
    let mut columns = Vec::with_capacity(rows.values.len());
    (0..rows.width).for_each(|column| columns.extend(rows.column(column)));
    columns
}

fn targets(labels: &[bool]) -> Vec<f64> {
    labels.iter().map(|label| f64::from(u8::from(*label))).collect()
}

fn weights(labels: &[bool], class_weights: [f64; 2]) -> Vec<f64> {
    labels.iter().map(|label| class_weights[usize::from(*label)]).collect()
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::models::logit::sigmoid;

    const GROWTH: Growth = Growth { trees: 30, leaves: 6, learning_rate: 0.1, leaf_weight: 1.0 };

    /// Draws rows whose outcome is decided by the product of two inputs, which a linear model cannot
    /// represent. A third input is often missing.
    fn rows(seed: u64, count: usize) -> (Matrix, Vec<bool>) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut rows, mut labels) = (Matrix::new(3), Vec::new());
        for _ in 0..count {
            let x: [f64; 2] = std::array::from_fn(|_| random.random_range(-2.0..2.0));
            let third = if random.random_bool(0.3) { f64::NAN } else { x[0] };
            rows.push([x[0], x[1], third]);
            labels.push(random.random_bool(sigmoid(2.0 * x[0] * x[1])));
        }
        (rows, labels)
    }

    #[test]
    fn trees_survive_json_and_threads() {
        let (rows, labels) = rows(1, 3000);
        let fit = || Boosted::fit(&rows, &labels, [1.0; 2], GROWTH).unwrap();
        let model = fit();
        let text = serde_json::to_string(&model).unwrap();
        let read: Boosted = serde_json::from_str(&text).unwrap();
        assert_eq!(read.logits(&rows), model.logits(&rows));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(serde_json::to_string(&pool.install(fit)).unwrap(), text);
    }

    /// The converted nodes give exactly the logits of forust. Their Shapley values are equal up to its
    /// single precision.
    #[test]
    fn trees_are_those_of_forust() {
        let (rows, labels) = rows(2, 2000);
        let mut booster = grown(GROWTH);
        let columns = by_column(&rows);
        let columns = Columns::new(&columns, rows.len(), rows.width);
        let weights = vec![1.0; rows.len()];
        booster.fit(&columns, &targets(&labels), &weights, None).unwrap();
        let own = Boosted::of(&booster).unwrap();
        assert_eq!(own.logits(&rows), booster.predict(&columns, true));
        let method = forust_ml::gradientbooster::ContributionsMethod::Shapley;
        let expected = booster.predict_contributions(&columns, method, true);
        let found = own.contributions(&rows);
        for (row, expected) in expected.chunks_exact(rows.width + 1).enumerate() {
            for (found, expected) in found.row(row).iter().zip(expected) {
                assert!((found - expected).abs() < 1e-4, "row {row}: {found} {expected}");
            }
        }
    }

    /// Shapley values equal their definition: the average over the orders in which columns become known.
    #[test]
    fn contributions_are_averages_over_orders() {
        let (rows, labels) = rows(5, 1000);
        let model = Boosted::fit(&rows, &labels, [1.0; 2], GROWTH).unwrap();
        /// The prediction if only some columns are known.
        fn value(nodes: &[Node], place: usize, row: &[f64], known: &[usize]) -> f64 {
            match nodes[place] {
                Node::Leaf { value, .. } => value,
                Node::Split { column, below, children, missing_is_below, .. } => {
                    let both = children.map(|child| value(nodes, child, row, known));
                    if known.contains(&column) {
                        let x = row[column];
                        let is_first = if x.is_nan() { missing_is_below } else { x < below };
                        return if is_first { both[0] } else { both[1] };
                    }
                    let cover = |node: &Node| match node {
                        Node::Leaf { cover, .. } | Node::Split { cover, .. } => *cover,
                    };
                    let shares = children.map(|child| cover(&nodes[child]) / cover(&nodes[place]));
                    both[0] * shares[0] + both[1] * shares[1]
                }
            }
        }
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let found = model.contributions(&rows);
        for row in 0..50 {
            let mut expected = [0.0; 3];
            for order in orders {
                for place in 0..3 {
                    let with = |known: &[usize]| -> f64 {
                        let trees = model.trees.iter();
                        trees.map(|tree| value(tree.nodes(), 0, rows.row(row), known)).sum()
                    };
                    expected[order[place]] += with(&order[..=place]) - with(&order[..place]);
                }
            }
            for (found, expected) in found.row(row).iter().zip(expected) {
                assert!((found - expected / 6.0).abs() < 1e-6, "row {row}: {found} {expected}");
            }
        }
    }

    #[test]
    fn a_tree_whose_children_go_back_is_refused() {
        let split = r#"{"split": {"column": 0, "below": 1.0, "children": [0, 1], "missing_is_below": true, "cover": 1.0}}"#;
        let leaf = r#"{"leaf": {"value": 1.0, "cover": 1.0}}"#;
        let text = format!("[{split}, {leaf}]");
        assert!(serde_json::from_str::<Tree>(&text).is_err());
    }

    #[test]
    fn losses_are_those_of_the_trees_so_far() {
        let ((train, labels), (others, outcomes)) = (rows(3, 2000), rows(4, 500));
        let loss = |model: &Boosted| {
            let logits = model.logits(&others);
            let losses = logits.iter().zip(&outcomes).map(|(z, y)| {
                let p = sigmoid(*z);
                -if *y { p.ln() } else { (1.0 - p).ln() }
            });
            losses.sum::<f64>() / outcomes.len() as f64
        };
        let (grown, losses) =
            Boosted::grow((&train, &labels), (&others, &outcomes), [1.0; 2], GROWTH).unwrap();
        assert_eq!(losses.len(), GROWTH.trees);
        let ten = grown.first(10);
        assert!((losses[9] - loss(&ten)).abs() < 1e-6, "{losses:?}");
        let model =
            Boosted::fit(&train, &labels, [1.0; 2], Growth { trees: 10, ..GROWTH }).unwrap();
        assert_eq!(model.logits(&others), ten.logits(&others), "the same trees at any threads");
        assert!(losses[GROWTH.trees - 1] < 0.6, "the product is found: {losses:?}");
    }
}

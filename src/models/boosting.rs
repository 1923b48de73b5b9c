//! Gradient-boosted trees by forust: the challenger that shows what linearity costs, or the model
//! itself where a spec asks for it.

use std::sync::Arc;

use forust_ml::data::Matrix as Columns;
use forust_ml::gradientbooster::{
    ContributionsMethod, EvaluationData, GradientBooster, GrowPolicy,
};
use forust_ml::metric::Metric;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::matrix::Matrix;
use crate::error::{Error, Result};

const CONTEXT: &str = "fitting boosted trees";
/// Histogram bins of a column at most.
const BINS: u16 = 64;
/// Trees without a gain on other rows after which no more are grown.
const PATIENCE: usize = 20;

/// How trees are grown.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Growth {
    /// Trees.
    pub trees: usize,
    /// Leaves of a tree at most.
    pub leaves: usize,
    /// What a tree's leaves are multiplied by.
    pub learning_rate: f64,
    /// The least sum of p (1 - p) of the rows of a leaf.
    pub leaf_weight: f64,
}

/// Fitted trees; logit = the sum of a base score and a leaf of each tree.
#[derive(Clone)]
pub struct Boosted {
    booster: Arc<GradientBooster>,
}

impl Boosted {
    /// Fits trees for P(y = true) on rows in which NaN is a missing value, a branch of its own where
    /// it helps. The same rows give the same trees at any number of threads.
    ///
    /// # Errors
    /// An engine error where forust refuses the data.
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
        Ok(Self { booster: Arc::new(booster) })
    }

    /// Grows trees on some rows until those for others have long got no better; gives them with the
    /// mean log loss on the others after each tree. Runs on one thread: folds run beside each other.
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
        Ok((Self { booster: Arc::new(booster) }, losses))
    }

    /// The first so many trees.
    pub fn first(mut self, trees: usize) -> Self {
        if let Some(booster) = Arc::get_mut(&mut self.booster) {
            booster.trees.truncate(trees);
            booster.prediction_iteration = None;
        }
        self
    }

    /// The logits of all rows.
    pub fn logits(&self, rows: &Matrix) -> Vec<f64> {
        let columns = by_column(rows);
        self.booster.predict(&Columns::new(&columns, rows.len(), rows.width), true)
    }

    /// Row after row what each column adds to the logit, against the training mean: Shapley values
    /// along the trees (Lundberg et al. 2018, as forust computes them).
    pub fn contributions(&self, rows: &Matrix) -> Matrix {
        let columns = by_column(rows);
        let values = self.booster.predict_contributions(
            &Columns::new(&columns, rows.len(), rows.width),
            ContributionsMethod::Shapley,
            true,
        );
        let mut out = Matrix::with_capacity(rows.width, rows.len());
        // The last of a row is the mean of all.
        values.chunks_exact(rows.width + 1).for_each(|row| out.push(row[..rows.width].to_vec()));
        out
    }

    /// Trees.
    pub fn trees(&self) -> usize {
        self.booster.trees.len()
    }

    /// What every row's logit begins with.
    pub fn base_score(&self) -> f64 {
        self.booster.base_score
    }

    /// The nodes of each tree, the root first.
    pub fn nodes(&self) -> impl Iterator<Item = Vec<Node>> {
        self.booster.trees.iter().map(|tree| {
            let nodes = tree.nodes.iter().map(|node| match node.is_leaf {
                true => Node::Leaf(f64::from(node.weight_value)),
                false => Node::Split {
                    column: node.split_feature,
                    below: node.split_value,
                    children: [node.left_child, node.right_child],
                    missing_is_below: node.missing_node == node.left_child,
                },
            });
            nodes.collect()
        })
    }
}

/// A node of a tree.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Node {
    /// What is added to the logit.
    Leaf(f64),
    /// Where rows part.
    Split {
        /// The column that they are parted by.
        column: usize,
        /// The first child has what is below this.
        below: f64,
        /// The numbers of the nodes that follow.
        children: [usize; 2],
        /// Whether a missing value goes to the first child.
        missing_is_below: bool,
    },
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

/// Column after column, as forust reads it.
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

impl Serialize for Boosted {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.booster.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Boosted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let booster = GradientBooster::deserialize(deserializer)?;
        Ok(Self { booster: Arc::new(booster) })
    }
}

impl std::fmt::Debug for Boosted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(formatter, "{} boosted trees", self.trees())
    }
}

impl PartialEq for Boosted {
    fn eq(&self, other: &Self) -> bool {
        let text = |model: &Self| serde_json::to_string(&model.booster).ok();
        text(self) == text(other)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::models::logistic::sigmoid;

    const GROWTH: Growth = Growth { trees: 30, leaves: 6, learning_rate: 0.1, leaf_weight: 1.0 };

    /// A product of two inputs, which no linear model of them knows; a third that is often missing.
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

    /// Contributions and the mean add up to the logit, so the mean is the same for every row.
    #[test]
    fn contributions_add_up() {
        let (rows, labels) = rows(2, 2000);
        let model = Boosted::fit(&rows, &labels, [1.0; 2], GROWTH).unwrap();
        let (logits, parts) = (model.logits(&rows), model.contributions(&rows));
        let rest: Vec<f64> =
            (0..rows.len()).map(|row| logits[row] - parts.row(row).iter().sum::<f64>()).collect();
        assert!(rest.iter().all(|r| (r - rest[0]).abs() < 1e-4), "{:?}", &rest[..5]);
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

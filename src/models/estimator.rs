//! The fitted estimator of a classifier, which is linear or consists of trees.

use serde::{Deserialize, Serialize};

use super::boosting::{Boosted, Tree};
use super::logistic::Logistic;
use super::matrix::Matrix;

/// A fitted classifier before its calibration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// A logistic regression, which is linear in its columns.
    Logistic(Logistic),
    /// Gradient-boosted trees.
    Gbdt(Boosted),
}

impl Estimator {
    /// Computes the logits of transformed rows.
    pub fn logits(&self, rows: &Matrix) -> Vec<f64> {
        match self {
            Self::Logistic(model) => model.logits(rows),
            Self::Gbdt(model) => model.logits(rows),
        }
    }

    /// Computes what each column adds to the logit of each row, relative to the training mean. The
    /// columns of a linear model are standardized, so that their mean adds nothing.
    pub fn contributions(&self, rows: &Matrix) -> Matrix {
        match self {
            Self::Logistic(model) => {
                let mut out = Matrix::with_capacity(rows.width, rows.len());
                for row in 0..rows.len() {
                    out.push(rows.row(row).iter().zip(&model.coefficients).map(|(x, w)| x * w));
                }
                out
            }
            Self::Gbdt(model) => model.contributions(rows),
        }
    }

    /// Whether the estimator can be applied to rows of `width` columns.
    pub fn fits(&self, width: usize) -> bool {
        match self {
            Self::Logistic(model) => model.coefficients.len() == width,
            Self::Gbdt(model) => {
                model.trees.iter().filter_map(Tree::last_column).all(|column| column < width)
            }
        }
    }
}

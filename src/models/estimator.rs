//! What a classifier was fitted as, behind one face.

use serde::{Deserialize, Serialize};

use super::boosting::{Boosted, Tree};
use super::logistic::Logistic;
use super::matrix::Matrix;

/// A fitted classifier before its calibration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// Linear in its columns.
    Logistic(Logistic),
    /// Trees.
    Gbdt(Boosted),
}

impl Estimator {
    /// The logits of transformed rows.
    pub fn logits(&self, rows: &Matrix) -> Vec<f64> {
        match self {
            Self::Logistic(model) => model.logits(rows),
            Self::Gbdt(model) => model.logits(rows),
        }
    }

    /// Row after row what each column adds to the logit, against the training mean. A linear model's
    /// columns are standardized, so that their mean adds nothing.
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

    /// Whether it can be given rows of so many columns.
    pub fn fits(&self, width: usize) -> bool {
        match self {
            Self::Logistic(model) => model.coefficients.len() == width,
            Self::Gbdt(model) => {
                model.trees.iter().filter_map(Tree::last_column).all(|column| column < width)
            }
        }
    }
}

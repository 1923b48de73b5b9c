//! Exports of trained models and features in the formats of other programs.

pub mod delta;
pub mod feast;
pub mod mlflow;
pub mod online;
pub mod onnx;
pub mod openlineage;
mod problem;

pub use self::problem::ExportProblem;

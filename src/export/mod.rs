//! Trained models in the formats of other programs.

pub mod mlflow;
pub mod onnx;

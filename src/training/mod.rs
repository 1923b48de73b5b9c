//! Training: past snapshots are joined with their outcomes, fitted, calibrated, evaluated out of time,
//! and written as an artifact.

pub mod affinity;
pub mod backtest;
pub mod base_rate;
pub mod classifier;
pub mod evaluation;
pub mod gather;
pub mod inspection;
pub mod lifetime_value;
pub mod matured;
pub mod metrics;
pub mod out_of_time;
mod problem;
pub mod promotion;
pub mod sampling;
pub mod schedule;
pub mod selection;
pub mod skew;
pub mod truncation;

pub use self::problem::TrainingProblem;

//! Numerical models. No module here knows files, a store or a clock.

pub mod affinity;
pub mod base_rate;
pub mod boosting;
pub mod calibration;
mod cholesky;
pub mod engagement;
pub mod estimator;
pub mod lifetime_value;
pub mod logistic;
pub mod logit;
pub mod matrix;
pub mod metrics;
pub mod newton;
pub mod preprocessing;
pub mod rfm;

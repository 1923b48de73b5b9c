//! Models: their specs, and their numbers. Nothing here knows a file, a store or a clock.

pub mod affinity;
pub mod calibration;
mod cholesky;
pub mod engagement;
pub mod logistic;
mod newton;
pub mod preprocessing;
pub mod rfm;
pub mod spec;

//! Models: their specs, and their numbers. Nothing here knows a file, a store or a clock.

pub mod affinity;
pub mod calibration;
pub mod engagement;
pub mod logistic;
pub mod preprocessing;
pub mod rfm;
pub mod spec;

//! The library behind the `c360-ml` command: point-in-time features, calibrated models, segments
//! and the written-back customer profile.

pub mod error;
pub mod expression;
pub mod money;
pub mod time;
pub mod schema;
pub mod sources;
pub mod features;
pub mod store;
pub mod config;
pub mod models;
pub mod profile;
pub mod segments;
pub mod training;
pub mod scoring;
pub mod report;
pub mod cli;
pub mod commands;
pub mod simulate;

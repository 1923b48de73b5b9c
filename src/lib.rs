//! The library of the `c360-ml` command: point-in-time features, calibrated models, segments and the customer
//! profile that is written back.

pub mod artifact;
pub mod cli;
pub mod commands;
pub mod config;
pub mod engine;
pub mod error;
pub mod exit;
pub mod export;
pub mod expression;
pub mod features;
pub mod models;
pub mod money;
pub mod profile;
pub mod report;
pub mod schema;
pub mod scoring;
pub mod segments;
pub mod shard;
pub mod simulate;
pub mod sources;
pub mod spec;
pub mod store;
pub mod sum;
pub mod time;
pub mod training;

//! Scoring of every customer at one as-of by the versions in use, in two stages over shards.
//!
//! The first stage (`score`) computes everything that needs one customer alone: features by the
//! definitions that each version embeds, raw scores, reasons and affinity. Between the stages, global
//! results are merged: exact ranks (`ranks`) and the numbers of the report (`summary`). The second stage
//! (`finish`) computes percentiles, segments, the merged profile and the tables. Both stages are
//! functions of a shard and of the `context`.

pub mod affinity;
pub mod audience;
pub mod champions;
pub mod classifier;
pub mod context;
pub mod engagement;
pub mod finish;
pub mod frame;
pub mod lifetime_value;
pub mod plans;
pub mod ranks;
pub mod rfm;
pub mod score;
pub mod scores;
pub mod summary;
pub mod tables;
pub mod waterfall;

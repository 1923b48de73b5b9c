//! Scoring: every customer at one as-of, by the versions in use, in two stages over shards.
//!
//! `score` is all that needs one customer alone: features by the definitions that each version embeds, raw
//! scores, reasons, affinity. What is global is merged between the stages: exact ranks (`ranks`) and the
//! numbers of the report (`summary`). `finish` then has percentiles, segments, the merged profile and the
//! tables. Both are functions of a shard and of the `context`.

pub mod affinity;
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

//! Gathers everything that training needs from the events in one pass: feature snapshots joined with
//! labels, gaps between events, activity, purchases and interactions.
//!
//! A label is a feature too: the number of label events in the window of length horizon that ends at t +
//! gap + horizon, known at the known-at of the training. Labels are joined to the features of the same
//! snapshot by the customer's key, shard by shard. A `request` has the plans, `sample` reads the rows of a shard,
//! and `gathered` holds the samples of all shards.

mod gathered;
mod request;
mod sample;

pub use gathered::{
    BASE_RATE_ROWS, ClassifierData, Distributions, Gathered, Samples, SliceRow, Snapshot,
};
pub use request::{LONGEST_AUTO, Request, TrainingInputs, scheduled};

//! Everything that training needs of the events, gathered in one pass: feature snapshots joined
//! with labels, repeat gaps, activity, purchases, interactions.
//!
//! A label is a feature too: the count of label events in the window of length horizon that ends at
//! t + gap + horizon, known at the training's as-of. Shard by shard, labels are joined to the features of
//! the same snapshot by the customer's key. A `request` has the plans and reads a shard's rows into samples;
//! `gathered` is what comes of all shards.

mod gathered;
mod request;

pub use gathered::{ClassifierData, Gathered, Samples, SliceRow, Snapshot, spread};
pub use request::{LONGEST_AUTO, Request, TrainingInputs};

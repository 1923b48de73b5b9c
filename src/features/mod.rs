//! Features: declared in views, checked, planned, and computed as of an instant.
//!
//! A view is a TOML file. Checking it against the columns of its source gives aggregations and derived
//! features. A [`plan::FeaturePlan`] requests some of them at some as-ofs. [`events::Events`] computes the
//! plans shard by shard and returns Arrow record batches that are sorted by customer.

pub mod audit;
pub mod catalog;
pub mod drift;
pub mod events;
pub mod expectation;
pub mod join;
pub mod plan;
mod problem;
pub mod read;
pub mod reference;
pub mod registry;
pub mod rejected;
pub mod scanned;
pub mod snapshot;
pub mod spec;
pub mod timeline;
pub mod timelines;

pub use self::problem::FeatureProblem;

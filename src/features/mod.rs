//! Features: what a view declares, checked and planned, and computed point-in-time.
//!
//! A view is a TOML file; checking it against the columns of its source gives aggregations and
//! derived expressions; a [`plan::FeaturePlan`] asks for some of them at some as-ofs;
//! [`events::Events`] answer shard by shard with Arrow record batches sorted by customer.

pub mod catalog;
pub mod drift;
pub mod events;
pub mod expectation;
pub mod join;
pub mod plan;
pub mod read;
pub mod reference;
pub mod registry;
pub mod scanned;
pub mod snapshot;
pub mod spec;
pub mod timeline;
pub mod timelines;

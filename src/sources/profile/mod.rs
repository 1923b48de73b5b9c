//! The profile source: raw fields under their canonical names, and additional columns unchanged.
//!
//! `plan` is the checked mapping of raw columns, `shards` scatters the rows of the source, `rows` reads keys and
//! customers of scattered rows.

mod plan;
mod rows;
mod shards;

pub use self::plan::ProfilePlan;
pub(super) use self::plan::normalize;
pub use self::rows::{CREATED, Entities, FILLED, KEY, KeyFaults, align, filled_before, keys};
pub use self::shards::{CustomerSet, ProfileShards, Scattering};

//! The timeline kernel: computes every window of every feature at every as-of in one pass over the events.
//!
//! Events are scattered by shard as they are read, and are spilled to disk beyond a memory budget. The events
//! of each shard are then sorted by (customer, event_ts, event_id) and swept once. The result depends only on
//! the events. It does not depend on their order in the files, on the number of threads, or on which as-ofs
//! are computed together.

mod aggregate;
pub mod block;
mod classes;
mod column;
mod interner;
mod kept;
mod layout;
mod order;
mod output;
mod partition;
mod record;
mod sweep;

pub use aggregate::Context;
pub use block::{Block, Details};
pub use kept::{
    Arrived, Kept, KnownAts, Place, is_plain, keyed, latest, merge, search, sweep_kept,
};
pub use layout::Layout;
pub use partition::{Partition, Records, Scatterer};
pub use record::{Batch, InputValues};
pub use sweep::{Swept, sweep};

//! Expectations: conditions that the columns of a snapshot must meet, as declared in the file of their view.
//!
//! Expectations are not part of the version of a feature. A new expectation does not make existing snapshots
//! outdated. It applies to snapshots that are computed later. `rule` checks what a file says, `judge` holds a
//! snapshot to it, `compared` keeps the values that are compared with another snapshot.

mod compared;
mod judge;
mod rule;

pub use self::compared::ComparedColumn;
pub use self::judge::{Breach, Earlier, Judgement, Tally, judge, numbers};
pub use self::rule::{Against, Expectation, Limit, Rule, ViewColumn, check};

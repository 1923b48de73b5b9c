//! The contract between the job and whatever computes its features.

use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::plan::FeaturePlan;
use crate::error::Result;
use crate::sources::contract::{Checks, Status};
use crate::sources::profile::Entities;
use crate::sources::{Orphans, SourcePlan};

/// Some rows of one plan at one of its as-ofs: `customer360_id`, then the plan's outputs (or item
/// and weight); sorted by key within the part. Each customer is in exactly one part.
#[derive(Debug)]
pub struct Part {
    /// The index of the plan.
    pub plan: usize,
    /// The index of the as-of in the plan.
    pub as_of: usize,
    /// The rows.
    pub rows: RecordBatch,
}

/// What a build read and left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildReport {
    /// Event rows read.
    pub events: u64,
    /// Rows that cannot be used, by reason.
    pub rejected: std::collections::BTreeMap<String, u64>,
    /// Events of customers whom the profile does not have.
    pub orphans: u64,
    /// Events that repeat an (customer360_id, event_id).
    pub duplicates: u64,
    /// Bytes written to disk because the memory budget was reached.
    pub spilled_bytes: u64,
}

impl BuildReport {
    /// Adds what was found of duplicates, unknown customers and unusable rows.
    pub fn check(&self, source: &SourcePlan, checks: &mut Checks) {
        checks.count(
            "duplicate events",
            self.duplicates,
            Status::Warning,
            "the first that was ingested counts",
        );
        let (status, hint) = match source.orphans {
            Orphans::Skip => {
                let hint = "they are left out; sources.events.orphans = \"create\" makes rows";
                (Status::Warning, hint)
            }
            Orphans::Create => (Status::Ok, ""),
            Orphans::Fail => (Status::Violation, "sources.events.orphans is \"fail\""),
        };
        checks.count("events of unknown customers", self.orphans, status, hint);
        let rejected: u64 = self.rejected.values().sum();
        let share = rejected as f64 / self.events.max(1) as f64;
        let status = if share > source.max_rejected_share { Status::Violation } else { Status::Ok };
        let hint = "repair them upstream, or raise sources.events.max_rejected_share";
        checks.add("rows that cannot be used", rejected, status, hint);
    }
}

/// Computes feature plans over an event source.
pub trait Engine {
    /// Computes all plans in one pass over the events and hands over their parts, for each plan and
    /// as-of in the same order of parts on every run.
    ///
    /// # Errors
    /// A contract violation for unusable rows above the source's share, orphans where they are
    /// refused, or a money sum that overflows; whatever `sink` returns.
    fn build(
        &self,
        source: &SourcePlan,
        entities: &Entities,
        plans: &[FeaturePlan],
        sink: &mut dyn FnMut(Part) -> Result<()>,
    ) -> Result<BuildReport>;
}

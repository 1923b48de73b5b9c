//! Events as every computation sees them: by shard, with all plans answered at once.
//!
//! Two things give them: [`super::scanned::ScannedEvents`] reads event files anew, and
//! [`super::timelines::KeptEvents`] reads the timelines that the store keeps. Both give the same rows.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::plan::FeaturePlan;
use crate::error::{Error, Result};
use crate::shard::{Shard, Shards};
use crate::sources::contract::{Checks, Status};
use crate::sources::profile::Entities;
use crate::sources::{Orphans, SourcePlan};

/// The rows of one shard: `customer360_id`, then the outputs of a plan (or item and weight), sorted by
/// customer. A batch has no rows where the plan has none for the shard at an as-of.
#[derive(Debug)]
pub struct ShardRows {
    by_plan: BTreeMap<String, Vec<RecordBatch>>,
    left_out: LeftOut,
}

/// Events of a shard that were counted because something is the matter with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Duplicate events, which are left out.
    pub duplicates: u64,
    /// Events of customers whom the profile does not have, left out or not.
    pub orphans: u64,
}

impl ShardRows {
    /// The rows of `plans`, in their order and by as-of.
    pub fn new(plans: &[FeaturePlan], rows: Vec<Vec<RecordBatch>>, left_out: LeftOut) -> Self {
        let names = plans.iter().map(|plan| plan.name.clone());
        let by_plan: BTreeMap<String, Vec<RecordBatch>> = names.zip(rows).collect();
        debug_assert_eq!(by_plan.len(), plans.len(), "two plans have one name");
        Self { by_plan, left_out }
    }

    /// Events that were counted apart.
    pub fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// The rows of the plan called `name`, by as-of.
    ///
    /// # Errors
    /// An engine error where no plan was called that.
    pub fn of(&self, name: &str) -> Result<&[RecordBatch]> {
        let rows = self.by_plan.get(name).map(Vec::as_slice);
        rows.ok_or_else(|| Error::Engine {
            context: "reading computed rows",
            message: format!("there was no plan called {name}"),
        })
    }

    /// The rows of a plan of one as-of.
    ///
    /// # Errors
    /// An engine error where no plan was called `name`, or it had no as-of.
    pub fn one(&self, name: &str) -> Result<&RecordBatch> {
        self.of(name)?.first().ok_or_else(|| Error::Engine {
            context: "reading computed rows",
            message: format!("the plan {name} had no as-of"),
        })
    }
}

/// Events that are ready to be asked for the rows of a shard.
pub trait Events: Sync {
    /// The shards that there are.
    fn shards(&self) -> Shards;

    /// Computes all plans for one shard, whose customers `entities` are. May be asked of many shards at
    /// once, and once of each.
    ///
    /// # Errors
    /// A contract violation for a sum that overflows; an I/O error of what was put aside.
    fn shard(&self, shard: Shard, entities: &Entities) -> Result<ShardRows>;
}

/// What a build read and left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildReport {
    /// Event rows read.
    pub events: u64,
    /// Rows that cannot be used, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Events of customers whom the profile does not have.
    pub orphans: u64,
    /// Events that repeat an (customer360_id, event_id).
    pub duplicates: u64,
    /// Bytes written to disk because the memory budget was reached.
    pub spilled_bytes: u64,
}

impl BuildReport {
    /// Counts what was left out of a shard.
    pub fn add(&mut self, left_out: LeftOut) {
        self.duplicates += left_out.duplicates;
        self.orphans += left_out.orphans;
    }

    /// Refuses more unusable rows than the source allows.
    pub fn check_rejected(&self, source: &SourcePlan) -> Result<()> {
        let rejected: u64 = self.rejected.values().sum();
        if rejected as f64 <= source.max_rejected_share * self.events as f64 {
            return Ok(());
        }
        let reasons: Vec<String> =
            self.rejected.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
        Err(Error::contract(
            format!("{rejected} of {} events cannot be used ({})", self.events, reasons.join(", ")),
            "run `c360-ml validate`, or raise sources.events.max_rejected_share",
        ))
    }

    /// Refuses events of unknown customers where the source does; called once all shards were counted.
    pub fn check_orphans(&self, source: &SourcePlan) -> Result<()> {
        if source.orphans != Orphans::Fail || self.orphans == 0 {
            return Ok(());
        }
        Err(Error::contract(
            format!("{} events belong to customers whom the profile does not have", self.orphans),
            "set sources.events.orphans to skip or create",
        ))
    }

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

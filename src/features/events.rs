//! The events as all computations see them: by shard, and for all plans at once.
//!
//! There are two implementations: [`super::scanned::ScannedEvents`] reads the event files, and
//! [`super::timelines::KeptEvents`] reads the timelines in the store and only those event files that are new
//! or have changed. Both return the same rows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::FeatureProblem;
use super::plan::FeaturePlan;
use crate::error::{Error, Result};
use crate::shard::{Shard, Shards};
use crate::sources::contract::{Checks, Status};
use crate::sources::profile::Entities;
use crate::sources::{Orphans, SourcePlan};

/// The rows of all plans for one shard, with one batch per plan and as-of.
///
/// A batch has the column `customer360_id`, followed by the outputs of the plan or by an item and its weight.
/// It is sorted by customer, and it is empty if the plan has no rows for the shard at the as-of.
#[derive(Debug)]
pub struct ShardRows {
    by_plan: BTreeMap<String, Vec<RecordBatch>>,
    left_out: LeftOut,
}

/// The numbers of duplicate events and of events of unknown customers in a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// The number of duplicate events, which are left out.
    pub duplicates: u64,
    /// The number of events of customers that are not in the profile, whether or not they are left out.
    pub orphans: u64,
}

impl ShardRows {
    /// Creates the rows of `plans`. `rows` has the batches of each plan by as-of, in the order of `plans`.
    pub fn new(plans: &[FeaturePlan], rows: Vec<Vec<RecordBatch>>, left_out: LeftOut) -> Self {
        let names = plans.iter().map(|plan| plan.name.clone());
        let by_plan: BTreeMap<String, Vec<RecordBatch>> = names.zip(rows).collect();
        debug_assert_eq!(by_plan.len(), plans.len(), "two plans have one name");
        Self { by_plan, left_out }
    }

    /// The numbers of duplicate events and of events of unknown customers.
    pub fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// The batches of the plan called `name`, in the order of its as-ofs.
    ///
    /// # Errors
    /// An engine error if there is no plan with this name.
    pub fn of(&self, name: &str) -> Result<&[RecordBatch]> {
        let rows = self.by_plan.get(name).map(Vec::as_slice);
        rows.ok_or_else(|| {
            Error::engine("reading computed rows")(format!("there was no plan called {name}"))
        })
    }

    /// The batch of the plan called `name` at its first as-of.
    ///
    /// # Errors
    /// An engine error if there is no plan with this name or if it has no as-of.
    pub fn one(&self, name: &str) -> Result<&RecordBatch> {
        self.of(name)?.first().ok_or_else(|| {
            Error::engine("reading computed rows")(format!("the plan {name} had no as-of"))
        })
    }
}

/// Events from which the rows of each shard can be computed.
pub trait Events: Sync {
    /// The shards into which the events are divided.
    fn shards(&self) -> Shards;

    /// Computes all plans for one shard. `entities` are the customers of the shard.
    ///
    /// The method may be called for several shards at the same time, but only once for each shard.
    ///
    /// # Errors
    /// A contract violation for a sum that overflows, or an I/O error if spilled events cannot be read.
    fn shard(&self, shard: Shard, entities: &Entities) -> Result<ShardRows>;
}

/// The numbers of events that a build has read and left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildReport {
    /// The number of event rows read.
    pub events: u64,
    /// The number of unusable rows by reason.
    pub rejected: BTreeMap<String, u64>,
    /// The number of events of customers that are not in the profile.
    pub orphans: u64,
    /// The number of events that repeat the customer360_id and event_id of another event.
    pub duplicates: u64,
    /// The number of bytes spilled to disk because the memory budget was exceeded.
    pub spilled_bytes: u64,
}

impl BuildReport {
    /// Adds the counts of a shard.
    pub fn add(&mut self, left_out: LeftOut) {
        self.duplicates += left_out.duplicates;
        self.orphans += left_out.orphans;
    }

    /// Checks that the share of unusable rows is within the limit of the source.
    ///
    /// # Errors
    /// A contract violation if it is above the limit.
    pub fn check_rejected<'a>(
        &self,
        source: &SourcePlan,
        files: impl Iterator<Item = (&'a PathBuf, &'a BTreeMap<String, u64>)>,
    ) -> Result<()> {
        let rejected: u64 = self.rejected.values().sum();
        if rejected as f64 <= source.max_rejected_share * self.events as f64 {
            return Ok(());
        }
        let counted = files.map(|(file, reasons)| (reasons.values().sum(), file));
        // Of several files with as many, the first by name is told.
        let most = counted.max_by_key(|(count, file)| (*count, std::cmp::Reverse(*file)));
        let (most, file) = most.map(|(count, file)| (count, file.clone())).unwrap_or_default();
        let (events, reasons) = (self.events, self.rejected.clone());
        Err(FeatureProblem::UnusableEvents { rejected, events, reasons, file, most }.into())
    }

    /// Checks for events of unknown customers, once all shards have been counted.
    ///
    /// # Errors
    /// A contract violation if there are such events and the source refuses them.
    pub fn check_orphans(&self, source: &SourcePlan) -> Result<()> {
        if source.orphans != Orphans::Fail || self.orphans == 0 {
            return Ok(());
        }
        Err(FeatureProblem::Orphans { events: self.orphans }.into())
    }

    /// Adds the checks for duplicate events, events of unknown customers, and unusable rows.
    pub fn check(&self, source: &SourcePlan, checks: &mut Checks) {
        checks.count(
            "duplicate events",
            self.duplicates,
            Status::Warning,
            "the duplicate that was ingested first is used",
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
        let hint = "repair them upstream, or raise sources.events.max_rejected_share; a run keeps them in quarantine/rows/ of the store";
        checks.add("rows that cannot be used", rejected, status, hint);
    }
}

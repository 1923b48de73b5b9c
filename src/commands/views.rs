//! The views on their way to the store. They are written shard by shard, checked against their expectations
//! when all shards are written, and then published or put in quarantine.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::RecordBatch;
use rayon::prelude::*;

use super::quality::{ExpectationCheck, QUARANTINE};
use crate::config::Project;
use crate::error::Result;
use crate::features::catalog::View;
use crate::features::drift::Drift;
use crate::features::expectation::{Judgement, Tally};
use crate::features::plan::AsOf;
use crate::features::registry::{self, Inputs, SnapshotRecord};
use crate::features::snapshot::{ViewColumns, ViewSummary};
use crate::shard::Shard;
use crate::store::{Staging, Transaction};

/// The views of one as-of that are to be written.
#[derive(Debug, Clone)]
pub struct ViewsAt<'a> {
    /// The as-of of the snapshots.
    pub as_of: AsOf,
    /// The names of the views.
    pub views: BTreeSet<&'a str>,
    /// The inputs that the views are computed from.
    pub inputs: Inputs,
}

/// The views of some as-ofs while they are written.
pub struct Views<'a> {
    project: &'a Project,
    staging: Staging,
    /// The views to write, in the order of the as-ofs.
    open: &'a [ViewsAt<'a>],
    columns: BTreeMap<&'a str, ViewColumns>,
    gate: ExpectationCheck<'a>,
}

/// The views that have been written, by as-of and view.
pub struct Written(Vec<BTreeMap<String, WrittenView>>);

impl Written {
    /// Creates an empty record for a number of as-ofs.
    pub fn new(as_ofs: usize) -> Self {
        Self((0..as_ofs).map(|_| BTreeMap::new()).collect())
    }

    /// Adds the views that a shard has written at the as-of with index `at`.
    pub fn add(&mut self, at: usize, shard: BTreeMap<String, WrittenView>) {
        for (view, more) in shard {
            match self.0[at].get_mut(&view) {
                Some(own) => {
                    own.summary.add(more.summary);
                    own.tally.add(more.tally);
                    own.files.extend(more.files);
                }
                None => drop(self.0[at].insert(view, more)),
            }
        }
    }

    /// The number of customers at the as-of with index `at`.
    pub fn rows(&self, at: usize) -> u64 {
        self.0[at].values().next().map_or(0, |view| view.summary.rows)
    }
}

/// The written part of a view at one as-of.
pub struct WrittenView {
    summary: ViewSummary,
    tally: Tally,
    /// The paths of the staged files.
    files: Vec<String>,
}

impl<'a> Views<'a> {
    /// Creates the views that are `open`, with nothing written.
    pub fn new(
        project: &'a Project,
        transaction: &Transaction,
        open: &'a [ViewsAt<'a>],
    ) -> Result<Self> {
        let names = open.iter().flat_map(|open| open.views.iter().copied());
        let columns = names.map(|view| (view, ViewColumns::of(&project.catalog, view)));
        let names_by_as_of = open.iter().map(|open| (open.as_of.at, &open.views));
        Ok(Self {
            project,
            staging: transaction.staging(),
            open,
            columns: columns.collect(),
            gate: ExpectationCheck::new(project, transaction, names_by_as_of)?,
        })
    }

    /// Writes the rows of a shard at the as-of with index `at`.
    pub fn write(
        &self,
        at: usize,
        shard: Shard,
        rows: &RecordBatch,
    ) -> Result<BTreeMap<String, WrittenView>> {
        let ViewsAt { as_of, .. } = self.open[at];
        let scale = self.project.context().scale;
        let write = |view: &&View| {
            let columns = &self.columns[view.name.as_str()];
            let name = shard.file_name(self.staging.number());
            let file = format!("{}/{name}", columns.folder(as_of));
            let summary = columns.write(self.staging.file(&file)?, as_of, rows, scale)?;
            let tally = self.gate.look(view, as_of, shard, rows)?;
            Ok((view.name.clone(), WrittenView { summary, tally, files: vec![file] }))
        };
        let views: Vec<&View> = self.views(at).collect();
        views.par_iter().map(write).collect()
    }

    /// Checks the views of an as-of against their expectations and stages them for publication or for
    /// quarantine. All shards of this as-of and of earlier ones must have been written. `models` holds the
    /// drift of the inputs of each classifier. The returned snapshots are empty if the views went to
    /// quarantine.
    pub fn publish(
        &mut self,
        transaction: &mut Transaction,
        at: usize,
        written: &mut Written,
        models: BTreeMap<String, Vec<Drift>>,
    ) -> Result<(Judgement, Vec<SnapshotRecord>)> {
        let ViewsAt { as_of, inputs, .. } = &self.open[at];
        let written = std::mem::take(&mut written.0[at]);
        let mut verdict = Judgement::default();
        let views: Vec<&View> = self.views(at).collect();
        for view in &views {
            let tally = &written[&view.name].tally;
            verdict.add(self.gate.judge(transaction, view, *as_of, tally, &models)?);
        }
        let is_kept = verdict.breaches.is_empty();
        let place = if is_kept { "" } else { QUARANTINE };
        let mut snapshots = Vec::new();
        for view in &views {
            let columns = &self.columns[view.name.as_str()];
            let own = &written[&view.name];
            let (folder, record) = (columns.folder(*as_of), registry::path(&view.name, as_of.at));
            transaction.replace(&format!("{place}{folder}"));
            if is_kept {
                transaction.replace(&format!("{QUARANTINE}{folder}"));
                transaction.remove(&format!("{QUARANTINE}{record}"));
            }
            for file in &own.files {
                transaction.adopt(file, &format!("{place}{file}"))?;
            }
            let snapshot = columns.record(*as_of, inputs, &own.summary);
            transaction.write_json(&format!("{place}{record}"), &snapshot)?;
            snapshots.push(snapshot);
        }
        if !is_kept {
            return Ok((verdict, Vec::new()));
        }
        self.gate.published(*as_of, &views);
        Ok((verdict, snapshots))
    }

    fn views(&self, at: usize) -> impl Iterator<Item = &'a View> + use<'a> {
        let names = &self.open[at].views;
        self.project.catalog.views.iter().filter(|view| names.contains(view.name.as_str()))
    }
}

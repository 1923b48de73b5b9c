//! Views on their way to the store: written shard by shard, held to their expectations when all shards are
//! there, and then published or sent to quarantine.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::RecordBatch;
use rayon::prelude::*;

use super::quality::ExpectationCheck;
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

/// Where snapshots are that broke an expectation, before `features/` and `registry/`.
pub const QUARANTINE: &str = "quarantine/";

/// Views of one as-of that are to be written.
#[derive(Debug, Clone)]
pub struct ViewsAt<'a> {
    /// When they are true.
    pub as_of: AsOf,
    /// Which views.
    pub views: BTreeSet<&'a str>,
    /// What they are computed from.
    pub inputs: Inputs,
}

/// Views of some as-ofs while they are written.
pub struct Views<'a> {
    project: &'a Project,
    staging: Staging,
    /// In the order of the as-ofs.
    open: &'a [ViewsAt<'a>],
    columns: BTreeMap<&'a str, ViewColumns>,
    gate: ExpectationCheck<'a>,
}

/// By as-of and view what was written so far.
pub struct Written(Vec<BTreeMap<String, WrittenView>>);

impl Written {
    /// Nothing of so many as-ofs.
    pub fn new(as_ofs: usize) -> Self {
        Self((0..as_ofs).map(|_| BTreeMap::new()).collect())
    }

    /// Adds what a shard has written at the as-of of index `at`.
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

    /// The customers at an as-of.
    pub fn rows(&self, at: usize) -> u64 {
        self.0[at].values().next().map_or(0, |view| view.summary.rows)
    }
}

/// What was written of a view of one as-of.
pub struct WrittenView {
    summary: ViewSummary,
    tally: Tally,
    /// Staged files.
    files: Vec<String>,
}

impl<'a> Views<'a> {
    /// Nothing written yet of `open`.
    pub fn new(
        project: &'a Project,
        transaction: &Transaction,
        open: &'a [ViewsAt<'a>],
    ) -> Result<Self> {
        let names = open.iter().flat_map(|open| open.views.iter().copied());
        let columns = names.map(|view| (view, ViewColumns::of(&project.catalog, view)));
        Ok(Self {
            project,
            staging: transaction.staging(),
            open,
            columns: columns.collect(),
            gate: ExpectationCheck::new(project, transaction, open)?,
        })
    }

    /// Writes the rows that a shard has at the as-of of index `at`.
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
            let name = shard.file_name(self.staging.generation());
            let file = format!("{}/{name}", columns.folder(as_of));
            let summary = columns.write(&self.staging.path(&file)?, as_of, rows, scale)?;
            let tally = self.gate.look(view, as_of, shard, rows)?;
            Ok((view.name.clone(), WrittenView { summary, tally, files: vec![file] }))
        };
        let views: Vec<&View> = self.views(at).collect();
        views.par_iter().map(write).collect()
    }

    /// Holds the views of an as-of to their expectations, all shards of it and of earlier as-ofs being there,
    /// and stages them where they then belong; `models` says how far the inputs of classifiers have moved.
    /// No snapshots are given where they went to quarantine.
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

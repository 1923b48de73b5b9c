//! The two stages of scoring over all shards, and what is computed between them over all customers.

use std::collections::BTreeMap;
use std::path::Path;

use arrow_array::RecordBatch;
use rayon::prelude::*;

use crate::artifact::Artifact;
use crate::commands::previous;
use crate::commands::views::{Views, Written, WrittenView};
use crate::engine;
use crate::error::Result;
use crate::features::events::{BuildReport, Events, LeftOut};
use crate::features::plan::AsOf;
use crate::features::timelines::KeptEvents;
use crate::scoring::classifier::drifts;
use crate::scoring::context::ScoringContext;
use crate::scoring::finish::{FinishSummary, ShardInput, finish_shard};
use crate::scoring::plans::FEATURES;
use crate::scoring::ranks::{Bars, Ranked, rank};
use crate::scoring::score::{ScoreSummary, Scored, score_shard};
use crate::scoring::summary::{self, RunMetrics};
use crate::shard::Shard;
use crate::sources::contract::{Check, ProfileFacts};
use crate::sources::profile::{Entities, KeyFaults, ProfileShards};
use crate::store::parquet::{Writer, concat, sort_by_key};
use crate::store::sorted::SortedRuns;
use crate::store::spill::Spill;
use crate::store::{FORMAT_VERSION, Root, Staging, Store, Transaction};
use crate::time::Instant;

/// The tables that a run writes in addition to the features.
pub const TABLES: [&str; 5] =
    ["profile", "scores", "segments", "segment_changes", "recommendations"];

/// The folder of a table at an as-of.
pub fn folder(table: &str, as_of: AsOf) -> String {
    format!("{table}/as_of={}", as_of.at.folder())
}

/// A run over all shards. Between its two stages the scores of each shard are kept on disk.
pub struct Run<'a> {
    context: &'a ScoringContext,
    profile: &'a ProfileShards,
    scratch: &'a Path,
    staging: Staging,
    scored: Spill,
    /// The scores of all shards in order, by model.
    sorted: Vec<SortedRuns>,
}

/// The results of the first stage, merged over all shards.
pub struct First {
    pub report: BuildReport,
    pub summary: ScoreSummary,
    pub facts: ProfileFacts,
    pub written: Written,
}

/// The results of the first stage for one shard.
type FirstOfShard = (LeftOut, ScoreSummary, ProfileFacts, BTreeMap<String, WrittenView>);

/// The results of the second stage, merged over all shards.
pub struct Finished {
    pub summary: FinishSummary,
    pub files: Vec<String>,
}

/// The ranks of a model, and the histogram bars of its scores.
pub type RankedModel = (Ranked, Bars);

impl<'a> Run<'a> {
    pub fn new(
        context: &'a ScoringContext,
        transaction: &Transaction,
        profile: &'a ProfileShards,
    ) -> Result<Self> {
        // The folder exists as long as the transaction.
        let scratch = profile.folder();
        let shards = profile.shards().count();
        let models = context.champions.scored();
        let sorted = models.iter().map(|_| SortedRuns::create(scratch, shards));
        Ok(Self {
            context,
            profile,
            scratch,
            staging: transaction.staging(),
            scored: Spill::create(scratch, shards)?,
            sorted: sorted.collect::<Result<_>>()?,
        })
    }

    /// Runs the first stage for all shards.
    pub fn score(&self, events: &KeptEvents, views: &Views) -> Result<First> {
        let mut first = First {
            report: events.report.clone(),
            summary: ScoreSummary::default(),
            facts: ProfileFacts::default(),
            written: Written::new(1),
        };
        let stage = |shard| self.score_one(events, views, shard);
        engine::run(self.profile.shards(), stage, |_, (left_out, summary, facts, written)| {
            first.report.add(left_out);
            first.summary.add(summary);
            first.facts.add(facts);
            first.written.add(0, written);
            Ok(())
        })?;
        Ok(first)
    }

    fn score_one(&self, events: &KeptEvents, views: &Views, shard: Shard) -> Result<FirstOfShard> {
        let profile = self.profile.rows(shard)?;
        let rows = events.shard(shard, &Entities::of(&profile)?)?;
        let written = views.write(0, shard, rows.one(FEATURES)?)?;
        let (scored, summary) = score_shard(self.context, &rows, &profile)?;
        for (sorted, scores) in self.sorted.iter().zip(&scored.models) {
            sorted.put(shard.place(), scores.numbers())?;
        }
        scored.put_aside(self.context, &self.scored, shard.place())?;
        // Rows without a valid key would already have ended the run.
        let facts = ProfileFacts::of(&profile, &KeyFaults::default());
        Ok((rows.left_out(), summary, facts, written))
    }

    /// Computes the part of each model's scores that needs all customers: ranks and histogram bars.
    pub fn rank(
        &self,
        store: &Store,
        root: &Root,
        summary: &ScoreSummary,
    ) -> Result<Vec<RankedModel>> {
        let models = self.context.champions.scored();
        let names: Vec<&str> = models.iter().map(|model| model.name).collect();
        let earlier = previous::scores(store, root, self.context.previous, &names, self.scratch)?;
        let rank = |index: usize| {
            let (before, counts) = (&earlier[index], &summary.models[index]);
            let [low, high] = counts.range();
            let range = [low.min(before.range[0]), high.max(before.range[1])];
            let bars = Bars::new(range, counts.are_whole && before.are_whole);
            let shards = self.profile.shards().count();
            let now = &self.sorted[index];
            let ranked = rank(names[index], now, &before.sorted, bars, (self.scratch, shards))?;
            Ok((ranked, bars))
        };
        (0..models.len()).into_par_iter().map(rank).collect()
    }

    /// Runs the second stage for all shards.
    pub fn finish(&self, store: &Store, root: &Root, ranked: &[RankedModel]) -> Result<Finished> {
        let mut finished = Finished { summary: FinishSummary::default(), files: Vec::new() };
        let current = self.current(store, root);
        let stage = |shard| self.finish_one(store, root, ranked, current, shard);
        engine::run(self.profile.shards(), stage, |_, (files, summary)| {
            finished.files.extend(files);
            finished.summary.add(summary);
            Ok(())
        })?;
        Ok(finished)
    }

    /// The as-of of the current profile, which says when each row was last changed. A damaged one that this run replaces
    /// is none.
    fn current(&self, store: &Store, root: &Root) -> Option<Instant> {
        let as_of = self.context.as_of;
        let at = root.profile.as_ref().map(|profile| profile.as_of).filter(|at| *at <= as_of.at)?;
        if at == as_of.at && !previous::is_whole(store, root, &folder("profile", as_of)) {
            tracing::warn!("updated_at of all customers is {at}, because the profile is damaged");
            return None;
        }
        Some(at)
    }

    fn finish_one(
        &self,
        store: &Store,
        root: &Root,
        ranked: &[RankedModel],
        current: Option<Instant>,
        shard: Shard,
    ) -> Result<(Vec<String>, FinishSummary)> {
        let context = self.context;
        let scored = Scored::take_up(context, &self.scored, shard.place())?;
        let models = ranked.iter().zip(&scored.models);
        let percentiles = models
            .map(|((ranked, _), scores)| ranked.percentiles(shard.place(), &scores.ranked))
            .collect::<Result<Vec<_>>>()?;
        let table = |name: &str, at: Instant| {
            let folder = format!("{name}/as_of={}", at.folder());
            store.read_shard(root, &folder, shard, None)
        };
        let previous = context.previous.map(|at| table("segments", at)).transpose()?;
        let current = current.map(|at| table("profile", at)).transpose()?;
        let current = current.map(|rows| concat(&rows)).transpose()?.flatten();
        let current = current.map(|rows| sort_by_key(&rows, "customer360_id")).transpose()?;
        let input = ShardInput {
            profile: &self.profile.rows(shard)?,
            percentiles: &percentiles,
            previous: previous.as_deref().unwrap_or_default(),
            current: current.as_ref(),
        };
        let (tables, summary) = finish_shard(context, &scored, &input)?;
        let write = |(table, rows): &(&str, RecordBatch)| {
            let name = shard.file_name(self.staging.number());
            let file = format!("{}/{name}", folder(table, context.as_of));
            Writer::stage(self.staging.file(&file)?, &rows.schema())?.write_only(rows)?;
            Ok(file)
        };
        let files = tables.par_iter().map(write).collect::<Result<_>>()?;
        Ok((files, summary))
    }

    /// Collects all numbers of the run's report.
    pub fn metrics(
        &self,
        run: &str,
        checks: Vec<Check>,
        first: &First,
        ranked: &[RankedModel],
        finished: &Finished,
        currency: &str,
    ) -> RunMetrics {
        let (champions, scores) = (&self.context.champions, &first.summary);
        let scored = champions.scored();
        let models = scored.iter().zip(&scores.models).zip(ranked);
        let models = models.map(|((model, counts), (ranked, bars))| {
            let trained = Artifact::trained_at(model.version);
            let mut classifiers = champions.classifiers.iter().zip(&scores.inputs);
            let own = classifiers.find(|(champion, _)| champion.name == model.name);
            let drift = own.map(|(champion, inputs)| drifts(&champion.artifact, inputs));
            summary::model(model, trained, counts, ranked, *bars, drift.unwrap_or_default())
        });
        let segments = &finished.summary.segments;
        RunMetrics {
            format_version: FORMAT_VERSION,
            run: run.to_owned(),
            as_of: self.context.as_of.at,
            previous: self.context.previous,
            customers: scores.customers as usize,
            // The spilled bytes depend on the memory of the machine; the manifest records them.
            events: BuildReport { spilled_bytes: 0, ..first.report.clone() },
            checks,
            last_event: scores.last_event,
            models: models.collect(),
            segments: segments.sizes().to_vec(),
            flows: segments.flows(),
            overlaps: segments.overlaps(),
            audiences: finished.summary.audiences.audiences(self.context.segments.described()),
            currency: currency.to_owned(),
        }
    }
}

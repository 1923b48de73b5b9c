//! The command `features build`: writes snapshots of all views at one as-of or at many.

use std::collections::BTreeSet;

use serde_json::json;

use super::CommandProblem;
use super::previous::is_whole;
use super::quality::{self, Reference};
use super::record::RunRecord;
use super::views::{Views, ViewsAt, Written};
use super::{scattering, shards, timelines};
use crate::config::Project;
use crate::engine;
use crate::error::Result;
use crate::exit::Exit;
use crate::features::catalog::Feature;
use crate::features::drift::Distribution;
use crate::features::events::{BuildReport, Events};
use crate::features::expectation::{Breach, Judgement};
use crate::features::plan::{AsOf, FeaturePlan};
use crate::features::registry::{self, Inputs, SnapshotRecord};
use crate::features::snapshot::folder;
use crate::features::timelines::{KeptTimelines, Refresh};
use crate::report::{Output, Progress, Table, thousands};
use crate::shard::Shards;
use crate::sources::contract::first_event;
use crate::sources::profile::{CREATED, Entities, KEY, ProfileShards};
use crate::store::Transaction;
use crate::time::{Duration, Instant};

/// The arguments of `features build`.
#[derive(Debug, Clone, Copy)]
pub struct Build {
    /// Whether all events are read again and all snapshots are computed again.
    pub full: bool,
    /// The first of many as-ofs. None builds only the as-of of the run.
    pub from: Option<Instant>,
    /// The upper limit of many as-ofs, included if one falls on it. None stands for the as-of of the run.
    pub to: Option<Instant>,
    /// The interval from one as-of to the next.
    pub every: Duration,
}

/// The name of the plan that computes the views.
const VIEWS: &str = "views";

/// The greatest number of as-ofs in one build.
const MOST: usize = 10_000;

/// Computes all views and writes them to the offline store, as many as-ofs at a time as fit in memory.
/// Snapshots that already exist from the same definitions and inputs are left unchanged. The exit status says
/// whether all expectations hold.
pub fn build(project: &Project, asked: Build, progress: &mut Progress) -> Result<(Output, Exit)> {
    let as_ofs = as_ofs(project, asked)?;
    let store = project.store()?;
    let references = Reference::find(project, &store, &as_ofs)?;
    let mut done = Done::default();
    let mut left: Option<Vec<ViewsAt>> = None;
    progress.steps(as_ofs.len() as u64);
    loop {
        let mut transaction = super::begin(project, &store, "features build")?;
        let shards = shards(project, &mut transaction.root);
        progress.stage("reading the profile");
        let instants: Vec<Instant> = as_ofs.iter().map(|as_of| as_of.at).collect();
        let scattering = scattering(project, shards, transaction.scratch(), &instants);
        let profile =
            project.profile.scatter(scattering, &|name| [KEY, CREATED].contains(&name))?;
        progress.stage("reading new events");
        let full = asked.full && left.is_none();
        let history = refresh(project, &mut transaction, shards, &references, full)?;
        let open = left.take().unwrap_or_else(|| {
            let open = |as_of: &AsOf| open(project, &transaction, *as_of, &history, &profile, full);
            as_ofs.iter().map(open).filter(|open| !open.views.is_empty()).collect()
        });
        let (now, later) = open.split_at(open.len().min(at_a_time(project, &profile)));
        if now.is_empty() && !history.is_changed() {
            done.refresh = history.refreshed().clone();
            break;
        }
        let (must, last) = (asked.from.is_none(), as_ofs[as_ofs.len() - 1]);
        let run = Run { project, references: &references, must, last };
        run.publish(transaction, history, &profile, now, &mut done, progress)?;
        let reached = now.last().map_or_else(String::new, |open| open.as_of.at.folder());
        progress.advance(now.len() as u64, &reached);
        if later.is_empty() {
            break;
        }
        left = Some(later.to_vec());
    }
    progress.finish();
    Ok(done.output(project, &as_ofs))
}

/// The part of a build that is the same for every group of as-ofs.
struct Run<'a> {
    project: &'a Project,
    references: &'a [Reference],
    /// Whether an as-of without customers is an error.
    must: bool,
    /// The last as-of of the whole build.
    last: AsOf,
}

impl Run<'_> {
    /// Computes and publishes the views that are `open` at some as-ofs.
    fn publish(
        &self,
        mut transaction: Transaction,
        history: KeptTimelines,
        profile: &ProfileShards,
        open: &[ViewsAt],
        done: &mut Done,
        progress: &mut Progress,
    ) -> Result<()> {
        progress.stage("computing features");
        let Self { project, references, .. } = *self;
        let as_ofs: Vec<AsOf> = open.iter().map(|open| open.as_of).collect();
        let names: BTreeSet<&str> =
            open.iter().flat_map(|open| open.views.iter().copied()).collect();
        let mut plans = vec![plan(project, &names, as_ofs.clone())];
        plans.extend(references.iter().map(|reference| reference.plan(&as_ofs)));
        let data = history.visible_at(self.last);
        let events = history.events(&mut transaction, &project.events, &plans)?;
        let mut views = Views::new(project, &transaction, open)?;
        let mut report = events.report.clone();
        let mut counted: Vec<Vec<Vec<Distribution>>> =
            references.iter().map(|reference| vec![reference.empty(); as_ofs.len()]).collect();
        let stage = |shard| {
            let rows = events.shard(shard, &Entities::of(&profile.rows(shard)?)?)?;
            let of_views = rows.of(VIEWS)?.iter().enumerate();
            let written = of_views.map(|(at, rows)| views.write(at, shard, rows));
            let written = written.collect::<Result<Vec<_>>>()?;
            let count = |reference: &Reference| {
                let rows = rows.of(&reference.plan_name())?.iter();
                rows.map(|rows| reference.count(project, rows)).collect::<Result<Vec<_>>>()
            };
            let counts = references.iter().map(count).collect::<Result<Vec<_>>>()?;
            Ok((rows.left_out(), written, counts))
        };
        let mut written = Written::new(open.len());
        engine::run(profile.shards(), stage, |_, (left_out, shard, counts)| {
            report.add(left_out);
            shard.into_iter().enumerate().for_each(|(at, views)| written.add(at, views));
            for (sums, counts) in counted.iter_mut().zip(counts) {
                for (sums, counts) in sums.iter_mut().zip(counts) {
                    sums.iter_mut().zip(&counts).for_each(|(sum, more)| sum.merge(more));
                }
            }
            Ok(())
        })?;
        report.check_orphans(&project.events)?;
        let refresh = events.finish(&mut transaction)?;
        progress.stage("checking and publishing features");
        for (at, ViewsAt { as_of, .. }) in open.iter().enumerate() {
            if written.rows(at) == 0 {
                if self.must {
                    let first_event = first_event(&timelines::facts(project, &mut transaction)?);
                    return Err(CommandProblem::NoCustomers { at: as_of.at, first_event }.into());
                }
                continue;
            }
            let drifts = references.iter().zip(&counted).filter_map(|(reference, counted)| {
                let place = reference.place(&as_ofs, *as_of)?;
                Some(reference.drifts(project, &counted[place]))
            });
            let (verdict, snapshots) =
                views.publish(&mut transaction, at, &mut written, drifts.collect())?;
            done.verdict.add(verdict);
            done.snapshots.extend(snapshots);
        }
        let all = done.verdict.breaches.iter();
        let own = |breach: &&Breach| as_ofs.iter().any(|as_of| as_of.at == breach.as_of);
        let breaches: Vec<&Breach> = all.filter(own).collect();
        let outcome = json!({ "refresh": refresh, "as_ofs": as_ofs, "breaches": breaches });
        let record = RunRecord { project, as_of: self.last, data: &data, events: &report };
        record.write(&mut transaction, "features-build", outcome, progress)?;
        transaction.commit()?;
        done.add(report, refresh);
        Ok(())
    }
}

fn refresh(
    project: &Project,
    transaction: &mut Transaction,
    shards: Shards,
    references: &[Reference],
    full: bool,
) -> Result<KeptTimelines> {
    let asked: Vec<_> = references.iter().map(|reference| reference.plan(&[])).collect();
    timelines::refresh(project, transaction, shards, &asked, full)
}

fn all_views(project: &Project) -> BTreeSet<&str> {
    project.catalog.views.iter().map(|view| view.name.as_str()).collect()
}

fn plan(project: &Project, views: &BTreeSet<&str>, as_ofs: Vec<AsOf>) -> FeaturePlan {
    let of_views = |feature: &&Feature| views.contains(feature.view.as_str());
    let columns = project.catalog.features.iter().filter(of_views).map(Feature::column);
    FeaturePlan::of_catalog(VIEWS, &project.catalog, columns, as_ofs)
}

fn as_ofs(project: &Project, asked: Build) -> Result<Vec<AsOf>> {
    let as_of = |at: Instant| AsOf { at, known_at: project.known_at.unwrap_or(at) };
    let Some(from) = asked.from else {
        return Ok(vec![as_of(project.as_of()?)]);
    };
    let to = asked.to.map_or_else(|| project.as_of(), Ok)?;
    if from > to || asked.every.0 <= 0 {
        return Err(CommandProblem::NoAsOfs { from, to, every: asked.every }.into());
    }
    let every = |i: usize| Instant(from.0.saturating_add(asked.every.0.saturating_mul(i as i64)));
    let list: Vec<AsOf> = (0..=MOST).map(every).take_while(|at| *at <= to).map(as_of).collect();
    if list.len() > MOST {
        let every = asked.every;
        return Err(CommandProblem::ManyAsOfs { from, to, every, most: MOST }.into());
    }
    Ok(list)
}

/// Finds the views that have no snapshot at an as-of from the same definitions and inputs; all views if
/// `full`.
fn open<'a>(
    project: &'a Project,
    transaction: &Transaction,
    as_of: AsOf,
    history: &KeptTimelines,
    profile: &ProfileShards,
    full: bool,
) -> ViewsAt<'a> {
    let inputs = Inputs {
        events: history.visible_at(as_of),
        profile: profile.customers_at(as_of.at).fingerprint(),
    };
    let mut views = all_views(project);
    views.retain(|view| full || !is_current(project, transaction, view, as_of, &inputs));
    ViewsAt { as_of, views, inputs }
}

/// Whether the store has a snapshot of a view at an as-of from the same definitions and inputs. A snapshot
/// whose record cannot be read, or whose rows are damaged, does not count.
fn is_current(
    project: &Project,
    transaction: &Transaction,
    view: &str,
    as_of: AsOf,
    inputs: &Inputs,
) -> bool {
    let path = registry::path(view, as_of.at);
    let root = &transaction.root;
    let store = transaction.store();
    if root.folders_in(&folder(view, as_of.at)).next().is_none() {
        return false;
    }
    let is_same = store.read_json::<SnapshotRecord>(root, &path).is_ok_and(|snapshot| {
        snapshot.as_of == as_of
            && snapshot.inputs == *inputs
            && snapshot.definition == registry::definition(&project.catalog, view)
    });
    is_same && is_whole(store, root, &folder(view, as_of.at))
}

/// The number of as-ofs that are computed together: as many as fit in half of the memory budget, with the
/// rows of the shards that are in flight.
fn at_a_time(project: &Project, profile: &ProfileShards) -> usize {
    let columns = project.catalog.features.len() as u64 + 4;
    let shards = profile.shards().count().min(rayon::current_num_threads()) as u64;
    let customers = profile.rows / profile.shards().count() as u64 + 1;
    let bytes = shards * customers * columns * BYTES_OF_A_VALUE;
    (project.memory / 2 / bytes.max(1)).clamp(1, 16) as usize
}

/// The number of bytes that a value takes while it is computed and written: as bits, in an Arrow array and in
/// a Parquet page.
const BYTES_OF_A_VALUE: u64 = 24;

/// The results of a build over all its rounds.
#[derive(Debug, Default)]
struct Done {
    snapshots: Vec<SnapshotRecord>,
    verdict: Judgement,
    report: BuildReport,
    refresh: Refresh,
    rounds: u64,
}

impl Done {
    fn add(&mut self, report: BuildReport, refresh: Refresh) {
        self.report = report;
        // Later rounds find no new events.
        if self.rounds == 0 {
            self.refresh = refresh;
        }
        self.rounds += 1;
    }

    fn output(&self, project: &Project, as_ofs: &[AsOf]) -> (Output, Exit) {
        let mut table = Table::new(&["as of", "view", "columns", "customers", "folder"]);
        for snapshot in &self.snapshots {
            table.row([
                &snapshot.as_of.at.folder(),
                &snapshot.view,
                &snapshot.columns.len().to_string(),
                &thousands(snapshot.rows),
                &folder(&snapshot.view, snapshot.as_of.at),
            ]);
        }
        let computed: BTreeSet<AsOf> =
            self.snapshots.iter().map(|snapshot| snapshot.as_of).collect();
        let verdict = &self.verdict;
        let broken: BTreeSet<Instant> = verdict.breaches.iter().map(|b| b.as_of).collect();
        let left = as_ofs.len() - computed.len() - broken.len();
        let mut text = if computed.is_empty() { String::new() } else { table.render() + "\n" };
        text += &timelines::sentences(&self.refresh);
        if left > 0 {
            text += &format!(
                "{} of {} as-ofs left as they are: the same definitions and inputs, or no customers\n",
                thousands(left as u64),
                thousands(as_ofs.len() as u64)
            );
        }
        text += &quality::text(project, verdict);
        let json = json!({
            "as_ofs": as_ofs,
            "snapshots": self.snapshots,
            "expectations": verdict,
            "events": self.report,
            "refresh": self.refresh,
            "store": project.settings.project.store,
        });
        (Output { text, json }, Exit::Contract.unless(broken.is_empty()))
    }
}

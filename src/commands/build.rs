//! `features build`: snapshots of all views, at one as-of or at many.

use serde_json::json;

use super::snapshot::{folder, write_views};
use super::write_manifest;
use crate::config::Project;
use crate::error::{Error, Result};
use crate::features::catalog::Feature;
use crate::features::engine::{BuildReport, Part};
use crate::features::history::{History, Keeping, Refresh};
use crate::features::plan::{AsOf, FeaturePlan};
use crate::features::registry::{self, Inputs, Snapshot};
use crate::report::{Output, Progress, Table, thousands};
use crate::sources::profile::Entities;
use crate::store::parquet::Sorted;
use crate::store::{Store, Transaction};
use crate::time::{Duration, Instant};

/// What `features build` is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Build {
    /// Whether all events are read and all snapshots computed again.
    pub full: bool,
    /// The first as-of of many; None for the run's own as-of alone.
    pub from: Option<Instant>,
    /// The last as-of of many, if one falls on it; None for the run's as-of.
    pub to: Option<Instant>,
    /// What lies between one as-of and the next.
    pub every: Duration,
}

/// As-ofs at most.
const MOST: usize = 10_000;

/// Computes all views and writes them to the offline store, as many as-ofs at a time as memory holds.
/// What is there from the same definitions and inputs is left as it is.
pub fn build(project: &Project, asked: Build, progress: &mut Progress) -> Result<Output> {
    let as_ofs = as_ofs(project, asked)?;
    let store = project.store()?;
    let entities = project.profile.entities()?;
    let mut done = Done::default();
    let mut left: Option<Vec<AsOf>> = None;
    progress.steps(as_ofs.len() as u64);
    loop {
        let mut transaction = store.begin("features build")?;
        progress.stage("reading new events");
        let full = asked.full && left.is_none();
        let history = refresh(project, &transaction, &entities, full)?;
        let inputs = |as_of: &AsOf| Inputs {
            events: history.visible_at(*as_of),
            profile: registry::customers_at(&entities, as_of.at),
        };
        let open = match left.take() {
            Some(left) => left,
            None if full => as_ofs.clone(),
            None => {
                let is_open =
                    |as_of: &&AsOf| !is_current(project, &transaction, **as_of, &inputs(as_of));
                as_ofs.iter().filter(is_open).copied().collect()
            }
        };
        let (now, later) = open.split_at(open.len().min(at_a_time(project, &entities)));
        if now.is_empty() && !history.is_changed() {
            done.refresh = history.refreshed().clone();
            break;
        }
        progress.stage("computing features");
        let inputs: Vec<Inputs> = now.iter().map(inputs).collect();
        let plan = plan(project, now.to_vec());
        let mut parts: Vec<Vec<_>> = now.iter().map(|_| Vec::new()).collect();
        let mut sink = |part: Part| {
            parts[part.as_of].push(part.rows);
            Ok(())
        };
        let (report, refresh) =
            history.build(&mut transaction, &project.events, &[plan], &mut sink)?;
        progress.stage("writing features");
        for ((as_of, parts), inputs) in now.iter().zip(parts).zip(&inputs) {
            let rows = Sorted::new(parts);
            if rows.is_empty() && asked.from.is_none() {
                let message = format!("there is no customer at {}", as_of.at);
                return Err(Error::not_enough(message, "choose a later as-of"));
            }
            if !rows.is_empty() {
                done.snapshots.extend(write_views(
                    &mut transaction,
                    project,
                    *as_of,
                    inputs,
                    &rows,
                )?);
            }
        }
        let told = json!({ "refresh": refresh, "as_ofs": now });
        write_manifest(&mut transaction, project, "features-build", "", &report, told, progress)?;
        transaction.commit()?;
        progress.advance(now.len() as u64, &now.last().map_or_else(String::new, |a| a.at.folder()));
        done.add(report, refresh);
        if later.is_empty() {
            break;
        }
        left = Some(later.to_vec());
    }
    progress.finish();
    Ok(done.output(project, &as_ofs))
}

fn refresh(
    project: &Project,
    transaction: &Transaction,
    entities: &Entities,
    full: bool,
) -> Result<History> {
    let keeping = Keeping::new(full, project.memory);
    let plans = [plan(project, Vec::new())];
    History::refresh(transaction, &project.events, entities, &plans, &keeping)
}

fn plan(project: &Project, as_ofs: Vec<AsOf>) -> FeaturePlan {
    let columns = project.catalog.features.iter().map(Feature::column);
    FeaturePlan::of_catalog(&project.catalog, columns, as_ofs)
}

fn as_ofs(project: &Project, asked: Build) -> Result<Vec<AsOf>> {
    let as_of = |at: Instant| AsOf { at, known_at: project.known_at.unwrap_or(at) };
    let Some(from) = asked.from else {
        if asked.to.is_some() {
            return Err(Error::configuration(
                "--to without --from",
                "name the first as-of, --from",
            ));
        }
        return Ok(vec![as_of(project.as_of()?)]);
    };
    let to = asked.to.map_or_else(|| project.as_of(), Ok)?;
    if from > to || asked.every.0 <= 0 {
        return Err(Error::configuration(
            format!("--from {from} --to {to} --every {} names no as-of", asked.every),
            "--from comes before --to, and --every is longer than zero",
        ));
    }
    let every = |i: usize| Instant(from.0.saturating_add(asked.every.0.saturating_mul(i as i64)));
    let list: Vec<AsOf> = (0..=MOST).map(every).take_while(|at| *at <= to).map(as_of).collect();
    if list.len() > MOST {
        return Err(Error::configuration(
            format!("--from {from} --to {to} --every {} names over {MOST} as-ofs", asked.every),
            "choose a longer --every",
        ));
    }
    Ok(list)
}

/// Whether all views are there at an as-of, computed by the same definitions from the same inputs. A
/// record that cannot be read is not.
fn is_current(project: &Project, transaction: &Transaction, as_of: AsOf, inputs: &Inputs) -> bool {
    let store: &Store = transaction.store();
    project.catalog.views.iter().all(|view| {
        let path = registry::path(&view.name, as_of.at);
        let is_live = transaction.root.files.contains_key(&path);
        let snapshot = is_live.then(|| store.read_json::<Snapshot>(&path).ok()).flatten();
        let has_rows = transaction.root.below(&folder(&view.name, as_of)).next().is_some();
        has_rows
            && snapshot.is_some_and(|snapshot| {
                snapshot.as_of == as_of
                    && snapshot.inputs == *inputs
                    && snapshot.definition == registry::definition(&project.catalog, &view.name)
            })
    })
}

/// As-ofs whose rows fit in half of the memory for events.
fn at_a_time(project: &Project, entities: &Entities) -> usize {
    let columns = project.catalog.features.len() as u64 + 4;
    let bytes = (entities.keys.len() as u64 + 1) * columns * 12;
    (project.memory / 2 / bytes.max(1)).clamp(1, 16) as usize
}

/// What was done.
#[derive(Debug, Default)]
struct Done {
    snapshots: Vec<Snapshot>,
    report: BuildReport,
    refresh: Refresh,
    rounds: u64,
}

impl Done {
    fn add(&mut self, report: BuildReport, refresh: Refresh) {
        self.report = report;
        // Later rounds find nothing new.
        if self.rounds == 0 {
            self.refresh = refresh;
        }
        self.rounds += 1;
    }

    fn output(&self, project: &Project, as_ofs: &[AsOf]) -> Output {
        let mut table = Table::new(&["as of", "view", "columns", "customers", "folder"]);
        for snapshot in &self.snapshots {
            table.row([
                &snapshot.as_of.at.folder(),
                &snapshot.view,
                &snapshot.columns.len().to_string(),
                &thousands(snapshot.rows),
                &folder(&snapshot.view, snapshot.as_of),
            ]);
        }
        let computed: std::collections::BTreeSet<AsOf> =
            self.snapshots.iter().map(|snapshot| snapshot.as_of).collect();
        let left = as_ofs.len() - computed.len();
        let mut text = if computed.is_empty() { String::new() } else { table.render() + "\n" };
        let Refresh { files, files_read, events_read, .. } = self.refresh;
        text += &format!(
            "{} of {} event files read, {} events\n",
            thousands(files_read as u64),
            thousands(files as u64),
            thousands(events_read)
        );
        if let Some(reason) = &self.refresh.all_because {
            text += &format!("all of them, because {reason}\n");
        }
        if left > 0 {
            text += &format!(
                "{} of {} as-ofs left as they are: the same definitions and inputs, or no customers\n",
                thousands(left as u64),
                thousands(as_ofs.len() as u64)
            );
        }
        let json = json!({
            "as_ofs": as_ofs,
            "snapshots": self.snapshots,
            "events": self.report,
            "refresh": self.refresh,
            "store": project.settings.project.store,
        });
        Output { text, json }
    }
}

//! The command `features join`: joins features to the user's own rows, each at its own instant.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::Field;
use rayon::prelude::*;
use serde_json::json;

use super::CommandProblem;
use super::{reading, scattering, shards};
use crate::config::Project;
use crate::engine;
use crate::error::{Error, Result};
use crate::expression::polars::arrow_type;
use crate::features::catalog::Feature;
use crate::features::events::Events;
use crate::features::join::{self, Places, Validity};
use crate::features::plan::FeaturePlan;
use crate::features::registry::{self, SnapshotRecord};
use crate::features::scanned::ScannedEvents;
use crate::report::{Output, Progress, Table, thousands};
use crate::sources::entity_rows::EntityRows;
use crate::sources::profile::{CREATED, Entities, KEY};
use crate::store::parquet::{Writer, batches as batches_of, concat, read, take};
use crate::store::staged::Staged;
use crate::store::{Root, Store};
use crate::time::Duration;

/// The arguments of `features join`.
#[derive(Debug, Clone)]
pub struct Join<'a> {
    /// The Parquet file with the rows to join to.
    pub entities: &'a Path,
    /// The names of the views to join; all views if there are none.
    pub views: &'a [String],
    /// The Parquet file to write.
    pub out: &'a Path,
    /// Whether features are computed from the events before the instant of each row.
    pub exact: bool,
    /// The greatest age of a snapshot, by view.
    pub ttl: &'a [(String, Duration)],
    /// Whether a snapshot counts only if it had been created by the instant of the row.
    pub known: bool,
}

/// Joins features to the user's own rows, each at its own instant, and writes the result.
pub fn join(project: &Project, join: &Join, progress: &mut Progress) -> Result<Output> {
    let views = views(project, join)?;
    progress.stage("reading the entities");
    let entities = EntityRows::read(join.entities, project.context())?;
    let mut table = Table::new(&["view", "columns", "rows with features", "rows without"]);
    let (mut fields, mut arrays, mut joined) = (Vec::new(), Vec::new(), Vec::new());
    progress.stage("joining");
    let joined_views = match join.exact {
        true => exactly(project, &entities, &views)?,
        false => from_snapshots(project, &entities, &views, join)?,
    };
    for (view, places, columns) in joined_views {
        let with = places.iter().flatten().count() as u64;
        let without = places.len() as u64 - with;
        table.row([&view, &columns.len().to_string(), &thousands(with), &thousands(without)]);
        joined.push(
            json!({ "view": view, "columns": columns.len(), "with": with, "without": without }),
        );
        for (field, array) in columns {
            fields.push(field);
            arrays.push(array);
        }
    }
    let rows = join::joined(&entities, fields, arrays)?;
    progress.stage("writing");
    let staged = Staged::beside(join.out)?;
    Writer::create(staged.path(), &rows.schema())?.write_only(&rows)?;
    staged.publish()?;
    progress.finish();
    let text = format!(
        "{}\n{} rows with {} columns in {}\n",
        table.render(),
        thousands(rows.num_rows() as u64),
        rows.num_columns(),
        join.out.display()
    );
    Ok(Output { text, json: json!({ "rows": rows.num_rows(), "views": joined, "file": join.out }) })
}

/// Checks the arguments and returns the names of the views to join.
fn views(project: &Project, join: &Join) -> Result<Vec<String>> {
    let known: Vec<&str> = project.catalog.views.iter().map(|view| view.name.as_str()).collect();
    let asked = join.views.iter().map(|view| ("--views", view));
    for (flag, view) in asked.chain(join.ttl.iter().map(|(view, _)| ("--ttl", view))) {
        if !known.contains(&view.as_str()) {
            return Err(Error::unknown(flag, "view", view, known));
        }
    }
    if join.exact && (join.known || !join.ttl.is_empty()) {
        return Err(CommandProblem::ExactWithSnapshots.into());
    }
    Ok(match join.views {
        [] => known.into_iter().map(str::to_owned).collect(),
        views => views.to_vec(),
    })
}

/// The name of a view, the places of its rows, and its columns in the order of the entities.
type JoinedView = (String, Places, Vec<(Field, ArrayRef)>);

fn columns_of(
    project: &Project,
    view: &str,
    batches: &[RecordBatch],
    places: &Places,
) -> Result<Vec<(Field, ArrayRef)>> {
    let scale = project.context().scale;
    let columns: Vec<(&str, Field)> = project
        .catalog
        .of_view(view)
        .map(|f| (f.column(), Field::new(f.column(), arrow_type(f.ty(), scale), true)))
        .collect();
    let arrays = join::gather(batches, &columns, places)?;
    Ok(columns.into_iter().map(|(_, field)| field).zip(arrays).collect())
}

/// Joins the latest snapshot of each view at or before the instant of each row.
fn from_snapshots(
    project: &Project,
    entities: &EntityRows,
    views: &[String],
    join: &Join,
) -> Result<Vec<JoinedView>> {
    let store = project.store()?;
    let root = store.root()?;
    let of_view = |view: &String| {
        let paths = snapshots(project, &store, &root, view)?;
        let ttl = join.ttl.iter().find(|(name, _)| name == view).map(|(_, ttl)| *ttl);
        let validity = Validity { ttl, known: join.known };
        let stamps = |path: &PathBuf| read(path, Some(&join::STAMPS));
        let mut places = join::latest(entities, &paths, stamps, validity)?;
        // Of each file only the rows that are asked for are kept.
        let wanted = join::compact(&mut places);
        let own = project.catalog.of_view(view).map(Feature::column);
        let names: Vec<&str> = own.chain(["customer360_id"]).collect();
        let kept = wanted.par_iter().map(|(file, rows)| kept(&paths[*file], &names, rows));
        let batches: Vec<RecordBatch> = kept.collect::<Result<_>>()?;
        let columns = columns_of(project, view, &batches, &places)?;
        Ok((view.clone(), places, columns))
    };
    views.iter().map(of_view).collect()
}

/// Some rows of a file, given ascending, as one batch.
fn kept(path: &Path, names: &[&str], rows: &[u32]) -> Result<RecordBatch> {
    let (mut batches, mut before, mut rest) = (Vec::new(), 0, rows);
    for batch in batches_of(path, Some(names), None)? {
        let batch = batch?;
        let end = before + batch.num_rows() as u32;
        let (own, later) = rest.split_at(rest.partition_point(|row| *row < end));
        let own: Vec<u32> = own.iter().map(|row| row - before).collect();
        batches.push(take(&batch, &own.into())?);
        (before, rest) = (end, later);
    }
    concat(&batches)?.ok_or_else(|| {
        Error::engine("joining features")(format!("{} has no rows any more", path.display()))
    })
}

/// The files of all snapshots of a view.
///
/// # Errors
/// Returns [`CommandProblem::NoSnapshots`] if there are none, and a contract violation if their definitions differ from
/// those of the project.
pub fn snapshots(
    project: &Project,
    store: &Store,
    root: &Root,
    view: &str,
) -> Result<Vec<PathBuf>> {
    same_definitions(project, store, root, view)?;
    let folder = format!("features/{view}");
    let names = store.below(root, &folder)?;
    let paths = names.iter().map(|name| store.file(root, name));
    let paths: Vec<_> = paths.collect::<Result<_>>()?;
    if paths.is_empty() {
        return Err(CommandProblem::NoSnapshots { view: view.to_owned() }.into());
    }
    Ok(paths)
}

/// Refuses snapshots of a view that were computed by other definitions than those of the project. Joined
/// together, they would give one column with two meanings.
fn same_definitions(project: &Project, store: &Store, root: &Root, view: &str) -> Result<()> {
    let snapshots = registry::snapshots(store, root, view)?;
    let other = |snapshot: &SnapshotRecord| {
        let column = snapshot.outdated(&project.catalog).next()?.column().to_owned();
        Some((snapshot.as_of.at.folder(), column))
    };
    let others: Vec<(String, String)> = snapshots.iter().filter_map(other).collect();
    let Some((at, column)) = others.first() else { return Ok(()) };
    let problem = CommandProblem::OtherDefinitions {
        view: view.to_owned(),
        column: column.clone(),
        at: at.clone(),
        others: others.len(),
        snapshots: snapshots.len(),
    };
    Err(problem.into())
}

/// The name of the plan that computes features at the instants of the rows.
const EXACT: &str = "exact";

/// Computes the features from the events before the instant of each row.
fn exactly(project: &Project, entities: &EntityRows, views: &[String]) -> Result<Vec<JoinedView>> {
    let own = Arc::new(join::own_as_ofs(entities, project.known_at));
    let columns = views.iter().flat_map(|view| project.catalog.of_view(view)).map(Feature::column);
    let mut plan = FeaturePlan::of_catalog(EXACT, &project.catalog, columns, Vec::new());
    plan.own = Some(own.clone());
    let plans = [plan];
    let scratch = tempfile::tempdir().map_err(Error::io("write", std::env::temp_dir()))?;
    let shards = shards(project, &mut project.store()?.root()?);
    let scattering = scattering(project, shards, scratch.path(), &[]);
    let profile = project.profile.scatter(scattering, &|name| [KEY, CREATED].contains(&name))?;
    let events =
        ScannedEvents::read(&project.events, &plans, reading(project, shards, scratch.path()))?;
    let mut report = events.report.clone();
    let mut parts = Vec::new();
    let stage = |shard| events.shard(shard, &Entities::of(&profile.rows(shard)?)?);
    engine::run(shards, stage, |_, rows| {
        report.add(rows.left_out());
        parts.push(rows.one(EXACT)?.clone());
        Ok(())
    })?;
    report.check_orphans(&project.events)?;
    let places = join::exact(entities, &own, &parts)?;
    let of_view = |view: &String| {
        Ok((view.clone(), places.clone(), columns_of(project, view, &parts, &places)?))
    };
    views.iter().map(of_view).collect()
}

//! `features list | describe | build`.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{Field, Schema, SchemaRef};
use rayon::prelude::*;
use serde_json::json;

use super::{as_of, write_manifest};
use crate::config::Project;
use crate::error::{Error, Result};
use crate::expression::Type;
use crate::expression::polars::arrow_type;
use crate::features::catalog::{Definition, Feature, View};
use crate::features::history::{self, Keeping};
use crate::features::plan::{AsOf, FeaturePlan};
use crate::money::Scale;
use crate::report::{Output, Progress, Table, thousands};
use crate::store::Transaction;
use crate::store::parquet::{Sorted, Writer};

/// Every view with its columns.
pub fn list(project: &Project) -> Output {
    let mut table = Table::new(&["view", "feature", "type", "computed as", "writes"]);
    let mut list = Vec::new();
    for feature in &project.catalog.features {
        let computed = computed_as(feature);
        let writes = feature.writes.clone().unwrap_or_default();
        table.row([&feature.view, feature.column(), feature.ty().name(), &computed, &writes]);
        list.push(describe_feature(feature));
    }
    let count = format!("{} features in {} views\n", list.len(), project.catalog.views.len());
    Output { text: table.render() + "\n" + &count, json: json!(list) }
}

fn computed_as(feature: &Feature) -> String {
    match &feature.definition {
        Definition::Aggregation(a) => {
            let op = serde_json::to_value(a.op).ok().and_then(|op| op.as_str().map(str::to_owned));
            format!("{} over {}", op.unwrap_or_default(), a.window)
        }
        Definition::Derived(derived) => {
            let columns: Vec<&str> = derived.expression.columns().into_iter().collect();
            format!("from {}", columns.join(", "))
        }
    }
}

fn describe_feature(feature: &Feature) -> serde_json::Value {
    json!({
        "name": feature.column(),
        "view": feature.view,
        "type": feature.ty().name(),
        "computed_as": computed_as(feature),
        "description": feature.description,
        "writes": feature.writes,
        "version": feature.version,
        "definition": feature.definition,
    })
}

/// One view or one feature in full.
pub fn describe(project: &Project, name: &str) -> Result<Output> {
    let catalog = &project.catalog;
    if let Some(view) = catalog.views.iter().find(|view| view.name == name) {
        return Ok(describe_view(project, view));
    }
    let Some(feature) = catalog.get(name) else {
        let views = catalog.views.iter().map(|view| view.name.as_str());
        let features = catalog.features.iter().map(|feature| feature.column());
        let valid: Vec<&str> = views.chain(features).collect();
        return Err(Error::unknown("features describe", "view or feature", name, valid));
    };
    let models: Vec<&str> = project
        .models
        .classifiers
        .iter()
        .filter(|model| model.inputs.iter().any(|input| input == name))
        .map(|model| model.spec.name.as_str())
        .collect();
    let mut table = Table::new(&["feature", name]);
    table.row(["view", &feature.view]);
    table.row(["description", &feature.description]);
    table.row(["type", feature.ty().name()]);
    table.row(["computed as", &computed_as(feature)]);
    table.row(["writes", feature.writes.as_deref().unwrap_or("-")]);
    table.row(["used by models", &models.join(", ")]);
    table.row(["version", &feature.version]);
    Ok(Output { text: table.render(), json: describe_feature(feature) })
}

fn describe_view(project: &Project, view: &View) -> Output {
    let mut table = Table::new(&["feature", "type", "computed as", "writes", "description"]);
    let features: Vec<&Feature> = project.catalog.of_view(&view.name).collect();
    for feature in &features {
        let computed = computed_as(feature);
        let writes = feature.writes.clone().unwrap_or_default();
        table.row([
            feature.column(),
            feature.ty().name(),
            &computed,
            &writes,
            &feature.description,
        ]);
    }
    let text =
        format!("{}: {}\nowner: {}\n\n{}", view.name, view.description, view.owner, table.render());
    let list: Vec<_> = features.iter().map(|feature| describe_feature(feature)).collect();
    let json = json!({ "view": view.name, "owner": view.owner, "description": view.description, "features": list });
    Output { text, json }
}

/// Computes all views at the as-of and writes them to the offline store; `full` reads all events again.
pub fn build(project: &Project, full: bool, progress: &mut Progress) -> Result<Output> {
    let as_of = as_of(project)?;
    let mut transaction = project.store()?.begin("features build")?;
    progress.stage("computing features");
    let entities = project.profile.entities()?;
    let columns = project.catalog.features.iter().map(Feature::column);
    let plan = FeaturePlan::of_catalog(&project.catalog, columns, vec![as_of]);
    let mut parts = Vec::new();
    let keeping = Keeping::new(full, project.memory);
    let (report, refresh) = history::build(
        &mut transaction,
        &project.events,
        &entities,
        &[plan],
        &keeping,
        &mut |part| {
            parts.push(part.rows);
            Ok(())
        },
    )?;
    let rows = Sorted::new(parts);
    if rows.is_empty() {
        let message = format!("there is no customer at {}", as_of.at);
        return Err(Error::not_enough(message, "choose a later as-of"));
    }
    progress.stage("writing features");
    let written = write_views(&mut transaction, project, as_of, &rows)?;
    write_manifest(
        &mut transaction,
        project,
        "features-build",
        "",
        &report,
        json!({ "refresh": refresh }),
        progress,
    )?;
    transaction.commit()?;

    let mut table = Table::new(&["view", "columns", "customers", "file"]);
    for (view, columns, file) in &written {
        table.row([view, &columns.to_string(), &thousands(rows.len() as u64), file]);
    }
    let json = json!({ "as_of": as_of.at, "customers": rows.len(), "events": report, "refresh": refresh, "files": written });
    Ok(Output { text: table.render(), json })
}

/// Rows that are put in order and encoded at a time.
const ROWS: usize = 1 << 16;

/// Writes the columns of each view to `features/<view>/as_of=…/`; gives view, columns, folder.
pub fn write_views(
    transaction: &mut Transaction,
    project: &Project,
    as_of: AsOf,
    rows: &Sorted,
) -> Result<Vec<(String, usize, String)>> {
    let parts = parts(project, rows);
    let mut files = Vec::new();
    let mut written = Vec::new();
    for view in &project.catalog.views {
        let folder = format!("features/{}/as_of={}", view.name, as_of.at.folder());
        let columns: Vec<&Feature> = project.catalog.of_view(&view.name).collect();
        transaction.replace(&folder);
        for (part, of_part) in parts.iter().enumerate() {
            let name = format!("{folder}/part-{part}-{}.parquet", transaction.generation());
            files.push((transaction.stage(&name)?, columns.clone(), of_part));
        }
        written.push((view.name.clone(), columns.len(), folder));
    }
    let scale = project.events.context.scale;
    // The widest first, so that no thread is left with it at the end.
    files.sort_by_key(|(_, columns, _)| std::cmp::Reverse(columns.len()));
    files.par_iter().with_max_len(1).try_for_each(|(path, columns, of_part)| {
        let schema = view_schema(columns, scale);
        let mut writer = Writer::create(path, &schema)?;
        for chunk in of_part.chunks(ROWS) {
            writer.write(&view_rows(&schema, columns, as_of, rows, chunk)?)?;
        }
        writer.finish()
    })?;
    Ok(written)
}

fn view_schema(columns: &[&Feature], scale: Scale) -> SchemaRef {
    let instant = arrow_type(Type::Timestamp, scale);
    let own = [
        Field::new("customer360_id", arrow_type(Type::Text, scale), false),
        Field::new("event_timestamp", instant.clone(), false),
        Field::new("created_timestamp", instant, false),
    ];
    let features = columns
        .iter()
        .map(|feature| Field::new(feature.column(), arrow_type(feature.ty(), scale), true));
    Arc::new(Schema::new(own.into_iter().chain(features).collect::<Vec<_>>()))
}

fn view_rows(
    schema: &SchemaRef,
    columns: &[&Feature],
    as_of: AsOf,
    rows: &Sorted,
    chunk: &[usize],
) -> Result<RecordBatch> {
    let stamp = |instant: crate::time::Instant| -> ArrayRef {
        let values = TimestampMicrosecondArray::from_value(instant.0, chunk.len());
        Arc::new(values.with_timezone("UTC"))
    };
    let mut arrays = vec![rows.column(0, chunk)?, stamp(as_of.at), stamp(as_of.known_at)];
    for feature in columns {
        let index = rows.index_of(feature.column()).ok_or_else(|| Error::Engine {
            context: "writing features",
            message: format!("nothing computed {}", feature.column()),
        })?;
        arrays.push(rows.column(index, chunk)?);
    }
    RecordBatch::try_new(schema.clone(), arrays).map_err(Error::engine("writing features"))
}

/// The rows of each of the project's parts.
fn parts(project: &Project, rows: &Sorted) -> Vec<Vec<usize>> {
    let count = u64::from(project.settings.project.parts.get());
    let mut parts = vec![Vec::new(); count as usize];
    for row in 0..rows.len() {
        let part = if count == 1 { 0 } else { crate::store::part_hash(rows.key(row)) % count };
        parts[part as usize].push(row);
    }
    parts
}

/// Writes a customer-keyed table in the project's number of parts, in place of what was there.
pub fn write_parts(
    transaction: &mut Transaction,
    project: &Project,
    folder: &str,
    batch: &RecordBatch,
) -> Result<()> {
    let parts = u64::from(project.settings.project.parts.get());
    let generation = transaction.generation();
    transaction.replace(folder);
    let keys = crate::sources::profile::keys(batch)?;
    for part in 0..parts {
        let path = transaction.stage(&format!("{folder}/part-{part}-{generation}.parquet"))?;
        let mut writer = Writer::create(&path, &batch.schema())?;
        if parts == 1 {
            writer.write(batch)?;
        } else {
            let of_part =
                |row: &u32| crate::store::part_hash(keys.value(*row as usize)) % parts == part;
            let rows: Vec<u32> = (0..keys.len() as u32).filter(of_part).collect();
            writer.write(&crate::store::parquet::take(batch, &rows.into())?)?;
        }
        writer.finish()?;
    }
    Ok(())
}

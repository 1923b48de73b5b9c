//! `features list | describe | build`.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{Field, Schema};
use serde_json::json;

use super::{as_of, write_manifest};
use crate::config::Project;
use crate::error::{Error, Result};
use crate::features::catalog::{Definition, Feature, View};
use crate::features::history::{self, Keeping};
use crate::features::plan::{AsOf, FeaturePlan};
use crate::report::{Output, Progress, Table, thousands};
use crate::store::Transaction;
use crate::store::parquet::{Writer, merge_by_key};

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
    let rows = merge_by_key(&parts)?.ok_or_else(|| {
        Error::not_enough(format!("there is no customer at {}", as_of.at), "choose a later as-of")
    })?;
    drop(parts);
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
        table.row([view, &columns.to_string(), &thousands(rows.num_rows() as u64), file]);
    }
    let json = json!({ "as_of": as_of.at, "customers": rows.num_rows(), "events": report, "refresh": refresh, "files": written });
    Ok(Output { text: table.render(), json })
}

/// Writes the columns of each view to `features/<view>/as_of=…/`; gives view, columns, folder.
pub fn write_views(
    transaction: &mut Transaction,
    project: &Project,
    as_of: AsOf,
    rows: &RecordBatch,
) -> Result<Vec<(String, usize, String)>> {
    let stamp = |instant: crate::time::Instant| -> ArrayRef {
        let values = TimestampMicrosecondArray::from_value(instant.0, rows.num_rows());
        Arc::new(values.with_timezone("UTC"))
    };
    let mut written = Vec::new();
    for view in &project.catalog.views {
        let mut columns: Vec<(String, ArrayRef)> = vec![
            ("customer360_id".into(), rows.column(0).clone()),
            ("event_timestamp".into(), stamp(as_of.at)),
            ("created_timestamp".into(), stamp(as_of.known_at)),
        ];
        for feature in project.catalog.of_view(&view.name) {
            let column = rows.column_by_name(feature.column()).ok_or_else(|| Error::Engine {
                context: "writing features",
                message: format!("nothing computed {}", feature.column()),
            })?;
            columns.push((feature.column().to_owned(), column.clone()));
        }
        let fields: Vec<Field> = columns
            .iter()
            .enumerate()
            .map(|(i, (name, array))| Field::new(name, array.data_type().clone(), i > 2))
            .collect();
        let arrays: Vec<ArrayRef> = columns.into_iter().map(|(_, array)| array).collect();
        let count = arrays.len() - 3;
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
            .map_err(Error::engine("writing features"))?;
        let folder = format!("features/{}/as_of={}", view.name, as_of.at.folder());
        write_parts(transaction, project, &folder, &batch)?;
        written.push((view.name.clone(), count, folder));
    }
    Ok(written)
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

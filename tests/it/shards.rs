//! Tests that the number of shards changes no value: every table has the same rows.

use std::collections::BTreeMap;
use std::path::Path;

use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use c360_ml::commands::score::context;
use c360_ml::config::Project;
use c360_ml::features::events::Events;
use c360_ml::features::plan::AsOf;
use c360_ml::features::scanned::{Reading, ScannedEvents};
use c360_ml::scoring::context::ScoringContext;
use c360_ml::scoring::score::score_shard;
use c360_ml::shard::{Shard, Shards};
use c360_ml::sources::profile::{Entities, Scattering};
use c360_ml::store::Store;
use c360_ml::store::parquet::{concat, read, sort_by_key};

use crate::cli::output;
use crate::support::{edit, live_text, project, root};

/// Every table of every as-of, sorted by customer and independent of its files.
fn tables(project: &Path) -> BTreeMap<String, RecordBatch> {
    let store = Store::at(project.join("store")).unwrap();
    let root = store.root().unwrap();
    let mut batches: BTreeMap<String, Vec<RecordBatch>> = BTreeMap::new();
    let names = store.below(&root, "").unwrap();
    for file in names.iter().filter(|file| file.ends_with(".parquet")) {
        let (folder, _) = file.rsplit_once('/').unwrap();
        if !folder.starts_with("models/") {
            let rows = read(&store.file(&root, file).unwrap(), None).unwrap();
            batches.entry(folder.to_owned()).or_default().extend(rows);
        }
    }
    let sorted = |rows: &Vec<RecordBatch>| {
        let rows = sort_by_key(&concat(rows).unwrap().unwrap(), "customer360_id").unwrap();
        // The dictionary of a column depends on the file.
        let schema = rows.schema();
        let columns = schema.fields().iter().zip(rows.columns()).map(|(field, column)| {
            let plain = match column.data_type() {
                DataType::Dictionary(_, value) => arrow_cast::cast(column, value).unwrap(),
                _ => column.clone(),
            };
            (field.name().clone(), plain, true)
        });
        RecordBatch::try_from_iter_with_nullable(columns.collect::<Vec<_>>()).unwrap()
    };
    batches.iter().map(|(folder, rows)| (folder.clone(), sorted(rows))).collect()
}

/// Two runs of a project, of which the first trains all models.
fn nights(
    folder: &Path,
    shards: u32,
    memory: &str,
) -> (BTreeMap<String, RecordBatch>, Vec<String>) {
    let project = project(folder);
    edit(&project, "c360.toml", "[project]", &format!("[project]\nshards = {shards}"));
    // So few rows that customers are sampled.
    edit(&project, "models/churn.toml", "fit = { ", "fit = { max_rows = 1000, ");
    let mut reports = Vec::new();
    for (arguments, at) in [("run", "2024-06-25"), ("score", "2024-07-01")] {
        let (stdout, stderr, code) =
            output(&project, &[arguments, "--as-of", at, "--memory", memory, "--format", "json"]);
        assert_eq!(code, 0, "{stderr}");
        drop(stdout);
        let files = root(&project)["files"].as_object().unwrap().clone();
        let is_metrics =
            |name: &&String| name.starts_with("runs/") && name.ends_with("metrics.json");
        reports.push(live_text(&project, files.keys().rfind(is_metrics).unwrap()));
    }
    (tables(&project), reports)
}

#[test]
fn the_number_of_shards_and_the_memory_change_no_value() {
    let folder = tempfile::tempdir().unwrap();
    let of = |shards: u32, memory: &str| {
        let own = folder.path().join(format!("{shards}"));
        std::fs::create_dir(&own).unwrap();
        nights(&own, shards, memory)
    };
    let (expected, reports) = of(1, "2GB");
    assert!(expected.keys().any(|table| table == "segment_changes/as_of=2024-07-01"));
    let (found, of_many) = of(16, "1KB");
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (table, rows) in &expected {
        assert_eq!(rows, &found[table], "{table}");
    }
    assert_eq!(reports, of_many);
}

/// The context of the stages can be sent to another process as text, and gives the same scores there.
#[test]
fn a_context_that_was_sent_scores_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = project(folder.path());
    let (_, stderr, code) = output(&path, &["run", "--as-of", "2024-06-25"]);
    assert_eq!(code, 0, "{stderr}");
    let project = Project::load(&path, &Default::default()).unwrap();
    let store = project.store().unwrap();
    let as_of = AsOf::at("2024-07-01".parse().unwrap());
    let own = context(&project, &store, &store.root().unwrap(), as_of).unwrap();
    let text = serde_json::to_string(&own).unwrap();
    let sent: ScoringContext = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&sent).unwrap(), text);
    let scored = |context: &ScoringContext| {
        let (shards, memory, folder) = (Shards::ONE, 1 << 30, folder.path());
        let scattering = Scattering { shards, memory, folder, instants: &[] };
        let profile = project.profile.scatter(scattering, &|_| true).unwrap();
        let profile = profile.rows(Shard::ALL).unwrap();
        let reading = Reading { shards, memory, folder };
        let events = ScannedEvents::read(&project.events, &context.plans, reading).unwrap();
        let rows = events.shard(Shard::ALL, &Entities::of(&profile).unwrap()).unwrap();
        let (scored, summary) = score_shard(context, &rows, &profile).unwrap();
        assert_eq!(summary.customers, 1_996);
        assert_eq!(scored.models.len(), 5);
        let models: Vec<String> =
            scored.models.iter().map(|m| format!("{:?}", m.numbers())).collect();
        (scored.features, scored.vectors, scored.recommendations, models)
    };
    assert_eq!(scored(&own), scored(&sent));
}

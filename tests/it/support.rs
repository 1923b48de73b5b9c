//! Random event logs, and projects in temporary folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{
    ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use c360_ml::error::Result;
use c360_ml::expression::Value;
use c360_ml::features::events::{BuildReport, Events};
use c360_ml::features::plan::FeaturePlan;
use c360_ml::features::reference::Event;
use c360_ml::features::scanned::{Reading, ScannedEvents};
use c360_ml::money::Scale;
use c360_ml::shard::Shards;
use c360_ml::sources::profile::Entities;
use c360_ml::sources::{EventsSpec, Ingestion, Orphans, SourceContext, SourcePlan};
use c360_ml::store::parquet::{Writer, concat, read};
use c360_ml::time::{DAY, Instant, Zone};
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A generator whose seed is printed, so that a failure can be repeated with `C360_TEST_SEED`.
pub fn random() -> ChaCha8Rng {
    let seed = std::env::var("C360_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| rand::rng().random());
    println!("C360_TEST_SEED={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}

pub fn instant(text: &str) -> Instant {
    text.parse().unwrap()
}

/// Random events of a few customers around `as_ofs`: at window edges to the microsecond, tied, repeated with
/// another time of ingestion, and late.
pub fn random_events(random: &mut ChaCha8Rng, as_ofs: &[Instant], count: usize) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for number in 0..count {
        let anchor = as_ofs.choose(random).unwrap().0;
        let days = *[0, 1, 7, 29, 30, 31, 90, 200].choose(random).unwrap();
        let nudge = *[-1, 0, 0, 1, 3_600_000_000, 40_000_000_000].choose(random).unwrap();
        let time = anchor - days * DAY + nudge;
        let lag = *[0, 1, 1_000_000, DAY, 20 * DAY].choose(random).unwrap();
        let kind = *["purchase", "page_view", "refund", "email_sent"].choose(random).unwrap();
        let mut columns: BTreeMap<String, Value> = BTreeMap::new();
        let mut set = |name: &str, value: Option<Value>| {
            columns.insert(name.into(), value.unwrap_or(Value::Null));
        };
        let maybe = |random: &mut ChaCha8Rng| random.random::<f64>() < 0.8;
        set("event_type", Some(Value::Text(kind.into())));
        set("event_ts", Some(Value::Timestamp(time)));
        // One value is longer than a length of one byte can express.
        let long = "kiosk ".repeat(30);
        let channel = *["web", "app", "store", &long].choose(random).unwrap();
        set("channel", maybe(random).then(|| Value::Text(channel.into())));
        let amount = random.random_range(-500..5_000);
        set("amount", maybe(random).then_some(Value::Money(amount)));
        let quantity = f64::from(random.random_range(-40..40)) / 8.0 + 0.1;
        set("quantity", maybe(random).then_some(Value::Double(quantity)));
        let order = random.random_range(0..6);
        set("order_id", maybe(random).then_some(Value::Integer(order)));
        events.push(Event {
            customer: format!("c{}", random.random_range(0..7)),
            id: if number % 10 == 3 { format!("e{number:0200}") } else { format!("e{number}") },
            time,
            ingested: (random.random::<f64>() < 0.9).then_some(time + lag),
            columns,
        });
    }
    for _ in 0..count / 8 {
        let mut again = events.choose(random).unwrap().clone();
        match random.random_range(0..3) {
            0 => {}
            1 => again.ingested = again.ingested.map(|at| at + random.random_range(1..40) * DAY),
            _ => {
                again.time += random.random_range(-40..40) * DAY;
                again.ingested = again.ingested.map(|at| at + random.random_range(1..40) * DAY);
                again.columns.insert("event_ts".into(), Value::Timestamp(again.time));
            }
        }
        events.push(again);
    }
    events.shuffle(random);
    events
}

/// Converts the events to a record batch of canonical columns.
pub fn event_rows(events: &[Event]) -> RecordBatch {
    let column =
        |name: &str| events.iter().map(move |e| e.columns[name].clone()).collect::<Vec<_>>();
    let text = |name: &str| -> ArrayRef {
        let values = column(name).into_iter().map(|v| match v {
            Value::Text(v) => Some(v),
            _ => None,
        });
        Arc::new(values.collect::<StringArray>())
    };
    let times = |values: Vec<Option<i64>>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
    };
    let amounts: Decimal128Array = column("amount")
        .into_iter()
        .map(|v| if let Value::Money(v) = v { Some(i128::from(v)) } else { None })
        .collect();
    let quantities = column("quantity")
        .into_iter()
        .map(|v| if let Value::Double(v) = v { Some(v) } else { None });
    let orders = column("order_id")
        .into_iter()
        .map(|v| if let Value::Integer(v) = v { Some(v) } else { None });
    let ids = events.iter().map(|e| &e.id);
    let keys = events.iter().map(|e| &e.customer);
    RecordBatch::try_from_iter_with_nullable([
        ("event_id", Arc::new(StringArray::from_iter_values(ids)) as ArrayRef, true),
        ("customer360_id", Arc::new(StringArray::from_iter_values(keys)), true),
        ("event_type", text("event_type"), true),
        ("event_ts", times(events.iter().map(|e| Some(e.time)).collect()), true),
        ("ingested_at", times(events.iter().map(|e| e.ingested).collect()), true),
        ("channel", text("channel"), true),
        ("amount", Arc::new(amounts.with_precision_and_scale(18, 2).unwrap()), true),
        ("quantity", Arc::new(quantities.collect::<Float64Array>()), true),
        ("order_id", Arc::new(orders.collect::<Int64Array>()), true),
    ])
    .unwrap()
}

pub fn write(path: &Path, rows: &RecordBatch) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    Writer::create(path, &rows.schema()).unwrap().write_only(rows).unwrap();
}

/// Writes the events as a source of two files in `folder`.
pub fn event_source(
    folder: &Path,
    events: &[Event],
    zone: &str,
    ingestion: Ingestion,
) -> SourcePlan {
    let path = folder.join("events");
    let _ = std::fs::remove_dir_all(&path);
    let (first, second) = events.split_at(events.len() / 3);
    write(&path.join("a.parquet"), &event_rows(first));
    write(&path.join("b.parquet"), &event_rows(second));
    open_events(folder, zone, ingestion).unwrap()
}

/// Opens the event files in `folder` as a source.
pub fn open_events(
    folder: &Path,
    zone: &str,
    ingestion: Ingestion,
) -> c360_ml::error::Result<SourcePlan> {
    let spec = EventsSpec {
        path: "events".into(),
        version: None,
        columns: BTreeMap::new(),
        lookups: BTreeMap::new(),
        ingestion,
        orphans: Orphans::Create,
        event_types: Vec::new(),
        max_rejected_share: 0.0,
    };
    let context = SourceContext {
        root: folder.to_owned(),
        zone: Zone::try_from(zone.to_owned()).unwrap(),
        scale: Scale::default(),
        footers: std::sync::Arc::default(),
        forgotten: std::sync::Arc::default(),
        currency: "EUR".into(),
    };
    SourcePlan::events(&spec, &context)
}

/// A copy of this repository's project in a temporary folder, fitted without the search for shapes and
/// without the other algorithm. Most tests need neither, and the search takes long.
pub fn project(folder: &Path) -> PathBuf {
    let project = whole_project(folder);
    for model in ["churn", "propensity"] {
        let path = project.join(format!("models/{model}.toml"));
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, label) = text.split_once("[label]").unwrap();
        let plain = "inputs = { shape = \"simple\" }\nfit = { compare = false }\n\n[label]";
        std::fs::write(&path, format!("{head}{plain}{label}")).unwrap();
    }
    project
}

/// A copy of this repository's project in a temporary folder.
pub fn whole_project(folder: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = folder.join("project");
    for part in ["features", "models", "fixtures/profile", "fixtures/events"] {
        std::fs::create_dir_all(copy.join(part)).unwrap();
        for entry in std::fs::read_dir(root.join(part)).unwrap() {
            let from = entry.unwrap().path();
            std::fs::copy(&from, copy.join(part).join(from.file_name().unwrap())).unwrap();
        }
    }
    std::fs::copy(root.join("c360.toml"), copy.join("c360.toml")).unwrap();
    copy
}

pub const EVENTS_FILE: &str = "fixtures/events/part-000.parquet";
pub const PROFILE_FILE: &str = "fixtures/profile/part-000.parquet";

/// Replaces text in a file of the project. The file must contain the text.
pub fn edit(project: &Path, file: &str, from: &str, to: &str) {
    let path = project.join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no `{from}`");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// Rewrites a Parquet file of the project.
pub fn rewrite(project: &Path, file: &str, change: impl Fn(RecordBatch) -> RecordBatch) {
    let path = project.join(file);
    let rows = concat(&read(&path, None).unwrap()).unwrap().unwrap();
    write(&path, &change(rows));
}

pub fn with_column(rows: &RecordBatch, name: &str, array: ArrayRef) -> RecordBatch {
    let schema = rows.schema();
    let mut columns: Vec<(String, ArrayRef, bool)> = Vec::new();
    for (field, column) in schema.fields().iter().zip(rows.columns()) {
        let column = if field.name() == name { &array } else { column };
        columns.push((field.name().clone(), column.clone(), true));
    }
    if schema.column_with_name(name).is_none() {
        columns.push((name.to_owned(), array, true));
    }
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

pub fn without_column(rows: &RecordBatch, name: &str) -> RecordBatch {
    let mut rows = rows.clone();
    rows.remove_column(rows.schema().index_of(name).unwrap());
    rows
}

/// The rows of each shard, by plan and as-of.
pub type RowsByShard = Vec<Vec<Vec<RecordBatch>>>;

/// Computes the rows of all shards one after another, and adds to the report what was left out.
pub fn all_shards(
    events: &dyn Events,
    entities: &Entities,
    plans: &[FeaturePlan],
    report: &mut BuildReport,
) -> Result<RowsByShard> {
    let mut found: RowsByShard =
        plans.iter().map(|plan| vec![Vec::new(); plan.as_ofs.len().max(1)]).collect();
    for shard in events.shards().all() {
        let mut own = Entities::default();
        for (key, created) in entities.keys.iter().zip(&entities.created_at) {
            if shard.has(key) {
                own.keys.push(key.clone());
                own.created_at.push(*created);
            }
        }
        let rows = events.shard(shard, &own)?;
        report.add(rows.left_out());
        for (plan, found) in plans.iter().zip(&mut found) {
            let batches = rows.of(&plan.name)?;
            found.iter_mut().zip(batches).for_each(|(found, rows)| found.push(rows.clone()));
        }
    }
    Ok(found)
}

/// Reads all events of a source into this many shards and computes plans. The events spill if `memory` is 0.
pub fn scanned(
    source: &SourcePlan,
    entities: &Entities,
    plans: &[FeaturePlan],
    memory: u64,
    shards: u32,
) -> Result<(RowsByShard, BuildReport)> {
    let folder = tempfile::tempdir().unwrap();
    let shards = Shards::new(shards).unwrap();
    let reading = Reading { shards, memory, folder: folder.path() };
    let events = ScannedEvents::read(source, plans, reading)?;
    let mut report = events.report.clone();
    let rows = all_shards(&events, entities, plans, &mut report)?;
    report.check_orphans(source)?;
    Ok((rows, report))
}

/// The latest root of the project's store as JSON, with its live files by name.
pub fn root(project: &Path) -> serde_json::Value {
    let store = c360_ml::store::Store::at(project.join("store")).unwrap();
    let root = store.root().unwrap();
    let mut json = serde_json::to_value(&root).unwrap();
    for name in store.below(&root, "").unwrap() {
        json["files"][&name] = serde_json::to_value(store.live(&root, &name).unwrap()).unwrap();
    }
    json
}

/// The object of a live file of the project's store.
pub fn live(project: &Path, name: &str) -> PathBuf {
    let store = c360_ml::store::Store::at(project.join("store")).unwrap();
    store.file(&store.root().unwrap(), name).unwrap()
}

/// The text of a live file.
pub fn live_text(project: &Path, name: &str) -> String {
    std::fs::read_to_string(live(project, name)).unwrap()
}

/// Whether anything is live.
pub fn is_published(project: &Path) -> bool {
    project.join("store/roots").exists()
}

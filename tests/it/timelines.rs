//! Tests of stored timelines: builds from them equal builds from all events byte for byte.

use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use c360_ml::expression::Type;
use c360_ml::expression::check::{check, check_as};
use c360_ml::features::events::BuildReport;
use c360_ml::features::plan::{AsOf, FeaturePlan, Interactions};
use c360_ml::features::reference::Event;
use c360_ml::features::timelines::{Keeping, KeptTimelines, Refresh};
use c360_ml::shard::Shards;
use c360_ml::sources::profile::Entities;
use c360_ml::sources::{Ingestion, Orphans, SourcePlan};
use c360_ml::store::Store;
use c360_ml::store::parquet::{concat, read, sort_by_key, take};
use c360_ml::time::{DAY, Duration, Window};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::cli::output;
use crate::oracle::all_aggregations;
use crate::support::{
    EVENTS_FILE, RowsByShard, all_shards, event_rows, instant, open_events, project, random,
    random_events, scanned, write,
};

/// All rows in the order of their keys, by plan and as-of.
type Rows = Vec<Vec<Option<RecordBatch>>>;

fn in_order(rows: RowsByShard) -> Rows {
    let sorted = |rows: RecordBatch| sort_by_key(&rows, "customer360_id").unwrap();
    let of_plan = |as_ofs: &Vec<Vec<RecordBatch>>| {
        as_ofs.iter().map(|shards| concat(shards).unwrap().map(sorted)).collect()
    };
    rows.iter().map(of_plan).collect()
}

/// Computes the rows from the stored timelines in this many shards, and returns what was read.
fn from_store(
    store: &Store,
    source: &SourcePlan,
    entities: &Entities,
    plans: &[FeaturePlan],
    (full, shards): (bool, u32),
) -> (Rows, Refresh) {
    let mut transaction = store.begin("test", || c360_ml::time::Instant(0)).unwrap();
    let keeping = Keeping { full, memory: 1 << 20, shards: Shards::new(shards).unwrap() };
    let history = KeptTimelines::refresh(&transaction, source, plans, &keeping).unwrap();
    let events = history.events(&mut transaction, source, plans).unwrap();
    let rows = all_shards(&events, entities, plans, &mut BuildReport::default()).unwrap();
    let refresh = events.finish(&mut transaction).unwrap();
    transaction.commit().unwrap();
    (in_order(rows), refresh)
}

/// Computes the rows from all events.
fn from_events(source: &SourcePlan, entities: &Entities, plans: &[FeaturePlan]) -> Rows {
    in_order(scanned(source, entities, plans, 1 << 30, 2).unwrap().0)
}

/// Event files that are added, removed and changed.
struct Arrivals {
    folder: PathBuf,
    files: Vec<(String, Vec<Event>)>,
}

impl Arrivals {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join("events").join(name)
    }

    fn put(&mut self, name: &str, events: Vec<Event>) {
        write(&self.path(name), &event_rows(&events));
        self.files.retain(|(other, _)| other != name);
        self.files.push((name.to_owned(), events));
    }

    /// Makes one random change to the files and returns the number of files that have to be read.
    fn change(&mut self, random: &mut ChaCha8Rng, day: usize, new: Vec<Event>) -> usize {
        let any = self.files.choose(random).cloned();
        match (random.random_range(0..10), any) {
            (0, Some((name, _))) if self.files.len() > 1 => {
                std::fs::remove_file(self.path(&name)).unwrap();
                self.files.retain(|(other, _)| *other != name);
                0
            }
            (1, Some((name, mut events))) => {
                // The file loses rows and gains late ones.
                events.truncate(events.len() / 2);
                events.extend(new);
                self.put(&name, events);
                1
            }
            (2, Some((_, events))) => {
                self.put(&format!("again-{day:02}.parquet"), events);
                1
            }
            (3, _) => 0,
            (4, Some((_, events))) => {
                let mixed = new.into_iter().chain(events.into_iter().take(5)).collect();
                self.put(&format!("day-{day:02}.parquet"), mixed);
                1
            }
            _ => {
                self.put(&format!("day-{day:02}.parquet"), new);
                1
            }
        }
    }
}

/// A plan of each customer's interactions with the values of a column.
fn interactions(source: &SourcePlan, item: &str) -> FeaturePlan {
    let columns = source.columns();
    let weight = "case event_type when 'purchase' then 5.0 when 'page_view' then 1.0 end";
    let interactions = Interactions {
        item: check(item, &columns, "test").unwrap(),
        weight: check_as(weight, Type::Double, &columns, "test").unwrap(),
        window: Window::Trailing(Duration::days(90)),
        half_life: Duration::days(60),
    };
    FeaturePlan { interactions: Some(interactions), ..FeaturePlan::new(item, Vec::new()) }
}

fn days(folder: &Path, ingestion: Ingestion, count: usize, random: &mut ChaCha8Rng) {
    let store = Store::at(folder.join("store")).unwrap();
    let mut arrivals = Arrivals { folder: folder.to_owned(), files: Vec::new() };
    let begin = instant("2024-03-01T00:00:00Z");
    let mut rebuilt = 0;
    for day in 0..count {
        let today = c360_ml::time::Instant(begin.0 + day as i64 * DAY);
        let number = random.random_range(1..25);
        let mut new = random_events(random, &[today], number);
        for event in &mut new {
            // Most identifiers are new, and some are those of other days.
            if random.random::<f64>() < 0.8 {
                event.id = format!("{day}-{}", event.id);
            }
        }
        let expected = if day == 0 {
            arrivals.put("day-00.parquet", new);
            1
        } else {
            arrivals.change(random, day, new)
        };
        let mut source = open_events(folder, "Europe/Berlin", ingestion).unwrap();
        source.orphans = *[Orphans::Create, Orphans::Skip].choose(random).unwrap();
        let back = random.random_range(0..3) * random.random_range(1..20);
        let mut as_ofs: Vec<AsOf> = (0..=back.min(4))
            .map(|i| AsOf::at(c360_ml::time::Instant(today.0 - i * back * DAY)))
            .collect();
        as_ofs.sort();
        as_ofs.dedup();
        if random.random::<f64>() < 0.2 {
            // Events that became known later may be used.
            as_ofs.iter_mut().for_each(|as_of| as_of.known_at.0 += 3 * DAY);
        }
        let aggregations = all_aggregations(&source);
        let outputs = aggregations.iter().map(|a| a.column.clone()).collect();
        let mut plans =
            vec![FeaturePlan { aggregations, outputs, ..FeaturePlan::new("all", Vec::new()) }];
        plans.extend(["channel", "order_id"].map(|item| interactions(&source, item)));
        plans.iter_mut().for_each(|plan| plan.as_ofs = as_ofs.clone());
        let keys: Vec<String> =
            (0..7).filter(|_| random.random::<f64>() < 0.8).map(|i| format!("c{i}")).collect();
        let entities = Entities { created_at: vec![Some(begin); keys.len()], keys };

        // The number of shards grows once, and the timelines are built again for it.
        let shards = if day < count / 2 { 4 } else { 16 };
        let (kept, refresh) = from_store(&store, &source, &entities, &plans, (false, shards));
        match refresh.all_because.as_deref() {
            None => assert_eq!(refresh.files_read, expected, "day {day}: {refresh:?}"),
            Some(reason) => {
                let grown = "there are 16 shards now, and were 4";
                assert!(day == 0 || reason == grown, "day {day}: {refresh:?}");
                assert_eq!(refresh.files_read, arrivals.files.len(), "day {day}: {refresh:?}");
                rebuilt += 1;
            }
        }
        let fresh = Store::at(folder.join("fresh")).unwrap();
        let (full, _) = from_store(&fresh, &source, &entities, &plans, (true, 1));
        assert_eq!(kept, full, "day {day}: kept and full differ");
        assert_eq!(
            kept,
            from_events(&source, &entities, &plans),
            "day {day}: kept and read differ"
        );
    }
    let files = store.below(&store.root().unwrap(), "timelines").unwrap().len() - 1;
    assert!(files <= 17, "{files} timeline files are left");
    assert_eq!(rebuilt, 2, "times that all files were read");
}

#[test]
fn sixty_days_of_arrivals_give_what_reading_everything_gives() {
    let mut random = random();
    let folder = tempfile::tempdir().unwrap();
    days(folder.path(), Ingestion::Respect, 60, &mut random);
}

#[test]
fn arrivals_without_ingestion_give_what_reading_everything_gives() {
    let mut random = random();
    let folder = tempfile::tempdir().unwrap();
    days(folder.path(), Ingestion::Ignore, 20, &mut random);
}

/// Splits the events of the project into two files, the second of which has the last days.
fn in_two_files(project: &Path) {
    let path = project.join(EVENTS_FILE);
    let rows = concat(&read(&path, None).unwrap()).unwrap().unwrap();
    let times = rows.column_by_name("event_ts").unwrap();
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let late = instant("2024-06-28T00:00:00Z").0;
    let of = |is_late: bool| {
        let some = |row: &u32| (times.value(*row as usize) >= late) == is_late;
        let chosen: Vec<u32> = (0..rows.num_rows() as u32).filter(some).collect();
        take(&rows, &chosen.into()).unwrap()
    };
    write(&project.join("fixtures/events/part-001.parquet"), &of(true));
    write(&path, &of(false));
}

fn run_json(project: &Path, arguments: &[&str]) -> serde_json::Value {
    let all: Vec<&str> = arguments.iter().copied().chain(["--format", "json"]).collect();
    let (stdout, stderr, code) = output(project, &all);
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn a_night_of_scoring_reads_new_files_only_and_writes_what_reading_all_would() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    in_two_files(&project);
    let late = project.join("fixtures/events/part-001.parquet");
    let aside = folder.path().join("late.parquet");
    std::fs::rename(&late, &aside).unwrap();
    run_json(&project, &["train", "--as-of", "2024-06-28"]);
    let first = run_json(&project, &["score", "--as-of", "2024-06-28"]);
    assert_eq!(first["refresh"]["files_read"], 0, "training has read the file and kept its events");
    std::fs::rename(&aside, &late).unwrap();

    let night = run_json(&project, &["score"]);
    assert_eq!(night["refresh"]["all_because"], serde_json::Value::Null);
    assert_eq!(night["refresh"]["files_read"], 1, "{night}");
    let late_rows = read(&late, Some(&["event_id"])).unwrap();
    let late_rows: usize = late_rows.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(night["refresh"]["events_read"], late_rows);

    // Another command finds all the columns that it needs, too.
    let build = run_json(&project, &["features", "build"]);
    assert_eq!(build["refresh"]["files_read"], 0, "{build}");
    assert_eq!(build["snapshots"], serde_json::json!([]), "score has written the same snapshots");

    let tables = ["profile", "scores", "segments", "recommendations", "features"];
    let published = |project: &Path| {
        let store = Store::at(project.join("store")).unwrap();
        let root = store.root().unwrap();
        let names = store.below(&root, "").unwrap().into_iter();
        let of_night = names.filter(|path| {
            path.contains("as_of=2024-07-01") && tables.iter().any(|table| path.starts_with(table))
        });
        let sums = of_night.map(|path| {
            let (folder, _) = path.rsplit_once('/').unwrap();
            (folder.to_owned(), store.live(&root, &path).unwrap().unwrap().xxh3)
        });
        sums.collect::<Vec<_>>()
    };
    let kept = published(&project);
    assert!(kept.len() >= tables.len(), "{kept:?}");
    run_json(&project, &["features", "build", "--full"]);
    run_json(&project, &["score", "--force"]);
    assert_eq!(kept, published(&project));
}

//! Timelines that a store keeps: what is built from them is, byte for byte, what reading all events gives.

use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use c360_ml::features::embedded::EmbeddedEngine;
use c360_ml::features::engine::{Engine, Part};
use c360_ml::features::history::{History, Keeping, OUTGROWN, Refresh};
use c360_ml::features::plan::{AsOf, FeaturePlan};
use c360_ml::features::reference::Event;
use c360_ml::sources::profile::Entities;
use c360_ml::sources::{Ingestion, Orphans, SourcePlan};
use c360_ml::store::Store;
use c360_ml::store::parquet::{concat, sort_by_key};
use c360_ml::time::DAY;
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::oracle::all_aggregations;
use crate::support::{event_rows, instant, open_events, random, random_events, write};

/// By as-of: all rows in the order of their keys.
type Rows = Vec<Option<RecordBatch>>;

fn in_order(parts: Vec<Vec<RecordBatch>>) -> Rows {
    let sorted = |rows: RecordBatch| sort_by_key(&rows, "customer360_id").unwrap();
    parts.iter().map(|parts| concat(parts).unwrap().map(sorted)).collect()
}

/// What the timelines of a store give, and what was read for it.
fn from_store(
    store: &Store,
    source: &SourcePlan,
    entities: &Entities,
    plan: &FeaturePlan,
    full: bool,
) -> (Rows, Refresh) {
    let mut transaction = store.begin("test").unwrap();
    let mut parts: Vec<Vec<RecordBatch>> = plan.as_ofs.iter().map(|_| Vec::new()).collect();
    let keeping = Keeping { full, memory: 1 << 20, partition_events: 20 };
    let plans = std::slice::from_ref(plan);
    let history = History::refresh(&transaction, source, entities, plans, &keeping).unwrap();
    let mut sink = |part: Part| {
        parts[part.as_of].push(part.rows);
        Ok(())
    };
    let (_, refresh) = history.build(&mut transaction, source, plans, &mut sink).unwrap();
    transaction.commit().unwrap();
    (in_order(parts), refresh)
}

/// What the engine gives that reads all events.
fn from_events(source: &SourcePlan, entities: &Entities, plan: &FeaturePlan) -> Rows {
    let folder = tempfile::tempdir().unwrap();
    let engine = EmbeddedEngine::new(1 << 30, folder.path().to_owned());
    let mut parts: Vec<Vec<RecordBatch>> = plan.as_ofs.iter().map(|_| Vec::new()).collect();
    engine
        .build(source, entities, std::slice::from_ref(plan), &mut |part| {
            parts[part.as_of].push(part.rows);
            Ok(())
        })
        .unwrap();
    in_order(parts)
}

/// Event files that come, go and change.
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

    /// One random thing happens to the files; says how many are to be read for it.
    fn change(&mut self, random: &mut ChaCha8Rng, day: usize, new: Vec<Event>) -> usize {
        let any = self.files.choose(random).cloned();
        match (random.random_range(0..10), any) {
            (0, Some((name, _))) if self.files.len() > 1 => {
                std::fs::remove_file(self.path(&name)).unwrap();
                self.files.retain(|(other, _)| *other != name);
                0
            }
            (1, Some((name, mut events))) => {
                // Rows are lost from it and late ones come in.
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
            // Most ids are new, some are those of other days.
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
            // What became known later may be used.
            as_ofs.iter_mut().for_each(|as_of| as_of.known_at.0 += 3 * DAY);
        }
        let aggregations = all_aggregations(&source);
        let outputs = aggregations.iter().map(|a| a.column.clone()).collect();
        let plan = FeaturePlan { aggregations, outputs, as_ofs, ..FeaturePlan::default() };
        let keys: Vec<String> =
            (0..7).filter(|_| random.random::<f64>() < 0.8).map(|i| format!("c{i}")).collect();
        let entities = Entities { created_at: vec![Some(begin); keys.len()], keys };

        let (kept, refresh) = from_store(&store, &source, &entities, &plan, false);
        match refresh.all_because.as_deref() {
            None => assert_eq!(refresh.files_read, expected, "day {day}: {refresh:?}"),
            Some(reason) => {
                assert!(day == 0 || reason == OUTGROWN, "day {day}: {refresh:?}");
                assert_eq!(refresh.files_read, arrivals.files.len(), "day {day}: {refresh:?}");
                rebuilt += 1;
            }
        }
        let fresh = Store::at(folder.join("fresh")).unwrap();
        let (full, _) = from_store(&fresh, &source, &entities, &plan, true);
        assert_eq!(kept, full, "day {day}: kept and full differ");
        assert_eq!(kept, from_events(&source, &entities, &plan), "day {day}: kept and read differ");
    }
    let segments = std::fs::read_dir(folder.join("store/timelines")).unwrap().count() - 1;
    assert!(segments <= 17, "{segments} segments are left");
    // From one partition to four, to sixteen and to sixty-four at most.
    assert!(rebuilt <= 4, "{rebuilt} times all files were read");
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

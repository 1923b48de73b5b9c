//! Tests of point-in-time joins: every boundary, and random rows against naive references.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{
    Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    TimestampNanosecondArray,
};
use c360_ml::features::catalog::Aggregation;
use c360_ml::features::join::{Validity, exact, gather, latest, own_as_ofs};
use c360_ml::features::plan::{AsOf, FeaturePlan};
use c360_ml::features::reference::{aggregate, visible};
use c360_ml::sources::Ingestion;
use c360_ml::sources::entity_rows::EntityRows;
use c360_ml::sources::profile::Entities;
use c360_ml::store::parquet::{concat, read};
use c360_ml::time::{DAY, Duration, Instant};
use rand::Rng;
use rand::seq::IndexedRandom;

use crate::cli::output;
use crate::oracle::{all_aggregations, same, value};
use crate::support::{edit, event_source, instant, project, random, random_events, scanned, write};

fn entities(rows: &[(&str, i64)]) -> EntityRows {
    let keys = StringArray::from_iter_values(rows.iter().map(|(key, _)| key));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows.len() as i64));
    EntityRows {
        rows: RecordBatch::try_from_iter([("label", numbers)]).unwrap(),
        keys,
        times: rows.iter().map(|(_, at)| Instant(*at)).collect(),
    }
}

/// The customer, the event timestamp, the created timestamp and a value.
type Stored = (&'static str, i64, i64, i64);

fn snapshots(rows: &[Stored]) -> RecordBatch {
    let times = |of: fn(&Stored) -> i64| -> ArrayRef {
        let values = TimestampMicrosecondArray::from_iter_values(rows.iter().map(of));
        Arc::new(values.with_timezone("UTC"))
    };
    let columns: [(&str, ArrayRef); 4] = [
        ("customer360_id", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0)))),
        ("event_timestamp", times(|row| row.1)),
        ("created_timestamp", times(|row| row.2)),
        ("value", Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.3)))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn values(entities: &EntityRows, batches: &[RecordBatch], validity: Validity) -> Vec<Option<i64>> {
    let places = latest(entities, batches, |rows| Ok(vec![rows.clone()]), validity).unwrap();
    let field = arrow_schema::Field::new("value", arrow_schema::DataType::Int64, true);
    let arrays = gather(batches, &[("value", field)], &places).unwrap();
    arrays[0].as_primitive::<Int64Type>().iter().collect()
}

#[test]
fn a_snapshot_counts_from_its_instant_to_its_time_to_live() {
    let ttl = Validity { ttl: Some(Duration::days(7)), known: false };
    let (all, known) = (Validity::default(), Validity { ttl: None, known: true });
    type Case = (&'static str, &'static [Stored], i64, Validity, Option<i64>);
    const AT: i64 = 100 * DAY;
    const ONE: &[Stored] = &[("a", AT, AT, 1)];
    let cases: [Case; 14] = [
        ("exactly at its instant", ONE, AT, all, Some(1)),
        ("a microsecond before it", ONE, AT - 1, all, None),
        ("long after, without a time to live", ONE, AT + 900 * DAY, all, Some(1)),
        ("exactly as old as it may be", ONE, AT + 7 * DAY, ttl, Some(1)),
        ("a microsecond older", ONE, AT + 7 * DAY + 1, ttl, None),
        ("the latest", &[("a", AT, AT, 1), ("a", AT + 1, AT + 1, 2)], AT + 1, all, Some(2)),
        ("not one of later", &[("a", AT, AT, 1), ("a", AT + 2, AT, 2)], AT + 1, all, Some(1)),
        ("of another customer", &[("b", AT, AT, 1)], AT, all, None),
        (
            "the latest created",
            &[("a", AT, 5, 1), ("a", AT, 9, 2), ("a", AT, 7, 3)],
            AT,
            all,
            Some(2),
        ),
        ("created exactly then", ONE, AT, known, Some(1)),
        ("created a microsecond later", &[("a", AT, AT + 1, 1)], AT, known, None),
        ("created later, but that is not asked", &[("a", AT, AT + 1, 1)], AT, all, Some(1)),
        (
            "an earlier one that was known",
            &[("a", AT - 1, AT - 1, 1), ("a", AT, AT + 9, 2)],
            AT,
            known,
            Some(1),
        ),
        ("of ties what was known", &[("a", AT, AT, 1), ("a", AT, AT + 1, 2)], AT, known, Some(1)),
    ];
    for (name, rows, time, validity, expected) in cases {
        let found = values(&entities(&[("a", time)]), &[snapshots(rows)], validity);
        assert_eq!(found, [expected], "{name}");
        // The result does not depend on the files or on their order.
        let apart: Vec<RecordBatch> = rows.iter().rev().map(|row| snapshots(&[*row])).collect();
        assert_eq!(values(&entities(&[("a", time)]), &apart, validity), [expected], "{name}");
    }
    let twice = entities(&[("a", AT), ("z", AT), ("a", AT), ("a", AT - 1)]);
    assert_eq!(values(&twice, &[snapshots(ONE)], all), [Some(1), None, Some(1), None]);
}

#[test]
fn random_rows_have_what_a_search_through_all_snapshots_finds() {
    let mut random = random();
    for _ in 0..60 {
        let mut row = |value: i64| {
            let key = *["a", "b", "c"].choose(&mut random).unwrap();
            (key, random.random_range(0..12), random.random_range(0..12), value)
        };
        let rows: Vec<Stored> = (0..40).map(&mut row).collect();
        // Two snapshots with the same customer, instant and creation cannot be distinguished.
        let mut unique = rows.clone();
        unique.sort_by_key(|(key, at, created, _)| (*key, *at, *created));
        unique.dedup_by_key(|(key, at, created, _)| (*key, *at, *created));
        let (first, second) = unique.split_at(unique.len() / 2);
        let mut wanted = || {
            let key = *["a", "b", "c", "d"].choose(&mut random).unwrap();
            (key, random.random_range(-1..14))
        };
        let wanted: Vec<(&str, i64)> = (0..50).map(|_| wanted()).collect();
        for (ttl, known) in [(None, false), (Some(3), false), (None, true), (Some(2), true)] {
            let validity = Validity { ttl: ttl.map(Duration), known };
            let batches = [snapshots(first), snapshots(second)];
            let found = values(&entities(&wanted), &batches, validity);
            for ((key, time), found) in wanted.iter().zip(found) {
                let counts = unique.iter().filter(|(of, at, created, _)| {
                    of == key
                        && at <= time
                        && ttl.is_none_or(|ttl| *at >= time - ttl)
                        && (!known || created <= time)
                });
                let best = counts.max_by_key(|(_, at, created, _)| (*at, *created));
                assert_eq!(found, best.map(|row| row.3), "{key} {time} {ttl:?} {known}");
            }
        }
    }
}

#[test]
fn an_event_counts_from_the_window_s_start_until_just_before_the_instant() {
    let folder = tempfile::tempdir().unwrap();
    const AT: i64 = 20_000 * DAY;
    const WEEK: i64 = 7 * DAY;
    // The instant of the event, the instant of its ingestion, and its counts over 7 days and over the
    // lifetime. The counts are None if nothing is known of the customer.
    type Case = (&'static str, i64, i64, Option<(i64, i64)>);
    let cases: [Case; 9] = [
        ("a microsecond before the instant", AT - 1, AT - 1, Some((1, 1))),
        ("exactly at it", AT, AT, None),
        ("exactly as old as the window is long", AT - WEEK, AT - WEEK, Some((1, 1))),
        ("a microsecond older", AT - WEEK - 1, AT - WEEK - 1, Some((0, 1))),
        ("ingested a microsecond before the instant", AT - DAY, AT - 1, Some((1, 1))),
        ("ingested exactly at it", AT - DAY, AT, None),
        ("ingested later", AT - DAY, AT + DAY, None),
        ("happened later, ingested before", AT + 1, AT - DAY, None),
        ("long ago", AT - 5_000 * DAY, AT - DAY, Some((0, 1))),
    ];
    let mut random = random();
    let mut events = random_events(&mut random, &[Instant(AT)], cases.len());
    events.truncate(cases.len());
    for (index, (event, (_, time, ingested, _))) in events.iter_mut().zip(&cases).enumerate() {
        (event.customer, event.id) = (format!("c{index}"), format!("e{index}"));
        (event.time, event.ingested) = (*time, Some(*ingested));
    }
    let source = event_source(folder.path(), &events, "UTC", Ingestion::Respect);
    let mut plan = FeaturePlan::default();
    let spec: c360_ml::features::spec::FeatureSpec = serde_json::from_value(serde_json::json!({
        "name": "events", "op": "count", "windows": ["7d", "lifetime"]
    }))
    .unwrap();
    let list = c360_ml::features::catalog::aggregations("test", &spec, &source.columns()).unwrap();
    list.into_iter().for_each(|aggregation| plan.give(aggregation));
    let keys: Vec<String> = (0..cases.len()).map(|index| format!("c{index}")).collect();
    let rows: Vec<(&str, i64)> = keys.iter().map(|key| (key.as_str(), AT)).collect();
    let entities = entities(&rows);
    let own = Arc::new(own_as_ofs(&entities, None));
    plan.own = Some(own.clone());
    let (mut rows, _) = scanned(&source, &Entities::default(), &[plan], 1 << 30, 1).unwrap();
    let parts = rows.remove(0).remove(0);
    let places = exact(&entities, &own, &parts).unwrap();
    for ((name, .., expected), place) in cases.iter().zip(&places) {
        let count = |column: usize| {
            let (batch, row) = (*place)?;
            let array = parts[batch].column(column).as_primitive::<Int64Type>();
            array.is_valid(row).then(|| array.value(row))
        };
        assert_eq!(count(1).zip(count(2)), *expected, "{name}");
    }
}

/// Compares every op at the instants of the rows with the naive reference. Events lie at window edges to the
/// microsecond, and some are late or repeated.
#[test]
fn exact_values_equal_the_naive_reference() {
    let mut random = random();
    let folder = tempfile::tempdir().unwrap();
    let anchors = ["2024-03-01", "2024-06-30", "2024-07-01"].map(instant);
    for ingestion in [Ingestion::Respect, Ingestion::Ignore] {
        let events = random_events(&mut random, &anchors, 400);
        let source = event_source(folder.path(), &events, "Europe/Berlin", ingestion);
        let mut known = events.clone();
        if ingestion == Ingestion::Ignore {
            known.iter_mut().for_each(|event| event.ingested = None);
        }
        let list: Vec<Aggregation> = all_aggregations(&source);
        let (zone, scale) = (source.context.zone, source.context.scale);
        let mut plan = FeaturePlan::default();
        list.iter().for_each(|aggregation| plan.give(aggregation.clone()));
        let mut row = || {
            let at = anchors.choose(&mut random).unwrap().0;
            let moved = *[0, 0, 1, -1, DAY, -200 * DAY, 30 * DAY].choose(&mut random).unwrap();
            (format!("c{}", random.random_range(0..9)), at + moved)
        };
        let asked: Vec<(String, i64)> = (0..80).map(|_| row()).collect();
        let borrowed: Vec<(&str, i64)> =
            asked.iter().map(|(key, at)| (key.as_str(), *at)).collect();
        let entities = entities(&borrowed);
        let own = Arc::new(own_as_ofs(&entities, None));
        plan.own = Some(own.clone());
        for shards in [1, 16] {
            let plans = std::slice::from_ref(&plan);
            let (mut rows, _) =
                scanned(&source, &Entities::default(), plans, 1 << 30, shards).unwrap();
            let parts = rows.remove(0).remove(0);
            let places = exact(&entities, &own, &parts).unwrap();
            assert_eq!(places.len(), asked.len());
            for ((key, at), place) in asked.iter().zip(&places) {
                let as_of = AsOf::at(Instant(*at));
                let seen = visible(&known, key, as_of);
                for (column, aggregation) in list.iter().enumerate() {
                    let found =
                        place.map(|(batch, row)| value(parts[batch].column(column + 1), row));
                    let found = found.unwrap_or(c360_ml::expression::Value::Null);
                    let expected = match seen.is_empty() {
                        // Without history there is no value, not even a count of zero.
                        true => c360_ml::expression::Value::Null,
                        false => aggregate(aggregation, &seen, as_of, zone, scale),
                    };
                    assert!(
                        same(&found, &expected),
                        "{key} at {at}: {} is {found:?}, not {expected:?}",
                        aggregation.column
                    );
                }
            }
        }
    }
}

fn table(path: &std::path::Path) -> RecordBatch {
    concat(&read(path, None).unwrap()).unwrap().unwrap()
}

/// The command keeps the rows, their order and their own columns, and agrees with the built snapshots.
#[test]
fn rows_come_back_as_they_went_with_features_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    for as_of in ["2024-05-01", "2024-06-01"] {
        assert_eq!(output(&project, &["features", "build", "--as-of", as_of]).2, 0);
    }
    let day = |text: &str| instant(text).0;
    let rows: [(&str, i64); 6] = [
        ("c360_0000122", day("2024-06-01")),
        ("c360_0000007", day("2024-05-20")),
        ("c360_0000122", day("2024-06-01")),
        ("nobody", day("2024-06-01")),
        ("c360_0000122", day("2024-05-01") - 1),
        ("c360_0000122", day("2024-05-01")),
    ];
    // The timestamps are in nanoseconds, as pandas writes them, and one column has a type that this program
    // cannot read.
    let times = rows.iter().map(|(_, at)| at * 1000);
    let columns: [(&str, ArrayRef); 3] = [
        ("weight", Arc::new(arrow_array::Float16Array::from_iter_values([half(); 6]))),
        (
            "event_timestamp",
            Arc::new(TimestampNanosecondArray::from_iter_values(times).with_timezone("UTC")),
        ),
        ("customer360_id", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0)))),
    ];
    let own = RecordBatch::try_from_iter(columns).unwrap();
    write(&project.join("labels.parquet"), &own);
    let join = |more: &[&str]| {
        let base =
            ["features", "join", "--entities", "labels.parquet", "--views", "commerce,browsing"];
        output(&project, &[&base[..], &["--out", "training.parquet"], more].concat())
    };
    let joined = |more: &[&str]| {
        let (stdout, stderr, code) = join(more);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains("6 rows"), "{stdout}");
        let rows = table(&project.join("training.parquet"));
        for (i, column) in own.columns().iter().enumerate() {
            assert_eq!(rows.column(i).to_data(), column.to_data(), "column {i}");
        }
        rows
    };
    let orders = |rows: &RecordBatch| -> Vec<Option<i64>> {
        let column = rows.column_by_name("orders_count").unwrap();
        column.as_primitive::<Int64Type>().iter().collect()
    };
    let of = |as_of: &str, key: &str| {
        let store = c360_ml::store::Store::at(project.join("store")).unwrap();
        let root = store.root().unwrap();
        let view = format!("features/commerce/as_of={as_of}");
        let file = &store.below(&root, &view).unwrap()[0];
        let rows = table(&store.file(&root, file).unwrap());
        let row = rows.column(0).as_string::<i32>().iter().position(|k| k == Some(key)).unwrap();
        orders(&rows)[row]
    };
    let stored = joined(&[]);
    let expected = [
        of("2024-06-01", "c360_0000122"),
        of("2024-05-01", "c360_0000007"),
        of("2024-06-01", "c360_0000122"),
        None,
        None,
        of("2024-05-01", "c360_0000122"),
    ];
    assert_eq!(orders(&stored), expected);
    assert!(stored.column_by_name("page_views_7d").is_some());
    assert!(stored.column_by_name("sessions_7d").is_none(), "of a view that was not asked for");
    let fresh = joined(&["--ttl", "commerce=10d"]);
    assert_eq!(orders(&fresh)[1], None, "nineteen days old");
    assert_eq!(orders(&fresh)[0], expected[0]);
    let computed = joined(&["--exact"]);
    for row in [0, 2, 3, 5] {
        assert_eq!(orders(&computed)[row], expected[row], "row {row}");
    }
    assert!(orders(&computed)[4].is_some(), "a microsecond before a snapshot there are events too");

    for (more, code, message) in [
        (&["--views", "comerce"][..], 2, "did you mean `commerce`"),
        (&["--ttl", "commerce"], 2, "write VIEW=DURATION"),
        (&["--exact", "--known"], 2, "--exact reads none"),
        (&["--views", "support", "--store", "elsewhere"], 4, "there is no snapshot of the view"),
        (&["--entities", "c360.toml"], 3, "c360.toml"),
    ] {
        let all = [&["features", "join", "--out", "other.parquet"][..], more].concat();
        let all = match more.contains(&"--entities") {
            true => all,
            false => [&all[..], &["--entities", "labels.parquet"]].concat(),
        };
        let (_, stderr, found) = output(&project, &all);
        assert_eq!(found, code, "{more:?}: {stderr}");
        assert!(stderr.contains(message), "{more:?}: {stderr}");
        assert!(!project.join("other.parquet").exists(), "nothing is written");
    }
    let clash = RecordBatch::try_from_iter([
        ("orders_count", Arc::new(Int64Array::from(vec![1; 6])) as ArrayRef),
        ("event_timestamp", own.column(1).clone()),
        ("customer360_id", own.column(2).clone()),
    ]);
    write(&project.join("labels.parquet"), &clash.unwrap());
    let (_, stderr, code) = join(&[]);
    assert_eq!(code, 2);
    assert!(stderr.contains("the entities already have a column orders_count"), "{stderr}");
    write(&project.join("labels.parquet"), &own);
    let more = "[[feature]]\nname = \"lines\"\nop = \"count\"\n\n[[derived]]";
    edit(&project, "features/commerce.toml", "[[derived]]", more);
    let (_, stderr, code) = join(&[]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("were computed by other definitions: lines at"), "{stderr}");
}

fn half() -> <arrow_array::types::Float16Type as arrow_array::ArrowPrimitiveType>::Native {
    Default::default()
}

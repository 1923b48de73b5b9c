//! Tests of the written tables: types, order and nulls of the profile, unchanged extra columns, and
//! write-back rules.

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use c360_ml::features::reference::Event;
use c360_ml::schema::{Origin, PROFILE};
use c360_ml::shard::{Shard, Shards};
use c360_ml::sources::Ingestion;
use c360_ml::sources::contract::{EventFacts, history};
use c360_ml::store::Store;
use c360_ml::store::parquet::{concat, read};
use c360_ml::time::{DAY, Instant};
use std::path::Path;

use crate::cli::output;
use crate::support::{
    EVENTS_FILE, PROFILE_FILE, edit, event_source, instant, project, random, random_events,
    rewrite, with_column, without_column,
};

pub fn table(project: &Path, folder: &str) -> RecordBatch {
    let store = Store::at(project.join("store")).unwrap();
    let root = store.root().unwrap();
    let names = store.below(&root, folder).unwrap();
    let batches: Vec<RecordBatch> = names
        .iter()
        .flat_map(|file| read(&store.file(&root, file).unwrap(), None).unwrap())
        .collect();
    concat(&batches).unwrap().unwrap()
}

#[test]
fn the_profile_has_fifty_fields_of_their_types_and_the_sources_own() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let (_, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stderr}");
    let profile = table(&project, "profile/as_of=2024-07-01");
    let source = concat(&read(&project.join("fixtures/profile/part-000.parquet"), None).unwrap());
    let source = source.unwrap().unwrap();
    assert_eq!(profile.num_rows(), source.num_rows());

    let schema = profile.schema();
    for (i, field) in PROFILE.iter().enumerate() {
        assert_eq!(schema.field(i).name(), field.name);
        if let Some(ty) = field.arrow_type() {
            assert_eq!(schema.field(i).data_type(), &ty, "{}", field.name);
        }
    }
    let keys: Vec<&str> = profile.column(0).as_string::<i32>().iter().flatten().collect();
    assert!(keys.is_sorted(), "sorted by key");

    // The simulator writes customers in the order of their keys, so that rows can be compared directly.
    let carried = ["source_ids", "device", "embedding", "household", "signup_day", "emails"];
    for name in carried.iter().copied() {
        let (new, old) =
            (profile.column_by_name(name).unwrap(), source.column_by_name(name).unwrap());
        assert_eq!(new.data_type(), old.data_type(), "{name}");
        assert_eq!(new.to_data(), old.to_data(), "{name}");
    }
    for field in PROFILE.iter().filter(|field| field.origin == Origin::Raw) {
        let (Some(new), Some(old)) =
            (profile.column_by_name(field.name), source.column_by_name(field.name))
        else {
            continue;
        };
        let filled = matches!(field.name, "preferred_channel" | "interests" | "created_at");
        assert!(filled || new.null_count() == old.null_count(), "{}", field.name);
    }

    let scores = table(&project, "scores/as_of=2024-07-01");
    let text = |name: &str| scores.column_by_name(name).unwrap().as_string::<i32>().clone();
    let (models, bases) = (text("model"), text("basis"));
    let values = scores.column_by_name("score").unwrap();
    let mut none = std::collections::BTreeMap::new();
    for row in 0..scores.num_rows() {
        assert_eq!(values.is_null(row), bases.value(row) == "none", "{}", models.value(row));
        *none.entry(models.value(row).to_owned()).or_insert(0) += usize::from(values.is_null(row));
    }
    for field in PROFILE.iter().filter(|field| field.origin == Origin::Modeled) {
        let nulls = profile.column_by_name(field.name).unwrap().null_count();
        let expected = match field.name {
            "churn_risk_score" => none["churn"],
            "propensity_to_buy_score" => none["propensity"],
            _ => 0,
        };
        assert_eq!(nulls, expected, "{}", field.name);
    }
    let vectors = profile.column_by_name("recommendation_vector").unwrap().as_list::<i32>().clone();
    assert!((0..vectors.len()).all(|row| vectors.value_length(row) == 16));
    let segments = table(&project, "segments/as_of=2024-07-01");
    let primary = segments.column_by_name("is_primary").unwrap().as_boolean().clone();
    assert_eq!(primary.true_count(), profile.num_rows(), "everyone has one primary segment");
}

/// The program's own output is read as the source. Values that a rule filled in are computed again, not taken
/// for raw values, and nothing else changes.
#[test]
fn our_own_output_can_be_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    assert_eq!(output(&project, &["run"]).2, 0);
    let first = table(&project, "profile/as_of=2024-07-01");
    let path = project.join("fixtures/profile/part-000.parquet");
    crate::support::write(&path, &first);
    let (_, stderr, code) = output(&project, &["score"]);
    assert_eq!(code, 0, "{stderr}");
    let second = table(&project, "profile/as_of=2024-07-01");
    assert_eq!(first.schema(), second.schema());
    for (field, (a, b)) in
        first.schema().fields().iter().zip(first.columns().iter().zip(second.columns()))
    {
        assert_eq!(a.to_data(), b.to_data(), "{}", field.name());
    }

    // A past as-of has the counters of that time. The present counters are no history that it could lose.
    let (_, stderr, code) = output(&project, &["run", "--as-of", "2024-06-01"]);
    assert_eq!(code, 0, "{stderr}");
    let past = table(&project, "profile/as_of=2024-06-01");
    let total = |rows: &RecordBatch| -> i64 {
        let column = rows.column_by_name("total_interactions").unwrap();
        column.as_primitive::<Int64Type>().iter().flatten().sum()
    };
    assert!(total(&past) < total(&second), "{} {}", total(&past), total(&second));
}

/// A customer created from events exists from their first event on, even if the program's own output is the
/// source, and stays when the log has lost their events.
#[test]
fn a_customer_made_from_events_keeps_their_creation() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    edit(&project, "c360.toml", "[sources.events]", "[sources.events]\norphans = \"create\"");
    assert_eq!(output(&project, &["run"]).2, 0);
    let first = table(&project, "profile/as_of=2024-07-01");
    let rows_in_march = |project: &Path| {
        let (_, stderr, code) = output(project, &["features", "build", "--as-of", "2024-03-01"]);
        assert_eq!(code, 0, "{stderr}");
        table(project, "features/commerce/as_of=2024-03-01").num_rows()
    };
    let expected = rows_in_march(&project);
    // The column has the type that another tool would write.
    let index = first.schema().index_of("filled_fields").unwrap();
    let large = arrow_schema::Field::new("item", DataType::LargeUtf8, true);
    let large = DataType::LargeList(std::sync::Arc::new(large));
    let filled = arrow_cast::cast(first.column(index), &large).unwrap();
    crate::support::write(
        &project.join(PROFILE_FILE),
        &with_column(&first, "filled_fields", filled),
    );
    assert_eq!(rows_in_march(&project), expected);

    let made: Vec<String> = c360_ml::sources::profile::filled_before(&first)
        .iter()
        .zip(first.column(0).as_string::<i32>())
        .filter(|(names, _)| names.iter().any(|name| name == "created_at"))
        .map(|(_, key)| key.unwrap().to_owned())
        .collect();
    assert!(!made.is_empty());
    let created = |rows: &RecordBatch| {
        let names = c360_ml::sources::profile::filled_before(rows);
        let times = rows.column_by_name("created_at").unwrap();
        let times = times.as_primitive::<TimestampMicrosecondType>().clone();
        let keys = rows.column(0).as_string::<i32>();
        (0..rows.num_rows())
            .filter(|row| made.iter().any(|key| key == keys.value(*row)))
            .map(|row| {
                assert!(names[row].contains(&"created_at".to_owned()), "{}", keys.value(row));
                times.value(row)
            })
            .collect::<Vec<_>>()
    };
    let before = created(&first);
    rewrite(&project, EVENTS_FILE, |rows| {
        let keys = rows.column_by_name("customer360_id").unwrap().as_string::<i32>().clone();
        let kept = |row: &u32| !made.iter().any(|key| key == keys.value(*row as usize));
        let kept: Vec<u32> = (0..rows.num_rows() as u32).filter(kept).collect();
        c360_ml::store::parquet::take(&rows, &kept.into()).unwrap()
    });
    let (_, stderr, code) = output(&project, &["score"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(created(&table(&project, "profile/as_of=2024-07-01")), before);
}

/// Without scopes, only an explicit opt-in is consent, and a channel is filled in for no other customer.
#[test]
fn consent_without_scopes_is_an_opt_in() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    rewrite(&project, PROFILE_FILE, |rows| {
        let nobody = arrow_array::new_null_array(&DataType::Utf8, rows.num_rows());
        with_column(&without_column(&rows, "consent_scopes"), "preferred_channel", nobody)
    });
    let (_, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stderr}");
    let profile = table(&project, "profile/as_of=2024-07-01");
    let text = |name: &str| profile.column_by_name(name).unwrap().as_string::<i32>().clone();
    let (status, channel) = (text("opt_in_status"), text("preferred_channel"));
    let mut filled = 0;
    for row in (0..profile.num_rows()).filter(|row| channel.is_valid(*row)) {
        assert_eq!(status.value(row), "opted_in", "row {row} got {}", channel.value(row));
        filled += 1;
    }
    assert!(filled > 0);
    assert!(status.iter().flatten().any(|status| status != "opted_in"));
}

/// The guard: an event log that has lost its beginning must not make counters decrease.
#[test]
fn recomputing_from_a_shortened_log_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    assert_eq!(output(&project, &["run"]).2, 0);
    let profile = table(&project, "profile/as_of=2024-07-01");
    crate::support::write(&project.join(PROFILE_FILE), &profile);
    let events = project.join("fixtures/events/part-000.parquet");
    let rows = concat(&read(&events, None).unwrap()).unwrap().unwrap();
    let times = rows.column_by_name("event_ts").unwrap();
    let times = times.as_primitive::<TimestampMicrosecondType>().clone();
    let start: c360_ml::time::Instant = "2023-09-01".parse().unwrap();
    let kept: Vec<u32> =
        (0..rows.num_rows() as u32).filter(|row| times.value(*row as usize) >= start.0).collect();
    let rows = c360_ml::store::parquet::take(&rows, &kept.into()).unwrap();
    crate::support::write(&events, &rows);
    let (_, stderr, code) = output(&project, &["score"]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("would lose history for"), "{stderr}");
    assert!(stderr.contains("writeback.derived"), "{stderr}");

    let toml = std::fs::read_to_string(project.join("c360.toml")).unwrap();
    let toml = toml.replace("[writeback]", "[writeback]\nderived = \"keep\"");
    std::fs::write(project.join("c360.toml"), toml).unwrap();
    let (_, stderr, code) = output(&project, &["score"]);
    assert_eq!(code, 0, "{stderr}");
    let kept = table(&project, "profile/as_of=2024-07-01");
    assert_eq!(kept.column_by_name("total_revenue"), profile.column_by_name("total_revenue"));
}

#[test]
fn shards_split_customers_by_hash() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let toml = std::fs::read_to_string(project.join("c360.toml")).unwrap();
    std::fs::write(project.join("c360.toml"), toml.replace("[project]", "[project]\nshards = 4"))
        .unwrap();
    assert_eq!(output(&project, &["features", "build"]).2, 0);
    let store = Store::at(project.join("store")).unwrap();
    let root = store.root().unwrap();
    let files = store.below(&root, "features/commerce").unwrap();
    assert_eq!(files.len(), 4);
    assert_eq!(root.shards, Shards::new(4));
    let mut rows = 0;
    for (shard, file) in Shards::new(4).unwrap().all().zip(&files) {
        assert_eq!(Shard::of_file(file), shard);
        let batch =
            concat(&read(&store.file(&root, file).unwrap(), None).unwrap()).unwrap().unwrap();
        let keys: Vec<&str> = batch.column(0).as_string::<i32>().iter().flatten().collect();
        assert!(keys.iter().all(|key| shard.has(key)));
        assert!(keys.is_sorted());
        rows += keys.len();
        assert_eq!(
            batch.column(1).data_type(),
            &DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, Some("UTC".into()))
        );
    }
    assert_eq!(rows, 1996);
}

/// A profile that is partitioned by a column still has that column.
#[test]
fn a_hive_partitioned_profile_keeps_its_column() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let path = project.join("fixtures/profile/part-000.parquet");
    let source = concat(&read(&path, None).unwrap()).unwrap().unwrap();
    let countries = source.column_by_name("country").unwrap().as_string::<i32>().clone();
    let mut rest = source.clone();
    rest.remove_column(source.schema().index_of("country").unwrap());
    std::fs::remove_file(&path).unwrap();
    for country in ["DE", "FR", "ES", "IT", "NL"] {
        let rows: Vec<u32> = (0..source.num_rows() as u32)
            .filter(|row| countries.value(*row as usize) == country)
            .collect();
        let rows = c360_ml::store::parquet::take(&rest, &rows.into()).unwrap();
        let file = project.join(format!("fixtures/profile/country={country}/a.parquet"));
        crate::support::write(&file, &rows);
    }
    let (_, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stderr}");
    let profile = table(&project, "profile/as_of=2024-07-01");
    let found = profile.column_by_name("country").unwrap().as_string::<i32>().clone();
    assert!(found.iter().eq(countries.iter()));
}

/// Derived fields of the source may have another type than the profile. They are kept if the project says so,
/// and never dropped silently.
#[test]
fn derived_fields_of_the_source_are_typed() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let path = project.join("fixtures/profile/part-000.parquet");
    let source = concat(&read(&path, None).unwrap()).unwrap().unwrap();
    let with = |name: &str, array: arrow_array::ArrayRef| {
        let schema = source.schema();
        let mut columns: Vec<_> = schema
            .fields()
            .iter()
            .zip(source.columns())
            .map(|(field, column)| (field.name().clone(), column.clone(), true))
            .collect();
        columns.push((name.to_owned(), array, true));
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    };
    let start: c360_ml::time::Instant = "2020-01-01".parse().unwrap();
    // The source has nanoseconds, and the profile has microseconds.
    let early =
        arrow_array::TimestampNanosecondArray::from_value(start.0 * 1000, source.num_rows());
    let rows = with("first_seen_at", std::sync::Arc::new(early.with_timezone("UTC")));
    crate::support::write(&path, &rows);
    let (_, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 3, "the guard: {stderr}");
    let toml = std::fs::read_to_string(project.join("c360.toml")).unwrap();
    let toml = toml.replace("[writeback]", "[writeback]\nderived = \"keep\"");
    std::fs::write(project.join("c360.toml"), toml).unwrap();
    let (_, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stderr}");
    let profile = table(&project, "profile/as_of=2024-07-01");
    let seen = profile.column_by_name("first_seen_at").unwrap();
    let seen = seen.as_primitive::<TimestampMicrosecondType>();
    assert!(seen.iter().all(|at| at == Some(start.0)));

    let texts =
        arrow_array::StringArray::from_iter_values(std::iter::repeat_n("n/a", source.num_rows()));
    crate::support::write(&path, &with("orders_count", std::sync::Arc::new(texts)));
    let (_, stderr, code) = output(&project, &["score"]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("column orders_count has type utf8, not int64"), "{stderr}");
}

/// The series of events end at the as-of of the training, not at the last event. An outage of the last days
/// is a row of zeros, and no partial point at the end looks like a decrease.
#[test]
fn the_history_of_events_reaches_up_to_the_as_of() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = random();
    let at = instant("2024-07-01");
    let mut events: Vec<Event> = random_events(&mut random, &[at], 400);
    // All events of the first file happen before those of the second one, so that facts suffice for the first
    // file at most instants.
    events.sort_by_key(|event| event.time);
    let cases = [0, 1, 10, 900].into_iter().flat_map(|days| [(days, true), (days, false)]);
    for (days, respect) in cases {
        let ingestion = if respect { Ingestion::Respect } else { Ingestion::Ignore };
        let source = event_source(folder.path(), &events, "UTC", ingestion);
        let files = EventFacts::of_files(&source).unwrap();
        let until = Instant(at.0 + days * DAY);
        let history = history(&source, &files, until, until).unwrap().unwrap();
        let is_known =
            |event: &Event| !respect || event.ingested.is_none_or(|ingested| ingested < until.0);
        let visible = events.iter().filter(|event| event.time < until.0 && is_known(event));
        let visible: Vec<&Event> = visible.collect();
        let last = visible.iter().map(|event| event.time).max().unwrap();
        let total: u64 = history.events.iter().flat_map(|(_, counts)| counts).sum();
        assert_eq!(total as usize, visible.len());
        for (name, counts) in &history.events {
            let end = history.from.0 + counts.len() as i64 * history.step * DAY;
            assert_eq!(end, until.0, "{name}");
            let empty = counts.iter().rev().take_while(|count| **count == 0).count() as i64;
            let quiet = (until.0 - last) / DAY;
            assert!((empty + 1) * history.step >= quiet, "{name} {days}: {empty}, {quiet}");
        }
    }
}

//! Tests of the timeline kernel against the naive reference on random events, and the leak test.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use c360_ml::expression::Value;
use c360_ml::features::catalog::{Aggregation, aggregations};
use c360_ml::features::plan::{AsOf, FeaturePlan, Interactions};
use c360_ml::features::reference::{Event, aggregate, visible};
use c360_ml::features::spec::{FeatureSpec, Op};
use c360_ml::sources::profile::Entities;
use c360_ml::sources::{Ingestion, Orphans, SourcePlan};
use c360_ml::time::{Duration, Window};
use rand::Rng;
use rand::seq::SliceRandom;

use crate::support::{event_source, instant, random, random_events, scanned};

/// Every op with every input that it accepts, over several windows, with and without a condition.
pub fn all_aggregations(source: &SourcePlan) -> Vec<Aggregation> {
    let windows: Vec<Window> = ["1d", "7d", "30d", "90d", "lifetime"]
        .map(|text| Window::try_from(text.to_owned()).unwrap())
        .to_vec();
    let mut list = Vec::new();
    let conditions =
        [None, Some("event_type = 'purchase' and amount > 0"), Some("channel <> 'web'")];
    for (c, condition) in conditions.into_iter().enumerate() {
        let inputs: [(Op, &[Option<&str>]); 18] = [
            (Op::Count, &[None, Some("channel")]),
            (
                Op::CountDistinct,
                &[Some("order_id"), Some("channel"), Some("amount"), Some("quantity")],
            ),
            (Op::Sum, &[Some("amount"), Some("order_id"), Some("quantity")]),
            (Op::FirstDaySum, &[Some("amount"), Some("quantity")]),
            (Op::Mean, &[Some("amount"), Some("order_id"), Some("quantity")]),
            (Op::Min, &[Some("amount"), Some("quantity"), Some("event_ts")]),
            (Op::Max, &[Some("amount"), Some("quantity"), Some("event_ts")]),
            (Op::Std, &[Some("amount"), Some("quantity")]),
            (Op::First, &[Some("channel"), Some("amount")]),
            (Op::Last, &[Some("channel"), Some("quantity")]),
            (Op::DaysSinceFirst, &[None]),
            (Op::DaysSinceLast, &[None]),
            (Op::ActiveDays, &[None]),
            (Op::MeanGapDays, &[None]),
            (Op::MedianGapDays, &[None]),
            (Op::MaxGapDays, &[None]),
            (Op::StdGapDays, &[None]),
            (Op::DecayedSum, &[None, Some("quantity"), Some("amount")]),
        ];
        for (o, (op, inputs)) in inputs.into_iter().enumerate() {
            for (i, input) in inputs.iter().enumerate() {
                let spec = FeatureSpec {
                    name: format!("f{c}_{o}_{i}"),
                    op,
                    input: input.map(str::to_owned),
                    condition: condition.map(str::to_owned),
                    windows: windows.clone(),
                    half_life: (op == Op::DecayedSum).then(|| Duration::days(14)),
                    writes: None,
                    description: String::new(),
                };
                list.extend(aggregations("test", &spec, &source.columns()).unwrap());
            }
        }
    }
    list
}

pub fn value(array: &ArrayRef, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Int64 => Value::Integer(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Value::Double(array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => {
            Value::Money(array.as_primitive::<Decimal128Type>().value(row) as i64)
        }
        DataType::Utf8 => Value::Text(array.as_string::<i32>().value(row).to_owned()),
        DataType::Timestamp(..) => {
            Value::Timestamp(array.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        other => panic!("{other}"),
    }
}

pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Double(a), Value::Double(b)) => (a - b).abs() <= 1e-12 * a.abs().max(1.0),
        _ => a == b,
    }
}

type Rows = BTreeMap<String, Vec<Value>>;

/// The rows by customer, for each as-of.
fn build(source: &SourcePlan, plan: &FeaturePlan, memory: u64) -> Vec<Rows> {
    build_in_shards(source, plan, memory, 1)
}

/// The rows by customer, computed in this many shards. The events spill if `memory` is 0.
fn build_in_shards(source: &SourcePlan, plan: &FeaturePlan, memory: u64, shards: u32) -> Vec<Rows> {
    let plans = std::slice::from_ref(plan);
    let (rows, report) = scanned(source, &Entities::default(), plans, memory, shards).unwrap();
    assert_eq!(report.spilled_bytes > 0, memory == 0);
    let by_customer = |batches: &Vec<RecordBatch>| {
        let mut found: Rows = BTreeMap::new();
        for rows in batches {
            for (row, key) in rows.column(0).as_string::<i32>().iter().enumerate() {
                let values = rows.columns()[1..].iter().map(|array| value(array, row)).collect();
                let known = found.insert(key.unwrap().to_owned(), values);
                assert!(known.is_none(), "{key:?} is in two rows");
            }
        }
        found
    };
    rows[0].iter().map(by_customer).collect()
}

fn check(events: &[Event], source: &SourcePlan, plan: &FeaturePlan, found: &[Rows]) {
    let context = &source.context;
    for (as_of, found) in plan.as_ofs.iter().zip(found) {
        let mut customers: Vec<&str> = events.iter().map(|e| e.customer.as_str()).collect();
        customers.sort_unstable();
        customers.dedup();
        let mut expected_rows = 0;
        for customer in customers {
            let visible = visible(events, customer, *as_of);
            if visible.is_empty() {
                assert!(!found.contains_key(customer), "{customer} is not there yet at {as_of:?}");
                continue;
            }
            expected_rows += 1;
            for (aggregation, found) in plan.aggregations.iter().zip(&found[customer]) {
                let expected =
                    aggregate(aggregation, &visible, *as_of, context.zone, context.scale);
                assert!(
                    same(found, &expected),
                    "{customer} {} {:?} at {as_of:?}: {found:?}, but the reference says {expected:?}",
                    aggregation.column,
                    aggregation.op
                );
            }
        }
        assert_eq!(found.len(), expected_rows);
    }
}

fn plan(source: &SourcePlan, as_ofs: Vec<AsOf>) -> FeaturePlan {
    let mut plan = FeaturePlan { as_ofs, ..FeaturePlan::default() };
    for aggregation in all_aggregations(source) {
        plan.give(aggregation);
    }
    plan
}

#[test]
fn every_op_equals_the_naive_reference() {
    let mut random = random();
    let folder = tempfile::tempdir().unwrap();
    for round in 0..12 {
        let instants = ["2024-03-01", "2024-04-01", "2024-05-31T12:30:00Z"].map(instant);
        let mut as_ofs: Vec<AsOf> = instants.iter().map(|at| AsOf::at(*at)).collect();
        // One as-of has a later known-at, and one has an earlier known-at.
        as_ofs.push(AsOf { at: instants[1], known_at: instant("2024-06-30") });
        as_ofs.push(AsOf { at: instants[2], known_at: instant("2024-05-01") });
        let count = random.random_range(1..400);
        let events = random_events(&mut random, &instants, count);
        let zone = if round % 2 == 0 { "UTC" } else { "America/New_York" };
        let source = event_source(folder.path(), &events, zone, Ingestion::Respect);
        let plan = plan(&source, as_ofs);
        let in_memory = build(&source, &plan, 1 << 30);
        check(&events, &source, &plan, &in_memory);
        assert_eq!(build(&source, &plan, 0), in_memory, "spilling changes nothing");
        for shards in [2, 128] {
            let many = build_in_shards(&source, &plan, (round % 2) << 30, shards);
            assert_eq!(many, in_memory, "the number of shards changes nothing");
        }
    }
}

/// Customers of the profile are rows from their creation on. Others are rows from their first event on, if at
/// all.
#[test]
fn the_profile_and_the_events_say_who_is_a_row() {
    let mut random = random();
    let folder = tempfile::tempdir().unwrap();
    let instants = ["2024-03-01", "2024-04-01"].map(instant);
    let created = [None, Some(instant("2024-03-15")), Some(instant("2024-04-01")), None];
    let keys = ["c0", "c1", "z8", "z9"].map(str::to_owned);
    let entities = Entities { keys: keys.to_vec(), created_at: created.to_vec() };
    for orphans in [Orphans::Skip, Orphans::Create, Orphans::Fail] {
        let events = random_events(&mut random, &instants, 60);
        let mut source = event_source(folder.path(), &events, "UTC", Ingestion::Respect);
        source.orphans = orphans;
        let plan = FeaturePlan {
            aggregations: all_aggregations(&source)[..1].to_vec(),
            as_ofs: instants.map(AsOf::at).to_vec(),
            ..FeaturePlan::default()
        };
        let built = scanned(&source, &entities, std::slice::from_ref(&plan), 1 << 30, 4);
        let read =
            |e: &&Event| e.time < instants[1].0 && e.ingested.is_none_or(|at| at < instants[1].0);
        let unknown = events.iter().filter(read).filter(|e| !keys.contains(&e.customer)).count();
        assert!(unknown > 0);
        let report = match (orphans, built) {
            (Orphans::Fail, Err(error)) => {
                let expected = format!("{unknown} events belong to customers that are not");
                assert!(error.to_string().starts_with(&expected), "{error}");
                assert_eq!(error.exit_code(), 3);
                continue;
            }
            (_, built) => built.unwrap(),
        };
        let (rows, report) = report;
        assert_eq!(report.orphans, unknown as u64);
        for (at, batches) in instants.iter().zip(&rows[0]) {
            let keys_of = |rows: &RecordBatch| {
                let keys = rows.column(0).as_string::<i32>();
                keys.iter().flatten().map(str::to_owned).collect::<Vec<_>>()
            };
            let mut found: Vec<String> = batches.iter().flat_map(keys_of).collect();
            found.sort();
            let seen = |key: &str| !visible(&events, key, AsOf::at(*at)).is_empty();
            let mut expected: Vec<String> = (0..7).map(|i| format!("c{i}")).collect();
            expected.retain(|key| seen(key) && (orphans == Orphans::Create || keys.contains(key)));
            for (key, created) in keys.iter().zip(created) {
                if !expected.contains(key) && created.is_none_or(|created| created < *at) {
                    expected.push(key.clone());
                }
            }
            expected.sort();
            assert_eq!(found, expected, "{orphans:?} at {at}");
        }
    }
}

/// There are more conditions than one word of flags has bits.
#[test]
fn a_hundred_conditions_are_kept_apart() {
    let mut random = random();
    let folder = tempfile::tempdir().unwrap();
    let as_of = AsOf::at(instant("2024-04-01"));
    let events = random_events(&mut random, &[as_of.at], 300);
    let source = event_source(folder.path(), &events, "UTC", Ingestion::Respect);
    let mut plan = FeaturePlan { as_ofs: vec![as_of], ..FeaturePlan::default() };
    for cents in 0..100 {
        let spec = FeatureSpec {
            name: format!("f{cents}"),
            op: Op::Count,
            input: None,
            condition: Some(format!("amount > {cents}.5")),
            windows: vec![Window::Lifetime],
            half_life: None,
            writes: None,
            description: String::new(),
        };
        aggregations("test", &spec, &source.columns())
            .unwrap()
            .into_iter()
            .for_each(|a| plan.give(a));
    }
    check(&events, &source, &plan, &build(&source, &plan, 0));
}

#[test]
fn ignored_ingestion_makes_every_event_known() {
    let mut random = random();
    let folder = tempfile::tempdir().unwrap();
    let instants = ["2024-03-01", "2024-04-01"].map(instant);
    let mut events = random_events(&mut random, &instants, 300);
    // Without ingestion, the copy with the least event_ts counts. The reference sees no ingestion either.
    let source = event_source(folder.path(), &events, "UTC", Ingestion::Ignore);
    events.iter_mut().for_each(|event| event.ingested = None);
    let plan = plan(&source, instants.map(AsOf::at).to_vec());
    check(&events, &source, &plan, &build(&source, &plan, 1 << 30));
}

/// Neither the set of as-ofs that are computed together nor the order of rows in the files changes a bit.
#[test]
fn as_ofs_and_row_order_do_not_matter() {
    let mut random = random();
    let folder = tempfile::tempdir().unwrap();
    let instants = ["2024-03-01", "2024-04-01", "2024-05-01"].map(instant);
    let mut events = random_events(&mut random, &instants, 400);
    let source = event_source(folder.path(), &events, "UTC", Ingestion::Respect);
    let together = build(&source, &plan(&source, instants.map(AsOf::at).to_vec()), 1 << 30);
    events.shuffle(&mut random);
    let source = event_source(folder.path(), &events, "UTC", Ingestion::Respect);
    for (at, expected) in instants.iter().zip(&together) {
        let alone = build(&source, &plan(&source, vec![AsOf::at(*at)]), 1 << 30);
        assert_eq!(alone[0], *expected);
    }
}

/// Events at or after the as-of, or ingested at or after the known-at, change nothing.
#[test]
fn the_future_does_not_leak() {
    let mut random = random();
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..6 {
        let as_of = AsOf { at: instant("2024-04-01"), known_at: instant("2024-04-03") };
        let past = random_events(&mut random, &[as_of.at], 200);
        let past: Vec<Event> = past
            .into_iter()
            .filter(|e| e.time < as_of.at.0 && e.ingested.is_none_or(|at| at < as_of.known_at.0))
            .collect();
        let source = event_source(folder.path(), &past, "UTC", Ingestion::Respect);
        let before = build(&source, &plan(&source, vec![as_of]), 1 << 30);
        let mut all = past.clone();
        for (i, event) in random_events(&mut random, &[as_of.at], 200).into_iter().enumerate() {
            let mut event = event;
            if i % 2 == 0 {
                event.time = as_of.at.0 + random.random_range(0..3) * 1_000_000;
            } else {
                event.ingested = Some(as_of.known_at.0 + random.random_range(0..3));
            }
            // Half of them have the identifiers of events that are already known.
            if i % 4 < 2 {
                event.id = past[i % past.len()].id.clone();
                event.customer = past[i % past.len()].customer.clone();
            } else {
                event.id = format!("future{i}");
            }
            all.push(event);
        }
        all.shuffle(&mut random);
        let source = event_source(folder.path(), &all, "UTC", Ingestion::Respect);
        assert_eq!(build(&source, &plan(&source, vec![as_of]), 1 << 30), before);
    }
}

#[test]
fn interactions_equal_a_plain_loop() {
    use c360_ml::expression::check::{check, check_as};
    let mut random = random();
    let folder = tempfile::tempdir().unwrap();
    let as_of = AsOf::at(instant("2024-04-01"));
    let events = random_events(&mut random, &[as_of.at], 300);
    let source = event_source(folder.path(), &events, "UTC", Ingestion::Respect);
    let columns = source.columns();
    let ty = c360_ml::expression::Type::Double;
    let weight = "case event_type when 'purchase' then 5.0 when 'page_view' then 1.0 end";
    let plan = FeaturePlan {
        interactions: Some(Interactions {
            item: check("channel", &columns, "test").unwrap(),
            weight: check_as(weight, ty, &columns, "test").unwrap(),
            window: Window::Trailing(Duration::days(90)),
            half_life: Duration::days(60),
        }),
        as_ofs: vec![as_of],
        ..FeaturePlan::default()
    };
    let mut found: BTreeMap<(String, String), f64> = BTreeMap::new();
    let collect = |rows: &RecordBatch| {
        for row in 0..rows.num_rows() {
            let text = |i: usize| rows.column(i).as_string::<i32>().value(row).to_owned();
            let weight = rows.column(2).as_primitive::<Float64Type>().value(row);
            assert!(found.insert((text(0), text(1)), weight).is_none());
        }
    };
    let (rows, _) = scanned(&source, &Entities::default(), &[plan], 1 << 30, 16).unwrap();
    rows[0][0].iter().for_each(collect);
    let mut expected: BTreeMap<(String, String), f64> = BTreeMap::new();
    for customer in (0..7).map(|i| format!("c{i}")) {
        for event in visible(&events, &customer, as_of) {
            let weight = match &event.columns["event_type"] {
                Value::Text(kind) if kind == "purchase" => 5.0,
                Value::Text(kind) if kind == "page_view" => 1.0,
                _ => continue,
            };
            let age = as_of.at.days_since(event.time);
            if let (Value::Text(channel), true) = (&event.columns["channel"], age <= 90.0) {
                *expected.entry((customer.clone(), channel.clone())).or_default() +=
                    weight * (-age / 60.0).exp2();
            }
        }
    }
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (key, weight) in &found {
        assert!((weight - expected[key]).abs() < 1e-9, "{key:?}");
    }
}

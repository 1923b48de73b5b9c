//! The naive reference implementation: a plain loop over events for every customer, column and as-of.
//!
//! It is written for clarity, not for speed. Tests and the audit compare the results of the engine with it.

use std::collections::{BTreeMap, BTreeSet};

use super::catalog::Aggregation;
use super::plan::AsOf;
use super::spec::Op;
use crate::expression::reference::{compare, evaluate};
use crate::expression::{Type, Value};
use crate::money::Scale;
use crate::time::{Window, Zone};

/// An event with its canonical and additional columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The key of the customer, customer360_id.
    pub customer: String,
    /// The key of the event, event_id.
    pub id: String,
    /// The time of the event, event_ts, in microseconds.
    pub time: i64,
    /// The time of its ingestion, ingested_at, in microseconds.
    pub ingested: Option<i64>,
    /// The values of all columns that expressions may use.
    pub columns: BTreeMap<String, Value>,
}

/// The events of `customer` that are visible at `as_of`, without duplicates, ordered by event_ts and
/// event_id.
pub fn visible<'a>(events: &'a [Event], customer: &str, as_of: AsOf) -> Vec<&'a Event> {
    let mut winners: BTreeMap<&str, &Event> = BTreeMap::new();
    for event in events {
        let known = event.ingested.is_none_or(|ingested| ingested < as_of.known_at.0);
        if event.customer != customer || event.time >= as_of.at.0 || !known {
            continue;
        }
        let key = |event: &Event| (event.ingested.unwrap_or(i64::MIN), event.time);
        match winners.get(event.id.as_str()) {
            Some(winner) if key(winner) <= key(event) => {}
            _ => {
                winners.insert(&event.id, event);
            }
        }
    }
    let mut list: Vec<&Event> = winners.into_values().collect();
    list.sort_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
    list
}

/// Computes `aggregation` at `as_of` over events that are visible then.
pub fn aggregate(
    aggregation: &Aggregation,
    visible: &[&Event],
    as_of: AsOf,
    zone: Zone,
    scale: Scale,
) -> Value {
    let mut times = Vec::new();
    let mut inputs = Vec::new();
    for event in visible {
        let lookup = |name: &str| event.columns.get(name).cloned().unwrap_or(Value::Null);
        if let Window::Trailing(length) = aggregation.window
            && event.time < as_of.at.0 - length.0
        {
            continue;
        }
        if let Some(condition) = &aggregation.condition
            && evaluate(condition, scale, &lookup) != Value::Boolean(true)
        {
            continue;
        }
        match aggregation.input.as_ref().map(|input| evaluate(input, scale, &lookup)) {
            Some(Value::Null) => continue,
            input => inputs.push(input.unwrap_or(Value::Integer(1))),
        }
        times.push(event.time);
    }
    let days: BTreeSet<i32> = times.iter().map(|time| zone.day(*time)).collect();
    let days: Vec<i32> = days.into_iter().collect();
    let mut gaps: Vec<f64> = days.windows(2).map(|pair| f64::from(pair[1] - pair[0])).collect();
    gaps.sort_by(f64::total_cmp);
    let age_in_days = |time: &i64| (as_of.at.0 - time) as f64 / 86_400e6;
    let double = |value: Option<f64>| value.map_or(Value::Null, Value::Double);
    let count = inputs.len();
    match aggregation.op {
        Op::Count => Value::Integer(count as i64),
        Op::CountDistinct => {
            let mut distinct: Vec<&Value> = Vec::new();
            for input in &inputs {
                if !distinct.contains(&input) {
                    distinct.push(input);
                }
            }
            Value::Integer(distinct.len() as i64)
        }
        Op::Sum => sum(aggregation.ty, &inputs),
        Op::FirstDaySum => {
            let first_day = times.iter().take_while(|time| Some(&zone.day(**time)) == days.first());
            sum(aggregation.ty, &inputs[..first_day.count()])
        }
        Op::Mean if count == 0 => Value::Null,
        Op::Mean => {
            match sum(aggregation.input.as_ref().map_or(Type::Integer, |x| x.ty), &inputs) {
                Value::Integer(total) => Value::Double(total as f64 / count as f64),
                Value::Money(total) => {
                    Value::Double(total as f64 / count as f64 / scale.units() as f64)
                }
                Value::Double(total) => Value::Double(total / count as f64),
                _ => Value::Null,
            }
        }
        Op::Min | Op::Max => {
            let wanted = if aggregation.op == Op::Min { -1 } else { 1 };
            let mut best = Value::Null;
            for input in inputs {
                let order = compare(&input, &best).map_or(wanted, |order| order as i32);
                if order == wanted {
                    best = input;
                }
            }
            best
        }
        Op::Std if count < 2 => Value::Null,
        Op::Std => {
            let values: Vec<f64> = inputs.iter().map(|v| number(v, scale)).collect();
            let mean = values.iter().sum::<f64>() / count as f64;
            let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
            Value::Double((squares / (count - 1) as f64).sqrt())
        }
        Op::First => inputs.first().cloned().unwrap_or(Value::Null),
        Op::Last => inputs.last().cloned().unwrap_or(Value::Null),
        Op::DaysSinceFirst => double(times.first().map(age_in_days)),
        Op::DaysSinceLast => double(times.last().map(age_in_days)),
        Op::ActiveDays => Value::Integer(days.len() as i64),
        Op::MeanGapDays if gaps.is_empty() => Value::Null,
        Op::MeanGapDays => Value::Double(gaps.iter().sum::<f64>() / gaps.len() as f64),
        Op::MedianGapDays => double(match gaps.len() {
            0 => None,
            n if n % 2 == 1 => Some(gaps[n / 2]),
            n => Some((gaps[n / 2 - 1] + gaps[n / 2]) / 2.0),
        }),
        Op::MaxGapDays => double(gaps.iter().copied().reduce(f64::max)),
        Op::StdGapDays if gaps.len() < 2 => Value::Null,
        Op::StdGapDays => {
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let squares: f64 = gaps.iter().map(|v| (v - mean) * (v - mean)).sum();
            Value::Double((squares / (gaps.len() - 1) as f64).sqrt())
        }
        Op::DecayedSum => {
            let half_life = aggregation.half_life.map_or(1.0, |length| length.0 as f64);
            let weigh = |(time, input): (&i64, &Value)| {
                number(input, scale) * (-((as_of.at.0 - time) as f64) / half_life).exp2()
            };
            Value::Double(times.iter().zip(&inputs).map(weigh).sum())
        }
    }
}

fn sum(ty: Type, inputs: &[Value]) -> Value {
    let integers = || {
        inputs.iter().map(|v| match v {
            Value::Integer(v) | Value::Money(v) => *v,
            _ => 0,
        })
    };
    match ty {
        Type::Money => Value::Money(integers().sum()),
        Type::Integer => Value::Integer(integers().sum()),
        _ => Value::Double(
            inputs.iter().map(|v| if let Value::Double(v) = v { *v } else { 0.0 }).sum(),
        ),
    }
}

fn number(value: &Value, scale: Scale) -> f64 {
    match value {
        Value::Double(v) => *v,
        Value::Money(v) => scale.major(*v),
        Value::Integer(v) => *v as f64,
        _ => f64::NAN,
    }
}

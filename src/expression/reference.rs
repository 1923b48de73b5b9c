//! The naive reference implementation. It evaluates one value at a time and is written for clarity, not for
//! speed.
//!
//! Tests compare the results of the engine with it. Segment rules are also evaluated by it, on hypothetical
//! values instead of rows.

use std::cmp::Ordering;

use super::convert::*;
use super::{Expression, Function, Node, Operator, Type, Value};
use crate::money::Scale;
use crate::time::DAY;

/// Evaluates `expression`. `column` returns the value of each column by name.
pub fn evaluate(expression: &Expression, scale: Scale, column: &dyn Fn(&str) -> Value) -> Value {
    let recurse = |x: &Expression| evaluate(x, scale, column);
    match &expression.node {
        Node::Column(name) => column(name),
        Node::Literal(value) => value.clone(),
        Node::Not(x) => match recurse(x) {
            Value::Boolean(b) => Value::Boolean(!b),
            _ => Value::Null,
        },
        Node::Negate(x) => match recurse(x) {
            Value::Integer(v) => v.checked_neg().map_or(Value::Null, Value::Integer),
            Value::Money(v) => v.checked_neg().map_or(Value::Null, Value::Money),
            Value::Double(v) => Value::Double(-v),
            _ => Value::Null,
        },
        Node::IsNull(x) => Value::Boolean(recurse(x) == Value::Null),
        Node::Binary(Operator::And, a, b) => match (recurse(a), recurse(b)) {
            (Value::Boolean(false), _) | (_, Value::Boolean(false)) => Value::Boolean(false),
            (Value::Boolean(true), Value::Boolean(true)) => Value::Boolean(true),
            _ => Value::Null,
        },
        Node::Binary(Operator::Or, a, b) => match (recurse(a), recurse(b)) {
            (Value::Boolean(true), _) | (_, Value::Boolean(true)) => Value::Boolean(true),
            (Value::Boolean(false), Value::Boolean(false)) => Value::Boolean(false),
            _ => Value::Null,
        },
        Node::Binary(operator, a, b) => binary(*operator, recurse(a), recurse(b)),
        Node::Call(function, arguments) => {
            call(*function, arguments.iter().map(recurse).collect(), arguments)
        }
        Node::Case { branches, otherwise } => branches
            .iter()
            .find(|(condition, _)| recurse(condition) == Value::Boolean(true))
            .map_or_else(|| recurse(otherwise), |(_, result)| recurse(result)),
        Node::Cast(x) => cast(recurse(x), expression.ty, scale),
        Node::InList(x, list) => match recurse(x) {
            Value::Null => Value::Null,
            value => Value::Boolean(list.contains(&value)),
        },
        Node::Like(x, pattern) => match recurse(x) {
            Value::Text(text) => {
                let pattern: Vec<char> = pattern.chars().collect();
                Value::Boolean(like(&text.chars().collect::<Vec<_>>(), &pattern))
            }
            _ => Value::Null,
        },
    }
}

fn like(text: &[char], pattern: &[char]) -> bool {
    match (text, pattern) {
        ([], []) => true,
        (_, ['%', rest @ ..]) => (0..=text.len()).any(|skip| like(&text[skip..], rest)),
        ([_, text @ ..], ['_', rest @ ..]) => like(text, rest),
        ([a, text @ ..], [b, rest @ ..]) => a == b && like(text, rest),
        _ => false,
    }
}

/// Compares two values of the same type. Returns None if one of them is null.
pub fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Boolean(a), Value::Boolean(b)) => Some(a.cmp(b)),
        (Value::Integer(a), Value::Integer(b)) => Some(a.cmp(b)),
        (Value::Money(a), Value::Money(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        (Value::Date(a), Value::Date(b)) => Some(a.cmp(b)),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        _ => None,
    }
}

fn binary(operator: Operator, a: Value, b: Value) -> Value {
    let test = |wanted: fn(Ordering) -> bool| match compare(&a, &b) {
        Some(order) => Value::Boolean(wanted(order)),
        None => Value::Null,
    };
    match operator {
        Operator::Equal => test(Ordering::is_eq),
        Operator::NotEqual => test(Ordering::is_ne),
        Operator::Less => test(Ordering::is_lt),
        Operator::LessOrEqual => test(Ordering::is_le),
        Operator::Greater => test(Ordering::is_gt),
        Operator::GreaterOrEqual => test(Ordering::is_ge),
        _ => match (a, b) {
            (Value::Integer(a), Value::Integer(b)) => {
                integers(operator, a, b).map_or(Value::Null, Value::Integer)
            }
            (Value::Money(a), Value::Money(b) | Value::Integer(b)) => {
                integers(operator, a, b).map_or(Value::Null, Value::Money)
            }
            (Value::Double(a), Value::Double(b)) => {
                let value = match operator {
                    Operator::Add => a + b,
                    Operator::Subtract => a - b,
                    Operator::Multiply => a * b,
                    Operator::Divide => a / b,
                    _ => a % b,
                };
                finite(value).map_or(Value::Null, Value::Double)
            }
            _ => Value::Null,
        },
    }
}

/// Computes an integer operation. The result is None if its magnitude is 2^62 or more, so that an engine can
/// test the limit with doubles.
fn integers(operator: Operator, a: i64, b: i64) -> Option<i64> {
    let (a, b) = (i128::from(a), i128::from(b));
    let value = match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        _ if b == 0 => return None,
        _ => a % b,
    };
    (value.abs() < 1 << 62).then_some(value as i64)
}

fn cast(value: Value, ty: Type, scale: Scale) -> Value {
    let converted = match (value, ty) {
        (Value::Integer(v), Type::Double) => Some(Value::Double(v as f64)),
        (Value::Integer(v), Type::Money) => v
            .checked_mul(scale.units())
            .filter(|minor| minor.abs() < 10_i64.pow(18))
            .map(Value::Money),
        (Value::Integer(v), Type::Boolean) => Some(Value::Boolean(v != 0)),
        (Value::Integer(v), Type::Text) => Some(Value::Text(v.to_string())),
        (Value::Double(v), Type::Integer) => double_to_integer(v).map(Value::Integer),
        (Value::Double(v), Type::Money) => scale.minor(v).map(Value::Money),
        (Value::Double(v), Type::Text) => Some(Value::Text(double_to_text(v))),
        (Value::Money(v), Type::Double) => Some(Value::Double(scale.major(v))),
        (Value::Money(v), Type::Integer) => Some(Value::Integer(v / scale.units())),
        (Value::Money(v), Type::Text) => Some(Value::Text(scale.format(v))),
        (Value::Boolean(v), Type::Integer) => Some(Value::Integer(i64::from(v))),
        (Value::Boolean(v), Type::Text) => Some(Value::Text(v.to_string())),
        (Value::Text(v), Type::Integer) => text_to_integer(&v).map(Value::Integer),
        (Value::Text(v), Type::Double) => text_to_double(&v).map(Value::Double),
        (Value::Text(v), Type::Money) => text_to_money(&v, scale).map(Value::Money),
        (Value::Text(v), Type::Boolean) => text_to_boolean(&v).map(Value::Boolean),
        (Value::Text(v), Type::Timestamp) => text_to_timestamp(&v).map(Value::Timestamp),
        (Value::Text(v), Type::Date) => text_to_date(&v).map(Value::Date),
        (Value::Date(v), Type::Timestamp) => Some(Value::Timestamp(i64::from(v) * DAY)),
        (Value::Date(v), Type::Text) => Some(Value::Text(date_to_text(v))),
        (Value::Timestamp(v), Type::Date) => Some(Value::Date(v.div_euclid(DAY) as i32)),
        (Value::Timestamp(v), Type::Text) => Some(Value::Text(crate::time::Instant(v).to_string())),
        (value, _) => Some(value),
    };
    converted.unwrap_or(Value::Null)
}

fn call(function: Function, values: Vec<Value>, arguments: &[Expression]) -> Value {
    use Function as F;
    let double = |v: f64| finite(v).map_or(Value::Null, Value::Double);
    match function {
        F::Coalesce => values.into_iter().find(|v| *v != Value::Null).unwrap_or(Value::Null),
        F::Least | F::Greatest => {
            let best = values.into_iter().filter(|v| *v != Value::Null).reduce(|a, b| {
                let wanted = if function == F::Least { Ordering::Less } else { Ordering::Greater };
                if compare(&b, &a) == Some(wanted) { b } else { a }
            });
            best.unwrap_or(Value::Null)
        }
        F::Nullif => {
            if compare(&values[0], &values[1]) == Some(Ordering::Equal) {
                Value::Null
            } else {
                values[0].clone()
            }
        }
        _ if values.contains(&Value::Null) => Value::Null,
        _ => match (function, values.as_slice()) {
            (F::Abs, [Value::Integer(v)]) => v.checked_abs().map_or(Value::Null, Value::Integer),
            (F::Abs, [Value::Money(v)]) => v.checked_abs().map_or(Value::Null, Value::Money),
            (F::Abs, [Value::Double(v)]) => double(v.abs()),
            (F::Round, [Value::Double(v)]) => double(v.round()),
            (F::Round, [Value::Double(v), Value::Integer(places)]) => {
                let unit = 10_f64.powi(*places as i32);
                double((v * unit).round() / unit)
            }
            (F::Floor, [Value::Double(v)]) => double(v.floor()),
            (F::Ceil, [Value::Double(v)]) => double(v.ceil()),
            (F::Sqrt, [Value::Double(v)]) => double(v.sqrt()),
            (F::Ln, [Value::Double(v)]) => double(v.ln()),
            (F::Log1p, [Value::Double(v)]) => double(v.ln_1p()),
            (F::Exp, [Value::Double(v)]) => double(v.exp()),
            (F::Power, [Value::Double(v), Value::Double(w)]) => double(v.powf(*w)),
            (F::Lower, [Value::Text(v)]) => Value::Text(v.to_lowercase()),
            (F::Upper, [Value::Text(v)]) => Value::Text(v.to_uppercase()),
            (F::Trim, [Value::Text(v)]) => Value::Text(v.trim_matches(' ').to_owned()),
            (F::Length, [Value::Text(v)]) => Value::Integer(v.chars().count() as i64),
            (F::Concat, texts) => {
                let parts = texts.iter().map(|v| if let Value::Text(v) = v { v } else { "" });
                Value::Text(parts.collect())
            }
            (F::Substring, [Value::Text(v), Value::Integer(start), rest @ ..]) => {
                let length = match rest {
                    [Value::Integer(length)] => *length as usize,
                    _ => usize::MAX,
                };
                Value::Text(v.chars().skip(*start as usize - 1).take(length).collect())
            }
            (F::StartsWith, [Value::Text(v), Value::Text(w)]) => Value::Boolean(v.starts_with(w)),
            (F::EndsWith, [Value::Text(v), Value::Text(w)]) => Value::Boolean(v.ends_with(w)),
            (F::Contains, [Value::Text(v), Value::Text(w)]) => Value::Boolean(v.contains(w)),
            (F::DaysBetween, [Value::Timestamp(a), Value::Timestamp(b)]) => {
                double((i128::from(*b) - i128::from(*a)) as f64 / DAY as f64)
            }
            (F::AddMicroseconds, [Value::Timestamp(v), Value::Integer(micros)]) => {
                v.checked_add(*micros).map_or(Value::Null, Value::Timestamp)
            }
            (F::ToTimestamp, [value, Value::Text(how)]) => {
                let instant = match (value, unit_to_micros(how)) {
                    (Value::Integer(v), Some(micros)) => v.checked_mul(micros),
                    (Value::Double(v), Some(micros)) => double_to_timestamp(*v, micros),
                    (Value::Text(v), _) => text_to_timestamp_by(v, how),
                    _ => unreachable!("{function:?} was checked to never get {arguments:?}"),
                };
                instant.map_or(Value::Null, Value::Timestamp)
            }
            (part, [Value::Timestamp(v)]) => date_part(part, *v),
            _ => unreachable!("{function:?} was checked to never get {arguments:?}"),
        },
    }
}

fn date_part(function: Function, micros: i64) -> Value {
    use chrono::{DateTime, Datelike, Timelike};
    let Some(time) = DateTime::from_timestamp_micros(micros) else { return Value::Null };
    Value::Integer(match function {
        Function::Year => i64::from(time.year()),
        Function::Month => i64::from(time.month()),
        Function::Day => i64::from(time.day()),
        Function::DayOfWeek => i64::from(time.weekday().number_from_monday()),
        _ => i64::from(time.hour()),
    })
}

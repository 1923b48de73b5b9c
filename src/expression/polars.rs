//! Lowering of checked expressions to Polars, and their evaluation over Arrow record batches.
//!
//! Inside Polars, money is a 64-bit integer of minor units and a timestamp is naive UTC microseconds.
//! Comments in this module mark every place where the semantics of Polars differ from those of
//! docs/expressions.md.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types as arrow_types;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType as ArrowType;
use polars::prelude::{
    ChunkCompareEq, ChunkCompareIneq, ChunkFillNullValue, Column, DataFrame, DataType, Expr, Field,
    IntoLazy, Literal, NULL, NamedFrom, PlSmallStr, PolarsResult, RoundMode, Series, TimeUnit, col,
    lit, when,
};

use super::convert::*;
use super::{Columns, Expression, Function, Node, Operator, Type, Value};
use crate::error::{Error, Result};
use crate::money::Scale;

/// The Polars type of a column that holds values of type `ty`.
pub fn data_type(ty: Type) -> DataType {
    match ty {
        Type::Boolean => DataType::Boolean,
        Type::Integer | Type::Money => DataType::Int64,
        Type::Double => DataType::Float64,
        Type::Text => DataType::String,
        Type::Timestamp => DataType::Datetime(TimeUnit::Microseconds, None),
        Type::Date => DataType::Date,
    }
}

/// The Polars expression that computes `expression`.
///
/// No operand is lowered twice: what is nested would otherwise double with every level.
pub fn lower(expression: &Expression, scale: Scale) -> Expr {
    let recurse = |x: &Expression| lower(x, scale);
    match &expression.node {
        Node::Column(name) => col(name.as_str()),
        Node::Literal(value) => literal(value, expression.ty),
        Node::Not(x) => recurse(x).not(),
        Node::Negate(x) => lit(0).cast(data_type(x.ty)) - recurse(x),
        Node::IsNull(x) => recurse(x).is_null(),
        Node::Binary(Operator::Modulo, a, b) => {
            let value = remainder(recurse(a), recurse(b), expression.ty);
            if expression.ty == Type::Double { finite_or_null(value) } else { value }
        }
        Node::Binary(Operator::Divide, a, b) => finite_or_null(quotient(recurse(a), recurse(b))),
        Node::Binary(operator, a, b) => {
            let (a, b) = (recurse(a), recurse(b));
            match expression.ty {
                Type::Double => finite_or_null(binary(*operator, a, b)),
                Type::Integer | Type::Money => guarded(*operator, a, b, expression.ty),
                _ => binary(*operator, a, b),
            }
        }
        Node::Call(function, arguments) => {
            let lowered: Vec<Expr> = arguments.iter().map(recurse).collect();
            let value = call(*function, lowered, arguments);
            if expression.ty == Type::Double { finite_or_null(value) } else { value }
        }
        Node::Case { branches, otherwise } => {
            branches.iter().rev().fold(recurse(otherwise), |rest, (condition, result)| {
                when(recurse(condition)).then(recurse(result)).otherwise(rest)
            })
        }
        Node::Cast(x) => cast(recurse(x), x.ty, expression.ty, scale),
        Node::InList(x, list) => {
            let tests = list.iter().map(|value| recurse(x).eq(literal(value, x.ty)));
            tests.reduce(Expr::or).unwrap_or_else(|| lit(false))
        }
        Node::Like(x, pattern) => recurse(x).str().contains(lit(like_to_regex(pattern)), true),
    }
}

fn literal(value: &Value, ty: Type) -> Expr {
    match value {
        Value::Null => lit(NULL).cast(data_type(ty)),
        Value::Boolean(v) => lit(*v),
        // Polars may store a literal without a cast in 32 bits.
        Value::Integer(v) | Value::Money(v) => lit(*v).cast(data_type(ty)),
        Value::Double(v) => lit(*v).cast(data_type(ty)),
        Value::Text(v) => v.as_str().lit(),
        Value::Timestamp(v) => lit(*v).cast(data_type(ty)),
        Value::Date(v) => lit(*v).cast(DataType::Date),
    }
}

fn binary(operator: Operator, a: Expr, b: Expr) -> Expr {
    match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        Operator::Modulo => a % b,
        Operator::Equal => a.eq(b),
        Operator::NotEqual => a.neq(b),
        Operator::Less => a.lt(b),
        Operator::LessOrEqual => a.lt_eq(b),
        Operator::Greater => a.gt(b),
        Operator::GreaterOrEqual => a.gt_eq(b),
        Operator::And => a.and(b),
        Operator::Or => a.or(b),
    }
}

/// The sum, difference or product of integers. Results of 2^62 or more in magnitude are null, where Polars would wrap
/// around.
///
/// The magnitude is tested with doubles.
fn guarded(operator: Operator, a: Expr, b: Expr, ty: Type) -> Expr {
    let wide: fn(f64, f64) -> f64 = match operator {
        Operator::Subtract => |a, b| a - b,
        Operator::Multiply => |a, b| a * b,
        _ => |a, b| a + b,
    };
    let exact: fn(i64, i64) -> Option<i64> = match operator {
        Operator::Subtract => i64::checked_sub,
        Operator::Multiply => i64::checked_mul,
        _ => i64::checked_add,
    };
    let limit = (1_i64 << 62) as f64;
    let value = move |x: i64, y: i64| {
        (wide(x as f64, y as f64).abs() < limit).then(|| exact(x, y)).flatten()
    };
    pairwise(a, b, ty, move |a, b| {
        let (x, y) = (a.i64()?, b.i64()?);
        let (rows, others) = (x.len(), y.len());
        let values =
            (0..height(a, b)).map(|row| value(x.get(at(row, rows))?, y.get(at(row, others))?));
        Ok(Series::new(a.name().clone(), values.collect::<Vec<Option<i64>>>()))
    })
}

/// Applies a function to two columns, of which one may be a literal.
fn pairwise(
    a: Expr,
    b: Expr,
    ty: Type,
    function: impl Fn(&Column, &Column) -> PolarsResult<Series> + Send + Sync + 'static,
) -> Expr {
    a.map_many(
        move |columns| Ok(function(&columns[0], &columns[1])?.into()),
        &[b],
        move |_, fields| Ok(Field::new(fields[0].name().clone(), data_type(ty))),
    )
}

/// The number of rows of two columns. A literal comes as a column of one row.
fn height(a: &Column, b: &Column) -> usize {
    if a.len() == 1 { b.len() } else { a.len() }
}

/// The place of the value for a row in a column of this length, which may be a literal.
fn at(row: usize, length: usize) -> usize {
    if length == 1 { 0 } else { row }
}

/// The quotient of two doubles. Polars multiplies by the reciprocal of a constant, but not in a batch of one
/// row, so that its quotients depend on how rows are split into batches.
fn quotient(a: Expr, b: Expr) -> Expr {
    let double = |x: Expr| x.cast(DataType::Float64);
    pairwise(double(a), double(b), Type::Double, |a, b| {
        let (x, y) = (a.f64()?, b.f64()?);
        let name = a.name().clone();
        Ok(match (x.len(), y.len(), x.cont_slice(), y.cont_slice()) {
            (_, 1, Ok(x), Ok(y)) => {
                Series::new(name, x.iter().map(|x| x / y[0]).collect::<Vec<_>>())
            }
            (rows, others, Ok(x), Ok(y)) if rows == others => {
                Series::new(name, x.iter().zip(y).map(|(x, y)| x / y).collect::<Vec<_>>())
            }
            (rows, others, ..) => {
                let value = |row| Some(x.get(at(row, rows))? / y.get(at(row, others))?);
                let values = (0..height(a, b)).map(value);
                Series::new(name, values.collect::<Vec<Option<f64>>>())
            }
        })
    })
}

/// The remainder with the sign of the dividend, or null for a divisor of zero.
///
/// The remainder of Polars has the sign of the divisor, and for doubles it is computed by a division that
/// rounds.
fn remainder(a: Expr, b: Expr, ty: Type) -> Expr {
    pairwise(a, b, ty, move |a, b| {
        let (rows, name) = (0..height(a, b), a.name().clone());
        Ok(if ty == Type::Double {
            let (x, y) = (a.f64()?, b.f64()?);
            let value = |row| Some(x.get(at(row, x.len()))? % y.get(at(row, y.len()))?);
            Series::new(name, rows.map(value).collect::<Vec<Option<f64>>>())
        } else {
            let (x, y) = (a.i64()?, b.i64()?);
            let value = |row| x.get(at(row, x.len()))?.checked_rem(y.get(at(row, y.len()))?);
            Series::new(name, rows.map(value).collect::<Vec<Option<i64>>>())
        })
    })
}

fn finite_or_null(value: Expr) -> Expr {
    elementwise(value, Type::Double, |c| {
        let values = c.f64()?.iter().map(|v| v.filter(|v| v.is_finite()));
        Ok(Series::new(c.name().clone(), values.collect::<Vec<_>>()))
    })
}

fn cast(value: Expr, from: Type, to: Type, scale: Scale) -> Expr {
    let units = scale.units();
    match (from, to) {
        (Type::Integer, Type::Money) => {
            let limit = 10_u64.pow(18) / units.unsigned_abs();
            elementwise(value, to, move |c| {
                map_i64(c, |v| (v.unsigned_abs() < limit).then(|| v * units))
            })
        }
        (Type::Double, Type::Money) => {
            elementwise(value, to, move |c| f64_to_i64(c, |v| scale.minor(v)))
        }
        (Type::Money, Type::Double) => quotient(value, lit(units as f64)),
        // The integer division of Polars rounds down, but this cast truncates toward zero.
        (Type::Money, Type::Integer) => {
            elementwise(value, to, move |c| map_i64(c, |v| Some(v / units)))
        }
        (Type::Double, Type::Integer) => {
            elementwise(value, to, |c| f64_to_i64(c, |v| (v.abs() < 9.2e18).then_some(v as i64)))
        }
        (Type::Money, Type::Text) => {
            elementwise(value, to, move |c| i64_to_text(c, |v| scale.format(v)))
        }
        (Type::Timestamp, Type::Text) => elementwise(value.cast(DataType::Int64), to, |c| {
            i64_to_text(c, |v| crate::time::Instant(v).to_string())
        }),
        (Type::Date, Type::Text) => {
            let days = value.cast(DataType::Int32).cast(DataType::Int64);
            elementwise(days, to, |c| i64_to_text(c, |v| date_to_text(v as i32)))
        }
        (Type::Double, Type::Text) => elementwise(value, to, |c| {
            let texts = c.f64()?.iter().map(|v| v.map(double_to_text));
            Ok(Series::new(c.name().clone(), texts.collect::<Vec<_>>()))
        }),
        (Type::Boolean, Type::Text) => when(value).then(lit("true")).otherwise(lit("false")),
        (Type::Text, Type::Integer) => elementwise(value, to, |c| text_to_i64(c, text_to_integer)),
        (Type::Text, Type::Money) => {
            elementwise(value, to, move |c| text_to_i64(c, |v| text_to_money(v, scale)))
        }
        (Type::Text, Type::Timestamp) => {
            elementwise(value, Type::Integer, |c| text_to_i64(c, text_to_timestamp))
                .cast(data_type(to))
        }
        (Type::Text, Type::Date) => elementwise(value, Type::Integer, |c| {
            text_to_i64(c, |v| text_to_date(v).map(i64::from))
        })
        .cast(DataType::Int32)
        .cast(DataType::Date),
        (Type::Text, Type::Double) => elementwise(value, to, |c| {
            let values = c.str()?.iter().map(|v| v.and_then(text_to_double));
            Ok(Series::new(c.name().clone(), values.collect::<Vec<_>>()))
        }),
        (Type::Text, Type::Boolean) => elementwise(value, to, |c| {
            let values = c.str()?.iter().map(|v| v.and_then(text_to_boolean));
            Ok(Series::new(c.name().clone(), values.collect::<Vec<_>>()))
        }),
        _ => value.cast(data_type(to)),
    }
}

fn elementwise(
    value: Expr,
    to: Type,
    function: impl Fn(&Column) -> PolarsResult<Series> + Send + Sync + 'static,
) -> Expr {
    value.map(
        move |column| Ok(function(&column)?.into()),
        move |_, field| Ok(Field::new(field.name().clone(), data_type(to))),
    )
}

fn map_i64(column: &Column, f: impl Fn(i64) -> Option<i64>) -> PolarsResult<Series> {
    let values = column.i64()?.iter().map(|v| v.and_then(&f));
    Ok(Series::new(column.name().clone(), values.collect::<Vec<_>>()))
}

fn f64_to_i64(column: &Column, f: impl Fn(f64) -> Option<i64>) -> PolarsResult<Series> {
    let values = column.f64()?.iter().map(|v| v.and_then(&f));
    Ok(Series::new(column.name().clone(), values.collect::<Vec<_>>()))
}

fn i64_to_text(column: &Column, f: impl Fn(i64) -> String) -> PolarsResult<Series> {
    let values = column.i64()?.iter().map(|v| v.map(&f));
    Ok(Series::new(column.name().clone(), values.collect::<Vec<_>>()))
}

fn text_to_i64(column: &Column, f: impl Fn(&str) -> Option<i64>) -> PolarsResult<Series> {
    let values = column.str()?.iter().map(|v| v.and_then(&f));
    Ok(Series::new(column.name().clone(), values.collect::<Vec<_>>()))
}

fn call(function: Function, mut values: Vec<Expr>, arguments: &[Expression]) -> Expr {
    use Function as F;
    let first = values[0].clone();
    let second = values.get(1).cloned();
    let or_null = |value: Option<Expr>| value.unwrap_or_else(|| lit(NULL));
    match function {
        F::Abs => first.abs(),
        F::Round => {
            let unit = match arguments.get(1).map(|x| &x.node) {
                Some(Node::Literal(Value::Integer(places))) => 10_f64.powi(*places as i32),
                _ => 1.0,
            };
            quotient((first * lit(unit)).round(0, RoundMode::HalfAwayFromZero), lit(unit))
        }
        F::Floor => first.floor(),
        F::Ceil => first.ceil(),
        F::Sqrt => first.sqrt(),
        F::Ln => elementwise_double(first, f64::ln),
        F::Log1p => elementwise_double(first, f64::ln_1p),
        F::Exp => elementwise_double(first, f64::exp),
        F::Power => first.pow(or_null(second)),
        F::Least | F::Greatest => {
            let least = function == F::Least;
            let ty = arguments[0].ty;
            let least_or_greatest = move |a: &Column, b: &Column| {
                let (a, b) = (a.as_materialized_series(), b.as_materialized_series());
                let kept = if least { a.lt_eq(b)? } else { a.gt_eq(b)? };
                let kept = &kept.fill_null_with_values(false)? | &b.is_null();
                a.zip_with(&kept, b)
            };
            values
                .into_iter()
                .reduce(|a, b| pairwise(a, b, ty, least_or_greatest))
                .unwrap_or_else(|| lit(NULL))
        }
        F::Coalesce => polars::prelude::coalesce(&values),
        F::Nullif => pairwise(first, or_null(second), arguments[0].ty, |a, b| {
            let (a, b) = (a.as_materialized_series(), b.as_materialized_series());
            let same = a.equal(b)?.fill_null_with_values(false)?;
            let nulls = Series::full_null(a.name().clone(), 1, a.dtype());
            nulls.zip_with(&same, a)
        }),
        F::Lower => first.str().to_lowercase(),
        F::Upper => first.str().to_uppercase(),
        F::Trim => first.str().strip_chars(lit(" ")),
        F::Length => first.str().len_chars().cast(DataType::Int64),
        F::Concat => polars::prelude::concat_str(&values, "", false),
        F::Substring => {
            let length = if values.len() == 3 { values.remove(2) } else { lit(i64::MAX) };
            first.str().slice(or_null(second) - lit(1_i64), length.cast(DataType::UInt64))
        }
        F::StartsWith => first.str().starts_with(or_null(second)),
        F::EndsWith => first.str().ends_with(or_null(second)),
        F::Contains => first.str().contains_literal(or_null(second)),
        F::DaysBetween => {
            let micros = or_null(second).cast(DataType::Int64) - first.cast(DataType::Int64);
            quotient(micros, lit(crate::time::DAY as f64))
        }
        F::AddMicroseconds => {
            let Some(Node::Literal(Value::Integer(micros))) = arguments.get(1).map(|x| &x.node)
            else {
                unreachable!("the check allows only a literal")
            };
            let micros = *micros;
            let sum = move |c: &Column| map_i64(c, |v| v.checked_add(micros));
            let ty = data_type(Type::Timestamp);
            elementwise(first.cast(DataType::Int64), Type::Integer, sum).cast(ty)
        }
        F::ToTimestamp => {
            let Some(Node::Literal(Value::Text(how))) = arguments.get(1).map(|x| &x.node) else {
                unreachable!("the check allows only a literal")
            };
            to_timestamp(first, arguments[0].ty, how.clone())
        }
        F::Year => first.dt().year().cast(DataType::Int64),
        F::Month => first.dt().month().cast(DataType::Int64),
        F::Day => first.dt().day().cast(DataType::Int64),
        F::DayOfWeek => first.dt().weekday().cast(DataType::Int64),
        F::Hour => first.dt().hour().cast(DataType::Int64),
    }
}

/// Converts numbers since 1970 in the unit `how`, or texts in the format `how`, to timestamps.
fn to_timestamp(value: Expr, from: Type, how: String) -> Expr {
    let micros = unit_to_micros(&how).unwrap_or(1);
    let instants = match from {
        Type::Integer => {
            elementwise(value, Type::Integer, move |c| map_i64(c, |v| v.checked_mul(micros)))
        }
        Type::Double => elementwise(value, Type::Integer, move |c| {
            let instants = c.f64()?.iter().map(|v| v.and_then(|v| double_to_timestamp(v, micros)));
            Ok(Series::new(c.name().clone(), instants.collect::<Vec<_>>()))
        }),
        _ => elementwise(value, Type::Integer, move |c| {
            text_to_i64(c, |v| text_to_timestamp_by(v, &how))
        }),
    };
    instants.cast(data_type(Type::Timestamp))
}

/// Applies a function of the standard library to every value.
///
/// The vectorized logarithms of Polars may differ in the last bit between CPUs.
fn elementwise_double(value: Expr, f: fn(f64) -> f64) -> Expr {
    elementwise(value, Type::Double, move |c| {
        let values = c.f64()?.iter().map(|v| v.map(f));
        Ok(Series::new(c.name().clone(), values.collect::<Vec<_>>()))
    })
}

/// Evaluates named expressions over the columns of a record batch.
///
/// The result is one Arrow array per expression, of the type that [`arrow_type`] returns. An expression may
/// use the names of earlier ones.
pub fn evaluate(
    expressions: &[(String, Expression)],
    batch: &RecordBatch,
    scale: Scale,
) -> Result<Vec<ArrayRef>> {
    let made = |name: &str| expressions.iter().any(|(made, _)| made == name);
    let needed: std::collections::BTreeSet<&str> =
        expressions.iter().flat_map(|(_, x)| x.columns()).filter(|name| !made(name)).collect();
    let mut columns = Vec::new();
    for name in needed {
        let array = batch.column_by_name(name).ok_or_else(|| {
            Error::engine("evaluating expressions")(format!("the batch has no column {name}"))
        })?;
        columns.push(to_polars(name, array)?.into());
    }
    // This column gives the frame its height, so that an expression over constants has one value per row of
    // the batch.
    columns.push(Series::new("\u{0}row".into(), vec![0_u32; batch.num_rows()]).into());
    let context = "evaluating expressions";
    let mut frame =
        DataFrame::new(batch.num_rows(), columns).map_err(Error::engine(context))?.lazy();
    // Consecutive expressions that do not use each other are evaluated in one step, because every step costs
    // Polars planning time.
    let mut rest = expressions;
    while !rest.is_empty() {
        let uses = |i: usize| {
            let (name, expression) = &rest[i];
            let columns = expression.columns();
            rest[..i].iter().any(|(made, _)| made == name || columns.contains(made.as_str()))
        };
        let (step, later) = rest.split_at((1..rest.len()).find(|i| uses(*i)).unwrap_or(rest.len()));
        let lowered = step.iter().map(|(name, x)| lower(x, scale).alias(name.as_str()));
        frame = frame.with_columns(lowered.collect::<Vec<_>>());
        rest = later;
    }
    let wanted: Vec<Expr> = expressions.iter().map(|(name, _)| col(name.as_str())).collect();
    let result = frame.select(wanted).collect().map_err(Error::engine(context))?;
    let arrays = expressions.iter().zip(result.columns());
    arrays
        .map(|((_, x), column)| from_polars(column.as_materialized_series(), x.ty, scale))
        .collect()
}

/// The Arrow type of the array that holds values of type `ty`.
pub fn arrow_type(ty: Type, scale: Scale) -> ArrowType {
    match ty {
        Type::Boolean => ArrowType::Boolean,
        Type::Integer => ArrowType::Int64,
        Type::Double => ArrowType::Float64,
        Type::Money => ArrowType::Decimal128(Scale::PRECISION, scale.places() as i8),
        Type::Text => ArrowType::Utf8,
        Type::Timestamp => {
            ArrowType::Timestamp(arrow_schema::TimeUnit::Microsecond, Some("UTC".into()))
        }
        Type::Date => ArrowType::Date32,
    }
}

/// The expression type of an Arrow column, or None if expressions cannot use it.
pub fn type_of(arrow: &ArrowType) -> Option<Type> {
    Some(match arrow {
        ArrowType::Boolean => Type::Boolean,
        ArrowType::Int8 | ArrowType::Int16 | ArrowType::Int32 | ArrowType::Int64 => Type::Integer,
        ArrowType::Float64 | ArrowType::Float32 => Type::Double,
        ArrowType::Decimal128(..) => Type::Money,
        ArrowType::Utf8 => Type::Text,
        ArrowType::Timestamp(..) => Type::Timestamp,
        ArrowType::Date32 => Type::Date,
        _ => return None,
    })
}

/// The columns of an Arrow schema that expressions can use.
pub fn columns_of(schema: &arrow_schema::Schema, scale: Scale) -> Columns {
    let types = schema
        .fields()
        .iter()
        .filter_map(|field| type_of(field.data_type()).map(|ty| (field.name().clone(), ty)));
    Columns::new(scale, types)
}

fn to_polars(name: &str, array: &ArrayRef) -> Result<Series> {
    let name = PlSmallStr::from_str(name);
    let unsupported = || {
        Error::engine("evaluating expressions")(format!(
            "the column {name} has type {}",
            array.data_type()
        ))
    };
    let ty = type_of(array.data_type()).ok_or_else(unsupported)?;
    let array = match (ty, array.data_type()) {
        (Type::Integer, ArrowType::Int64) | (Type::Double, ArrowType::Float64) => array.clone(),
        (Type::Integer, _) => arrow_cast::cast(array, &ArrowType::Int64)
            .map_err(Error::engine("converting a column"))?,
        (Type::Double, _) => arrow_cast::cast(array, &ArrowType::Float64)
            .map_err(Error::engine("converting a column"))?,
        _ => array.clone(),
    };
    if array.null_count() == 0 {
        match ty {
            Type::Integer => {
                let values = array.as_primitive::<arrow_types::Int64Type>().values();
                return Ok(Series::new(name, values.as_ref()));
            }
            Type::Double => {
                let values = array.as_primitive::<arrow_types::Float64Type>().values();
                return Ok(Series::new(name, values.as_ref()));
            }
            Type::Money => {
                let values = array.as_primitive::<arrow_types::Decimal128Type>().values();
                let minor: Vec<i64> = values.iter().map(|value| *value as i64).collect();
                return Ok(Series::new(name, minor));
            }
            _ => {}
        }
    }
    Ok(match ty {
        Type::Boolean => Series::new(name, array.as_boolean().iter().collect::<Vec<_>>()),
        Type::Integer => Series::new(
            name,
            array.as_primitive::<arrow_types::Int64Type>().iter().collect::<Vec<_>>(),
        ),
        Type::Double => Series::new(
            name,
            array.as_primitive::<arrow_types::Float64Type>().iter().collect::<Vec<_>>(),
        ),
        Type::Money => {
            let values = array.as_primitive::<arrow_types::Decimal128Type>().iter();
            Series::new(name, values.map(|v| v.map(|v| v as i64)).collect::<Vec<_>>())
        }
        Type::Text => Series::new(name, array.as_string::<i32>().iter().collect::<Vec<_>>()),
        Type::Timestamp => {
            let values = array.as_primitive::<arrow_types::TimestampMicrosecondType>().iter();
            Series::new(name, values.collect::<Vec<_>>())
                .cast(&data_type(ty))
                .map_err(Error::engine("converting a column"))?
        }
        Type::Date => {
            let values = array.as_primitive::<arrow_types::Date32Type>().iter();
            Series::new(name, values.collect::<Vec<_>>())
                .cast(&DataType::Date)
                .map_err(Error::engine("converting a column"))?
        }
    })
}

/// Converts a Polars column of type `ty` to an Arrow array of the type that [`arrow_type`] returns.
pub fn from_polars(series: &Series, ty: Type, scale: Scale) -> Result<ArrayRef> {
    let physical = match ty {
        Type::Timestamp => series.cast(&DataType::Int64),
        Type::Date => series.cast(&DataType::Int32),
        _ => series.cast(&data_type(ty)),
    };
    let series = physical.map_err(Error::engine("reading a Polars column"))?;
    let context = "reading a Polars column";
    let integers = |series: &Series| -> Result<arrow_array::Int64Array> {
        let values = series.i64().map_err(Error::engine(context))?;
        Ok(match values.cont_slice() {
            Ok(values) => values.to_vec().into(),
            Err(_) => values.iter().collect(),
        })
    };
    Ok(match ty {
        Type::Boolean => {
            let values = series.bool().map_err(Error::engine(context))?;
            Arc::new(match values.null_count() {
                0 => {
                    let values = values.iter().map(|value| value == Some(true));
                    arrow_array::BooleanArray::from(arrow_buffer::BooleanBuffer::from_iter(values))
                }
                _ => values.iter().collect(),
            })
        }
        Type::Integer => Arc::new(integers(&series)?),
        Type::Double => {
            let values = series.f64().map_err(Error::engine(context))?;
            Arc::new(match values.cont_slice() {
                Ok(values) => arrow_array::Float64Array::from(values.to_vec()),
                Err(_) => values.iter().collect(),
            })
        }
        Type::Money => {
            let values = integers(&series)?;
            let decimals: arrow_array::Decimal128Array =
                values.iter().map(|v| v.map(i128::from)).collect();
            let places = scale.places() as i8;
            Arc::new(
                decimals
                    .with_precision_and_scale(Scale::PRECISION, places)
                    .map_err(Error::engine(context))?,
            )
        }
        Type::Text => {
            let values = series.str().map_err(Error::engine(context))?;
            Arc::new(values.iter().collect::<arrow_array::StringArray>())
        }
        Type::Timestamp => {
            let values: arrow_array::TimestampMicrosecondArray =
                integers(&series)?.iter().collect();
            Arc::new(values.with_timezone("UTC"))
        }
        Type::Date => {
            let values = series.i32().map_err(Error::engine(context))?;
            Arc::new(values.iter().collect::<arrow_array::Date32Array>())
        }
    })
}

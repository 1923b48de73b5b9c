//! Tests of the semantics of expressions: each row of the tables in docs/expressions.md by Polars and by the
//! naive reference, and then random expressions by both.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::*;
use c360_ml::expression::check::check;
use c360_ml::expression::{Columns, Type, Value, polars, reference};
use c360_ml::money::Scale;
use rand::Rng;
use rand::seq::IndexedRandom;

use crate::support::{instant, random};

/// One row with a value of each type, and nulls.
fn columns() -> (Columns, RecordBatch) {
    let utc = |v: Option<i64>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(vec![v]).with_timezone("UTC"))
    };
    let money = |v: Option<i128>| -> ArrayRef {
        Arc::new(Decimal128Array::from(vec![v]).with_precision_and_scale(18, 2).unwrap())
    };
    let named: Vec<(&str, ArrayRef)> = vec![
        ("i", Arc::new(Int64Array::from(vec![7]))),
        ("big", Arc::new(Int64Array::from(vec![4_000_000_000_000_000_000]))),
        ("d", Arc::new(Float64Array::from(vec![2.5]))),
        ("m", money(Some(1050))),
        ("t", Arc::new(StringArray::from(vec!["Hello World"]))),
        ("b", Arc::new(BooleanArray::from(vec![true]))),
        ("ts", utc(Some(instant("2024-07-01T12:30:00Z").0))),
        ("day", Arc::new(Date32Array::from(vec![19_905]))),
        ("ni", Arc::new(Int64Array::from(vec![None]))),
        ("nd", Arc::new(Float64Array::from(vec![None]))),
        ("nm", money(None)),
        ("nt", Arc::new(StringArray::from(vec![None::<&str>]))),
        ("nb", Arc::new(BooleanArray::from(vec![None]))),
        ("nts", utc(None)),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(
        named.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap();
    (polars::columns_of(&batch.schema(), Scale::default()), batch)
}

fn value(array: &ArrayRef, ty: Type) -> Value {
    if array.is_null(0) {
        return Value::Null;
    }
    match ty {
        Type::Boolean => Value::Boolean(array.as_boolean().value(0)),
        Type::Integer => Value::Integer(array.as_primitive::<Int64Type>().value(0)),
        Type::Double => Value::Double(array.as_primitive::<Float64Type>().value(0)),
        Type::Money => Value::Money(array.as_primitive::<Decimal128Type>().value(0) as i64),
        Type::Text => Value::Text(array.as_string::<i32>().value(0).to_owned()),
        Type::Timestamp => {
            Value::Timestamp(array.as_primitive::<TimestampMicrosecondType>().value(0))
        }
        Type::Date => Value::Date(array.as_primitive::<Date32Type>().value(0)),
    }
}

/// The value of an expression by both engines, as the text that the documentation uses.
fn both(sql: &str) -> (String, String) {
    let (columns, batch) = columns();
    let scale = Scale::default();
    let expression = check(sql, &columns, "test").unwrap_or_else(|error| panic!("{error}"));
    let named = [("x".to_owned(), expression.clone())];
    let arrays = polars::evaluate(&named, &batch, scale).unwrap();
    let lookup =
        |name: &str| value(batch.column_by_name(name).unwrap(), columns.get(name).unwrap());
    let show = |value: Value| match value {
        Value::Null => "null".to_owned(),
        Value::Boolean(v) => v.to_string(),
        Value::Integer(v) => v.to_string(),
        Value::Double(v) => format!("{v:?}"),
        Value::Money(v) => format!("{} money", scale.format(v)),
        Value::Text(v) => format!("'{v}'"),
        Value::Timestamp(v) => c360_ml::time::Instant(v).to_string(),
        Value::Date(v) => c360_ml::expression::convert::date_to_text(v),
    };
    let naive = reference::evaluate(&expression, scale, &lookup);
    (show(value(&arrays[0], expression.ty)), show(naive))
}

#[test]
fn the_semantics_table_holds_in_both_engines() {
    let document = include_str!("../../docs/expressions.md");
    let rows = document.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split(" | ").collect();
        let sql = cells.first()?.strip_prefix("| `")?.strip_suffix('`')?;
        let expected = cells.get(1)?.trim_end_matches(" |").trim_matches('`');
        Some((sql.replace("\\|", "|"), expected.to_owned()))
    });
    let mut count = 0;
    for (sql, expected) in rows {
        let (polars, reference) = both(&sql);
        assert_eq!(polars, expected, "Polars: {sql}");
        assert_eq!(reference, expected, "reference: {sql}");
        count += 1;
    }
    assert!(count >= 60, "only {count} rows were found in the table");
}

#[test]
fn what_is_outside_the_subset_is_refused_with_a_reason() {
    let (columns, _) = columns();
    let cases = [
        ("amuont > 1", "unknown column `amuont`"),
        ("nosuch(i)", "unknown function `nosuch`"),
        ("to_timestamp(i, 'hours')", "calls to_timestamp on a integer with `hours`"),
        ("to_timestamp(t, '%Q')", "calls to_timestamp on a varchar with `%Q`"),
        ("to_timestamp(i)", "calls to_timestamp with 1 arguments"),
        ("ts + interval '1 month'", "which has no fixed length"),
        ("interval '1 day'", "where a value is required"),
        ("ts > i", "combines a timestamp with a integer"),
        ("i + t", "does arithmetic on a integer and a varchar"),
        ("t > 3", "combines a varchar with a integer"),
        ("i and b", "uses a integer as a condition"),
        ("select 1", "is not an SQL expression"),
        ("i >", "is not an SQL expression"),
        ("(select 1)", "outside the SQL subset"),
        ("i in (1, null)", "has a null in its list"),
        ("sum(i) over ()", "unknown function `sum`"),
        ("ts + 1", "does arithmetic on a timestamp and a integer"),
        ("cast(ts as bigint)", "casts a timestamp to integer"),
        ("timestamp 'soon' < ts", "which is not a timestamp"),
        ("1; drop table x", "is not an SQL expression"),
    ];
    for (sql, message) in cases {
        let error = check(sql, &columns, "test").unwrap_err();
        assert!(error.to_string().contains(message), "{sql}: {error}");
        assert_eq!(error.exit_code(), 2, "{sql}");
    }
}

/// Creates random numeric and logical expressions as SQL.
fn random_sql(random: &mut impl Rng, depth: u32, boolean: bool) -> String {
    let leaf = depth == 0;
    if boolean {
        return match random.random_range(0..if leaf { 2 } else { 6 }) {
            0 => (*["b", "nb", "true", "false"].choose(random).unwrap()).to_owned(),
            1 => format!("{} is null", ["ni", "i", "nt", "d"].choose(random).unwrap()),
            2 => format!("not {}", random_sql(random, depth - 1, true)),
            3 => {
                let operator = ["and", "or"].choose(random).unwrap();
                let (a, b) =
                    (random_sql(random, depth - 1, true), random_sql(random, depth - 1, true));
                format!("({a} {operator} {b})")
            }
            _ => {
                let operator = ["<", "<=", "=", "<>", ">", ">="].choose(random).unwrap();
                let (a, b) =
                    (random_sql(random, depth - 1, false), random_sql(random, depth - 1, false));
                format!("({a} {operator} {b})")
            }
        };
    }
    match random.random_range(0..if leaf { 1 } else { 7 }) {
        0 => (*["i", "d", "m", "ni", "nd", "nm", "big", "3", "0", "-2", "0.25", "m"]
            .choose(random)
            .unwrap())
        .to_owned(),
        1 | 2 => {
            let operator = ["+", "-", "*", "/", "%"].choose(random).unwrap();
            let (a, b) =
                (random_sql(random, depth - 1, false), random_sql(random, depth - 1, false));
            format!("({a} {operator} {b})")
        }
        3 => {
            let function =
                ["abs", "round", "floor", "ceil", "sqrt", "ln", "log1p"].choose(random).unwrap();
            format!("{function}({})", random_sql(random, depth - 1, false))
        }
        4 => {
            let function = ["coalesce", "least", "greatest", "nullif"].choose(random).unwrap();
            let (a, b) =
                (random_sql(random, depth - 1, false), random_sql(random, depth - 1, false));
            format!("{function}({a}, {b})")
        }
        5 => format!("cast({} as double)", random_sql(random, depth - 1, false)),
        _ => {
            let condition = random_sql(random, depth - 1, true);
            let (a, b) =
                (random_sql(random, depth - 1, false), random_sql(random, depth - 1, false));
            format!("case when {condition} then {a} else {b} end")
        }
    }
}

/// A rule that a program has written may have thousands of conditions.
#[test]
fn thousands_of_conditions_are_joined() {
    for (operator, all, one_other) in [("and", "true", "false"), ("or", "false", "true")] {
        let condition = |is: bool| if is == (operator == "and") { "i = i" } else { "i <> i" };
        let mut conditions = vec![condition(true); 5000];
        let sql = conditions.join(&format!(" {operator} "));
        assert_eq!(both(&sql), (all.to_owned(), all.to_owned()), "{operator}");
        conditions[3210] = condition(false);
        let sql = conditions.join(&format!(" {operator} "));
        assert_eq!(both(&sql), (one_other.to_owned(), one_other.to_owned()), "{operator}");
    }
}

/// What is nested too deeply to be computed is refused, however long the text is.
#[test]
fn what_is_nested_too_deeply_is_refused() {
    let (columns, _) = columns();
    let sum = |count: usize| vec!["i"; count].join(" + ");
    let (polars, reference) = both(&sum(64));
    assert_eq!(polars, reference);
    for sql in [sum(65), sum(50_000), "-".repeat(10_000) + "i", "not ".repeat(300) + "i = 1"] {
        let error = check(&sql, &columns, "test").unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
    let error = check(&sum(65), &columns, "test").unwrap_err().to_string();
    assert!(error.ends_with("has more than 64 operations within each other"), "{error}");
}

#[test]
fn random_expressions_agree_in_both_engines() {
    let mut random = random();
    let (columns, _) = columns();
    let mut compared = 0;
    while compared < 400 {
        let boolean = random.random();
        let sql = random_sql(&mut random, 3, boolean);
        // The checker may refuse branches that mix money and doubles, which is not the subject of this test.
        if check(&sql, &columns, "test").is_err() {
            continue;
        }
        let (polars, reference) = both(&sql);
        let close = match (polars.parse::<f64>(), reference.parse::<f64>()) {
            (Ok(a), Ok(b)) => (a - b).abs() <= 1e-9 * a.abs().max(1.0),
            _ => polars == reference,
        };
        assert!(close, "{sql}: Polars says {polars}, the reference {reference}");
        compared += 1;
    }
}

/// A quotient does not depend on how many rows are evaluated at once. Polars multiplies by the reciprocal of a
/// constant, but divides in a batch of one row.
#[test]
fn a_quotient_does_not_depend_on_the_batch() {
    let seed: u64 = 11;
    let mut random = <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(seed);
    let x: Vec<f64> = (0..1000).map(|_| random.random_range(0.0..1000.0)).collect();
    let columns = Columns::new(Scale::default(), [("x".to_owned(), Type::Double)]);
    let quotient = check("x / 3", &columns, "test").unwrap();
    let of = |values: &[f64]| -> Vec<f64> {
        let column: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
        let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
        let named = [("quotient".to_owned(), quotient.clone())];
        let found = polars::evaluate(&named, &batch, Scale::default()).unwrap();
        found[0].as_primitive::<Float64Type>().values().to_vec()
    };
    let expected: Vec<f64> = x.iter().map(|x| x / 3.0).collect();
    assert_eq!(of(&x), expected);
    assert_eq!(x.iter().flat_map(|x| of(&[*x])).collect::<Vec<_>>(), expected);
}

/// Money in major units is the nearest double, whatever the batch.
#[test]
fn money_in_major_units_is_the_nearest_double() {
    let columns = Columns::new(Scale::default(), [("m".to_owned(), Type::Money)]);
    let named = [("d".to_owned(), check("cast(m as double)", &columns, "test").unwrap())];
    let cents: Vec<i128> = (0..10_000).collect();
    let of = |cents: &[i128]| -> Vec<f64> {
        let money = Decimal128Array::from(cents.to_vec()).with_precision_and_scale(18, 2).unwrap();
        let batch = RecordBatch::try_from_iter([("m", Arc::new(money) as ArrayRef)]).unwrap();
        let found = polars::evaluate(&named, &batch, Scale::default()).unwrap();
        found[0].as_primitive::<Float64Type>().values().to_vec()
    };
    let expected: Vec<f64> = cents.iter().map(|cents| *cents as f64 / 100.0).collect();
    assert_eq!(of(&cents), expected);
    assert_eq!(of(&cents[35..36]), [0.35]);
}

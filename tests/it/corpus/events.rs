//! Bad events: their columns and their values.

use super::*;

/// The columns of the events: gone, of another type, twice.
pub fn columns() -> Vec<Case> {
    let mut cases = Vec::new();
    for column in ["event_id", "customer360_id", "event_type", "event_ts"] {
        let missing = format!("the column {column} is missing");
        cases.push(case(&missing, 3, &[EVENTS, &missing], without(EVENTS_FILE, column)));
        let binary = format!("the column {column} has type Binary, which is not read");
        cases.push(case(
            &binary,
            3,
            &[EVENTS, &binary],
            other_type(EVENTS_FILE, column, || Arc::new(BinaryArray::from_iter_values([b"x"]))),
        ));
        let said = format!("the column {column} has type boolean, not");
        cases.push(case(
            &said,
            3,
            &[&said],
            other_type(EVENTS_FILE, column, || Arc::new(BooleanArray::from(vec![true]))),
        ));
        let null = format!("{column} is null: 1");
        cases.push(case(
            &null,
            3,
            &[&null, EVENTS],
            first_value(column, move || match column {
                "event_ts" => {
                    Arc::new(TimestampMicrosecondArray::from(vec![None]).with_timezone("UTC"))
                }
                _ => Arc::new(StringArray::from(vec![None::<&str>])),
            }),
        ));
    }
    for column in ["ingested_at", "currency", "amount", "quantity"] {
        let list = format!("the column {column} has type List");
        cases.push(case(
            &list,
            3,
            &[&list, "which is not read"],
            other_type(EVENTS_FILE, column, || {
                let mut lists = arrow_array::builder::ListBuilder::new(
                    arrow_array::builder::Int32Builder::new(),
                );
                lists.append(true);
                Arc::new(lists.finish())
            }),
        ));
    }
    cases.extend([
        case(
            "text for a time",
            3,
            &["the column event_ts has type varchar, not timestamp", "cast("],
            other_type(EVENTS_FILE, "event_ts", text("2024-01-01")),
        ),
        case(
            "seconds for a time",
            3,
            &["has type integer, not timestamp", "to_timestamp(…, 's')"],
            other_type(EVENTS_FILE, "event_ts", || Arc::new(Int64Array::from(vec![1_700_000_000]))),
        ),
        case(
            "doubles for a time",
            3,
            &["has type double, not timestamp"],
            other_type(EVENTS_FILE, "event_ts", double(1.7e9)),
        ),
        case(
            "a time of day for a time",
            3,
            &["which is not read"],
            other_type(EVENTS_FILE, "event_ts", || Arc::new(Time64MicrosecondArray::from(vec![1]))),
        ),
        case("days for a time", 0, &[], converted(EVENTS_FILE, "event_ts", DataType::Date32)),
        case("nanoseconds for a time", 0, &[], |project| {
            rewrite(project, EVENTS_FILE, |rows| {
                let nanos =
                    DataType::Timestamp(arrow_schema::TimeUnit::Nanosecond, Some("UTC".into()));
                let array =
                    arrow_cast::cast(rows.column_by_name("event_ts").unwrap(), &nanos).unwrap();
                with_column(&rows, "event_ts", array)
            });
        }),
        case(
            "text for an amount",
            3,
            &["amount has type varchar, not money"],
            other_type(EVENTS_FILE, "amount", text("9,99")),
        ),
        case(
            "truth for an amount",
            3,
            &["amount has type boolean, not money"],
            other_type(EVENTS_FILE, "amount", || Arc::new(BooleanArray::from(vec![true]))),
        ),
        case(
            "a day for a currency",
            3,
            &["currency has type date, not varchar"],
            other_type(EVENTS_FILE, "currency", || Arc::new(Date32Array::from(vec![1]))),
        ),
        case(
            "whole numbers for keys",
            0,
            &["events of unknown customers"],
            other_type(EVENTS_FILE, "customer360_id", || Arc::new(Int64Array::from(vec![7]))),
        )
        .of(VALIDATE),
        case("two columns of one name", 3, &["two columns are called amount", EVENTS], |project| {
            rewrite(project, EVENTS_FILE, |rows| {
                let mut fields: Vec<Field> =
                    rows.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
                fields.push(Field::new("amount", DataType::Float64, true));
                let more: ArrayRef = Arc::new(Float64Array::from(vec![1.0; rows.num_rows()]));
                let arrays = rows.columns().iter().cloned().chain([more]).collect();
                RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
            });
        }),
        case(
            "a column in capitals",
            3,
            &["the column event_ts is missing", "EVENT_TS"],
            |project| {
                rewrite(project, EVENTS_FILE, |rows| {
                    let array = rows.column_by_name("event_ts").unwrap().clone();
                    with_column(&without_column(&rows, "event_ts"), "EVENT_TS", array)
                });
            },
        ),
        case(
            "one time with a zone and one without",
            3,
            &["has a time zone but", EVENTS],
            |project| {
                rewrite(project, EVENTS_FILE, |rows| {
                    let naive: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![
                            1_700_000_000_000_000;
                            rows.num_rows()
                        ]));
                    with_column(&rows, "ingested_at", naive)
                });
            },
        ),
    ]);
    for zone in ["+05:30", "America/New_York", "nonsense"] {
        cases.push(case(&format!("times in the zone {zone}"), 0, &[], move |project| {
            rewrite(project, EVENTS_FILE, |rows| {
                let micros = arrow_array::types::TimestampMicrosecondType::DATA_TYPE;
                let array =
                    arrow_cast::cast(rows.column_by_name("event_ts").unwrap(), &micros).unwrap();
                let array =
                    array.as_primitive::<arrow_array::types::TimestampMicrosecondType>().clone();
                with_column(&rows, "event_ts", Arc::new(array.with_timezone(zone)))
            });
        }));
    }
    for ty in [
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
    ] {
        let name = format!("keys of the type {ty}");
        cases.push(case(&name, 0, &[], converted(EVENTS_FILE, "customer360_id", ty)));
    }
    cases
}

/// The values of the events.
pub fn values() -> Vec<Case> {
    let digits = "a number has too many digits: 1";
    let impossible = "event_ts is before 1900 or after 2199: 1";
    let finite = "a number is not finite: 1";
    let utc = |micros: i64| {
        move || -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from(vec![micros]).with_timezone("UTC"))
        }
    };
    vec![
        case(
            "a blank key",
            3,
            &["customer360_id is blank: 1", EVENTS],
            first_value("customer360_id", text("")),
        ),
        case(
            "a key of blanks",
            3,
            &["customer360_id is blank: 1"],
            first_value("customer360_id", text(" \t\u{a0}")),
        ),
        case("a blank identifier", 3, &["event_id is blank: 1"], first_value("event_id", text(""))),
        case("a blank type", 3, &["event_type is blank: 1"], first_value("event_type", text("  "))),
        case("the year 1", 3, &[impossible], first_value("event_ts", time("0001-01-01T00:00:00Z"))),
        case(
            "the year 1677",
            3,
            &[impossible],
            first_value("event_ts", time("1677-09-21T00:12:44Z")),
        ),
        case(
            "the year 1899",
            3,
            &[impossible],
            first_value("event_ts", time("1899-12-31T23:59:59Z")),
        ),
        case("the year 1900", 0, &[], first_value("event_ts", time("1900-01-01T00:00:00Z"))),
        case("the year 2199", 0, &[], first_value("event_ts", time("2199-12-31T23:59:59Z"))),
        case(
            "the year 2262",
            3,
            &[impossible],
            first_value("event_ts", time("2262-04-11T23:47:16Z")),
        ),
        case(
            "the year 9999",
            3,
            &[impossible],
            first_value("event_ts", time("9999-12-31T00:00:00Z")),
        ),
        case("the first instant of all", 3, &[impossible], first_value("event_ts", utc(i64::MIN))),
        case("the last instant of all", 3, &[impossible], first_value("event_ts", utc(i64::MAX))),
        case(
            "milliseconds taken for microseconds",
            0,
            &[],
            first_value("event_ts", utc(1_700_000_000_000)),
        ),
        case("a leap second", 0, &[], first_value("event_ts", time("2016-12-31T23:59:59Z"))),
        case("NaN", 3, &[finite, EVENTS], first_value("amount", double(f64::NAN))),
        case("infinity", 3, &[finite], first_value("amount", double(f64::INFINITY))),
        case(
            "infinity below zero",
            3,
            &["numbers that are not finite", "violation"],
            first_value("quantity", double(f64::NEG_INFINITY)),
        )
        .of(VALIDATE),
        case("an amount of 1e18", 3, &[digits, EVENTS], first_value("amount", double(1e18))),
        case("an amount of 9.2e16", 3, &[digits], first_value("amount", double(9.2e16))),
        case("an amount of 1e300", 3, &[digits], first_value("amount", double(1e300))),
        case("an amount below zero", 0, &[], first_value("amount", double(-5.0))),
        case("an amount of minus zero", 0, &[], first_value("amount", double(-0.0))),
        case("the least double", 0, &[], first_value("amount", double(5e-324))),
        case(
            "a decimal of 38 digits",
            3,
            &[digits],
            first_value("amount", decimal(10_i128.pow(37), 38, 2)),
        ),
        case(
            "a decimal of 10 places",
            0,
            &[],
            first_value("amount", decimal(12_345_678_901, 38, 10)),
        ),
        case(
            "a whole number without a sign that is too great",
            3,
            &["numbers with too many digits", "violation"],
            other_type(EVENTS_FILE, "quantity", || Arc::new(UInt64Array::from(vec![u64::MAX]))),
        )
        .of(VALIDATE),
        case(
            "amounts whose sum is too great",
            3,
            &["the sum ", "too large to hold"],
            other_type(EVENTS_FILE, "amount", decimal(999_999_999_999_999_999, 18, 2)),
        ),
        case(
            "doubles whose sum is too great",
            3,
            &["the sum ", "too large to hold"],
            other_type(EVENTS_FILE, "amount", double(9e15)),
        ),
        case(
            "another currency",
            3,
            &["the currency is another: 1"],
            first_value("currency", text("USD")),
        ),
        case(
            "a currency in small letters",
            3,
            &["the currency is another: 1"],
            first_value("currency", text("eur")),
        ),
        case(
            "an unknown event type",
            0,
            &["unknown event types", "purchse"],
            first_value("event_type", text("purchse")),
        )
        .of(VALIDATE),
        case(
            "a customer that the profile does not have",
            0,
            &["events of unknown customers"],
            first_value("customer360_id", text("nobody")),
        )
        .of(VALIDATE),
        case("an event twice", 0, &["duplicate events"], |project| {
            rewrite(project, EVENTS_FILE, |rows| {
                c360_ml::store::parquet::concat(&[rows.clone(), rows.slice(5, 3)]).unwrap().unwrap()
            });
        })
        .of(VALIDATE),
        case(
            "a text of a million letters",
            0,
            &[],
            first_value("channel", || Arc::new(StringArray::from(vec!["x".repeat(1 << 20)]))),
        ),
        case("a key with a zero byte", 0, &[], first_value("customer360_id", text("a\0b"))),
        case("a key with a line end", 0, &[], first_value("customer360_id", text("a\nb"))),
        case("a key in another script", 0, &[], first_value("customer360_id", text("客户-٣"))),
        case("text that is not UTF-8", 3, &[EVENTS], |project| {
            let path = project.join(EVENTS_FILE);
            let rows = c360_ml::store::parquet::concat(
                &c360_ml::store::parquet::read(&path, None).unwrap(),
            )
            .unwrap()
            .unwrap();
            let marked = with_column(
                &rows,
                "channel",
                Arc::new(StringArray::from(vec!["QQQQQQQQ"; rows.num_rows()])),
            );
            write_plain(&path, &marked);
            let mut bytes = std::fs::read(&path).unwrap();
            let places: Vec<usize> = bytes
                .windows(8)
                .enumerate()
                .filter(|(_, w)| *w == b"QQQQQQQQ")
                .map(|(i, _)| i)
                .collect();
            assert!(!places.is_empty());
            for place in places {
                bytes[place..place + 8].fill(0xff);
            }
            std::fs::write(path, bytes).unwrap();
        }),
    ]
}

//! A corpus of bad input: each case is made by code, and ends with its message and its exit code. Unless it is harmless,
//! nothing is published.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, Date32Array, Decimal128Array,
    Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, StringViewArray,
    Time64MicrosecondArray, TimestampMicrosecondArray, TimestampNanosecondArray, UInt64Array,
};
use arrow_schema::{DataType, Field, Schema};
use rayon::prelude::*;

use crate::cli::output;
use crate::support::{
    EVENTS_FILE, PROFILE_FILE, edit, instant, is_published, project, rewrite, with_column,
    without_column, write,
};

type Change = Box<dyn Fn(&Path) + Send + Sync>;

/// What is done to a good project, the command, and how it ends.
struct Case {
    name: String,
    change: Change,
    command: &'static [&'static str],
    code: i32,
    says: Vec<String>,
}

const BUILD: &[&str] = &["features", "build"];
const VALIDATE: &[&str] = &["validate"];
const EVENTS: &str = "part-000.parquet";

fn case(
    name: &str,
    code: i32,
    says: &[&str],
    change: impl Fn(&Path) + Send + Sync + 'static,
) -> Case {
    Case {
        name: name.to_owned(),
        change: Box::new(change),
        command: BUILD,
        code,
        says: says.iter().map(|said| (*said).to_owned()).collect(),
    }
}

impl Case {
    fn of(self, command: &'static [&'static str]) -> Self {
        Self { command, ..self }
    }

    /// The reason why the case does not end as it must; `None` if it does.
    fn fault(&self) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let project = project(folder.path());
        (self.change)(&project);
        let (stdout, stderr, code) = output(&project, self.command);
        let told = format!("{stdout}{stderr}");
        let missing: Vec<&String> = self.says.iter().filter(|said| !told.contains(*said)).collect();
        let no_hint = code != 0 && !told.contains("hint: ") && self.command != VALIDATE;
        let published = code != 0 && is_published(&project);
        if code == self.code && missing.is_empty() && !no_hint && !published {
            return None;
        }
        Some(format!(
            "{}: exit {code} where {} is expected; not said: {missing:?}; without hint: {no_hint}; published: {published}\n{told}",
            self.name, self.code
        ))
    }
}

/// The first value of a column of the events is another one.
fn first_value(
    column: &'static str,
    value: impl Fn() -> ArrayRef + Send + Sync + 'static,
) -> impl Fn(&Path) + Send + Sync {
    move |project| {
        rewrite(project, EVENTS_FILE, |rows| {
            let array = rows.column_by_name(column).unwrap();
            let one = value();
            let rest = arrow_cast::cast(&array.slice(1, array.len() - 1), one.data_type()).unwrap();
            with_column(&rows, column, arrow_select::concat::concat(&[&one, &rest]).unwrap())
        });
    }
}

/// A column of a file has another type, with one value in all rows.
fn other_type(
    file: &'static str,
    column: &'static str,
    value: impl Fn() -> ArrayRef + Send + Sync + 'static,
) -> impl Fn(&Path) + Send + Sync {
    move |project| {
        rewrite(project, file, |rows| {
            let zeros = arrow_array::UInt32Array::from(vec![0; rows.num_rows()]);
            with_column(&rows, column, arrow_select::take::take(&value(), &zeros, None).unwrap())
        });
    }
}

/// A column of a file is converted.
fn converted(
    file: &'static str,
    column: &'static str,
    ty: DataType,
) -> impl Fn(&Path) + Send + Sync {
    move |project| {
        rewrite(project, file, |rows| {
            let array = rows.column_by_name(column).unwrap();
            with_column(&rows, column, arrow_cast::cast(array, &ty).unwrap())
        });
    }
}

fn without(file: &'static str, column: &'static str) -> impl Fn(&Path) + Send + Sync {
    move |project| rewrite(project, file, |rows| without_column(&rows, column))
}

/// The bytes of a file are changed.
fn bytes(
    file: &'static str,
    change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static,
) -> impl Fn(&Path) + Send + Sync {
    move |project| {
        let path = project.join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    }
}

fn replaced(
    file: &'static str,
    from: &'static str,
    to: &'static str,
) -> impl Fn(&Path) + Send + Sync {
    move |project| edit(project, file, from, to)
}

fn text(value: &'static str) -> impl Fn() -> ArrayRef + Send + Sync {
    move || Arc::new(StringArray::from(vec![value]))
}

fn time(at: &'static str) -> impl Fn() -> ArrayRef + Send + Sync {
    move || Arc::new(TimestampMicrosecondArray::from(vec![instant(at).0]).with_timezone("UTC"))
}

fn double(value: f64) -> impl Fn() -> ArrayRef + Send + Sync {
    move || Arc::new(Float64Array::from(vec![value]))
}

fn decimal(value: i128, precision: u8, scale: i8) -> impl Fn() -> ArrayRef + Send + Sync {
    move || {
        let array = Decimal128Array::from(vec![value]);
        Arc::new(array.with_precision_and_scale(precision, scale).unwrap())
    }
}

/// The files themselves.
fn files() -> Vec<Case> {
    let readable = "is not a readable Parquet file";
    let of_length = |keep: fn(usize) -> usize| {
        bytes(EVENTS_FILE, move |bytes| bytes.truncate(keep(bytes.len())))
    };
    let renamed = |to: &'static str| {
        move |project: &Path| {
            let folder = project.join(to);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::rename(project.join(EVENTS_FILE), folder.join(EVENTS)).unwrap();
            edit(project, "c360.toml", "fixtures/events", to);
        }
    };
    let mut cases = vec![
        case("half a file", 3, &[EVENTS, readable], of_length(|length| length / 2)),
        case(
            "a file without its last byte",
            3,
            &[EVENTS, readable],
            of_length(|length| length - 1),
        ),
        case("a file of 8 bytes", 3, &[EVENTS, readable], of_length(|_| 8)),
        case("an empty file", 3, &[EVENTS, readable], of_length(|_| 0)),
        case(
            "another magic number",
            3,
            &[EVENTS, readable],
            bytes(EVENTS_FILE, |bytes| {
                let end = bytes.len() - 4;
                bytes[end..].copy_from_slice(b"PAR2");
            }),
        ),
        case(
            "a text file",
            3,
            &[EVENTS, readable],
            bytes(EVENTS_FILE, |bytes| *bytes = b"id,amount\n1,2\n".repeat(50)),
        ),
        case(
            "a footer of zeros",
            3,
            &[EVENTS, readable],
            bytes(EVENTS_FILE, |bytes| {
                let end = bytes.len() - 8;
                bytes[end - 200..end].fill(0);
            }),
        ),
        case(
            "a footer that is longer than the file",
            3,
            &[EVENTS, readable],
            bytes(EVENTS_FILE, |bytes| {
                let end = bytes.len() - 8;
                bytes[end..end + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            }),
        ),
        case(
            "zeros where pages are",
            3,
            &[EVENTS, readable],
            bytes(EVENTS_FILE, |bytes| {
                let end = bytes.len() / 2;
                bytes[4..end].fill(0);
            }),
        ),
        case(
            "half a profile",
            3,
            &[EVENTS, readable],
            bytes(PROFILE_FILE, |bytes| bytes.truncate(bytes.len() / 2)),
        ),
        case("events without rows", 3, &["there are no events"], |project| {
            rewrite(project, EVENTS_FILE, |rows| rows.slice(0, 0));
        })
        .of(VALIDATE),
        case("a profile without rows", 3, &["has no rows"], |project| {
            rewrite(project, PROFILE_FILE, |rows| rows.slice(0, 0));
        }),
        case("a file without columns", 3, &[EVENTS, "the column event_id is missing"], |project| {
            write(&project.join(EVENTS_FILE), &RecordBatch::new_empty(Arc::new(Schema::empty())));
        }),
        case("a folder without files", 3, &["no Parquet file in"], |project| {
            std::fs::remove_file(project.join(EVENTS_FILE)).unwrap();
        }),
        case("no folder", 2, &["there is no file or folder"], |project| {
            std::fs::remove_dir_all(project.join("fixtures/events")).unwrap();
        }),
        case("a folder that is called like a file", 3, &["hint"], |project| {
            std::fs::remove_file(project.join(EVENTS_FILE)).unwrap();
            std::fs::create_dir(project.join(EVENTS_FILE)).unwrap();
        }),
        case("a file beside that is no Parquet", 0, &[], |project| {
            std::fs::write(project.join("fixtures/events/_SUCCESS"), "").unwrap();
            std::fs::write(project.join("fixtures/events/.part.parquet.crc"), "crc").unwrap();
        }),
        case(
            "a glob without files",
            3,
            &["no Parquet file"],
            replaced("c360.toml", "fixtures/events", "fixtures/events/x*.parquet"),
        ),
        case(
            "a glob that is none",
            2,
            &["is not a glob"],
            replaced("c360.toml", "fixtures/events", "fixtures/events/[*.parquet"),
        ),
        case(
            "an unknown scheme",
            2,
            &["no address of a bucket"],
            replaced("c360.toml", "fixtures/events", "ftp://host/events"),
        ),
        case(
            "a path through the parent",
            0,
            &[],
            replaced("c360.toml", "fixtures/events", "fixtures/../fixtures/events"),
        ),
    ];
    cases.extend(
        ["with spaces", "ünïcödé/事件", "it's"].map(|folder| case(folder, 0, &[], renamed(folder))),
    );
    #[cfg(unix)]
    cases.extend([
        case("a link to the folder", 0, &[], |project| {
            std::os::unix::fs::symlink(project.join("fixtures/events"), project.join("link"))
                .unwrap();
            edit(project, "c360.toml", "fixtures/events", "link");
        }),
        case("a link to nothing", 2, &["there is no file or folder"], |project| {
            std::os::unix::fs::symlink(project.join("nowhere"), project.join("link")).unwrap();
            edit(project, "c360.toml", "fixtures/events", "link");
        }),
        case("a link to itself", 2, &["hint"], |project| {
            std::os::unix::fs::symlink(project.join("link"), project.join("link")).unwrap();
            edit(project, "c360.toml", "fixtures/events", "link");
        }),
    ]);
    cases
}

/// The columns of the events: gone, of another type, twice.
fn columns() -> Vec<Case> {
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
fn values() -> Vec<Case> {
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

/// Writes a file without compression.
fn write_plain(path: &Path, rows: &RecordBatch) {
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
}

/// The profile.
fn profile() -> Vec<Case> {
    let key = |value: Option<&'static str>| {
        move |project: &Path| {
            rewrite(project, PROFILE_FILE, |rows| {
                let keys = rows.column_by_name("customer360_id").unwrap().as_string::<i32>();
                let keys: StringArray = keys
                    .iter()
                    .enumerate()
                    .map(|(i, key)| if i == 9 { value } else { key })
                    .collect();
                with_column(&rows, "customer360_id", Arc::new(keys))
            });
        }
    };
    let births = |value: &'static str| other_type(PROFILE_FILE, "date_of_birth", text(value));
    let odd = "date_of_birth: not a date";
    let mut cases = vec![
        case(
            "a profile without keys",
            3,
            &["the column customer360_id is missing", "found: "],
            without(PROFILE_FILE, "customer360_id"),
        ),
        case(
            "a null key of the profile",
            3,
            &["column customer360_id: row 10 is null or blank", EVENTS],
            key(None),
        ),
        case(
            "a blank key of the profile",
            3,
            &["column customer360_id: row 10 is null or blank"],
            key(Some(" ")),
        ),
        case(
            "a customer twice",
            3,
            &["column customer360_id: c360_0000005 occurs more than once"],
            key(Some("c360_0000005")),
        ),
        case(
            "doubles as keys",
            3,
            &["column customer360_id has type", "not "],
            other_type(PROFILE_FILE, "customer360_id", double(1.5)),
        ),
        case(
            "text for created_at",
            3,
            &["column created_at has type utf8, not timestamp"],
            other_type(PROFILE_FILE, "created_at", text("yesterday")),
        ),
        case(
            "truth for a country",
            3,
            &["column country has type boolean, not utf8"],
            other_type(PROFILE_FILE, "country", || Arc::new(BooleanArray::from(vec![true]))),
        ),
        case(
            "text for points",
            3,
            &["column loyalty_points_balance has type utf8, not decimal"],
            other_type(PROFILE_FILE, "loyalty_points_balance", text("many")),
        ),
        case(
            "text for a list",
            3,
            &["column emails has type utf8, not"],
            other_type(PROFILE_FILE, "emails", text("a@b.c")),
        ),
        case(
            "a country in words",
            0,
            &["country: not ISO 3166-1 alpha-2"],
            other_type(PROFILE_FILE, "country", text("Germany")),
        )
        .of(VALIDATE),
        case(
            "an e-mail without an @",
            0,
            &["primary_email: without an @"],
            other_type(PROFILE_FILE, "primary_email", text("nobody")),
        )
        .of(VALIDATE),
        case(
            "an unknown consent",
            0,
            &["opt_in_status: not opted_in"],
            other_type(PROFILE_FILE, "opt_in_status", text("maybe")),
        )
        .of(VALIDATE),
        case("a year of birth", 0, &[], births("1962")).of(VALIDATE),
        case("a month of birth", 0, &[], births("1962-05")).of(VALIDATE),
        case("profile columns of one name", 3, &["two columns are called country"], |project| {
            rewrite(project, PROFILE_FILE, |rows| {
                let mut fields: Vec<Field> =
                    rows.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
                fields.push(Field::new("country", DataType::Utf8, true));
                let more: ArrayRef = Arc::new(StringArray::from(vec!["DE"; rows.num_rows()]));
                let arrays = rows.columns().iter().cloned().chain([more]).collect();
                RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
            });
        }),
        case("a deeply nested list", 0, &[], |project| {
            rewrite(project, PROFILE_FILE, |rows| {
                let mut array: ArrayRef = Arc::new(Int32Array::from(vec![1; rows.num_rows()]));
                for _ in 0..30 {
                    let field = Arc::new(Field::new("item", array.data_type().clone(), true));
                    let offsets =
                        arrow_buffer::OffsetBuffer::from_lengths(vec![1; rows.num_rows()]);
                    array = Arc::new(arrow_array::ListArray::new(field, offsets, array, None));
                }
                with_column(&rows, "nested", array)
            });
        }),
        case("views of text", 0, &[], |project| {
            rewrite(project, PROFILE_FILE, |rows| {
                let texts = rows.column_by_name("city").unwrap().as_string::<i32>().iter();
                with_column(&rows, "city", Arc::new(texts.collect::<StringViewArray>()))
            });
        }),
    ];
    for value in ["3000-01-01", "1962-13-45", "1999-02-29", "soon", "62", "0001-01-01"] {
        cases.push(case(&format!("born {value}"), 0, &[odd], births(value)).of(VALIDATE));
    }
    cases
}

/// Files of one source that differ.
fn drift() -> Vec<Case> {
    let second = |change: fn(&RecordBatch) -> RecordBatch| {
        move |project: &Path| {
            let path = project.join(EVENTS_FILE);
            let rows = c360_ml::store::parquet::concat(
                &c360_ml::store::parquet::read(&path, None).unwrap(),
            )
            .unwrap()
            .unwrap();
            let rows = rows.slice(0, 50);
            write(&project.join("fixtures/events/part-001.parquet"), &change(&rows));
        }
    };
    fn cast_to(rows: &RecordBatch, column: &str, ty: &DataType) -> RecordBatch {
        with_column(
            rows,
            column,
            arrow_cast::cast(rows.column_by_name(column).unwrap(), ty).unwrap(),
        )
    }
    vec![
        case(
            "a column more",
            0,
            &[],
            second(|rows| {
                with_column(rows, "more", Arc::new(Int32Array::from(vec![1; rows.num_rows()])))
            }),
        ),
        case("a column less", 0, &[], second(|rows| without_column(rows, "quantity"))),
        case(
            "a required column less",
            3,
            &["event_ts is null: 50", "part-001.parquet"],
            second(|rows| without_column(rows, "event_ts")),
        ),
        case(
            "a wider decimal",
            0,
            &[],
            second(|rows| cast_to(rows, "amount", &DataType::Decimal128(38, 4))),
        ),
        case(
            "doubles beside decimals",
            3,
            &["part-001.parquet", "part-000.parquet", "the column amount is"],
            second(|rows| cast_to(rows, "amount", &DataType::Float64)),
        ),
        case(
            "views beside text",
            0,
            &[],
            second(|rows| cast_to(rows, "event_type", &DataType::Utf8View)),
        ),
        case(
            "large text beside text",
            0,
            &[],
            second(|rows| cast_to(rows, "event_type", &DataType::LargeUtf8)),
        ),
        case(
            "a dictionary beside text",
            0,
            &[],
            second(|rows| {
                cast_to(
                    rows,
                    "event_type",
                    &DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
                )
            }),
        ),
        case(
            "truth beside text",
            3,
            &["part-001.parquet", "part-000.parquet", "the column event_type is"],
            second(|rows| {
                with_column(
                    rows,
                    "event_type",
                    Arc::new(BooleanArray::from(vec![true; rows.num_rows()])),
                )
            }),
        ),
        case(
            "text beside a time",
            3,
            &["part-001.parquet", "part-000.parquet", "the column event_ts is"],
            second(|rows| {
                with_column(
                    rows,
                    "event_ts",
                    Arc::new(StringArray::from(vec!["2024-01-01"; rows.num_rows()])),
                )
            }),
        ),
        case(
            "a time without a zone beside one with a zone",
            3,
            &["part-001.parquet"],
            second(|rows| {
                cast_to(rows, "event_ts", &arrow_array::types::TimestampMicrosecondType::DATA_TYPE)
            }),
        ),
        case(
            "nanoseconds beside microseconds",
            0,
            &[],
            second(|rows| {
                let times = rows
                    .column_by_name("event_ts")
                    .unwrap()
                    .as_primitive::<arrow_array::types::TimestampMicrosecondType>();
                let nanos: TimestampNanosecondArray =
                    times.iter().map(|v| v.map(|v| v * 1000)).collect();
                with_column(rows, "event_ts", Arc::new(nanos.with_timezone("UTC")))
            }),
        ),
        case(
            "a blank key in the second file",
            3,
            &["customer360_id is blank: 50", "50 of them in", "part-001.parquet"],
            second(|rows| {
                with_column(
                    rows,
                    "customer360_id",
                    Arc::new(StringArray::from(vec![""; rows.num_rows()])),
                )
            }),
        ),
        case(
            "a damaged second file",
            3,
            &["part-001.parquet", "is not a readable Parquet file"],
            |project| {
                let bytes = std::fs::read(project.join(EVENTS_FILE)).unwrap();
                std::fs::write(
                    project.join("fixtures/events/part-001.parquet"),
                    &bytes[..bytes.len() / 2],
                )
                .unwrap();
            },
        ),
    ]
}

/// Settings and specs.
fn settings() -> Vec<Case> {
    let toml = "c360.toml";
    let commerce = "features/commerce.toml";
    let mut cases = vec![
        case("a project that is no TOML", 2, &[toml], replaced(toml, "[project]", "[project")),
        case(
            "an unknown section",
            2,
            &[toml, "`sources.events` is missing"],
            replaced(toml, "[sources.events]", "[surces.events]"),
        ),
        case(
            "a path that is a number",
            2,
            &[toml, "sources.events"],
            replaced(toml, "path = \"fixtures/events\"", "path = 7"),
        ),
        case(
            "a currency of four letters",
            2,
            &["project.currency"],
            replaced(toml, "\"EUR\"", "\"EURO\""),
        ),
        case(
            "an as-of that is no instant",
            2,
            &[toml, "line 6", "first of July"],
            replaced(toml, "as_of = \"2024-07-01\"", "as_of = \"first of July\""),
        ),
        case(
            "the 30th of February",
            2,
            &[toml, "line 6", "2024-02-30"],
            replaced(toml, "as_of = \"2024-07-01\"", "as_of = \"2024-02-30\""),
        ),
        case(
            "a share above one",
            2,
            &["max_rejected_share"],
            replaced(
                toml,
                "path = \"fixtures/events\"",
                "path = \"fixtures/events\"\nmax_rejected_share = 2",
            ),
        ),
        case("a store that is a file", 1, &["store"], |project| {
            std::fs::write(project.join("store"), "").unwrap()
        }),
        case(
            "a column that is no expression",
            2,
            &["columns.amount", "is not an SQL expression"],
            replaced(
                toml,
                "path = \"fixtures/events\"",
                "path = \"fixtures/events\"\ncolumns = { amount = \"amount +\" }",
            ),
        ),
        case(
            "a column that is a statement",
            2,
            &["columns.amount"],
            replaced(
                toml,
                "path = \"fixtures/events\"",
                "path = \"fixtures/events\"\ncolumns = { amount = \"amount; drop table x\" }",
            ),
        ),
        case(
            "a column that is a query",
            2,
            &["columns.amount"],
            replaced(
                toml,
                "path = \"fixtures/events\"",
                "path = \"fixtures/events\"\ncolumns = { amount = \"(select 1)\" }",
            ),
        ),
        case(
            "a lookup without a table",
            2,
            &["there is no file or folder"],
            replaced(
                toml,
                "[sources.events]",
                "[sources.events.lookups.items]\npath = \"nowhere\"\nkey = \"k\"\non = \"product_id\"\n[sources.events]",
            ),
        ),
        case(
            "an unknown channel feature",
            2,
            &["email_engagement_1d"],
            replaced(toml, "email_engagement_180d", "email_engagement_1d"),
        ),
        case(
            "a view that is no TOML",
            2,
            &[commerce],
            replaced(commerce, "op = \"sum\"", "op = sum"),
        ),
        case(
            "a view of another version",
            2,
            &["hint"],
            replaced(commerce, "op = \"sum\"", "op = \"median_of_medians\""),
        ),
        case("thousands of conditions", 0, &[], |project| {
            edit(project, commerce, "amount > 0", &vec!["amount > 0"; 5000].join(" and "));
        }),
        case("a sum of thousands", 2, &["more than 64 operations within each other"], |project| {
            edit(
                project,
                commerce,
                "amount > 0",
                &format!("{} > 0", vec!["amount"; 5000].join(" + ")),
            );
        }),
    ];
    let budget = ["0", "-1GB", "much", "1e9XB"];
    for memory in budget {
        cases.push(case(
            &format!("a memory of {memory}"),
            if memory == "0" { 0 } else { 2 },
            &[],
            move |project| {
                edit(
                    project,
                    "c360.toml",
                    "[sources.profile]",
                    &format!("[engine]\nmemory = \"{memory}\"\n\n[sources.profile]"),
                );
            },
        ));
    }
    cases
}

#[test]
fn bad_input_ends_with_its_message_and_exit_code() {
    let cases: Vec<Case> = [files(), columns(), values(), profile(), drift(), settings()]
        .into_iter()
        .flatten()
        .collect();
    println!("{} cases", cases.len());
    assert!(cases.len() >= 120, "{} cases", cases.len());
    let faults: Vec<String> = cases.par_iter().filter_map(Case::fault).collect();
    assert!(
        faults.is_empty(),
        "{} of {} cases:\n\n{}",
        faults.len(),
        cases.len(),
        faults.join("\n")
    );
}

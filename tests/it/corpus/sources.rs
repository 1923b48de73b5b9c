//! Bad files, files of one source that differ, a bad profile, and bad settings.

use super::*;

/// The files themselves.
pub fn files() -> Vec<Case> {
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

/// Files of one source that differ.
pub fn drift() -> Vec<Case> {
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

/// The profile.
pub fn profile() -> Vec<Case> {
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

/// Settings and specs.
pub fn settings() -> Vec<Case> {
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

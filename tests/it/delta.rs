//! Tests of Delta tables as sources, and of the profile as a Delta table. The tables are written by hand, so that they
//! have what few writers write: deletion vectors, mapped columns, values that only the log has.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_schema::{DataType, Schema};
use c360_ml::sources::delta::DeltaTable;
use c360_ml::store::parquet::{concat, read};
use roaring::RoaringTreemap;
use serde_json::{Value, json};

use crate::cli::{data_files, output};
use crate::support::{EVENTS_FILE, PROFILE_FILE, edit, project, with_column, write};

/// A table that is written commit by commit.
struct Table {
    folder: PathBuf,
    version: usize,
}

impl Table {
    /// Creates a table with mapped columns and deletion vectors, which is partitioned by `channel`.
    fn create(folder: &Path, schema: &Schema) -> Self {
        std::fs::create_dir_all(folder.join("_delta_log")).unwrap();
        let mut table = Self { folder: folder.to_owned(), version: 0 };
        let field = |(i, field): (usize, &Arc<arrow_schema::Field>)| {
            let ty = match field.data_type() {
                DataType::Utf8 => json!("string"),
                DataType::Int64 => json!("long"),
                DataType::Int32 => json!("integer"),
                DataType::Float64 => json!("double"),
                DataType::Boolean => json!("boolean"),
                DataType::Timestamp(..) => json!("timestamp"),
                DataType::Decimal128(precision, scale) => {
                    json!(format!("decimal({precision},{scale})"))
                }
                other => panic!("{} is {other}", field.name()),
            };
            json!({
                "name": field.name(), "type": ty, "nullable": true,
                "metadata": {
                    "delta.columnMapping.id": i + 1,
                    "delta.columnMapping.physicalName": physical(field.name()),
                },
            })
        };
        let fields: Vec<Value> = schema.fields().iter().enumerate().map(field).collect();
        let partitions: Vec<&str> =
            schema.column_with_name("channel").map(|_| "channel").into_iter().collect();
        let schema = json!({ "type": "struct", "fields": fields }).to_string();
        table.commit(&[
            json!({ "protocol": {
                "minReaderVersion": 3, "minWriterVersion": 7,
                "readerFeatures": ["deletionVectors", "columnMapping"],
                "writerFeatures": ["deletionVectors", "columnMapping"],
            }}),
            json!({ "metaData": {
                "id": "0c6f6b9a-3d3c-4a6f-9d49-2c7f1a3f6a10",
                "format": { "provider": "parquet", "options": {} },
                "schemaString": schema, "partitionColumns": partitions,
                "configuration": {
                    "delta.columnMapping.mode": "name", "delta.enableDeletionVectors": "true",
                    "delta.columnMapping.maxColumnId": fields.len().to_string(),
                },
                "createdTime": 0,
            }}),
        ]);
        table
    }

    fn commit(&mut self, actions: &[Value]) {
        let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
        let path = self.folder.join(format!("_delta_log/{:020}.json", self.version));
        std::fs::write(path, lines.join("\n") + "\n").unwrap();
        self.version += 1;
    }

    /// Writes a file of rows of one channel, under the names that columns have in files.
    fn add(&self, name: &str, channel: Option<&str>, rows: &RecordBatch) -> Value {
        let schema = rows.schema();
        let own = schema.fields().iter().zip(rows.columns());
        let own = own.filter(|(field, _)| field.name() != "channel");
        let own = own.map(|(field, array)| (physical(field.name()), array.clone(), true));
        let own = RecordBatch::try_from_iter_with_nullable(own).unwrap();
        write(&self.folder.join(name), &own);
        self.entry(name, channel, rows.num_rows(), None)
    }

    /// The action that adds a file, with the rows that are deleted from it.
    fn entry(
        &self,
        name: &str,
        channel: Option<&str>,
        rows: usize,
        deleted: Option<&RoaringTreemap>,
    ) -> Value {
        let bytes = std::fs::metadata(self.folder.join(name)).unwrap().len();
        let vector = deleted.map(|deleted| {
            let mut bytes = 1_681_511_377_i32.to_le_bytes().to_vec();
            deleted.serialize_into(&mut bytes).unwrap();
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            json!({
                "storageType": "i", "pathOrInlineDv": z85::encode(&bytes),
                "sizeInBytes": bytes.len(), "cardinality": deleted.len(),
            })
        });
        let mut values = serde_json::Map::new();
        values.insert(physical("channel"), json!(channel));
        let mut add = json!({
            "path": name, "partitionValues": values, "size": bytes, "modificationTime": 1_700_000_000_000_i64,
            "dataChange": true, "stats": json!({ "numRecords": rows }).to_string(),
        });
        if let Some(vector) = vector {
            add["deletionVector"] = vector;
        }
        json!({ "add": add })
    }

    fn remove(&self, name: &str) -> Value {
        json!({ "remove": { "path": name, "deletionTimestamp": 1_700_000_000_001_i64, "dataChange": true } })
    }
}

/// The name of a column in the files of a table with mapped columns.
fn physical(name: &str) -> String {
    format!("col-{:x}", xxhash_rust::xxh3::xxh3_64(name.as_bytes()))
}

fn keep(rows: &RecordBatch, keep: impl Fn(usize) -> bool) -> RecordBatch {
    let kept: BooleanArray = (0..rows.num_rows()).map(|row| Some(keep(row))).collect();
    arrow_select::filter::filter_record_batch(rows, &kept).unwrap()
}

/// Every version of a table gives the features that its rows give as plain Parquet files, and the run after a change
/// reads only the files that are new.
#[test]
fn each_version_of_a_delta_table_is_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let [plain, delta] = ["plain", "delta"].map(|name| project(&folder.path().join(name)));
    let all = concat(&read(&plain.join(EVENTS_FILE), None).unwrap()).unwrap().unwrap();
    let channels: Vec<Option<String>> = all
        .column_by_name("channel")
        .unwrap()
        .as_string::<i32>()
        .iter()
        .map(|value| value.map(str::to_owned))
        .collect();
    let of = |channel: Option<&str>| keep(&all, |row| channels[row].as_deref() == channel);
    let (web, email, none) = (of(Some("web")), of(Some("email")), of(None));
    assert!(web.num_rows() > 100 && email.num_rows() > 100, "{channels:?}");
    let mut table = Table::create(&delta.join("fixtures/table"), &all.schema());
    let files = [
        table.add("day=1 a/web.parquet", Some("web"), &web),
        table.add("none.parquet", None, &none),
    ];
    table.commit(&files.map(|mut file| {
        // The log escapes what a URL escapes.
        let path = file["add"]["path"].as_str().unwrap().replace(' ', "%20");
        file["add"]["path"] = json!(path);
        file
    }));
    let added = [table.add("email.parquet", Some("email"), &email)];
    table.commit(&added);
    let mut deleted = RoaringTreemap::new();
    (0..email.num_rows() as u64).step_by(3).for_each(|row| assert!(deleted.insert(row)));
    let entry = table.entry("email.parquet", Some("email"), email.num_rows(), Some(&deleted));
    table.commit(&[table.remove("email.parquet"), entry]);
    let removed = [table.remove("none.parquet")];
    table.commit(&removed);
    let fewer = keep(&email, |row| row % 3 != 0);
    let versions: [(&[&RecordBatch], &str); 4] = [
        (&[&web, &none], "2 of 2 event files"),
        (&[&web, &none, &email], "1 of 3 event files"),
        (&[&web, &none, &fewer], "1 of 3 event files"),
        (&[&web, &fewer], "0 of 2 event files"),
    ];
    edit(&delta, "c360.toml", "fixtures/events", "fixtures/table");
    for (version, (rows, read)) in versions.into_iter().enumerate() {
        std::fs::remove_dir_all(plain.join("fixtures/events")).unwrap();
        for (i, rows) in rows.iter().enumerate() {
            write(&plain.join(format!("fixtures/events/part-{i}.parquet")), rows);
        }
        let path = delta.join("c360.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let pinned = |version: usize| format!("path = \"fixtures/table\"\nversion = {version}");
        let text = text.replace(&pinned(version), "path = \"fixtures/table\"");
        std::fs::write(&path, text.replace("path = \"fixtures/table\"", &pinned(version + 1)))
            .unwrap();
        let mut tables = Vec::new();
        for project in [&plain, &delta] {
            let (stdout, stderr, code) = output(project, &["features", "build"]);
            assert_eq!(code, 0, "version {version}: {stderr}");
            tables.push(
                data_files(project).into_iter().filter(|(name, _)| name.starts_with("features/")),
            );
            if project == &delta {
                assert!(stdout.contains(read), "version {version}: {stdout}");
            }
        }
        let [plain, delta] =
            [tables.remove(0), tables.remove(0)].map(|files| files.collect::<Vec<_>>());
        assert!(!plain.is_empty());
        assert_eq!(plain, delta, "version {version}");
    }
    let (stdout, stderr, code) = output(&delta, &["validate", "--format", "json"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let told: Value = serde_json::from_str(&stdout).unwrap();
    let checks = told["checks"].as_array().unwrap();
    let version = checks.iter().find(|check| check["check"] == "version of the Delta table");
    assert_eq!(version.unwrap()["found"], "4", "{stdout}");
}

#[test]
fn a_version_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let all = concat(&read(&project.join(EVENTS_FILE), None).unwrap()).unwrap().unwrap();
    edit(
        &project,
        "c360.toml",
        "path = \"fixtures/events\"",
        "path = \"fixtures/events\"\nversion = 7",
    );
    let (_, stderr, code) = output(&project, &["validate"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("is no Delta table"), "{stderr}");
    let table = Table::create(&project.join("fixtures/table"), &all.schema());
    assert_eq!(table.version, 1);
    edit(&project, "c360.toml", "fixtures/events", "fixtures/table");
    let (_, stderr, code) = output(&project, &["validate"]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("version 7 of the Delta table"), "{stderr}");
    assert!(stderr.contains("fixtures/table cannot be read\ncaused by: "), "{stderr}");
    assert!(!stderr.contains("backtrace"), "{stderr}");
    edit(&project, "c360.toml", "version = 7", "version = 0");
    let (_, stderr, code) = output(&project, &["validate"]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("version 0 of the Delta table"), "{stderr}");
    assert!(stderr.contains("has no rows"), "{stderr}");
}

/// A name that got another column is another column, although the files are the same.
#[test]
fn a_column_that_was_dropped_and_added_again_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let all = concat(&read(&project.join(EVENTS_FILE), None).unwrap()).unwrap().unwrap();
    let channels = all.column_by_name("channel").unwrap().as_string::<i32>().clone();
    let web = keep(&all, |row| channels.is_valid(row) && channels.value(row) == "web");
    let mut table = Table::create(&project.join("fixtures/table"), &all.schema());
    let added = [table.add("web.parquet", Some("web"), &web)];
    table.commit(&added);
    edit(&project, "c360.toml", "fixtures/events", "fixtures/table");
    let revenue = || {
        let (stdout, stderr, code) = output(&project, &["features", "build"]);
        assert_eq!(code, 0, "{stderr}");
        let (shown, stderr, code) =
            output(&project, &["show", "features/commerce", "--head", "2000", "--format", "json"]);
        assert_eq!(code, 0, "{stderr}");
        let rows: Vec<Value> = serde_json::from_str(&shown).unwrap();
        let spent = |row: &Value| row["total_revenue"].as_str().and_then(|s| s.parse::<f64>().ok());
        (stdout, rows.iter().filter_map(spent).sum::<f64>())
    };
    let (_, before) = revenue();
    assert!(before > 0.0);
    // The log of the first version, with another physical name for `amount`.
    let first = table.folder.join("_delta_log/00000000000000000000.json");
    let first = std::fs::read_to_string(first).unwrap();
    let metadata = first.lines().find(|line| line.contains("metaData")).unwrap();
    let metadata = metadata.replace(&physical("amount"), "col-another");
    table.commit(&[serde_json::from_str(&metadata).unwrap()]);
    let (told, after) = revenue();
    assert!(told.contains("1 of 1 event files"), "{told}");
    assert_eq!(after, 0.0);
}

/// A file that VACUUM has removed, and a feature of the format that is not known, are named.
#[test]
fn a_table_that_cannot_be_read_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let all = concat(&read(&project.join(EVENTS_FILE), None).unwrap()).unwrap().unwrap();
    let mut table = Table::create(&project.join("fixtures/table"), &all.schema());
    let added = [table.add("web.parquet", Some("web"), &all)];
    table.commit(&added);
    edit(&project, "c360.toml", "fixtures/events", "fixtures/table");
    std::fs::remove_file(table.folder.join("web.parquet")).unwrap();
    let (_, stderr, code) = output(&project, &["validate"]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("web.parquet, which is not there"), "{stderr}");
    assert!(stderr.contains("VACUUM"), "{stderr}");
    let profiles = concat(&read(&project.join(PROFILE_FILE), None).unwrap()).unwrap().unwrap();
    let plain = |ty: &DataType| {
        matches!(ty, DataType::Utf8 | DataType::Timestamp(..) | DataType::Decimal128(..))
    };
    let fields = profiles.schema().fields().clone();
    let plain: Vec<usize> = (0..fields.len()).filter(|i| plain(fields[*i].data_type())).collect();
    let profiles = profiles.project(&plain).unwrap();
    let mut customers = Table::create(&project.join("fixtures/customers"), &profiles.schema());
    let added = [customers.add("all.parquet", None, &profiles)];
    customers.commit(&added);
    edit(&project, "c360.toml", "fixtures/table", "fixtures/events");
    edit(&project, "c360.toml", "fixtures/profile", "fixtures/customers");
    assert_eq!(output(&project, &["validate"]).2, 0);
    std::fs::remove_file(customers.folder.join("all.parquet")).unwrap();
    let (_, stderr, code) = output(&project, &["features", "build"]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("all.parquet, which is not there"), "{stderr}");
    edit(&project, "c360.toml", "fixtures/customers", "fixtures/profile");
    edit(&project, "c360.toml", "fixtures/events", "fixtures/table");
    table.commit(&[json!({ "protocol": {
        "minReaderVersion": 3, "minWriterVersion": 7,
        "readerFeatures": ["deletionVectors", "columnMapping", "fancyNewThing"],
        "writerFeatures": ["deletionVectors", "columnMapping", "fancyNewThing"],
    }})]);
    let (_, stderr, code) = output(&project, &["validate"]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("caused by: ") && stderr.contains("fancyNewThing"), "{stderr}");
}

/// The rows of a Delta table, in the order of their keys.
fn rows_of(table: &Path) -> (u64, RecordBatch) {
    let table = DeltaTable::open(table, None, "test").unwrap().unwrap();
    let files: Vec<PathBuf> = table.paths().cloned().collect();
    let rows = files.iter().flat_map(|file| table.batches(file, None, None).unwrap());
    let rows: Vec<RecordBatch> = rows.map(Result::unwrap).collect();
    let rows = concat(&rows).unwrap().unwrap();
    let keys = rows.column_by_name("customer360_id").unwrap();
    let order = by_key(keys.as_string::<i32>());
    let order = arrow_array::UInt32Array::from(order);
    (table.version, arrow_select::take::take_record_batch(&rows, &order).unwrap())
}

fn by_key(keys: &arrow_array::StringArray) -> Vec<u32> {
    let mut order: Vec<u32> = (0..keys.len() as u32).collect();
    order.sort_by_key(|row| keys.value(*row as usize).to_owned());
    order
}

/// Each run that changes the profile makes one commit with its rows, and a run that changes nothing makes none.
#[test]
fn the_profile_is_a_delta_table() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let table = project.join("out/profile");
    edit(&project, "c360.toml", "[writeback]", "[writeback]\ndelta = \"out/profile\"");
    let call = |arguments: &[&str]| {
        let (stdout, stderr, code) = output(&project, arguments);
        assert_eq!(code, 0, "{stderr}");
        stdout
    };
    let profile = |as_of: &str| {
        let files = crate::support::root(&project)["files"].clone();
        let names = files.as_object().unwrap().keys();
        let name = names.into_iter().find(|n| n.starts_with(&format!("profile/as_of={as_of}/")));
        let rows = read(&crate::support::live(&project, name.unwrap()), None).unwrap();
        concat(&rows).unwrap().unwrap()
    };
    let same = |version: u64, as_of: &str| {
        let (found, rows) = rows_of(&table);
        let profile = profile(as_of);
        assert_eq!((found, rows.num_rows()), (version, profile.num_rows()));
        let keys = profile.column_by_name("customer360_id").unwrap();
        let order = arrow_array::UInt32Array::from(by_key(keys.as_string::<i32>()));
        let profile = arrow_select::take::take_record_batch(&profile, &order).unwrap();
        for (field, array) in profile.schema().fields().iter().zip(profile.columns()) {
            let own = rows.column_by_name(field.name());
            let own = own.unwrap_or_else(|| panic!("{} is missing", field.name()));
            let own = arrow_cast::cast(own, field.data_type()).unwrap();
            assert_eq!(&own, array, "{}", field.name());
        }
    };
    let told = call(&["run"]);
    assert!(told.contains("has the profile in version 0"), "{told}");
    same(0, "2024-07-01");
    let told = call(&["score"]);
    assert!(told.contains("nothing to do") && told.contains("has the profile already"), "{told}");
    let told = call(&["score", "--as-of", "2024-07-02"]);
    assert!(told.contains("has the profile in version 1"), "{told}");
    same(1, "2024-07-02");
    // A run of an earlier as-of does not move the profile.
    let told = call(&["score", "--as-of", "2024-07-01", "--force"]);
    assert!(told.contains("has the profile already"), "{told}");
    // The log says how many rows there are, and nothing of the customers.
    let log = std::fs::read_to_string(table.join("_delta_log/00000000000000000001.json")).unwrap();
    assert!(log.contains("numRecords") && !log.contains("@example.com"), "{log}");
    // A table that was lost is written again.
    std::fs::remove_dir_all(&table).unwrap();
    let told = call(&["score", "--as-of", "2024-07-02"]);
    assert!(told.contains("nothing to do") && told.contains("in version 0"), "{told}");
    same(0, "2024-07-02");
    // Another store has runs of its own, whatever their numbers.
    std::fs::remove_dir_all(project.join("store")).unwrap();
    let told = call(&["run"]);
    assert!(told.contains("has the profile in version 1"), "{told}");
    same(1, "2024-07-01");
    // A column that the table cannot have is named before anything is published.
    let rows = concat(&read(&project.join(PROFILE_FILE), None).unwrap()).unwrap().unwrap();
    let extra = rows.column_by_name("customer360_id").unwrap().clone();
    write(&project.join(PROFILE_FILE), &with_column(&rows, "loyalty card", extra));
    let before = crate::support::root(&project);
    let (_, stderr, code) = output(&project, &["score", "--as-of", "2024-07-03"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("\"loyalty card\""), "{stderr}");
    assert_eq!(crate::support::root(&project), before);
}

//! A corpus of bad input: each case is made by code, and ends with its message and its exit code. Unless it is harmless,
//! nothing is published.

mod events;
mod sources;

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

/// Writes a file without compression.
fn write_plain(path: &Path, rows: &RecordBatch) {
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
}

#[test]
fn bad_input_ends_with_its_message_and_exit_code() {
    let cases: Vec<Case> = [
        sources::files(),
        events::columns(),
        events::values(),
        sources::profile(),
        sources::drift(),
        sources::settings(),
    ]
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

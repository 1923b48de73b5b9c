//! Rows of event files that cannot be used. The store keeps them in `quarantine/rows/`, a file for each event file that has
//! some, with a code for the reason.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array};

use crate::error::{Error, Result};

/// The folder of the store.
pub const FOLDER: &str = "quarantine/rows";

/// The reasons for which an event cannot be used, in order of precedence: the code, and what it says.
pub const REASONS: [(&str, &str); 11] = [
    ("customer_null", "customer360_id is null"),
    ("event_id_null", "event_id is null"),
    ("event_type_null", "event_type is null"),
    ("event_ts_null", "event_ts is null"),
    ("not_finite", "a number is not finite"),
    ("other_currency", "the currency is another"),
    ("customer_blank", "customer360_id is blank"),
    ("event_id_blank", "event_id is blank"),
    ("event_type_blank", "event_type is blank"),
    ("event_ts_out_of_range", "event_ts is before 1900 or after 2199"),
    ("too_many_digits", "a number has too many digits"),
];

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedRow {
    /// The number of the row within its file, counted from 1.
    pub row: u64,
    /// The index of the reason in [`REASONS`].
    pub reason: usize,
    /// The values of customer360_id, event_id and event_type, as far as they are there.
    pub texts: [Option<String>; 3],
    /// The event_ts in microseconds.
    pub time: Option<i64>,
}

/// The name of the file of the store for the event file with this number.
pub fn name(number: u32) -> String {
    format!("{FOLDER}/{number:06}.parquet")
}

/// The rows of a file as the store keeps them, in the order of the file.
pub fn table(file: &Path, mut rows: Vec<RejectedRow>) -> Result<RecordBatch> {
    rows.sort_by_key(|row| row.row);
    let count = rows.len();
    let file = std::iter::repeat_n(file.to_string_lossy().into_owned(), count);
    let reasons = rows.iter().map(|row| REASONS[row.reason].0);
    let text = |place: usize| -> ArrayRef {
        Arc::new(rows.iter().map(|row| row.texts[place].clone()).collect::<StringArray>())
    };
    let times: TimestampMicrosecondArray = rows.iter().map(|row| row.time).collect();
    let columns: [(&str, ArrayRef); 7] = [
        ("file", Arc::new(StringArray::from_iter_values(file))),
        ("row", Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.row)))),
        ("reason", Arc::new(StringArray::from_iter_values(reasons))),
        ("customer360_id", text(0)),
        ("event_id", text(1)),
        ("event_type", text(2)),
        ("event_ts", Arc::new(times.with_timezone("UTC"))),
    ];
    RecordBatch::try_from_iter(columns).map_err(Error::engine("keeping rows that cannot be used"))
}

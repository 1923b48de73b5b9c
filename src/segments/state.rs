//! Reads the segments of an earlier as-of from their table.

use std::collections::{BTreeMap, HashMap};

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{RecordBatch, StringArray};

use super::PreviousState;
use crate::error::Result;
use crate::sources::profile::keys;
use crate::store::StoreProblem;
use crate::time::Instant;

/// The segments of some customers at an earlier as-of.
#[derive(Debug, Default)]
pub struct States {
    /// The segments of each customer, in the order of the customers.
    pub customers: Vec<Option<PreviousState>>,
    /// The segments of former customers, by key.
    pub gone: BTreeMap<String, PreviousState>,
}

impl States {
    /// Reads the segments of `customers` from rows of a table of segments that contain all of them.
    ///
    /// # Errors
    /// Returns a contract violation if these are not rows of such a table.
    pub fn of(rows: &[RecordBatch], customers: &StringArray) -> Result<Self> {
        let mut by_key = by_key(rows)?;
        let customers = customers.iter().flatten().map(|key| by_key.remove(key)).collect();
        Ok(Self { customers, gone: by_key.into_iter().collect() })
    }
}

fn by_key(rows: &[RecordBatch]) -> Result<HashMap<String, PreviousState>> {
    let mut by_key: HashMap<String, PreviousState> = HashMap::new();
    for rows in rows {
        let text = |name: &str| rows.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
        let since = rows
            .column_by_name("since")
            .and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
        let primary = rows.column_by_name("is_primary").and_then(|c| c.as_boolean_opt());
        let (Some(segment), Some(rule), Some(since), Some(primary)) =
            (text("segment"), text("rule"), since, primary)
        else {
            let path = "the table of the previous as-of".into();
            return Err(StoreProblem::NotATable { path, table: "segments" }.into());
        };
        // Tables from before this column existed contain no expired memberships.
        let expired = rows.column_by_name("expired").and_then(|c| c.as_list_opt::<i32>());
        for (i, key) in keys(rows)?.iter().flatten().enumerate() {
            let state = by_key.entry(key.to_owned()).or_default();
            let name = segment.value(i).to_owned();
            if primary.value(i) {
                state.primary = Some(name.clone());
            }
            let over = expired.map(|lists| lists.value(i));
            if let Some(over) = over.as_ref().and_then(|list| list.as_struct_opt()) {
                let [names, rules] = [0, 1].map(|column| over.column(column).as_string::<i32>());
                let pairs = names.iter().flatten().zip(rules.iter().flatten());
                state.expired.extend(pairs.map(|(name, rule)| (name.to_owned(), rule.to_owned())));
            }
            state.memberships.insert(name, (rule.value(i).to_owned(), Instant(since.value(i))));
        }
    }
    Ok(by_key)
}

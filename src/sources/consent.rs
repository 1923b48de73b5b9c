//! The consent of customers.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ListArray, RecordBatch, StringArray};

/// The consent of customers, row by row.
#[derive(Debug, Clone, Default)]
pub struct Consent {
    status: Option<StringArray>,
    scopes: Option<ListArray>,
}

impl Consent {
    /// The columns of the profile that hold the consent.
    pub const COLUMNS: [&str; 2] = ["opt_in_status", "consent_scopes"];

    /// Reads the consent columns that `rows` contains.
    pub fn of(rows: &RecordBatch) -> Self {
        let [status, scopes] = Self::COLUMNS.map(|name| rows.column_by_name(name));
        Self {
            status: status.and_then(|column| column.as_string_opt::<i32>()).cloned(),
            scopes: scopes.and_then(|column| column.as_list_opt::<i32>()).cloned(),
        }
    }

    fn status(&self, row: usize) -> Option<&str> {
        self.status.as_ref().filter(|s| s.is_valid(row)).map(|s| s.value(row))
    }

    /// Whether the customer has opted out of being contacted.
    pub fn opted_out(&self, row: usize) -> bool {
        self.status(row) == Some("opted_out")
    }

    /// Whether the customer has opted in to being contacted: by the status or, where it says nothing, by a scope.
    pub fn opted_in(&self, row: usize) -> bool {
        let scopes = self.scopes.as_ref().filter(|scopes| scopes.is_valid(row));
        let has_scope = scopes.is_some_and(|scopes| scopes.value_length(row) > 0);
        !self.opted_out(row) && (self.status(row) == Some("opted_in") || has_scope)
    }

    /// Whether the customer has consented to `scope`.
    ///
    /// If the customer has a list of scopes, `scope` must be in it. Without a list, only an explicit opt-in
    /// is consent. A customer who has opted out has consented to nothing.
    pub fn allows(&self, row: usize, scope: &str) -> bool {
        let in_scope = match self.scopes.as_ref().filter(|scopes| scopes.is_valid(row)) {
            Some(scopes) => {
                let listed = scopes.value(row);
                let listed = listed.as_string_opt::<i32>();
                listed.is_some_and(|s| s.iter().flatten().any(|s| s == scope))
            }
            None => self.status(row) == Some("opted_in"),
        };
        !self.opted_out(row) && in_scope
    }
}

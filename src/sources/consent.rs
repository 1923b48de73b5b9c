//! The consent of customers, and the policy of a project that says which consent scoring needs.

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, ListArray, RecordBatch, StringArray};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::SourceProblem;
use super::profile::{KEY, ProfilePlan, align};
use crate::error::{Error, Result};

/// The `[consent]` table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsentPolicy {
    /// The customers who are scored. The others are only stored: their row of the profile is written, with raw and
    /// derived fields, but without scores, vectors, recommendations and segments other than the one for all others.
    #[serde(default)]
    pub scored: Whom,
    /// The scope that customers must have consented to where `scored` is `consented`, such as `profiling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// The customers who are scored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Whom {
    /// All customers.
    #[default]
    All,
    /// All customers but those whose `opt_in_status` is `opted_out`.
    NotOptedOut,
    /// The customers who have consented to `scope`.
    Consented,
}

impl ConsentPolicy {
    /// Checks the settings, and that the profile has the columns that they need.
    ///
    /// # Errors
    /// Returns a configuration error.
    pub fn check(&self, profile: &ProfilePlan) -> Result<()> {
        let place = "c360.toml [consent]";
        let scope = self.scope.as_deref();
        let columns: &[&'static str] = match self.scored {
            Whom::All => &[],
            Whom::NotOptedOut => &Consent::COLUMNS[..1],
            Whom::Consented => &Consent::COLUMNS,
        };
        if (self.scored == Whom::Consented) != scope.is_some_and(|scope| !scope.trim().is_empty()) {
            let value = scope.map_or("not there".to_owned(), |scope| format!("{scope:?}"));
            let required = match self.scored {
                Whom::Consented => "the name of a scope, because scored is \"consented\"",
                _ => "left out, because it counts only with scored = \"consented\"",
            };
            let example = "scored = \"consented\" with scope = \"profiling\"";
            return Err(Error::setting(place, "scope", value, required, example));
        }
        if !columns.is_empty() && columns.iter().all(|name| profile.type_of(name).is_none()) {
            return Err(SourceProblem::NoConsent { columns: columns.to_vec() }.into());
        }
        Ok(())
    }
}

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

    /// Reads the consent of some customers from the rows of the profile, in the order of their keys.
    ///
    /// # Errors
    /// Returns an error if the rows have no keys.
    pub fn of_customers(profile: &RecordBatch, customers: &StringArray) -> Result<Self> {
        let known = profile.schema();
        let wanted = |name: &str| name == KEY || Self::COLUMNS.contains(&name);
        let columns = (0..known.fields().len()).filter(|i| wanted(known.field(*i).name()));
        let columns: Vec<usize> = columns.collect();
        let rows = profile.project(&columns).map_err(Error::engine("reading consent"))?;
        Ok(Self::of(&align(&rows, customers)?))
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

    /// Whether each of `customers` customers is only stored, and not scored, by the policy of the project; `None` if it
    /// lets all be scored.
    pub fn only_stored(&self, policy: &ConsentPolicy, customers: usize) -> Option<BooleanArray> {
        (policy.scored != Whom::All)
            .then(|| (0..customers).map(|row| Some(!self.is_scored(row, policy))).collect())
    }

    /// Whether the policy of the project lets the customer be scored.
    pub fn is_scored(&self, row: usize, policy: &ConsentPolicy) -> bool {
        match policy.scored {
            Whom::All => true,
            Whom::NotOptedOut => !self.opted_out(row),
            Whom::Consented => policy.scope.as_ref().is_some_and(|scope| self.allows(row, scope)),
        }
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

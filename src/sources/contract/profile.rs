//! The contract of the profile.

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};

use super::{Checks, Status};
use crate::sources::profile::{KeyFaults, ProfilePlan, ProfileShards};

/// A rule for the values of a profile field. Values that violate it still pass through unchanged.
struct Oddity {
    field: &'static str,
    check: &'static str,
    fits: fn(&str) -> bool,
    hint: &'static str,
}

/// The rules that the text fields of the profile are checked against.
const ODDITIES: [Oddity; 4] = [
    Oddity {
        field: "country",
        check: "not ISO 3166-1 alpha-2",
        fits: |value| value.len() == 2 && value.bytes().all(|b| b.is_ascii_uppercase()),
        hint: "they pass through as they are",
    },
    Oddity {
        field: "primary_email",
        check: "without an @",
        fits: |value| value.contains('@'),
        hint: "they pass through as they are",
    },
    Oddity {
        field: "opt_in_status",
        check: "not opted_in, opted_out or unknown",
        fits: |value| matches!(value, "opted_in" | "opted_out" | "unknown"),
        hint: "map it",
    },
    Oddity {
        field: "date_of_birth",
        check: "not a date",
        fits: is_birth,
        hint: "no age is computed from them",
    },
];

/// Whether a text is a year, a month or a day, such as `1984`, `1984-05` or `1984-05-02`, on which a living person can
/// have been born.
fn is_birth(text: &str) -> bool {
    let parts: Vec<&str> = text.trim().split('-').collect();
    let (Some(year), 1..=3) = (parts[0].parse().ok(), parts.len()) else { return false };
    let part = |place: usize| parts.get(place).map_or(Some(1), |part| part.parse().ok());
    let (month, day) = (part(1), part(2));
    let date = month.zip(day).and_then(|(m, d)| chrono::NaiveDate::from_ymd_opt(year, m, d));
    parts[0].len() == 4 && (1880..2100).contains(&year) && date.is_some()
}

/// The facts about profile rows that the contract is checked against. The facts of different rows add up.
#[derive(Debug, Clone, Default)]
pub struct ProfileFacts {
    rows: u64,
    duplicates: u64,
    first_duplicate: Option<String>,
    /// The number of violations of each rule in [`ODDITIES`]. It is None if the profile has no such text
    /// column.
    odd: [Option<u64>; ODDITIES.len()],
    /// The number of nulls by column.
    nulls: Vec<u64>,
}

impl ProfileFacts {
    /// Computes the facts of the rows of a shard. `faults` describes its repeated keys.
    pub fn of(rows: &RecordBatch, faults: &KeyFaults) -> Self {
        let odd = ODDITIES.map(|Oddity { field, fits, .. }| {
            let texts = rows.column_by_name(field)?.as_string_opt::<i32>()?;
            Some(texts.iter().flatten().filter(|value| !fits(value)).count() as u64)
        });
        Self {
            rows: rows.num_rows() as u64,
            duplicates: faults.duplicates,
            first_duplicate: faults.first_duplicate.clone(),
            odd,
            nulls: rows.columns().iter().map(|column| column.null_count() as u64).collect(),
        }
    }

    /// Adds the facts of other rows with the same columns.
    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.duplicates += other.duplicates;
        // The smallest key is kept, so that the result does not depend on the number of shards.
        let firsts = [self.first_duplicate.take(), other.first_duplicate];
        self.first_duplicate = firsts.into_iter().flatten().min();
        for (own, more) in self.odd.iter_mut().zip(other.odd) {
            *own = own.or(Some(0).filter(|_| more.is_some())).map(|own| own + more.unwrap_or(0));
        }
        self.nulls.resize(other.nulls.len().max(self.nulls.len()), 0);
        self.nulls.iter_mut().zip(other.nulls).for_each(|(own, more)| *own += more);
    }
}

/// Adds the checks of a profile. `facts` are those of all its shards.
pub fn check_profile(
    plan: &ProfilePlan,
    profile: &ProfileShards,
    facts: &ProfileFacts,
    checks: &mut Checks,
) {
    let violation = Status::Violation;
    checks.files(&plan.table);
    checks.add("rows", facts.rows + profile.nulls + facts.duplicates, Status::Ok, "");
    let first = profile.first_null.as_ref();
    let first = first
        .map(|(file, row)| format!("every customer needs a key: {} row {row}", file.display()));
    checks.count(
        "customer360_id: null or blank",
        profile.nulls,
        violation,
        &first.unwrap_or_default(),
    );
    let first = facts.first_duplicate.as_ref();
    let first = first.map(|key| format!("merge them upstream: {key} occurs more than once"));
    let hint = first.unwrap_or_default();
    checks.count("customer360_id: duplicate", facts.duplicates, violation, &hint);
    for (Oddity { field, check, hint, .. }, count) in ODDITIES.iter().zip(facts.odd) {
        if let Some(count) = count {
            checks.count(format!("{field}: {check}"), count, Status::Warning, hint);
        }
    }
    let fields = profile.schema().fields();
    let is_known = |name: &str| crate::schema::profile_field(name).is_some();
    let extra = fields.iter().filter(|field| !is_known(field.name())).count();
    checks.add("extra columns carried along", extra, Status::Ok, "");
    for (field, nulls) in fields.iter().zip(&facts.nulls).filter(|(f, _)| is_known(f.name())) {
        let ty = crate::schema::type_name(field.data_type(), false);
        checks.add(field.name().clone(), format!("{ty}, {nulls} null"), Status::Ok, "");
    }
}

#[cfg(test)]
mod tests {
    use super::is_birth;

    #[test]
    fn a_birth_is_a_day_a_month_or_a_year() {
        for text in ["1984", "1984-05", "1984-05-02", "2000-02-29", " 1984-5-2 "] {
            assert!(is_birth(text), "{text}");
        }
        for text in [
            "",
            "84",
            "3000-01-01",
            "1962-13-45",
            "1999-02-29",
            "1984-05-02-01",
            "May",
            "0001-01-01",
        ] {
            assert!(!is_birth(text), "{text}");
        }
    }
}

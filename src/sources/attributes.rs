//! Attributes of customers as text: what a model may take as levels and a report slices by.

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::DataType;

use super::files::RawType;
use super::profile::keys;
use crate::error::{Error, Result};

/// Levels that an attribute keeps at most, the most frequent ones.
const LEVELS: usize = 1000;

/// One attribute of all customers.
#[derive(Debug, Clone)]
pub struct Attribute {
    /// The profile's column.
    pub name: String,
    /// Its levels by name; what is rarer than the most frequent thousand is not there.
    pub levels: Vec<String>,
    /// By customer the place in `levels`, their number for a level that is not there, NaN for null.
    codes: Vec<f32>,
}

/// Some attributes of all customers of a profile.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// Ascending.
    keys: Vec<String>,
    /// In the order in which they were asked for.
    pub columns: Vec<Attribute>,
}

impl Attributes {
    /// The attributes called `names` of profile rows that are sorted by key.
    ///
    /// # Errors
    /// An engine error for a column whose values are no levels; specs are checked against that.
    pub fn of(rows: &RecordBatch, names: &[&str]) -> Result<Self> {
        let columns = names.iter().map(|name| {
            let text = levels_of(rows, name)?;
            // An empty text says no more than a null does.
            let values = || text.iter().map(|level| level.filter(|level| !level.is_empty()));
            let mut counts: HashMap<&str, usize> = HashMap::new();
            values().flatten().for_each(|level| *counts.entry(level).or_default() += 1);
            let mut by_count: Vec<(&str, usize)> = counts.into_iter().collect();
            by_count.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
            by_count.truncate(LEVELS);
            let mut levels: Vec<String> = by_count.iter().map(|(l, _)| (*l).to_owned()).collect();
            levels.sort();
            let code = |level: Option<&str>| match level {
                Some(level) => levels
                    .binary_search_by(|known| known.as_str().cmp(level))
                    .unwrap_or(levels.len()) as f32,
                None => f32::NAN,
            };
            let codes = values().map(code).collect();
            Ok(Attribute { name: (*name).to_owned(), levels, codes })
        });
        let columns = columns.collect::<Result<_>>()?;
        Ok(Self { keys: keys(rows)?.iter().flatten().map(str::to_owned).collect(), columns })
    }

    /// The place of a customer; None for one whom the profile does not have.
    pub fn find(&self, key: &str) -> Option<usize> {
        self.keys.binary_search_by(|known| known.as_str().cmp(key)).ok()
    }

    /// The attribute called `name`.
    pub fn get(&self, name: &str) -> Option<&Attribute> {
        self.columns.iter().find(|attribute| attribute.name == name)
    }
}

impl Attribute {
    /// The code of a customer's level.
    pub fn code(&self, customer: Option<usize>) -> f64 {
        customer.and_then(|customer| self.codes.get(customer)).map_or(f64::NAN, |c| f64::from(*c))
    }

    /// A code's level; None for null.
    pub fn level(&self, code: f64) -> Option<&str> {
        let another = "another";
        (!code.is_nan()).then(|| self.levels.get(code as usize).map_or(another, String::as_str))
    }
}

/// The column whose levels are decades, such as `1980s`: nearly every customer has a day of their own.
const BIRTH: &str = "date_of_birth";

/// Whether values of a column can be levels.
pub fn are_levels(name: &str, ty: &DataType) -> bool {
    let ty = RawType::of(ty);
    matches!(ty, RawType::Text | RawType::Integer | RawType::Boolean)
        || (name == BIRTH && ty == RawType::Date)
}

/// `1984-05-02`, or as much of it as there is from the year on, as `1980s`; None for what is no year.
fn decade(date: &str) -> Option<String> {
    let year = date.get(..4)?;
    year.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("{}0s", &year[..3]))
}

/// A column of profile rows as text.
pub fn levels_of(rows: &RecordBatch, name: &str) -> Result<StringArray> {
    let fault = |message: String| Error::Engine { context: "reading attributes", message };
    let column = rows.column_by_name(name).ok_or_else(|| fault(format!("no column {name}")))?;
    let text: ArrayRef = arrow_cast::cast(column, &DataType::Utf8)
        .map_err(|error| fault(format!("column {name}: {error}")))?;
    debug_assert_eq!(text.len(), rows.num_rows());
    let text = text.as_string::<i32>();
    match name {
        BIRTH => Ok(text.iter().map(|date| date.and_then(decade)).collect()),
        _ => Ok(text.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn births_are_decades() {
        let dates = ["1984-05-02", "1989", "2001-13", "n/a", ""].map(decade);
        let expected = [Some("1980s"), Some("1980s"), Some("2000s"), None, None];
        assert_eq!(dates, expected.map(|decade| decade.map(str::to_owned)));
        assert!(are_levels("date_of_birth", &DataType::Date32));
        assert!(!are_levels("first_order", &DataType::Date32));
    }

    #[test]
    fn codes_are_places_among_the_levels() {
        let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "d"]));
        let country = vec![Some("fr"), None, Some("de"), Some("")];
        let country: ArrayRef = Arc::new(StringArray::from(country));
        let rows =
            RecordBatch::try_from_iter([("customer360_id", keys), ("country", country)]).unwrap();
        let attributes = Attributes::of(&rows, &["country"]).unwrap();
        let country = attributes.get("country").unwrap();
        assert_eq!(country.levels, ["de", "fr"]);
        assert_eq!(country.code(attributes.find("a")), 1.0);
        assert!(country.code(attributes.find("b")).is_nan());
        assert!(country.code(attributes.find("d")).is_nan(), "an empty text is missing");
        assert!(country.code(attributes.find("zz")).is_nan());
        assert_eq!(country.level(2.0), Some("another"));
    }
}

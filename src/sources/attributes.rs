//! Attributes of customers as text: categorical levels for models and slices for reports.

use std::collections::{BTreeMap, HashMap};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::DataType;

use super::files::RawType;
use super::profile::keys;
use crate::error::{Error, Result};

/// The number of levels kept per attribute. The most frequent ones are kept.
const LEVELS: usize = 1000;

/// Some attributes of customers as text, read from profile rows.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// The keys in ascending order.
    keys: Option<StringArray>,
    columns: Vec<(String, StringArray)>,
}

impl Attributes {
    /// Reads the attributes called `names` from profile rows that are sorted by key.
    ///
    /// # Errors
    /// An engine error for a column whose values cannot be levels. Specs are checked for this beforehand.
    pub fn of(rows: &RecordBatch, names: &[&str]) -> Result<Self> {
        let column = |name: &&str| Ok(((*name).to_owned(), levels_of(rows, name)?));
        let columns = names.iter().map(column).collect::<Result<_>>()?;
        Ok(Self { keys: Some(keys(rows)?.clone()), columns })
    }

    /// The row index of a customer, or None if the rows do not contain the customer.
    pub fn find(&self, key: &str) -> Option<usize> {
        let keys = self.keys.as_ref()?;
        let (mut low, mut high) = (0, keys.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match keys.value(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The attribute called `name`, or None if it was not read.
    pub fn get(&self, name: &str) -> Option<&StringArray> {
        self.columns.iter().find(|(known, _)| known == name).map(|(_, column)| column)
    }

    /// The level of a customer in the attribute called `name`.
    ///
    /// The result is None if the value is missing. An empty text counts as missing.
    pub fn level(&self, name: &str, customer: Option<usize>) -> Option<&str> {
        let column = self.get(name)?;
        let customer = customer.filter(|customer| column.is_valid(*customer))?;
        Some(column.value(customer)).filter(|level| !level.is_empty())
    }
}

/// The number of customers by attribute and level.
#[derive(Debug, Clone, Default)]
pub struct LevelCounts {
    counts: BTreeMap<String, HashMap<String, u64>>,
}

impl LevelCounts {
    /// Counts the levels of the customers in `attributes`.
    pub fn of(attributes: &Attributes) -> Self {
        let mut counts = BTreeMap::new();
        for (name, column) in &attributes.columns {
            let own: &mut HashMap<String, u64> = counts.entry(name.clone()).or_default();
            for level in column.iter().flatten().filter(|level| !level.is_empty()) {
                match own.get_mut(level) {
                    Some(count) => *count += 1,
                    None => drop(own.insert(level.to_owned(), 1)),
                }
            }
        }
        Self { counts }
    }

    /// Adds the counts of other customers.
    pub fn add(&mut self, other: Self) {
        for (name, levels) in other.counts {
            let own = self.counts.entry(name).or_default();
            levels.into_iter().for_each(|(level, count)| *own.entry(level).or_default() += count);
        }
    }

    /// The most frequent levels of each attribute, at most 1,000.
    pub fn levels(self) -> BTreeMap<String, Levels> {
        let most = |counts: HashMap<String, u64>| {
            let mut by_count: Vec<(String, u64)> = counts.into_iter().collect();
            by_count.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            by_count.truncate(LEVELS);
            let mut names: Vec<String> = by_count.into_iter().map(|(level, _)| level).collect();
            names.sort();
            Levels { names }
        };
        self.counts.into_iter().map(|(name, counts)| (name, most(counts))).collect()
    }
}

/// The levels of an attribute, limited to the thousand most frequent ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Levels {
    /// The names of the levels in ascending order.
    pub names: Vec<String>,
}

impl Levels {
    /// The index of a level among the names.
    ///
    /// A level that is not among them has the number of levels as its code. A missing level is NaN.
    pub fn code(&self, level: Option<&str>) -> f64 {
        let place = |level: &str| {
            let found = self.names.binary_search_by(|known| known.as_str().cmp(level));
            found.unwrap_or(self.names.len()) as f64
        };
        level.map_or(f64::NAN, place)
    }

    /// The name of a level, or `another` for a level that is not among the names.
    pub fn name<'a>(&self, level: &'a str) -> &'a str {
        let is_known = self.names.binary_search_by(|known| known.as_str().cmp(level)).is_ok();
        if is_known { level } else { "another" }
    }
}

/// The column whose levels are decades, such as `1980s`, because single dates of birth are too many to be
/// levels.
const BIRTH: &str = "date_of_birth";

/// Whether the values of a column of this name and type can be levels.
pub fn are_levels(name: &str, ty: &DataType) -> bool {
    let ty = RawType::of(ty);
    matches!(ty, RawType::Text | RawType::Integer | RawType::Boolean)
        || (name == BIRTH && ty == RawType::Date)
}

/// The decade of a date, such as `1980s` for `1984-05-02`.
///
/// The date may be incomplete, but must begin with the year. The result is None if the text does not begin
/// with four digits.
fn decade(date: &str) -> Option<String> {
    let year = date.get(..4)?;
    year.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("{}0s", &year[..3]))
}

/// A column of profile rows as text. Dates of birth become decades.
pub fn levels_of(rows: &RecordBatch, name: &str) -> Result<StringArray> {
    let fault = |message: String| Error::engine("reading attributes")(message);
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
        let mut counts = LevelCounts::of(&attributes);
        counts.add(LevelCounts::of(&attributes));
        let levels = counts.levels().remove("country").unwrap();
        assert_eq!(levels.names, ["de", "fr"]);
        let level = |key: &str| attributes.level("country", attributes.find(key));
        let code = |key: &str| levels.code(level(key));
        assert_eq!((code("a"), code("c")), (1.0, 0.0));
        assert!(code("b").is_nan());
        assert!(code("d").is_nan(), "an empty text is missing");
        assert!(code("zz").is_nan());
        assert_eq!((levels.code(Some("it")), levels.name("it")), (2.0, "another"));
    }

    #[test]
    fn the_most_frequent_levels_are_kept() {
        let keys: StringArray = (0..3000).map(|i| Some(format!("c{i:04}"))).collect();
        // Each of the first thousand levels has two customers, and each of the others has one.
        let level = |i: i32| Some(format!("l{:04}", if i < 2000 { i / 2 } else { i }));
        let levels: StringArray = (0..3000).map(level).collect();
        let (keys, levels) = (Arc::new(keys) as ArrayRef, Arc::new(levels) as ArrayRef);
        let rows = RecordBatch::try_from_iter([("customer360_id", keys), ("x", levels)]).unwrap();
        let attributes = Attributes::of(&rows, &["x"]).unwrap();
        let names = &LevelCounts::of(&attributes).levels()["x"].names;
        assert_eq!((names.len(), names[999].as_str()), (1000, "l0999"));
    }
}

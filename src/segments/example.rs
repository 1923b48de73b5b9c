//! Examples of customers with the segments that they must have, which `segments test` checks the rules
//! against.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::SegmentProblem;
use crate::error::{Error, Result};
use crate::expression::reference::evaluate;
use crate::expression::{Columns, Expression, Node, Type, Value};
use crate::money::Scale;

/// A value of an example's customer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "neither a number, a text, true nor false")]
pub enum Given {
    /// A truth value.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A number that is not whole.
    Double(f64),
    /// A text, which may also be an instant or a date.
    Text(String),
}

/// One `[[example]]` table.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExampleSpec {
    /// A description for the reader.
    #[serde(default)]
    pub description: String,
    /// The features and scores of the customer. All others are null.
    pub given: BTreeMap<String, Given>,
    /// The segments that the customer had long been in at the previous as-of.
    #[serde(default)]
    pub was: Vec<String>,
    /// The scopes that the customer has consented to.
    #[serde(default)]
    pub consents: Vec<String>,
    /// The primary segment that the customer must have.
    #[serde(default)]
    pub primary: Option<String>,
    /// All segments that the customer must have, in the order of the rules.
    #[serde(default)]
    pub segments: Option<Vec<String>>,
}

/// A checked example.
#[derive(Debug, Clone)]
pub struct Example {
    /// The table of the file.
    pub spec: ExampleSpec,
    pub(super) values: BTreeMap<String, Value>,
    pub(super) scale: Scale,
}

impl Example {
    /// Checks the `number`-th example of `file` against the existing columns and segments.
    pub(super) fn check(
        file: &str,
        number: usize,
        spec: &ExampleSpec,
        columns: &Columns,
        segments: &[&str],
    ) -> Result<Self> {
        let place = format!("{file}: example {number}");
        let mut values = BTreeMap::new();
        for (name, given) in &spec.given {
            let is_column = |name: &str| !segments.contains(&name);
            let Some(ty) = columns.get(name).filter(|_| is_column(name)) else {
                let known = columns.iter().map(|(name, _)| name).filter(|name| is_column(name));
                return Err(Error::unknown(place, "column", name, known));
            };
            values.insert(name.clone(), value(given, ty, columns.scale, &place, name)?);
        }
        let named = spec.was.iter().chain(&spec.primary).chain(spec.segments.iter().flatten());
        for name in named {
            if !segments.contains(&name.as_str()) {
                return Err(Error::unknown(place, "segment", name, segments));
            }
        }
        if spec.primary.is_none() && spec.segments.is_none() {
            return Err(SegmentProblem::ExampleWithoutResult { place }.into());
        }
        Ok(Self { spec: spec.clone(), values, scale: columns.scale })
    }
}

fn value(given: &Given, ty: Type, scale: Scale, place: &str, name: &str) -> Result<Value> {
    let (value, own) = match given {
        Given::Boolean(v) => (Value::Boolean(*v), Type::Boolean),
        Given::Integer(v) => (Value::Integer(*v), Type::Integer),
        Given::Double(v) => (Value::Double(*v), Type::Double),
        Given::Text(v) => (Value::Text(v.clone()), Type::Text),
    };
    let fits = own == ty
        || (own.is_numeric() && ty.is_numeric())
        || (own == Type::Text && matches!(ty, Type::Timestamp | Type::Date));
    let literal = Expression { node: Node::Literal(value), ty: own };
    let cast = evaluate(&literal.cast(ty), scale, &|_| Value::Null);
    if !fits || cast == Value::Null {
        let (place, column) = (place.to_owned(), name.to_owned());
        let value = format!("{given:?}");
        return Err(SegmentProblem::ExampleValue { place, column, value, ty }.into());
    }
    Ok(cast)
}

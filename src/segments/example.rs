//! Examples of customers with the segments that they must have, which `segments test` checks the rules
//! against.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::assign::{Assigned, PreviousState, RulePass};
use super::spec::Segments;
use crate::error::{Error, Result};
use crate::expression::reference::evaluate;
use crate::expression::{Columns, Expression, Node, Type, Value};
use crate::money::Scale;
use crate::time::Instant;

/// A value of an example's customer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    values: BTreeMap<String, Value>,
    scale: Scale,
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
            return Err(Error::configuration(
                format!("{place} says nothing of what must come out"),
                "add primary = \"…\" or segments = [\"…\"]",
            ));
        }
        Ok(Self { spec: spec.clone(), values, scale: columns.scale })
    }

    /// Evaluates the rules for this customer.
    pub fn assign(&self, segments: &Segments) -> Assigned {
        // The previous memberships began so long ago that every dwell is over.
        let (since, as_of) = (Instant(i64::MIN / 2), Instant(0));
        let version = |name: &String| {
            let rule = segments.rules.iter().find(|rule| rule.spec.name == *name);
            rule.map_or(String::new(), |rule| rule.version.clone())
        };
        let was = self.spec.was.iter().map(|name| (name.clone(), (version(name), since)));
        let before = PreviousState { memberships: was.collect(), ..PreviousState::default() };
        let mut night = RulePass::new(Some(&before), None, as_of);
        let mut values = self.values.clone();
        for rule in &segments.rules {
            let column = |name: &str| values.get(name).cloned().unwrap_or(Value::Null);
            let holds = |condition: &Expression| {
                evaluate(condition, self.scale, &column) == Value::Boolean(true)
            };
            let holds = [holds(&rule.enter), holds(&rule.stay)];
            let consents = rule.spec.requires_consent.iter();
            let allowed = consents.clone().all(|scope| self.spec.consents.contains(scope));
            night.apply(rule, holds, allowed);
            let is_in = night.is_in(&rule.spec.name);
            values.insert(rule.spec.name.clone(), Value::Boolean(is_in));
        }
        night.end(segments)
    }

    /// Describes the first difference from the expected segments. Returns None if there is no difference.
    pub fn fault(&self, segments: &Segments) -> Option<String> {
        let assigned = self.assign(segments);
        let found: Vec<&str> = assigned.memberships.iter().map(|m| m.segment.as_str()).collect();
        if let Some(wanted) = self.spec.primary.as_ref().filter(|name| **name != assigned.primary) {
            return Some(format!("primary is \"{}\", not \"{wanted}\"", assigned.primary));
        }
        let wanted = self.spec.segments.as_ref().filter(|wanted| **wanted != found)?;
        Some(format!("segments are {found:?}, not {wanted:?}"))
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
        return Err(Error::configuration(
            format!("{place}: {name} = {given:?} is not a {}", ty.name()),
            "give a value of the column's type, or leave the column out for null",
        ));
    }
    Ok(cast)
}

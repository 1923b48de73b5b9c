//! Expressions: a small typed subset of SQL for mappings, features, labels and segment rules.
//!
//! The text is parsed by `sqlparser`, checked against the types of the columns, and turned into the tree
//! below. Only this tree is lowered to an engine. SQL text never reaches an engine, because engines silently
//! disagree about division, rounding, nulls and casts. docs/expressions.md defines the semantics.

pub mod check;
pub mod convert;
pub mod polars;
mod problem;
pub mod reference;

pub use self::problem::ExpressionProblem;

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::money::Scale;

/// The type of an expression's value. Every type also has null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// True or false.
    Boolean,
    /// A signed 64-bit integer.
    Integer,
    /// A finite 64-bit float.
    Double,
    /// An amount in minor units of the project's currency.
    Money,
    /// UTF-8 text.
    Text,
    /// An instant in UTC microseconds since 1970-01-01T00:00:00Z.
    Timestamp,
    /// A calendar day.
    Date,
}

impl Type {
    /// Whether arithmetic applies to values of this type.
    pub fn is_numeric(self) -> bool {
        matches!(self, Self::Integer | Self::Double | Self::Money)
    }

    /// The SQL name of the type, as messages and `cast` use it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Double => "double",
            Self::Money => "money",
            Self::Text => "varchar",
            Self::Timestamp => "timestamp",
            Self::Date => "date",
        }
    }
}

/// A constant, or one value of a column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// The absence of a value, of any type.
    Null,
    /// True or false.
    Boolean(bool),
    /// A signed 64-bit integer.
    Integer(i64),
    /// A finite 64-bit float.
    Double(f64),
    /// An amount in minor units of the project's currency.
    Money(i64),
    /// UTF-8 text.
    Text(String),
    /// An instant in UTC microseconds since 1970-01-01T00:00:00Z.
    Timestamp(i64),
    /// A calendar day, in days since 1970-01-01.
    Date(i32),
}

/// A number in a spec or on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "not a number")]
pub enum Number {
    /// A whole number.
    Integer(i64),
    /// A finite number that is not whole or does not fit into 64 bits.
    Double(f64),
}

impl Number {
    /// The number as a constant of an expression.
    pub fn value(self) -> Value {
        match self {
            Self::Integer(number) => Value::Integer(number),
            Self::Double(number) => Value::Double(number),
        }
    }
}

impl std::str::FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = text.parse().map(Self::Integer).ok();
        let number = || text.parse().ok().filter(|number: &f64| number.is_finite());
        whole
            .or_else(|| number().map(Self::Double))
            .ok_or_else(|| format!("`{text}` is not a number"))
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Double(number) => number.fmt(f),
        }
    }
}

/// The binary operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
}

/// The functions that an expression may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    Abs,
    Round,
    Floor,
    Ceil,
    Sqrt,
    Ln,
    Log1p,
    Exp,
    Power,
    Least,
    Greatest,
    Coalesce,
    Nullif,
    Lower,
    Upper,
    Trim,
    Length,
    Concat,
    Substring,
    StartsWith,
    EndsWith,
    Contains,
    DaysBetween,
    ToTimestamp,
    AddMicroseconds,
    Year,
    Month,
    Day,
    DayOfWeek,
    Hour,
}

impl Function {
    /// Every function with its SQL name.
    pub const ALL: [(&'static str, Function); 30] = [
        ("abs", Self::Abs),
        ("round", Self::Round),
        ("floor", Self::Floor),
        ("ceil", Self::Ceil),
        ("sqrt", Self::Sqrt),
        ("ln", Self::Ln),
        ("log1p", Self::Log1p),
        ("exp", Self::Exp),
        ("power", Self::Power),
        ("least", Self::Least),
        ("greatest", Self::Greatest),
        ("coalesce", Self::Coalesce),
        ("nullif", Self::Nullif),
        ("lower", Self::Lower),
        ("upper", Self::Upper),
        ("trim", Self::Trim),
        ("length", Self::Length),
        ("concat", Self::Concat),
        ("substring", Self::Substring),
        ("starts_with", Self::StartsWith),
        ("ends_with", Self::EndsWith),
        ("contains", Self::Contains),
        ("days_between", Self::DaysBetween),
        ("to_timestamp", Self::ToTimestamp),
        ("add_microseconds", Self::AddMicroseconds),
        ("year", Self::Year),
        ("month", Self::Month),
        ("day", Self::Day),
        ("day_of_week", Self::DayOfWeek),
        ("hour", Self::Hour),
    ];
}

/// A checked expression: the tree and the type of its value.
///
/// The operands already have the types that their operator takes. Every conversion is an explicit
/// [`Node::Cast`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expression {
    /// The node that computes the value.
    pub node: Node,
    /// The type of the value.
    #[serde(rename = "type")]
    pub ty: Type,
}

/// The kinds of expression nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Node {
    /// The value of the column with this name.
    Column(String),
    /// A constant.
    Literal(Value),
    /// Logical negation. The negation of null is null.
    Not(Box<Expression>),
    /// Arithmetic negation. The negation of null is null.
    Negate(Box<Expression>),
    /// Whether the value is null. The result is never null.
    IsNull(Box<Expression>),
    /// An operator with two operands of one type. Arithmetic also takes money and an integer.
    Binary(Operator, Box<Expression>, Box<Expression>),
    /// A function call.
    Call(Function, Vec<Expression>),
    /// The result of the first branch whose condition is true, or `otherwise` if there is none.
    Case {
        /// The conditions with their results.
        branches: Vec<(Expression, Expression)>,
        /// The result if no condition is true.
        otherwise: Box<Expression>,
    },
    /// The value converted to the type of the expression, or null if it cannot be converted.
    Cast(Box<Expression>),
    /// Whether the value equals one of the constants. The result for null is null.
    InList(Box<Expression>, Vec<Value>),
    /// Whether the text matches an SQL `LIKE` pattern with the wildcards `%` and `_`.
    Like(Box<Expression>, String),
}

impl Expression {
    /// A column reference.
    pub fn column(name: impl Into<String>, ty: Type) -> Self {
        Self { node: Node::Column(name.into()), ty }
    }

    /// Converts this expression to `ty`. Returns it unchanged if it already has that type.
    pub fn cast(self, ty: Type) -> Self {
        match self {
            _ if self.ty == ty => self,
            Self { node: Node::Literal(Value::Null), .. } => {
                Self { node: Node::Literal(Value::Null), ty }
            }
            Self { node: Node::Literal(Value::Integer(value)), .. } if ty == Type::Double => {
                Self { node: Node::Literal(Value::Double(value as f64)), ty }
            }
            _ => Self { node: Node::Cast(Box::new(self)), ty },
        }
    }

    /// The names of the columns that the value depends on.
    pub fn columns(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        self.visit(&mut |expression| {
            if let Node::Column(name) = &expression.node {
                names.insert(name.as_str());
            }
        });
        names
    }

    /// Calls `each` for this expression and for every expression within it.
    pub fn visit<'a>(&'a self, each: &mut impl FnMut(&'a Expression)) {
        each(self);
        match &self.node {
            Node::Column(_) | Node::Literal(_) => {}
            Node::Not(x) | Node::Negate(x) | Node::IsNull(x) | Node::Cast(x) => x.visit(each),
            Node::InList(x, _) | Node::Like(x, _) => x.visit(each),
            Node::Binary(_, left, right) => {
                left.visit(each);
                right.visit(each);
            }
            Node::Call(_, arguments) => arguments.iter().for_each(|x| x.visit(each)),
            Node::Case { branches, otherwise } => {
                for (condition, result) in branches {
                    condition.visit(each);
                    result.visit(each);
                }
                otherwise.visit(each);
            }
        }
    }

    /// Replaces every column by the expression that `replace` returns for it.
    ///
    /// A column for which `replace` returns None stays as it is.
    pub fn substitute(self, replace: &impl Fn(&str) -> Option<Expression>) -> Self {
        let sub = |x: Box<Expression>| Box::new(x.substitute(replace));
        let node = match self.node {
            Node::Column(name) => return replace(&name).unwrap_or(Self::column(name, self.ty)),
            Node::Literal(value) => Node::Literal(value),
            Node::Not(x) => Node::Not(sub(x)),
            Node::Negate(x) => Node::Negate(sub(x)),
            Node::IsNull(x) => Node::IsNull(sub(x)),
            Node::Cast(x) => Node::Cast(sub(x)),
            Node::InList(x, list) => Node::InList(sub(x), list),
            Node::Like(x, pattern) => Node::Like(sub(x), pattern),
            Node::Binary(operator, left, right) => Node::Binary(operator, sub(left), sub(right)),
            Node::Call(function, arguments) => {
                let arguments = arguments.into_iter().map(|x| x.substitute(replace)).collect();
                Node::Call(function, arguments)
            }
            Node::Case { branches, otherwise } => Node::Case {
                branches: branches
                    .into_iter()
                    .map(|(c, r)| (c.substitute(replace), r.substitute(replace)))
                    .collect(),
                otherwise: sub(otherwise),
            },
        };
        Self { node, ty: self.ty }
    }
}

/// The columns and named constants that an expression may use, and the scale of money.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    types: BTreeMap<String, Type>,
    constants: BTreeMap<String, Value>,
    /// The number of decimal places of money literals.
    pub scale: Scale,
}

impl Columns {
    /// Creates the set of columns from names and types.
    pub fn new(scale: Scale, types: impl IntoIterator<Item = (String, Type)>) -> Self {
        Self { types: types.into_iter().collect(), constants: BTreeMap::new(), scale }
    }

    /// The type of a column, or None if there is no such column.
    pub fn get(&self, name: &str) -> Option<Type> {
        self.types.get(name).copied()
    }

    /// Adds a column, or replaces the type of an existing one.
    pub fn insert(&mut self, name: impl Into<String>, ty: Type) {
        self.types.insert(name.into(), ty);
    }

    /// Adds a named constant, which an expression may use like a column.
    pub fn name(&mut self, name: impl Into<String>, number: Number) {
        self.constants.insert(name.into(), number.value());
    }

    /// The value of the named constant, or None if there is no such constant.
    pub fn constant(&self, name: &str) -> Option<&Value> {
        self.constants.get(name)
    }

    /// All names: first those of the columns, then those of the constants, each in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.types.keys().chain(self.constants.keys()).map(String::as_str)
    }

    /// The names and types of the columns in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Type)> {
        self.types.iter().map(|(name, ty)| (name.as_str(), *ty))
    }
}

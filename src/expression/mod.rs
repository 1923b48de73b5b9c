//! Expressions: one small typed SQL subset for mappings, features, labels and segment rules.
//!
//! Text is parsed by `sqlparser`, checked against the columns' types into the tree below, and only
//! then lowered to an engine. SQL text never reaches an engine, because engines disagree in silence
//! about division, rounding, nulls and casts; docs/expressions.md is the semantics that hold here.

pub mod check;
pub mod convert;
pub mod polars;
pub mod reference;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::money::Scale;

/// The type of an expression's value; every type also has null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// True or false.
    Boolean,
    /// A signed 64-bit integer.
    Integer,
    /// A finite 64-bit float.
    Double,
    /// Minor units of the project's currency.
    Money,
    /// UTF-8 text.
    Text,
    /// UTC microseconds.
    Timestamp,
    /// A calendar day.
    Date,
}

impl Type {
    /// Whether arithmetic applies.
    pub fn is_numeric(self) -> bool {
        matches!(self, Self::Integer | Self::Double | Self::Money)
    }

    /// The SQL name, as in messages and `cast`.
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
    /// A whole number.
    Integer(i64),
    /// A finite number.
    Double(f64),
    /// Minor units.
    Money(i64),
    /// Text.
    Text(String),
    /// UTC microseconds.
    Timestamp(i64),
    /// Days since 1970-01-01.
    Date(i32),
}

/// A number as a spec or the command line gives it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "not a number")]
pub enum Number {
    /// A whole one.
    Integer(i64),
    /// Another one, finite.
    Double(f64),
}

impl Number {
    /// As a constant of an expression.
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

/// Operators with two operands.
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

/// Functions by their SQL names.
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
    Year,
    Month,
    Day,
    DayOfWeek,
    Hour,
}

impl Function {
    /// Every function with its SQL name.
    pub const ALL: [(&'static str, Function); 28] = [
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
        ("year", Self::Year),
        ("month", Self::Month),
        ("day", Self::Day),
        ("day_of_week", Self::DayOfWeek),
        ("hour", Self::Hour),
    ];
}

/// A checked expression: the tree and the type of its value. Operands already have the types that
/// their operator wants; every conversion is an explicit [`Node::Cast`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expression {
    /// What computes the value.
    pub node: Node,
    /// The type of the value.
    #[serde(rename = "type")]
    pub ty: Type,
}

/// The kinds of expression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Node {
    /// A column by name.
    Column(String),
    /// A constant.
    Literal(Value),
    /// Logical negation; null stays null.
    Not(Box<Expression>),
    /// Arithmetic negation.
    Negate(Box<Expression>),
    /// Whether the value is null; never null itself.
    IsNull(Box<Expression>),
    /// An operator over two operands of one type (for arithmetic also money by integer).
    Binary(Operator, Box<Expression>, Box<Expression>),
    /// A function call.
    Call(Function, Vec<Expression>),
    /// The first branch whose condition is true, else `otherwise`.
    Case {
        /// Conditions with their results.
        branches: Vec<(Expression, Expression)>,
        /// The result where no condition is true.
        otherwise: Box<Expression>,
    },
    /// The value converted to the expression's type; null where it cannot be.
    Cast(Box<Expression>),
    /// Whether the value equals one of the constants; null for null.
    InList(Box<Expression>, Vec<Value>),
    /// SQL `LIKE` with `%` and `_`.
    Like(Box<Expression>, String),
}

impl Expression {
    /// A column reference.
    pub fn column(name: impl Into<String>, ty: Type) -> Self {
        Self { node: Node::Column(name.into()), ty }
    }

    /// This expression converted to `ty`; itself where it already has that type.
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

    /// The columns that the value depends on.
    pub fn columns(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        self.visit(&mut |expression| {
            if let Node::Column(name) = &expression.node {
                names.insert(name.as_str());
            }
        });
        names
    }

    fn visit<'a>(&'a self, each: &mut impl FnMut(&'a Expression)) {
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

    /// The expression with every column replaced by what `replace` gives for it.
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

/// The columns that an expression may use, with their types, and the scale of money.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    types: BTreeMap<String, Type>,
    constants: BTreeMap<String, Value>,
    /// Decimal places of money literals.
    pub scale: Scale,
}

impl Columns {
    /// The columns of an iterator of names and types.
    pub fn new(scale: Scale, types: impl IntoIterator<Item = (String, Type)>) -> Self {
        Self { types: types.into_iter().collect(), constants: BTreeMap::new(), scale }
    }

    /// The type of a column.
    pub fn get(&self, name: &str) -> Option<Type> {
        self.types.get(name).copied()
    }

    /// Adds a column.
    pub fn insert(&mut self, name: impl Into<String>, ty: Type) {
        self.types.insert(name.into(), ty);
    }

    /// Gives a number a name, which an expression may use in its place.
    pub fn name(&mut self, name: impl Into<String>, number: Number) {
        self.constants.insert(name.into(), number.value());
    }

    /// The number that has this name.
    pub fn constant(&self, name: &str) -> Option<&Value> {
        self.constants.get(name)
    }

    /// The names in order, those of columns first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.types.keys().chain(self.constants.keys()).map(String::as_str)
    }

    /// Names and types in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Type)> {
        self.types.iter().map(|(name, ty)| (name.as_str(), *ty))
    }
}

//! Checking: turns SQL text into a typed expression.
//!
//! It parses the text, resolves names, gives every node a type, and makes every conversion explicit.

mod call;

use std::cell::Cell;

use sqlparser::ast::{self, BinaryOperator, CastKind, DataType, UnaryOperator};
use sqlparser::dialect::GenericDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use super::{Columns, Expression, Function, Node, Operator, Type, Value};
use crate::error::{Error, Result};
use crate::expression::ExpressionProblem;
use crate::time::parse_naive;

/// Parses and checks `sql` against `columns`. Error messages start with `place`, which names the file and the
/// key.
///
/// # Errors
/// A configuration error for text that is not a single expression, for an unknown column or function, and for
/// operands of the wrong types, and for operations that are nested too deeply to be computed.
pub fn check(sql: &str, columns: &Columns, place: &str) -> Result<Expression> {
    if sql.len() <= SHORT {
        return parse_and_check(sql, columns, place);
    }
    // The parser nests as deeply as the text says, for example by `not not not`.
    let check = || parse_and_check(sql, columns, place);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, check);
        let thread = thread.map_err(Error::engine("starting a thread"))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The length in bytes up to which a text is parsed on the stack that there is.
const SHORT: usize = 48;
/// The bytes of the stack on which a longer text is parsed. The system gives as much of them as is used.
const STACK: usize = 1 << 29;
/// The greatest number of operations within each other.
const DEEPEST: usize = 64;
/// The number of conditions in a row from which on they are joined in pairs.
const MANY: usize = 64;

fn parse_and_check(sql: &str, columns: &Columns, place: &str) -> Result<Expression> {
    let parsed = Parser::new(&GenericDialect {}).try_with_sql(sql).and_then(|mut parser| {
        let expression = parser.parse_expr()?;
        match parser.peek_token().token {
            Token::EOF => Ok(expression),
            _ => parser.expected("the end of the expression", parser.peek_token()),
        }
    });
    let parsed = parsed.map_err(|error| {
        let (place, sql) = (place.to_owned(), sql.to_owned());
        ExpressionProblem::Syntax { place, sql, error }
    })?;
    Checker::new(columns, place, sql).expression(&parsed)
}

/// Like [`check`], for an expression that must have type `ty`. Numbers, dates and null are converted
/// implicitly where possible.
///
/// # Errors
/// The same errors as [`check`], and a configuration error for an expression of another type.
pub fn check_as(sql: &str, ty: Type, columns: &Columns, place: &str) -> Result<Expression> {
    let expression = check(sql, columns, place)?;
    let checker = Checker::new(columns, place, sql);
    if expression.ty == ty {
        return Ok(expression);
    }
    match (expression.ty, ty) {
        (Type::Integer | Type::Money, Type::Double)
        | (Type::Integer | Type::Double, Type::Money)
        | (Type::Date, Type::Timestamp) => Ok(expression.cast(ty)),
        _ if expression.node == Node::Literal(Value::Null) => Ok(expression.cast(ty)),
        (found, _) => {
            let hint = match (found, ty) {
                (Type::Text, Type::Timestamp) => {
                    "convert it with cast(… as timestamp), or with to_timestamp(…, '%d.%m.%Y %H:%M') for another format"
                }
                (found, Type::Timestamp) if found.is_numeric() => NUMBER_TO_TIMESTAMP,
                _ => "",
            };
            let fault = format!("has type {}, but {} is required here", found.name(), ty.name());
            Err(checker.error(fault, hint))
        }
    }
}

/// The hint for a number where a timestamp is required.
const NUMBER_TO_TIMESTAMP: &str =
    "convert the number with to_timestamp(…, 's'), 'ms' or 'us' since 1970";

struct Checker<'a> {
    columns: &'a Columns,
    place: &'a str,
    sql: &'a str,
    /// The number of operations that the one which is checked is in.
    depth: Cell<usize>,
}

impl<'a> Checker<'a> {
    fn new(columns: &'a Columns, place: &'a str, sql: &'a str) -> Self {
        Self { columns, place, sql, depth: Cell::new(0) }
    }

    fn error(&self, fault: impl Into<String>, hint: &'static str) -> Error {
        let (place, sql) = (self.place.to_owned(), self.sql.to_owned());
        ExpressionProblem::Meaning { place, sql, fault: fault.into(), hint }.into()
    }

    fn expression(&self, parsed: &ast::Expr) -> Result<Expression> {
        let depth = self.depth.get();
        if depth == DEEPEST {
            let fault = format!("has more than {DEEPEST} operations within each other");
            return Err(self.error(fault, "give a part of it a name of its own"));
        }
        self.depth.set(depth + 1);
        let checked = self.operation(parsed);
        self.depth.set(depth);
        checked
    }

    fn operation(&self, parsed: &ast::Expr) -> Result<Expression> {
        use ast::Expr;
        match parsed {
            Expr::Identifier(name) => self.column(&name.value),
            Expr::CompoundIdentifier(parts) => {
                let parts: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
                self.column(&parts.join("."))
            }
            Expr::Value(value) => self.literal(&value.value),
            Expr::Nested(inner) => self.expression(inner),
            Expr::TypedString(typed) => {
                let text = self.literal(&typed.value.value)?;
                self.cast(text, &typed.data_type)
            }
            Expr::UnaryOp { op, expr } => self.unary(*op, self.expression(expr)?),
            Expr::BinaryOp { left, op: BinaryOperator::Plus, right } if is_interval(right) => {
                self.shift(left, right, 1)
            }
            Expr::BinaryOp { left, op: BinaryOperator::Plus, right } if is_interval(left) => {
                self.shift(right, left, 1)
            }
            Expr::BinaryOp { left, op: BinaryOperator::Minus, right } if is_interval(right) => {
                self.shift(left, right, -1)
            }
            Expr::Interval(_) => Err(self.error(
                format!("has `{parsed}` where a value is required"),
                "an interval is added to a timestamp or subtracted from it",
            )),
            Expr::BinaryOp { op: BinaryOperator::And, .. } => {
                self.conditions(parsed, Operator::And)
            }
            Expr::BinaryOp { op: BinaryOperator::Or, .. } => self.conditions(parsed, Operator::Or),
            Expr::BinaryOp { left, op, right } => {
                self.binary(op, self.expression(left)?, self.expression(right)?)
            }
            Expr::IsNull(inner) => Ok(is_null(self.expression(inner)?)),
            Expr::IsNotNull(inner) => Ok(not(is_null(self.expression(inner)?))),
            Expr::IsTrue(inner) => {
                Ok(self.call(Function::Coalesce, vec![self.boolean(inner)?, boolean(false)])?)
            }
            Expr::IsFalse(inner) => {
                let negated = not(self.boolean(inner)?);
                self.call(Function::Coalesce, vec![negated, boolean(false)])
            }
            Expr::Between { expr, negated, low, high } => {
                let value = self.expression(expr)?;
                let low =
                    self.compare(Operator::GreaterOrEqual, value.clone(), self.expression(low)?)?;
                let high = self.compare(Operator::LessOrEqual, value, self.expression(high)?)?;
                Ok(not_if(*negated, binary(Operator::And, low, high, Type::Boolean)))
            }
            Expr::InList { expr, list, negated } => {
                let value = self.expression(expr)?;
                Ok(not_if(*negated, self.in_list(value, list)?))
            }
            Expr::Like { negated, any: false, expr, pattern, escape_char: None } => {
                let value = self.expression(expr)?;
                let pattern = self.expression(pattern)?;
                match (value.ty, pattern.node) {
                    (Type::Text, Node::Literal(Value::Text(pattern))) => {
                        let node = Node::Like(Box::new(value), pattern);
                        Ok(not_if(*negated, Expression { node, ty: Type::Boolean }))
                    }
                    _ => Err(self.error("like requires a varchar and a quoted pattern", "")),
                }
            }
            Expr::Case { operand, conditions, else_result, .. } => {
                self.case(operand.as_deref(), conditions, else_result.as_deref())
            }
            Expr::Cast { kind: CastKind::Cast | CastKind::TryCast, expr, data_type, .. } => {
                self.cast(self.expression(expr)?, data_type)
            }
            Expr::Extract { field, expr, .. } => {
                let name = field.to_string().to_lowercase();
                self.named_call(&name, vec![self.expression(expr)?])
            }
            Expr::Floor { expr, .. } => self.call(Function::Floor, vec![self.expression(expr)?]),
            Expr::Ceil { expr, .. } => self.call(Function::Ceil, vec![self.expression(expr)?]),
            Expr::Trim { trim_where: None, trim_what: None, expr, trim_characters: None } => {
                self.call(Function::Trim, vec![self.expression(expr)?])
            }
            Expr::Substring { expr, substring_from, substring_for, .. } => {
                let mut arguments = vec![self.expression(expr)?];
                for part in [substring_from, substring_for].into_iter().flatten() {
                    arguments.push(self.expression(part)?);
                }
                self.call(Function::Substring, arguments)
            }
            Expr::Function(call) => {
                let ast::FunctionArguments::List(list) = &call.args else {
                    return Err(self.error(format!("calls {} without arguments", call.name), ""));
                };
                let arguments: Result<Vec<Expression>> = list
                    .args
                    .iter()
                    .map(|argument| match argument {
                        ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(x)) => {
                            self.expression(x)
                        }
                        other => Err(self.error(format!("has an argument `{other}`"), "")),
                    })
                    .collect();
                self.named_call(&call.name.to_string().to_lowercase(), arguments?)
            }
            other => Err(self.error(
                format!("uses `{other}`, which is outside the SQL subset"),
                "the subset is listed in docs/expressions.md",
            )),
        }
    }

    /// Conditions in a row that are joined by `and` or by `or`.
    fn conditions(&self, parsed: &ast::Expr, operator: Operator) -> Result<Expression> {
        let own = if operator == Operator::And { BinaryOperator::And } else { BinaryOperator::Or };
        let mut conditions = Vec::new();
        let mut rest = parsed;
        while let ast::Expr::BinaryOp { left, op, right } = rest
            && *op == own
        {
            conditions.push(right.as_ref());
            rest = left;
        }
        conditions.push(rest);
        let checked = conditions.into_iter().rev().map(|condition| self.boolean(condition));
        Ok(joined(operator, checked.collect::<Result<Vec<_>>>()?))
    }

    /// A timestamp moved by an interval, forward or backward by the sign of `times`.
    fn shift(&self, time: &ast::Expr, interval: &ast::Expr, times: i64) -> Result<Expression> {
        let Some(micros) = micros_of(interval) else {
            return Err(self.error(
                format!("has `{interval}`, which has no fixed length"),
                "write interval '3 days' with weeks, days, hours, minutes, seconds, milliseconds or microseconds",
            ));
        };
        let micros = Value::Integer(times * micros);
        let micros = Expression { node: Node::Literal(micros), ty: Type::Integer };
        self.call(Function::AddMicroseconds, vec![self.expression(time)?, micros])
    }

    fn boolean(&self, parsed: &ast::Expr) -> Result<Expression> {
        self.want_boolean(self.expression(parsed)?)
    }

    fn want_boolean(&self, expression: Expression) -> Result<Expression> {
        match expression {
            Expression { ty: Type::Boolean, .. } => Ok(expression),
            Expression { node: Node::Literal(Value::Null), .. } => {
                Ok(expression.cast(Type::Boolean))
            }
            other => {
                Err(self.error(format!("uses a {} as a condition", other.ty.name()), "compare it"))
            }
        }
    }

    fn column(&self, name: &str) -> Result<Expression> {
        if let Some(value) = self.columns.constant(name) {
            let ty = if matches!(value, Value::Integer(_)) { Type::Integer } else { Type::Double };
            return Ok(Expression { node: Node::Literal(value.clone()), ty });
        }
        match self.columns.get(name) {
            Some(ty) => Ok(Expression::column(name, ty)),
            None => Err(Error::unknown(
                format!("{}: `{}`", self.place, self.sql),
                "column",
                name,
                self.columns.names(),
            )),
        }
    }

    fn literal(&self, value: &ast::Value) -> Result<Expression> {
        let (value, ty) = match value {
            ast::Value::Number(text, _) => match text.parse::<i64>() {
                Ok(number) => (Value::Integer(number), Type::Integer),
                Err(_) => match text.parse::<f64>() {
                    Ok(number) if number.is_finite() => (Value::Double(number), Type::Double),
                    _ => return Err(self.error(format!("has a number `{text}` out of range"), "")),
                },
            },
            ast::Value::SingleQuotedString(text) => (Value::Text(text.clone()), Type::Text),
            ast::Value::Boolean(value) => (Value::Boolean(*value), Type::Boolean),
            ast::Value::Null => (Value::Null, Type::Text),
            ast::Value::DoubleQuotedString(name) => return self.column(name),
            other => return Err(self.error(format!("has a literal `{other}`"), "")),
        };
        Ok(Expression { node: Node::Literal(value), ty })
    }

    fn unary(&self, operator: UnaryOperator, operand: Expression) -> Result<Expression> {
        match operator {
            UnaryOperator::Not => Ok(not(self.want_boolean(operand)?)),
            UnaryOperator::Plus if operand.ty.is_numeric() => Ok(operand),
            UnaryOperator::Minus if operand.ty.is_numeric() => {
                let ty = operand.ty;
                let node = match operand.node {
                    Node::Literal(Value::Integer(v)) => Node::Literal(Value::Integer(-v)),
                    Node::Literal(Value::Double(v)) => Node::Literal(Value::Double(-v)),
                    node => Node::Negate(Box::new(Expression { node, ty })),
                };
                Ok(Expression { node, ty })
            }
            _ => Err(self.error(format!("applies {operator} to a {}", operand.ty.name()), "")),
        }
    }

    fn binary(
        &self,
        operator: &BinaryOperator,
        a: Expression,
        b: Expression,
    ) -> Result<Expression> {
        let comparison = match operator {
            BinaryOperator::Eq => Operator::Equal,
            BinaryOperator::NotEq => Operator::NotEqual,
            BinaryOperator::Lt => Operator::Less,
            BinaryOperator::LtEq => Operator::LessOrEqual,
            BinaryOperator::Gt => Operator::Greater,
            BinaryOperator::GtEq => Operator::GreaterOrEqual,
            BinaryOperator::Plus => return self.arithmetic(Operator::Add, a, b),
            BinaryOperator::Minus => return self.arithmetic(Operator::Subtract, a, b),
            BinaryOperator::Multiply => return self.arithmetic(Operator::Multiply, a, b),
            BinaryOperator::Divide => return self.arithmetic(Operator::Divide, a, b),
            BinaryOperator::Modulo => return self.arithmetic(Operator::Modulo, a, b),
            BinaryOperator::StringConcat => return self.call(Function::Concat, vec![a, b]),
            other => {
                let hint = "the operators are listed in docs/expressions.md";
                return Err(self.error(format!("uses the operator {other}"), hint));
            }
        };
        self.compare(comparison, a, b)
    }

    fn compare(&self, operator: Operator, a: Expression, b: Expression) -> Result<Expression> {
        let (a, b) = self.unify(a, b)?;
        Ok(binary(operator, a, b, Type::Boolean))
    }

    /// Converts both operands to their common type. Numeric literals beside money become exact money.
    fn unify(&self, a: Expression, b: Expression) -> Result<(Expression, Expression)> {
        let (mut a, mut b) = (self.as_type_of(a, b.ty), b);
        b = self.as_type_of(b, a.ty);
        let ty = match (a.ty, b.ty) {
            (x, y) if x == y => x,
            (Type::Integer, Type::Double) | (Type::Double, Type::Integer) => Type::Double,
            (Type::Money, Type::Integer) | (Type::Integer, Type::Money) => Type::Money,
            (Type::Money, Type::Double) | (Type::Double, Type::Money) => Type::Double,
            (Type::Date, Type::Timestamp) | (Type::Timestamp, Type::Date) => Type::Timestamp,
            (x, y) => {
                let is_time = |ty: Type| matches!(ty, Type::Timestamp | Type::Date);
                let hint = match is_time(x) != is_time(y) && (x.is_numeric() || y.is_numeric()) {
                    true => NUMBER_TO_TIMESTAMP,
                    false => "convert one of them with cast(… as …)",
                };
                let fault = format!("combines a {} with a {}", x.name(), y.name());
                return Err(self.error(fault, hint));
            }
        };
        a = a.cast(ty);
        Ok((a, b.cast(ty)))
    }

    /// Converts a literal to the type of the operand beside it, if possible.
    ///
    /// For example, `amount > 10` compares an amount of money with ten major units.
    fn as_type_of(&self, literal: Expression, ty: Type) -> Expression {
        let Node::Literal(value) = &literal.node else { return literal };
        let converted = match (value, ty) {
            (Value::Null, _) => Some(Value::Null),
            (Value::Integer(v), Type::Money) => {
                v.checked_mul(self.columns.scale.units()).map(Value::Money)
            }
            // Only numbers that the scale can hold exactly become money. `amount > 0.005` remains a
            // comparison of doubles.
            (Value::Double(v), Type::Money) => self
                .columns
                .scale
                .minor(*v)
                .filter(|minor| self.columns.scale.major(*minor) == *v)
                .map(Value::Money),
            (Value::Integer(v), Type::Double) => Some(Value::Double(*v as f64)),
            (Value::Text(v), Type::Timestamp) => parse_timestamp(v).map(Value::Timestamp),
            (Value::Text(v), Type::Date) => parse_date(v).map(Value::Date),
            _ => None,
        };
        match converted {
            Some(value) => Expression { node: Node::Literal(value), ty },
            None => literal,
        }
    }

    fn arithmetic(&self, operator: Operator, a: Expression, b: Expression) -> Result<Expression> {
        if !a.ty.is_numeric() && a.node != Node::Literal(Value::Null)
            || !b.ty.is_numeric() && b.node != Node::Literal(Value::Null)
        {
            return Err(self.error(
                format!("does arithmetic on a {} and a {}", a.ty.name(), b.ty.name()),
                "use days_between(earlier, later) for time differences",
            ));
        }
        if operator == Operator::Divide {
            return Ok(binary(operator, a.cast(Type::Double), b.cast(Type::Double), Type::Double));
        }
        if operator == Operator::Multiply {
            match (a.ty, b.ty) {
                (Type::Money, Type::Integer) => return Ok(binary(operator, a, b, Type::Money)),
                (Type::Integer, Type::Money) => return Ok(binary(operator, b, a, Type::Money)),
                (Type::Money, _) | (_, Type::Money) => {
                    let (a, b) = (a.cast(Type::Double), b.cast(Type::Double));
                    return Ok(binary(operator, a, b, Type::Double));
                }
                _ => {}
            }
        }
        let (a, b) = self.unify(a, b)?;
        let ty = a.ty;
        Ok(binary(operator, a, b, ty))
    }

    fn in_list(&self, value: Expression, list: &[ast::Expr]) -> Result<Expression> {
        let mut constants = Vec::new();
        for item in list {
            let item = self.as_type_of(self.expression(item)?, value.ty);
            match item {
                Expression { node: Node::Literal(constant), ty } if ty == value.ty => {
                    constants.push(constant);
                }
                _ => {
                    return Err(self.error(
                        "has a list element that is not a constant of the value's type",
                        "",
                    ));
                }
            }
        }
        // In SQL, a null in the list makes the result for any other value null instead of false. An error is
        // less surprising.
        if constants.contains(&Value::Null) {
            return Err(self.error("has a null in its list", "test it with `is null`"));
        }
        Ok(Expression { node: Node::InList(Box::new(value), constants), ty: Type::Boolean })
    }

    fn case(
        &self,
        operand: Option<&ast::Expr>,
        conditions: &[ast::CaseWhen],
        otherwise: Option<&ast::Expr>,
    ) -> Result<Expression> {
        let operand = operand.map(|operand| self.expression(operand)).transpose()?;
        let mut branches = Vec::new();
        for when in conditions {
            let condition = self.expression(&when.condition)?;
            let condition = match &operand {
                Some(operand) => self.compare(Operator::Equal, operand.clone(), condition)?,
                None => self.want_boolean(condition)?,
            };
            branches.push((condition, self.expression(&when.result)?));
        }
        let null = Expression { node: Node::Literal(Value::Null), ty: Type::Text };
        let otherwise = otherwise.map_or(Ok(null), |otherwise| self.expression(otherwise))?;
        let (conditions, mut results): (Vec<Expression>, Vec<Expression>) =
            branches.into_iter().unzip();
        results.push(otherwise);
        let mut results = self.common(results)?;
        let Some(otherwise) = results.pop() else { unreachable!("`otherwise` is one of them") };
        let (ty, otherwise) = (otherwise.ty, Box::new(otherwise));
        let branches = conditions.into_iter().zip(results).collect();
        Ok(Expression { node: Node::Case { branches, otherwise }, ty })
    }

    /// Converts all expressions to one common type.
    fn common(&self, mut list: Vec<Expression>) -> Result<Vec<Expression>> {
        let is_null = |x: &Expression| x.node == Node::Literal(Value::Null);
        let is_literal = |x: &Expression| matches!(x.node, Node::Literal(_));
        // The type of a column takes precedence over that of a literal: `coalesce(amount, 0)` is money.
        let lead = list
            .iter()
            .find(|x| !is_literal(x))
            .or_else(|| list.iter().find(|x| !is_null(x)))
            .or(list.first())
            .map_or(Type::Text, |x| x.ty);
        let mut target = Expression { node: Node::Column(String::new()), ty: lead };
        for expression in list.iter().filter(|x| !is_null(x)) {
            target.ty = self.unify(target.clone(), expression.clone())?.0.ty;
        }
        for expression in &mut list {
            let literal = self.as_type_of(expression.clone(), target.ty);
            *expression = literal.cast(target.ty);
        }
        Ok(list)
    }

    fn cast(&self, value: Expression, data_type: &DataType) -> Result<Expression> {
        let ty = match data_type {
            DataType::Boolean | DataType::Bool => Type::Boolean,
            DataType::BigInt(_) | DataType::Int(_) | DataType::Integer(_) | DataType::Int64 => {
                Type::Integer
            }
            DataType::Double(_) | DataType::DoublePrecision | DataType::Float(_) => Type::Double,
            DataType::Decimal(_) | DataType::Numeric(_) => Type::Money,
            DataType::Varchar(_) | DataType::Text | DataType::String(_) => Type::Text,
            DataType::Timestamp(..) => Type::Timestamp,
            DataType::Date => Type::Date,
            DataType::Custom(name, _) if name.to_string().eq_ignore_ascii_case("money") => {
                Type::Money
            }
            other => {
                return Err(self.error(
                    format!("casts to {other}"),
                    "valid: boolean, bigint, double, decimal, varchar, timestamp, date",
                ));
            }
        };
        let from = value.ty;
        if let (Node::Literal(Value::Text(text)), Type::Timestamp | Type::Date) = (&value.node, ty)
        {
            let literal = self.as_type_of(value.clone(), ty);
            return if literal.ty == ty {
                Ok(literal)
            } else {
                Err(self.error(format!("has `{text}`, which is not a {}", ty.name()), ""))
            };
        }
        let possible = match (from, ty) {
            (x, y) if x == y => true,
            (_, Type::Text) => true,
            (Type::Text, _) => true,
            (Type::Boolean, Type::Integer) | (Type::Integer, Type::Boolean) => true,
            (Type::Date, Type::Timestamp) | (Type::Timestamp, Type::Date) => true,
            (x, y) => x.is_numeric() && y.is_numeric(),
        };
        if !possible {
            let hint = match ty {
                Type::Timestamp | Type::Date => NUMBER_TO_TIMESTAMP,
                _ => "use days_between, year, month, day or hour for times",
            };
            return Err(self.error(format!("casts a {} to {}", from.name(), ty.name()), hint));
        }
        Ok(value.cast(ty))
    }
}

fn is_interval(parsed: &ast::Expr) -> bool {
    matches!(parsed, ast::Expr::Interval(_))
}

/// The length of an interval in microseconds: `interval '1 day 2 hours'`, `interval '1' day` or `interval 1 day`.
fn micros_of(parsed: &ast::Expr) -> Option<i64> {
    let ast::Expr::Interval(interval) = parsed else { return None };
    let ast::Expr::Value(value) = interval.value.as_ref() else { return None };
    let text = match (&value.value, &interval.last_field) {
        (ast::Value::SingleQuotedString(text) | ast::Value::Number(text, _), None) => text.as_str(),
        _ => return None,
    };
    let unit = interval.leading_field.as_ref().map(ToString::to_string);
    let text = unit.map_or(text.to_owned(), |unit| format!("{text} {unit}"));
    let words: Vec<&str> = text.split_whitespace().collect();
    let parts = words.chunks(2).map(|part| {
        let [count, unit] = part else { return None };
        let micros = match unit.to_ascii_lowercase().trim_end_matches('s') {
            "microsecond" => 1,
            "millisecond" => 1_000,
            "second" => 1_000_000,
            "minute" => 60_000_000,
            "hour" => 3_600_000_000,
            "day" => crate::time::DAY,
            "week" => 7 * crate::time::DAY,
            _ => return None,
        };
        count.parse::<i64>().ok()?.checked_mul(micros)
    });
    let parts: Vec<i64> = parts.collect::<Option<_>>()?;
    parts.into_iter().try_fold(0_i64, i64::checked_add).filter(|_| !words.is_empty())
}

fn parse_timestamp(text: &str) -> Option<i64> {
    text.parse::<crate::time::Instant>().ok().or_else(|| parse_naive(text)).map(|instant| instant.0)
}

fn parse_date(text: &str) -> Option<i32> {
    let date: chrono::NaiveDate = text.parse().ok()?;
    Some(date.signed_duration_since(chrono::NaiveDate::from_ymd_opt(1970, 1, 1)?).num_days() as i32)
}

fn boolean(value: bool) -> Expression {
    Expression { node: Node::Literal(Value::Boolean(value)), ty: Type::Boolean }
}

fn binary(operator: Operator, a: Expression, b: Expression, ty: Type) -> Expression {
    Expression { node: Node::Binary(operator, Box::new(a), Box::new(b)), ty }
}

/// Joins conditions from the first to the last, or many of them in pairs, so that they are not nested as deeply.
fn joined(operator: Operator, mut conditions: Vec<Expression>) -> Expression {
    let both = |a, b| binary(operator, a, b, Type::Boolean);
    if conditions.len() > MANY {
        let second = conditions.split_off(conditions.len() / 2);
        return both(joined(operator, conditions), joined(operator, second));
    }
    let joined = conditions.into_iter().reduce(both);
    joined.unwrap_or_else(|| boolean(operator == Operator::And))
}

fn is_null(expression: Expression) -> Expression {
    Expression { node: Node::IsNull(Box::new(expression)), ty: Type::Boolean }
}

fn not(expression: Expression) -> Expression {
    Expression { node: Node::Not(Box::new(expression)), ty: Type::Boolean }
}

fn not_if(negated: bool, expression: Expression) -> Expression {
    if negated { not(expression) } else { expression }
}

//! Checking of function calls: the number and the types of the arguments.

use super::Checker;
use crate::error::{Error, Result};
use crate::expression::convert::{is_timestamp_format, unit_to_micros};
use crate::expression::{Expression, Function, Node, Type, Value};

impl Checker<'_> {
    /// Checks a call of a function by its name or by another name that SQL has for it.
    pub(super) fn named_call(&self, name: &str, arguments: Vec<Expression>) -> Result<Expression> {
        let name = match name {
            "ceiling" => "ceil",
            "pow" => "power",
            "ifnull" => "coalesce",
            "char_length" => "length",
            "substr" => "substring",
            other => other,
        };
        match Function::ALL.iter().find(|(known, _)| *known == name) {
            Some((_, function)) => self.call(*function, arguments),
            None => Err(Error::unknown(
                format!("{}: `{}`", self.place, self.sql),
                "function",
                name,
                Function::ALL.iter().map(|(name, _)| *name),
            )),
        }
    }

    /// Checks the arguments of `to_timestamp`: a number and its unit, or a text and its format.
    fn to_timestamp(&self, arguments: Vec<Expression>) -> Result<Vec<Expression>> {
        let hint = "numbers need a unit, 's', 'ms' or 'us' since 1970; text needs a format such as '%d.%m.%Y %H:%M'";
        let Node::Literal(Value::Text(how)) = &arguments[1].node else {
            return Err(self.error("calls to_timestamp without a quoted unit or format", hint));
        };
        let fits = match arguments[0].ty {
            Type::Integer | Type::Double => unit_to_micros(how).is_some(),
            Type::Text => is_timestamp_format(how) && how.contains('%'),
            _ => false,
        };
        if !fits {
            let ty = arguments[0].ty.name();
            return Err(self.error(format!("calls to_timestamp on a {ty} with `{how}`"), hint));
        }
        Ok(arguments)
    }

    /// Checks a call of a function.
    pub(super) fn call(
        &self,
        function: Function,
        arguments: Vec<Expression>,
    ) -> Result<Expression> {
        use Function as F;
        let count = arguments.len();
        let name = Function::ALL.iter().find(|(_, f)| *f == function).map_or("", |(name, _)| name);
        let arity = match function {
            F::Least | F::Greatest | F::Coalesce | F::Concat => 1..=usize::MAX,
            F::Power
            | F::Nullif
            | F::StartsWith
            | F::EndsWith
            | F::Contains
            | F::DaysBetween
            | F::ToTimestamp
            | F::AddMicroseconds => 2..=2,
            F::Round => 1..=2,
            F::Substring => 2..=3,
            _ => 1..=1,
        };
        if !arity.contains(&count) {
            return Err(self.error(format!("calls {name} with {count} arguments"), ""));
        }
        let wrong = |x: &Expression| {
            self.error(format!("calls {name} on a {}", x.ty.name()), "see docs/expressions.md")
        };
        let all = |arguments: Vec<Expression>, ty: Type| -> Result<Vec<Expression>> {
            arguments
                .into_iter()
                .map(|x| match (x.ty, ty) {
                    (found, want) if found == want => Ok(x),
                    (Type::Integer | Type::Money, Type::Double) => Ok(x.cast(ty)),
                    (Type::Date, Type::Timestamp) => Ok(x.cast(ty)),
                    (_, Type::Text) if function == F::Concat => Ok(x.cast(Type::Text)),
                    _ => {
                        let literal = self.as_type_of(x, ty);
                        if literal.ty == ty { Ok(literal) } else { Err(wrong(&literal)) }
                    }
                })
                .collect()
        };
        let (arguments, ty) = match function {
            F::Abs => match arguments[0].ty {
                ty if ty.is_numeric() => (arguments, ty),
                _ => return Err(wrong(&arguments[0])),
            },
            F::Round | F::Floor | F::Ceil => {
                if count == 2 && !matches!(arguments[1].node, Node::Literal(Value::Integer(0..=9)))
                {
                    return Err(self.error(
                        "rounds to a number of decimal places that is not between 0 and 9",
                        "",
                    ));
                }
                let mut arguments = arguments;
                let places: Vec<Expression> = arguments.drain(1..).collect();
                let mut arguments = all(arguments, Type::Double)?;
                arguments.extend(places);
                (arguments, Type::Double)
            }
            F::Sqrt | F::Ln | F::Log1p | F::Exp | F::Power => {
                (all(arguments, Type::Double)?, Type::Double)
            }
            F::Least | F::Greatest | F::Coalesce | F::Nullif => {
                let arguments = self.common(arguments)?;
                let ty = arguments[0].ty;
                (arguments, ty)
            }
            F::Lower | F::Upper | F::Trim | F::Concat => (all(arguments, Type::Text)?, Type::Text),
            F::Length => (all(arguments, Type::Text)?, Type::Integer),
            F::Substring => {
                let mut arguments = arguments;
                let positions: Vec<Expression> = arguments.drain(1..).collect();
                let mut arguments = all(arguments, Type::Text)?;
                for position in positions {
                    match position.node {
                        Node::Literal(Value::Integer(v))
                            if v >= i64::from(arguments.len() == 1) =>
                        {
                            arguments.push(position);
                        }
                        _ => {
                            return Err(self.error(
                                "wants literal positions in substring, counted from 1",
                                "",
                            ));
                        }
                    }
                }
                (arguments, Type::Text)
            }
            F::StartsWith | F::EndsWith | F::Contains => {
                (all(arguments, Type::Text)?, Type::Boolean)
            }
            F::DaysBetween => (all(arguments, Type::Timestamp)?, Type::Double),
            F::ToTimestamp => (self.to_timestamp(arguments)?, Type::Timestamp),
            F::AddMicroseconds => {
                let mut arguments = arguments;
                let micros: Vec<Expression> = arguments.drain(1..).collect();
                let mut arguments = all(arguments, Type::Timestamp)?;
                if !matches!(micros[0].node, Node::Literal(Value::Integer(_))) {
                    return Err(self.error("adds microseconds that are not a whole number", ""));
                }
                arguments.extend(micros);
                (arguments, Type::Timestamp)
            }
            F::Year | F::Month | F::Day | F::DayOfWeek | F::Hour => {
                (all(arguments, Type::Timestamp)?, Type::Integer)
            }
        };
        Ok(Expression { node: Node::Call(function, arguments), ty })
    }
}

//! Checking of function calls: the number and the types of the arguments.

use super::Checker;
use crate::error::{Error, Result};
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
            F::Power | F::Nullif | F::StartsWith | F::EndsWith | F::Contains | F::DaysBetween => {
                2..=2
            }
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
            F::Year | F::Month | F::Day | F::DayOfWeek | F::Hour => {
                (all(arguments, Type::Timestamp)?, Type::Integer)
            }
        };
        Ok(Expression { node: Node::Call(function, arguments), ty })
    }
}

//! What can be wrong with an expression.

use sqlparser::parser::ParserError;

use crate::error::Problem;
use crate::exit::Exit;

/// A text that is not an expression, or an expression with operands of the wrong types.
#[derive(Debug, thiserror::Error)]
pub enum ExpressionProblem {
    #[error("{place}: `{sql}` is not an SQL expression: {}", plain(error))]
    Syntax { place: String, sql: String, error: ParserError },
    /// `fault` says what the expression does that is not possible.
    #[error("{place}: `{sql}` {fault}")]
    Meaning { place: String, sql: String, fault: String, hint: &'static str },
}

fn plain(error: &ParserError) -> String {
    error.to_string().replace("sql parser error: ", "")
}

impl Problem for ExpressionProblem {
    fn exit(&self) -> Exit {
        Exit::Configuration
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Syntax { .. } => {
                "an expression looks like: event_type = 'purchase' and amount > 10"
            }
            Self::Meaning { hint, .. } => hint,
        };
        (!hint.is_empty()).then(|| hint.to_owned())
    }
}

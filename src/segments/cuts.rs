//! Where the rules of segments cut a score.

use super::spec::Segments;
use crate::expression::{Expression, Node, Operator, Value};

/// A number that a rule compares a column with.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// The segment of the rule.
    pub segment: String,
    /// The condition of the rule, `enter` or `stay`.
    pub part: &'static str,
    /// The column.
    pub column: String,
    /// The number.
    pub at: f64,
    /// Whether the rule takes what is above the number, and not what is below it.
    pub above: bool,
}

/// The numbers that rules compare one of some columns with, in the order of the rules. A condition to stay lists only
/// what the condition to enter does not.
pub fn cuts(segments: &Segments, columns: &[&str]) -> Vec<Cut> {
    let mut cuts: Vec<Cut> = Vec::new();
    for rule in &segments.rules {
        for (part, condition) in [("enter", &rule.enter), ("stay", &rule.stay)] {
            condition.visit(&mut |expression| {
                let Some((column, at, above)) = compared(expression) else { return };
                let segment = &rule.spec.name;
                let known = |cut: &Cut| {
                    cut.segment == *segment
                        && cut.column == column
                        && cut.at == at
                        && cut.above == above
                };
                if columns.contains(&column) && !cuts.iter().any(known) {
                    let (segment, column) = (segment.clone(), column.to_owned());
                    cuts.push(Cut { segment, part, column, at, above });
                }
            });
        }
    }
    cuts
}

/// The column and the number of a comparison of one with the other, and whether it holds above the number.
fn compared(expression: &Expression) -> Option<(&str, f64, bool)> {
    let Node::Binary(operator, left, right) = &expression.node else { return None };
    let greater = match operator {
        Operator::Greater | Operator::GreaterOrEqual => true,
        Operator::Less | Operator::LessOrEqual => false,
        _ => return None,
    };
    let sides = |column, number| Some((column_of(column)?, number_of(number)?));
    let as_written = sides(left, right).map(|(column, at)| (column, at, greater));
    as_written.or_else(|| sides(right, left).map(|(column, at)| (column, at, !greater)))
}

fn column_of(expression: &Expression) -> Option<&str> {
    match &expression.node {
        Node::Column(name) => Some(name),
        Node::Cast(inner) => column_of(inner),
        _ => None,
    }
}

fn number_of(expression: &Expression) -> Option<f64> {
    match &expression.node {
        Node::Literal(Value::Double(number)) => Some(*number),
        Node::Literal(Value::Integer(number)) => Some(*number as f64),
        Node::Cast(inner) => number_of(inner),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::{Columns, Type};
    use crate::segments::tests::rule;

    #[test]
    fn comparisons_of_a_score_with_a_number_are_cuts() {
        let mut columns = Columns::default();
        columns.insert("churn", Type::Double);
        columns.insert("other", Type::Double);
        let risky = rule("risky", "churn >= 0.6 and other < 3", Some("0.5 <= churn"), &columns);
        let calm = rule("calm", "churn < 1 or churn is null", None, &columns);
        let segments = Segments { rules: vec![risky, calm], ..Segments::default() };
        let found: Vec<_> = cuts(&segments, &["churn"])
            .into_iter()
            .map(|cut| (cut.segment, cut.part, cut.at, cut.above))
            .collect();
        let expected = [
            ("risky", "enter", 0.6, true),
            ("risky", "stay", 0.5, true),
            ("calm", "enter", 1.0, false),
        ];
        assert_eq!(
            found,
            expected.map(|(name, part, at, above)| (name.to_owned(), part, at, above))
        );
    }
}

//! Whether the rules give the examples of their file the segments that these must have.

use super::assign::{Assigned, PreviousState, RulePass};
use super::example::Example;
use super::spec::Segments;
use crate::expression::reference::evaluate;
use crate::expression::{Expression, Value};
use crate::time::Instant;

impl Example {
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
        let mut pass = RulePass::new(Some(&before), None, as_of);
        let mut values = self.values.clone();
        for rule in &segments.rules {
            let column = |name: &str| values.get(name).cloned().unwrap_or(Value::Null);
            let holds = |condition: &Expression| {
                evaluate(condition, self.scale, &column) == Value::Boolean(true)
            };
            let holds = [holds(&rule.enter), holds(&rule.stay)];
            let consents = rule.spec.requires_consent.iter();
            let allowed = consents.clone().all(|scope| self.spec.consents.contains(scope));
            pass.apply(rule, holds, allowed);
            let is_in = pass.is_in(&rule.spec.name);
            values.insert(rule.spec.name.clone(), Value::Boolean(is_in));
        }
        pass.end(segments)
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

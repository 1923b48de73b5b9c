//! Assigns customers to segments, given their previous segments.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema};

use super::rule::Rule;
use super::spec::Segments;
use crate::error::{Error, Result};
use crate::expression::polars::evaluate;
use crate::money::Scale;
use crate::sources::consent::{Consent, ConsentPolicy};
use crate::time::{Duration, Instant};

/// One membership, as a row of `segments/` stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The name of the segment.
    pub segment: String,
    /// The version of the segment's rule.
    pub rule: String,
    /// The as-of at which the customer entered the segment.
    pub since: Instant,
    /// The reason for the membership: `enter`, `stay` or `dwell`.
    pub reason: &'static str,
}

/// A membership that has ended at this as-of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The name of the segment.
    pub segment: String,
    /// The as-of at which the customer had entered the segment.
    pub since: Instant,
    /// The reason for the end: `rule` (the rule no longer holds), `purchase` (a purchase ended the dwell),
    /// `expired`, `precedence` (another segment of the group), `consent`, `changed` (the rule has changed and
    /// does not hold), `removed` (the rule does not exist any more) or `gone` (the customer does not exist
    /// any more).
    pub reason: &'static str,
}

/// The segments of one customer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assigned {
    /// All memberships in the order of the rules.
    pub memberships: Vec<Membership>,
    /// The primary segment.
    pub primary: String,
    /// The primary segment at the previous as-of, if there was one.
    pub previous: Option<String>,
    /// The memberships that have ended since the previous as-of.
    pub left: Vec<Left>,
    /// The segments that have expired although their rules still hold, with the versions of the rules.
    pub expired: Vec<(String, String)>,
    /// The segments of the previous as-of that continue.
    pub kept: Vec<String>,
}

impl Assigned {
    /// The memberships that did not exist at the previous as-of.
    pub fn entered(&self) -> impl Iterator<Item = &Membership> {
        self.memberships.iter().filter(|membership| !self.kept.contains(&membership.segment))
    }
}

/// The segments of all customers, and the last segments of former customers.
#[derive(Debug, Default)]
pub struct Assignment {
    /// The segments of each customer, in the order of the customers.
    pub customers: Vec<Assigned>,
    /// The last segments of former customers, by key.
    pub gone: BTreeMap<String, PreviousState>,
}

/// The segments of one customer at an earlier as-of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PreviousState {
    /// The rule's version and the as-of of entry, by segment.
    pub memberships: BTreeMap<String, (String, Instant)>,
    /// The rule's version of each segment that has expired.
    pub expired: BTreeMap<String, String>,
    /// The primary segment.
    pub primary: Option<String>,
}

/// The state of the customers in addition to their features and scores, row by row.
#[derive(Debug, Clone, Copy)]
pub struct CustomerState<'a> {
    /// The segments at the latest earlier as-of.
    pub previous: &'a [Option<PreviousState>],
    /// The instant of each customer's last purchase.
    pub last_purchase: &'a [Option<Instant>],
    /// The consents of each customer.
    pub consent: &'a Consent,
    /// Which consent scoring needs.
    pub policy: &'a ConsentPolicy,
}

/// The results of the rules.
#[derive(Debug, Default)]
pub struct RuleResults {
    /// The segments of each customer, in the order of the rows.
    pub assigned: Vec<Assigned>,
    /// Whether `enter` holds for each customer, by rule.
    pub enter: Vec<Vec<bool>>,
}

/// Assigns segments at `as_of` to the customers of `rows`, in their order. The rules are evaluated one after
/// another, because a rule may name the segments before it.
pub fn assign(
    segments: &Segments,
    rows: &RecordBatch,
    scale: Scale,
    as_of: Instant,
    state: CustomerState<'_>,
) -> Result<RuleResults> {
    let mut customers: Vec<RulePass> = (0..rows.num_rows())
        .map(|row| RulePass::new(state.previous[row].as_ref(), state.last_purchase[row], as_of))
        .collect();
    let (mut columns, mut fields) = (rows.columns().to_vec(), rows.schema().fields().to_vec());
    let mut results = RuleResults::default();
    for (i, rule) in segments.rules.iter().enumerate() {
        let frame = RecordBatch::try_new(Arc::new(Schema::new(fields.clone())), columns.clone())
            .map_err(Error::engine("collecting segments"))?;
        let named = [
            ("\u{0}enter".to_owned(), rule.enter.clone()),
            ("\u{0}stay".to_owned(), rule.stay.clone()),
        ];
        let truths = evaluate(&named, &frame, scale)?;
        let [enter, stay] = [0, 1].map(|of| {
            let truths = truths[of].as_boolean().iter();
            truths.map(|truth| truth == Some(true)).collect::<Vec<bool>>()
        });
        for (row, customer) in customers.iter_mut().enumerate() {
            let consents = rule.spec.requires_consent.iter();
            let allowed = state.consent.is_scored(row, state.policy)
                && consents.clone().all(|scope| state.consent.allows(row, scope));
            customer.apply(rule, [enter[row], stay[row]], allowed);
        }
        results.enter.push(enter);
        if segments.rules[i + 1..].iter().any(|later| later.names(&rule.spec.name)) {
            let members: BooleanArray =
                customers.iter().map(|customer| Some(customer.is_in(&rule.spec.name))).collect();
            fields.push(Arc::new(Field::new(&rule.spec.name, DataType::Boolean, false)));
            columns.push(Arc::new(members));
        }
    }
    results.assigned = customers.into_iter().map(|customer| customer.end(segments)).collect();
    Ok(results)
}

/// One customer during the evaluation of the rules.
pub(super) struct RulePass<'a> {
    before: Option<&'a PreviousState>,
    last_purchase: Option<Instant>,
    as_of: Instant,
    assigned: Assigned,
    groups: Vec<&'a str>,
    primary: Option<&'a str>,
}

impl<'a> RulePass<'a> {
    /// Creates the state of a customer before the first rule.
    pub fn new(
        before: Option<&'a PreviousState>,
        last_purchase: Option<Instant>,
        as_of: Instant,
    ) -> Self {
        let assigned = Assigned::default();
        Self { before, last_purchase, as_of, assigned, groups: Vec::new(), primary: None }
    }

    /// Whether the customer is in a segment by the rules evaluated so far.
    pub fn is_in(&self, name: &str) -> bool {
        self.assigned.memberships.iter().any(|membership| membership.segment == name)
    }

    /// Applies one rule, given whether `enter` and `stay` hold and whether the required consent is given.
    pub fn apply(&mut self, rule: &'a Rule, [enter, stay]: [bool; 2], allowed: bool) {
        let name = &rule.spec.name;
        let was = self.before.and_then(|state| state.memberships.get(name));
        // A membership by another version of the rule does not count, so that a changed rule starts from
        // `enter`.
        let since = was.filter(|(version, _)| *version == rule.version).map(|(_, since)| *since);
        let over = self.before.and_then(|state| state.expired.get(name));
        let barred = enter && over.is_some_and(|version| *version == rule.version);
        let ends =
            |length: Option<Duration>| since.zip(length).map(|(since, length)| since.plus(length));
        let dwells = ends(rule.spec.min_dwell).is_some_and(|end| self.as_of < end);
        let bought = since.is_some_and(|since| self.last_purchase.is_some_and(|at| at >= since));
        let expires = ends(rule.spec.expires).is_some_and(|end| self.as_of >= end);
        let verdict = if !allowed {
            Err("consent")
        } else if rule.spec.group.as_deref().is_some_and(|group| self.groups.contains(&group)) {
            Err("precedence")
        } else if expires || barred {
            Err("expired")
        } else {
            match since {
                // A member stays as well if `enter` holds.
                Some(since) if stay || enter => Ok((since, "stay")),
                Some(since) if dwells && !bought => Ok((since, "dwell")),
                Some(_) if dwells => Err("purchase"),
                Some(_) => Err("rule"),
                None if enter => Ok((self.as_of, "enter")),
                None => Err("changed"),
            }
        };
        if barred || (expires && enter) {
            self.assigned.expired.push((name.clone(), rule.version.clone()));
        }
        match (verdict, was) {
            (Ok((since, reason)), _) => {
                self.groups.extend(rule.spec.group.as_deref());
                self.primary = self.primary.or(Some(name.as_str()).filter(|_| rule.spec.primary));
                let (segment, rule) = (name.clone(), rule.version.clone());
                self.assigned.memberships.push(Membership { segment, rule, since, reason });
                self.assigned.kept.extend(was.map(|_| name.clone()));
            }
            (Err(reason), Some((_, since))) => {
                self.assigned.left.push(Left { segment: name.clone(), since: *since, reason });
            }
            (Err(_), None) => {}
        }
    }

    /// Returns the segments by all rules.
    pub fn end(self, segments: &Segments) -> Assigned {
        let Self { before, as_of, mut assigned, primary, .. } = self;
        assigned.previous = before.and_then(|state| state.primary.clone());
        let otherwise = &segments.otherwise;
        let was = before.and_then(|state| state.memberships.get(otherwise));
        if primary.is_none() {
            let (since, reason) = was.map_or((as_of, "enter"), |(_, since)| (*since, "stay"));
            let (segment, rule) = (otherwise.clone(), String::new());
            assigned.memberships.push(Membership { segment, rule, since, reason });
            assigned.kept.extend(was.map(|_| otherwise.clone()));
        }
        assigned.primary = primary.unwrap_or(otherwise).to_owned();
        for (name, (_, since)) in before.iter().flat_map(|state| &state.memberships) {
            let known = segments.rules.iter().any(|rule| rule.spec.name == *name);
            let reason = match name == otherwise {
                true if primary.is_some() => "rule",
                false if !known => "removed",
                _ => continue,
            };
            assigned.left.push(Left { segment: name.clone(), since: *since, reason });
        }
        assigned
    }
}

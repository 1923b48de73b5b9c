//! Who is in which segment, given who was.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema};

use super::spec::{Rule, Segments};
use crate::error::{Error, Result};
use crate::expression::polars::evaluate;
use crate::money::Scale;
use crate::sources::consent::Consent;
use crate::time::{Duration, Instant};

/// One membership as it is kept in `segments/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The segment.
    pub segment: String,
    /// The version of its rule.
    pub rule: String,
    /// The as-of at which the customer came in.
    pub since: Instant,
    /// Why they are in: `enter`, `stay` or `dwell`.
    pub reason: &'static str,
}

/// A membership that has ended at this as-of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The segment.
    pub segment: String,
    /// The as-of at which the customer had come in.
    pub since: Instant,
    /// Why they are out: `rule` (it no longer holds), `purchase` (which ended the dwell), `expired`,
    /// `precedence` (another of its group), `consent`, `changed` (the rule is another and does not
    /// hold), `removed` (there is no such rule any more) or `gone` (there is no such customer any more).
    pub reason: &'static str,
}

/// The segments of one customer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assigned {
    /// All memberships in the order of the rules.
    pub memberships: Vec<Membership>,
    /// The primary segment.
    pub primary: String,
    /// The primary segment of the last as-of, if there was one.
    pub previous: Option<String>,
    /// What has ended since then.
    pub left: Vec<Left>,
    /// Segments with the versions of their rules that ended by time and whose rules still hold.
    pub expired: Vec<(String, String)>,
    /// Segments of the last as-of that go on.
    pub kept: Vec<String>,
}

impl Assigned {
    /// Memberships that the last as-of did not have.
    pub fn entered(&self) -> impl Iterator<Item = &Membership> {
        self.memberships.iter().filter(|membership| !self.kept.contains(&membership.segment))
    }
}

/// The segments of all customers, and of those who are customers no more what they were.
#[derive(Debug, Default)]
pub struct Assignment {
    /// In the order of the customers.
    pub customers: Vec<Assigned>,
    /// By key.
    pub gone: BTreeMap<String, PreviousState>,
}

/// What an earlier as-of said of one customer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PreviousState {
    /// Rule version and since, by segment.
    pub memberships: BTreeMap<String, (String, Instant)>,
    /// Rule version by segment that has ended by time.
    pub expired: BTreeMap<String, String>,
    /// The primary segment.
    pub primary: Option<String>,
}

/// The state of the customers beside their features and scores, row by row.
#[derive(Debug, Clone, Copy)]
pub struct CustomerState<'a> {
    /// The segments of the latest earlier as-of.
    pub previous: &'a [Option<PreviousState>],
    /// When they last bought.
    pub last_purchase: &'a [Option<Instant>],
    /// What they have consented to.
    pub consent: &'a Consent,
}

/// What the rules give.
#[derive(Debug, Default)]
pub struct RuleResults {
    /// The segments of each customer, in the order of the rows.
    pub assigned: Vec<Assigned>,
    /// By rule for whom `enter` holds.
    pub enter: Vec<Vec<bool>>,
}

/// Assigns segments at `as_of` to the customers of `rows`, in their order. Rules are evaluated one
/// after the other, because a rule may name the segments before it.
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
            .map_err(Error::engine("segments"))?;
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
            let allowed = consents.clone().all(|scope| state.consent.allows(row, scope));
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

/// One customer while the rules are gone through.
pub(super) struct RulePass<'a> {
    before: Option<&'a PreviousState>,
    last_purchase: Option<Instant>,
    as_of: Instant,
    assigned: Assigned,
    groups: Vec<&'a str>,
    primary: Option<&'a str>,
}

impl<'a> RulePass<'a> {
    /// Before any rule.
    pub fn new(
        before: Option<&'a PreviousState>,
        last_purchase: Option<Instant>,
        as_of: Instant,
    ) -> Self {
        let assigned = Assigned::default();
        Self { before, last_purchase, as_of, assigned, groups: Vec::new(), primary: None }
    }

    /// Whether the customer is in a segment by the rules so far.
    pub fn is_in(&self, name: &str) -> bool {
        self.assigned.memberships.iter().any(|membership| membership.segment == name)
    }

    /// Applies one rule, given whether `enter` and `stay` hold and consent is there.
    pub fn apply(&mut self, rule: &'a Rule, [enter, stay]: [bool; 2], allowed: bool) {
        let name = &rule.spec.name;
        let was = self.before.and_then(|state| state.memberships.get(name));
        // A changed rule starts from `enter`.
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
                // Whoever might come in stays as well.
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

    /// What has come of all rules.
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

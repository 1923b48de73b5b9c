//! Who is in which segment, given who was.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;

use super::spec::{Rule, Segments};
use crate::error::Result;
use crate::expression::Expression;
use crate::expression::polars::evaluate;
use crate::money::Scale;
use crate::sources::consent::Consent;
use crate::time::Instant;

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
    /// hold) or `removed` (there is no such rule any more).
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

/// What is known of the customers beside their features and scores, row by row.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The state of the latest earlier as-of.
    pub previous: &'a [Option<PreviousState>],
    /// Who has bought since then.
    pub bought: &'a [bool],
    /// What they have consented to.
    pub consent: &'a Consent,
}

/// Assigns segments at `as_of` to the customers of `rows`, in their order.
pub fn assign(
    segments: &Segments,
    rows: &RecordBatch,
    scale: Scale,
    as_of: Instant,
    known: Known<'_>,
) -> Result<Vec<Assigned>> {
    let masks = masks(segments, rows, scale)?;
    let of_row = |row: usize| {
        let holds: Vec<[bool; 2]> =
            masks.iter().map(|[enter, stay]| [enter[row], stay[row]]).collect();
        let allowed = |rule: &Rule| {
            rule.spec.requires_consent.iter().all(|scope| known.consent.allows(row, scope))
        };
        let before = known.previous[row].as_ref();
        one(segments, &holds, &allowed, before, known.bought[row], as_of)
    };
    Ok((0..rows.num_rows()).map(of_row).collect())
}

/// By rule whether `enter` and `stay` hold, row by row.
pub fn masks(segments: &Segments, rows: &RecordBatch, scale: Scale) -> Result<Vec<[Vec<bool>; 2]>> {
    let rules = segments.rules.iter().enumerate();
    let named: Vec<(String, Expression)> = rules
        .flat_map(|(i, rule)| {
            [
                (format!("\u{0}enter{i}"), rule.enter.clone()),
                (format!("\u{0}stay{i}"), rule.stay.clone()),
            ]
        })
        .collect();
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let arrays = evaluate(&named, rows, scale)?;
    let truths: Vec<Vec<bool>> =
        arrays.iter().map(|a| a.as_boolean().iter().map(|v| v == Some(true)).collect()).collect();
    let mut truths = truths.into_iter();
    let pair = |_: &Rule| [truths.next(), truths.next()].map(Option::unwrap_or_default);
    Ok(segments.rules.iter().map(pair).collect())
}

/// The segments of one customer: `holds` says by rule whether enter and stay do.
pub fn one(
    segments: &Segments,
    holds: &[[bool; 2]],
    allowed: &dyn Fn(&Rule) -> bool,
    before: Option<&PreviousState>,
    bought: bool,
    as_of: Instant,
) -> Assigned {
    let mut assigned = Assigned {
        previous: before.and_then(|state| state.primary.clone()),
        ..Assigned::default()
    };
    let mut groups: Vec<&str> = Vec::new();
    let mut primary: Option<&str> = None;
    for (rule, [enter, stay]) in segments.rules.iter().zip(holds.iter().copied()) {
        let name = &rule.spec.name;
        let was = before.and_then(|state| state.memberships.get(name));
        // A changed rule starts from `enter`.
        let since = was.filter(|(version, _)| *version == rule.version).map(|(_, since)| *since);
        let over = before.and_then(|state| state.expired.get(name));
        let barred = enter && over.is_some_and(|version| *version == rule.version);
        let ends = |length: Option<crate::time::Duration>| {
            since.zip(length).map(|(since, length)| since.plus(length))
        };
        let dwells = ends(rule.spec.min_dwell).is_some_and(|end| as_of < end);
        let expires = ends(rule.spec.expires).is_some_and(|end| as_of >= end);
        let verdict = if !allowed(rule) {
            Err("consent")
        } else if rule.spec.group.as_deref().is_some_and(|group| groups.contains(&group)) {
            Err("precedence")
        } else if expires || barred {
            Err("expired")
        } else {
            match since {
                Some(since) if stay => Ok((since, "stay")),
                Some(since) if dwells && !bought => Ok((since, "dwell")),
                _ if enter => Ok((as_of, "enter")),
                Some(_) if dwells => Err("purchase"),
                Some(_) => Err("rule"),
                None => Err("changed"),
            }
        };
        if barred || (expires && enter) {
            assigned.expired.push((name.clone(), rule.version.clone()));
        }
        match (verdict, was) {
            (Ok((since, reason)), _) => {
                groups.extend(rule.spec.group.as_deref());
                primary = primary.or(Some(name.as_str()).filter(|_| rule.spec.primary));
                let (segment, rule) = (name.clone(), rule.version.clone());
                assigned.memberships.push(Membership { segment, rule, since, reason });
                assigned.kept.extend(was.map(|_| name.clone()));
            }
            (Err(reason), Some((_, since))) => {
                assigned.left.push(Left { segment: name.clone(), since: *since, reason });
            }
            (Err(_), None) => {}
        }
    }
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

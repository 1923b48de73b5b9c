//! The command `segments`: lists the rules, tests them against the expectations of their author, simulates
//! other thresholds, and shows the segments that one customer has been in.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::CommandProblem;
use super::published::{ScoredAsOf, rows_of};
use crate::config::Project;
use crate::engine;
use crate::error::Result;
use crate::exit::Exit;
use crate::expression::Number;
use crate::report::{Output, Table, rows, thousands};
use crate::scoring::summary::{Flow, NEW, Overlap, both, flows, overlaps};
use crate::segments::{Assigned, PreviousState, Segments};
use crate::shard::Shard;
use crate::time::Instant;

/// The greatest number of flows that are printed.
const FLOWS: usize = 20;
/// The greatest number of overlaps that are printed.
const OVERLAPS: usize = 25;

/// Lists the rules by priority with their thresholds, and with their sizes if an as-of was scored.
pub fn list(project: &Project, at: Option<Instant>) -> Result<Output> {
    let store = project.store()?;
    let scored = store.root()?.profile.is_some() || at.is_some();
    let scored = scored.then(|| ScoredAsOf::open(project, at)).transpose()?;
    let sizes = scored.as_ref().map(published_sizes).transpose()?;
    let segments = &project.segments;
    let mut json = Vec::new();
    let mut table = Table::new(&[
        "segment",
        "members",
        "as primary",
        "group",
        "min_dwell",
        "expires",
        "needs consent to",
    ]);
    let mut conditions = String::new();
    let option = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    for name in segments.names() {
        let size = sizes.as_ref().map(|sizes| sizes.get(name).copied().unwrap_or_default());
        let count = |count: Option<u64>| option(count.map(thousands));
        let rule = segments.rules.iter().find(|rule| rule.spec.name == name);
        let is_primary = rule.is_none_or(|rule| rule.spec.primary);
        let spec = rule.map(|rule| &rule.spec);
        table.row([
            name.to_owned(),
            count(size.map(|size| size.0)),
            count(size.map(|size| size.1).filter(|_| is_primary)),
            option(spec.and_then(|spec| spec.group.clone())),
            option(spec.and_then(|spec| spec.min_dwell).map(|length| length.to_string())),
            option(spec.and_then(|spec| spec.expires).map(|length| length.to_string())),
            option(spec.map(|spec| spec.requires_consent.join(", ")).filter(|s| !s.is_empty())),
        ]);
        json.push(json!({ "segment": name, "members": size.map(|s| s.0), "primary": size.map(|s| s.1), "rule": spec }));
        conditions += name;
        match spec {
            Some(spec) => {
                conditions += &match spec.description.as_str() {
                    "" => String::new(),
                    description => format!(": {description}"),
                };
                conditions += &format!("\n    enter  {}\n", spec.enter);
                if let Some(stay) = &spec.stay {
                    conditions += &format!("    stay   {stay}\n");
                }
            }
            None => conditions += ": all customers that no primary rule holds for\n",
        }
    }
    let mut text = format!("{}\n{conditions}", table.render());
    if !segments.thresholds.is_empty() {
        let mut table = Table::new(&["threshold", "value"]);
        for (name, value) in &segments.thresholds {
            table.row([name.clone(), value.to_string()]);
        }
        text += &format!("\n{}", table.render());
    }
    let as_of = scored.map(|scored| scored.as_of);
    if let Some(as_of) = as_of {
        text = format!("segments as of {as_of}\n\n{text}");
    }
    let json = json!({ "as_of": as_of, "segments": json, "thresholds": segments.thresholds });
    Ok(Output { text, json })
}

/// Tests the rules against the examples of their file and, if an as-of was scored, against its customers. The
/// exit status says whether all tests pass.
pub fn test(project: &Project, at: Option<Instant>) -> Result<(Output, Exit)> {
    let segments = &project.segments;
    let mut faults: Vec<String> = Vec::new();
    for (i, example) in segments.examples.iter().enumerate() {
        if let Some(fault) = example.fault(segments) {
            let description = match example.spec.description.as_str() {
                "" => String::new(),
                description => format!(" ({description})"),
            };
            faults.push(format!("example {}{description}: {fault}", i + 1));
        }
    }
    let examples = segments.examples.len();
    let rules = segments.rules.len();
    let mut text = format!(
        "rules: {rules}, each with known columns, none that nobody can meet or that is always forestalled\nexamples: {} of {examples} are as they must be\n",
        examples - faults.len()
    );
    let mut json = json!({ "rules": rules, "examples": examples });
    if project.store()?.root()?.profile.is_some() || at.is_some() {
        let scored = ScoredAsOf::open(project, at)?;
        let names: Vec<&str> = segments.names().collect();
        let mut all = Tally::default();
        engine::run(
            scored.shards(),
            |shard| Tally::of(&scored, shard, segments, &names),
            |_, tally| all.add(tally),
        )?;
        let (as_of, moved) = (scored.as_of, all.moved);
        if all.without_primary > 0 {
            let count = all.without_primary;
            faults.push(format!("{count} customers have no primary segment as of {as_of}"));
        }
        let customers = thousands(all.customers as u64);
        text += &format!("{customers} customers as of {as_of}, each with one primary segment\n");
        text += &match moved {
            0 => "the rules give what was published\n".to_owned(),
            _ => format!(
                "the rules have changed since: {} customers would be in other segments (see `segments simulate`)\n",
                thousands(moved as u64)
            ),
        };
        let (own, table) = conditions(segments, &all);
        let overlaps = all.overlaps(&names);
        if rules > 0 {
            text += &format!("\n{table}");
        }
        if !overlaps.is_empty() {
            text += &format!("\n{}", overlap_text(&overlaps));
        }
        json["as_of"] = json!(as_of);
        json["customers"] = json!(all.customers);
        json["moved"] = json!(moved);
        json["conditions"] = own;
        json["overlaps"] = json!(overlaps);
    }
    if !faults.is_empty() {
        text += &format!("\n{}\n", faults.join("\n"));
    }
    json["faults"] = json!(faults);
    Ok((Output { text, json }, Exit::Contract.unless(faults.is_empty())))
}

/// Simulates other thresholds, or rules that have changed since the run, on the published as-of.
pub fn simulate(
    project: &Project,
    set: &[(String, Number)],
    at: Option<Instant>,
) -> Result<Output> {
    let scale = project.context().scale;
    let segments = project.segments.with_thresholds(
        set,
        &project.catalog,
        &project.models,
        &project.profile,
        scale,
    )?;
    let scored = ScoredAsOf::open(project, at)?;
    let names: Vec<&str> = segments.names().collect();
    let mut all = Tally::default();
    engine::run(
        scored.shards(),
        |shard| Tally::of(&scored, shard, &segments, &names),
        |_, tally| all.add(tally),
    )?;
    let mut table = Table::new(&[
        "segment",
        "members",
        "would be",
        "change",
        "as primary",
        "would be",
        "change",
    ]);
    let mut json_sizes = Vec::new();
    let published = all.published.keys().map(String::as_str);
    let gone = published.filter(|name| !names.contains(name));
    for name in names.iter().copied().chain(gone) {
        let size = |sizes: &Sizes| sizes.get(name).copied().unwrap_or_default();
        let (before, after) = (size(&all.published), size(&all.now));
        table.row([
            name.to_owned(),
            thousands(before.0),
            thousands(after.0),
            change(before.0, after.0),
            thousands(before.1),
            thousands(after.1),
            change(before.1, after.1),
        ]);
        json_sizes.push(json!({ "segment": name, "members": [before.0, after.0], "primary": [before.1, after.1] }));
    }
    let flows = all.flows();
    let moved: Vec<&Flow> = flows.iter().filter(|flow| flow.from != flow.to).collect();
    let customers: usize = moved.iter().map(|flow| flow.customers).sum();
    let settings: Vec<String> =
        set.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    let mut text = format!(
        "segments as of {} {}; nothing is written\n\n{}\n{} of {} customers would have another primary segment\n",
        scored.as_of,
        match settings.is_empty() {
            true => "by the rules as they are now".to_owned(),
            false => format!("with {}", settings.join(", ")),
        },
        table.render(),
        thousands(customers as u64),
        thousands(all.customers as u64),
    );
    if !moved.is_empty() {
        let mut table = Table::new(&["from", "to", "customers"]);
        for flow in moved.iter().take(FLOWS) {
            table.row([flow.from.clone(), flow.to.clone(), thousands(flow.customers as u64)]);
        }
        text += &format!("\n{}", table.render());
    }
    let json = json!({
        "as_of": scored.as_of,
        "set": set.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<serde_json::Map<_, _>>(),
        "segments": json_sizes,
        "moved": customers,
        "flows": flows,
    });
    Ok(Output { text, json })
}

/// Shows when and why one customer entered and left segments.
pub fn history(project: &Project, id: &str) -> Result<Output> {
    let store = project.store()?;
    let root = store.root()?;
    let names =
        ["as_of", "previous_as_of", "change", "segment", "reason", "since", "primary_segment"];
    let mut table = Table::new(&names);
    let mut json = Vec::new();
    for date in root.as_ofs("segment_changes") {
        let folder = format!("segment_changes/as_of={date}");
        let Some(found) = rows_of(&store, &root, &folder, id)? else { continue };
        let cell = |name: &str, row: usize| {
            found.column_by_name(name).map_or_else(String::new, |column| rows::cell(column, row))
        };
        for row in 0..found.num_rows() {
            table.row(names.map(|name| cell(name, row)));
        }
        json.extend(rows::objects(&found));
    }
    if json.is_empty() {
        return Err(CommandProblem::NeverInASegment { customer: id.to_owned() }.into());
    }
    let text = format!("{id}\n\n{}", table.render());
    Ok(Output { text, json: json!({ "customer360_id": id, "changes": json }) })
}

fn change(before: u64, after: u64) -> String {
    match after.checked_sub(before) {
        Some(0) => "-".to_owned(),
        Some(more) => format!("+{}", thousands(more)),
        None => format!("-{}", thousands(before - after)),
    }
}

/// The number of members of each segment, and the number of customers whose primary segment it is.
type Sizes = BTreeMap<String, (u64, u64)>;

/// Counts the sizes of the published segments.
fn published_sizes(scored: &ScoredAsOf<'_>) -> Result<Sizes> {
    let mut all = Sizes::new();
    let of_shard = |shard| Ok(sizes(&scored.segments(shard)?));
    engine::run(scored.shards(), of_shard, |_, sizes| {
        add_sizes(&mut all, sizes);
        Ok(())
    })?;
    Ok(all)
}

fn sizes(states: &[Option<PreviousState>]) -> Sizes {
    let mut sizes = Sizes::new();
    for state in states.iter().flatten() {
        for name in state.memberships.keys() {
            sizes.entry(name.clone()).or_default().0 += 1;
        }
        if let Some(primary) = &state.primary {
            sizes.entry(primary.clone()).or_default().1 += 1;
        }
    }
    sizes
}

fn add_sizes(sizes: &mut Sizes, more: Sizes) {
    for (name, (members, primary)) in more {
        let size = sizes.entry(name).or_default();
        *size = (size.0 + members, size.1 + primary);
    }
}

/// Counts of what the rules give and of what was published. Tallies of different customers can be added.
#[derive(Default)]
struct Tally {
    customers: usize,
    /// The number of published customers without a primary segment among their memberships.
    without_primary: usize,
    /// The number of customers whose segments or primary segment differ.
    moved: usize,
    published: Sizes,
    now: Sizes,
    /// The number of customers that satisfy `enter`, by rule.
    enter: Vec<usize>,
    /// The number of customers by published and simulated primary segment.
    flows: BTreeMap<(String, String), usize>,
    /// The number of customers in both segments of a pair, by the positions of the two.
    both: Vec<Vec<usize>>,
}

impl Tally {
    fn of(
        scored: &ScoredAsOf<'_>,
        shard: Shard,
        segments: &Segments,
        names: &[&str],
    ) -> Result<Self> {
        let Some(published) = scored.shard(shard)? else { return Ok(Self::default()) };
        let results = published.assign(scored, segments)?;
        let mut tally = Self {
            customers: results.assigned.len(),
            published: sizes(&published.segments),
            enter: results.enter.iter().map(|e| e.iter().filter(|holds| **holds).count()).collect(),
            both: both(names, &results.assigned),
            ..Self::default()
        };
        for (state, assigned) in published.segments.iter().zip(&results.assigned) {
            let primary = state.as_ref().and_then(|state| state.primary.as_ref());
            let has = |state: &PreviousState| {
                primary.is_some_and(|name| state.memberships.contains_key(name))
            };
            tally.without_primary += usize::from(!state.as_ref().is_some_and(has));
            tally.moved += usize::from(differs(state.as_ref(), assigned));
            for membership in &assigned.memberships {
                let size = tally.now.entry(membership.segment.clone()).or_default();
                size.0 += 1;
                size.1 += u64::from(membership.segment == assigned.primary);
            }
            let from = primary.map_or_else(|| NEW.to_owned(), Clone::clone);
            *tally.flows.entry((from, assigned.primary.clone())).or_default() += 1;
        }
        Ok(tally)
    }

    fn add(&mut self, other: Self) -> Result<()> {
        self.customers += other.customers;
        self.without_primary += other.without_primary;
        self.moved += other.moved;
        add_sizes(&mut self.published, other.published);
        add_sizes(&mut self.now, other.now);
        self.enter.resize(self.enter.len().max(other.enter.len()), 0);
        self.enter.iter_mut().zip(other.enter).for_each(|(own, more)| *own += more);
        for (pair, customers) in other.flows {
            *self.flows.entry(pair).or_default() += customers;
        }
        self.both.resize(self.both.len().max(other.both.len()), Vec::new());
        for (own, more) in self.both.iter_mut().zip(other.both) {
            own.resize(own.len().max(more.len()), 0);
            own.iter_mut().zip(more).for_each(|(own, more)| *own += more);
        }
        Ok(())
    }

    fn flows(&self) -> Vec<Flow> {
        flows(&self.flows)
    }

    fn overlaps(&self, names: &[&str]) -> Vec<Overlap> {
        if self.both.is_empty() { Vec::new() } else { overlaps(names, &self.both) }
    }
}

/// Whether the segments or the primary segment of a customer differ from those that were published.
fn differs(state: Option<&PreviousState>, assigned: &Assigned) -> bool {
    let Some(state) = state else { return true };
    let now = assigned.memberships.iter().map(|m| m.segment.as_str());
    state.primary.as_deref() != Some(&assigned.primary)
        || !state.memberships.keys().map(String::as_str).eq(now.collect::<BTreeSet<_>>())
}

/// Renders for how many customers `enter` of each rule holds, with a note on rules that have no effect.
fn conditions(segments: &Segments, tally: &Tally) -> (serde_json::Value, String) {
    let mut table = Table::new(&["segment", "enter holds for", "members", "as primary", "note"]);
    let mut json = Vec::new();
    for (place, rule) in segments.rules.iter().enumerate() {
        let name = rule.spec.name.as_str();
        let holds = tally.enter.get(place).copied().unwrap_or(0);
        let (members, primary) = tally.now.get(name).copied().unwrap_or_default();
        let note = match () {
            () if holds == 0 => "holds for no customer",
            () if rule.spec.primary && primary == 0 => {
                "never the primary segment: rules before it hold"
            }
            () => "",
        };
        table.row([
            name.to_owned(),
            thousands(holds as u64),
            thousands(members),
            if rule.spec.primary { thousands(primary) } else { "-".to_owned() },
            note.to_owned(),
        ]);
        json.push(json!({ "segment": name, "enter": holds, "members": members, "primary": primary, "note": note }));
    }
    (json!(json), table.render())
}

/// Renders the greatest overlaps, ordered by the share of customers in both among the customers in either.
fn overlap_text(overlaps: &[Overlap]) -> String {
    let mut table =
        Table::new(&["segment", "overlaps with", "in both", "of the one", "of the other"]);
    let either = |o: &Overlap| o.both as f64 / (o.members + o.other_members - o.both) as f64;
    let mut greatest: Vec<&Overlap> = overlaps.iter().collect();
    greatest.sort_by(|a, b| either(b).total_cmp(&either(a)));
    for overlap in greatest.iter().take(OVERLAPS) {
        let share = |of: usize| format!("{:.1} %", 100.0 * overlap.both as f64 / of.max(1) as f64);
        table.row([
            overlap.segment.clone(),
            overlap.other.clone(),
            thousands(overlap.both as u64),
            share(overlap.members),
            share(overlap.other_members),
        ]);
    }
    match overlaps.len().saturating_sub(OVERLAPS) {
        0 => table.render(),
        more => format!("{}and {more} smaller ones: --format json has all\n", table.render()),
    }
}

//! The commands `features plan | diff`: show the effect of changed definitions, and the differences between
//! two snapshots.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::CommandProblem;
use super::lineage::lineage;
use super::timelines;
use crate::config::Project;
use crate::error::Result;
use crate::features::registry::{self, SnapshotRecord};
use crate::report::{Output, Table, thousands};
use crate::time::Instant;

/// The way in which a column of the catalog differs from the column of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    New,
    Changed,
    Gone,
}

impl Change {
    fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::Gone => "gone",
        }
    }
}

/// Lists the features that `features build` would compute again because their definitions have changed, with
/// their uses. The command computes and writes nothing.
pub fn plan(project: &Project) -> Result<Output> {
    let store = project.store()?;
    let root = store.root()?;
    let mut changes: BTreeMap<(&str, String, Change), usize> = BTreeMap::new();
    let mut outdated: BTreeMap<&str, Vec<Instant>> = BTreeMap::new();
    let mut unrecorded = 0;
    for view in &project.catalog.views {
        let snapshots = registry::snapshots(&store, &root, &view.name)?;
        let recorded: BTreeSet<String> = snapshots.iter().map(|s| s.as_of.at.folder()).collect();
        let folder = format!("features/{}", view.name);
        unrecorded += root.as_ofs(&folder).iter().filter(|at| !recorded.contains(**at)).count();
        for snapshot in &snapshots {
            let mut of_snapshot: Vec<(String, Change)> = snapshot
                .outdated(&project.catalog)
                .map(|feature| {
                    let is_there = snapshot.columns.contains_key(feature.column());
                    let change = if is_there { Change::Changed } else { Change::New };
                    (feature.column().to_owned(), change)
                })
                .collect();
            let in_view = |name: &&String| {
                project.catalog.get(name).is_some_and(|feature| feature.view == view.name)
            };
            let gone = snapshot.columns.keys().filter(|name| !in_view(name));
            of_snapshot.extend(gone.map(|name| (name.clone(), Change::Gone)));
            if !of_snapshot.is_empty() {
                outdated.entry(&view.name).or_default().push(snapshot.as_of.at);
            }
            for (column, change) in of_snapshot {
                *changes.entry((&view.name, column, change)).or_default() += 1;
            }
        }
    }
    let mut table = Table::new(&["view", "feature", "change", "snapshots", "used by", "fills"]);
    let mut listed = Vec::new();
    for ((view, column, change), count) in &changes {
        let lineage = project.catalog.get(column).map(|feature| lineage(project, feature));
        let lineage = lineage.unwrap_or_default();
        let users: Vec<&str> =
            lineage.models.iter().chain(&lineage.segments).map(String::as_str).collect();
        let fields: Vec<&str> = lineage.fields.iter().map(String::as_str).collect();
        table.row([
            *view,
            column,
            change.name(),
            &count.to_string(),
            &users.join(", "),
            &fields.join(", "),
        ]);
        listed.push(json!({
            "view": view, "feature": column, "change": change.name(), "snapshots": count,
            "lineage": lineage,
        }));
    }
    let all_because = timelines::unfit(project, &store, &root, &[])?;
    let mut text = match changes.is_empty() {
        true => "every snapshot was computed by the definitions that are there\n".to_owned(),
        false => table.render() + "\n",
    };
    for (view, as_ofs) in &outdated {
        text += &format!(
            "{view}: {} to be computed again, {} to {}\n",
            snapshots(as_ofs.len()),
            as_ofs[0].folder(),
            as_ofs[as_ofs.len() - 1].folder()
        );
    }
    if unrecorded > 0 {
        text += &format!(
            "{} without a record of the definitions that it was computed by\n",
            snapshots(unrecorded)
        );
    }
    if let Some(reason) = &all_because {
        text += &format!("the next build reads all event files, because {reason}\n");
    }
    if !outdated.is_empty() {
        text +=
            "models score by the definitions they were trained with until they are trained again\n";
    }
    let json = json!({
        "changes": listed, "snapshots": outdated, "unrecorded": unrecorded,
        "all_events_because": all_because,
    });
    Ok(Output { text, json })
}

fn snapshots(count: usize) -> String {
    format!("{count} snapshot{}", if count == 1 { "" } else { "s" })
}

/// Compares the columns of the snapshots at two as-ofs: definitions, shares of nulls, means, ranges and
/// numbers of distinct values.
pub fn diff(project: &Project, at: Instant, against: Instant) -> Result<Output> {
    let store = project.store()?;
    let root = store.root()?;
    let mut table = Table::new(&[
        "feature", "", "nulls", "was", "mean", "was", "min", "was", "max", "was", "distinct", "was",
    ]);
    let (mut columns, mut rows, mut found) = (Vec::new(), Vec::new(), 0);
    for view in &project.catalog.views {
        let read = |at: Instant| -> Result<Option<SnapshotRecord>> {
            let path = registry::path(&view.name, at);
            let is_live = store.has(&root, &path)?;
            is_live.then(|| store.read_json(&root, &path)).transpose()
        };
        let (Some(new), Some(old)) = (read(at)?, read(against)?) else { continue };
        found += 1;
        rows.push(format!(
            "{}: {} rows, was {}",
            view.name,
            thousands(new.rows),
            thousands(old.rows)
        ));
        let names: BTreeSet<&String> = new.columns.keys().chain(old.columns.keys()).collect();
        for name in names {
            let (a, b) = (new.columns.get(name), old.columns.get(name));
            let change = match (a, b) {
                (Some(a), Some(b)) if a.version == b.version => "",
                (Some(_), Some(_)) => "redefined",
                (Some(_), None) => "new",
                _ => "gone",
            };
            let cell = |column: Option<&registry::Column>, of: fn(&registry::Column) -> String| {
                column.map_or_else(|| "-".to_owned(), of)
            };
            let nulls: fn(&registry::Column) -> String =
                |c| format!("{:.1}%", 100.0 * c.null_share);
            let mean: fn(&registry::Column) -> String =
                |c| c.mean.map_or_else(|| "-".to_owned(), short);
            let min: fn(&registry::Column) -> String = |c| value(&c.min);
            let max: fn(&registry::Column) -> String = |c| value(&c.max);
            let distinct: fn(&registry::Column) -> String = |c| thousands(c.distinct);
            let mut row = vec![name.clone(), change.to_owned()];
            for of in [nulls, mean, min, max, distinct] {
                row.extend([cell(a, of), cell(b, of)]);
            }
            table.row(row);
            columns.push(json!({
                "view": view.name, "feature": name, "change": change, "is": a, "was": b,
            }));
        }
    }
    if found == 0 {
        let known = root.as_ofs(registry::FOLDER);
        let known = known.into_iter().map(str::to_owned).collect();
        let (at, against) = (at.folder(), against.folder());
        return Err(CommandProblem::NoRecords { at, against, known }.into());
    }
    let text = format!("{}\n\n{}", rows.join("\n"), table.render());
    Ok(Output { text, json: json!({ "as_of": at, "against": against, "columns": columns }) })
}

/// Formats a number with few digits.
fn short(number: f64) -> String {
    let digits = if number.abs() >= 100.0 { 1 } else { 4 };
    let text = format!("{number:.digits$}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    text.to_owned()
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Number(number) => short(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => text.trim_end_matches("T00:00:00Z").chars().take(20).collect(),
        other => other.to_string(),
    }
}

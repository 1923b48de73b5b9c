//! The commands `history` and `gc`: the roots of a store, and their end.

use serde_json::json;

use super::now;
use crate::error::{Error, Result};
use crate::report::{Output, Table, thousands};
use crate::store::{Keep, Store};
use crate::time::Duration;

/// Lists the roots of the store, the latest first: when each was published, by which command, and what it made live.
pub fn history(store: &Store) -> Result<Output> {
    let roots = store.roots()?;
    let mut table =
        Table::new(&["root", "published", "by", "profile as of", "folders", "of these changed"]);
    let mut listed = Vec::new();
    for (place, root) in roots.iter().enumerate().rev() {
        let before = place.checked_sub(1).and_then(|before| roots.get(before));
        let is_new = |folder: &String| {
            before.is_none_or(|before| before.folders.get(folder) != root.folders.get(folder))
        };
        let new = root.folders.keys().filter(|folder| is_new(folder)).count();
        let published = root.published.map_or("-".to_owned(), |at| at.to_string());
        let profile = root.profile.as_ref().map_or("-".to_owned(), |p| p.as_of.folder());
        table.row([
            root.number.to_string(),
            published,
            root.command.clone(),
            profile,
            thousands(root.folders.len() as u64),
            thousands(new as u64),
        ]);
        listed.push(json!({
            "root": root.number,
            "published": root.published,
            "command": root.command,
            "profile": root.profile,
            "champions": root.champions,
            "folders": root.folders.len(),
            "changed_folders": new,
        }));
    }
    Ok(Output { text: table.render(), json: json!(listed) })
}

/// Removes roots but the latest ones, and what no root names any more.
///
/// # Errors
/// Returns a configuration error if no root is to be kept.
pub fn gc(store: &Store, keep: usize, grace: Duration, dry_run: bool) -> Result<Output> {
    if keep == 0 {
        return Err(Error::setting("command line", "--keep", keep, "at least 1", "--keep 30"));
    }
    let keep = Keep { roots: keep, grace, now: now() };
    let removed = store.collect_garbage(&keep, dry_run, now)?;
    let bytes: u64 = removed.objects.iter().map(|object| object.bytes).sum();
    let verb = if dry_run { "would be removed" } else { "were removed" };
    let text = format!(
        "{} roots and {} objects of {:.1} MB {verb}; {} roots are kept\n",
        thousands(removed.roots.len() as u64),
        thousands(removed.objects.len() as u64),
        bytes as f64 / 1e6,
        thousands(removed.kept as u64),
    );
    let paths: Vec<&str> = removed.objects.iter().map(|object| object.path.as_str()).collect();
    let json = json!({
        "dry_run": dry_run,
        "roots": removed.roots,
        "objects": paths,
        "bytes": bytes,
        "kept": removed.kept,
    });
    Ok(Output { text, json })
}

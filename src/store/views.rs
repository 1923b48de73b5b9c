//! SQL views for DuckDB over the live files of a root.

use std::collections::{BTreeMap, BTreeSet};

use super::objects::Objects;
use super::root::Root;
use crate::error::Result;

/// The object of the views.
pub const VIEWS: &str = "current.sql";
/// What the first line of the views begins with. The number of the root follows.
const FIRST: &str = "-- Views over the live files of root ";
/// The tables of a scored as-of.
const TABLES: [&str; 5] = ["profile", "scores", "segments", "segment_changes", "recommendations"];

/// The objects that manifests name, by the object of the manifest. They are kept beside the views, so that a run need not
/// read the manifests of a long history to render them.
pub type Named = BTreeMap<String, Vec<String>>;

/// The first line of the views of a root.
pub fn first_line(number: u64) -> String {
    format!("{FIRST}{number} of this store: duckdb -init current.sql\n")
}

/// The number of the root that the views were made from; `None` if there are no views.
pub fn shown_root(objects: &Objects) -> Result<Option<u64>> {
    let views = objects.get(VIEWS)?.unwrap_or_default();
    let views = String::from_utf8_lossy(&views).into_owned();
    let number = views.strip_prefix(FIRST).and_then(|rest| rest.split(' ').next());
    Ok(number.and_then(|number| number.parse().ok()))
}

/// Renders the views for DuckDB: each table at the as-of of the current profile, and with `_history` at all as-ofs.
/// `place` is where the store is.
pub fn views(root: &Root, named: &Named, place: &str) -> String {
    let mut sql = first_line(root.number);
    let views = root.folders_in("features").filter_map(|folder| folder.split('/').nth(1));
    let views: BTreeSet<&str> = views.collect();
    let views = views.into_iter().map(|v| (format!("features/{v}"), format!("features_{v}")));
    let tables = TABLES.map(|table| (table.to_owned(), table.to_owned()));
    let paths = |folder: &str| {
        let manifests = root.folders_in(folder).filter_map(|folder| root.folders.get(folder));
        let paths = manifests.filter_map(|manifest| named.get(&manifest.object)).flatten();
        paths.map(|path| format!("{place}/{path}")).collect::<Vec<_>>()
    };
    for (table, name) in tables.into_iter().chain(views) {
        if let Some(profile) = &root.profile {
            sql +=
                &view(&name, &paths(&format!("{table}/as_of={}", profile.as_of.folder())), place);
        }
        sql += &view(&format!("{name}_history"), &paths(&table), place);
    }
    sql
}

/// Whether the views show the files of a folder.
pub fn is_shown(folder: &str) -> bool {
    let table = folder.split('/').next().unwrap_or_default();
    folder != table && (TABLES.contains(&table) || table == "features")
}

fn view(name: &str, paths: &[String], place: &str) -> String {
    if paths.is_empty() {
        return String::new();
    }
    let literals: Vec<String> =
        paths.iter().map(|path| format!("'{}'", path.replace('\'', "''"))).collect();
    // The folders that the store is in are no columns of its tables.
    let foreign: Vec<String> = place
        .split('/')
        .filter_map(|folder| Some(folder.split_once('=')?.0))
        .map(|key| format!("\"{}\"", key.replace('"', "\"\"")))
        .collect();
    let columns = match foreign.is_empty() {
        true => "*".to_owned(),
        false => format!("* exclude ({})", foreign.join(", ")),
    };
    format!(
        "create or replace view \"{name}\" as select {columns} from read_parquet([{}], hive_partitioning = true, union_by_name = true);\n",
        literals.join(", ")
    )
}

//! What an analyst looks at: SQL views over exactly the live files, and links to the current profile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::objects::Objects;
use super::reader::Store;
use super::root::{LiveFile, ManifestRef, Root};
use crate::error::{Error, Result};

/// The tables of a scored as-of.
const TABLES: [&str; 5] = ["profile", "scores", "segments", "segment_changes", "recommendations"];
/// The SQL views over the live files.
const VIEWS: &str = "current.sql";
/// What the first line of the views begins with. The number of the root follows.
const FIRST: &str = "-- Views over the live files of root ";
/// The objects that the views name.
const NAMED: &str = "views.json";
/// The folder of links to the files of the current profile.
const LINKS: &str = "profile/current";

/// The objects that manifests name, by the object of the manifest. They are kept beside the views, so that a run need not
/// read the manifests of a long history to render them.
type Named = BTreeMap<String, Vec<String>>;

impl Store {
    /// Brings what is made from a root up to date: the links to the current profile and the views, which are written
    /// last and name the root in their first line. A run that died may have left those of the root before.
    pub(super) fn catch_up(&self, objects: &Objects, root: &Root) -> Result<()> {
        let first_line = first_line(root.number);
        let there = objects.get(VIEWS)?;
        if there.is_some_and(|there| there.starts_with(first_line.as_bytes())) {
            return Ok(());
        }
        self.link_profile(root)?;
        let place = match self.is_remote() {
            true => self.path().to_owned(),
            false => std::path::absolute(self.path()).unwrap_or_else(|_| self.path().to_owned()),
        };
        let before = objects.get(NAMED)?;
        let before = before.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let before: Named = before.unwrap_or_default();
        let named = self.named(root, &before)?;
        let views = views(root, &named, &place.to_string_lossy());
        if named != before {
            let text = serde_json::to_vec(&named).map_err(Error::engine("writing JSON"))?;
            objects.put(NAMED, text)?;
        }
        objects.put(VIEWS, views.into_bytes())
    }

    /// The objects of the tables that views show, as far as they are not known from `before` without a request.
    fn named(&self, root: &Root, before: &Named) -> Result<Named> {
        let is_shown =
            |folder: &str| TABLES.iter().chain(&["features"]).any(|table| is_of(folder, table));
        let shown = || root.folders.iter().filter(|(folder, _)| is_shown(folder));
        let unknown = shown().filter(|(_, manifest)| !before.contains_key(&manifest.object));
        self.load_manifests(root, unknown.map(|(folder, _)| folder))?;
        let of = |(folder, manifest): (&String, &ManifestRef)| -> Result<(String, Vec<String>)> {
            let paths = match before.get(&manifest.object) {
                Some(paths) => paths.clone(),
                None => {
                    let files = &self.manifest(root, folder)?.files;
                    files.values().map(|file| file.object.clone()).collect()
                }
            };
            Ok((manifest.object.clone(), paths))
        };
        shown().map(of).collect()
    }

    /// Links the files of the current profile, so that a folder has these and no others. Where a system or a bucket has
    /// no links, nothing is done.
    ///
    /// # Errors
    /// Returns an I/O error if a link cannot be made.
    fn link_profile(&self, root: &Root) -> Result<()> {
        let store = self.path();
        #[cfg(unix)]
        if let Some(profile) = root.profile.as_ref().filter(|_| !self.is_remote()) {
            use std::os::unix::fs::symlink;
            let links = store.join(LINKS);
            // A new folder of links takes the place of the old one at once.
            let own = store.join(format!("profile/.current-{:06}", root.number));
            let _ = std::fs::remove_dir_all(&own);
            std::fs::create_dir_all(&own).map_err(Error::io("create", &own))?;
            let folder = format!("profile/as_of={}", profile.as_of.folder());
            for name in self.below(root, &folder)? {
                let Some(LiveFile { object, .. }) = self.live(root, &name)? else { continue };
                let file = object.rsplit('/').next().unwrap_or(&object);
                let target = Path::new("..").join(object.trim_start_matches("profile/"));
                let link = own.join(file);
                symlink(&target, &link).map_err(Error::io("link", &link))?;
            }
            let before = std::fs::read_link(&links).ok();
            let fresh = store.join("profile/.current");
            let _ = std::fs::remove_file(&fresh);
            let target = own.file_name().unwrap_or_default();
            symlink(target, &fresh).map_err(Error::io("link", &fresh))?;
            std::fs::rename(&fresh, &links).map_err(Error::io("link", &links))?;
            if let Some(before) = before.filter(|before| before.as_os_str() != target) {
                let _ = std::fs::remove_dir_all(store.join("profile").join(before));
            }
        }
        Ok(())
    }
}

fn first_line(number: u64) -> String {
    format!("{FIRST}{number} of this store: duckdb -init current.sql\n")
}

/// The number of the root that the views were made from; `None` if there are no views.
pub(super) fn shown_root(objects: &Objects) -> Result<Option<u64>> {
    let views = objects.get(VIEWS)?.unwrap_or_default();
    let views = String::from_utf8_lossy(&views).into_owned();
    let number = views.strip_prefix(FIRST).and_then(|rest| rest.split(' ').next());
    Ok(number.and_then(|number| number.parse().ok()))
}

/// Renders the views for DuckDB: each table at the as-of of the current profile, and with `_history` at all as-ofs.
/// `place` is where the store is.
fn views(root: &Root, named: &Named, place: &str) -> String {
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

/// Whether a folder is one of a table.
fn is_of(folder: &str, table: &str) -> bool {
    folder.strip_prefix(table).is_some_and(|rest| rest.starts_with('/'))
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

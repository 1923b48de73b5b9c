//! What an analyst looks at: SQL views over exactly the live files, and links to the current profile.

use std::collections::BTreeSet;
use std::path::Path;

use super::objects::Objects;
use super::reader::Store;
use super::root::{LiveFile, Root};
use crate::error::{Error, Result};

/// The tables of a scored as-of.
const TABLES: [&str; 5] = ["profile", "scores", "segments", "segment_changes", "recommendations"];
/// The SQL views over the live files.
const VIEWS: &str = "current.sql";
/// The folder of links to the files of the current profile.
const LINKS: &str = "profile/current";

impl Store {
    /// Brings what is made from a root up to date: the links to the current profile and the views, which are written
    /// last and name the root in their first line. A run that died may have left those of the root before.
    pub(super) fn catch_up(&self, objects: &Objects, root: &Root) -> Result<()> {
        let first_line = first_line(root);
        let there = objects.get(VIEWS)?;
        if there.is_some_and(|there| there.starts_with(first_line.as_bytes())) {
            return Ok(());
        }
        self.link_profile(root)?;
        let place = match self.is_remote() {
            true => self.path().to_owned(),
            false => std::path::absolute(self.path()).unwrap_or_else(|_| self.path().to_owned()),
        };
        let views = self.views(root, &place.to_string_lossy())?;
        objects.put(VIEWS, views.into_bytes())
    }

    /// Renders the views for DuckDB: each table at the as-of of the current profile, and with `_history` at all as-ofs.
    /// `place` is where the store is.
    fn views(&self, root: &Root, place: &str) -> Result<String> {
        let mut sql = first_line(root);
        let shown =
            |folder: &&String| TABLES.iter().chain(&["features"]).any(|table| is_of(folder, table));
        self.load_manifests(root, root.folders.keys().filter(shown))?;
        let views = root.folders_in("features").filter_map(|folder| folder.split('/').nth(1));
        let views: BTreeSet<&str> = views.collect();
        let views = views.into_iter().map(|v| (format!("features/{v}"), format!("features_{v}")));
        let tables = TABLES.map(|table| (table.to_owned(), table.to_owned()));
        for (table, name) in tables.into_iter().chain(views) {
            if let Some(profile) = &root.profile {
                let current = format!("{table}/as_of={}", profile.as_of.folder());
                sql += &view(&name, &self.paths(root, &current, place)?);
            }
            sql += &view(&format!("{name}_history"), &self.paths(root, &table, place)?);
        }
        Ok(sql)
    }

    /// The paths of the live files in a folder as SQL literals.
    fn paths(&self, root: &Root, folder: &str, place: &str) -> Result<Vec<String>> {
        let mut paths = Vec::new();
        for name in self.below(root, folder)? {
            let object = self.live(root, &name)?.map(|file| file.object).unwrap_or_default();
            paths.push(format!("'{}/{object}'", place.replace('\'', "''")));
        }
        Ok(paths)
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

fn first_line(root: &Root) -> String {
    format!(
        "-- Views over the live files of root {} of this store: duckdb -init current.sql\n",
        root.number
    )
}

/// Whether a folder is one of a table.
fn is_of(folder: &str, table: &str) -> bool {
    folder.strip_prefix(table).is_some_and(|rest| rest.starts_with('/'))
}

fn view(name: &str, paths: &[String]) -> String {
    if paths.is_empty() {
        return String::new();
    }
    let paths = paths.join(", ");
    format!(
        "create or replace view \"{name}\" as select * from read_parquet([{paths}], hive_partitioning = true, union_by_name = true);\n"
    )
}

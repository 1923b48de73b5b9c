//! What an analyst looks at: SQL views over exactly the live files, and links to the current profile.

use std::path::Path;

use super::format::{seal, unseal};
use super::objects::Objects;
use super::reader::Store;
use super::root::{LiveFile, ManifestRef, Root};
use super::views::{Named, VIEWS, first_line, is_shown, views};
use crate::error::{Error, Result};

/// The objects that the views name.
const NAMED: &str = "views.json";
/// The folder of links to the files of the current profile.
const LINKS: &str = "profile/current";

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
        // What is damaged is made again.
        let before = before.and_then(|bytes| serde_json::from_slice(&unseal(&bytes)?).ok());
        let before: Named = before.unwrap_or_default();
        let named = self.named(root, &before)?;
        let views = views(root, &named, &place.to_string_lossy());
        if named != before {
            objects.put(NAMED, seal(&named)?)?;
        }
        objects.put(VIEWS, views.into_bytes())
    }

    /// The objects of the tables that views show, as far as they are not known from `before` without a request.
    fn named(&self, root: &Root, before: &Named) -> Result<Named> {
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

//! The writes of one run, which become live together or not at all.
//!
//! A run writes its files under names that only it has, and ends by creating the next root. Of two runs that end at
//! once, one creates it; the other one fails, and what it wrote is not live.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use rand::Rng;
use rayon::prelude::*;
use serde::Serialize;

use super::format::{FORMAT_VERSION, checksum, join, seal};
use super::lease::{Clock, Lease};
use super::objects::{Created, Objects};
use super::problem::StoreProblem;
use super::reader::{LATEST, Store};
use super::root::{LiveFile, Manifest, ManifestRef, Root};
use super::staging::{StagedFile, Staging};
use crate::error::{Error, Result};

/// The files of a folder by their names within it.
type Files = BTreeMap<String, LiveFile>;

/// The beginning of the name of a staging folder in a store on a disk, from which files are moved within that disk.
pub(super) const STAGING: &str = ".staging-";
/// The beginning of the name of a staging folder for a store in a bucket, to which files are sent. It is followed by the
/// process. The folder is among the temporary files of the machine.
pub(super) const TEMPORARY: &str = "c360-ml-staging-";
/// How often the creation of a root is tried if there is none after it.
const TRIES: u32 = 3;
/// The pause before the second try. The pause before the third one is twice as long.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

/// The writes of one run, which become live together or not at all.
#[derive(Debug)]
pub struct Transaction {
    store: Store,
    objects: Objects,
    /// The root that the transaction began with.
    base: Root,
    /// The root as it will be published. Champions and profile are changed here.
    pub root: Root,
    /// A mark of this attempt in the names of its objects.
    attempt: String,
    command: String,
    clock: Clock,
    staging: Staging,
    staged: Vec<String>,
    replaced: Vec<String>,
    removed: Vec<String>,
    pages: Vec<(String, String)>,
    _lease: Lease,
}

impl Store {
    /// Takes the lease of the store and begins a transaction on the latest root.
    ///
    /// # Errors
    /// Returns [`Error::Locked`] while another run holds the lease.
    pub fn begin(&self, command: &str, clock: Clock) -> Result<Transaction> {
        if let Some(number) = self.at {
            return Err(StoreProblem::PastRoot { number }.into());
        }
        let objects = self.objects()?;
        let mark: u32 = rand::rng().random();
        let lease = Lease::take(&objects, command, &format!("{mark:08x}"), clock)?;
        let root = self.root()?;
        if root.number > 0
            && let Err(error) = self.catch_up(&objects, &root)
        {
            // The views are not needed, and the run may write anew what they cannot be made from.
            tracing::warn!("the views of the store were not brought up to date: {error}");
        }
        let number = root.number + 1;
        let attempt = format!("{number:06}-{mark:08x}");
        let folder = match self.is_remote() {
            false => self.path().join(format!("{STAGING}{attempt}")),
            true => {
                let process = std::process::id();
                std::env::temp_dir().join(format!("{TEMPORARY}{process}-{attempt}"))
            }
        };
        let staging = Staging::create(folder, number)?;
        Ok(Transaction {
            store: self.clone(),
            objects,
            base: root.clone(),
            root,
            attempt,
            command: command.to_owned(),
            clock,
            staging,
            staged: Vec::new(),
            replaced: Vec::new(),
            removed: Vec::new(),
            pages: Vec::new(),
            _lease: lease,
        })
    }
}

impl Transaction {
    /// The number of the root that the run will publish.
    pub fn number(&self) -> u64 {
        self.root.number + 1
    }

    /// The store that the transaction writes to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// A folder for files that are needed only during the run.
    pub fn scratch(&self) -> &Path {
        self.staging.folder()
    }

    /// The staging folder, which stages may use from any thread.
    pub fn staging(&self) -> Staging {
        self.staging.clone()
    }

    /// Adopts a file that was written as `written` in the [`Staging`] folder, to become live as `name`.
    pub fn adopt(&mut self, written: &str, name: &str) -> Result<()> {
        self.staging.rename(written, name)?;
        self.staged.push(name.to_owned());
        Ok(())
    }

    /// Creates the file that will become live as `name`.
    pub fn stage(&mut self, name: &str) -> Result<StagedFile> {
        self.staged.push(name.to_owned());
        self.staging.file(name)
    }

    /// Stages a JSON file with indentation.
    pub fn write_json(&mut self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(Error::engine("writing JSON"))?;
        self.write_text(name, &format!("{text}\n"))
    }

    /// Stages a text file.
    pub fn write_text(&mut self, name: &str, text: &str) -> Result<()> {
        let mut file = self.stage(name)?;
        file.write_all(text.as_bytes()).map_err(Error::io("write", file.path()))
    }

    /// Writes a page when the transaction is committed. Pages are made from live files and can be made again, so that
    /// they are no live files themselves and keep their names.
    pub fn write_page(&mut self, path: &str, text: String) {
        self.pages.push((path.to_owned(), text));
    }

    /// The object that a staged file will be.
    pub fn object(&self, name: &str) -> String {
        let (folder, file) = name.rsplit_once('/').map_or(("", name), |(a, b)| (a, b));
        let (stem, end) = file.rsplit_once('.').unwrap_or((file, ""));
        let slash = if folder.is_empty() { "" } else { "/" };
        format!("{folder}{slash}{stem}-{}.{end}", self.attempt)
    }

    /// Whether a page is there or will be.
    pub fn has_page(&self, path: &str) -> bool {
        // A page that cannot be seen is written again.
        self.pages.iter().any(|(own, _)| own == path) || self.objects.has(path).unwrap_or(false)
    }

    /// Removes a live file when the transaction is committed.
    pub fn remove(&mut self, name: &str) {
        self.removed.push(name.to_owned());
    }

    /// Replaces all live files in `folder` by the files that this transaction stages there.
    pub fn replace(&mut self, folder: &str) {
        self.replaced.push(folder.to_owned());
    }

    /// Writes the staged files as objects and publishes the root that names them. If nothing live has changed, no root
    /// is published, and only the pages are written.
    ///
    /// # Errors
    /// Returns [`StoreProblem::Overtaken`] if another run has published a root in the meantime. Nothing of this run is
    /// live then.
    pub fn commit(mut self) -> Result<Root> {
        let staged = std::mem::take(&mut self.staged);
        let mut changed = self.changed_folders(&staged)?;
        if changed.is_empty() && self.root == self.base {
            self.write_pages()?;
            return Ok(std::mem::take(&mut self.root));
        }
        let live = self.place(&staged)?;
        let is_own = |file: &&LiveFile| file.object.contains(&self.attempt);
        let mut own: Vec<String> =
            live.iter().filter(is_own).map(|file| file.object.clone()).collect();
        for (name, file) in staged.iter().zip(live) {
            let (folder, name) = name.rsplit_once('/').unwrap_or(("", name));
            changed.entry(folder.to_owned()).or_default().insert(name.to_owned(), file);
        }
        for (folder, files) in changed {
            if files.is_empty() {
                self.root.folders.remove(&folder);
                continue;
            }
            let manifest = self.write_manifest(&folder, files)?;
            own.push(manifest.object.clone());
            self.root.folders.insert(folder, manifest);
        }
        self.root.number += 1;
        self.root.published = Some((self.clock)());
        self.root.command = self.command.clone();
        if self.root.store.is_empty() {
            self.root.store = format!("{:016x}", rand::rng().random::<u64>());
        }
        if let Some(by) = self.store.publish(&self.objects, &self.root)? {
            // Nothing names these objects, so that one that cannot be removed does no harm.
            drop(self.objects.delete(own.iter().map(String::as_str)));
            let (path, number) = (self.store.path().to_owned(), self.root.number);
            return Err(StoreProblem::Overtaken { path, number, by }.into());
        }
        // What follows is made from the root and can be made again, so that a reader without it is not wrong.
        self.write_pages()?;
        self.store.catch_up(&self.objects, &self.root)?;
        Ok(std::mem::take(&mut self.root))
    }

    /// The folders whose files change, each with those of its files that stay.
    fn changed_folders(&self, staged: &[String]) -> Result<BTreeMap<String, Files>> {
        let mut changed: BTreeMap<String, Files> = BTreeMap::new();
        let kept =
            |folder: &str| Ok::<_, Error>(self.store.manifest(&self.root, folder)?.files.clone());
        // Of a folder that is replaced, it does not matter what was in it, nor whether that can be read.
        for folder in &self.replaced {
            let own = self.root.folders_in(folder).map(str::to_owned).chain([folder.clone()]);
            changed.extend(own.map(|folder| (folder, Files::new())));
        }
        for name in staged.iter().chain(&self.removed) {
            let (folder, _) = name.rsplit_once('/').unwrap_or(("", name));
            if !changed.contains_key(folder) {
                changed.insert(folder.to_owned(), kept(folder)?);
            }
        }
        for name in &self.removed {
            let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
            if let Some(files) = changed.get_mut(folder) {
                files.remove(file);
            }
        }
        // A folder that had no files and gets none does not change.
        let had = |folder: &String| self.root.folders.contains_key(folder);
        let gets = |folder: &String| {
            staged.iter().any(|name| name.rsplit_once('/').unwrap_or(("", name)).0 == folder)
        };
        changed.retain(|folder, _| had(folder) || gets(folder));
        Ok(changed)
    }

    /// Writes the manifest of a folder as an object.
    fn write_manifest(&self, folder: &str, files: Files) -> Result<ManifestRef> {
        let manifest = Manifest { format_version: FORMAT_VERSION, files };
        let mut bytes =
            serde_json::to_vec_pretty(&manifest).map_err(Error::engine("writing JSON"))?;
        bytes.push(b'\n');
        let object = join("manifests", &join(folder, &format!("{}.json", self.attempt)));
        let xxh3 = checksum(&bytes);
        self.objects.put(&object, bytes)?;
        Ok(ManifestRef { object, xxh3 })
    }

    fn write_pages(&mut self) -> Result<()> {
        let mut pages = std::mem::take(&mut self.pages).into_iter();
        pages.try_for_each(|(path, text)| self.objects.put(&path, text.into_bytes()))
    }

    /// Makes objects of staged files. A file whose bytes are live already stays where it is.
    fn place(&self, staged: &[String]) -> Result<Vec<LiveFile>> {
        let of = |name: &String| -> Result<(LiveFile, bool)> {
            let live = self.staging.synced(name, self.object(name))?;
            // What is not known is written, and what is damaged is written again.
            if let Ok(Some(known)) = self.store.live(&self.base, name)
                && (known.bytes, &known.xxh3) == (live.bytes, &live.xxh3)
                && self.store.is_whole(&known)?
            {
                return Ok((known, false));
            }
            Ok((live, true))
        };
        let files: Vec<(LiveFile, bool)> = staged.par_iter().map(of).collect::<Result<_>>()?;
        let new = staged.iter().zip(&files).filter(|(_, (_, is_new))| *is_new);
        let new = new.map(|(name, (live, _))| (self.scratch().join(name), &*live.object));
        self.objects.take_all(&new.collect::<Vec<_>>())?;
        Ok(files.into_iter().map(|(live, _)| live).collect())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.scratch());
    }
}

impl Store {
    /// Creates the object of a root, and the hint at its number. Returns the command of the other run whose root was
    /// there before, if there was one.
    ///
    /// # Errors
    /// Returns an error if it cannot be known whether the root was created. What it names must stay then.
    fn publish(&self, objects: &Objects, root: &Root) -> Result<Option<String>> {
        let bytes = seal(root)?;
        let path = Root::path(root.number);
        let mut tries = 0;
        loop {
            tries += 1;
            let created = objects.create(&path, bytes.clone());
            if matches!(created, Ok(Created::New)) {
                break;
            }
            // A request whose answer was lost may have been carried out, and one that meets another one at the same
            // moment may be refused although neither has created anything yet. The object itself says what happened.
            match (objects.get(&path)?, created) {
                (Some(there), _) if there == bytes => break,
                (Some(other), _) => {
                    let by = self.parse_root(&path, &other).map(|root| root.command);
                    return Ok(Some(by.unwrap_or_else(|_| "another run".to_owned())));
                }
                (None, Err(error)) if tries == TRIES => return Err(error),
                (None, Ok(_)) if tries == TRIES => {
                    return Err(StoreProblem::NotPublished { path: self.path().join(path) }.into());
                }
                (None, _) => std::thread::sleep(PAUSE * tries),
            }
        }
        let hint = serde_json::json!({ "number": root.number });
        if let Err(error) = objects.put(LATEST, format!("{hint}\n").into_bytes()) {
            // Without the hint, readers list all roots.
            tracing::warn!("{} was not written: {error}", self.path().join(LATEST).display());
        }
        Ok(None)
    }
}

//! Removes old roots, and objects that no root names any more.

use std::collections::BTreeSet;

use super::lease::{Clock, Lease, is_running};
use super::objects::Object;
use super::reader::Store;
use super::root::{ROOTS, Root};
use super::transaction::{STAGING, TEMPORARY};
use crate::error::Result;
use crate::time::{Duration, Instant};

/// What is to be kept.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// The number of the latest roots that are kept.
    pub roots: usize,
    /// What was written within this length of time is kept too, because a run may be at work with it.
    pub grace: Duration,
    /// The present.
    pub now: Instant,
}

/// What was removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// The numbers of the roots.
    pub roots: Vec<u64>,
    /// The other objects.
    pub objects: Vec<Object>,
    /// The number of roots that are left.
    pub kept: usize,
}

/// The folders of the files that roots name. Nothing else is removed.
const FOLDERS: [&str; 13] = [
    "contract",
    "features",
    "manifests",
    "models",
    "profile",
    "quarantine",
    "recommendations",
    "registry",
    "runs",
    "scores",
    "segment_changes",
    "segments",
    "timelines",
];

impl Store {
    /// Removes all roots but the latest ones, and the objects that no root names that is left. With `dry_run` nothing
    /// is removed.
    ///
    /// Roots are removed before the objects that they name, so that a root that can be read is whole.
    ///
    /// # Errors
    /// Returns [`Error::Locked`](crate::error::Error::Locked) while a run holds the lease, unless nothing is removed.
    pub fn collect_garbage(&self, keep: &Keep, dry_run: bool, clock: Clock) -> Result<Removed> {
        // An old store, and a folder that is no store, has no roots that could say what is live.
        if self.root()?.number == 0 {
            return Ok(Removed::default());
        }
        let objects = self.objects()?;
        // A run that is at work reads and writes objects that no root names yet, or not any more.
        let mark = format!("{:08x}", rand::random::<u32>());
        let lease = (!dry_run).then(|| Lease::take(&objects, "gc", &mark, clock));
        let _lease = lease.transpose()?;
        let is_old = |at: i64| at < keep.now.minus(keep.grace).0;
        let mut roots: Vec<(u64, Object)> = objects
            .list(ROOTS, None)?
            .into_iter()
            .filter_map(|object| Some((Root::number_of(&object.path)?, object)))
            .collect();
        roots.sort_by_key(|(number, _)| *number);
        let old = roots.len().saturating_sub(keep.roots.max(1));
        let kept = roots.split_off(old);
        let (gone, recent): (Vec<_>, Vec<_>) =
            roots.into_iter().partition(|(_, object)| is_old(object.modified));
        let mut live: BTreeSet<String> = BTreeSet::new();
        let mut folders: BTreeSet<String> = BTreeSet::new();
        for (number, _) in kept.iter().chain(&recent) {
            let root = self.read_root(&objects, *number)?;
            self.load_manifests(&root, root.folders.keys())?;
            for (folder, manifest) in &root.folders {
                folders.insert(folder.clone());
                live.insert(manifest.object.clone());
                let files = &self.manifest(&root, folder)?.files;
                live.extend(files.values().map(|file| file.object.clone()));
            }
        }
        let is_kept = |object: &Object| {
            let path = object.path.as_str();
            let folder = folder_of(path).unwrap_or_default();
            let first = path.split('/').next().unwrap_or_default();
            // A page is that of a version or a run, whose other files say whether it is there.
            let is_page = path.ends_with(".html") && folders.contains(&folder);
            let is_own = FOLDERS.contains(&first) || first.starts_with(STAGING);
            let is_link = path.starts_with("profile/current/") || path.contains("/.current");
            !is_own || live.contains(path) || is_link || is_page || !is_old(object.modified)
        };
        let mut dead = objects.list("", None)?;
        dead.retain(|object| !is_kept(object));
        if !dry_run {
            objects.delete(gone.iter().map(|(_, object)| object.path.as_str()))?;
            objects.delete(dead.iter().map(|object| object.path.as_str()))?;
            self.remove_staging(is_old);
        }
        let kept = kept.len() + recent.len();
        Ok(Removed {
            roots: gone.into_iter().map(|(number, _)| number).collect(),
            objects: dead,
            kept,
        })
    }

    /// Removes the staging folders of runs that died. One that cannot be removed does no harm.
    fn remove_staging(&self, is_old: impl Fn(i64) -> bool) {
        let place = if self.is_remote() { std::env::temp_dir() } else { self.path().to_owned() };
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // A folder of temporary files has those of runs at other stores too, which may be at work.
            let process = name.strip_prefix(TEMPORARY).and_then(|rest| rest.split('-').next());
            let is_dead = process.is_some_and(|process| !is_running(process));
            let is_staging = name.starts_with(STAGING) || is_dead;
            let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            let modified = modified.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
            if is_staging && modified.is_some_and(|at| is_old(at.as_micros() as i64)) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn folder_of(path: &str) -> Option<String> {
    path.rsplit_once('/').map(|(folder, _)| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Instant {
        Instant(0)
    }

    fn publish(store: &Store, name: &str) -> Root {
        let mut run = store.begin("test", clock).unwrap();
        run.replace("features");
        run.write_text(&format!("features/{name}.txt"), name).unwrap();
        run.write_text(&format!("runs/{name}/manifest.json"), "{}").unwrap();
        run.write_page(&format!("runs/{name}/report.html"), "a page".to_owned());
        run.commit().unwrap()
    }

    fn paths(store: &Store) -> Vec<String> {
        let objects = store.objects().unwrap().list("", None).unwrap();
        objects.into_iter().map(|object| object.path).collect()
    }

    /// The kept roots stay whole, what no one names goes, and what is young stays.
    #[test]
    fn what_no_kept_root_names_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        let roots: Vec<Root> = ["one", "two", "three"].map(|name| publish(&store, name)).into();
        let orphan = folder.path().join("features/left-by-a-run-that-died.txt");
        std::fs::write(&orphan, "orphan").unwrap();
        let staging = folder.path().join(".staging-000009-0a0a0a0a");
        std::fs::create_dir_all(staging.join("features")).unwrap();
        let keep = |roots, now| Keep { roots, grace: Duration::days(1), now };
        let (past, future) = (Instant(0), Instant(i64::MAX / 2));
        let before = paths(&store);
        let nothing = store.collect_garbage(&keep(1, past), false, clock).unwrap();
        assert_eq!((nothing.roots.len(), nothing.objects.len(), nothing.kept), (0, 0, 3));
        let planned = store.collect_garbage(&keep(2, future), true, clock).unwrap();
        assert_eq!(paths(&store), before, "a dry run removes nothing");
        let removed = store.collect_garbage(&keep(2, future), false, clock).unwrap();
        assert_eq!(removed, planned);
        assert_eq!((removed.roots.as_slice(), removed.kept), (&[1][..], 2));
        assert!(!orphan.exists() && !staging.exists());
        let left = paths(&store);
        let gone: Vec<&String> = before.iter().filter(|path| !left.contains(path)).collect();
        let named = |root: &Root, name: &str| store.live(root, name).unwrap().unwrap().object;
        let manifest = roots[0].folders["features"].object.clone();
        let expected = [
            "features/left-by-a-run-that-died.txt".to_owned(),
            named(&roots[0], "features/one.txt"),
            manifest,
            Root::path(1),
        ];
        assert_eq!(gone.into_iter().cloned().collect::<Vec<_>>(), expected);
        for root in &roots[1..] {
            // A fresh store has no manifest in memory.
            let fresh = Store::at(folder.path()).unwrap();
            for name in fresh.below(root, "").unwrap() {
                assert!(fresh.file(root, &name).unwrap().exists(), "{name}");
            }
        }
        assert_eq!(store.root().unwrap(), roots[2]);
    }
}

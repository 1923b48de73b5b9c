//! Removes old roots, and objects that no root names any more.

use std::collections::BTreeSet;
use std::path::Path;

use super::lease::{Clock, Lease, is_running};
use super::objects::{Object, Objects};
use super::problem::StoreProblem;
use super::reader::Store;
use super::root::{ROOTS, Root};
use super::staged::UNFINISHED;
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

/// The folders of what runs write.
const FOLDERS: [&str; 15] = [
    "audit",
    "contract",
    "features",
    "forgotten",
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
/// The folders of files that are replaced and that no root names.
const REPLACED: [&str; 3] = ["assets", "pushes", ROOTS];
/// The pages of runs and versions, which no root names.
const PAGES: [&str; 2] = ["report.html", "segments.html"];

/// What the roots that are kept name.
#[derive(Debug, Default)]
struct Live {
    objects: BTreeSet<String>,
    folders: BTreeSet<String>,
}

impl Store {
    /// Removes all roots but the latest ones, and the objects that no root names that is left. With `dry_run` nothing
    /// is removed. What no run has written is never removed.
    ///
    /// Roots are removed before the objects that they name, so that a root that can be read is whole.
    ///
    /// # Errors
    /// Returns [`Error::Locked`](crate::error::Error::Locked) while a run holds the lease, unless nothing is removed.
    pub fn collect_garbage(&self, keep: &Keep, dry_run: bool, clock: Clock) -> Result<Removed> {
        if let Some(number) = self.at {
            return Err(StoreProblem::PastRoot { number }.into());
        }
        // An old store, and a folder that is no store, has no roots that could say what is live.
        let root = self.root()?;
        if root.number == 0 {
            return Ok(Removed::default());
        }
        let objects = self.objects()?;
        // A run that is at work reads and writes objects that no root names yet, or not any more.
        let mark = format!("{:08x}", rand::random::<u32>());
        let lease = (!dry_run).then(|| Lease::take(&objects, "gc", &mark, clock));
        let _lease = lease.transpose()?;
        let is_old = |at: i64| at < keep.now.minus(keep.grace).0;
        let (kept, gone) = split(&objects, keep.roots, is_old)?;
        let live = self.live_objects(&objects, &kept)?;
        let mut dead = objects.list("", None)?;
        dead.retain(|object| live.is_dead(&object.path) && is_old(object.modified));
        if !dry_run {
            // Views that a run which died has left behind may name what is removed now.
            self.catch_up(&objects, &root)?;
            let roots: Vec<String> = gone.iter().copied().map(Root::path).collect();
            objects.delete(roots.iter().map(String::as_str))?;
            objects.delete(dead.iter().map(|object| object.path.as_str()))?;
            self.remove_staging(is_old);
        }
        Ok(Removed { roots: gone, objects: dead, kept: kept.len() })
    }

    /// What the roots of these numbers name.
    fn live_objects(&self, objects: &Objects, roots: &[u64]) -> Result<Live> {
        let mut live = Live::default();
        for number in roots {
            let root = self.read_root(objects, *number)?;
            self.load_manifests(&root, root.folders.keys())?;
            for (folder, manifest) in &root.folders {
                live.folders.insert(folder.clone());
                live.objects.insert(manifest.object.clone());
                let files = &self.manifest(&root, folder)?.files;
                live.objects.extend(files.values().map(|file| file.object.clone()));
            }
        }
        Ok(live)
    }

    /// Removes the staging folders and unfinished files of runs that died. What cannot be removed does no harm.
    fn remove_staging(&self, is_old: impl Fn(i64) -> bool) {
        let place = if self.is_remote() { std::env::temp_dir() } else { self.path().to_owned() };
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // A folder of temporary files has those of runs at other stores too, which may be at work.
            let process = name.strip_prefix(TEMPORARY).and_then(|rest| rest.split('-').next());
            let is_dead = process.is_some_and(|process| !is_running(process));
            let is_staging = name.starts_with(STAGING) || is_dead;
            if is_staging && modified(&entry).is_some_and(&is_old) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        if !self.is_remote() {
            remove_unfinished(self.path(), false, &is_old);
            for folder in FOLDERS.iter().chain(&REPLACED) {
                remove_unfinished(&self.path().join(folder), true, &is_old);
            }
        }
    }
}

/// When a file or folder was last modified, in microseconds since 1970.
fn modified(entry: &std::fs::DirEntry) -> Option<i64> {
    let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok()?;
    let since = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(since.as_micros() as i64)
}

/// Removes what a process that is killed leaves of a file that has not got its name yet: that of `object_store`, which
/// is called `<name>#<number>` and not listed by it, and that of [`staged`](super::staged). With `deep`, folders within the
/// folder are looked through too.
fn remove_unfinished(folder: &Path, deep: bool, is_old: &impl Fn(i64) -> bool) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.rsplit_once('#').map_or("", |(_, number)| number);
        let is_numbered = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit());
        let is_unfinished = is_numbered || name.starts_with(UNFINISHED);
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && deep => remove_unfinished(&entry.path(), deep, is_old),
            Ok(kind) if kind.is_file() && is_unfinished && modified(&entry).is_some_and(is_old) => {
                let _ = std::fs::remove_file(entry.path());
            }
            _ => {}
        }
    }
}

/// The numbers of the roots that are kept, and of those that are not: all but the latest `count`, as far as each was
/// followed by another root long ago. A run that began with it may still be reading what it names until then.
fn split(
    objects: &Objects,
    count: usize,
    is_old: impl Fn(i64) -> bool,
) -> Result<(Vec<u64>, Vec<u64>)> {
    let listed = objects.list(ROOTS, None)?.into_iter();
    let numbered = listed.filter_map(|object| Some((Root::number_of(&object.path)?, object)));
    let mut roots: Vec<(u64, Object)> = numbered.collect();
    roots.sort_by_key(|(number, _)| *number);
    let old = roots.len().saturating_sub(count.max(1));
    let is_gone = |place: usize| place < old && is_old(roots[place + 1].1.modified);
    let (gone, kept): (Vec<usize>, Vec<usize>) = (0..roots.len()).partition(|at| is_gone(*at));
    let numbers = |places: Vec<usize>| places.into_iter().map(|at| roots[at].0).collect();
    Ok((numbers(kept), numbers(gone)))
}

impl Live {
    /// Whether a run has written an object that is not needed any more.
    fn is_dead(&self, path: &str) -> bool {
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let first = path.split('/').next().unwrap_or_default();
        if !FOLDERS.contains(&first) {
            return first.starts_with(STAGING);
        }
        // A page is that of a version or a run, whose other files say whether it is there.
        let has_pages = ["runs/", "models/"].iter().any(|own| folder.starts_with(own));
        match has_pages && PAGES.contains(&file) {
            true => !self.folders.contains(folder),
            false => has_mark(file) && !self.objects.contains(path),
        }
    }
}

/// Whether the name of a file ends with the number of a root and the mark of an attempt, as
/// [`Transaction::object`](super::Transaction::object) forms it.
fn has_mark(file: &str) -> bool {
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let mut parts = stem.rsplitn(3, '-');
    let (mark, number) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let is_mark = mark.len() == 8 && mark.bytes().all(|c| c.is_ascii_hexdigit());
    is_mark && number.len() >= 6 && number.bytes().all(|c| c.is_ascii_digit())
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
        let orphan = folder.path().join("features/left-000009-0a0a0a0a.txt");
        std::fs::write(&orphan, "orphan").unwrap();
        let unfinished = folder.path().join("features/three-000003-0b0b0b0b.txt#1");
        let unfinished = [
            unfinished,
            folder.path().join("assets/plotly.js#1"),
            folder.path().join("pushes/.c360-ml-0c0c0c"),
            folder.path().join("latest.json#2"),
        ];
        for path in &unfinished {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "half").unwrap();
        }
        // What no run has written stays: a source that lies in the same folders, the files of a project.
        let foreign =
            ["profile/part-000.parquet", "features/spend.toml", "models/churn.toml", "a.txt"];
        for name in foreign {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "foreign").unwrap();
        }
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
        assert!(unfinished.iter().all(|path| !path.exists()));
        assert!(foreign.iter().all(|name| folder.path().join(name).exists()));
        let left = paths(&store);
        let gone: Vec<&String> = before.iter().filter(|path| !left.contains(path)).collect();
        let named = |root: &Root, name: &str| store.live(root, name).unwrap().unwrap().object;
        let manifest = roots[0].folders["features"].object.clone();
        let expected = [
            "features/left-000009-0a0a0a0a.txt".to_owned(),
            named(&roots[0], "features/one.txt"),
            manifest,
            "pushes/.c360-ml-0c0c0c".to_owned(),
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

    /// A root that was followed by another one a moment ago is kept however old it is, because a reader may have begun
    /// with it.
    #[test]
    fn the_grace_period_begins_when_a_root_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        let first = publish(&store, "one");
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(40 * 24 * 3600);
        for name in [Root::path(1), store.live(&first, "features/one.txt").unwrap().unwrap().object]
        {
            let file = std::fs::File::options().write(true).open(folder.path().join(name));
            file.unwrap().set_modified(old).unwrap();
        }
        publish(&store, "two");
        let now = Instant(chrono::Utc::now().timestamp_micros());
        let keep = Keep { roots: 1, grace: Duration::days(1), now };
        let removed = store.collect_garbage(&keep, false, clock).unwrap();
        assert_eq!((removed.roots.len(), removed.objects.len(), removed.kept), (0, 0, 2));
        assert!(store.file(&first, "features/one.txt").unwrap().exists());
    }

    #[test]
    fn a_past_root_is_not_collected() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        publish(&store, "one");
        publish(&store, "two");
        let keep = Keep { roots: 1, grace: Duration::days(0), now: Instant(i64::MAX / 2) };
        let error = store.clone().at_root(1).collect_garbage(&keep, false, clock).unwrap_err();
        assert!(error.to_string().contains("--root 1"), "{error}");
        assert_eq!(store.roots().unwrap().len(), 2);
    }
}

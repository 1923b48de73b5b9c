//! The store: immutable objects, and numbered roots that name which of them are live.
//!
//! A run writes its files as objects under names of its own and ends by creating the next root, `roots/<number>.json`.
//! The greatest number counts. Every reader takes one root and reads what it names, so that it sees the store as one run
//! left it, whatever others do meanwhile.

mod aws_profile;
pub mod bucket;
pub mod conform;
mod current;
pub mod delta;
pub mod disk;
mod format;
mod gc;
mod lease;
mod objects;
pub mod parquet;
mod problem;
pub mod readable;
mod reader;
mod root;
mod runtime;
mod search;
pub mod sorted;
pub mod spill;
pub mod staged;
mod staging;
mod transaction;
mod views;

pub use self::format::{FORMAT_VERSION, checksum, hash, seal, unseal};
pub use self::gc::{Keep, Removed};
pub use self::problem::{StoreProblem, unless_damaged};
pub use self::reader::{Store, Verified};
pub use self::root::{CurrentProfile, LiveFile, Manifest, ManifestRef, Root};
pub use self::runtime::choose_cryptography;
pub use self::search::{Search, Traces};
pub use self::staging::{StagedFile, Staging};
pub use self::transaction::Transaction;

#[cfg(test)]
mod tests {
    use super::reader::{LATEST, OLD_ROOT};
    use super::*;
    use crate::error::{Error, Result};
    use crate::time::Instant;

    fn clock() -> Instant {
        Instant(1_000_000)
    }

    #[test]
    fn a_run_is_live_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path().join("store")).unwrap();
        let mut run = store.begin("test", clock).unwrap();
        run.write_text("a/1.txt", "one").unwrap();
        assert!(matches!(store.begin("other", clock), Err(Error::Locked { .. })));
        drop(run);
        assert_eq!(store.root().unwrap(), Root::default());
        assert!(!store.path().join("a").exists());

        let mut run = store.begin("test", clock).unwrap();
        run.write_text("a/1.txt", "one").unwrap();
        let first = run.commit().unwrap();
        let mut run = store.begin("test", clock).unwrap();
        run.replace("a");
        run.write_text("a/2.txt", "two").unwrap();
        let root = run.commit().unwrap();
        assert_eq!((root.number, root.command.as_str()), (2, "test"));
        assert_eq!(store.below(&root, "a").unwrap(), ["a/2.txt"]);
        assert_eq!(store.root().unwrap(), root);
        // What an earlier root names is still there.
        let read = |root: &Root, name: &str| {
            std::fs::read_to_string(store.file(root, name).unwrap()).unwrap()
        };
        assert_eq!((read(&first, "a/1.txt"), read(&root, "a/2.txt")), ("one".into(), "two".into()));
        assert!(store.file(&root, "a/1.txt").is_err());
    }

    /// Without the lease, of two runs that began at the same root one is live, and the other one says so.
    #[test]
    fn of_two_runs_one_is_live() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        let begin = |name: &str| {
            let mut run = store.begin(name, clock).unwrap();
            run.write_text("a/1.txt", name).unwrap();
            std::fs::remove_file(folder.path().join("lease.json")).unwrap();
            run
        };
        let (first, second) = (begin("first"), begin("second"));
        let root = second.commit().unwrap();
        let error = first.commit().unwrap_err();
        assert_eq!(error.exit_code(), 5);
        assert!(error.to_string().contains("second"), "{error}");
        assert_eq!(store.root().unwrap(), root);
        let text = std::fs::read_to_string(store.file(&root, "a/1.txt").unwrap()).unwrap();
        assert_eq!(text, "second");
        assert_eq!(std::fs::read_dir(folder.path().join("a")).unwrap().count(), 1);
    }

    /// Two hundred times, two runs end at once: exactly one is live, the other one says so, and nothing is lost.
    #[test]
    fn of_runs_that_end_at_once_exactly_one_is_live() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        for round in 1..=200 {
            let begin = |who: usize| {
                let mut run = store.begin(&format!("run {who}"), clock).unwrap();
                run.write_text(&format!("a/{round}.txt"), &format!("{who}")).unwrap();
                std::fs::remove_file(folder.path().join("lease.json")).unwrap();
                run
            };
            let runs = [begin(0), begin(1)];
            let barrier = std::sync::Barrier::new(2);
            let ends: Vec<Result<Root>> = std::thread::scope(|scope| {
                let end = |run: Transaction| {
                    barrier.wait();
                    run.commit()
                };
                let threads = runs.map(|run| scope.spawn(move || end(run)));
                threads.map(|thread| thread.join().unwrap()).into()
            });
            let winner = ends.iter().position(Result::is_ok).expect("one is live");
            let loser = ends[1 - winner].as_ref().expect_err("and no other");
            assert_eq!(loser.exit_code(), 5);
            assert!(loser.to_string().contains(&format!("run {winner}")), "{loser}");
            let root = store.root().unwrap();
            assert_eq!(root.number, round);
            assert_eq!(store.below(&root, "a").unwrap().len(), round as usize);
            let text =
                std::fs::read_to_string(store.file(&root, &format!("a/{round}.txt")).unwrap());
            assert_eq!(text.unwrap(), format!("{winner}"));
        }
        assert_eq!(std::fs::read_dir(folder.path().join("a")).unwrap().count(), 200);
    }

    /// The hint may be old, missing or damaged. If it says that a later root was published, that root is lost.
    #[test]
    fn the_greatest_root_counts_whatever_the_hint_says() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        for round in 0..3 {
            let mut run = store.begin("test", clock).unwrap();
            run.write_text(&format!("a/{round}.txt"), "a").unwrap();
            run.commit().unwrap();
            // A run that changes nothing publishes nothing.
            assert_eq!(store.begin("test", clock).unwrap().commit().unwrap().number, round + 1);
        }
        let hint = folder.path().join(LATEST);
        for text in ["{\"number\": 1}", "{\"number\": 3}", "{\"number\": 0}", "damaged"] {
            std::fs::write(&hint, text).unwrap();
            assert_eq!(store.root().unwrap().number, 3, "{text}");
        }
        std::fs::remove_file(&hint).unwrap();
        // What is no root of this store is none.
        std::fs::write(folder.path().join("roots/7.json"), "{}").unwrap();
        assert_eq!(store.root().unwrap().number, 3);
        std::fs::write(&hint, "{\"number\": 4}").unwrap();
        let lost = store.root().unwrap_err();
        assert_eq!(lost.exit_code(), 1);
        assert!(lost.to_string().contains("root 4 was published, and the greatest is 3"), "{lost}");
        for number in 1..=3 {
            std::fs::remove_file(folder.path().join(Root::path(number))).unwrap();
        }
        assert!(store.root().unwrap_err().to_string().contains("there is none"));
        std::fs::remove_file(&hint).unwrap();
        let lost = store.root().unwrap_err();
        assert!(lost.to_string().contains("root 3 was published"), "{lost}");
        std::fs::remove_file(folder.path().join("current.sql")).unwrap();
        assert_eq!(store.root().unwrap(), Root::default());
    }

    /// A run whose root was created is live, whatever fails after that.
    #[test]
    fn a_run_is_live_without_its_hint() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path()).unwrap();
        std::fs::create_dir(folder.path().join(LATEST)).unwrap();
        let mut run = store.begin("test", clock).unwrap();
        run.write_text("a/1.txt", "one").unwrap();
        let root = run.commit().unwrap();
        std::fs::remove_dir(folder.path().join(LATEST)).unwrap();
        assert_eq!(store.root().unwrap(), root);
        let text = std::fs::read_to_string(store.file(&root, "a/1.txt").unwrap()).unwrap();
        assert_eq!(text, "one");
    }

    #[test]
    fn a_store_of_another_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(OLD_ROOT), "{}").unwrap();
        let store = Store::at(folder.path()).unwrap();
        let error = store.root().unwrap_err();
        assert!(error.to_string().contains("an earlier version"), "{error}");
        assert_eq!(error.exit_code(), 2);
        std::fs::create_dir(folder.path().join("roots")).unwrap();
        let path = folder.path().join(Root::path(1));
        std::fs::write(path, seal(&serde_json::json!({ "format_version": 99 })).unwrap()).unwrap();
        let error = store.root().unwrap_err();
        assert!(error.to_string().contains("format_version 99"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

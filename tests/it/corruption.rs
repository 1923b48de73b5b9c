//! No bit of a store can change and be computed on: it is found and named, or what it was is made again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::seq::IndexedRandom;

use c360_ml::store::Store;

use crate::cli::output;
use crate::support::{live, project, random, root};

/// A command that reads the store, and what is left by it.
const READERS: [&[&str]; 5] = [
    &["score", "--as-of", "2024-07-02"],
    &["features", "build"],
    &["explain", "c360_0000007"],
    &["models", "list"],
    &["show", "profile", "--head", "3"],
];

/// The files of a folder by their paths within it, without links.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = PathBuf::from(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => {
                found.extend(files(&entry.path()).into_iter().map(|(f, b)| (name.join(f), b)));
            }
            kind if kind.is_file() => {
                found.insert(name, std::fs::read(entry.path()).unwrap());
            }
            _ => {}
        }
    }
    found
}

/// Gives a folder exactly these files.
fn restore(folder: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    let _ = std::fs::remove_dir_all(folder);
    for (name, bytes) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// The checksums of the live tables by name, as far as their manifests can be read.
pub fn tables(project: &Path) -> BTreeMap<String, String> {
    let store = Store::at(project.join("store")).unwrap();
    let root = store.root().unwrap();
    let mut tables = BTreeMap::new();
    for folder in root.folders.keys() {
        for name in store.below(&root, folder).unwrap_or_default() {
            let numbered = name.rsplit_once('-').map_or(name.as_str(), |(shard, _)| shard);
            if name.ends_with(".parquet") {
                tables.insert(numbered.to_owned(), store.live(&root, &name).unwrap().unwrap().xxh3);
            }
        }
    }
    tables
}

/// What a command has printed, and the tables that are live after it.
fn outcome(project: &Path, arguments: &[&str]) -> (String, BTreeMap<String, String>) {
    let (stdout, stderr, code) = output(project, arguments);
    assert_eq!(code, 0, "{arguments:?}: {stderr}");
    // The output of a run tells how much of the events was read.
    let told =
        if arguments[0] == "score" || arguments[0] == "features" { String::new() } else { stdout };
    (told, tables(project))
}

/// Whichever bit of a store is flipped, a command ends as if it were not, or ends with 1 and names the file.
/// `C360_TEST_EVERY=1` tries every file, and otherwise some are tried.
#[test]
fn a_flipped_bit_is_never_computed_on() {
    let mut random = random();
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let store = project.join("store");
    assert_eq!(output(&project, &["run"]).2, 0);
    let whole = files(&store);
    let expected = READERS.map(|arguments| {
        restore(&store, &whole);
        outcome(&project, arguments)
    });
    // Pages are read by people.
    let mut names: Vec<&PathBuf> = whole.keys().collect();
    names.retain(|name| !matches!(name.extension().and_then(|e| e.to_str()), Some("html" | "js")));
    if std::env::var("C360_TEST_EVERY").is_err() {
        let folder = |name: &PathBuf| name.components().next().unwrap().as_os_str().to_owned();
        let folders: BTreeSet<_> = names.iter().map(|name| folder(name)).collect();
        let one = |of: &std::ffi::OsString| {
            let own: Vec<&PathBuf> = names.iter().copied().filter(|n| folder(n) == *of).collect();
            *own.choose(&mut random).unwrap()
        };
        names = folders.iter().map(one).collect();
    }
    let (mut found, mut unread) = (0, 0);
    for name in names {
        let bit = random.random_range(0..whole[name].len() * 8);
        let mut flipped = whole.clone();
        flipped.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
        for (arguments, expected) in READERS.iter().zip(&expected) {
            restore(&store, &flipped);
            let (_, stderr, code) = output(&project, arguments);
            let at = format!("bit {bit} of {}, {arguments:?}: {stderr}", name.display());
            if code == 0 {
                unread += 1;
                let left = tables(&project);
                restore(&store, &flipped);
                let (told, again) = outcome(&project, arguments);
                let mut expected = expected.clone();
                expected.1.retain(|table, _| left.contains_key(table));
                // A list of versions says which of them is damaged.
                if told.contains("damaged") {
                    expected.0.clone_from(&told);
                }
                assert!((told, left) == expected && again == expected.1, "{at}");
            } else {
                found += 1;
                let file = name.file_name().unwrap().to_string_lossy();
                assert_eq!(code, 1, "{at}");
                assert!(stderr.contains(&*file) && stderr.contains("hint: "), "{at}");
            }
        }
    }
    println!("flips of which commands ended with 1: {found}; as if there were none: {unread}");
    assert!(found > 0 && unread > 0);
}

/// Flips a bit in the middle of a file.
fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// What can be made again is made again, with a warning; what cannot be is named, with the command that mends it.
#[test]
fn damaged_tables_are_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    assert_eq!(output(&project, &["run"]).2, 0);
    let before = files_of(&project);
    let one = |prefix: &str| {
        let files = root(&project)["files"].as_object().unwrap().clone();
        live(&project, files.keys().find(|name| name.starts_with(prefix)).unwrap())
    };

    flip(&one("features/commerce/"));
    let (stdout, stderr, code) = output(&project, &["features", "build"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("is damaged or gone: it is written anew"), "{stdout}{stderr}");
    assert_eq!(files_of(&project), before);

    flip(&one("profile/"));
    let (stdout, stderr, code) = output(&project, &["score"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("is damaged or gone: it is written anew"), "{stdout}{stderr}");
    assert_eq!(files_of(&project), before);

    flip(&one("segments/"));
    let night = ["score", "--as-of", "2024-07-02"];
    let (_, stderr, code) = output(&project, &night);
    assert_eq!(code, 1, "{stderr}");
    let mend = "c360-ml score --as-of 2024-07-01 --force";
    assert!(stderr.contains("segments/as_of=2024-07-01") && stderr.contains(mend), "{stderr}");
    assert_eq!(output(&project, &["score", "--as-of", "2024-07-01", "--force"]).2, 0);
    assert_eq!(files_of(&project), before);
    assert_eq!(output(&project, &night).2, 0);
}

/// The bytes of all live tables by their names, without the run that wrote them.
fn files_of(project: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = root(project)["files"].as_object().unwrap().clone();
    let tables = files.keys().filter(|name| name.ends_with(".parquet"));
    let numbered =
        |name: &String| name.rsplit_once('-').map_or(name.as_str(), |(shard, _)| shard).to_owned();
    tables.map(|name| (numbered(name), std::fs::read(live(project, name)).unwrap())).collect()
}

/// An edited model is refused, unless it is adopted as a version of its own, which nothing has tested.
#[test]
fn an_edited_model_is_refused_until_it_is_adopted() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    assert_eq!(output(&project, &["run"]).2, 0);
    let version = root(&project)["champions"]["churn"].as_str().unwrap().to_owned();
    let file = live(&project, &format!("models/churn/{version}/model.json"));
    let night = ["score", "--as-of", "2024-07-02"];
    let (stdout, _, code) = output(&project, &["models", "adopt", "churn", &version]);
    assert_eq!((code, stdout.contains("nothing to adopt")), (0, true), "{stdout}");

    let text = std::fs::read_to_string(&file).unwrap();
    let place = text.find("\"intercept\": ").unwrap() + "\"intercept\": ".len();
    let end = place + text[place..].find([',', '\n']).unwrap();
    std::fs::write(&file, format!("{}0.125{}", &text[..place], &text[end..])).unwrap();
    for arguments in [&night[..], &["models", "show", "churn"], &["report"]] {
        let (_, stderr, code) = output(&project, arguments);
        assert_eq!(code, 1, "{stderr}");
        let mend = format!("c360-ml models adopt churn {version}");
        assert!(stderr.contains("is damaged") && stderr.contains(&mend), "{stderr}");
    }

    let adopt = ["--format", "json", "models", "adopt", "churn", &version];
    let (stdout, stderr, code) = output(&project, &adopt);
    assert_eq!(code, 0, "{stderr}");
    let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let adopted = told["version"].as_str().unwrap();
    assert_ne!(adopted, version);
    assert_eq!(output(&project, &night).2, 1, "the champion is still the edited one");
    let (stdout, stderr, code) = output(&project, &["models", "show", "churn", adopted]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("model.json was edited by hand"), "{stdout}");
    assert_eq!(output(&project, &["models", "promote", "churn", adopted]).2, 0);
    assert_eq!(output(&project, &night).2, 0);
    let (stdout, stderr, code) = output(&project, &["models", "list"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("damaged") && stdout.contains("champion"), "{stdout}");
}

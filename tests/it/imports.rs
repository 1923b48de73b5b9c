//! Tests that the imports among the folders of `src/` follow the order in ARCHITECTURE.md, without a circle.
//!
//! `C360_DRAW=1 cargo test imports` updates the drawing in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The folders and single files of `src/` from the top to the bottom. Each line may import those of later
/// lines, and those of its own line as long as there is no circle.
const ORDER: [&[&str]; 12] = [
    &["main", "lib"],
    &["cli"],
    &["commands"],
    &["config", "simulate"],
    &["report", "export", "engine"],
    &["training", "scoring"],
    &["segments", "profile"],
    &["artifact"],
    &["spec", "models", "features"],
    &["sources"],
    &["store", "expression"],
    &["schema", "time", "money", "shard", "sum", "error", "exit"],
];

/// Imports that are refused although the order allows them.
const REFUSED: [(&str, &str); 2] = [("scoring", "training"), ("training", "scoring")];

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, into),
            false if path.extension().is_some_and(|extension| extension == "rs") => into.push(path),
            false => {}
        }
    }
}

/// The folders that each folder names after `crate::`, each with a file that does so. Unit tests may name any
/// folder.
fn imports() -> BTreeMap<String, BTreeMap<String, String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let relative = file.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        let own = relative.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in lines {
            for after in line.split("crate::").skip(1) {
                let name: String =
                    after.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if name != own && !name.is_empty() {
                    found.entry(own.clone()).or_default().insert(name, relative.clone());
                }
            }
        }
        found.entry(own).or_default();
    }
    found
}

fn rank(name: &str) -> usize {
    let rank = ORDER.iter().position(|names| names.contains(&name));
    rank.unwrap_or_else(|| panic!("src/{name} has no place in the order of folders"))
}

#[test]
fn imports_run_one_way() {
    let imports = imports();
    for (from, names) in &imports {
        for (to, file) in names {
            assert!(rank(from) <= rank(to), "src/{file} imports {to}, which stands above {from}");
            let pair = (from.as_str(), to.as_str());
            assert!(!REFUSED.contains(&pair), "src/{file}: {from} may not know {to}");
        }
    }
    // Folders that import no remaining folder are removed until none is left. If none can be removed, there
    // is a circle.
    let mut left: BTreeSet<&str> = imports.keys().map(String::as_str).collect();
    while !left.is_empty() {
        let is_free =
            |name: &&str| imports[*name].keys().all(|other| !left.contains(other.as_str()));
        let free: Vec<&str> = left.iter().copied().filter(is_free).collect();
        assert!(!free.is_empty(), "these import each other in a circle: {left:?}");
        left.retain(|name| !free.contains(name));
    }
}

/// The module of each file, such as `features::timeline::block`, and the code of the file without its tests.
fn modules() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    files.retain(|file| !file.ends_with("tests.rs"));
    let module = |file: PathBuf| {
        let relative = file.strip_prefix(&root).unwrap().with_extension("");
        let name = relative.to_string_lossy().replace('/', "::");
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code: Vec<&str> = lines.collect();
        let code = code.join(" ").replace("pub(in crate::", "pub(in ");
        (name.trim_end_matches("::mod").to_owned(), code)
    };
    files.into_iter().map(module).collect()
}

/// The paths of a `use` tree: `a::{b, c::{d, e}}` is a::b, a::c::d and a::c::e.
fn paths(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((base, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap().to_owned()];
    };
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    let inner = rest.trim_end().strip_suffix('}').unwrap_or(rest);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = inner[start..at].trim();
                if !part.is_empty() {
                    found.extend(paths(part).into_iter().map(|path| format!("{base}{path}")));
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// The modules that a module names after `crate::`, `super::` or `self::`.
fn named(own: &str, code: &str, modules: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut all: Vec<String> = Vec::new();
    for statement in code.split("use ").skip(1) {
        all.extend(paths(statement.split(';').next().unwrap()));
    }
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    all.extend(code.split(|c| !is_path(c)).map(str::to_owned));
    let mut found = BTreeSet::new();
    for path in all {
        let mut parts: Vec<&str> = path.split("::").map(str::trim).collect();
        let mut base: Vec<&str> = own.split("::").collect();
        match parts.remove(0) {
            "crate" => base.clear(),
            "self" => {}
            "super" => {
                base.pop();
                while parts.first() == Some(&"super") {
                    base.pop();
                    parts.remove(0);
                }
            }
            _ => continue,
        }
        // `pub(super)` and `pub(crate)` import nothing.
        if parts.is_empty() {
            continue;
        }
        base.extend(parts);
        let module = (1..=base.len()).rev().map(|length| base[..length].join("::"));
        found.extend(module.into_iter().find(|name| modules.contains_key(name)));
    }
    found.remove(own);
    found
}

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let modules = modules();
    let imports: BTreeMap<&str, BTreeSet<String>> =
        modules.iter().map(|(name, code)| (name.as_str(), named(name, code, &modules))).collect();
    let mut left: BTreeSet<&str> = imports.keys().copied().collect();
    while !left.is_empty() {
        let is_free = |name: &&str| imports[*name].iter().all(|other| !left.contains(&**other));
        let free: Vec<&str> = left.iter().copied().filter(is_free).collect();
        assert!(!free.is_empty(), "these files import each other in a circle: {left:?}");
        left.retain(|name| !free.contains(name));
    }
}

#[test]
fn a_use_tree_has_a_path_for_each_name() {
    let found = paths("crate::a::{b, c::{d, e as f}, g::H}");
    assert_eq!(found, ["crate::a::b", "crate::a::c::d", "crate::a::c::e", "crate::a::g::H"]);
    assert_eq!(paths("super::x::Y"), ["super::x::Y"]);
}

/// Renders the folders from the top to the bottom, each with the folders that it imports.
fn drawing() -> String {
    let imports = imports();
    let mut text = String::new();
    for names in &ORDER[1..ORDER.len() - 1] {
        for name in *names {
            let own = &imports[*name];
            let leaves = ORDER[ORDER.len() - 1];
            let named = ORDER.iter().flat_map(|names| names.iter());
            let named = named.filter(|other| own.contains_key(**other) && !leaves.contains(other));
            let named: Vec<&str> = named.copied().collect();
            text += &format!("    {name:<11} -> {}\n", named.join(", "));
        }
        text += "\n";
    }
    text += &format!("    and all of them -> {}\n", ORDER[ORDER.len() - 1].join(", "));
    text
}

#[test]
fn the_drawing_of_the_folders_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- imports -->\n\n", "\n<!-- end of imports -->");
    let start = text.find(begin).expect("ARCHITECTURE.md has no drawing") + begin.len();
    let stop = start + text[start..].find(end).expect("the drawing has no end");
    if std::env::var("C360_DRAW").is_ok() {
        std::fs::write(&path, format!("{}{}{}", &text[..start], drawing(), &text[stop..])).unwrap();
        return;
    }
    assert_eq!(&text[start..stop], drawing(), "C360_DRAW=1 cargo test imports draws it anew");
}

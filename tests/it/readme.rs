//! The output that README.md shows is the output that the commands print.

use std::path::Path;

use crate::cli::output;
use crate::support::whole_project;

/// The blocks of README.md that show output, found by how they begin.
fn block<'a>(readme: &'a str, begins: &str) -> Vec<&'a str> {
    let mut blocks = readme.split("```").skip(1).step_by(2);
    let found = blocks.find(|block| block.trim_start_matches('\n').starts_with(begins));
    found
        .unwrap_or_else(|| panic!("README.md has no block that begins with {begins}"))
        .lines()
        .collect()
}

/// A version ends in a hash of fitted doubles, whose last bits may depend on the CPU.
fn without_hashes(line: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in line.trim_end().split(' ') {
        let head = word.trim_end_matches([':', ')', ',']);
        let hash = head.len() == 19 && head.starts_with("20") && head.as_bytes()[10] == b'-';
        words.push(if hash { word.replacen(&head[11..], "version", 1) } else { word.to_owned() });
    }
    words.join(" ")
}

/// Every line that README.md shows is printed, in this order. A line with `…` alone stands for lines left out.
#[test]
fn the_readme_shows_what_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let project = whole_project(folder.path());
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let (run, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stderr}");
    let (explained, ..) = output(&project, &["explain", "c360_0000122"]);
    let all = run + &explained;
    let mut printed = all.lines().map(without_hashes);
    for begins in ["churn 20", "1,996 customers scored", "c360_0000122 as of"] {
        for line in block(&readme, begins) {
            let line = without_hashes(line);
            if !line.trim().is_empty() && line.trim() != "…" {
                assert!(
                    printed.any(|other| other == line),
                    "not printed, or in another order: {line}"
                );
            }
        }
    }
}

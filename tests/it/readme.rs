//! The pages of the documentation: the output that they show is what the commands print, and their links lead somewhere.

use std::path::{Path, PathBuf};

use crate::cli::output;
use crate::support::whole_project;

/// The fields of the profile that the tutorial shows.
const FIELDS: [&str; 14] = [
    "customer360_id",
    "full_name",
    "age",
    "preferred_channel",
    "last_purchase_at",
    "orders_count",
    "total_revenue",
    "lifetime_value",
    "churn_risk_score",
    "propensity_to_buy_score",
    "engagement_score",
    "primary_segment",
    "segments",
    "churn_basis",
];
/// The steps of a waterfall that the tutorial shows before it leaves some out, with the mean and the sentence.
const STEPS: usize = 8;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A version ends in a hash of fitted doubles, whose last bits may depend on the CPU.
fn without_hashes(text: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let head = word.trim_end_matches([':', ')', ',']);
        let hash = head.len() == 19 && head.starts_with("20") && head.as_bytes()[10] == b'-';
        words.push(if hash { word.replacen(&head[11..], "xxxxxxxx", 1) } else { word.to_owned() });
    }
    words.join(" ")
}

/// The lines from the one that begins with `from` to the one that begins with `to`.
fn part(text: &str, from: &str, to: &str) -> String {
    let lines = text.lines().skip_while(|line| !line.starts_with(from));
    let mut lines = lines.map(|line| without_hashes(line.trim_end()));
    let mut kept = Vec::new();
    for line in lines.by_ref() {
        let last = line.starts_with(to);
        kept.push(line);
        if last {
            break;
        }
    }
    kept.join("\n")
}

/// What `explain` prints, with some of the fields of the profile and some of the steps of each waterfall.
fn shortened(explained: &str) -> String {
    let (mut kept, mut steps) = (Vec::new(), 0);
    let mut in_profile = false;
    let lines: Vec<&str> = explained.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let first = line.split(' ').next().unwrap_or_default();
        in_profile = (in_profile || line.starts_with("field ")) && !line.is_empty();
        if in_profile && first != "field" && !FIELDS.contains(&first) {
            continue;
        }
        // The last two steps of a waterfall are what is left and the sum.
        steps = if line.starts_with("    ") { steps + 1 } else { 0 };
        let left = lines[number..].iter().take_while(|line| line.starts_with("    ")).count();
        if steps > STEPS && left > 2 {
            if steps == STEPS + 1 {
                kept.push("    …".to_owned());
            }
            continue;
        }
        kept.push(without_hashes(line.trim_end()));
    }
    kept.join("\n").trim_end().to_owned()
}

/// The blocks of output in docs/tutorial.md, in their order. `C360_WRITE_DOCS=1 cargo test` writes them.
#[test]
fn the_tutorial_shows_what_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let project = whole_project(folder.path());
    let (run, stderr, code) = output(&project, &["run"]);
    assert_eq!(code, 0, "{stderr}");
    let (explained, ..) = output(&project, &["explain", "c360_0000122"]);
    let printed = [
        part(&run, "churn 20", "gate"),
        part(&run, "1,996 customers scored", "segments page"),
        shortened(&explained),
    ];
    let path = root().join("docs/tutorial.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let mut parts: Vec<String> = page.split("```").map(str::to_owned).collect();
    let shown = parts.iter_mut().skip(1).step_by(2).filter(|part| !part.starts_with("sh\n"));
    let mut count = 0;
    for (block, printed) in shown.zip(&printed) {
        *block = format!("\n{printed}\n");
        count += 1;
    }
    assert_eq!(count, printed.len(), "the tutorial has a block for each");
    let written = parts.join("```");
    if std::env::var_os("C360_WRITE_DOCS").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap();
    for (shown, printed) in page.lines().zip(written.lines()) {
        assert_eq!(
            shown, printed,
            "docs/tutorial.md is old; C360_WRITE_DOCS=1 cargo test writes it"
        );
    }
    assert_eq!(page.lines().count(), written.lines().count());
}

fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md"), root().join("ARCHITECTURE.md")];
    for folder in ["docs", "docs/how-to"] {
        let entries = std::fs::read_dir(root().join(folder)).unwrap();
        let entries = entries.map(|entry| entry.unwrap().path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    pages
}

/// Every page is in the summary of the site, and every link leads to a file.
#[test]
fn the_pages_are_listed_and_their_links_lead_somewhere() {
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let folder = page.parent().unwrap();
        if let Ok(name) = page.strip_prefix(root().join("docs")) {
            let name = name.to_str().unwrap();
            assert!(name == "SUMMARY.md" || summary.contains(&format!("({name})")), "{name}");
        }
        // A block of code has no links.
        let prose = text.split("```").step_by(2);
        for link in prose.flat_map(|prose| prose.split("](").skip(1)) {
            let target = link.split([')', '#']).next().unwrap();
            let outside = target.starts_with("http") || target.is_empty();
            let there = folder.join(target).exists();
            assert!(outside || there, "{} links to {target}", page.display());
        }
    }
}

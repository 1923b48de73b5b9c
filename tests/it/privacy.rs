//! Who may read what is written, and where personal data never are.

use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray};

use c360_ml::store::parquet::read;

use crate::cli::output;
use crate::corruption::files;
use crate::support::{EVENTS_FILE, PROFILE_FILE, edit, project, rewrite, with_column};

/// The modes of the files and folders below a folder, links left out.
#[cfg(unix)]
fn modes(folder: &Path) -> (Vec<u32>, Vec<u32>) {
    use std::os::unix::fs::PermissionsExt;
    let (mut of_files, mut of_folders) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => {
                of_folders.push(mode);
                let (files, folders) = modes(&entry.path());
                of_files.extend(files);
                of_folders.extend(folders);
            }
            kind if kind.is_file() => of_files.push(mode),
            _ => {}
        }
    }
    for list in [&mut of_files, &mut of_folders] {
        list.sort_unstable();
        list.dedup();
    }
    (of_files, of_folders)
}

#[cfg(unix)]
#[test]
fn only_the_owner_may_read_what_is_written_unless_the_project_says_so() {
    for (access, file, folder) in [
        ("", 0o600, 0o700),
        ("access = \"group\"", 0o640, 0o750),
        ("access = \"owner\"", 0o600, 0o700),
    ] {
        let place = tempfile::tempdir().unwrap();
        let project = project(place.path());
        edit(&project, "c360.toml", "[project]\n", &format!("[project]\n{access}\n"));
        assert_eq!(output(&project, &["features", "build"]).2, 0);
        let out = project.join("store/out");
        let export = ["export", "feast", "--out", &out.to_string_lossy()];
        assert_eq!(output(&project, &export).2, 0);
        assert_eq!(modes(&project.join("store")), (vec![file], vec![folder]), "{access}");
    }
    let place = tempfile::tempdir().unwrap();
    let project = project(place.path());
    edit(&project, "c360.toml", "[project]\n", "[project]\naccess = \"everyone\"\n");
    let (_, stderr, code) = output(&project, &["features", "build"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("access") && stderr.contains("owner"), "{stderr}");
}

/// What the fixtures are given as personal data. None of it is a word that anything else could have.
const PLANTED: [(&str, &str); 7] = [
    ("first_name", "Zyxfirstname"),
    ("last_name", "Zyxlastname"),
    ("primary_email", "zyxmail@example.com"),
    ("primary_phone", "+15550100999"),
    ("city", "Zyxtown"),
    ("postal_code", "ZYX777"),
    ("date_of_birth", "1931-07-19"),
];

/// Plants personal data in all rows of the profile, and runs every command that tells something. Only the profile itself
/// has them then, and what `explain` prints of a customer who was asked for.
#[test]
fn personal_data_are_in_no_log_error_report_metric_or_artifact() {
    let place = tempfile::tempdir().unwrap();
    let project = project(place.path());
    rewrite(&project, PROFILE_FILE, |rows| {
        PLANTED.into_iter().fold(rows, |rows, (field, value)| {
            let column: ArrayRef = Arc::new(StringArray::from(vec![value; rows.num_rows()]));
            with_column(&rows, field, column)
        })
    });
    let mut said = Vec::new();
    let mut tell = |arguments: &[&str]| {
        let (stdout, stderr, _) = output(&project, arguments);
        said.push((arguments.join(" "), format!("{stdout}{stderr}")));
    };
    tell(&["validate", "--verbose"]);
    tell(&["run", "--verbose", "--log-format", "json"]);
    tell(&["score", "--as-of", "2024-07-02", "--verbose", "--format", "json"]);
    tell(&["report"]);
    tell(&["models", "list"]);
    tell(&["segments", "list"]);
    tell(&["history"]);
    tell(&["segments", "export", "New", "--out", &project.join("new.csv").to_string_lossy()]);
    tell(&["export", "feast", "--out", &project.join("feast").to_string_lossy()]);
    // Sources that break the contract.
    let whole = std::fs::read(project.join(PROFILE_FILE)).unwrap();
    rewrite(&project, PROFILE_FILE, |rows| {
        let twice = [&rows, &rows];
        arrow_select::concat::concat_batches(&rows.schema(), twice).unwrap()
    });
    tell(&["score", "--as-of", "2024-07-03"]);
    std::fs::write(project.join(PROFILE_FILE), whole).unwrap();
    std::fs::write(project.join(EVENTS_FILE), "no Parquet").unwrap();
    tell(&["score", "--as-of", "2024-07-03"]);

    let store = project.join("store");
    for (name, bytes) in files(&store) {
        let is_profile = name.starts_with("profile");
        let is_table = name.extension().is_some_and(|end| end == "parquet");
        let text = match is_table {
            true => {
                read(&store.join(&name), None).unwrap().iter().map(|r| format!("{r:?}")).collect()
            }
            false => String::from_utf8_lossy(&bytes).into_owned(),
        };
        if !is_profile {
            said.push((name.display().to_string(), text));
        }
    }
    let profile =
        crate::support::live(&project, "profile/as_of=2024-07-02/00000-of-00001-3.parquet");
    let rows = read(&profile, None).unwrap();
    assert!(
        format!("{rows:?}").contains(PLANTED[0].1),
        "the profile itself keeps what it was given"
    );
    for (place, text) in &said {
        for (field, value) in PLANTED {
            assert!(!text.contains(value), "{place} has the {field} {value}");
        }
    }
    assert!(said.len() > 40, "{} texts were looked through", said.len());
}

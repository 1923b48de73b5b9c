//! What Prometheus is told of a command.

use crate::cli::output;
use crate::support::{EVENTS_FILE, project};

#[test]
fn prometheus_is_told_how_commands_end() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let file = project.join("c360.prom");
    let build = ["features", "build", "--prometheus", &file.to_string_lossy()];
    assert_eq!(output(&project, &build).2, 0);
    let first = std::fs::read_to_string(&file).unwrap();
    let value = |text: &str, name: &str| -> Option<f64> {
        let start = format!("{name}{{command=\"features build\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
    };
    assert_eq!(value(&first, "c360_ml_exit_code"), Some(0.0), "{first}");
    assert!(value(&first, "c360_ml_duration_seconds").unwrap() > 0.0);
    let success = value(&first, "c360_ml_last_success_timestamp_seconds");
    assert_eq!(value(&first, "c360_ml_last_run_timestamp_seconds"), success);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o644, "the collector runs as another user");
    }

    std::fs::write(project.join(EVENTS_FILE), "no Parquet").unwrap();
    let failed =
        ["features", "build", "--as-of", "2024-07-02", "--prometheus", &file.to_string_lossy()];
    assert_eq!(output(&project, &failed).2, 3);
    let second = std::fs::read_to_string(&file).unwrap();
    assert_eq!(value(&second, "c360_ml_exit_code"), Some(3.0), "{second}");
    assert_eq!(value(&second, "c360_ml_last_success_timestamp_seconds"), success);
    assert!(value(&second, "c360_ml_last_run_timestamp_seconds") > success);

    // What cannot be written is a warning, and the command ends as it has.
    let nowhere = ["history", "--prometheus", "/proc/nowhere/c360.prom"];
    let (_, stderr, code) = output(&project, &nowhere);
    assert_eq!(code, 0);
    assert!(stderr.contains("/proc/nowhere/c360.prom"), "{stderr}");
}

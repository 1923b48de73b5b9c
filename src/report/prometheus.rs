//! How a command ended, as text for Prometheus: what the textfile collector of its node exporter reads.

use prometheus::{Encoder, Gauge, GaugeVec, Opts, Registry, TextEncoder};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::time::Instant;

const CONTEXT: &str = "writing metrics for Prometheus";
/// When the command last ended with exit code 0.
const SUCCESS: &str = "c360_ml_last_success_timestamp_seconds";

/// A command that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// Its name, such as `score` or `features build`.
    pub command: &'a str,
    /// Its exit code.
    pub exit_code: u8,
    /// How long it took.
    pub seconds: f64,
    /// When it ended.
    pub at: Instant,
    /// What it gave; `None` if it failed.
    pub output: Option<&'a Value>,
}

/// Renders the metrics of a command. `before` is what the file had, from which a command that failed takes when it last
/// succeeded.
///
/// # Errors
/// Returns an error if a metric cannot be encoded.
pub fn text(ended: &Ended<'_>, before: &str) -> Result<String> {
    render(ended, before).map_err(Error::engine(CONTEXT))
}

fn render(ended: &Ended<'_>, before: &str) -> prometheus::Result<String> {
    let registry = Registry::new();
    let options =
        |name: &str, help: &str| Opts::new(name, help).const_label("command", ended.command);
    let add = |name: &str, help: &str, value: f64| {
        let gauge = Gauge::with_opts(options(name, help))?;
        gauge.set(value);
        registry.register(Box::new(gauge))
    };
    let seconds = ended.at.0 as f64 / 1e6;
    let success =
        if ended.exit_code == 0 { Some(seconds) } else { last_success(before, ended.command) };
    add(
        "c360_ml_exit_code",
        "The exit code of the last run of the command.",
        ended.exit_code.into(),
    )?;
    add("c360_ml_duration_seconds", "How long the last run took.", ended.seconds)?;
    add("c360_ml_last_run_timestamp_seconds", "When the last run ended, since 1970.", seconds)?;
    if let Some(success) = success {
        add(SUCCESS, "When a run last ended with exit code 0, since 1970.", success)?;
    }
    let number = |path: &str| ended.output.and_then(|output| output.pointer(path)?.as_f64());
    let counts = [
        ("c360_ml_customers", "Customers that were scored.", "/customers"),
        ("c360_ml_events", "Events of the sources.", "/events/events"),
        ("c360_ml_events_read", "Events that the run has read.", "/refresh/events_read"),
        ("c360_ml_duplicate_events", "Duplicate events that were left out.", "/events/duplicates"),
        ("c360_ml_orphan_events", "Events of unknown customers.", "/events/orphans"),
    ];
    for (name, help, path) in counts {
        number(path).map_or(Ok(()), |value| add(name, help, value))?;
    }
    let list = |path: &str| ended.output.and_then(|output| output.pointer(path));
    if let Some(rejected) = list("/events/rejected").and_then(Value::as_object) {
        let all = rejected.values().filter_map(Value::as_f64).sum();
        add("c360_ml_rejected_events", "Rows of event files that cannot be used.", all)?;
    }
    if let Some(segments) = list("/segments").and_then(Value::as_array) {
        let help = "Customers of each segment.";
        let gauges = GaugeVec::new(options("c360_ml_segment_customers", help), &["segment"])?;
        for segment in segments {
            let (name, count) = (segment["segment"].as_str(), segment["customers"].as_f64());
            if let Some((name, count)) = name.zip(count) {
                gauges.with_label_values(&[name]).set(count);
            }
        }
        registry.register(Box::new(gauges))?;
    }
    let mut bytes = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// When the command last succeeded, by what a file of it says.
fn last_success(before: &str, command: &str) -> Option<f64> {
    let start = format!("{SUCCESS}{{command=\"{command}\"}} ");
    before.lines().find_map(|line| line.strip_prefix(&start)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_keeps_when_it_last_succeeded() {
        let output = serde_json::json!({
            "customers": 7,
            "events": { "events": 9, "rejected": { "event_id is null": 2, "other": 1 } },
            "segments": [{ "segment": "High \"value\"", "customers": 3 }],
        });
        let at = Instant(1_719_792_000_500_000);
        let ended =
            Ended { command: "score", exit_code: 0, seconds: 1.5, at, output: Some(&output) };
        let first = text(&ended, "").unwrap();
        for line in [
            "# TYPE c360_ml_exit_code gauge",
            "c360_ml_exit_code{command=\"score\"} 0",
            "c360_ml_duration_seconds{command=\"score\"} 1.5",
            "c360_ml_last_success_timestamp_seconds{command=\"score\"} 1719792000.5",
            "c360_ml_customers{command=\"score\"} 7",
            "c360_ml_rejected_events{command=\"score\"} 3",
            "c360_ml_segment_customers{command=\"score\",segment=\"High \\\"value\\\"\"} 3",
        ] {
            assert!(first.lines().any(|own| own == line), "{line}\n{first}");
        }
        let failed = Ended { exit_code: 3, at: Instant(at.0 + 60_000_000), output: None, ..ended };
        let second = text(&failed, &first).unwrap();
        assert!(second.contains("c360_ml_exit_code{command=\"score\"} 3"), "{second}");
        assert!(second.contains("last_run_timestamp_seconds{command=\"score\"} 1719792060.5"));
        assert!(second.contains("last_success_timestamp_seconds{command=\"score\"} 1719792000.5"));
        assert!(!second.contains("c360_ml_customers"), "{second}");
        let other = Ended { command: "train", ..failed };
        assert!(!text(&other, &first).unwrap().contains("last_success"));
    }
}

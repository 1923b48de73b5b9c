//! The output for people: aligned text tables, and the progress of a run on a terminal.

pub mod findings;
pub mod html;
pub mod identity;
pub mod prometheus;
pub mod rows;
pub mod sentences;
pub mod text;

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use self::identity::{Identity, enter_stage};

/// The output of a command: a text for people and a value for programs.
#[derive(Debug, Clone)]
pub struct Output {
    /// The output for `--format text`.
    pub text: String,
    /// The output for `--format json`.
    pub json: serde_json::Value,
}

/// A text table. Columns of numbers are aligned to the right.
#[derive(Debug, Clone, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table with these column heads.
    pub fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Renders the table as lines of text.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let numeric: Vec<bool> = (0..columns)
            .map(|column| {
                let mut cells = self.rows.iter().skip(1).filter_map(|row| row.get(column));
                cells.all(|cell| is_number(cell)) && self.rows.len() > 1
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let padding = " ".repeat(widths[column] - cell.chars().count());
                let cell = if numeric[column] { padding + cell } else { cell.clone() + &padding };
                line.push_str(&cell);
                line.push_str("  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn is_number(cell: &str) -> bool {
    let digits = cell.trim_end_matches(['%', 'd']).replace([',', ' '], "");
    cell.is_empty() || cell == "-" || digits.parse::<f64>().is_ok()
}

/// Formats a whole number with separators between thousands: `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A finished stage of a run, with its time and memory.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    /// The name of the stage.
    pub name: &'static str,
    /// The wall time in seconds.
    pub seconds: f64,
    /// The peak resident memory of the process by the end of the stage, in bytes. It is None if the system
    /// does not report it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
}

/// The progress of a run: a spinner on a terminal, and log lines everywhere.
#[derive(Debug)]
pub struct Progress {
    quiet: bool,
    /// Who the run is.
    pub identity: Identity,
    /// The finished stages.
    pub stages: Vec<Stage>,
    current: Option<(&'static str, Instant, ProgressBar)>,
    steps: Option<ProgressBar>,
}

impl Progress {
    /// Creates a progress of a run without a stage; `quiet` shows nothing on the terminal.
    pub fn new(quiet: bool, identity: Identity) -> Self {
        Self { quiet, identity, stages: Vec::new(), current: None, steps: None }
    }

    /// Ends the current stage and begins the next one.
    pub fn stage(&mut self, name: &'static str) {
        self.finish();
        // indicatif draws on stderr, and only if stderr is a terminal.
        let bar = if self.quiet || self.steps.is_some() {
            ProgressBar::hidden()
        } else {
            ProgressBar::new_spinner()
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(name);
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        self.current = Some((name, Instant::now(), bar));
        enter_stage(Some(name));
    }

    /// Begins a run of many steps, which shows a bar with the remaining time instead of spinners.
    pub fn steps(&mut self, count: u64) {
        if count < 2 || self.quiet {
            return;
        }
        let bar = ProgressBar::new(count);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {eta} left") {
            bar.set_style(style);
        }
        self.steps = Some(bar);
    }

    /// Records that `count` more steps are done, the last of which is `reached`.
    pub fn advance(&mut self, count: u64, reached: &str) {
        if let Some(bar) = &self.steps {
            bar.inc(count);
            bar.set_message(reached.to_owned());
            let (done, of) = (bar.position(), bar.length().unwrap_or(0));
            let left = format!("{:.0}", bar.eta().as_secs_f64());
            tracing::info!(done, of, reached, seconds_left = left, "progress");
        }
    }

    /// Ends the current stage.
    pub fn finish(&mut self) {
        if let Some((name, begun, bar)) = self.current.take() {
            bar.finish_and_clear();
            let seconds = begun.elapsed().as_secs_f64();
            let peak_bytes = peak_memory();
            let peak_mb = peak_bytes.map(|bytes| bytes >> 20);
            tracing::info!(stage = name, seconds = format!("{seconds:.2}"), peak_mb, "done");
            self.stages.push(Stage { name, seconds, peak_bytes });
            enter_stage(None);
        }
    }
}

/// The peak resident memory of the process in bytes, as Linux reports it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_numbers_to_the_right() {
        let mut table = Table::new(&["name", "rows"]);
        table.row(["a", "1,000"]);
        table.row(["long", "20"]);
        assert_eq!(table.render(), "name   rows\na     1,000\nlong     20\n");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(12), "12");
    }
}

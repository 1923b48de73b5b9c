//! Who a run is: what orchestrators, logs and lineage know it by.

use std::sync::{Mutex, PoisonError};

/// Who a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The UUID of this call, of version 7.
    pub id: String,
    /// The trace that the call is a part of, as 32 hexadecimal digits; `None` if it is in none.
    pub trace: Option<String>,
}

impl Identity {
    /// Names a call that belongs to the trace of a `traceparent` (W3C Trace Context, level 1). As that standard asks,
    /// one that cannot be read is left out.
    pub fn new(id: String, traceparent: Option<&str>) -> Self {
        Self { id, trace: traceparent.and_then(trace_of) }
    }
}

/// The trace of a `traceparent`: `version-trace-parent-flags` in lowercase hexadecimal digits. Later versions may have
/// more parts.
fn trace_of(traceparent: &str) -> Option<String> {
    let parts: Vec<&str> = traceparent.trim().split('-').collect();
    let [version, trace, parent, flags, more @ ..] = parts.as_slice() else { return None };
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_zero = |text: &str| text.bytes().all(|c| c == b'0');
    let is_whole =
        is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    let is_valid = is_whole && !is_zero(trace) && !is_zero(parent) && *version != "ff";
    (is_valid && (more.is_empty() || *version != "00")).then(|| (*trace).to_owned())
}

/// The stage that the process is in, which log lines of all threads name.
static STAGE: Mutex<Option<&'static str>> = Mutex::new(None);

/// Sets the stage that the process is in.
pub(super) fn enter_stage(name: Option<&'static str>) {
    *STAGE.lock().unwrap_or_else(PoisonError::into_inner) = name;
}

/// The stage that the process is in.
pub fn current_stage() -> Option<&'static str> {
    *STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the standard, and what it says is invalid.
    #[test]
    fn a_trace_is_taken_up_if_it_is_valid() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let of = |text: &str| Identity::new(String::new(), Some(text)).trace;
        for valid in [
            format!("00-{trace}-00f067aa0ba902b7-01"),
            format!("cc-{trace}-00f067aa0ba902b7-01-what-the-future-adds"),
        ] {
            assert_eq!(of(&valid).as_deref(), Some(trace), "{valid}");
        }
        for invalid in [
            String::new(),
            trace.to_owned(),
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{trace}-00f067aa0ba902b7-01-more"),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("00-{trace}-00f067aa0ba902b7"),
        ] {
            assert_eq!(of(&invalid), None, "{invalid}");
        }
    }
}

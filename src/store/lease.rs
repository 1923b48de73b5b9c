//! A lease: a note that a run is at work, which spares others work that would be lost. It is no lock: of two runs that
//! publish, one creates the next root and the other one fails, with a lease or without.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::objects::Objects;
use crate::error::{Error, Result};
use crate::time::Instant;

/// The object of the lease.
const LEASE: &str = "lease.json";
/// The length of a lease. A run that died holds the store for as long at most.
const LENGTH: Duration = Duration::from_secs(120);
/// How often a run renews its lease.
const RENEWAL: Duration = Duration::from_secs(30);

/// What the object says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// Who holds the lease: a process and its command.
    holder: String,
    /// The process, if it runs on this machine.
    process: u32,
    /// The machine.
    machine: String,
    /// A mark of the run.
    attempt: String,
    /// Until when the lease holds unless it is renewed.
    expires: Instant,
}

/// A held lease, which is renewed until it is dropped.
#[derive(Debug)]
pub struct Lease {
    objects: Objects,
    attempt: String,
    stop: Option<Sender<()>>,
    renewing: Option<JoinHandle<()>>,
}

/// Reads the clock.
pub type Clock = fn() -> Instant;

impl Lease {
    /// Takes the lease of a store for a run.
    ///
    /// # Errors
    /// Returns [`Error::Locked`] if another run holds it.
    pub fn take(objects: &Objects, command: &str, attempt: &str, clock: Clock) -> Result<Self> {
        if let Some(note) = read(objects)?
            && note.attempt != attempt
            && note.expires > clock()
            && is_alive(&note)
        {
            return Err(Error::Locked { path: objects.folder().to_owned(), holder: note.holder });
        }
        let process = std::process::id();
        let holder = format!("process {process}, {command}");
        let note = Note {
            holder,
            process,
            machine: machine(),
            attempt: attempt.to_owned(),
            expires: expiry(clock),
        };
        write(objects, &note)?;
        let (stop, stopped) = channel();
        let (held, shared) = (Arc::new(note), objects.clone());
        let renew = move || {
            while stopped.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) {
                // A run that paused for long may have lost its lease to another one.
                if matches!(read(&shared), Ok(Some(note)) if note.attempt != held.attempt) {
                    break;
                }
                // A lease that cannot be renewed expires, which costs others work but nothing else.
                let _ = write(&shared, &Note { expires: expiry(clock), ..(*held).clone() });
            }
        };
        let renewing = std::thread::Builder::new().name("lease".into()).spawn(renew).ok();
        let (objects, attempt) = (objects.clone(), attempt.to_owned());
        Ok(Self { objects, attempt, stop: Some(stop), renewing })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(renewing) = self.renewing.take() {
            let _ = renewing.join();
        }
        // Another run may have taken a lease that had expired.
        if let Ok(Some(note)) = read(&self.objects)
            && note.attempt == self.attempt
        {
            let _ = self.objects.delete([LEASE]);
        }
    }
}

fn expiry(clock: Clock) -> Instant {
    Instant(clock().0 + LENGTH.as_micros() as i64)
}

fn read(objects: &Objects) -> Result<Option<Note>> {
    // A note that cannot be read holds nothing.
    Ok(objects.get(LEASE)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn write(objects: &Objects, note: &Note) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(note).map_err(Error::engine("writing JSON"))?;
    objects.put(LEASE, bytes)
}

/// The name of this machine, as far as the system tells it. Containers of one machine number their processes apart.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let processes = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {} {}", name.trim(), boot.trim(), processes.display())
}

/// Whether the process of a note may still run. Of another machine's nothing is known.
fn is_alive(note: &Note) -> bool {
    note.machine != machine() || is_running(note.process)
}

/// Whether a process of this machine may still run. Where the system does not tell, it may.
pub(super) fn is_running(process: impl std::fmt::Display) -> bool {
    let folder = std::path::Path::new("/proc");
    !folder.join("self").exists() || folder.join(process.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn early() -> Instant {
        Instant(1_000_000)
    }

    fn late() -> Instant {
        Instant(1_000_000_000_000)
    }

    #[test]
    fn a_lease_holds_until_it_is_dropped_or_expires() {
        let folder = tempfile::tempdir().unwrap();
        let objects = Objects::on_disk(folder.path()).unwrap();
        let lease = Lease::take(&objects, "train", "a", early).unwrap();
        let refused = Lease::take(&objects, "score", "b", early).unwrap_err();
        assert!(refused.to_string().contains("train"), "{refused}");
        let second = Lease::take(&objects, "score", "b", late).unwrap();
        drop(lease);
        assert!(Lease::take(&objects, "run", "c", late).is_err(), "the second lease is left alone");
        drop(second);
        drop(Lease::take(&objects, "run", "c", late).unwrap());
        assert_eq!(objects.get(LEASE).unwrap(), None);
        // A process that died holds nothing.
        let note = Note {
            holder: "process 0".into(),
            process: u32::MAX,
            machine: machine(),
            attempt: "d".into(),
            expires: Instant(4_102_444_800_000_000),
        };
        write(&objects, &note).unwrap();
        assert_eq!(
            Lease::take(&objects, "run", "e", late).is_ok(),
            std::path::Path::new("/proc/self").exists()
        );
    }
}

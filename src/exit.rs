//! The exit status of a run, for an orchestrator to act on.

/// The exit codes of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The run did all its work, or there was nothing to do.
    Ok = 0,
    /// The run met something unexpected: a file that cannot be read, a server that refuses, or a defect.
    Unexpected = 1,
    /// A setting, a spec or an argument is wrong.
    Configuration = 2,
    /// The data violate their contract, or the features violate an expectation.
    Contract = 3,
    /// A model has not enough data or did not meet its quality gate, and was not promoted.
    NotMet = 4,
    /// Another run holds the store.
    Locked = 5,
}

impl Exit {
    /// Returns `Ok` if `holds`, and this status otherwise.
    pub fn unless(self, holds: bool) -> Self {
        if holds { Self::Ok } else { self }
    }

    /// The exit code of the process.
    pub fn code(self) -> u8 {
        self as u8
    }
}

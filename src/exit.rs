//! How a run ends, for an orchestrator to act on.

/// The exit codes of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All was done, or there was nothing to do.
    Ok = 0,
    /// Something unexpected: a file that cannot be read, a server that refuses, a defect.
    Unexpected = 1,
    /// A setting, a spec or an argument is wrong.
    Configuration = 2,
    /// The data violate their contract, or features an expectation.
    Contract = 3,
    /// There are not enough data, or a quality gate was not met; nothing was promoted.
    NotMet = 4,
    /// Another run holds the store.
    Locked = 5,
}

impl Exit {
    /// `Ok` where something holds, else this.
    pub fn unless(self, holds: bool) -> Self {
        if holds { Self::Ok } else { self }
    }

    /// The number that the process ends with.
    pub fn code(self) -> u8 {
        self as u8
    }
}

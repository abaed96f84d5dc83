//! Bugs that tests plant, to prove that they would be found: each breaks one promise in the place where it is kept. A release
//! contains none of them; a build with debug assertions takes one from `FLOTILLA_TEST_BUG`, and the simulator calls [`plant`].

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A leader answers a write when it has proposed it.
    AckBeforeCommit,
    /// The log is written and never synced.
    NoSync,
    /// A vote is not written down.
    VoteForgotten,
    /// Some deletes are not applied.
    DeleteSkipped,
    /// Who believes to lead answers linearizable reads, without a lease.
    LocalRead,
    /// After a boot reads and votes begin at once.
    BootGateOff,
    /// The log ends at the first bad checksum, whatever follows.
    TruncateAtBadChecksum,
    /// The durable state forgets which requests were answered.
    WindowDropped,
    /// A partition takes writes of slots that it has given away.
    EpochUnchecked,
    /// Deletions that come while segments are merged are lost.
    TombstonesDropped,
    /// Manifests are committed before the files that they name are durable.
    ManifestFirst,
}

/// All of them, with their names.
pub const BUGS: [(Bug, &str); 11] = [
    (Bug::AckBeforeCommit, "ack-before-commit"),
    (Bug::NoSync, "no-sync"),
    (Bug::VoteForgotten, "vote-forgotten"),
    (Bug::DeleteSkipped, "delete-skipped"),
    (Bug::LocalRead, "local-read"),
    (Bug::BootGateOff, "boot-gate-off"),
    (Bug::TruncateAtBadChecksum, "truncate-at-bad-checksum"),
    (Bug::WindowDropped, "window-dropped"),
    (Bug::EpochUnchecked, "epoch-unchecked"),
    (Bug::TombstonesDropped, "tombstones-dropped"),
    (Bug::ManifestFirst, "manifest-first"),
];

#[cfg(any(debug_assertions, feature = "sim"))]
mod soil {
    use std::sync::OnceLock;

    use super::{BUGS, Bug};

    static PLANTED: OnceLock<Option<Bug>> = OnceLock::new();

    fn from_environment() -> Option<Bug> {
        let name = std::env::var("FLOTILLA_TEST_BUG").ok()?;
        BUGS.iter().find(|(_, known)| *known == name).map(|(bug, _)| *bug)
    }

    /// Plants a bug in this process, before anything else is done.
    pub fn plant(bug: Option<Bug>) {
        let _ = PLANTED.set(bug);
    }

    /// Whether this bug is planted.
    pub fn has(bug: Bug) -> bool {
        *PLANTED.get_or_init(from_environment) == Some(bug)
    }
}

#[cfg(any(debug_assertions, feature = "sim"))]
pub use self::soil::{has, plant};

/// There are no planted bugs in a release.
#[cfg(not(any(debug_assertions, feature = "sim")))]
pub const fn has(_: Bug) -> bool {
    false
}

//! The log: every group's entries, vote and marks, durable, on a few append-only files per node.
//!
//! **Idea.** A node has K *lanes* (4), group g writes to lane g mod K. A lane is one sequence of records cut into
//! preallocated *segments*, written by one loop: it takes everything queued, writes it in one piece, syncs once,
//! and then fires the callbacks in queue order (group commit). Payloads are opaque bytes; nothing here knows Raft.
//!
//! **What a group sees.** [`GroupLog::append`] is visible to [`GroupLog::read`] when it returns, and durable when its
//! callback fires; callbacks of a group fire in the order of its calls. Vote, truncate, purge and removal are
//! durable when their future ends. The committed mark is only a hint: it reaches the disk with the next sync.
//!
//! **Invariants.**
//! - *sequence*: records of a lane are numbered without gap, through all its segments.
//! - *run*: each record says how many records before it were written since the last sync. A valid record of a
//!   later run therefore proves every earlier record to have been durable once.
//! - *prefix*: segments are deleted from the oldest on, never in the middle, so a truncation outlives what it
//!   truncated. Before a segment goes, the marks living in it are written again at the end (`writer/reclaim`).
//! - *poison*: after a failed write or sync a lane accepts nothing more, ever; the sync is not repeated, since the kernel
//!   may have dropped the pages it could not write. A full disk is no failure: the lane waits for space, and goes on
//!   ([`GroupLog::full`] says so meanwhile). A purge waits too, so space must come from elsewhere.
//!
//! **Recovery** replays all records in order (`recovery`). The bytes after the last valid record are a *torn tail* when
//! nothing valid of a later run follows: it is cut off, with a report. Anything else that does not read back is
//! *damage*: the groups it may concern are quarantined (named with file and offset, to be rebuilt from a peer after
//! [`Lanes::remove_group`]), the others serve. What the last run lost to rot cannot be told from a torn write; to keep that
//! window small an idle lane follows its last run with an (unsynced) mark. A lane that lost its newest segment file
//! as a whole looks like a shorter lane; every other missing file is noticed.
//!
//! **What it does not do.** A lane does not compact live entries away: the owner purges. A group that purges rarely
//! pins old segments; once a lane has more than [`Options::segments_max`] of them, entries of the oldest are written
//! again at the end, if they fill at most a quarter of it. With more live data than that the lane grows until purged.
//! A lane keeps 12 bytes per live entry in memory, and the newest bodies in a cache with a total bound.

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod group;
mod lane;
mod lanes;
mod ledger;
mod record;
mod recovery;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::PathBuf;

use bytes::Bytes;

pub use lanes::{GroupLog, Lanes};
pub use record::BODY_BYTES_MAX;

/// Number of a group; its lane is this modulo the number of lanes.
pub type GroupId = u64;

/// Longest vote, committed mark or purge id, in bytes: they are written again whenever their segment goes.
pub const MARK_BYTES_MAX: usize = 64 << 10;

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Position in the group's log.
    pub index: u64,
    /// Opaque content, at most [`BODY_BYTES_MAX`].
    pub body: Bytes,
}

/// How the lanes are laid out and bounded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Lanes of a new folder (default 4, 1 to 256). An existing folder keeps the number it was made with.
    pub lanes: usize,
    /// Size of a segment file in bytes (default 64 MiB, 4 KiB to 1 GiB). A longer record gets a segment of its own.
    pub segment_bytes: u64,
    /// Whether to sync (default true). Without, a power cut may lose acknowledged writes; for measurements only.
    pub sync: bool,
    /// Memory for the bodies of recent entries, all lanes together (default 64 MiB).
    pub cache_bytes: usize,
    /// Records waiting in one lane before callers wait (default 8192).
    pub queue_records: usize,
    /// Bytes waiting in one lane before callers wait (default 32 MiB). A single larger append is let through.
    pub queue_bytes: usize,
    /// Segments of one lane above which slow groups' entries are moved out of the oldest (default 8).
    pub segments_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            lanes: 4,
            segment_bytes: 64 << 20,
            sync: true,
            cache_bytes: 64 << 20,
            queue_records: 8192,
            queue_bytes: 32 << 20,
            segments_max: 8,
        }
    }
}

/// What a group's log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Index of the first entry held; with no entry, the index the next one must have (0 if any may come).
    pub first_index: u64,
    /// Index of the last entry held.
    pub last_index: Option<u64>,
    /// The last purge: entries up to this index are gone; the bytes given with it.
    pub purged: Option<(u64, Bytes)>,
}

/// Why the log refused or failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A write or sync of the lane failed: it takes nothing more until the node is restarted.
    #[error("log lane {lane} is poisoned: {reason}")]
    Poisoned {
        /// The lane.
        lane: usize,
        /// The first failure.
        reason: String,
    },
    /// The log is being closed.
    #[error("the log is closed")]
    Closed,
    /// The handle's group was removed.
    #[error("group {0} was removed from the log")]
    Removed(GroupId),
    /// The group may have lost records: rebuild it from a peer, after [`Lanes::remove_group`].
    #[error("group {group} is quarantined: {damage}")]
    Quarantined {
        /// The group.
        group: GroupId,
        /// What was found, and where.
        damage: Damage,
    },
    /// Entries must follow each other without gap.
    #[error("group {group} expects entry {expected}, got {got}")]
    NotContiguous {
        /// The group.
        group: GroupId,
        /// The index the next entry must have.
        expected: u64,
        /// The index that came.
        got: u64,
    },
    /// What was purged cannot be truncated.
    #[error("group {group} is purged up to {purged}, cannot truncate to {index:?}")]
    BelowPurge {
        /// The group.
        group: GroupId,
        /// The purged index.
        purged: u64,
        /// The wanted last index.
        index: Option<u64>,
    },
    /// A body or mark is longer than allowed.
    #[error("{bytes} bytes are more than the {max} a log record may have")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A record on disk does not read back as written.
    #[error("damaged log record: {0}")]
    Corrupt(Damage),
    /// The system failed a read.
    #[error("log read: {0}")]
    Io(String),
}

/// Why the lanes could not be opened at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system said no; the text names the file. `WouldBlock`: another process has the folder.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The folder's `FORMAT` file is missing beside existing lanes, unreadable, or of another version.
    #[error("{file}: {reason}")]
    Format {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Whom a damage may concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The damaged record names its group.
    Group(GroupId),
    /// It cannot be told: every group of this lane.
    Lane(usize),
}

/// Something on disk that does not read back as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment file (or, for missing files, the lane's folder).
    pub file: PathBuf,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
    /// Whom it may concern.
    pub scope: Scope,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}: {}", self.file.display(), self.offset, self.reason)
    }
}

/// An unfinished write at the end of a lane, cut off at recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment file.
    pub file: PathBuf,
    /// Where the valid records end, in bytes.
    pub offset: u64,
    /// What was found there.
    pub reason: String,
}

/// What opening found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Every healthy group, by number.
    pub groups: Vec<(GroupId, GroupState)>,
    /// Unfinished writes that were cut off.
    pub torn: Vec<TornTail>,
    /// Everything that did not read back, whether or not a group still depends on it.
    pub damage: Vec<Damage>,
    /// Groups that must be rebuilt, each with the first damage that may concern it.
    pub quarantined: Vec<(GroupId, Damage)>,
    /// Records replayed.
    pub records: u64,
}

/// Counters since opening, all lanes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records written, marks included.
    pub records: u64,
    /// Bytes written, record headers included.
    pub bytes: u64,
    /// Syncs done.
    pub syncs: u64,
    /// Time in syncs, microseconds.
    pub sync_micros: u64,
    /// Longest sync, microseconds.
    pub sync_micros_max: u64,
    /// Segment files there are now.
    pub segments: u64,
    /// Bytes waiting in the queues now.
    pub queued_bytes: u64,
    /// Bytes of bodies in memory now.
    pub cached_bytes: u64,
    /// Lanes that wait for space on the disk now.
    pub lanes_full: u64,
    /// Lanes that take nothing more.
    pub lanes_poisoned: u64,
}

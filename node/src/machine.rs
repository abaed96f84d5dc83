//! The state machines behind the Raft groups: what a committed command does.
//!
//! A [`Machine`] is a deterministic function of its log: the same commands in the same order give the same state and the same
//! replies on every replica. It reads no clock, draws no random number and asks nobody. A command that cannot be
//! carried out is answered with a **rejection**, which is a reply like any other; what breaks locally is a
//! [`Fault`](crate::storage::Fault), and stops this replica, not the process.
//!
//! Durability: a machine's state is rebuilt from what it made durable plus the log. It says how far that reaches with its
//! **mark**, which the Raft layer hands in with every batch and gets back at the next boot. The mark is opaque here.

pub mod command;
mod dedup;
mod digests;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod kept;
pub mod moves;
mod partition;
pub mod replaces;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use flotilla_proto::ids::LogIndex;

pub use dedup::Refused;
pub use digests::{Digests, VIEW_AGE_MAX};
pub use partition::{PartitionMachine, Signals};

use crate::storage::Fault;

/// The answer to a command, the same on every replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Reply {
    /// An entry without a command.
    #[default]
    Nothing,
    /// It was done.
    Written {
        /// Records that were written or deleted.
        affected: u64,
        /// Where the command that did it stands in the log.
        log_index: LogIndex,
    },
    /// It was refused, and nothing changed.
    Rejected(Rejection),
    /// The catalogue's answer, encoded by the meta layer.
    Catalogue(Vec<u8>),
    /// It was decided record by record.
    Decided {
        /// Records that were written.
        affected: u64,
        /// Where the command that did it stands in the log.
        log_index: LogIndex,
        /// Those that were not: each with its place in the command, ascending.
        refused: Vec<(u32, Refused)>,
        /// How many more there are; of a command that names its records, none.
        unnamed: u64,
    },
}

/// Why a command was refused by every replica alike.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Rejection {
    /// The command was made for another incarnation of the collection.
    OtherIncarnation,
    /// The request is older than all that are remembered of its client: whether it was applied cannot be told.
    TooOld {
        /// The request's serial.
        serial: u64,
        /// Serials up to this one are forgotten.
        forgotten: u64,
    },
    /// The command's encoding is unknown: it was written by a newer version.
    Unreadable(String),
    /// Keys of it are moving, or belong to another partition by now.
    Moved,
    /// The step of a move does not fit.
    Step(moves::StepRejection),
    /// The request was applied, and which of its records were refused is forgotten.
    AnswerForgotten {
        /// The request's serial.
        serial: u64,
    },
    /// It would change more than one command may.
    TooMuch {
        /// What of the request.
        field: String,
        /// How much it is, and the limit.
        why: String,
    },
    /// The step of a replacement does not fit.
    Replace(replaces::ReplaceRejection),
    /// There would be more records than the partition may have.
    Crowded,
}

/// What a Raft group replicates: see the module's story.
pub trait Machine: Send + Sync + 'static {
    /// The mark of the state it holds, as last handed to [`Machine::publish`]; empty for a new machine. Asked once, at
    /// boot: what follows is applied from the log.
    fn boot_mark(&self) -> Vec<u8>;

    /// The mark of the state that survives a power cut: the log up to there may be purged. Never beyond the state held.
    fn durable_mark(&self) -> Vec<u8>;

    /// Carries out the command at `index`. Its effect is seen by readers only after [`Machine::publish`].
    fn apply(&mut self, index: LogIndex, command: &Bytes) -> Result<Reply, Fault>;

    /// Ends a batch: everything up to `index` is applied and becomes visible. `mark` describes that point.
    fn publish(&mut self, index: LogIndex, mark: Vec<u8>) -> Result<(), Fault>;

    /// Fills the folder `into` (on the same file system; it may not be there yet) with hard links to the durable state, and
    /// returns its mark: what another replica's folder is replaced by when it lags too far. The mark is empty if there is
    /// no durable state yet.
    fn link(&mut self, into: &std::path::Path) -> Result<Vec<u8>, Fault>;

    /// Makes the state durable as far as it can without waiting for more (called before the log is purged); afterwards
    /// [`Machine::durable_mark`] tells how far that is.
    fn checkpoint(&mut self) -> Result<(), Fault>;
}

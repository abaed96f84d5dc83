//! The storage of one partition: growing rows in memory, sealed segments on disk, and the frozen views that reads hold.
//!
//! ```text
//! upsert ──> growing ──freeze──> frozen ──seal──> sealed segment ──compact──> fewer sealed segments
//!                (its WAL is the Raft log)          (immutable folder; MANIFEST by rename)
//! ```
//!
//! **Rows and versions.** A row is one version of a record; its *version* is the log index of the command that wrote it.
//! An upsert of an existing key appends a new row and marks the old one deleted **at** that log index; a delete only
//! marks. A view at log index `at` sees a row if `version <= at` and it is not deleted at or before `at`
//! (`deleted_at == 0 || deleted_at > at`). So a command is seen whole or not at all, readers never wait for the
//! writer, and the writer never waits for readers.
//!
//! **Invariants.** One task applies commands (the machine's). At most one live row per key at each log index. A sealed
//! folder never changes; it is unlinked only after the manifest that drops it is durable. The manifest at log index `A`
//! describes exactly the state after the command at `A`: replay starts at `A + 1`.
//!
//! What this layer does not do: decide what a command means (machine), or how a search is planned (query).

mod blobs;
mod column;
mod compression;
pub mod digest;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod glimpse;
mod growing;
mod manifest;
mod matching;
pub mod payload_index;
mod plan;
mod presence;
pub mod quarantine;
pub mod row;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod sample;
mod sealed;
mod shape;
mod stamped;
pub mod store;
mod text;
pub mod vectors;
mod view;

use std::path::PathBuf;

use flotilla_proto::filter::Compiled;
use flotilla_proto::fulltext::{Kin, Need};
use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::{Key, Payload, Vector};

use crate::index::{Neighbor, Stats};

pub use compression::Compression;
pub use digest::Digest;
pub use matching::Matching;
pub use payload_index::{Cell, FieldColumn, Scratch};
pub use presence::{Elsewhere, Presence};
pub use quarantine::Quarantine;
pub use row::{StoredRow, encode_payload, split_expiry};
pub use store::{Options, Restored, Status, Store};
pub use text::{Listed, Sought, Tally, TextField, Weighed};
pub use view::View;

/// What of a row is soon read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Soon {
    /// Where its key lies.
    KeyPlace,
    /// Its key, whose place was asked for.
    Key,
    /// Where all of its parts lie, but for vectors.
    Places,
    /// The parts, whose places were asked for.
    Parts,
}

/// Local breakage: this replica must stop answering from what is broken. Never an answer to a caller's mistake.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// A file does not hold what was written to it.
    #[error("{file}: damaged at byte {offset}: {reason}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where, roughly.
        offset: u64,
        /// What does not fit.
        reason: String,
    },
    /// The format is of a newer version than this program knows.
    #[error("{file}: format version {found} is newer than {known}, the newest that this program reads")]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The operating system refused.
    #[error("{file}: {reason}")]
    Io {
        /// The file.
        file: PathBuf,
        /// Its words.
        reason: String,
        /// Whether space ran out.
        is_full: bool,
    },
    /// The work was told to stop.
    #[error("cancelled")]
    Cancelled,
}

impl Fault {
    /// A file that does not hold what was written to it.
    pub fn damaged(file: impl Into<PathBuf>, offset: u64, reason: impl Into<String>) -> Fault {
        Fault::Damaged { file: file.into(), offset, reason: reason.into() }
    }

    /// The system's refusal; `file` is what was being worked on. A file that ends early or is not there at all is
    /// damage.
    pub fn io(file: impl Into<PathBuf>, error: &std::io::Error) -> Fault {
        use std::io::ErrorKind::{NotFound, QuotaExceeded, StorageFull, UnexpectedEof};
        match error.kind() {
            UnexpectedEof | NotFound => Fault::damaged(file, 0, error.to_string()),
            kind => Fault::Io {
                file: file.into(),
                reason: error.to_string(),
                is_full: matches!(kind, StorageFull | QuotaExceeded),
            },
        }
    }
}

/// How to look for neighbours in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Scan every accepted row.
    Exact,
    /// Look at the codes of every accepted row, and at the vectors of the nearest; exact where the segment has no codes.
    Codes,
    /// Walk the graph with this many candidates; exact where the segment has no graph.
    Graph {
        /// Candidates kept.
        ef: usize,
    },
}

/// A question for one segment.
#[derive(Clone, Copy, Debug)]
pub struct Nearest<'a> {
    /// The vector's name; it exists in the collection's spec.
    pub vector: &'a str,
    /// The query's words, as [`vectors`] packs them; of unit length where vectors are.
    pub query: &'a [f32],
    /// Neighbours wanted, at most.
    pub limit: usize,
    /// How to look.
    pub method: Method,
    /// Of what codes tell, so many rows are ordered by their vectors; `None`: as many as the codes need.
    pub rescored: Option<usize>,
    /// Only these rows (a subset of the live rows); `None`: every live row.
    pub rows: Option<&'a Matching>,
}

/// What it costs to decide a row by its payload, in values of an index.
const ROW_COST: u64 = 64;

/// One segment as a view sees it: rows `0..rows()`, of which some are live. Growing, frozen and sealed segments all
/// answer to it, and mean the same.
pub trait SegmentView: Send + Sync {
    /// Rows, dead ones included.
    fn rows(&self) -> u32;
    /// Live rows.
    fn live(&self) -> u32;
    /// Whether the row is live. False for rows beyond [`SegmentView::rows`].
    fn is_live(&self, row: u32) -> bool;
    /// The row's key.
    fn key(&self, row: u32) -> Result<Key, Fault>;
    /// The row's version.
    fn version(&self, row: u32) -> LogIndex;
    /// When the row's record expires, if ever: milliseconds since 1970.
    fn expires_at_ms(&self, row: u32) -> Result<Option<u64>, Fault>;
    /// The live row of `key`.
    fn find(&self, key: &Key) -> Result<Option<u32>, Fault>;
    /// The row's payload.
    fn payload(&self, row: u32) -> Result<Payload, Fault>;
    /// Adds the row's payload as it is stored.
    fn stored_payload(&self, row: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
        out.extend_from_slice(&self.stored(row)?.payload);
        Ok(())
    }
    /// Asks the memory for what is soon read of a row, which takes as long as the reading itself does.
    fn prefetch(&self, _row: u32, _what: Soon) {}
    /// What to say of a stored payload that does not decode.
    fn garbled(&self, row: u32) -> Fault {
        Fault::damaged("rows in memory", u64::from(row), "the payload of the row does not decode")
    }
    /// The row as it is stored, to the bit: the same in whatever kind of segment it lies.
    fn stored(&self, row: u32) -> Result<StoredRow, Fault>;
    /// The row's vector of this name as the user gave it (to within rounding where it was scaled); `None` if the row has
    /// none.
    fn vector(&self, name: &str, row: u32) -> Result<Option<Vector>, Fault>;
    /// The values of a declared field by row; `None` where payloads have to tell.
    fn column(&self, _field: &str) -> Result<Option<FieldColumn>, Fault> {
        Ok(None)
    }
    /// In how many live rows each term of a keyword field is, in their order, where that is known without reading them; the field
    /// has at most so many terms then.
    fn term_counts(&self, _field: &str, _terms_max: usize) -> Result<Option<Vec<(String, u64)>>, Fault> {
        Ok(None)
    }
    /// The live rows, ascending.
    fn live_rows(&self) -> Box<dyn Iterator<Item = u32> + Send + '_> {
        Box::new((0..self.rows()).filter(|row| self.is_live(*row)))
    }
    /// Whether the rows that pass are known without reading many of them: by indexes, or because they are few.
    fn answers(&self, _filter: &Compiled) -> bool {
        false
    }
    /// About how many rows and values are looked at to tell which rows pass, at most.
    fn cost(&self, _filter: &Compiled) -> u64 {
        u64::from(self.rows()).saturating_mul(ROW_COST)
    }
    /// The live rows that pass.
    fn matching(&self, filter: &Compiled) -> Result<Matching, Fault>;
    /// The nearest live rows, by distance then row.
    fn nearest(&self, ask: &Nearest<'_>, stats: &mut Stats) -> Result<Vec<Neighbor>, Fault>;
    /// A number that no other rows of the partition ever have; none while rows still come.
    fn identity(&self) -> Option<u64>;
    /// Whether the vector can be searched without scanning it.
    fn is_indexed(&self, vector: &str) -> bool;
    /// Candidates that a walk has to keep to find this share of the `limit` nearest rows; `None` where no walk that was measured does.
    fn effort(&self, _vector: &str, _target: f32, _limit: usize) -> Option<usize> {
        None
    }
    /// Whether the vector's rows have codes.
    fn has_codes(&self, _vector: &str) -> bool {
        false
    }
    /// Hands the row's texts at `field` to `each`, in order.
    fn texts(&self, row: u32, field: &TextField, each: &mut dyn FnMut(&str)) -> Result<(), Fault> {
        field.texts(&self.payload(row)?, each);
        Ok(())
    }
    /// Whether the words of `field` are found without reading its texts.
    fn has_words(&self, _field: &TextField) -> bool {
        false
    }
    /// What there is of words in `field`, in the live rows, or in `rows` of them.
    fn weigh(&self, field: &TextField, sought: &Sought, rows: Option<&Matching>) -> Result<Weighed, Fault> {
        text::weigh(self, field, sought, rows)
    }
    /// Lists the kin of a word in `field`, with how many of the live rows (or of `rows`) have each.
    fn list_kin(
        &self,
        field: &TextField,
        kin: &Kin,
        rows: Option<&Matching>,
        listed: &mut Listed,
    ) -> Result<(), Fault> {
        text::list_kin(self, field, kin, rows, listed)
    }
    /// Hands each live row (or each of `rows`) that has what is needed to `each`, by row.
    fn occurrences(
        &self,
        field: &TextField,
        sought: (&Sought, Need),
        rows: Option<&Matching>,
        each: &mut dyn FnMut(u32, &Tally<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        text::occurrences(self, field, sought, rows, each)
    }
    /// The live rows whose key is greater than `after`, by key.
    fn by_key<'a>(
        &'a self,
        after: Option<&Key>,
    ) -> Box<dyn Iterator<Item = Result<(Key, u32), Fault>> + Send + 'a>;
}

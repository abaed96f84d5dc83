//! What a partition's log holds: one command per entry, encoded once by the leader and decoded by every replica.
//!
//! Layout: a version byte, then postcard. Everything that decides the outcome stands in the command itself: rows as they
//! will be stored, and with a filter the declared types under which the leader read it, because the collection's fields
//! may change at another moment on another replica.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::filter::Filter;
use flotilla_proto::ids::{CollectionId, LogIndex};
use flotilla_proto::patch::Edit;
use flotilla_proto::record::Key;
use flotilla_proto::schema::FieldType;
use serde::{Deserialize, Serialize};

use crate::machine::Rejection;
use crate::machine::moves::Step;
use crate::machine::replaces::ReplaceStep;
use crate::storage::row::{StoredRow, StoredVector};

const VERSION: u8 = 1;

/// A command of a partition.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// The incarnation it is meant for.
    pub collection: CollectionId,
    /// Who asked, and how many-th request of theirs; `None`: applied as often as it is proposed.
    pub request: Option<RequestId>,
    /// What to do.
    pub body: Body,
}

/// A client and the number of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestId {
    /// Drawn at random by the client.
    pub client: u64,
    /// Grows with each write of that client.
    pub serial: u64,
}

/// What to do.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// Write these rows; later ones of one key win.
    Upsert(Vec<StoredRow>),
    /// Delete the records of these keys.
    Delete(Vec<Key>),
    /// Delete the records that pass.
    DeleteFilter {
        /// The condition.
        filter: Filter,
        /// The declared fields under which it is read.
        fields: BTreeMap<String, FieldType>,
    },
    /// Change nothing; remember the digest of the records here, and with `deep` the records themselves for a while.
    Digest {
        /// Whether the records will be read.
        deep: bool,
    },
    /// Delete the records that pass, if the partition is still what the leader took it for.
    DeleteMatching {
        /// The condition.
        filter: Filter,
        /// The declared fields under which it is read.
        fields: BTreeMap<String, FieldType>,
        /// [`Presence::layout`](crate::storage::Presence::layout) as the leader saw it.
        layout: u64,
    },
    /// A step of a move of slots.
    Move(Step),
    /// Write each of these rows if what it expects is so, one after the other.
    UpsertIf(Vec<(Expect, StoredRow)>),
    /// Change these records, one after the other.
    Patch {
        /// How.
        patches: Vec<PatchRow>,
        /// What they must be afterwards.
        rules: Rules,
    },
    /// Change the records that pass, if the partition is still what the leader took it for.
    PatchMatching {
        /// The condition; read under the rules' fields.
        filter: Filter,
        /// How.
        edit: Edit,
        /// What they must be afterwards.
        rules: Rules,
        /// [`Presence::layout`](crate::storage::Presence::layout) as the leader saw it.
        layout: u64,
    },
    /// Delete those of these records whose time has come.
    Expire {
        /// The moment, in milliseconds since 1970, by the leader's clock.
        until_ms: u64,
        /// The keys, as bytes.
        keys: Vec<Vec<u8>>,
    },
    /// A step of a replacement of a generation.
    Replace(ReplaceStep),
    /// A write of rows, unless the partition had more records than this after it.
    Within {
        /// How many it may have.
        records_max: u64,
        /// What to write.
        rows: Rows,
    },
}

/// Rows to write.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Rows {
    /// As with [`Body::Upsert`].
    All(Vec<StoredRow>),
    /// As with [`Body::UpsertIf`].
    If(Vec<(Expect, StoredRow)>),
}

/// What the payloads of a collection must be, as the leader knew it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// The declared fields.
    pub fields: BTreeMap<String, FieldType>,
    /// Whether others are refused.
    pub strict: bool,
}

/// A change of a record, in its stored shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PatchRow {
    /// The record's key, as bytes.
    pub key: Vec<u8>,
    /// What becomes of its payload.
    pub edit: Edit,
    /// Vectors that replace those of their ordinals; by ascending ordinal.
    pub vectors: Vec<StoredVector>,
    /// Only if it is of this version.
    pub if_version: Option<LogIndex>,
}

/// What a conditional write expects of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// There is no record.
    Absent,
    /// There is one.
    Present,
    /// There is one, of this version.
    Version(LogIndex),
}

impl Expect {
    /// Whether it is so for a key whose record is of this version, or that has none.
    pub fn holds(self, present: Option<LogIndex>) -> bool {
        match self {
            Expect::Absent => present.is_none(),
            Expect::Present => present.is_some(),
            Expect::Version(version) => present == Some(version),
        }
    }

    /// Why nothing was written where it is not so.
    pub fn unmet(self, present: Option<LogIndex>) -> String {
        match (self, present) {
            (_, None) => "there is no record of this key".to_owned(),
            (Expect::Version(version), Some(present)) => {
                format!("the record is of version {present}, not {version}")
            }
            (_, Some(_)) => "there is a record of this key".to_owned(),
        }
    }
}

impl Command {
    /// The command as the log holds it.
    pub fn encode(&self) -> Result<Bytes, postcard::Error> {
        let bytes = postcard::to_extend(self, vec![VERSION])?;
        Ok(bytes.into())
    }

    /// The command of such bytes. One that cannot be read is rejected by every replica alike.
    pub fn decode(bytes: &[u8]) -> Result<Command, Rejection> {
        match bytes.split_first() {
            Some((&VERSION, body)) => {
                postcard::from_bytes(body).map_err(|e| Rejection::Unreadable(e.to_string()))
            }
            Some((version, _)) => Err(Rejection::Unreadable(format!("command version {version}"))),
            None => Err(Rejection::Unreadable("empty command".to_owned())),
        }
    }
}

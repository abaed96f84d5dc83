//! The payloads of a sealed segment, and which of its rows pass a filter.
//!
//! One folder per segment holds the payload of each row ([`rows`]), and a tantivy index of a single segment whose document number is
//! our row: for each declared field whatever answers its conditions fastest ([`fields`]).
//!
//! **How a filter is evaluated.** A leaf on a declared field is answered from the index; everything else (undeclared
//! fields, fields that were not declared when the segment was sealed, equality on `text`, patterns on a `text` of a language, several words in one value of a `text`, values that the index cannot
//! hold) is *residual*: it can only be decided by decoding the payload. Each node of the filter therefore yields two sets:
//! rows that surely pass and rows that may pass ([`evaluate`]). They combine through `all`, `any` and `not`, and only
//! the rows still undecided at the root are decoded, each once. The result equals [`Compiled::matches`] for every row.
//!
//! **Values that do not fit.** A row with a value that its field's index cannot hold exactly (an oversized keyword, an
//! integer beyond 2^53 in a float field, a value of another type, written before the field was declared) is marked *odd*
//! for that field; odd rows are residual for each leaf on it.
//!
//! **Invariants.** The folder is written once and synced before [`write`] returns. Nothing that is read from it reaches
//! tantivy before its block's checksum was verified ([`checks`]), so damage is a [`Fault`] and not a panic. Nothing here
//! starts a thread or takes a lock file.
//!
//! What it does not do: know which rows are live, or which keys they have (the segment does).

mod automaton;
mod checks;
mod columns;
mod directory;
mod evaluate;
mod fields;
mod leaf;
mod numbers;
mod points;
mod rows;
mod stems;
mod terms;
mod tokens;
mod write;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flotilla_proto::filter::Compiled;
use flotilla_proto::fulltext::Language;
use flotilla_proto::record::{Key, Payload};
use flotilla_proto::schema::FieldType;
use tantivy::directory::error::OpenReadError;
use tantivy::schema::Field;
use tantivy::schema::document::{
    DeserializeError, DocumentDeserialize, DocumentDeserializer, ValueDeserialize, ValueDeserializer,
};
use tantivy::store::StoreReader;
use tantivy::{Index, SegmentReader, TantivyError};

use self::checks::{BlockDamage, Checks};
use self::columns::Columns;
use self::directory::Folder;
use self::fields::{Layout, Version};
use self::leaf::Leaves;
use self::rows::Rows;
use super::Fault;
use super::row::decode_payload;
use crate::index::Bitset;

pub use self::columns::{Cell, FieldColumn, Scratch};
pub(super) use self::tokens::{Accepted, Tokens};
pub use self::write::write;

/// Decompressed blocks (1 KiB each, or a row) that the payload store of a segment of an earlier layout keeps.
const STORE_BLOCKS_CACHED: usize = 512;

/// The payload index of one sealed segment.
pub struct PayloadIndex {
    dir: PathBuf,
    rows: u32,
    leaves: Leaves,
    columns: Columns,
    payloads: Payloads,
}

impl std::fmt::Debug for PayloadIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PayloadIndex").field("dir", &self.dir).field("rows", &self.rows).finish()
    }
}

impl PayloadIndex {
    /// Opens what [`write`] wrote to `dir` for `fields`, over `rows` rows. Reads little: the payload store is mapped, and
    /// checked as it is read.
    ///
    /// # Errors
    /// [`Fault`] if the folder was written for other fields or another number of rows, or is damaged.
    pub fn open(dir: &Path, fields: &BTreeMap<String, FieldType>, rows: u32) -> Result<PayloadIndex, Fault> {
        let (reader, layout, folder) = open_segment(dir, fields, rows)?;
        let tantivy = |error| fault(dir, error);
        let columns = Columns::new(&reader, &layout);
        let payloads = match layout.payload {
            None => Payloads::Rows(Rows::open(dir, &folder, rows)?),
            Some(_) => {
                let store = reader.get_store_reader(STORE_BLOCKS_CACHED);
                Payloads::Store(Box::new(store.map_err(|error| fault(dir, error.into()))?))
            }
        };
        let leaves = Leaves::open(dir, &reader, layout, rows).map_err(tantivy)?;
        Ok(PayloadIndex { dir: dir.to_owned(), rows, leaves, columns, payloads })
    }

    /// The payload of a row.
    pub fn payload(&self, row: u32) -> Result<Payload, Fault> {
        let mut bytes = Vec::new();
        self.read(row, &mut bytes)?;
        decode_payload(&bytes).map_err(|_| self.garbled(row))
    }

    /// What to say of the payload of a row that does not decode.
    pub fn garbled(&self, row: u32) -> Fault {
        damaged(&self.dir, format!("the payload of row {row} does not decode"))
    }

    /// The payload of a row, as it was handed to [`write`].
    pub fn payload_bytes(&self, row: u32) -> Result<Bytes, Fault> {
        let mut bytes = Vec::new();
        self.read(row, &mut bytes)?;
        Ok(bytes.into())
    }

    /// Adds the payload of a row, as it was handed to [`write`].
    pub fn read(&self, row: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
        if row >= self.rows {
            return Err(damaged(&self.dir, format!("row {row} was asked for, it holds {} rows", self.rows)));
        }
        match &self.payloads {
            Payloads::Rows(rows) => rows.read(row, out),
            Payloads::Store(store) => {
                let stored: Stored = store.get(row).map_err(|error| fault(&self.dir, error))?;
                out.extend_from_slice(&stored.0);
                Ok(())
            }
        }
    }

    /// Asks the memory for where the row's payload lies, or for the payload.
    pub fn prefetch(&self, row: u32, is_placed: bool) {
        if let Payloads::Rows(rows) = &self.payloads {
            rows.prefetch(row, is_placed);
        }
    }

    /// The values of a declared field by row; `None` if the segment has no column of it, so that payloads tell.
    pub fn column(&self, field: &str) -> Result<Option<FieldColumn>, Fault> {
        let odd = || self.leaves.odd(field);
        self.columns.open(field, &self.dir, &odd).map_err(|error| fault(&self.dir, error))
    }

    /// Whether indexes tell which rows pass, but for odd ones.
    pub fn answers(&self, filter: &Compiled) -> bool {
        match filter {
            // A part that no index tells would be decided by reading all that the others let pass, for a page of a few.
            Compiled::All(parts) | Compiled::Any(parts) => parts.iter().all(|part| self.answers(part)),
            Compiled::Not(_) => false,
            Compiled::Leaf(leaf) => self.leaves.answers(leaf),
            Compiled::Keys(_) => true,
        }
    }

    /// About how many values are read to tell which rows pass, at most.
    pub fn cost(&self, filter: &Compiled) -> u64 {
        match filter {
            // What it costs to find those of the cheapest part, and to look up each of them in the others.
            Compiled::All(parts) => {
                let mut costs: Vec<u64> = parts.iter().map(|part| self.cost(part)).collect();
                costs.sort_unstable();
                let Some((least, others)) = costs.split_first() else { return u64::from(self.rows) };
                let is_few = evaluate::is_few(*least, self.rows);
                let lookups = others.iter().map(|cost| if is_few { *least } else { *cost });
                lookups.fold(*least, u64::saturating_add)
            }
            Compiled::Any(parts) => parts.iter().map(|part| self.cost(part)).fold(0, u64::saturating_add),
            Compiled::Not(part) => self.cost(part).saturating_add(u64::from(self.rows)),
            Compiled::Leaf(leaf) => self.leaves.cost(leaf).unwrap_or(u64::MAX),
            Compiled::Keys(keys) => keys.len() as u64,
        }
    }

    /// See [`Leaves::term_counts`].
    pub fn term_counts(&self, field: &str, terms_max: usize) -> Result<Option<Vec<(String, u64)>>, Fault> {
        self.leaves.term_counts(field, terms_max).map_err(|error| fault(&self.dir, error))
    }

    /// The words of a field; `None` if the segment was written when it was not declared as text of this language, or of none.
    pub(super) fn tokens(&self, field: &str, language: Option<Language>) -> Option<&Tokens> {
        self.leaves.tokens(field, language)
    }

    /// What went wrong in the index.
    pub(super) fn fault(&self, error: TantivyError) -> Fault {
        fault(&self.dir, error)
    }

    /// The rows that pass, dead ones included. `row_of` gives the live row of a key, so a dead row of the same key passes
    /// no condition on keys.
    pub fn matching(
        &self,
        filter: &Compiled,
        row_of: &dyn Fn(&Key) -> Result<Option<u32>, Fault>,
    ) -> Result<Bitset, Fault> {
        let node = evaluate::Node::of(filter, row_of)?;
        let known = node.known(&self.leaves).map_err(|error| fault(&self.dir, error))?;
        known.settle(|row| Ok(node.matches(row, &self.payload(row)?)))
    }
}

fn open_segment(
    dir: &Path,
    fields: &BTreeMap<String, FieldType>,
    rows: u32,
) -> Result<(SegmentReader, Layout, Folder), Fault> {
    let tantivy = |error| fault(dir, error);
    let checks = Checks::open(dir)?;
    let folder = Folder::sealed(dir, checks);
    let index = Index::open(folder.clone()).map_err(tantivy)?;
    let layouts = Version::ALL.map(|version| Layout::of(fields, version));
    let Some(layout) = layouts.into_iter().find(|layout| layout.schema == index.schema()) else {
        return Err(damaged(dir, "it was written for other fields than the manifest says".into()));
    };
    let segments = index.searchable_segments().map_err(tantivy)?;
    let [segment] = segments.as_slice() else {
        return Err(damaged(dir, format!("it holds {} tantivy segments, not 1", segments.len())));
    };
    let found = segment.meta().max_doc();
    if found != rows || segment.meta().has_deletes() {
        return Err(damaged(dir, format!("it holds {found} rows, the manifest says {rows}")));
    }
    Ok((SegmentReader::open(segment).map_err(tantivy)?, layout, folder))
}

/// Where payloads stand.
enum Payloads {
    /// In a file of their own.
    Rows(Rows),
    /// Of earlier layouts: in tantivy's store.
    Store(Box<StoreReader>),
}

/// A stored document: its payload bytes.
struct Stored(Vec<u8>);

impl DocumentDeserialize for Stored {
    fn deserialize<'de, D: DocumentDeserializer<'de>>(mut document: D) -> Result<Stored, DeserializeError> {
        let field: Option<(Field, Stored)> = document.next_field()?;
        field.map(|(_, stored)| stored).ok_or_else(|| DeserializeError::custom("a row without a payload"))
    }
}

impl ValueDeserialize for Stored {
    fn deserialize<'de, D: ValueDeserializer<'de>>(value: D) -> Result<Stored, DeserializeError> {
        value.deserialize_bytes().map(Stored)
    }
}

fn damaged(file: &Path, reason: String) -> Fault {
    Fault::Damaged { file: file.to_owned(), offset: 0, reason }
}

/// What went wrong in tantivy, in our words. Files in `dir` were written by us: what does not fit is damage.
fn fault(dir: &Path, error: TantivyError) -> Fault {
    match error {
        TantivyError::IoError(error) => io_fault(dir, &error),
        TantivyError::OpenReadError(OpenReadError::IoError { io_error, filepath }) => {
            io_fault(&dir.join(filepath), &io_error)
        }
        TantivyError::OpenReadError(OpenReadError::FileDoesNotExist(path)) => {
            damaged(&dir.join(path), "the file is missing".into())
        }
        TantivyError::OpenWriteError(tantivy::directory::error::OpenWriteError::IoError {
            io_error,
            filepath,
        }) => io_fault(&dir.join(filepath), &io_error),
        other => damaged(dir, other.to_string()),
    }
}

fn io_fault(file: &Path, error: &std::io::Error) -> Fault {
    use std::io::ErrorKind;
    if let Some(block) = error.get_ref().and_then(|inner| inner.downcast_ref::<BlockDamage>()) {
        return block.into();
    }
    match error.kind() {
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::NotFound => {
            damaged(file, error.to_string())
        }
        kind => Fault::Io {
            file: file.to_owned(),
            reason: error.to_string(),
            is_full: matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded),
        },
    }
}

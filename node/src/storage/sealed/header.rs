//! `SEGMENT`, the header of a sealed folder: what the segment is, and each file's length and checksum. Written last.

use std::collections::BTreeMap;
use std::path::Path;

use flotilla_proto::schema::FieldType;
use serde::{Deserialize, Serialize};

use super::expiring::EXPIRIES;
use super::file::Entry;
use crate::storage::Fault;
use crate::storage::shape::VectorShape;
use crate::storage::stamped::Kind;

/// The header's name in the folder.
pub(in crate::storage) const HEADER: &str = "SEGMENT";

/// 1: vectors of 32-bit components. 2: other forms, and other distances than the first three; lists. A segment without any is
/// written as version 1, and so read by programs that know no other. 3: rows that expire; without any, as before. 4: declared fields
/// of other types than the first six; without any, as before.
pub(in crate::storage) const KIND: Kind = Kind { magic: *b"FLOTSEGM", version: 4 };

pub(super) const VERSIONS: &str = "versions";

/// The file of a vector's values.
pub(super) fn vectors_name(ordinal: usize, shape: &VectorShape) -> String {
    format!("vectors.{ordinal}.{}", shape.spec.form.datatype().name())
}

/// The file of the rows of a vector's slots, where some rows lack it.
pub(super) fn rows_name(ordinal: usize) -> String {
    format!("rows.{ordinal}")
}

/// The file of a vector's former lengths, where some were scaled.
pub(super) fn norms_name(ordinal: usize) -> String {
    format!("norms.{ordinal}")
}

/// The file of the checksums of a vector's slots.
pub(super) fn sums_name(ordinal: usize) -> String {
    format!("sums.{ordinal}")
}

/// The file of where each of a vector's lists ends.
pub(super) fn ends_name(ordinal: usize) -> String {
    format!("ends.{ordinal}")
}

/// The file of a sparse vector's inverted index.
pub(super) fn inverted_name(ordinal: usize) -> String {
    format!("inverted.{ordinal}")
}

/// The file of a vector's graph.
pub(super) fn graph_name(ordinal: usize) -> String {
    format!("graph.{ordinal}")
}

/// What a sealed segment is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::storage) struct Header {
    /// The folder's number.
    pub number: u64,
    /// Rows.
    pub rows: u32,
    /// The collection's vectors when it was sealed.
    pub shapes: Vec<VectorShape>,
    /// Per vector, what is stored.
    pub columns: Vec<ColumnHeader>,
    /// The declared fields when it was sealed: those that its payload index knows.
    pub fields: BTreeMap<String, FieldType>,
    /// All files but this one and the graphs.
    pub files: Vec<Entry>,
}

/// One vector's column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::storage) struct ColumnHeader {
    /// Rows that have the vector.
    pub count: u32,
    /// Whether some lack it.
    pub has_map: bool,
    /// Whether some were scaled.
    pub has_norms: bool,
}

impl Header {
    /// Writes it, durably.
    pub fn write(&self, dir: &Path) -> Result<(), Fault> {
        let path = dir.join(HEADER);
        let body =
            postcard::to_allocvec(self).map_err(|error| Fault::damaged(&path, 0, error.to_string()))?;
        let is_of_old = self.shapes.iter().all(|shape| shape.spec.is_of_old());
        let expires = self.files.iter().any(|file| file.name == EXPIRIES);
        let version = match (expires, is_of_old) {
            _ if !self.fields.values().all(|kind| kind.is_of_old()) => 4,
            (true, _) => 3,
            (false, false) => 2,
            (false, true) => 1,
        };
        Kind { version, ..KIND }.write(&path, &body)
    }

    /// Reads it back and checks that it is consistent with itself.
    pub fn read(dir: &Path) -> Result<Header, Fault> {
        let path = dir.join(HEADER);
        let damaged = |reason: String| Fault::damaged(&path, 0, reason);
        let header: Header =
            postcard::from_bytes(&KIND.read(&path)?).map_err(|error| damaged(error.to_string()))?;
        let fits = |column: &ColumnHeader| match column.has_map {
            true => column.count < header.rows,
            false => column.count == header.rows,
        };
        if header.columns.len() != header.shapes.len() || !header.columns.iter().all(fits) {
            return Err(damaged("its columns do not fit its rows".to_owned()));
        }
        Ok(header)
    }

    /// The entry of one of the files.
    pub fn file(&self, dir: &Path, name: &str) -> Result<&Entry, Fault> {
        let found = self.files.iter().find(|entry| entry.name == name);
        found.ok_or_else(|| Fault::damaged(dir.join(HEADER), 0, format!("names no file `{name}`")))
    }
}

//! A run of rows in memory that never changes, but for the mark of a row's deletion.

use std::cmp::Ordering as Order;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_proto::ids::LogIndex;

use crate::index::Rows;
use crate::storage::blobs::{Blobs, Rope};
use crate::storage::column::Column;
use crate::storage::row::{StoredRow, split_expiry};
use crate::storage::shape::VectorShape;
use crate::storage::vectors;

/// Rows `base..base + len` of a growing segment.
#[derive(Debug)]
pub(in crate::storage) struct Chunk {
    base: u32,
    keys: Blobs,
    /// The rows by key, and by row among equal keys.
    sorted: Vec<u32>,
    versions: Vec<LogIndex>,
    deleted_at: Box<[AtomicU64]>,
    columns: Vec<Values>,
    payloads: Rope,
}

/// One vector name's values.
#[derive(Debug, Default)]
struct Values {
    data: Vec<f32>,
    /// Where each slot ends in the data, in rows of the column; only of lists.
    ends: Vec<u32>,
    /// The row of each slot.
    map: Vec<u32>,
    norms: Vec<f32>,
}

impl Chunk {
    /// The rows of one command. They fit the shapes (see [`super::fits`]).
    pub fn of(base: u32, version: LogIndex, rows: &[StoredRow], shapes: &[VectorShape]) -> Chunk {
        let mut keys = Blobs::with_capacity(rows.len(), rows.iter().map(|row| row.key.len()).sum());
        let mut payloads = Blobs::with_capacity(rows.len(), rows.iter().map(|row| row.payload.len()).sum());
        let mut columns: Vec<Values> = shapes.iter().map(|_| Values::default()).collect();
        for (row, place) in rows.iter().zip(0..) {
            keys.push(&row.key);
            payloads.push(&row.payload);
            for vector in &row.vectors {
                if let Some(column) = columns.get_mut(usize::from(vector.ordinal)) {
                    column.data.extend_from_slice(&vector.values);
                    let shape = shapes.get(usize::from(vector.ordinal));
                    if let Some(shape) = shape.filter(|shape| vectors::is_list(&shape.spec)) {
                        column
                            .ends
                            .push(u32::try_from(column.data.len() / shape.words()).unwrap_or(u32::MAX));
                    }
                    column.map.push(place);
                    column.norms.push(vector.norm);
                }
            }
        }
        let mut sorted: Vec<u32> = (0..).take(rows.len()).collect();
        sorted.sort_unstable_by(|a, b| keys.get(*a).cmp(keys.get(*b)).then(a.cmp(b)));
        let deleted_at = rows.iter().map(|_| AtomicU64::new(0)).collect();
        Chunk {
            base,
            keys,
            sorted,
            versions: vec![version; rows.len()],
            deleted_at,
            columns,
            payloads: payloads.into(),
        }
    }

    /// Two neighbours as one. Marks made later on either of them are not seen by the new one: only the writer,
    /// which makes the marks, may join.
    pub fn join(left: &Chunk, right: &Chunk) -> Chunk {
        let shift = left.len();
        let total = left.rows() + right.rows();
        let mut keys = Blobs::with_capacity(total, left.keys.total() + right.keys.total());
        let payloads = Rope::join(&left.payloads, &right.payloads);
        let mut versions = Vec::with_capacity(total);
        let mut marks = Vec::with_capacity(total);
        for side in [left, right] {
            keys.extend(&side.keys);
            versions.extend_from_slice(&side.versions);
            marks.extend(side.deleted_at.iter().map(|mark| AtomicU64::new(mark.load(Ordering::Relaxed))));
        }
        let columns = left.columns.iter().zip(&right.columns);
        let columns = columns.map(|(a, b)| Values::join(a, b, shift)).collect();
        let sorted =
            merge(&left.sorted, &right.sorted, shift, |a, b| left.keys.get(a).cmp(right.keys.get(b)));
        let deleted_at = marks.into_boxed_slice();
        Chunk { base: left.base, keys, sorted, versions, deleted_at, columns, payloads }
    }

    fn rows(&self) -> usize {
        self.keys.len()
    }

    /// Its first row in the segment.
    pub fn base(&self) -> u32 {
        self.base
    }

    /// Rows.
    pub fn len(&self) -> u32 {
        u32::try_from(self.rows()).unwrap_or(u32::MAX)
    }

    /// The key's bytes of a row of the chunk.
    pub fn key(&self, row: u32) -> &[u8] {
        self.keys.get(row)
    }

    /// The stored payload of a row of the chunk.
    pub fn payload(&self, row: u32) -> &[u8] {
        self.payloads.get(row)
    }

    /// When a row of the chunk expires, if ever.
    pub fn expires_at_ms(&self, row: u32) -> Option<u64> {
        split_expiry(self.payload(row)).0
    }

    /// The version of a row of the chunk; 0 beyond the last.
    pub fn version(&self, row: u32) -> LogIndex {
        self.versions.get(row as usize).copied().unwrap_or(0)
    }

    /// Per row, the log index that deleted it, or 0.
    pub fn deleted_at(&self) -> &[AtomicU64] {
        &self.deleted_at
    }

    /// The values of the vector with this ordinal.
    pub fn column<'a>(&'a self, ordinal: usize, shape: &'a VectorShape) -> Option<Column<'a>> {
        let values = self.columns.get(ordinal)?;
        Some(Column {
            rows: Rows::new(&values.data, shape.words()).ok()?,
            ends: vectors::is_list(&shape.spec).then_some(values.ends.as_slice()),
            shape,
            distance: shape.distance(),
            map: (values.map.len() < self.rows()).then_some(values.map.as_slice()),
            norms: Some(&values.norms),
            sums: None,
        })
    }

    /// The row that stands at this place by key.
    pub fn by_key(&self, place: usize) -> Option<u32> {
        self.sorted.get(place).copied()
    }

    /// The first place by key whose key is greater than `after`.
    pub fn after(&self, after: Option<&[u8]>) -> usize {
        after.map_or(0, |after| self.sorted.partition_point(|row| self.keys.get(*row) <= after))
    }

    /// The rows of a key, newest first.
    pub fn rows_of<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
        let end = self.after(Some(key));
        let newest_first = self.sorted[..end].iter().rev().copied();
        newest_first.take_while(move |row| self.keys.get(*row) == key)
    }
}

impl Values {
    fn join(left: &Values, right: &Values, shift: u32) -> Values {
        let before = left.ends.last().copied().unwrap_or(0);
        Values {
            ends: left.ends.iter().copied().chain(right.ends.iter().map(|end| end + before)).collect(),
            data: [left.data.as_slice(), &right.data].concat(),
            map: left.map.iter().copied().chain(right.map.iter().map(|row| row + shift)).collect(),
            norms: [left.norms.as_slice(), &right.norms].concat(),
        }
    }
}

/// Merges two sorted lists of rows, those of the right shifted; the left first among equals.
fn merge(left: &[u32], right: &[u32], shift: u32, order: impl Fn(u32, u32) -> Order) -> Vec<u32> {
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut a, mut b) = (left.iter().peekable(), right.iter().peekable());
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        if order(**x, **y) == Order::Greater {
            merged.push(**y + shift);
            b.next();
        } else {
            merged.push(**x);
            a.next();
        }
    }
    merged.extend(a.copied());
    merged.extend(b.map(|row| row + shift));
    merged
}

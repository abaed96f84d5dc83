//! The growing segment: rows in memory whose log is the Raft log.
//!
//! **Idea.** Each command appends one immutable [`Chunk`]; neighbours of like size are joined as the digits of a binary
//! counter are, so that there are O(log rows) chunks and each row is copied O(log rows) times. A reader holds the list of
//! chunks as it stood when its view was published: nothing it holds moves under it, and it waits for nobody.
//!
//! **Marks.** A deletion is an atomic store of its log index into the row's mark. A chunk that was joined into another
//! no longer hears of deletions; the views that still hold it are older than those, so to them the row lives either way.
//!
//! A **frozen** segment is the same chunks with no writer appending to them; its rows are still marked as deleted.

mod chunk;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use flotilla_proto::filter::Compiled;
use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::{Key, Payload, Vector};

pub(super) use chunk::Chunk;

use super::column::{Alive, stored_vectors};
use super::glimpse::{self, Glimpse};
use super::row::{StoredRow, decode_payload};
use super::shape::{Shapes, VectorShape, ordinal};
use super::{Fault, Matching, Nearest, SegmentView, TextField, vectors};
use crate::index::{Accept, Bitset, Neighbor, Stats, TopK};

/// The writer's side.
#[derive(Debug, Default)]
pub(super) struct Growing {
    chunks: Vec<Arc<Chunk>>,
    /// Each key's newest row.
    newest: BTreeMap<Box<[u8]>, u32>,
    /// When rows expire: (time, row), of the live ones that do.
    expiring: BTreeSet<(u64, u32)>,
    rows: u32,
    dead: u32,
    bytes: usize,
    vector_bytes: usize,
}

/// Whether a row can be stored: its vectors are the collection's, in order, and its key is one.
pub(super) fn fits(row: &StoredRow, shapes: &[VectorShape]) -> bool {
    let known = |vector: &super::row::StoredVector| {
        let shape = shapes.get(usize::from(vector.ordinal));
        shape.is_some_and(|shape| vectors::fits(&shape.spec, &vector.values))
    };
    row.vectors.iter().all(known)
        && row.vectors.is_sorted_by(|a, b| a.ordinal < b.ordinal)
        && Key::from_bytes(&row.key).is_some()
}

impl Growing {
    /// Appends the rows of one command; their keys are distinct.
    pub fn append(&mut self, version: LogIndex, rows: &[StoredRow], shapes: &[VectorShape]) {
        if rows.is_empty() {
            return;
        }
        for (row, place) in rows.iter().zip(self.rows..) {
            self.newest.insert(row.key.as_slice().into(), place);
            // The key stands in the map of the newest rows too.
            self.bytes += row.size() + row.key.len();
            self.vector_bytes += row.vector_size();
            self.expiring.extend(row.expires_at_ms().map(|when| (when, place)));
        }
        let mut last = Chunk::of(self.rows, version, rows, shapes);
        self.rows = self.rows.saturating_add(last.len());
        while let Some(before) = self.chunks.pop_if(|before| before.len() <= last.len()) {
            last = Chunk::join(&before, &last);
        }
        self.chunks.push(Arc::new(last));
    }

    /// The newest row of a key, and its version if it lives.
    pub fn newest(&self, key: &[u8]) -> Option<(u32, Option<LogIndex>)> {
        let row = *self.newest.get(key)?;
        let (chunk, local) = place(&self.chunks, row)?;
        let mark = chunk.deleted_at().get(local as usize)?.load(Ordering::Relaxed);
        Some((row, (mark == 0).then(|| chunk.version(local))))
    }

    /// Marks a live row as deleted.
    pub fn mark(&mut self, row: u32, at: LogIndex) {
        if let Some((chunk, local)) = place(&self.chunks, row)
            && let Some(mark) = chunk.deleted_at().get(local as usize)
        {
            mark.store(at, Ordering::Relaxed);
            self.dead += 1;
            if let Some(when) = chunk.expires_at_ms(local) {
                self.expiring.remove(&(when, row));
            }
        }
    }

    /// When the row expires, if ever.
    pub fn expires_at_ms(&self, row: u32) -> Option<u64> {
        place(&self.chunks, row).and_then(|(chunk, local)| chunk.expires_at_ms(local))
    }

    /// The keys of live rows that expire at or before `until`, the earliest first.
    pub fn due(&self, until: u64) -> impl Iterator<Item = &[u8]> {
        let due = self.expiring.range(..=(until, u32::MAX));
        due.filter_map(|(_, row)| place(&self.chunks, *row).map(|(chunk, local)| chunk.key(local)))
    }

    /// Rows, dead ones included.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Rows that are not marked.
    pub fn live(&self) -> u32 {
        self.rows - self.dead
    }

    /// Bytes it takes in memory, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Of those, the bytes of its vectors.
    pub fn vector_bytes(&self) -> usize {
        self.vector_bytes
    }

    /// The chunks as they stand.
    pub fn chunks(&self) -> Chunks {
        Chunks { list: self.chunks.clone(), rows: self.rows }
    }
}

fn place(chunks: &[Arc<Chunk>], row: u32) -> Option<(&Chunk, u32)> {
    let after = chunks.partition_point(|chunk| chunk.base() <= row);
    let chunk = chunks.get(after.checked_sub(1)?)?;
    let local = row - chunk.base();
    (local < chunk.len()).then_some((chunk, local))
}

/// The chunks of a growing or frozen segment at some moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunks {
    list: Vec<Arc<Chunk>>,
    rows: u32,
}

impl Chunks {
    /// Rows.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// The chunk of a row, and the row in it.
    pub fn place(&self, row: u32) -> Option<(&Chunk, u32)> {
        place(&self.list, row)
    }

    /// Bound to a view at `at` that sees `live` rows.
    pub fn bind(self, at: LogIndex, live: u32, shapes: Shapes) -> GrowingView {
        GrowingView { chunks: self, at, live, shapes }
    }
}

/// A growing or frozen segment as a view sees it.
#[derive(Debug)]
pub(super) struct GrowingView {
    chunks: Chunks,
    at: LogIndex,
    live: u32,
    shapes: Shapes,
}

/// What in memory cannot be other than it was written is reported as damage all the same, never as a panic.
fn garbled(row: u32) -> Fault {
    Fault::damaged("growing segment", u64::from(row), "the row in memory is garbled")
}

impl GrowingView {
    fn alive<'a>(&self, chunk: &'a Chunk, rows: Option<&'a Bitset>) -> Alive<'a> {
        Alive { deleted_at: chunk.deleted_at(), at: self.at, rows, base: chunk.base() }
    }

    fn lives(&self, chunk: &Chunk, local: u32) -> bool {
        Accept::Live { deleted_at: chunk.deleted_at(), at: self.at }.contains(local)
    }
}

impl SegmentView for GrowingView {
    fn rows(&self) -> u32 {
        self.chunks.rows
    }

    fn live(&self) -> u32 {
        self.live
    }

    fn is_live(&self, row: u32) -> bool {
        self.chunks.place(row).is_some_and(|(chunk, local)| self.lives(chunk, local))
    }

    fn key(&self, row: u32) -> Result<Key, Fault> {
        let found = self.chunks.place(row).and_then(|(chunk, local)| Key::from_bytes(chunk.key(local)));
        found.ok_or_else(|| garbled(row))
    }

    fn version(&self, row: u32) -> LogIndex {
        self.chunks.place(row).map_or(0, |(chunk, local)| chunk.version(local))
    }

    fn expires_at_ms(&self, row: u32) -> Result<Option<u64>, Fault> {
        Ok(self.chunks.place(row).and_then(|(chunk, local)| chunk.expires_at_ms(local)))
    }

    fn find(&self, key: &Key) -> Result<Option<u32>, Fault> {
        let key = key.to_bytes();
        let found = self.chunks.list.iter().rev().find_map(|chunk| {
            let row = chunk.rows_of(&key).find(|row| self.lives(chunk, *row))?;
            Some(chunk.base() + row)
        });
        Ok(found)
    }

    fn payload(&self, row: u32) -> Result<Payload, Fault> {
        let (chunk, local) = self.chunks.place(row).ok_or_else(|| garbled(row))?;
        decode_payload(chunk.payload(local)).map_err(|_| garbled(row))
    }

    fn stored_payload(&self, row: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
        let (chunk, local) = self.chunks.place(row).ok_or_else(|| garbled(row))?;
        out.extend_from_slice(chunk.payload(local));
        Ok(())
    }

    fn garbled(&self, row: u32) -> Fault {
        garbled(row)
    }

    fn texts(&self, row: u32, field: &TextField, each: &mut dyn FnMut(&str)) -> Result<(), Fault> {
        let (chunk, local) = self.chunks.place(row).ok_or_else(|| garbled(row))?;
        let seen = glimpse::cut(chunk.payload(local), |name| name == field.root());
        field.texts(&seen.map_err(|_| garbled(row))?, each);
        Ok(())
    }

    fn stored(&self, row: u32) -> Result<StoredRow, Fault> {
        let (chunk, local) = self.chunks.place(row).ok_or_else(|| garbled(row))?;
        let columns = self.shapes.iter().enumerate().map(|(ordinal, shape)| chunk.column(ordinal, shape));
        Ok(StoredRow {
            key: chunk.key(local).to_vec(),
            vectors: stored_vectors(columns, local),
            payload: Bytes::copy_from_slice(chunk.payload(local)),
        })
    }

    fn vector(&self, name: &str, row: u32) -> Result<Option<Vector>, Fault> {
        let place = ordinal(&self.shapes, name).zip(self.chunks.place(row));
        Ok(place.and_then(|(ordinal, (chunk, local))| {
            chunk.column(ordinal, &self.shapes[ordinal])?.vector(local)
        }))
    }

    fn answers(&self, _: &Compiled) -> bool {
        // They are as many as are worth no segment of their own.
        true
    }

    fn matching(&self, filter: &Compiled) -> Result<Matching, Fault> {
        let glimpse = Glimpse::of(filter);
        let mut passing = Bitset::new(self.chunks.rows as usize);
        for chunk in &self.chunks.list {
            for local in (0..chunk.len()).filter(|local| self.lives(chunk, *local)) {
                let row = chunk.base() + local;
                if glimpse.matches(chunk.key(local), chunk.payload(local)).map_err(|_| garbled(row))? {
                    passing.insert(row);
                }
            }
        }
        Ok(passing.into())
    }

    fn nearest(&self, ask: &Nearest<'_>, stats: &mut Stats) -> Result<Vec<Neighbor>, Fault> {
        let mut top = TopK::new(ask.limit);
        if let Some(ordinal) = ordinal(&self.shapes, ask.vector) {
            for chunk in &self.chunks.list {
                if let Some(column) = chunk.column(ordinal, &self.shapes[ordinal]) {
                    column.scan(ask.query, &self.alive(chunk, ask.rows.map(|rows| &**rows)), &mut top, stats);
                }
            }
        }
        Ok(top.into_sorted())
    }

    fn identity(&self) -> Option<u64> {
        None
    }

    fn is_indexed(&self, _: &str) -> bool {
        false
    }

    fn by_key<'a>(
        &'a self,
        after: Option<&Key>,
    ) -> Box<dyn Iterator<Item = Result<(Key, u32), Fault>> + Send + 'a> {
        let after = after.map(Key::to_bytes);
        let cursors = self.chunks.list.iter().map(|chunk| (&**chunk, chunk.after(after.as_deref())));
        Box::new(ByKey { view: self, cursors: cursors.collect() })
    }
}

/// Merges the chunks' orders; at most one row of a key is live, so there are no ties.
struct ByKey<'a> {
    view: &'a GrowingView,
    cursors: Vec<(&'a Chunk, usize)>,
}

impl Iterator for ByKey<'_> {
    type Item = Result<(Key, u32), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        for (chunk, place) in &mut self.cursors {
            while chunk.by_key(*place).is_some_and(|row| !self.view.lives(chunk, row)) {
                *place += 1;
            }
        }
        let heads = self.cursors.iter_mut().filter_map(|(chunk, place)| {
            let row = chunk.by_key(*place)?;
            Some((chunk.key(row), chunk.base() + row, place))
        });
        let (key, row, place) = heads.min_by_key(|(key, ..)| *key)?;
        *place += 1;
        Some(Key::from_bytes(key).map(|key| (key, row)).ok_or_else(|| garbled(row)))
    }
}

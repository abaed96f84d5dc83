//! A sealed segment as reads see it.

use std::sync::Arc;

use flotilla_proto::filter::Compiled;
use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::{Key, Payload};

use super::{Sealed, header, keys};
use crate::index::{Accept, Bitset, Neighbor, QuantizedGraph, Stats, TopK, VectorIndex as _};
use crate::storage::column::{Alive, Column, stored_vectors};
use crate::storage::shape::ordinal;
use crate::storage::{Fault, Method, Nearest, SegmentView, StoredRow};

/// A sealed segment as a view sees it. All its versions are older than any view.
#[derive(Debug)]
pub(in crate::storage) struct SealedView {
    sealed: Arc<Sealed>,
    at: LogIndex,
    live: u32,
}

impl SealedView {
    /// `sealed` in a view at `at` that sees `live` of its rows.
    pub fn new(sealed: Arc<Sealed>, at: LogIndex, live: u32) -> SealedView {
        SealedView { sealed, at, live }
    }

    fn alive<'a>(&'a self, rows: Option<&'a Bitset>) -> Alive<'a> {
        Alive { deleted_at: &self.sealed.deleted_at, at: self.at, rows, base: 0 }
    }

    fn key_of(&self, row: u32) -> Result<Key, Fault> {
        let bytes = self.sealed.key_bytes(row)?;
        let damaged =
            || Fault::damaged(self.sealed.dir().join(keys::KEYS), u64::from(row), "the bytes are no key");
        Key::from_bytes(bytes).ok_or_else(damaged)
    }

    fn walk(
        &self,
        graph: &QuantizedGraph,
        column: &Column<'_>,
        ef: usize,
        ask: &Nearest<'_>,
        stats: &mut Stats,
    ) -> Vec<Neighbor> {
        let slots;
        let accept = match (column.map, ask.rows) {
            (Some(map), rows) => {
                slots = self.alive(rows).slots(map);
                Accept::Bits(&slots)
            }
            (None, Some(rows)) => Accept::Bits(rows),
            (None, None) if self.live == self.sealed.rows() => Accept::All,
            (None, None) => Accept::Live { deleted_at: &self.sealed.deleted_at, at: self.at },
        };
        let found = graph.search(column.rows, column.distance, ask.query, ask.limit, ef, accept, stats);
        found.into_iter().map(|neighbor| column.in_segment(neighbor, 0)).collect()
    }
}

impl SegmentView for SealedView {
    fn rows(&self) -> u32 {
        self.sealed.rows()
    }

    fn live(&self) -> u32 {
        self.live
    }

    fn is_live(&self, row: u32) -> bool {
        Accept::Live { deleted_at: &self.sealed.deleted_at, at: self.at }.contains(row)
    }

    fn key(&self, row: u32) -> Result<Key, Fault> {
        self.key_of(row)
    }

    fn version(&self, row: u32) -> LogIndex {
        self.sealed.version(row)
    }

    fn find(&self, key: &Key) -> Result<Option<u32>, Fault> {
        let row = self.sealed.files.keys.find(&key.to_bytes())?;
        Ok(row.filter(|row| self.is_live(*row)))
    }

    fn payload(&self, row: u32) -> Result<Payload, Fault> {
        self.sealed.files.payloads.payload(row)
    }

    fn stored(&self, row: u32) -> Result<StoredRow, Fault> {
        let columns = (0..self.sealed.files.header.shapes.len()).map(|ordinal| self.sealed.column(ordinal));
        Ok(StoredRow {
            key: self.sealed.key_bytes(row)?.to_vec(),
            vectors: stored_vectors(columns, row),
            payload: self.sealed.stored_payload(row)?,
        })
    }

    fn vector(&self, name: &str, row: u32) -> Option<Vec<f32>> {
        self.sealed.column(ordinal(&self.sealed.files.header.shapes, name)?)?.vector(row)
    }

    fn matching(&self, filter: &Compiled) -> Result<Bitset, Fault> {
        let row_of = |key: &Key| self.sealed.files.keys.find(&key.to_bytes());
        let mut passing = self.sealed.files.payloads.matching(filter, &row_of)?;
        if self.live < self.rows() {
            let dead: Vec<u32> = passing.iter().filter(|row| !self.is_live(*row)).collect();
            dead.into_iter().for_each(|row| {
                passing.remove(row);
            });
        }
        Ok(passing)
    }

    fn nearest(&self, ask: &Nearest<'_>, stats: &mut Stats) -> Result<Vec<Neighbor>, Fault> {
        let Some(ordinal) = ordinal(&self.sealed.files.header.shapes, ask.vector) else {
            return Ok(Vec::new());
        };
        let Some(column) = self.sealed.column(ordinal) else {
            let path = self.sealed.dir().join(header::vectors_name(ordinal));
            return Err(Fault::damaged(path, 0, "not a whole number of vectors"));
        };
        match (ask.method, &self.sealed.graphs[ordinal]) {
            (Method::Graph { ef }, Some((_, graph))) => Ok(self.walk(graph, &column, ef, ask, stats)),
            _ => {
                let mut top = TopK::new(ask.limit);
                column.scan(ask.query, &self.alive(ask.rows), &mut top, stats);
                Ok(top.into_sorted())
            }
        }
    }

    fn identity(&self) -> Option<u64> {
        Some(self.sealed.number())
    }

    fn is_indexed(&self, vector: &str) -> bool {
        ordinal(&self.sealed.files.header.shapes, vector)
            .is_some_and(|ordinal| self.sealed.graphs[ordinal].is_some())
    }

    fn by_key<'a>(
        &'a self,
        after: Option<&Key>,
    ) -> Box<dyn Iterator<Item = Result<(Key, u32), Fault>> + Send + 'a> {
        let keys = &self.sealed.files.keys;
        let start = match keys.after(after.map(Key::to_bytes).as_deref()) {
            Ok(start) => start,
            Err(fault) => return Box::new(std::iter::once(Err(fault))),
        };
        let rows = (start..self.rows() as usize).map_while(|place| keys.by_key(place));
        let live = rows.filter(|row| self.is_live(*row));
        Box::new(live.map(|row| self.key_of(row).map(|key| (key, row))))
    }
}

//! A sealed segment as reads see it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use flotilla_proto::filter::Compiled;
use flotilla_proto::fulltext::{Kin, Need};
use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::{Key, Payload, Vector};

use super::{Sealed, header, keys};
use crate::index::{
    Accept, AnyIndex, Bitset, Effort, Inverted, Lists, Neighbor, Rows, Stats, TopK, VectorIndex as _,
};
use crate::storage::column::{Alive, Column, stored_vectors};
use crate::storage::payload_index::{Accepted, Tokens};
use crate::storage::shape::ordinal;
use crate::storage::{
    Fault, FieldColumn, Listed, Matching, Method, Nearest, SegmentView, Soon, Sought, StoredRow, Tally,
    TextField, Weighed, text, vectors,
};

/// Of records with several vectors, so many times those wanted are compared whole, or so many times the candidates kept.
const RESCORED: usize = 8;
const RESCORED_OF_EF: usize = 2;

/// A sealed segment as a view sees it. All its versions are older than any view.
#[derive(Debug)]
pub(in crate::storage) struct SealedView {
    sealed: Arc<Sealed>,
    at: LogIndex,
    live: u32,
    /// The rows that it does not see, once somebody asks.
    dead: OnceLock<Bitset>,
}

impl SealedView {
    /// `sealed` in a view at `at` that sees `live` of its rows.
    pub fn new(sealed: Arc<Sealed>, at: LogIndex, live: u32) -> SealedView {
        SealedView { sealed, at, live, dead: OnceLock::new() }
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

    /// By the inverted index, or by a scan where that reads less: both give the same.
    fn invert(
        &self,
        inverted: &Inverted,
        column: &Column<'_>,
        ask: &Nearest<'_>,
        stats: &mut Stats,
    ) -> Vec<Neighbor> {
        let alive = self.alive(ask.rows.map(|rows| &**rows));
        let mut top = TopK::new(ask.limit);
        let mean = column.rows.len() / column.len().max(1) + ask.query.len() / 2;
        let scanned = ask.rows.map_or(usize::MAX, |rows| rows.count().saturating_mul(mean));
        if scanned < inverted.cost(ask.query) {
            column.scan(ask.query, &alive, &mut top, stats);
            return top.into_sorted();
        }
        inverted.search(ask.query, |slot| alive.accepts(column.row_of(slot)), &mut top, stats);
        top.into_sorted().into_iter().map(|neighbor| column.in_segment(neighbor, 0)).collect()
    }

    /// The columns, by ordinal; refuses the row if what it has in one of them is not what was written.
    fn sound_columns(&self, row: u32) -> Result<Vec<Option<Column<'_>>>, Fault> {
        let shapes = &self.sealed.files.header.shapes;
        (0..shapes.len()).map(|ordinal| self.sound_column(ordinal, row)).collect()
    }

    fn sound_column(&self, ordinal: usize, row: u32) -> Result<Option<Column<'_>>, Fault> {
        let Some(column) = self.sealed.column(ordinal) else { return Ok(None) };
        if column.is_sound(row) {
            return Ok(Some(column));
        }
        let path = self.sealed.dir().join(header::vectors_name(ordinal, column.shape));
        let slot = column.slot(row).unwrap_or_default();
        Err(Fault::damaged(path, 0, format!("the checksum of vector {slot} does not match")))
    }

    fn tokens(&self, field: &TextField) -> Option<&Tokens> {
        self.sealed.files.payloads.tokens(&field.name, field.language)
    }

    /// Does `work` with the rows that count: `rows`, or the live ones.
    fn accepting<T>(&self, rows: Option<&Matching>, work: impl FnOnce(&Accepted<'_>) -> T) -> T {
        let is_accepted = |row| rows.map_or_else(|| self.is_live(row), |rows| rows.contains(row));
        let is_all = rows.is_none() && self.live == self.rows();
        work(&Accepted { is_accepted: &is_accepted, is_all })
    }

    fn dead(&self) -> Option<&Bitset> {
        let rows = self.rows();
        let work_out = || Bitset::with_rows(rows as usize, (0..rows).filter(|row| !self.is_live(*row)));
        (self.live < rows).then(|| self.dead.get_or_init(work_out))
    }

    /// By the graph: a walk, or a look at its codes.
    fn by_graph(
        &self,
        graph: &AnyIndex,
        (ordinal, column): (usize, &Column<'_>),
        ask: &Nearest<'_>,
        stats: &mut Stats,
    ) -> Option<Vec<Neighbor>> {
        if let Some(ends) = column.ends {
            let Method::Graph { ef } = ask.method else { return None };
            let lists = Lists::known(column.rows, ends);
            return Some(self.by_members(graph, column, lists, ask, ef, stats));
        }
        let slots;
        let accept = match (column.map, ask.rows) {
            (Some(map), rows) => {
                slots = self.alive(rows.map(|rows| &**rows)).slots(map);
                Accept::Bits(&slots)
            }
            (None, Some(rows)) => Accept::Bits(rows),
            (None, None) if self.live == self.sealed.rows() => Accept::All,
            (None, None) => Accept::Live { deleted_at: &self.sealed.deleted_at, at: self.at },
        };
        let Nearest { query, limit, rescored, .. } = *ask;
        let (rows, distance) = (column.rows, column.distance);
        let found = match ask.method {
            Method::Exact => return None,
            Method::Graph { ef: width } => {
                let effort = Effort { width, rescored };
                graph.search(rows, distance, query, limit, effort, accept, stats)
            }
            Method::Codes => {
                // Rows are slots where there is no map.
                let matching = ask.rows.filter(|_| column.map.is_none());
                let wanted = (limit, rescored);
                match matching.and_then(|rows| rows.packed(ordinal, |rows| graph.pack(rows))) {
                    Some(packed) => {
                        graph.scan_packed(rows, packed, distance, query, wanted, accept, stats)?
                    }
                    None => graph.scan_codes(rows, distance, query, wanted, accept, stats)?,
                }
            }
        };
        Some(found.into_iter().map(|neighbor| column.in_segment(neighbor, 0)).collect())
    }
}

impl SealedView {
    /// By a graph over the vectors of all records: what a walk for each vector of the query finds tells the records that may be
    /// near, and the best of them are compared whole, as ColBERT does (Khattab & Zaharia, SIGIR 2020).
    fn by_members(
        &self,
        graph: &AnyIndex,
        column: &Column<'_>,
        lists: Lists<'_>,
        ask: &Nearest<'_>,
        ef: usize,
        stats: &mut Stats,
    ) -> Vec<Neighbor> {
        let Ok(query) = Rows::new(ask.query, column.rows.dims()) else { return vec![] };
        let alive = self.alive(ask.rows.map(|rows| &**rows));
        let accepts = |slot: &u32| alive.accepts(column.row_of(*slot));
        let members;
        let accept = if ask.rows.is_none() && self.live == self.sealed.rows() {
            Accept::All
        } else {
            let slots = (0..lists.len() as u32).filter(accepts);
            let rows = slots.flat_map(|slot| {
                let (start, end) = lists.bounds(slot);
                start..end
            });
            members = Bitset::with_rows(column.rows.len(), rows);
            Accept::Bits(&members)
        };
        // What a record is surely better by, over all vectors of the query, than one that no walk met.
        let mut gains: BTreeMap<u32, f32> = BTreeMap::new();
        for asked in 0..query.len() as u32 {
            let asked = query.row(asked);
            let near = graph.search(column.rows, column.distance, asked, ef, ef, accept, stats);
            let Some(furthest) = near.last().map(|near| near.distance) else { continue };
            let mut best: BTreeMap<u32, f32> = BTreeMap::new();
            for near in near {
                // Nearest first, so the first of a record is its best.
                best.entry(lists.list_of(near.row)).or_insert(furthest - near.distance);
            }
            best.into_iter().for_each(|(slot, gain)| *gains.entry(slot).or_default() += gain);
        }
        let mut best: Vec<(u32, f32)> = gains.into_iter().collect();
        best.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        best.truncate(ef.saturating_mul(RESCORED_OF_EF).max(ask.limit.saturating_mul(RESCORED)));
        let mut top = TopK::new(ask.limit);
        for (slot, _) in best {
            let similarity = |distance| column.shape.spec.distance.score(distance);
            let distance = lists.late(slot, column.distance, query, similarity, stats);
            top.push(Neighbor { row: slot, distance });
        }
        top.into_sorted().into_iter().map(|neighbor| column.in_segment(neighbor, 0)).collect()
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

    fn expires_at_ms(&self, row: u32) -> Result<Option<u64>, Fault> {
        Ok(self.sealed.expires_at_ms(row))
    }

    fn find(&self, key: &Key) -> Result<Option<u32>, Fault> {
        let row = self.sealed.files.keys.find(&key.to_bytes())?;
        Ok(row.filter(|row| self.is_live(*row)))
    }

    fn payload(&self, row: u32) -> Result<Payload, Fault> {
        self.sealed.files.payloads.payload(row)
    }

    fn stored_payload(&self, row: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.sealed.files.payloads.read(row, out)
    }

    fn prefetch(&self, row: u32, what: Soon) {
        self.sealed.prefetch(row, what);
    }

    fn garbled(&self, row: u32) -> Fault {
        self.sealed.files.payloads.garbled(row)
    }

    fn stored(&self, row: u32) -> Result<StoredRow, Fault> {
        let columns = self.sound_columns(row)?.into_iter();
        Ok(StoredRow {
            key: self.sealed.key_bytes(row)?.to_vec(),
            vectors: stored_vectors(columns, row),
            payload: self.sealed.stored_payload(row)?,
        })
    }

    fn vector(&self, name: &str, row: u32) -> Result<Option<Vector>, Fault> {
        let Some(ordinal) = ordinal(&self.sealed.files.header.shapes, name) else { return Ok(None) };
        Ok(self.sound_column(ordinal, row)?.and_then(|column| column.vector(row)))
    }

    fn column(&self, field: &str) -> Result<Option<FieldColumn>, Fault> {
        self.sealed.files.payloads.column(field)
    }

    fn term_counts(&self, field: &str, terms_max: usize) -> Result<Option<Vec<(String, u64)>>, Fault> {
        if self.live < self.sealed.rows() {
            return Ok(None);
        }
        self.sealed.files.payloads.term_counts(field, terms_max)
    }

    fn answers(&self, filter: &Compiled) -> bool {
        self.sealed.files.payloads.answers(filter)
    }

    fn cost(&self, filter: &Compiled) -> u64 {
        self.sealed.files.payloads.cost(filter)
    }

    fn matching(&self, filter: &Compiled) -> Result<Matching, Fault> {
        let row_of = |key: &Key| self.sealed.files.keys.find(&key.to_bytes());
        let evaluate = || self.sealed.files.payloads.matching(filter, &row_of);
        Ok(Matching::live(self.sealed.filters.get(filter, evaluate)?, self.dead()))
    }

    fn has_words(&self, field: &TextField) -> bool {
        self.tokens(field).is_some()
    }

    fn weigh(&self, field: &TextField, sought: &Sought, rows: Option<&Matching>) -> Result<Weighed, Fault> {
        let Some(tokens) = self.tokens(field) else { return text::weigh(self, field, sought, rows) };
        let weighed = self.accepting(rows, |rows| tokens.weigh(sought, rows));
        weighed.map_err(|error| self.sealed.files.payloads.fault(error))
    }

    fn list_kin(
        &self,
        field: &TextField,
        kin: &Kin,
        rows: Option<&Matching>,
        listed: &mut Listed,
    ) -> Result<(), Fault> {
        let Some(tokens) = self.tokens(field) else { return text::list_kin(self, field, kin, rows, listed) };
        let done = self.accepting(rows, |rows| tokens.list_kin(kin, rows, listed));
        done.map_err(|error| self.sealed.files.payloads.fault(error))
    }

    fn occurrences(
        &self,
        field: &TextField,
        sought: (&Sought, Need),
        rows: Option<&Matching>,
        each: &mut dyn FnMut(u32, &Tally<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        match self.tokens(field) {
            Some(tokens) => self.accepting(rows, |rows| tokens.occurrences(sought, rows, each)),
            None => text::occurrences(self, field, sought, rows, each),
        }
    }

    fn nearest(&self, ask: &Nearest<'_>, stats: &mut Stats) -> Result<Vec<Neighbor>, Fault> {
        let Some(ordinal) = ordinal(&self.sealed.files.header.shapes, ask.vector) else {
            return Ok(Vec::new());
        };
        let Some(column) = self.sealed.column(ordinal) else {
            let path = self.sealed.dir().join(header::HEADER);
            return Err(Fault::damaged(path, 0, "not a whole number of vectors"));
        };
        if let Some(inverted) = self.sealed.inverted(ordinal) {
            return Ok(self.invert(inverted, &column, ask, stats));
        }
        let graph = self.sealed.graphs[ordinal].as_ref().map(|(_, graph)| graph);
        if let Some(found) = graph.and_then(|graph| self.by_graph(graph, (ordinal, &column), ask, stats)) {
            return Ok(found);
        }
        let mut top = TopK::new(ask.limit);
        column.scan(ask.query, &self.alive(ask.rows.map(|rows| &**rows)), &mut top, stats);
        Ok(top.into_sorted())
    }

    fn identity(&self) -> Option<u64> {
        Some(self.sealed.number())
    }

    fn is_indexed(&self, vector: &str) -> bool {
        ordinal(&self.sealed.files.header.shapes, vector)
            .is_some_and(|at| self.sealed.graphs[at].is_some() || self.sealed.inverted(at).is_some())
    }

    fn effort(&self, vector: &str, target: f32, limit: usize) -> Option<usize> {
        let graph = self.sealed.graphs[ordinal(&self.sealed.files.header.shapes, vector)?].as_ref();
        graph.and_then(|(_, graph)| graph.calibration().effort(target, limit))
    }

    fn has_codes(&self, vector: &str) -> bool {
        // Those of several vectors to a record are no codes of records.
        let shapes = &self.sealed.files.header.shapes;
        let ordinal = ordinal(shapes, vector).filter(|at| !vectors::is_list(&shapes[*at].spec));
        let graph = ordinal.and_then(|ordinal| self.sealed.graphs[ordinal].as_ref());
        graph.is_some_and(|(_, graph)| graph.has_codes())
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

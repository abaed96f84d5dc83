//! Hiding the rows of some keys from a read.
//!
//! While slots move, a partition holds rows that are not its own to show. A read then looks at its segments through a
//! curtain: each is wrapped so that the hidden rows are as good as dead, in every way of asking. Which rows of a sealed
//! segment are hidden depends on their keys alone, so it is worked out once per segment and kept while the same keys
//! are hidden; rows in memory are few, and looked at each time.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_proto::area::Area;
use flotilla_proto::filter::Compiled;
use flotilla_proto::fulltext::{Kin, Need};
use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::{Key, Payload, Vector};
use parking_lot::Mutex;

use crate::index::{Bitset, Neighbor, Stats};
use crate::storage::{
    Fault, FieldColumn, Listed, Matching, Nearest, SegmentView, Soon, Sought, StoredRow, Tally, TextField,
    Weighed,
};

/// Hides the rows of some keys. Kept between reads, for what it remembers.
#[derive(Debug, Default)]
pub struct Curtain {
    hidden: Area,
    sealed: Mutex<BTreeMap<u64, Arc<Bitset>>>,
}

impl Curtain {
    /// Hides these keys.
    pub fn new(hidden: Area) -> Curtain {
        Curtain { hidden, sealed: Mutex::default() }
    }

    /// The keys that it hides.
    pub fn hidden(&self) -> &Area {
        &self.hidden
    }

    /// Does `work` over the segments: as they are without a curtain, without the hidden rows with one.
    pub fn over<T>(
        curtain: Option<&Curtain>,
        segments: &[&dyn SegmentView],
        work: impl FnOnce(&[&dyn SegmentView]) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let Some(curtain) = curtain else { return work(segments) };
        let drawn = curtain.draw(segments)?;
        let drawn: Vec<&dyn SegmentView> = drawn.iter().map(|shown| shown as &dyn SegmentView).collect();
        work(&drawn)
    }

    /// The segments without the hidden rows.
    pub fn draw<'a>(&self, segments: &[&'a dyn SegmentView]) -> Result<Vec<Shown<'a>>, Fault> {
        let shown = segments.iter().map(|segment| self.shown(*segment)).collect();
        let mut sealed = self.sealed.lock();
        sealed.retain(|number, _| segments.iter().any(|segment| segment.identity() == Some(*number)));
        shown
    }

    fn shown<'a>(&self, segment: &'a dyn SegmentView) -> Result<Shown<'a>, Fault> {
        let known = segment.identity().and_then(|number| self.sealed.lock().get(&number).cloned());
        let hidden = match known {
            Some(hidden) => hidden,
            None => {
                let hidden = Arc::new(self.hidden_rows(segment)?);
                if let Some(number) = segment.identity() {
                    self.sealed.lock().insert(number, hidden.clone());
                }
                hidden
            }
        };
        let rows = segment.rows();
        let mut shown = if segment.live() == rows {
            Bitset::full(rows as usize)
        } else {
            Bitset::with_rows(rows as usize, (0..rows).filter(|row| segment.is_live(*row)))
        };
        shown.and_not(&hidden);
        let live = u32::try_from(shown.count()).unwrap_or(u32::MAX);
        Ok(Shown { segment, shown: shown.into(), live })
    }

    /// Dead rows count too: what is remembered of a sealed segment must hold for every view of it.
    fn hidden_rows(&self, segment: &dyn SegmentView) -> Result<Bitset, Fault> {
        let mut hidden = Bitset::new(segment.rows() as usize);
        for row in 0..segment.rows() {
            if self.hidden.contains(&segment.key(row)?.to_bytes()) {
                hidden.insert(row);
            }
        }
        Ok(hidden)
    }
}

/// A segment of which some rows are hidden.
pub struct Shown<'a> {
    segment: &'a dyn SegmentView,
    shown: Matching,
    live: u32,
}

impl SegmentView for Shown<'_> {
    fn rows(&self) -> u32 {
        self.segment.rows()
    }

    fn live(&self) -> u32 {
        self.live
    }

    fn is_live(&self, row: u32) -> bool {
        self.shown.contains(row)
    }

    fn key(&self, row: u32) -> Result<Key, Fault> {
        self.segment.key(row)
    }

    fn version(&self, row: u32) -> LogIndex {
        self.segment.version(row)
    }

    fn expires_at_ms(&self, row: u32) -> Result<Option<u64>, Fault> {
        self.segment.expires_at_ms(row)
    }

    fn find(&self, key: &Key) -> Result<Option<u32>, Fault> {
        Ok(self.segment.find(key)?.filter(|row| self.shown.contains(*row)))
    }

    fn payload(&self, row: u32) -> Result<Payload, Fault> {
        self.segment.payload(row)
    }

    fn stored_payload(&self, row: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.segment.stored_payload(row, out)
    }

    fn prefetch(&self, row: u32, what: Soon) {
        self.segment.prefetch(row, what);
    }

    fn garbled(&self, row: u32) -> Fault {
        self.segment.garbled(row)
    }

    fn vector(&self, name: &str, row: u32) -> Result<Option<Vector>, Fault> {
        self.segment.vector(name, row)
    }

    fn column(&self, field: &str) -> Result<Option<FieldColumn>, Fault> {
        self.segment.column(field)
    }

    fn live_rows(&self) -> Box<dyn Iterator<Item = u32> + Send + '_> {
        Box::new(self.shown.iter())
    }

    fn answers(&self, filter: &Compiled) -> bool {
        self.segment.answers(filter)
    }

    fn cost(&self, filter: &Compiled) -> u64 {
        self.segment.cost(filter)
    }

    fn matching(&self, filter: &Compiled) -> Result<Matching, Fault> {
        Ok(self.segment.matching(filter)?.within(&self.shown))
    }

    fn nearest(&self, ask: &Nearest<'_>, stats: &mut Stats) -> Result<Vec<Neighbor>, Fault> {
        let rows = ask.rows.or(Some(&self.shown));
        self.segment.nearest(&Nearest { rows, ..*ask }, stats)
    }

    fn stored(&self, row: u32) -> Result<StoredRow, Fault> {
        self.segment.stored(row)
    }

    fn identity(&self) -> Option<u64> {
        None
    }

    fn is_indexed(&self, vector: &str) -> bool {
        self.segment.is_indexed(vector)
    }

    fn effort(&self, vector: &str, target: f32, limit: usize) -> Option<usize> {
        self.segment.effort(vector, target, limit)
    }

    fn has_codes(&self, vector: &str) -> bool {
        self.segment.has_codes(vector)
    }

    fn texts(&self, row: u32, field: &TextField, each: &mut dyn FnMut(&str)) -> Result<(), Fault> {
        self.segment.texts(row, field, each)
    }

    fn has_words(&self, field: &TextField) -> bool {
        self.segment.has_words(field)
    }

    fn weigh(&self, field: &TextField, sought: &Sought, rows: Option<&Matching>) -> Result<Weighed, Fault> {
        self.segment.weigh(field, sought, rows.or(Some(&self.shown)))
    }

    fn list_kin(
        &self,
        field: &TextField,
        kin: &Kin,
        rows: Option<&Matching>,
        listed: &mut Listed,
    ) -> Result<(), Fault> {
        self.segment.list_kin(field, kin, rows.or(Some(&self.shown)), listed)
    }

    fn occurrences(
        &self,
        field: &TextField,
        sought: (&Sought, Need),
        rows: Option<&Matching>,
        each: &mut dyn FnMut(u32, &Tally<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.segment.occurrences(field, sought, rows.or(Some(&self.shown)), each)
    }

    fn by_key<'a>(
        &'a self,
        after: Option<&Key>,
    ) -> Box<dyn Iterator<Item = Result<(Key, u32), Fault>> + Send + 'a> {
        let is_shown = |item: &Result<(Key, u32), Fault>| match item {
            Ok((_, row)) => self.shown.contains(*row),
            Err(_) => true,
        };
        Box::new(self.segment.by_key(after).filter(is_shown))
    }
}

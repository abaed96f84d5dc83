//! Pages in the order of a field, over all segments.
//!
//! Each segment tells its first rows behind the place where the page before ended, and the first of all are the page. A
//! declared field is read from its column, where a number's or a term's **rank** compares as its place does without being
//! spelt out; what no column holds is decoded. The places themselves ([`flotilla_proto::order`]) are made for the winners.

use std::collections::BinaryHeap;

use flotilla_proto::aggregate::Datum;
use flotilla_proto::filter::Compiled;
use flotilla_proto::limits::ORDER_BYTES_MAX;
use flotilla_proto::order::{NONE, OrderBy, number, time};

use crate::storage::{Cell, Fault, FieldColumn, Scratch, SegmentView};

/// Rows that are read at once.
const BLOCK: usize = 1_024;

/// A row and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    /// Its place.
    pub place: Vec<u8>,
    /// Its segment, by its number in the view.
    pub segment: usize,
    /// Itself.
    pub row: u32,
}

/// The first `limit` live rows that pass and stand behind `after`, in order; and whether there are more.
pub fn ordered(
    segments: &[&dyn SegmentView],
    order: &OrderBy,
    filter: Option<&Compiled>,
    after: Option<&[u8]>,
    limit: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<(Vec<Placed>, bool), Fault> {
    let wanted = limit.saturating_add(1);
    let mut page = Vec::new();
    for (number, segment) in segments.iter().enumerate() {
        let first = First::new(*segment, order, after, wanted)?.find(filter, cancelled)?;
        page.extend(first.into_iter().map(|(place, row)| Placed { place, segment: number, row }));
    }
    page.sort_unstable();
    let more = page.len() > limit;
    page.truncate(limit);
    Ok((page, more))
}

/// The first rows of a segment.
struct First<'a> {
    segment: &'a dyn SegmentView,
    order: &'a OrderBy,
    after: Option<&'a [u8]>,
    wanted: usize,
    column: Option<FieldColumn>,
    /// Ranks of the column up to this one are not behind `after`; with the key of `after` where the rank is the same.
    bound: Bound,
    ranked: BinaryHeap<(u128, Vec<u8>, u32)>,
    spelt: BinaryHeap<(Vec<u8>, u32)>,
}

/// Which ranks of a column are behind a place.
enum Bound {
    All,
    None,
    /// Those above; of those equal, the rows whose key is greater.
    Above(u128, Vec<u8>),
}

impl<'a> First<'a> {
    fn new(
        segment: &'a dyn SegmentView,
        order: &'a OrderBy,
        after: Option<&'a [u8]>,
        wanted: usize,
    ) -> Result<First<'a>, Fault> {
        let column = segment.column(&order.field)?;
        let bound = match (after, &column) {
            (Some(after), Some(column)) => bound(order, column, after)?,
            _ => Bound::All,
        };
        let (ranked, spelt) = (BinaryHeap::new(), BinaryHeap::new());
        Ok(First { segment, order, after, wanted, column, bound, ranked, spelt })
    }

    fn find(
        mut self,
        filter: Option<&Compiled>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<(Vec<u8>, u32)>, Fault> {
        let segment = self.segment;
        let matching = filter.map(|filter| segment.matching(filter)).transpose()?;
        let mut rows: Box<dyn Iterator<Item = u32> + '_> = match &matching {
            Some(matching) => Box::new(matching.iter()),
            None => segment.live_rows(),
        };
        let (mut block, mut scratch) = (Vec::with_capacity(BLOCK), Scratch::default());
        let mut best: Vec<Option<u128>> = Vec::with_capacity(BLOCK);
        loop {
            block.clear();
            block.extend(rows.by_ref().take(BLOCK));
            if block.is_empty() {
                return self.finish();
            }
            if cancelled() {
                return Err(Fault::Cancelled);
            }
            let Some(column) = self.column.take() else {
                block.iter().try_for_each(|row| self.spell(*row))?;
                continue;
            };
            best.clear();
            best.resize(block.len(), None);
            column.read(&block, &mut scratch, |at, cell| {
                let rank = rank(cell, self.order.is_descending);
                if let (Some(best), Some(rank)) = (best.get_mut(at as usize), rank) {
                    *best = Some(best.map_or(rank, |best| best.min(rank)));
                }
            });
            for (row, rank) in block.iter().zip(&best) {
                match rank {
                    _ if column.is_odd(*row) => self.spell(*row)?,
                    Some(rank) => self.rank(*row, *rank)?,
                    None => self.last(*row)?,
                }
            }
            self.column = Some(column);
        }
    }

    /// A row with a rank in the column.
    fn rank(&mut self, row: u32, rank: u128) -> Result<(), Fault> {
        let is_behind = match &self.bound {
            Bound::All => true,
            Bound::None => false,
            Bound::Above(bound, _) if rank != *bound => rank > *bound,
            Bound::Above(_, key) => self.segment.key(row)?.to_bytes() > *key,
        };
        if !is_behind {
            return Ok(());
        }
        if self.ranked.len() >= self.wanted {
            // Keys are only looked at where ranks are equal.
            let Some((worst, key, _)) = self.ranked.peek() else { return Ok(()) };
            if rank > *worst || rank == *worst && self.segment.key(row)?.to_bytes() >= *key {
                return Ok(());
            }
            self.ranked.pop();
        }
        self.ranked.push((rank, self.segment.key(row)?.to_bytes(), row));
        Ok(())
    }

    /// A row without a value.
    fn last(&mut self, row: u32) -> Result<(), Fault> {
        if self.ranked.len() >= self.wanted {
            return Ok(());
        }
        let mut place = vec![NONE];
        place.extend(self.segment.key(row)?.to_bytes());
        self.keep(place, row);
        Ok(())
    }

    /// A row whose payload tells.
    fn spell(&mut self, row: u32) -> Result<(), Fault> {
        let place = self.order.place(&self.segment.payload(row)?, &self.segment.key(row)?);
        self.keep(place, row);
        Ok(())
    }

    fn keep(&mut self, place: Vec<u8>, row: u32) {
        if self.after.is_some_and(|after| place.as_slice() <= after) {
            return;
        }
        if self.spelt.len() >= self.wanted {
            if self.spelt.peek().is_none_or(|(worst, _)| place >= *worst) {
                return;
            }
            self.spelt.pop();
        }
        self.spelt.push((place, row));
    }

    fn finish(self) -> Result<Vec<(Vec<u8>, u32)>, Fault> {
        let mut found = self.spelt.into_vec();
        let ranked = self.ranked.into_sorted_vec();
        let values = match &self.column {
            Some(column) => values(column, self.order, &ranked)?,
            None => vec![],
        };
        found.extend(
            ranked.into_iter().zip(values).map(|((_, key, row), value)| ([value, key].concat(), row)),
        );
        found.sort_unstable();
        found.truncate(self.wanted);
        Ok(found)
    }
}

/// Compares as the place's value does, within one column.
fn rank(cell: Cell, is_descending: bool) -> Option<u128> {
    let rank = match cell {
        Cell::Whole(whole) => number(Datum::Whole(whole)),
        Cell::Float(float) => number(Datum::Float(float)),
        Cell::Time(micros) => u128::from(time(micros)),
        Cell::Truth(truth) => u128::from(truth),
        // Between two terms there is room for one that the column does not have.
        Cell::Term(term) => u128::from(term) * 2 + 1,
        Cell::Map => return None,
    };
    Some(if is_descending { !rank } else { rank })
}

/// The values' parts of the places of these rows, in order of rank.
fn values(
    column: &FieldColumn,
    order: &OrderBy,
    ranked: &[(u128, Vec<u8>, u32)],
) -> Result<Vec<Vec<u8>>, Fault> {
    let straight = |rank: u128| if order.is_descending { !rank } else { rank };
    let Some(class) = column.class() else { return Ok(vec![]) };
    if class != 3 {
        let value = |(rank, ..): &(u128, Vec<u8>, u32)| {
            let bytes = rank.to_be_bytes();
            let width = match class {
                1 => 1,
                4 => 8,
                _ => 16,
            };
            let class = if order.is_descending { !class } else { class };
            let mut value = vec![class];
            value.extend_from_slice(&bytes[16 - width..]);
            value
        };
        return Ok(ranked.iter().map(value).collect());
    }
    let ordinal = |rank: u128| u64::try_from((straight(rank) - 1) / 2).unwrap_or(u64::MAX);
    let mut ordinals: Vec<u64> = ranked.iter().map(|(rank, ..)| ordinal(*rank)).collect();
    ordinals.sort_unstable();
    ordinals.dedup();
    let mut encoded = Vec::with_capacity(ordinals.len());
    column.texts(&ordinals, |text| encoded.push(order.encode(Datum::Text(text)).unwrap_or_default()))?;
    let value = |(rank, ..): &(u128, Vec<u8>, u32)| {
        let at = ordinals.binary_search(&ordinal(*rank)).ok();
        at.and_then(|at| encoded.get(at)).cloned().unwrap_or_default()
    };
    Ok(ranked.iter().map(value).collect())
}

/// Which ranks of the column are behind the place.
fn bound(order: &OrderBy, column: &FieldColumn, after: &[u8]) -> Result<Bound, Fault> {
    let Some((value, key)) = order.split(after) else { return Ok(Bound::All) };
    // Behind a record without a value there is no record with one.
    let (Some(value), Some(class)) = (value, column.class()) else { return Ok(Bound::None) };
    let (found, rest) = value.split_first().map_or((0, &[][..]), |(class, rest)| (*class, rest));
    if found != class {
        let is_behind = (class > found) != order.is_descending;
        return Ok(if is_behind { Bound::All } else { Bound::None });
    }
    let rank = match class {
        3 => {
            // No term of a column is longer than what counts of a text, so the spelling is the term.
            debug_assert!(rest.len() <= 2 * ORDER_BYTES_MAX + 2);
            let term = unescaped(rest);
            match column.ordinal_of(&term)? {
                Ok(ordinal) => u128::from(ordinal) * 2 + 1,
                Err(next) => u128::from(next) * 2,
            }
        }
        _ => rest.iter().fold(0, |rank, byte| rank << 8 | u128::from(*byte)),
    };
    Ok(Bound::Above(if order.is_descending { !rank } else { rank }, key.to_vec()))
}

/// A text's bytes as a place spells them, turned around.
fn unescaped(spelt: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(spelt.len());
    let mut rest = spelt.iter().copied();
    while let Some(byte) = rest.next() {
        if byte == 0 && rest.next() != Some(0xff) {
            break;
        }
        bytes.push(byte);
    }
    bytes
}

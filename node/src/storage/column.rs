//! One vector name's values over a block of rows, wherever they lie (a chunk in memory, a mapped file).
//!
//! Values stand in **slots**, one after the other. Where every row of the block has the vector, slot = row; where some
//! lack it, an ascending table names the row of each slot.

use std::sync::atomic::AtomicU64;

use super::row::{StoredVector, unscaled};
use crate::index::{Accept, Bitset, Distance, Neighbor, Rows, Stats, TopK, scan};

/// The borrowed values of one vector.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column<'a> {
    /// The values, slot by slot.
    pub rows: Rows<'a>,
    /// How they compare.
    pub distance: Distance,
    /// The row of each slot, ascending; `None` if slot = row.
    pub map: Option<&'a [u32]>,
    /// What to scale each slot by to get what the user wrote; `None`: nothing was scaled.
    pub norms: Option<&'a [f32]>,
}

/// Which rows of a block a search may return.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alive<'a> {
    /// Per row of the block, the log index that deleted it, or 0.
    pub deleted_at: &'a [AtomicU64],
    /// The view's log index.
    pub at: u64,
    /// Only these, if given: rows of the segment, of which this block begins at `base`.
    pub rows: Option<&'a Bitset>,
    /// The block's first row in the segment.
    pub base: u32,
}

impl Alive<'_> {
    /// Whether the row of the block may be returned.
    pub fn accepts(&self, row: u32) -> bool {
        match self.rows {
            Some(rows) => rows.contains(self.base + row),
            None => Accept::Live { deleted_at: self.deleted_at, at: self.at }.contains(row),
        }
    }

    /// The slots of `map` that may be returned.
    pub fn slots(&self, map: &[u32]) -> Bitset {
        let accepted = map.iter().zip(0..).filter(|(row, _)| self.accepts(**row));
        Bitset::with_rows(map.len(), accepted.map(|(_, slot)| slot))
    }
}

/// The vectors of a row, bit by bit as they were written: an unscaled one has norm 1 whether its block has norms or not.
pub(super) fn stored_vectors<'a>(
    columns: impl Iterator<Item = Option<Column<'a>>>,
    row: u32,
) -> Vec<StoredVector> {
    let stored = |(ordinal, column): (u16, Option<Column<'_>>)| {
        let column = column?;
        let slot = column.slot(row)?;
        Some(StoredVector { ordinal, norm: column.norm(slot), values: column.rows.row(slot).to_vec() })
    };
    (0..).zip(columns).filter_map(stored).collect()
}

impl<'a> Column<'a> {
    /// The slot of a row, if the row has the vector.
    pub fn slot(&self, row: u32) -> Option<u32> {
        match self.map {
            Some(map) => map.binary_search(&row).ok().and_then(|slot| u32::try_from(slot).ok()),
            None => ((row as usize) < self.rows.len()).then_some(row),
        }
    }

    /// The row's vector as the user wrote it.
    pub fn vector(&self, row: u32) -> Option<Vec<f32>> {
        let slot = self.slot(row)?;
        Some(unscaled(self.rows.row(slot), self.norm(slot)))
    }

    /// What to scale a slot by to get what the user wrote.
    pub fn norm(&self, slot: u32) -> f32 {
        self.norms.and_then(|norms| norms.get(slot as usize)).copied().unwrap_or(1.0)
    }

    /// Offers every accepted row to `top`, as rows of the segment.
    pub fn scan(&self, query: &[f32], alive: &Alive<'_>, top: &mut TopK, stats: &mut Stats) {
        let mut near = TopK::new(top.k());
        let scanned = match (self.map, alive.rows) {
            (Some(map), _) => {
                let slots = alive.slots(map);
                scan(self.rows, self.distance, query, Accept::Bits(&slots), 0, &mut near);
                slots.count()
            }
            (None, Some(rows)) => {
                // Rows of the segment already: straight into the answer.
                scan(self.rows, self.distance, query, Accept::Bits(rows), alive.base, top);
                rows.count().min(self.rows.len())
            }
            (None, None) => {
                let live = Accept::Live { deleted_at: alive.deleted_at, at: alive.at };
                scan(self.rows, self.distance, query, live, 0, &mut near);
                self.rows.len()
            }
        };
        stats.visited += scanned as u64;
        stats.distances += scanned as u64;
        for neighbor in near.into_sorted() {
            top.push(self.in_segment(neighbor, alive.base));
        }
    }

    /// A neighbour by slot as one by row of the segment. Slots and rows have one order, so ties stay settled.
    pub fn in_segment(&self, neighbor: Neighbor, base: u32) -> Neighbor {
        let row = match self.map {
            Some(map) => map.get(neighbor.row as usize).copied().unwrap_or(u32::MAX),
            None => neighbor.row,
        };
        Neighbor { row: base.saturating_add(row), distance: neighbor.distance }
    }
}

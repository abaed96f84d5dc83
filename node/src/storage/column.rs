//! One vector name's values over a block of rows, wherever they lie (a chunk in memory, a mapped file).
//!
//! Values stand in **slots**, one after the other. Where every row of the block has the vector, slot = row; where some
//! lack it, an ascending table names the row of each slot. A slot of a sparse vector, or of one that is several, holds a list:
//! the values are then the rows of all lists, and a table tells where each list ends.

use std::sync::atomic::AtomicU64;

use flotilla_proto::record::Vector;
use flotilla_proto::schema::Form;

use super::row::StoredVector;
use super::shape::VectorShape;
use super::vectors;
use crate::index::{Accept, Bitset, Distance, Lists, Neighbor, Rows, Stats, TopK, scan};

/// The borrowed values of one vector.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column<'a> {
    /// The values, slot by slot.
    pub rows: Rows<'a>,
    /// Where each slot's rows end; `None` if a slot is a row.
    pub ends: Option<&'a [u32]>,
    /// What they are.
    pub shape: &'a VectorShape,
    /// How they compare.
    pub distance: Distance,
    /// The row of each slot, ascending; `None` if slot = row.
    pub map: Option<&'a [u32]>,
    /// What to scale each slot by to get what the user wrote; `None`: nothing was scaled.
    pub norms: Option<&'a [f32]>,
    /// The checksum of each slot; `None`: of memory, and of files that were written before there were any.
    pub sums: Option<&'a [u32]>,
}

/// The checksum of a slot: CRC-32 of its words and its norm.
pub(super) fn sum(words: &[f32], norm: f32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytemuck::cast_slice(words));
    hasher.update(&norm.to_bits().to_le_bytes());
    hasher.finalize()
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
        Some(StoredVector { ordinal, norm: column.norm(slot), values: column.words(slot).to_vec() })
    };
    (0..).zip(columns).filter_map(stored).collect()
}

impl<'a> Column<'a> {
    /// The slot of a row, if the row has the vector.
    pub fn slot(&self, row: u32) -> Option<u32> {
        match self.map {
            Some(map) => map.binary_search(&row).ok().and_then(|slot| u32::try_from(slot).ok()),
            None => ((row as usize) < self.len()).then_some(row),
        }
    }

    /// Slots.
    pub fn len(&self) -> usize {
        self.ends.map_or(self.rows.len(), <[u32]>::len)
    }

    /// The words of a slot.
    pub fn words(&self, slot: u32) -> &'a [f32] {
        match self.ends {
            Some(ends) => Lists::known(self.rows, ends).words(slot),
            None => self.rows.row(slot),
        }
    }

    /// The row's vector as the user wrote it.
    pub fn vector(&self, row: u32) -> Option<Vector> {
        let slot = self.slot(row)?;
        Some(vectors::unpack(&self.shape.spec, self.words(slot), self.norm(slot)))
    }

    /// Whether the row's vector is what was written. Whoever hands it out, or copies it, asks before; searches do not.
    pub fn is_sound(&self, row: u32) -> bool {
        let (Some(sums), Some(slot)) = (self.sums, self.slot(row)) else { return true };
        sums.get(slot as usize).is_some_and(|written| *written == sum(self.words(slot), self.norm(slot)))
    }

    /// What to scale a slot by to get what the user wrote.
    pub fn norm(&self, slot: u32) -> f32 {
        self.norms.and_then(|norms| norms.get(slot as usize)).copied().unwrap_or(1.0)
    }

    /// Offers every accepted row to `top`, as rows of the segment.
    pub fn scan(&self, query: &[f32], alive: &Alive<'_>, top: &mut TopK, stats: &mut Stats) {
        let mut near = TopK::new(top.k());
        if let Some(ends) = self.ends {
            self.scan_lists(Lists::known(self.rows, ends), query, alive, &mut near, stats);
            near.into_sorted().into_iter().for_each(|neighbor| {
                top.push(self.in_segment(neighbor, alive.base));
            });
            return;
        }
        let scanned = match (self.map, alive.rows) {
            (Some(map), _) => {
                let slots = alive.slots(map);
                scan(self.rows, self.distance, query, Accept::Bits(&slots), 0, &mut near)
            }
            (None, Some(rows)) => {
                // Rows of the segment already: straight into the answer.
                scan(self.rows, self.distance, query, Accept::Bits(rows), alive.base, top)
            }
            (None, None) => {
                let live = Accept::Live { deleted_at: alive.deleted_at, at: alive.at };
                scan(self.rows, self.distance, query, live, 0, &mut near)
            }
        };
        stats.visited += scanned;
        stats.distances += scanned;
        for neighbor in near.into_sorted() {
            top.push(self.in_segment(neighbor, alive.base));
        }
    }

    /// The row of the block that a slot belongs to.
    pub fn row_of(&self, slot: u32) -> u32 {
        self.map.map_or(slot, |map| map.get(slot as usize).copied().unwrap_or(u32::MAX))
    }

    fn scan_lists(
        &self,
        lists: Lists<'_>,
        query: &[f32],
        alive: &Alive<'_>,
        near: &mut TopK,
        stats: &mut Stats,
    ) {
        let (accepts, spec) = (|slot| alive.accepts(self.row_of(slot)), &self.shape.spec);
        match (spec.form, Rows::new(query, self.rows.dims())) {
            (Form::Multi(_), Ok(query)) => {
                let similarity = |distance| spec.distance.score(distance);
                let late = |slot| lists.late(slot, self.distance, query, similarity, stats);
                lists.scan(accepts, late, near);
            }
            _ => {
                let product = |slot| {
                    (stats.visited, stats.distances) = (stats.visited + 1, stats.distances + 1);
                    lists.product(slot, query)
                };
                lists.scan(accepts, product, near);
            }
        }
    }

    /// A neighbour by slot as one by row of the segment. Slots and rows have one order, so ties stay settled.
    pub fn in_segment(&self, neighbor: Neighbor, base: u32) -> Neighbor {
        Neighbor { row: base.saturating_add(self.row_of(neighbor.row)), distance: neighbor.distance }
    }
}

//! The sketches of some rows side by side, as those of what a vertex links to are.
//!
//! A filter that is asked for again and again has its rows' sketches gathered once: a scan of them is then one run of memory, and
//! takes a fraction of the time that scattered sketches take (2026-11, 8,901 of 100,000 x 384: see the bench results).

use super::super::distance::codes::Block;
use super::fan::{self, Fan};
use super::whole::Whole;
use super::{Codes, part};

/// See the module. With 384 dims it takes 64 bytes per row.
pub struct Packed {
    blocks: Whole,
    dims: usize,
    rows: usize,
}

impl Packed {
    /// Gathers the sketches of these rows; rows without one are left out.
    pub fn new(codes: &Codes, rows: impl Iterator<Item = u32>) -> Packed {
        let rows: Vec<u32> = rows.filter(|row| (*row as usize) < codes.len()).collect();
        let dims = codes.dims();
        let mut blocks = Whole::new(fan::blocks(rows.len()) * fan::block_words(dims) * 4);
        let sketches = codes.sketches();
        let sketch = |row: u32| part(sketches.bytes, row, sketches.stride);
        fan::lay(rows.iter().copied(), dims, sketch, blocks.bytes_mut());
        Packed { blocks, dims, rows: rows.len() }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        self.blocks.as_ref().len()
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        Fan::new(self.blocks.as_ref(), self.dims, fan::blocks(self.rows)).of(0)
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packed").field("rows", &self.rows).field("dims", &self.dims).finish_non_exhaustive()
    }
}

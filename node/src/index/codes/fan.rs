//! What a vertex of a graph links to, with the sketches of those rows.
//!
//! ```text
//! block of 32 links   ceil(dims / 8) pairs of groups of 4 values, 32 bytes each (see the kernel)
//!                     add      32 x f32   what a row adds to each of its distances
//!                     scale    32 x f32   what a sum of signs is multiplied with to be a product
//!                     error    32 x f32   how far that is off, for a query of length one
//!                     links    32 x u32   ended by NONE
//! ```
//!
//! With 384 dims and 32 links a vertex is 2,048 bytes.

use super::super::distance::codes::{Block, SLOTS};
use super::super::distance::prefetch::prefetch;
use super::sketch;

/// The end of a vertex's links.
const NONE: u32 = u32::MAX;
/// Cache lines of a vertex that are asked for ahead; the processor follows from there.
const LINES_AHEAD: usize = 32;

/// Words of a block.
pub fn block_words(dims: usize) -> usize {
    dims.div_ceil(8) * SLOTS / 4 + 4 * SLOTS
}

/// Blocks of so many rows.
pub fn blocks(rows: usize) -> usize {
    rows.div_ceil(SLOTS)
}

/// Writes blocks of these rows; `sketch` gives the bytes of a row's sketch, none for one that does not exist.
pub fn lay<'s>(
    rows: impl Iterator<Item = u32>,
    dims: usize,
    sketch: impl Fn(u32) -> &'s [u8],
    to: &mut [u8],
) {
    let mut links = rows.filter(|link| !sketch(*link).is_empty());
    for block in to.chunks_exact_mut(block_words(dims) * 4) {
        let links: [u32; SLOTS] = std::array::from_fn(|_| links.next().unwrap_or(NONE));
        lay_block(&links, dims, &sketch, block);
    }
}

/// The fans of all vertices of a graph.
#[derive(Clone, Copy, Debug)]
pub struct Fan<'a> {
    bytes: &'a [u8],
    /// Pairs of groups of a sketch.
    pairs: usize,
    /// Bytes of a block, and of a vertex.
    block: usize,
    stride: usize,
}

impl<'a> Fan<'a> {
    /// Over the fans' bytes.
    #[inline]
    pub fn new(bytes: &'a [u8], dims: usize, blocks: usize) -> Fan<'a> {
        let block = block_words(dims) * 4;
        Fan { bytes, pairs: dims.div_ceil(8), block, stride: block * blocks }
    }

    #[inline]
    fn run(&self, vertex: u32) -> &'a [u8] {
        let start = vertex as usize * self.stride;
        self.bytes.get(start..start + self.stride).unwrap_or_default()
    }

    /// The blocks of a vertex.
    #[inline]
    pub fn of(&self, vertex: u32) -> impl Iterator<Item = Block<'a>> + use<'a> {
        let pairs = self.pairs;
        self.run(vertex).chunks_exact(self.block).filter_map(move |bytes| {
            let (sketches, rest) = bytes.split_at(pairs * SLOTS);
            // Fails only for bytes that do not start on a word.
            let rest: &[u32] = bytemuck::try_cast_slice(rest).ok()?;
            let [add, scale, error, links] = rest.as_chunks::<SLOTS>().0 else { return None };
            Some(Block {
                sketches: sketches.as_chunks().0,
                add: bytemuck::cast_ref(add),
                scale: bytemuck::cast_ref(scale),
                error: bytemuck::cast_ref(error),
                links,
            })
        })
    }

    /// Asks for the memory of a vertex.
    #[inline]
    pub fn prefetch(&self, vertex: u32) {
        prefetch(self.run(vertex), LINES_AHEAD);
    }
}

fn lay_block<'s>(links: &[u32; SLOTS], dims: usize, sketch: &impl Fn(u32) -> &'s [u8], to: &mut [u8]) {
    let none: &[u8] = &[];
    let sketches = links.map(|row| sketch::read(if row == NONE { none } else { sketch(row) }, dims));
    let sign = |slot: usize, at: usize| sketches[slot].bits.get(at).copied().unwrap_or_default();
    let (pairs, rest) = to.split_at_mut(dims.div_ceil(8) * SLOTS);
    for (at, pair) in pairs.as_chunks_mut::<SLOTS>().0.iter_mut().enumerate() {
        for slot in 0..SLOTS / 2 {
            let (first, second) = (sign(slot, at), sign(slot + SLOTS / 2, at));
            pair[slot] = first & 15 | second << 4;
            pair[slot + SLOTS / 2] = first >> 4 | second & 0xf0;
        }
    }
    let words = |of: fn(&sketch::Sketch<'_>) -> f32| sketches.each_ref().map(|sketch| of(sketch).to_bits());
    let factors = [
        words(|sketch| sketch.factors.add),
        words(|sketch| sketch.factors.scale),
        words(|sketch| sketch.factors.error),
        *links,
    ];
    let words = factors.iter().flatten();
    rest.as_chunks_mut::<4>().0.iter_mut().zip(words).for_each(|(to, word)| *to = word.to_le_bytes());
}

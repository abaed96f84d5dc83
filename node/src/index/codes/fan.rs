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

use super::super::Graph;
use super::super::distance::codes::{Block, Pair, SLOTS};
use super::super::distance::prefetch::prefetch;

/// The end of a vertex's links.
const NONE: u32 = u32::MAX;
/// Cache lines of a vertex that are asked for ahead; the processor follows from there.
const LINES_AHEAD: usize = 32;

/// The sketches of rows one by one, before they stand beside links.
#[derive(Debug)]
pub struct Sketches {
    /// Bytes of a row: each holds two groups of four values.
    width: usize,
    signs: Vec<u8>,
    factors: Vec<[f32; 3]>,
}

impl Sketches {
    /// Room for `rows` sketches.
    pub fn new(dims: usize, rows: usize) -> Sketches {
        let width = dims.div_ceil(8);
        Sketches { width, signs: Vec::with_capacity(rows * width), factors: Vec::with_capacity(rows) }
    }

    /// The sketch of a centred and rotated row of this length, which adds this to its distances.
    pub fn push(&mut self, row: &[f32], length: f32, add: f32) {
        let signs = row.chunks(8).map(|eight| {
            eight.iter().enumerate().fold(0u8, |byte, (at, value)| byte | u8::from(*value > 0.0) << at)
        });
        self.signs.extend(signs);
        let dims = row.len() as f32;
        // The product of the row's direction and of its signs' direction.
        let alike = row.iter().map(|value| value.abs()).sum::<f32>() / (length * dims.sqrt());
        self.factors.push(if alike > 0.0 && alike.is_finite() {
            let error = ((1.0 - alike * alike).max(0.0) / (alike * alike * (dims - 1.0).max(1.0))).sqrt();
            [add, length / (alike * dims.sqrt()), length * error]
        } else {
            [add, 0.0, 0.0]
        });
    }
}

/// Words of a block.
pub fn block_words(dims: usize) -> usize {
    dims.div_ceil(8) * SLOTS / 4 + 4 * SLOTS
}

/// Blocks of each vertex of a graph.
pub fn blocks(graph: &Graph) -> usize {
    graph.links_max().div_ceil(SLOTS)
}

/// Hands over the fan of a vertex, part by part.
pub fn lay(graph: &Graph, vertex: u32, sketches: &Sketches, blocks: usize, mut put: impl FnMut(&[u8])) {
    let mut links: Vec<u32> =
        graph.links(vertex).filter(|link| (*link as usize) < sketches.factors.len()).collect();
    links.resize(blocks * SLOTS, NONE);
    links.as_chunks::<SLOTS>().0.iter().for_each(|block| lay_block(block, sketches, &mut put));
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

fn lay_block(links: &[u32; SLOTS], sketches: &Sketches, put: &mut impl FnMut(&[u8])) {
    let sign = |slot: usize, at: usize| -> u8 {
        match links[slot] {
            NONE => 0,
            row => sketches.signs.get(row as usize * sketches.width + at).copied().unwrap_or_default(),
        }
    };
    for at in 0..sketches.width {
        let mut pair: Pair = [0; SLOTS];
        for slot in 0..SLOTS / 2 {
            let (first, second) = (sign(slot, at), sign(slot + SLOTS / 2, at));
            pair[slot] = first & 15 | second << 4;
            pair[slot + SLOTS / 2] = first >> 4 | second & 0xf0;
        }
        put(&pair);
    }
    for factor in 0..3 {
        for row in links {
            let factors = sketches.factors.get(*row as usize);
            put(&factors.map_or(f32::INFINITY, |factors| factors[factor]).to_le_bytes());
        }
    }
    links.iter().for_each(|row| put(&row.to_le_bytes()));
}

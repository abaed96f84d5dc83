//! Short codes of vectors: what a search looks at first, so that it reads few whole vectors.
//!
//! Each row is taken from the block's centre and rotated ([`Rotation`]), and kept as one **byte** per value; and as a **sketch** of
//! one bit per value, wherever a graph links to it. From both follows an estimate of the product of the centred query and the
//! centred row, and from that of every [`Distance`]:
//!
//! * bytes: values are rounded to 1/127 of the row's greatest one; the error is that of rounding, far below the differences that
//!   decide about neighbours;
//! * sketches: the signs of the values, as RaBitQ has them (Gao & Long, SIGMOD 2024). The estimate is unbiased over rotations,
//!   and its error is below a bound, known for each row, with a probability that `CAUTION` sets.
//!
//! The sketches of all rows that a vertex links to stand side by side, together with the links ([`fan`]), as in SymphonyQG (Gou,
//! Gao, Xu & Long, SIGMOD 2025): what a walk reads of a vertex is one run of memory, and one pass of a kernel says which links
//! can be near enough at all. Only their bytes are read then.
//!
//! ```text
//! 64 bytes   magic (8), version u32, dims u32, rows u64, seed u64, distance u32, blocks of a vertex u32, zeros, CRC-32
//! centre     dims x f32, padded with zeros to a multiple of 64 bytes
//! rows       for each: a byte per value, padded with zeros to a multiple of 32; what the row adds to each of its distances, and
//!            what a byte's unit stands for, f32 each; all of them padded to a multiple of 64
//! fans       see [`fan`]
//! ```
//!
//! Numbers are little endian, and a machine of the other kind searches without codes. Opening checks the header alone, so that it
//! costs nothing; what lies behind it is checked as whole files are. Damage there misleads a search, no more.

pub mod fan;
mod question;

use self::fan::{Fan, Sketches};
pub use self::question::Question;
use super::distance::codes::Block;
use super::distance::prefetch::prefetch;
use super::rotation::Rotation;
use super::{Backing, Cancelled, Damage, Distance, Graph, Progress, Rows};

const MAGIC: [u8; 8] = *b"FLCODES\n";
const VERSION: u32 = 1;
const HEADER: usize = 64;
/// Bytes of what stands behind a row's bytes.
const FACTORS: usize = 8;

/// The codes of a block of rows.
pub struct Codes {
    bytes: Backing,
    head: Head,
    centre: Vec<f32>,
    rotation: Rotation,
}

/// What everything else follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    dims: usize,
    len: usize,
    seed: u64,
    distance: Distance,
    /// Blocks of a vertex.
    blocks: usize,
}

/// A row's code: its bytes, and what they stand for.
#[derive(Clone, Copy, Debug)]
struct Row<'a> {
    bytes: &'a [i8],
    /// What the row adds to each of its distances.
    add: f32,
    /// What a byte's unit stands for.
    unit: f32,
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    -Distance::Dot.between(a, b)
}

impl Head {
    fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let distance = match self.distance {
            Distance::Dot => 0u32,
            Distance::Cosine => 1,
            Distance::Euclidean => 2,
        };
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.dims as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&(self.len as u64).to_le_bytes());
        bytes[24..32].copy_from_slice(&self.seed.to_le_bytes());
        bytes[32..36].copy_from_slice(&distance.to_le_bytes());
        bytes[36..40].copy_from_slice(&(self.blocks as u32).to_le_bytes());
        let crc = crc32fast::hash(&bytes[..HEADER - 4]);
        bytes[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Head, Damage> {
        let header = bytes.first_chunk::<HEADER>().ok_or(Damage::Foreign)?;
        let words: [u32; HEADER / 4] = std::array::from_fn(|at| {
            header.as_chunks::<4>().0.get(at).map_or(0, |word| u32::from_le_bytes(*word))
        });
        if header[..8] != MAGIC {
            return Err(Damage::Foreign);
        }
        if words[2] != VERSION {
            return Err(Damage::Version(words[2]));
        }
        let distance = match words[8] {
            0 => Distance::Dot,
            1 => Distance::Cosine,
            2 => Distance::Euclidean,
            _ => return Err(Damage::Header),
        };
        let long = |at: usize| u64::from(words[at]) | u64::from(words[at + 1]) << 32;
        let (dims, blocks, len) = (words[3] as usize, words[9] as usize, long(4));
        let is_sound = (1..=1 << 16).contains(&dims) && blocks <= 8 && len <= super::MAX_ROWS as u64;
        if crc32fast::hash(&header[..HEADER - 4]) != words[15] || !is_sound {
            return Err(Damage::Header);
        }
        Ok(Head { dims, len: len as usize, seed: long(6), distance, blocks })
    }

    /// Bytes of a row's code.
    fn width(self) -> usize {
        self.dims.next_multiple_of(32)
    }

    fn rows_at(self) -> usize {
        HEADER + (self.dims * 4).next_multiple_of(64)
    }

    fn fans_at(self) -> usize {
        self.rows_at() + (self.len * (self.width() + FACTORS)).next_multiple_of(64)
    }

    /// Bytes of the whole; cannot overflow, because dims, rows and blocks are bounded.
    fn bytes(self) -> u64 {
        self.fans_at() as u64 + self.len as u64 * (fan::block_words(self.dims) * 4 * self.blocks) as u64
    }
}

impl Codes {
    /// The codes of `rows`, and of what `graph` links to.
    ///
    /// # Errors
    /// [`Cancelled`] if `progress` was cancelled before the end.
    pub fn build(
        rows: Rows<'_>,
        distance: Distance,
        graph: &Graph,
        seed: u64,
        progress: &Progress,
    ) -> Result<Codes, Cancelled> {
        let (dims, len) = (rows.dims(), rows.len());
        let (centre, rotation) = (centre(rows), Rotation::new(dims, seed));
        let head = Head { dims, len, seed, distance, blocks: fan::blocks(graph) };
        let mut bytes = Whole::with_capacity(head.bytes() as usize);
        bytes.push(&head.encode());
        centre.iter().for_each(|value| bytes.push(&value.to_le_bytes()));
        bytes.pad(head.rows_at());
        let mut sketches = Sketches::new(dims, len);
        let (mut offset, mut code) = (vec![0.0; dims], vec![0u8; head.width()]);
        for row in 0..len as u32 {
            let whole = rows.row(row);
            offset.iter_mut().zip(whole.iter().zip(&centre)).for_each(|(o, (x, c))| *o = x - c);
            let length2 = dot(&offset, &offset);
            let add = match distance {
                Distance::Euclidean => length2,
                Distance::Cosine | Distance::Dot => -dot(whole, &centre),
            };
            rotation.apply(&mut offset);
            sketches.push(&offset, length2.sqrt(), add);
            let unit = unit(&offset);
            let scale = if unit > 0.0 { unit.recip() } else { 0.0 };
            code.iter_mut().zip(&offset).for_each(|(to, value)| *to = nearest(value * scale) as u8);
            bytes.push(&code);
            bytes.push(&add.to_le_bytes());
            bytes.push(&unit.to_le_bytes());
            progress.advance(0)?;
        }
        bytes.pad(head.fans_at());
        for vertex in 0..len as u32 {
            fan::lay(graph, vertex, &sketches, head.blocks, |part| bytes.push(part));
            progress.advance(0)?;
        }
        Ok(Codes { bytes: std::sync::Arc::new(bytes), head, centre, rotation })
    }

    /// Opens codes over bytes, in place if they start on a 4-byte boundary, else as a copy; `rows` is how many there must be.
    ///
    /// # Errors
    /// [`Damage`] if the bytes are not codes, or of other rows.
    pub fn open(backing: Backing, rows: usize) -> Result<Codes, Damage> {
        let bytes = (*backing).as_ref();
        let head = Head::decode(bytes)?;
        if head.len != rows {
            return Err(Damage::Header);
        }
        if head.bytes() != bytes.len() as u64 {
            return Err(Damage::Length { expected: head.bytes(), actual: bytes.len() as u64 });
        }
        let centre = bytes[HEADER..HEADER + head.dims * 4].as_chunks::<4>().0;
        let centre = centre.iter().map(|value| f32::from_le_bytes(*value)).collect();
        let is_aligned = bytemuck::try_cast_slice::<u8, u32>(&bytes[..HEADER]).is_ok();
        let bytes = if is_aligned {
            backing
        } else {
            let mut copy = Whole::with_capacity(bytes.len());
            copy.push(bytes);
            std::sync::Arc::new(copy)
        };
        Ok(Codes { head, centre, rotation: Rotation::new(head.dims, head.seed), bytes })
    }

    /// Values of a row.
    pub fn dims(&self) -> usize {
        self.head.dims
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.head.len
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.head.len == 0
    }

    /// The codes as bytes that [`Codes::open`] takes back.
    pub fn bytes(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    /// A query ready to be compared.
    pub fn ask(&self, query: &[f32]) -> Question<'_> {
        Question::new(self, query)
    }

    #[inline]
    fn whole(&self, row: u32) -> &[u8] {
        let stride = self.head.width() + FACTORS;
        let start = self.head.rows_at() + row as usize * stride;
        self.bytes().get(start..start + stride).unwrap_or_default()
    }

    /// A row's code; one that does not exist is far from everything.
    #[inline]
    fn row(&self, row: u32) -> Row<'_> {
        match self.whole(row).split_last_chunk::<FACTORS>() {
            Some((bytes, [a, b, c, d, e, f, g, h])) => Row {
                bytes: bytemuck::cast_slice(bytes),
                add: f32::from_le_bytes([*a, *b, *c, *d]),
                unit: f32::from_le_bytes([*e, *f, *g, *h]),
            },
            None => Row { bytes: &[], add: f32::INFINITY, unit: 0.0 },
        }
    }

    /// Asks for a row's code.
    #[inline]
    pub(super) fn prefetch(&self, row: u32) {
        prefetch(self.whole(row), 7);
    }

    fn fans(&self) -> Fan<'_> {
        Fan::new(
            self.bytes().get(self.head.fans_at()..).unwrap_or_default(),
            self.head.dims,
            self.head.blocks,
        )
    }

    /// What a vertex links to, with sketches.
    #[inline]
    pub(super) fn fan(&self, vertex: u32) -> impl Iterator<Item = Block<'_>> {
        self.fans().of(vertex)
    }

    /// Asks for a vertex's fan.
    #[inline]
    pub(super) fn prefetch_fan(&self, vertex: u32) {
        self.fans().prefetch(vertex);
    }
}

impl std::fmt::Debug for Codes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codes").field("head", &self.head).finish_non_exhaustive()
    }
}

/// Bytes that start on a cache line.
struct Whole {
    words: Vec<u64>,
    /// Where the first byte stands.
    start: usize,
    len: usize,
}

impl Whole {
    const LINE: usize = 64;

    fn with_capacity(bytes: usize) -> Whole {
        let words = vec![0u64; bytes.div_ceil(8) + Whole::LINE / 8];
        let start = words.as_ptr().align_offset(Whole::LINE).min(Whole::LINE / 8) * 8;
        Whole { words, start, len: 0 }
    }

    /// Adds bytes; what is beyond the capacity is dropped.
    fn push(&mut self, bytes: &[u8]) {
        let at = self.start + self.len;
        let all: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words);
        if let Some(place) = all.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self.len += bytes.len();
    }

    fn pad(&mut self, len: usize) {
        self.len = len;
    }
}

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        let all: &[u8] = bytemuck::cast_slice(&self.words);
        all.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

/// The mean of the rows, as far as they are numbers.
fn centre(rows: Rows<'_>) -> Vec<f32> {
    let mut sums = vec![0.0f64; rows.dims()];
    for row in rows.data().chunks_exact(rows.dims()) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += if value.is_finite() { f64::from(*value) } else { 0.0 };
        }
    }
    let count = rows.len().max(1) as f64;
    sums.into_iter().map(|sum| (sum / count) as f32).collect()
}

/// What a byte's unit stands for in these values: the greatest is 127. 0 if there is nothing to tell apart.
fn unit(values: &[f32]) -> f32 {
    let most = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    if most > 0.0 && most.is_finite() { most / 127.0 } else { 0.0 }
}

/// Added to a small number, leaves the integer next to it in the lowest bits: quicker than a cast, which has to look for what does
/// not fit.
const ROUNDING: f32 = (3 << 22) as f32;

/// The byte next to a value from -127 to 127.
#[inline]
fn nearest(value: f32) -> i8 {
    ((value + ROUNDING).to_bits() as i32 - ROUNDING.to_bits() as i32).clamp(-127, 127) as i8
}

//! Short codes of vectors: what a search looks at first, so that it reads few whole vectors.
//!
//! Each row is taken from the block's centre and rotated ([`Rotation`]), and kept as one **byte** per value, and as a **sketch** of
//! one bit per value, by itself and wherever a graph links to it; or as one byte per **group** of eight values. From each follows an
//! estimate of the product of the centred query and the centred row, and from that of every [`Distance`]:
//!
//! * bytes: values are rounded to 1/127 of the row's greatest one; the error is that of rounding, far below the differences that
//!   decide about neighbours;
//! * sketches: the signs of the values, as RaBitQ has them (Gao & Long, SIGMOD 2024). The estimate is unbiased over rotations,
//!   and its error is below a bound, known for each row, with a probability that the bound's factor sets;
//! * groups: each is told by the nearest of 256 centroids that were learnt from the rows, as product quantization has them (Jégou,
//!   Douze & Schmid, TPAMI 2011; see [`books`]). As small as sketches, and nearer to the rows.
//!
//! **A walk** reads the sketches of all rows that a vertex links to side by side, together with the links ([`fan`]), as in SymphonyQG
//! (Gou, Gao, Xu & Long, SIGMOD 2025): what it reads of a vertex is one run of memory, and one pass of a kernel says which links
//! can be near enough at all. Only their bytes are read then. **A scan** of scattered rows reads each one's own sketch ([`scan`]).
//! By groups, a walk and a scan alike look up what each byte of a row counts in tables of the query ([`tables`]).
//! **A build** of a graph measures by bytes ([`between`]), so the codes of the rows come first and those beside links last.
//!
//! What is kept is a [`Kind`]'s choice: `Scalar` has bytes and both sketches, `Binary` only each row's own sketch, in a tenth of the
//! memory, `Product` only bytes of groups, in less still.
//!
//! ```text
//! 64 bytes   magic (8), version u32, dims u32, rows u64, seed u64, distance u32, blocks of a vertex u32, kind u32, zeros, CRC-32
//! centre     dims x f32, padded with zeros to a multiple of 64 bytes
//! books      for each group, see [`books`]
//! rows       for each: a byte per value, padded with zeros to a multiple of 32, or a byte per group; what the row adds to each of
//!            its distances, and what a byte's unit or a centroid's stands for, f32 each; all of them padded to a multiple of 64
//! sketches   for each row, see [`sketch`]; all of them padded to a multiple of 64
//! fans       for each row, see [`fan`]
//! ```
//!
//! Numbers are little endian, and a machine of the other kind searches without codes. Opening checks the header alone, so that it
//! costs nothing; what lies behind it is checked as whole files are. Damage there misleads a search, no more.

pub mod between;
pub mod books;
pub mod fan;
mod glance;
pub mod packed;
mod question;
pub mod scan;
pub mod sketch;
pub mod tables;
#[cfg(test)]
mod tests;
mod whole;

use std::ops::Range;
use std::sync::Arc;

use self::between::Between;
use self::books::Books;
use self::fan::Fan;
pub use self::glance::Glance;
pub use self::question::Question;
pub use self::tables::Tables;
use self::whole::Whole;
use super::distance::codes::{Block, Strided};
use super::distance::prefetch::prefetch;
use super::distance::tables::Eight;
use super::rotation::Rotation;
use super::{Backing, Cancelled, Damage, Distance, Graph, Progress, Rows};

const MAGIC: [u8; 8] = *b"FLCODES\n";
/// Version 1 had no sketches of rows by themselves.
const VERSION: u32 = 2;
const HEADER: usize = 64;
const LINE: usize = 64;
/// Bytes of what stands behind a row's bytes.
const FACTORS: usize = 8;

/// Which codes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes, sketches, and sketches beside links.
    Scalar,
    /// Sketches.
    Binary,
    /// A byte per group of values, and the books of what it says.
    Product,
}

/// The codes of a block of rows.
pub struct Codes {
    held: Held,
    head: Head,
    places: Places,
    centre: Vec<f32>,
    rotation: Rotation,
}

/// Where the bytes are.
enum Held {
    Built(Arc<Whole>),
    Opened(Backing),
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
    kind: Kind,
}

/// Where the parts begin, and how long each row's share of them is.
#[derive(Clone, Copy, Debug)]
struct Places {
    books: usize,
    rows: usize,
    row: usize,
    sketches: usize,
    sketch: usize,
    fans: usize,
    end: usize,
}

/// A row's code: its bytes, of values or of groups, and what they stand for.
#[derive(Clone, Copy, Debug)]
struct Row<'a> {
    bytes: &'a [i8],
    /// What the row adds to each of its distances.
    add: f32,
    /// What a byte's unit stands for, or a product with the groups' centroids.
    unit: f32,
}

/// A query or a row from the centre, rotated.
struct Offset {
    values: Vec<f32>,
    length: f32,
    /// What every distance begins with.
    base: f32,
    /// What a product counts.
    weight: f32,
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
            // There are no codes for these; no reader takes such a header.
            _ => u32::MAX,
        };
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.dims as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&(self.len as u64).to_le_bytes());
        bytes[24..32].copy_from_slice(&self.seed.to_le_bytes());
        bytes[32..36].copy_from_slice(&distance.to_le_bytes());
        bytes[36..40].copy_from_slice(&(self.blocks as u32).to_le_bytes());
        let kind = match self.kind {
            Kind::Scalar => 0u32,
            Kind::Binary => 1,
            Kind::Product => 2,
        };
        bytes[40..44].copy_from_slice(&kind.to_le_bytes());
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
        let kind = match words[10] {
            0 => Kind::Scalar,
            1 => Kind::Binary,
            2 => Kind::Product,
            _ => return Err(Damage::Header),
        };
        let long = |at: usize| u64::from(words[at]) | u64::from(words[at + 1]) << 32;
        let (dims, blocks, len) = (words[3] as usize, words[9] as usize, long(4));
        let is_sound = (1..=1 << 16).contains(&dims) && blocks <= 8 && len <= super::MAX_ROWS as u64;
        if crc32fast::hash(&header[..HEADER - 4]) != words[15] || !is_sound {
            return Err(Damage::Header);
        }
        Ok(Head { dims, len: len as usize, seed: long(6), distance, blocks, kind })
    }

    /// Bytes of a row's code, without what stands behind them.
    fn width(self) -> usize {
        match self.kind {
            Kind::Scalar => self.dims.next_multiple_of(32),
            Kind::Binary => 0,
            Kind::Product => books::groups(self.dims),
        }
    }

    /// Cannot overflow, because dims, rows and blocks are bounded.
    fn places(self) -> Places {
        let (row, sketch, book) = match self.kind {
            Kind::Scalar => (self.width() + FACTORS, sketch::len(self.dims), 0),
            Kind::Binary => (0, sketch::len(self.dims), 0),
            Kind::Product => (self.width() + FACTORS, 0, books::len(self.dims, self.len)),
        };
        let books = HEADER + (self.dims * 4).next_multiple_of(LINE);
        let rows = books + book.next_multiple_of(LINE);
        let sketches = rows + (self.len * row).next_multiple_of(LINE);
        let fans = sketches + (self.len * sketch).next_multiple_of(LINE);
        let end = fans + self.len * fan::block_words(self.dims) * 4 * self.blocks;
        Places { books, rows, row, sketches, sketch, fans, end }
    }
}

impl Codes {
    /// The codes of `rows`, for a graph whose vertices link to at most `links` others at layer 0; those beside links are not there
    /// before [`Codes::link`].
    ///
    /// # Errors
    /// [`Cancelled`] if `progress` was cancelled before the end.
    pub fn build(
        rows: Rows<'_>,
        distance: Distance,
        kind: Kind,
        links: usize,
        seed: u64,
        threads: usize,
        progress: &Progress,
    ) -> Result<Codes, Cancelled> {
        let (dims, len) = (rows.dims(), rows.len());
        let blocks = match kind {
            Kind::Scalar => fan::blocks(links),
            Kind::Binary | Kind::Product => 0,
        };
        let head = Head { dims, len, seed, distance, blocks, kind };
        let (places, centre, rotation) = (head.places(), centre(rows), Rotation::new(dims, seed));
        let mut whole = Whole::new(places.end);
        whole.part_mut(0..HEADER).copy_from_slice(&head.encode());
        let values = whole.part_mut(HEADER..HEADER + dims * 4).chunks_exact_mut(4);
        values.zip(&centre).for_each(|(to, value)| to.copy_from_slice(&value.to_le_bytes()));
        let offset = |row: u32| Offset::new(rows.row(row), &centre, &rotation, distance);
        let books = match kind {
            Kind::Product => Some(Books::train(dims, len, offset, seed, threads, progress)?),
            Kind::Scalar | Kind::Binary => None,
        };
        let trained = books.as_ref().map_or(&[][..], Books::bytes);
        whole.part_mut(places.books..places.books + trained.len()).copy_from_slice(trained);
        let (bytes, sketches) =
            whole.part_mut(places.rows..places.fans).split_at_mut(places.sketches - places.rows);
        let code = |row: u32, code: &mut [u8], sketch: &mut [u8]| {
            let offset = offset(row);
            let add = match distance {
                Distance::Euclidean => offset.length * offset.length,
                _ => -dot(rows.row(row), &centre),
            };
            sketch::write(&offset.values, offset.length, add, sketch);
            match &books {
                Some(books) => books.write(&offset, add, code),
                None => write_bytes(&offset.values, add, code),
            }
        };
        in_parallel(len, threads, (bytes, places.row), (sketches, places.sketch), progress, code)?;
        Ok(Codes { held: Held::Built(Arc::new(whole)), head, places, centre, rotation })
    }

    /// Lays the sketches of what each vertex of the graph links to beside the links.
    ///
    /// # Errors
    /// [`Cancelled`] if `progress` was cancelled before the end.
    pub fn link(mut self, graph: &Graph, threads: usize, progress: &Progress) -> Result<Codes, Cancelled> {
        let Held::Built(mut whole) = self.held else { return Ok(self) };
        let Some(own) = Arc::get_mut(&mut whole) else {
            return Ok(Codes { held: Held::Built(whole), ..self });
        };
        let (coded, fans) = own.bytes_mut().split_at_mut(self.places.fans);
        let sketches = &coded[self.places.sketches..];
        let (dims, stride) = (self.head.dims, fan::block_words(self.head.dims) * 4 * self.head.blocks);
        let sketch = |row: u32| part(sketches, row, self.places.sketch);
        let lay = |vertex: u32, to: &mut [u8], _: &mut [u8]| fan::lay(graph.links(vertex), dims, sketch, to);
        in_parallel(self.head.len, threads, (fans, stride), (&mut [], 0), progress, lay)?;
        self.held = Held::Built(whole);
        Ok(self)
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
        let places = head.places();
        if places.end != bytes.len() {
            return Err(Damage::Length { expected: places.end as u64, actual: bytes.len() as u64 });
        }
        let centre = bytes[HEADER..HEADER + head.dims * 4].as_chunks::<4>().0;
        let centre = centre.iter().map(|value| f32::from_le_bytes(*value)).collect();
        let is_aligned = bytemuck::try_cast_slice::<u8, u32>(&bytes[..HEADER]).is_ok();
        let held = if is_aligned {
            Held::Opened(backing)
        } else {
            let mut copy = Whole::new(bytes.len());
            copy.bytes_mut().copy_from_slice(bytes);
            Held::Built(Arc::new(copy))
        };
        Ok(Codes { held, head, places, centre, rotation: Rotation::new(head.dims, head.seed) })
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

    /// Which codes there are.
    pub fn kind(&self) -> Kind {
        self.head.kind
    }

    /// The codes as bytes that [`Codes::open`] takes back.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.held {
            Held::Built(whole) => (**whole).as_ref(),
            Held::Opened(backing) => (**backing).as_ref(),
        }
    }

    /// A query ready to be compared with bytes, and with sketches beside links.
    pub fn ask(&self, query: &[f32]) -> Question<'_> {
        Question::new(self, &self.offset(query))
    }

    /// A query ready to be compared with sketches.
    pub fn glance(&self, query: &[f32]) -> Glance<'_> {
        Glance::new(self, &self.offset(query))
    }

    /// A query ready to be compared with bytes of groups.
    pub fn tables(&self, query: &[f32]) -> Tables<'_> {
        Tables::new(self, &self.offset(query))
    }

    /// A row ready to be compared with others by bytes.
    pub fn between(&self, row: u32) -> Between<'_> {
        Between::new(self, row)
    }

    fn offset(&self, query: &[f32]) -> Offset {
        Offset::new(query, &self.centre, &self.rotation, self.head.distance)
    }

    #[inline]
    fn share(&self, at: usize, row: u32, len: usize) -> &[u8] {
        let start = at + row as usize * len;
        self.bytes().get(start..start + len).unwrap_or_default()
    }

    /// A row's code; one that does not exist is far from everything.
    #[inline]
    fn row(&self, row: u32) -> Row<'_> {
        let exists = (row as usize) < self.head.len;
        Row::read(if exists { self.share(self.places.rows, row, self.places.row) } else { &[] })
    }

    /// The book of each group.
    fn books(&self) -> impl Iterator<Item = &[Eight]> {
        let bytes = self.bytes().get(self.places.books..self.places.rows).unwrap_or_default();
        books::read(bytes, books::eights(self.head.len))
    }

    /// Asks for a row's code.
    #[inline]
    pub(super) fn prefetch(&self, row: u32) {
        prefetch(self.share(self.places.rows, row, self.places.row), 7);
    }

    /// All rows' sketches.
    #[inline]
    fn sketches(&self) -> Strided<'_> {
        let bytes = self.bytes().get(self.places.sketches..self.places.fans).unwrap_or_default();
        Strided { bytes, stride: self.places.sketch }
    }

    /// Asks for a row's sketch.
    #[inline]
    pub(super) fn prefetch_sketch(&self, row: u32) {
        prefetch(self.share(self.places.sketches, row, self.places.sketch), 4);
    }

    #[inline]
    fn fans(&self) -> Fan<'_> {
        Fan::new(self.bytes().get(self.places.fans..).unwrap_or_default(), self.head.dims, self.head.blocks)
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

impl Row<'_> {
    /// A row's code where it lies; one that is not there is far from everything.
    #[inline]
    fn read(bytes: &[u8]) -> Row<'_> {
        match bytes.split_last_chunk::<FACTORS>() {
            Some((bytes, [a, b, c, d, e, f, g, h])) => Row {
                bytes: bytemuck::cast_slice(bytes),
                add: f32::from_le_bytes([*a, *b, *c, *d]),
                unit: f32::from_le_bytes([*e, *f, *g, *h]),
            },
            _ => Row { bytes: &[], add: f32::INFINITY, unit: 0.0 },
        }
    }
}

impl Offset {
    fn new(vector: &[f32], centre: &[f32], rotation: &Rotation, distance: Distance) -> Offset {
        let mut values: Vec<f32> = vector.iter().zip(centre).map(|(value, mean)| value - mean).collect();
        values.resize(centre.len(), 0.0);
        let length2 = dot(&values, &values);
        let (base, weight) = match distance {
            Distance::Euclidean => (length2, -2.0),
            Distance::Cosine => (1.0 - dot(&values, centre), -1.0),
            _ => (-dot(&values, centre), -1.0),
        };
        rotation.apply(&mut values);
        Offset { values, length: length2.sqrt(), base, weight }
    }

    /// The values, if the length were one; zeros where it cannot be.
    fn direction(&self) -> Vec<f32> {
        let scale = self.length.recip();
        let is_sound = self.length.is_finite() && scale.is_finite();
        self.values.iter().map(|value| if is_sound { value * scale } else { 0.0 }).collect()
    }
}

/// A row's share of a section.
#[inline]
fn part(section: &[u8], row: u32, len: usize) -> &[u8] {
    let start = row as usize * len;
    section.get(start..start + len).unwrap_or_default()
}

/// Does `work` for each of `len` rows, with its shares of two sections, in up to so many threads: each takes a run of the rows.
fn in_parallel(
    len: usize,
    threads: usize,
    (mut first, first_len): (&mut [u8], usize),
    (mut second, second_len): (&mut [u8], usize),
    progress: &Progress,
    work: impl Fn(u32, &mut [u8], &mut [u8]) + Sync,
) -> Result<(), Cancelled> {
    let run = len.div_ceil(threads.max(1)).max(1);
    let do_run = |rows: Range<usize>, first: &mut [u8], second: &mut [u8]| -> Result<(), Cancelled> {
        for (at, row) in rows.enumerate() {
            let one = first.get_mut(at * first_len..(at + 1) * first_len).unwrap_or_default();
            let other = second.get_mut(at * second_len..(at + 1) * second_len).unwrap_or_default();
            work(row as u32, one, other);
            progress.advance(0)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let mut others = Vec::new();
        let mut start = 0;
        while start < len {
            let rows = start..(start + run).min(len);
            let (one, rest) = first.split_at_mut((rows.len() * first_len).min(first.len()));
            let (other, second_rest) = second.split_at_mut((rows.len() * second_len).min(second.len()));
            (first, second, start) = (rest, second_rest, rows.end);
            if start < len {
                let do_run = &do_run;
                others.push(scope.spawn(move || do_run(rows, one, other)));
            } else {
                do_run(rows, one, other)?;
            }
        }
        let joined = others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.fold(Ok(()), Result::and)
    })
}

impl std::fmt::Debug for Codes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codes").field("head", &self.head).finish_non_exhaustive()
    }
}

/// The mean of the rows, as far as they are numbers.
pub(super) fn centre(rows: Rows<'_>) -> Vec<f32> {
    let mut sums = vec![0.0f64; rows.dims()];
    for row in rows.data().chunks_exact(rows.dims()) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += if value.is_finite() { f64::from(*value) } else { 0.0 };
        }
    }
    let count = rows.len().max(1) as f64;
    sums.into_iter().map(|sum| (sum / count) as f32).collect()
}

/// Writes a byte per value of a row that adds this to its distances, that, and what a byte's unit stands for; nothing where there
/// is no room.
fn write_bytes(values: &[f32], add: f32, to: &mut [u8]) {
    let Some((code, factors)) = to.split_last_chunk_mut::<FACTORS>() else { return };
    let unit = unit(values);
    let scale = if unit > 0.0 { unit.recip() } else { 0.0 };
    code.iter_mut().zip(values).for_each(|(to, value)| *to = nearest(value * scale) as u8);
    factors[..4].copy_from_slice(&add.to_le_bytes());
    factors[4..].copy_from_slice(&unit.to_le_bytes());
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

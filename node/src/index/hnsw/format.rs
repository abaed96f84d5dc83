//! The frozen graph: one run of little-endian `u32` words, the same in memory and in a file.
//!
//! ```text
//! header   48 words: magic (2), version, m, layers, entry, vertices per layer (16), checksum per layer (16),
//!                    reserved, checksum of the 47 words before
//! layer 0  vertices x 2m   ids, ended by NONE
//! layer i  vertices        row of each vertex
//!          vertices        its number in layer i - 1
//!          vertices x m    numbers in this layer, ended by NONE
//! ```
//!
//! The entry is a vertex of the top layer. The header is 192 bytes, so layer 0 starts on a cache line of a mapped
//! file. Everything after the header follows from its counts; [`Graph::open`] checks that the file is exactly as
//! long as they say before it looks further, then every checksum, then every id. Walks check ids again where that
//! is free (a map can change under us), so a damaged file never takes a search out of bounds.

use super::super::distance::prefetch::prefetch;
use super::super::{Backing, Damage};
use super::layer::Layer;
use super::search::Pool;
use super::{LAYERS_MAX, NONE};

const MAGIC: [u32; 2] = [u32::from_le_bytes(*b"FLHN"), u32::from_le_bytes(*b"SW\r\n")];
const VERSION: u32 = 1;
const HEADER: usize = 48;
const COUNTS: usize = 6;
const CHECKSUMS: usize = COUNTS + LAYERS_MAX;
const HEADER_CHECKSUM: usize = HEADER - 1;

/// A frozen graph over a block of rows; see [`super`].
pub struct Graph {
    words: Words,
    shape: Shape,
    pool: Pool,
}

/// What a builder hands over for one layer; `rows` and `below` are empty for layer 0.
pub(super) struct LayerParts {
    pub(super) rows: Vec<u32>,
    pub(super) below: Vec<u32>,
    pub(super) links: Vec<u32>,
}

impl Graph {
    /// Freezes built layers, bottom first. `entry` is a vertex of the last one.
    pub(super) fn freeze(m: usize, entry: u32, layers: &[LayerParts]) -> Self {
        let mut shape = Shape { m, layers: layers.len(), entry, counts: [0; LAYERS_MAX] };
        for (number, layer) in layers.iter().enumerate() {
            shape.counts[number] =
                if number == 0 { layer.links.len() / (2 * m) } else { layer.rows.len() } as u32;
        }
        let mut words = Aligned::with_capacity(shape.words() as usize);
        words.push(&shape.header());
        for layer in layers {
            [&layer.rows, &layer.below, &layer.links].into_iter().for_each(|part| words.push(part));
        }
        for number in 0..shape.layers {
            words.words_mut()[CHECKSUMS + number] = checksum(&words.words()[shape.section(number)]);
        }
        words.words_mut()[HEADER_CHECKSUM] = checksum(&words.words()[..HEADER_CHECKSUM]);
        Self { words: Words::Owned(words), shape, pool: Pool::default() }
    }

    /// The graph as bytes that [`Graph::open`] takes back.
    pub fn to_bytes(&self) -> Vec<u8> {
        match &self.words {
            Words::Owned(words) if cfg!(target_endian = "little") => {
                bytemuck::cast_slice(words.words()).to_vec()
            }
            Words::Owned(words) => words.words().iter().flat_map(|word| word.to_le_bytes()).collect(),
            Words::Mapped(backing) => (**backing).as_ref().to_vec(),
        }
    }

    /// Opens a graph over bytes, in place if they start on a 4-byte boundary (a map does), else as a copy.
    ///
    /// # Errors
    /// [`Damage`] if the bytes are not a graph, or not the graph that was written.
    pub fn open(backing: Backing) -> Result<Self, Damage> {
        let bytes = (*backing).as_ref();
        let shape = Shape::read(bytes)?;
        let in_place = cfg!(target_endian = "little") && bytemuck::try_cast_slice::<u8, u32>(bytes).is_ok();
        let words = if in_place { Words::Mapped(backing) } else { Words::Owned(Aligned::decode(bytes)) };
        shape.check(words.words())?;
        Ok(Self { words, shape, pool: Pool::default() })
    }

    /// Number of rows it was built over.
    pub fn len(&self) -> usize {
        self.shape.counts[0] as usize
    }

    /// True when it was built over no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows that a row's vertex of layer 0 links to.
    pub(in super::super) fn links(&self, vertex: u32) -> impl Iterator<Item = u32> + '_ {
        self.view().layer(0).block(vertex).iter().copied().take_while(|link| *link != NONE)
    }

    /// Size in bytes, in a file and in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(self.words.words())
    }

    pub(super) fn view(&self) -> View<'_> {
        View { words: self.words.words(), shape: &self.shape }
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("shape", &self.shape).field("bytes", &self.bytes()).finish()
    }
}

/// Where the words are.
enum Words {
    Owned(Aligned),
    Mapped(Backing),
}

impl Words {
    fn words(&self) -> &[u32] {
        match self {
            Self::Owned(words) => words.words(),
            Self::Mapped(backing) => bytemuck::try_cast_slice((**backing).as_ref()).unwrap_or_default(),
        }
    }
}

/// Words that start on a cache line.
struct Aligned {
    buffer: Vec<u32>,
    start: usize,
}

impl Aligned {
    const LINE: usize = 64;

    fn with_capacity(words: usize) -> Self {
        let mut buffer: Vec<u32> = Vec::with_capacity(words + Self::LINE / size_of::<u32>());
        let start = buffer.as_ptr().align_offset(Self::LINE).min(Self::LINE / size_of::<u32>());
        buffer.resize(start, 0);
        Self { buffer, start }
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut words = Self::with_capacity(bytes.len() / 4);
        words.buffer.extend(bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)));
        words
    }

    fn push(&mut self, words: &[u32]) {
        self.buffer.extend_from_slice(words);
    }

    fn words(&self) -> &[u32] {
        &self.buffer[self.start..]
    }

    fn words_mut(&mut self) -> &mut [u32] {
        &mut self.buffer[self.start..]
    }
}

/// The header's facts; everything else follows from them.
#[derive(Debug)]
struct Shape {
    m: usize,
    layers: usize,
    entry: u32,
    counts: [u32; LAYERS_MAX],
}

impl Shape {
    fn header(&self) -> [u32; HEADER] {
        let mut header = [0; HEADER];
        header[..2].copy_from_slice(&MAGIC);
        header[2..COUNTS].copy_from_slice(&[VERSION, self.m as u32, self.layers as u32, self.entry]);
        header[COUNTS..CHECKSUMS].copy_from_slice(&self.counts);
        header
    }

    /// Reads a header and holds the length of the whole against it.
    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let header = bytes.as_chunks::<4>().0.first_chunk::<HEADER>().ok_or(Damage::Foreign)?;
        let header = header.map(u32::from_le_bytes);
        if header[..2] != MAGIC {
            return Err(Damage::Foreign);
        }
        if header[2] != VERSION {
            return Err(Damage::Version(header[2]));
        }
        let mut counts = [0; LAYERS_MAX];
        counts.copy_from_slice(&header[COUNTS..CHECKSUMS]);
        let shape = Self { m: header[3] as usize, layers: header[4] as usize, entry: header[5], counts };
        if checksum(&header[..HEADER_CHECKSUM]) != header[HEADER_CHECKSUM] || !shape.is_sound() {
            return Err(Damage::Header);
        }
        let (expected, actual) = (shape.words() * 4, bytes.len() as u64);
        if expected != actual {
            return Err(Damage::Length { expected, actual });
        }
        Ok(shape)
    }

    fn is_sound(&self) -> bool {
        let counts = &self.counts;
        (2..=128).contains(&self.m)
            && (1..=LAYERS_MAX).contains(&self.layers)
            && (counts[0] as usize) <= super::super::MAX_ROWS
            && counts.windows(2).all(|pair| pair[0] >= pair[1])
            && counts[1..].iter().enumerate().all(|(i, count)| (*count > 0) == (i + 1 < self.layers))
            && (self.entry < counts[self.layers - 1] || counts[0] == 0)
    }

    /// Words of one vertex in a layer.
    fn stride(&self, number: usize) -> usize {
        if number == 0 { 2 * self.m } else { self.m + 2 }
    }

    /// Words of the whole file; cannot overflow, because `m` and the counts are bounded.
    fn words(&self) -> u64 {
        let layers =
            (0..self.layers).map(|number| u64::from(self.counts[number]) * self.stride(number) as u64);
        HEADER as u64 + layers.sum::<u64>()
    }

    /// Where a layer's words are. Only asked once the words are known to be there.
    fn section(&self, number: usize) -> std::ops::Range<usize> {
        let before: usize = (0..number).map(|below| self.counts[below] as usize * self.stride(below)).sum();
        let start = HEADER + before;
        start..start + self.counts[number] as usize * self.stride(number)
    }

    /// Checks every layer's checksum and ids.
    fn check(&self, words: &[u32]) -> Result<(), Damage> {
        let view = View { words, shape: self };
        for number in 0..self.layers {
            let section = words.get(self.section(number)).ok_or(Damage::Checksum(number))?;
            if Some(&checksum(section)) != words.get(CHECKSUMS + number) {
                return Err(Damage::Checksum(number));
            }
            let layer = view.layer(number);
            let count = self.counts[number];
            let links_ok = layer.links.iter().all(|link| *link < count || *link == NONE);
            let below_ok = number == 0 || layer.below.iter().all(|v| *v < self.counts[number - 1]);
            if !links_ok || !below_ok || layer.rows.iter().any(|row| *row >= self.counts[0]) {
                return Err(Damage::Vertex(number));
            }
        }
        Ok(())
    }
}

/// Gives `bytes` the length that their header asks for (up to `most`), and every layer and the header the checksums
/// that fit.
#[cfg(any(test, feature = "fuzz"))]
pub fn restamp(bytes: &mut Vec<u8>, most: usize) {
    bytes.resize(bytes.len().max(HEADER * 4).next_multiple_of(4), 0);
    let mut words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let mut counts = [0; LAYERS_MAX];
    counts.copy_from_slice(&words[COUNTS..CHECKSUMS]);
    let shape = Shape { m: words[3] as usize, layers: words[4] as usize, entry: words[5], counts };
    if shape.is_sound() && shape.words() <= most as u64 / 4 {
        words.resize(shape.words() as usize, 0);
        for number in 0..shape.layers {
            words[CHECKSUMS + number] = checksum(&words[shape.section(number)]);
        }
    }
    words[HEADER_CHECKSUM] = checksum(&words[..HEADER_CHECKSUM]);
    *bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
}

/// A graph's words for the length of one search.
pub(super) struct View<'a> {
    words: &'a [u32],
    shape: &'a Shape,
}

impl<'a> View<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.shape.counts[0] == 0
    }

    /// Number of layers, layer 0 included.
    pub(super) fn layers(&self) -> usize {
        self.shape.layers
    }

    /// The entry, as a vertex of the top layer.
    pub(super) fn entry(&self) -> u32 {
        self.shape.entry
    }

    /// The entry's row.
    pub(super) fn entry_row(&self) -> u32 {
        self.layer(self.shape.layers - 1).row(self.shape.entry)
    }

    pub(super) fn layer(&self, number: usize) -> FrozenLayer<'a> {
        let words = self.words.get(self.shape.section(number)).unwrap_or_default();
        let count = self.shape.counts[number] as usize;
        let named = if number == 0 || words.is_empty() { 0 } else { count };
        let (rows, words) = words.split_at(named);
        let (below, links) = words.split_at(named);
        let stride = if number == 0 { 2 * self.shape.m } else { self.shape.m };
        FrozenLayer { rows, below, links, stride, len: count }
    }
}

/// One layer of a frozen graph.
pub(super) struct FrozenLayer<'a> {
    rows: &'a [u32],
    below: &'a [u32],
    links: &'a [u32],
    stride: usize,
    len: usize,
}

impl<'a> FrozenLayer<'a> {
    /// The slots for the links of a vertex.
    fn block(&self, vertex: u32) -> &'a [u32] {
        let start = vertex as usize * self.stride;
        self.links.get(start..start + self.stride).unwrap_or_default()
    }

    /// The number in the layer below of a vertex of an upper layer.
    pub(super) fn below(&self, vertex: u32) -> u32 {
        self.below.get(vertex as usize).copied().unwrap_or_default()
    }

    /// This layer without the vertices from `len` on.
    pub(super) fn cut(self, len: usize) -> Self {
        Self { len: self.len.min(len), ..self }
    }
}

impl Layer for FrozenLayer<'_> {
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn row(&self, vertex: u32) -> u32 {
        if self.rows.is_empty() {
            vertex
        } else {
            self.rows.get(vertex as usize).copied().unwrap_or_default()
        }
    }

    #[inline]
    fn links(&self, vertex: u32) -> impl Iterator<Item = u32> + '_ {
        let start = vertex as usize * self.stride;
        let block = self.links.get(start..start + self.stride).unwrap_or_default();
        block.iter().copied().take_while(|link| *link != NONE)
    }

    #[inline]
    fn prefetch_links(&self, vertex: u32) {
        let start = vertex as usize * self.stride;
        prefetch(self.links.get(start..start + self.stride).unwrap_or_default(), 4);
    }
}

/// CRC-32 of words in their little-endian form.
fn checksum(words: &[u32]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    if cfg!(target_endian = "little") {
        hasher.update(bytemuck::cast_slice(words));
    } else {
        words.iter().for_each(|word| hasher.update(&word.to_le_bytes()));
    }
    hasher.finalize()
}

//! An inverted index over sparse vectors: for each index that occurs, which lists have it and with what value.
//!
//! ```text
//! 64 bytes   magic (8), version u32, zeros u32, lists u64, indices u64, postings u64, zeros, CRC-32 of all before
//! indices    u32 each, ascending
//! starts     u32 each: the first posting of each index; then the number of postings
//! postings   after zeros up to a multiple of 8: list u32, value f32; of one index by ascending list
//! 8 bytes    CRC-32 of all before, zeros
//! ```
//!
//! Numbers are little endian. It is written once ([`write`]) and opened in place. Opening checks the checksums, the lengths
//! and every id, so that a search cannot read out of bounds; after that the bytes are trusted to stay as they are.
//!
//! A search is **exact**: it adds up products index by index, in the order of the indices, which is the order in which a scan
//! of the lists adds them ([`Lists::product`]), so both give the same bits.

use std::collections::BTreeMap;
use std::ops::Range;

use super::lists::{Lists, pairs};
use super::{Backing, Bitset, Damage, MAX_ROWS, Neighbor, Stats, TopK};

const MAGIC: [u8; 8] = *b"FLINVERT";
const VERSION: u32 = 1;
const HEADER: usize = 64;
/// Bytes of a posting, and what postings are aligned to.
const POSTING: usize = 8;
const FOOTER: usize = 8;

/// Postings that are gathered at a time while it is written: 64 MiB of them.
pub const GATHERED: usize = 8 << 20;

/// See the module.
pub struct Inverted {
    bytes: Backing,
    head: Head,
}

/// What everything else follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    lists: usize,
    indices: usize,
    postings: usize,
}

impl Head {
    fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&(self.lists as u64).to_le_bytes());
        bytes[24..32].copy_from_slice(&(self.indices as u64).to_le_bytes());
        bytes[32..40].copy_from_slice(&(self.postings as u64).to_le_bytes());
        let crc = crc32fast::hash(&bytes[..HEADER - 4]);
        bytes[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Head, Damage> {
        let header = bytes.first_chunk::<HEADER>().filter(|header| header[..8] == MAGIC);
        let words = header.ok_or(Damage::Foreign)?.as_chunks::<4>().0;
        let word = |at: usize| words.get(at).map_or(0, |word| u32::from_le_bytes(*word));
        if word(2) != VERSION {
            return Err(Damage::Version(word(2)));
        }
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 1)) << 32;
        let [lists, indices, postings] = [4, 6, 8].map(long);
        let is_sound = [lists, indices, postings].into_iter().all(|count| count <= MAX_ROWS as u64);
        if crc32fast::hash(&bytes[..HEADER - 4]) != word(15) || !is_sound {
            return Err(Damage::Header);
        }
        Ok(Head { lists: lists as usize, indices: indices as usize, postings: postings as usize })
    }

    fn indices(self) -> Range<usize> {
        HEADER..HEADER + self.indices * 4
    }

    fn starts(self) -> Range<usize> {
        let from = self.indices().end;
        from..from + (self.indices + 1) * 4
    }

    /// Cannot overflow, because all counts are below 2^31.
    fn postings(self) -> Range<usize> {
        let from = self.starts().end.next_multiple_of(POSTING);
        from..from + self.postings * POSTING
    }

    fn bytes(self) -> u64 {
        (self.postings().end + FOOTER) as u64
    }
}

/// Writes the index of `lists` through `sink`, front to back. Memory: three numbers for each index that occurs, and
/// `gathered` postings, or those of the most frequent index.
///
/// # Errors
/// Those of `sink`; it is called often enough to give up in time.
pub fn write<E>(
    lists: Lists<'_>,
    gathered: usize,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut crc = crc32fast::Hasher::new();
    let mut put = |bytes: &[u8]| {
        crc.update(bytes);
        sink(bytes)
    };
    let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
    for list in 0..lists.len() as u32 {
        pairs(lists.words(list)).for_each(|(index, _)| *counts.entry(index).or_default() += 1);
    }
    let postings = counts.values().map(|count| *count as usize).sum();
    let head = Head { lists: lists.len(), indices: counts.len(), postings };
    put(&head.encode())?;
    counts.keys().try_for_each(|index| put(&index.to_le_bytes()))?;
    let mut start = 0_u32;
    for count in counts.values() {
        put(&start.to_le_bytes())?;
        start += count;
    }
    put(&start.to_le_bytes())?;
    put(&[0; POSTING][..head.postings().start - head.starts().end])?;
    let mut left = counts.into_iter().peekable();
    while left.peek().is_some() {
        // As many indices as fit, and the place of each one's next posting.
        let (mut places, mut total) = (Vec::new(), 0_usize);
        while let Some((index, count)) =
            left.next_if(|(_, count)| total == 0 || total + *count as usize <= gathered)
        {
            places.push((index, total));
            total += count as usize;
        }
        put(bytemuck::cast_slice(&gather(lists, places, total)))?;
    }
    let crc = crc.finalize();
    sink(&u64::from(crc).to_le_bytes())
}

/// The postings of some indices, each from its place on.
fn gather(lists: Lists<'_>, mut places: Vec<(u32, usize)>, total: usize) -> Vec<[u32; 2]> {
    let mut postings = vec![[0; 2]; total];
    let (Some((first, _)), Some((last, _))) = (places.first().copied(), places.last().copied()) else {
        return postings;
    };
    for list in 0..lists.len() as u32 {
        let mut from = 0;
        for (index, value) in pairs(lists.words(list)).filter(|(index, _)| (first..=last).contains(index)) {
            let Ok(found) = places[from..].binary_search_by_key(&index, |(index, _)| *index) else {
                continue;
            };
            let (_, place) = &mut places[from + found];
            postings[*place] = [list, value.to_bits()];
            *place += 1;
            from += found;
        }
    }
    postings
}

/// Indices, starts and postings.
type Parts<'a> = (&'a [u32], &'a [u32], &'a [[u32; 2]]);

impl Inverted {
    /// Opens the index of so many lists over its bytes, in place.
    ///
    /// # Errors
    /// [`Damage`] if they are not its bytes, or not where their words can be read in place.
    pub fn open(bytes: Backing, lists: usize) -> Result<Inverted, Damage> {
        let all = (*bytes).as_ref();
        let head = Head::decode(all)?;
        if head.bytes() != all.len() as u64 {
            return Err(Damage::Length { expected: head.bytes(), actual: all.len() as u64 });
        }
        let (body, footer) = all.split_at(all.len() - FOOTER);
        if footer != u64::from(crc32fast::hash(body)).to_le_bytes() {
            return Err(Damage::Checksum(0));
        }
        let inverted = Inverted { bytes: bytes.clone(), head };
        if head.lists != lists || !inverted.is_sound() {
            return Err(Damage::Header);
        }
        Ok(inverted)
    }

    fn is_sound(&self) -> bool {
        let Some((indices, starts, postings)) = self.parts() else { return false };
        let (ends, lists) = (starts.last().copied(), self.head.lists as u32);
        indices.is_sorted_by(|a, b| a < b)
            && starts.first() == Some(&0)
            && starts.is_sorted()
            && ends == Some(self.head.postings as u32)
            && starts.windows(2).all(|pair| {
                let of_one = postings.get(pair[0] as usize..pair[1] as usize).unwrap_or_default();
                of_one.is_sorted_by(|[a, _], [b, _]| a < b)
            })
            && postings.iter().all(|[list, _]| *list < lists)
    }

    /// Indices, starts and postings; `None` if the bytes do not lie where words can be read.
    fn parts(&self) -> Option<Parts<'_>> {
        let all = (*self.bytes).as_ref();
        Some((
            bytemuck::try_cast_slice(all.get(self.head.indices())?).ok()?,
            bytemuck::try_cast_slice(all.get(self.head.starts())?).ok()?,
            bytemuck::try_cast_slice(all.get(self.head.postings())?).ok()?,
        ))
    }

    /// Bytes that it is read from.
    pub fn bytes(&self) -> u64 {
        self.head.bytes()
    }

    /// Lists that it was built over.
    pub fn len(&self) -> usize {
        self.head.lists
    }

    /// True when it was built over no lists.
    pub fn is_empty(&self) -> bool {
        self.head.lists == 0
    }

    /// How many postings a search by `query` reads.
    pub fn cost(&self, query: &[f32]) -> usize {
        pairs(query).map(|(index, _)| self.postings_of(index).len()).sum()
    }

    fn postings_of(&self, index: u32) -> &[[u32; 2]] {
        let found = self.parts().and_then(|(indices, starts, postings)| {
            let at = indices.binary_search(&index).ok()?;
            postings.get(*starts.get(at)? as usize..*starts.get(at + 1)? as usize)
        });
        found.unwrap_or_default()
    }

    /// Offers every accepted list to `top`, at minus its product with `query`. Lists that have no index in common with the
    /// query are looked at only where less than `k` others have a product above zero.
    pub fn search(&self, query: &[f32], accepts: impl Fn(u32) -> bool, top: &mut TopK, stats: &mut Stats) {
        let mut sums = vec![0.0_f32; self.head.lists];
        let mut met = Bitset::new(self.head.lists);
        for (index, value) in pairs(query) {
            let postings = self.postings_of(index);
            stats.visited += postings.len() as u64;
            for [list, other] in postings {
                if let Some(sum) = sums.get_mut(*list as usize) {
                    *sum += value * f32::from_bits(*other);
                    met.insert(*list);
                }
            }
        }
        let mut offer = |list: u32| {
            let distance = -sums.get(list as usize).copied().unwrap_or_default();
            top.push(Neighbor { row: list, distance });
            stats.distances += 1;
        };
        met.iter().filter(|list| accepts(*list)).for_each(&mut offer);
        if top.worst().is_none_or(|worst| worst.distance >= 0.0 || worst.distance.is_nan()) {
            let others = (0..self.head.lists as u32).filter(|list| !met.contains(*list) && accepts(*list));
            others.for_each(|list| {
                top.push(Neighbor { row: list, distance: 0.0 });
            });
        }
    }
}

impl std::fmt::Debug for Inverted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.head.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::Rows;
    use super::*;

    /// Bytes that lie where words can be read, as a map's do.
    struct Aligned(Vec<u64>, usize);

    impl AsRef<[u8]> for Aligned {
        fn as_ref(&self) -> &[u8] {
            &bytemuck::cast_slice(&self.0)[..self.1]
        }
    }

    fn backing(bytes: &[u8]) -> Backing {
        let mut words = vec![0_u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Arc::new(Aligned(words, bytes.len()))
    }

    fn words(vector: &BTreeMap<u32, f32>) -> Vec<f32> {
        vector.iter().flat_map(|(index, value)| [f32::from_bits(*index), *value]).collect()
    }

    fn bytes(lists: Lists<'_>, gathered: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut sink = |part: &[u8]| -> Result<(), Infallible> {
            bytes.extend_from_slice(part);
            Ok(())
        };
        let Ok(()) = write(lists, gathered, &mut sink);
        bytes
    }

    fn block(vectors: &[BTreeMap<u32, f32>]) -> (Vec<f32>, Vec<u32>) {
        let data = vectors.iter().flat_map(words).collect();
        let ends = vectors.iter().scan(0, |end, vector| {
            *end += vector.len() as u32;
            Some(*end)
        });
        (data, ends.collect())
    }

    fn index() -> impl Strategy<Value = u32> {
        prop_oneof![8 => 0_u32..12, 1 => any::<u32>(), 1 => Just(u32::MAX)]
    }

    fn vector() -> impl Strategy<Value = BTreeMap<u32, f32>> {
        prop::collection::btree_map(index(), (-4_i8..5).prop_map(f32::from), 1..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn a_search_is_a_scan(
            vectors in prop::collection::vec(vector(), 0..40),
            query in vector(),
            k in 0_usize..50,
            gathered in 1_usize..30,
            every in 1_u32..4,
        ) {
            let (data, ends) = block(&vectors);
            let lists = Lists::new(Rows::new(&data, 2).unwrap(), &ends).unwrap();
            let written = bytes(lists, gathered);
            prop_assert_eq!(&written, &bytes(lists, GATHERED));
            let opened = Inverted::open(backing(&written), vectors.len()).unwrap();
            let (query, accepts) = (words(&query), |list: u32| list.is_multiple_of(every));
            let (mut found, mut scanned, mut stats) = (TopK::new(k), TopK::new(k), Stats::default());
            opened.search(&query, accepts, &mut found, &mut stats);
            lists.scan(accepts, |list| lists.product(list, &query), &mut scanned);
            prop_assert_eq!(found.into_sorted(), scanned.into_sorted());
            prop_assert_eq!(stats.visited, opened.cost(&query) as u64);
        }
    }

    #[test]
    fn damage_is_refused_or_harmless() {
        let vectors: Vec<BTreeMap<u32, f32>> =
            (0..20_u32).map(|n| [(n % 3, 1.0), (7, n as f32), (1 << 30 | n, 2.0)].into()).collect();
        let (data, ends) = block(&vectors);
        let lists = Lists::new(Rows::new(&data, 2).unwrap(), &ends).unwrap();
        let good = bytes(lists, GATHERED);
        assert!(Inverted::open(backing(&good), 19).is_err(), "of other lists");
        assert!(Inverted::open(Arc::new(Aligned(Vec::new(), 0)), 0).is_err());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(Inverted::open(backing(&bad), 20).is_err(), "byte {at}");
            assert!(Inverted::open(backing(&good[..at]), 20).is_err(), "cut at {at}");
            // The same with checksums that fit: refused, or searched within bounds.
            let head = crc32fast::hash(&bad[..HEADER - 4]);
            bad[HEADER - 4..HEADER].copy_from_slice(&head.to_le_bytes());
            let body = bad.len() - FOOTER;
            let crc = u64::from(crc32fast::hash(&bad[..body]));
            bad[body..].copy_from_slice(&crc.to_le_bytes());
            if let Ok(opened) = Inverted::open(backing(&bad), 20) {
                let mut top = TopK::new(30);
                opened.search(&words(&vectors[3]), |_| true, &mut top, &mut Stats::default());
                assert_eq!(top.len(), 20);
            }
        }
    }
}

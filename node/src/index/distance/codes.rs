//! Kernels over codes: products of signed bytes, sums over the sketches of 32 rows at once, and counts over one sketch.
//!
//! Integers, so that every family gives the very same result.

#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected;
use std::sync::LazyLock;

/// Rows whose sketches stand side by side.
pub const SLOTS: usize = 32;

/// Two groups of four bits of 32 sketches: in the first 16 bytes the first group, of sketch `i` in the low half of byte `i`, of
/// sketch `16 + i` in the high half; then the second group. Or what the two groups count, by their value.
pub type Pair = [u8; SLOTS];

/// Planes that a query's values are kept in.
pub const PLANES: usize = 4;

type Bytes = fn(&[i8], &[i8]) -> i32;
type BytesFour = fn(&[i8], [&[i8]; 4]) -> [i32; 4];
type Sketches = fn(&[Pair], &Block<'_>, &Sieve) -> u32;
type Planes = fn(&[[u64; PLANES]], &Strided<'_>, &Terms, &[u32], &mut Glances);

/// Sketches one behind the other: bits, in words of eight bytes, then what the row adds to its distances, what a sum of signs is
/// multiplied with, how far that is off (`f32` each), and how many bits are set (`u32`).
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a> {
    /// All of them.
    pub bytes: &'a [u8],
    /// From each to the next.
    pub stride: usize,
}

/// How a sum over planes becomes a distance: `base + add + weight * scale * (step * sum + lowest * ones - all)`, off by
/// `doubt * error`.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// See above.
    pub base: f32,
    /// See above.
    pub weight: f32,
    /// See above.
    pub step: f32,
    /// See above.
    pub lowest: f32,
    /// See above.
    pub all: f32,
    /// See above.
    pub doubt: f32,
}

/// Rows that are looked at together, at most.
pub const RUN: usize = 64;

/// For each row of a run: the distance by its sketch, and how far that is off. Infinitely far where there is no sketch.
#[derive(Clone, Copy, Debug)]
pub struct Glances {
    /// The distances.
    pub about: [f32; RUN],
    /// How far they are off.
    pub off: [f32; RUN],
}

impl Glances {
    /// Of no rows.
    pub const NONE: Glances = Glances { about: [f32::INFINITY; RUN], off: [0.0; RUN] };
}

/// 32 rows side by side.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Their sketches.
    pub sketches: &'a [Pair],
    /// What each adds to its distances.
    pub add: &'a [f32; SLOTS],
    /// What a sum of signs is multiplied with to be a product.
    pub scale: &'a [f32; SLOTS],
    /// How far that is off, for a query of length one.
    pub error: &'a [f32; SLOTS],
    /// Their numbers; all ones where there is none.
    pub links: &'a [u32; SLOTS],
}

/// Which rows pass: those with `add + scale * (step * sum + lowest) + doubt * error` not above `bound`, or not a number.
#[derive(Clone, Copy, Debug)]
pub struct Sieve {
    /// What a unit of a sum counts.
    pub step: f32,
    /// What a sum of zero counts.
    pub lowest: f32,
    /// What an error counts.
    pub doubt: f32,
    /// What is let pass.
    pub bound: f32,
}

/// The kernels of one instruction set.
pub(in super::super) struct Codes {
    #[cfg_attr(not(test), allow(dead_code))]
    name: &'static str,
    /// The product of a query and a row; values are -127 to 127, and the shorter of the two counts.
    pub bytes: Bytes,
    /// The products of a query and four rows.
    pub bytes_four: BytesFour,
    /// By what each value of each group counts (at most 65,535 in all), which of a block's rows pass.
    pub sketches: Sketches,
    /// A query's values, from 0 to 15 in planes of bits, against the sketches of these rows (at most [`RUN`]).
    pub planes: Planes,
}

static SCALAR: Codes = Codes {
    name: "scalar",
    bytes: bytes_scalar,
    bytes_four: bytes_four_scalar,
    sketches: sift_scalar,
    planes: planes_scalar,
};

#[cfg(target_arch = "x86_64")]
static AVX2: Codes = Codes {
    name: "avx2",
    // SAFETY (all four): `families` hands these out only where AVX2 was detected.
    bytes: |a, b| unsafe { x86::bytes(a, b) },
    bytes_four: |query, rows| unsafe { x86::bytes_four(query, rows) },
    sketches: |counts, block, sieve| unsafe { x86::sift(counts, block, sieve) },
    planes: |planes, all, terms, rows, to| unsafe { x86::planes(planes, all, terms, rows, to) },
};

/// The best kernels of this processor.
pub(in super::super) static CODES: LazyLock<&'static Codes> = LazyLock::new(|| families()[0]);

fn families() -> Vec<&'static Codes> {
    let mut all: Vec<&'static Codes> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        all.push(&AVX2);
    }
    all.push(&SCALAR);
    all
}

fn bytes_scalar(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(x, y)| i32::from(*x) * i32::from(*y)).sum()
}

fn bytes_four_scalar(query: &[i8], rows: [&[i8]; 4]) -> [i32; 4] {
    rows.map(|row| bytes_scalar(query, row))
}

fn planes_scalar(
    planes: &[[u64; PLANES]],
    sketches: &Strided<'_>,
    terms: &Terms,
    rows: &[u32],
    glances: &mut Glances,
) {
    let sum = |bits: &[u8]| {
        let mut sums = [0u32; PLANES];
        for (planes, word) in planes.iter().zip(bits.as_chunks::<8>().0) {
            let word = u64::from_le_bytes(*word);
            sums.iter_mut().zip(planes).for_each(|(sum, plane)| *sum += (word & plane).count_ones());
        }
        sums.iter().rev().fold(0, |all, sum| 2 * all + sum)
    };
    glance(planes.len() * 8, sketches, terms, rows, glances, sum);
}

/// What every family does around the sum of a sketch's planes.
#[inline(always)]
fn glance(
    len: usize,
    sketches: &Strided<'_>,
    terms: &Terms,
    rows: &[u32],
    glances: &mut Glances,
    sum: impl Fn(&[u8]) -> u32,
) {
    // Apart, so that the distances of all rows are computed side by side.
    let (mut signed, mut scales, mut ones) = ([0.0f32; RUN], [0.0f32; RUN], [0.0f32; RUN]);
    *glances = Glances::NONE;
    for (at, row) in rows.iter().take(RUN).enumerate() {
        let start = *row as usize * sketches.stride;
        let record = sketches.bytes.get(start..start + sketches.stride).unwrap_or_default();
        let Some((bits, rest)) = record.split_at_checked(len) else { continue };
        let Some([add, scale, error, count]) = rest.as_chunks::<4>().0.first_chunk::<4>() else { continue };
        // Both are small: at most 15 times the dims.
        signed[at] = sum(bits) as i32 as f32;
        ones[at] = u32::from_le_bytes(*count) as i32 as f32;
        scales[at] = f32::from_le_bytes(*scale);
        glances.about[at] = f32::from_le_bytes(*add);
        glances.off[at] = f32::from_le_bytes(*error);
    }
    for at in 0..RUN {
        let product = terms.step * signed[at] + terms.lowest * ones[at] - terms.all;
        glances.about[at] += terms.base + terms.weight * scales[at] * product;
        glances.off[at] *= terms.doubt;
    }
}

fn sift_scalar(counts: &[Pair], block: &Block<'_>, sieve: &Sieve) -> u32 {
    sift(&sketches_scalar(counts, block.sketches), block, sieve)
}

#[inline(always)]
fn sift(sums: &[u16; SLOTS], block: &Block<'_>, sieve: &Sieve) -> u32 {
    let mut passed = 0;
    for (slot, sum) in sums.iter().enumerate() {
        let signed = sieve.step * f32::from(*sum) + sieve.lowest;
        let at_least = block.add[slot] + block.scale[slot] * signed + sieve.doubt * block.error[slot];
        let passes = at_least <= sieve.bound || at_least.is_nan();
        passed |= u32::from(passes && block.links[slot] != u32::MAX) << slot;
    }
    passed
}

fn sketches_scalar(counts: &[Pair], sketches: &[Pair]) -> [u16; SLOTS] {
    let mut sums = [0u16; SLOTS];
    for (counts, pair) in counts.iter().zip(sketches) {
        for half in [0, SLOTS / 2] {
            for slot in 0..SLOTS / 2 {
                let both = usize::from(pair[half + slot]);
                for (slot, value) in [(slot, both & 15), (slot + SLOTS / 2, both >> 4)] {
                    sums[slot] = sums[slot].wrapping_add(u16::from(counts[half + value]));
                }
            }
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Block, Glances, PLANES, Pair, SLOTS, Sieve, Strided, Terms, bytes_scalar};

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(values: &[i8; 32]) -> __m256i {
        // SAFETY: the array is 32 readable bytes and the load needs no alignment.
        unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
    }

    /// Adds the products of 32 pairs: magnitudes of the one times the other with the first one's signs. A pair of products is
    /// at most 2 x 127 x 127, which 16 bits hold.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn step(sum: __m256i, magnitude: __m256i, query: __m256i, row: __m256i) -> __m256i {
        let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(row, query));
        _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn total(sum: __m256i) -> i32 {
        let four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
        _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn bytes(query: &[i8], row: &[i8]) -> i32 {
        let len = query.len().min(row.len());
        let ((query, query_rest), (row, row_rest)) =
            (query[..len].as_chunks::<32>(), row[..len].as_chunks::<32>());
        let mut sum = _mm256_setzero_si256();
        for (q, row) in query.iter().zip(row) {
            let q = load(q);
            sum = step(sum, _mm256_abs_epi8(q), q, load(row));
        }
        total(sum) + bytes_scalar(query_rest, row_rest)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn bytes_four(query: &[i8], rows: [&[i8]; 4]) -> [i32; 4] {
        let len = rows.iter().fold(query.len(), |len, row| len.min(row.len()));
        let (query, query_rest) = query[..len].as_chunks::<32>();
        let [a, b, c, d] = rows.map(|row| row[..len].as_chunks::<32>());
        let mut sums = [_mm256_setzero_si256(); 4];
        for ((((q, a), b), c), d) in query.iter().zip(a.0).zip(b.0).zip(c.0).zip(d.0) {
            let q = load(q);
            let magnitude = _mm256_abs_epi8(q);
            for (sum, row) in sums.iter_mut().zip([a, b, c, d]) {
                *sum = step(*sum, magnitude, q, load(row));
            }
        }
        let rests = [a.1, b.1, c.1, d.1];
        let mut totals = [0; 4];
        for i in 0..4 {
            totals[i] = total(sums[i]) + bytes_scalar(query_rest, rests[i]);
        }
        totals
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load_pair(pair: &Pair) -> __m256i {
        // SAFETY: the array is 32 readable bytes and the load needs no alignment.
        unsafe { _mm256_loadu_si256(pair.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn planes(
        planes: &[[u64; PLANES]],
        sketches: &Strided<'_>,
        terms: &Terms,
        rows: &[u32],
        glances: &mut Glances,
    ) {
        // The lengths of common vectors are known to the compiler: it leaves out the loops.
        match planes.as_chunks::<6>() {
            ([six], []) => super::glance(48, sketches, terms, rows, glances, |bits| planes_sum(six, bits)),
            ([six, other], []) => {
                let sum = |bits: &[u8]| match bits.split_at_checked(48) {
                    Some((bits, rest)) => planes_sum(six, bits) + planes_sum(other, rest),
                    None => 0,
                };
                super::glance(96, sketches, terms, rows, glances, sum);
            }
            _ => super::glance(planes.len() * 8, sketches, terms, rows, glances, |bits| {
                planes_sum(planes, bits)
            }),
        }
    }

    /// Words whose counts of set bits a byte holds: eight each.
    const WORDS: usize = 31;

    /// A word of bits against its four planes at once; the bits of each half byte are counted by a table.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn planes_sum(planes: &[[u64; PLANES]], bits: &[u8]) -> u32 {
        let table = _mm256_setr_epi8(
            0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
        );
        let low_half = _mm256_set1_epi8(15);
        let mut sums = _mm256_setzero_si256();
        for (planes, words) in planes.chunks(WORDS).zip(bits.as_chunks::<8>().0.chunks(WORDS)) {
            let mut counts = _mm256_setzero_si256();
            for (planes, word) in planes.iter().zip(words) {
                // SAFETY: the array is 32 readable bytes and the load needs no alignment.
                let planes = unsafe { _mm256_loadu_si256(planes.as_ptr().cast()) };
                let both = _mm256_and_si256(planes, _mm256_set1_epi64x(i64::from_le_bytes(*word)));
                let low = _mm256_shuffle_epi8(table, _mm256_and_si256(both, low_half));
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), low_half);
                counts = _mm256_add_epi8(counts, _mm256_add_epi8(low, _mm256_shuffle_epi8(table, high)));
            }
            sums = _mm256_add_epi64(sums, _mm256_sad_epu8(counts, _mm256_setzero_si256()));
        }
        let weighed = _mm256_sllv_epi64(sums, _mm256_setr_epi64x(0, 1, 2, 3));
        let two = _mm_add_epi64(_mm256_castsi256_si128(weighed), _mm256_extracti128_si256::<1>(weighed));
        _mm_cvtsi128_si32(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two))) as u32
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn sift(counts: &[Pair], block: &Block<'_>, sieve: &Sieve) -> u32 {
        super::sift(&sketches(counts, block.sketches), block, sieve)
    }

    /// Sums of bytes in 16 bits: those at even places carry the odd ones times 256, which are summed apart and taken off at the
    /// end. The two halves of a register are the two groups of a pair.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn sketches(counts: &[Pair], sketches: &[Pair]) -> [u16; SLOTS] {
        let low_half = _mm256_set1_epi8(15);
        let (mut low, mut low_odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        let (mut high, mut high_odd) = (low, low);
        for (counts, pair) in counts.iter().zip(sketches) {
            let (counts, pair) = (load_pair(counts), load_pair(pair));
            let first = _mm256_shuffle_epi8(counts, _mm256_and_si256(pair, low_half));
            let second =
                _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16::<4>(pair), low_half));
            low = _mm256_add_epi16(low, first);
            low_odd = _mm256_add_epi16(low_odd, _mm256_srli_epi16::<8>(first));
            high = _mm256_add_epi16(high, second);
            high_odd = _mm256_add_epi16(high_odd, _mm256_srli_epi16::<8>(second));
        }
        let mut sums = [0; SLOTS];
        for (all, odd, at) in [(low, low_odd, 0), (high, high_odd, SLOTS / 2)] {
            let even = _mm256_sub_epi16(all, _mm256_slli_epi16::<8>(odd));
            let fold = |both: __m256i| {
                _mm_add_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both))
            };
            let (even, odd) = (fold(even), fold(odd));
            for (part, at) in [(_mm_unpacklo_epi16(even, odd), at), (_mm_unpackhi_epi16(even, odd), at + 8)] {
                // SAFETY: `at` is at most 24, so 8 numbers of 16 bits fit behind it.
                unsafe { _mm_storeu_si128(sums.as_mut_ptr().add(at).cast(), part) };
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_gives_the_same_integers() {
        let mut state = 9u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        for len in [0, 1, 31, 32, 33, 64, 95, 384, 1000, 4096] {
            let mut row = || -> Vec<i8> { (0..len).map(|_| ((draw() % 255) as i32 - 127) as i8).collect() };
            let (query, rows) = (row(), [row(), row(), row(), row()]);
            let rows: [&[i8]; 4] = [0, 1, 2, 3].map(|i| &rows[i][..]);
            let extreme = vec![-127i8; len];
            for family in families() {
                let name = family.name;
                let one = rows.map(|row| (family.bytes)(&query, row));
                assert_eq!(one, bytes_four_scalar(&query, rows), "{name} {len}");
                assert_eq!((family.bytes_four)(&query, rows), one, "{name} {len}");
                assert_eq!((family.bytes)(&extreme, &extreme), 127 * 127 * len as i32, "{name} {len}");
            }
        }
        for words in [0usize, 1, 6, 12, 1024] {
            let mut word = || u64::from(draw()) << 33 ^ u64::from(draw());
            let planes: Vec<[u64; PLANES]> = (0..words).map(|_| std::array::from_fn(|_| word())).collect();
            let (add, scale, error) = (0.5f32, 0.25f32, 2.0f32);
            let mut sketches = Vec::new();
            for _ in 0..2 {
                let bits: Vec<u8> = (0..words).flat_map(|_| word().to_le_bytes()).collect();
                let ones: u32 = bits.iter().map(|byte| byte.count_ones()).sum();
                let factors = [add.to_bits(), scale.to_bits(), error.to_bits(), ones].map(u32::to_le_bytes);
                sketches.extend([&bits[..], factors.as_flattened()].concat());
            }
            let stride = words * 8 + 16;
            let terms = Terms { base: 1.0, weight: -2.0, step: 3.0, lowest: -20.0, all: 7.0, doubt: 0.5 };
            let value = |at: usize| -> u32 {
                (0..PLANES).map(|plane| ((planes[at / 64][plane] >> (at % 64) & 1) as u32) << plane).sum()
            };
            let naive = |row: usize| -> f32 {
                let is_set = |at: &usize| sketches[row * stride + at / 8] >> (at % 8) & 1 == 1;
                let set = (0..words * 64).filter(is_set);
                let signed: f32 = set.map(|at| 3.0 * value(at) as f32 - 20.0).sum();
                1.0 + add - 2.0 * scale * (signed - 7.0)
            };
            let strided = Strided { bytes: &sketches, stride };
            for family in families() {
                let mut glances = Glances::NONE;
                (family.planes)(&planes, &strided, &terms, &[1, 0, 2], &mut glances);
                let wanted = [naive(1), naive(0), f32::INFINITY];
                assert_eq!(glances.about[..3], wanted, "{} {words}", family.name);
                assert_eq!(glances.off[..3], [1.0, 1.0, 0.0], "{} {words}", family.name);
            }
        }
        for pairs in [0usize, 1, 3, 48, 128] {
            let mut pair = || -> Pair { std::array::from_fn(|_| draw() as u8) };
            let counts: Vec<Pair> = (0..pairs).map(|_| pair()).collect();
            let sketches: Vec<Pair> = (0..pairs).map(|_| pair()).collect();
            let sums = sketches_scalar(&counts, &sketches);
            let naive = |slot: usize| -> usize {
                let value =
                    |pair: &Pair, half: usize| usize::from(pair[half + slot % 16]) >> (slot / 16 * 4) & 15;
                let both = counts.iter().zip(&sketches);
                both.flat_map(|(c, s)| [0, 16].map(|half| usize::from(c[half + value(s, half)]))).sum()
            };
            for (slot, sum) in sums.iter().enumerate() {
                assert_eq!(usize::from(*sum), naive(slot) % 65_536, "{pairs} {slot}");
            }
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                // SAFETY: AVX2 was detected.
                assert_eq!(unsafe { x86::sketches(&counts, &sketches) }, sums, "{pairs}");
            }
            let (add, scale, error) = ([0.25; SLOTS], [-1.5; SLOTS], [2.0; SLOTS]);
            let mut links = [7; SLOTS];
            links[3] = u32::MAX;
            let block = Block { sketches: &sketches, add: &add, scale: &scale, error: &error, links: &links };
            let mean = sums.iter().map(|sum| f32::from(*sum)).sum::<f32>() / SLOTS as f32;
            let sieve =
                Sieve { step: 0.5, lowest: -3.0, doubt: -0.1, bound: -1.5 * (0.5 * mean - 3.0) + 0.04 };
            let passed = sift_scalar(&counts, &block, &sieve);
            let wanted = (0..SLOTS).filter(|slot| *slot != 3 && f32::from(sums[*slot]) > mean);
            assert_eq!(passed, wanted.fold(0, |bits, slot| bits | 1 << slot), "{pairs}");
            for family in families() {
                assert_eq!((family.sketches)(&counts, &block, &sieve), passed, "{} {pairs}", family.name);
            }
        }
    }
}

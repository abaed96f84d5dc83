//! Kernels over codes: products of signed bytes, and sums over the sketches of 32 rows at once.
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

type Bytes = fn(&[i8], &[i8]) -> i32;
type BytesFour = fn(&[i8], [&[i8]; 4]) -> [i32; 4];
type Sketches = fn(&[Pair], &Block<'_>, &Sieve) -> u32;

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
}

static SCALAR: Codes =
    Codes { name: "scalar", bytes: bytes_scalar, bytes_four: bytes_four_scalar, sketches: sift_scalar };

#[cfg(target_arch = "x86_64")]
static AVX2: Codes = Codes {
    name: "avx2",
    // SAFETY (all three): `families` hands these out only where AVX2 was detected.
    bytes: |a, b| unsafe { x86::bytes(a, b) },
    bytes_four: |query, rows| unsafe { x86::bytes_four(query, rows) },
    sketches: |counts, block, sieve| unsafe { x86::sift(counts, block, sieve) },
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

    use super::{Block, Pair, SLOTS, Sieve, bytes_scalar};

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

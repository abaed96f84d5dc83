//! Kernels over codes for x86-64 with AVX2.

use std::arch::x86_64::*;

use super::super::cut;
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
    let (query, [a, b, c, d]) = cut(query, rows);
    let (query, query_rest) = query.as_chunks::<32>();
    let (a, b, c, d) = (a.as_chunks::<32>(), b.as_chunks::<32>(), c.as_chunks::<32>(), d.as_chunks::<32>());
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
        _ => super::glance(planes.len() * 8, sketches, terms, rows, glances, |bits| planes_sum(planes, bits)),
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
        let second = _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16::<4>(pair), low_half));
        low = _mm256_add_epi16(low, first);
        low_odd = _mm256_add_epi16(low_odd, _mm256_srli_epi16::<8>(first));
        high = _mm256_add_epi16(high, second);
        high_odd = _mm256_add_epi16(high_odd, _mm256_srli_epi16::<8>(second));
    }
    let mut sums = [0; SLOTS];
    for (all, odd, at) in [(low, low_odd, 0), (high, high_odd, SLOTS / 2)] {
        let even = _mm256_sub_epi16(all, _mm256_slli_epi16::<8>(odd));
        let fold =
            |both: __m256i| _mm_add_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both));
        let (even, odd) = (fold(even), fold(odd));
        for (part, at) in [(_mm_unpacklo_epi16(even, odd), at), (_mm_unpackhi_epi16(even, odd), at + 8)] {
            // SAFETY: `at` is at most 24, so 8 numbers of 16 bits fit behind it.
            unsafe { _mm_storeu_si128(sums.as_mut_ptr().add(at).cast(), part) };
        }
    }
    sums
}

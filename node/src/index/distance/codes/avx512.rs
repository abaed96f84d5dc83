//! Kernels over codes for x86-64 with AVX-512: twice as wide as those with AVX2, products of bytes in one instruction (VNNI), set
//! bits counted by the processor (VPOPCNTDQ), and ends of rows by masks.

use std::arch::x86_64::*;

use super::super::cut;
use super::{Block, Glances, PLANES, Pair, SLOTS, Sieve, Strided, Terms};

/// Loads up to 64 bytes, zeros behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load(values: &[i8]) -> __m512i {
    match values.first_chunk::<64>() {
        // SAFETY: the array is 64 readable bytes and the load needs no alignment.
        Some(values) => unsafe { _mm512_loadu_si512(values.as_ptr().cast()) },
        None => {
            let mask = (1u64 << values.len()) - 1;
            // SAFETY: the mask leaves out what lies behind the slice, which is shorter than 64 bytes.
            unsafe { _mm512_maskz_loadu_epi8(mask, values.as_ptr()) }
        }
    }
}

/// What a row's bytes are raised by, to have no sign.
const RAISED: i32 = 128;

/// Adds the products of 64 pairs, each row's byte raised by 128: that times the sum of the query's bytes is too much, and taken
/// off at the end. Sums wrap, and come out right where the true one fits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn step(sum: __m512i, query: __m512i, row: __m512i) -> __m512i {
    let raised = _mm512_xor_si512(row, _mm512_set1_epi8(-128));
    _mm512_dpbusd_epi32(sum, raised, query)
}

/// Adds up the query's bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_up(sum: __m512i, query: __m512i) -> __m512i {
    _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), query)
}

/// Four sums for sixteen.
#[inline]
#[target_feature(enable = "avx512f")]
fn fold(sums: __m512i) -> __m128i {
    let eight = _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
    _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn bytes(query: &[i8], row: &[i8]) -> i32 {
    let len = query.len().min(row.len());
    let (mut sum, mut all) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for (query, row) in query[..len].chunks(64).zip(row[..len].chunks(64)) {
        let query = load(query);
        sum = step(sum, query, load(row));
        all = add_up(all, query);
    }
    let too_much = _mm512_mullo_epi32(all, _mm512_set1_epi32(RAISED));
    _mm512_reduce_add_epi32(_mm512_sub_epi32(sum, too_much))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn bytes_four(query: &[i8], rows: [&[i8]; 4]) -> [i32; 4] {
    // Nothing is handed to functions of arrays and iterators that takes their registers: those have no such instructions, and
    // would call it.
    let (query, [a, b, c, d]) = cut(query, rows);
    let (query, rest) = query.as_chunks::<64>();
    let (a, b, c, d) = (a.as_chunks::<64>(), b.as_chunks::<64>(), c.as_chunks::<64>(), d.as_chunks::<64>());
    let (mut sums, mut all) = ([_mm512_setzero_si512(); 4], _mm512_setzero_si512());
    for ((((query, a), b), c), d) in query.iter().zip(a.0).zip(b.0).zip(c.0).zip(d.0) {
        let query = load(query);
        all = add_up(all, query);
        for (sum, row) in sums.iter_mut().zip([a, b, c, d]) {
            *sum = step(*sum, query, load(row));
        }
    }
    if !rest.is_empty() {
        let query = load(rest);
        all = add_up(all, query);
        for (sum, row) in sums.iter_mut().zip([a.1, b.1, c.1, d.1]) {
            *sum = step(*sum, query, load(row));
        }
    }
    // The sums of four rows side by side.
    let [a, b, c, d] = sums;
    let (ab, cd) = (_mm_hadd_epi32(fold(a), fold(b)), _mm_hadd_epi32(fold(c), fold(d)));
    let all = fold(all);
    let all = _mm_hadd_epi32(all, all);
    let too_much = _mm_mullo_epi32(_mm_hadd_epi32(all, all), _mm_set1_epi32(RAISED));
    let totals = _mm_sub_epi32(_mm_hadd_epi32(ab, cd), too_much);
    let mut four = [0; 4];
    // SAFETY: the array is 16 writable bytes and the store needs no alignment.
    unsafe { _mm_storeu_si128(four.as_mut_ptr().cast(), totals) };
    four
}

#[target_feature(enable = "avx2,avx512f,avx512vpopcntdq")]
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

/// Two words of bits against their four planes each.
#[inline]
#[target_feature(enable = "avx512f,avx512vpopcntdq")]
fn planes_sum(planes: &[[u64; PLANES]], bits: &[u8]) -> u32 {
    let spread = _mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1);
    let mut counts = _mm512_setzero_si512();
    let ((pairs, last), (words, last_word)) = (planes.as_chunks::<2>(), bits.as_chunks::<16>());
    for (planes, words) in pairs.iter().zip(words) {
        // SAFETY: the arrays are 64 and 16 readable bytes and the loads need no alignment.
        let (planes, words) =
            unsafe { (_mm512_loadu_si512(planes.as_ptr().cast()), _mm_loadu_si128(words.as_ptr().cast())) };
        let words = _mm512_permutexvar_epi64(spread, _mm512_castsi128_si512(words));
        counts = _mm512_add_epi64(counts, _mm512_popcnt_epi64(_mm512_and_si512(planes, words)));
    }
    if let ([planes], Some(word)) = (last, last_word.first_chunk::<8>()) {
        // SAFETY: the array is 32 readable bytes and the load needs no alignment.
        let planes = unsafe { _mm256_loadu_si256(planes.as_ptr().cast()) };
        let both = _mm256_and_si256(planes, _mm256_set1_epi64x(i64::from_le_bytes(*word)));
        counts = _mm512_add_epi64(counts, _mm512_popcnt_epi64(_mm512_zextsi256_si512(both)));
    }
    let weighed = _mm512_sllv_epi64(counts, _mm512_setr_epi64(0, 1, 2, 3, 0, 1, 2, 3));
    _mm512_reduce_add_epi64(weighed) as u32
}

/// What `add + scale * (step * sum + lowest) + doubt * error` leaves of sixteen rows: as every family does, step by step.
#[inline]
#[target_feature(enable = "avx512f")]
fn sift_half(sums: __m256i, half: usize, block: &Block<'_>, sieve: &Sieve) -> u16 {
    const HALF: usize = SLOTS / 2;
    let floats = |all: &[f32; SLOTS]| {
        let [first, second] = [&all[..HALF], &all[HALF..]];
        let part = if half == 0 { first } else { second };
        // SAFETY: both parts are 16 readable floats and the load needs no alignment.
        unsafe { _mm512_loadu_ps(part.as_ptr()) }
    };
    let links = if half == 0 { &block.links[..HALF] } else { &block.links[HALF..] };
    // SAFETY: both parts are 16 readable numbers and the load needs no alignment.
    let links = unsafe { _mm512_loadu_si512(links.as_ptr().cast()) };
    let sums = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(sums));
    let signed = _mm512_add_ps(_mm512_mul_ps(_mm512_set1_ps(sieve.step), sums), _mm512_set1_ps(sieve.lowest));
    let near = _mm512_add_ps(floats(block.add), _mm512_mul_ps(floats(block.scale), signed));
    let off = _mm512_mul_ps(_mm512_set1_ps(sieve.doubt), floats(block.error));
    let at_least = _mm512_add_ps(near, off);
    let within = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(at_least, _mm512_set1_ps(sieve.bound));
    let no_number = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(at_least, at_least);
    (within | no_number) & _mm512_cmpneq_epi32_mask(links, _mm512_set1_epi32(-1))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn sift(counts: &[Pair], block: &Block<'_>, sieve: &Sieve) -> u32 {
    let [first, second] = sums(counts, block.sketches);
    let (first, second) = (sift_half(first, 0, block, sieve), sift_half(second, 1, block, sieve));
    u32::from(second) << 16 | u32::from(first)
}

/// A pair, and zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_pair(pair: &Pair) -> __m512i {
    // SAFETY: the array is 32 readable bytes and the load needs no alignment.
    _mm512_zextsi256_si512(unsafe { _mm256_loadu_si256(pair.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_pairs(pairs: &[Pair; 2]) -> __m512i {
    // SAFETY: the array is 64 readable bytes and the load needs no alignment.
    unsafe { _mm512_loadu_si512(pairs.as_ptr().cast()) }
}

/// Sums of the first sixteen sketches and of the others. Bytes are summed in 16 bits: those at even places carry the odd ones
/// times 256, which are summed apart and taken off at the end. The four quarters of a register are the groups of two pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn sums(counts: &[Pair], sketches: &[Pair]) -> [__m256i; 2] {
    let low_half = _mm512_set1_epi8(15);
    let (mut low, mut low_odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    let (mut high, mut high_odd) = (low, low);
    let mut add = |counts: __m512i, pairs: __m512i| {
        let first = _mm512_shuffle_epi8(counts, _mm512_and_si512(pairs, low_half));
        let second = _mm512_shuffle_epi8(counts, _mm512_and_si512(_mm512_srli_epi16::<4>(pairs), low_half));
        low = _mm512_add_epi16(low, first);
        low_odd = _mm512_add_epi16(low_odd, _mm512_srli_epi16::<8>(first));
        high = _mm512_add_epi16(high, second);
        high_odd = _mm512_add_epi16(high_odd, _mm512_srli_epi16::<8>(second));
    };
    let len = counts.len().min(sketches.len());
    let ((counts, last), (sketches, last_sketches)) =
        (counts[..len].as_chunks::<2>(), sketches[..len].as_chunks::<2>());
    for (counts, pairs) in counts.iter().zip(sketches) {
        add(load_pairs(counts), load_pairs(pairs));
    }
    if let ([counts], [pair]) = (last, last_sketches) {
        add(load_pair(counts), load_pair(pair));
    }
    [sums_of_both(low, low_odd), sums_of_both(high, high_odd)]
}

/// Sums of sixteen sketches, of those at even and at odd places, over the four quarters.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn sums_of_both(all: __m512i, odd: __m512i) -> __m256i {
    let even = _mm512_sub_epi16(all, _mm512_slli_epi16::<8>(odd));
    let fold = |sums: __m512i| {
        let two = _mm256_add_epi16(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
        _mm_add_epi16(_mm256_castsi256_si128(two), _mm256_extracti128_si256::<1>(two))
    };
    let (even, odd) = (fold(even), fold(odd));
    _mm256_set_m128i(_mm_unpackhi_epi16(even, odd), _mm_unpacklo_epi16(even, odd))
}

/// All sums, as tests look at them.
#[cfg(test)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn sketches(counts: &[Pair], sketches: &[Pair]) -> [u16; SLOTS] {
    let mut all = [0; SLOTS];
    for (part, sums) in all.as_chunks_mut::<{ SLOTS / 2 }>().0.iter_mut().zip(sums(counts, sketches)) {
        // SAFETY: the part is 32 writable bytes and the store needs no alignment.
        unsafe { _mm256_storeu_si256(part.as_mut_ptr().cast(), sums) };
    }
    all
}

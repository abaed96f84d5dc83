//! Sums over 16-bit floats, bytes and bits that lie packed in words, and the cosine, which is three sums at once.

use std::arch::x86_64::*;

use bytemuck::cast_slice;

use super::super::scalar::byte_sums;
use super::super::{ANGLE, DOT, L2, finish_bytes, finish_floats, padded};
use super::{load8, load16, step8, step16, total8};

/// Adds what eight pairs come to.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add8<const OP: u8>(sums: &mut [__m256; 3], x: __m256, y: __m256) {
    sums[0] = step8::<OP>(sums[0], x, y);
    if OP == ANGLE {
        sums[1] = step8::<DOT>(sums[1], x, x);
        sums[2] = step8::<DOT>(sums[2], y, y);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn finish8<const OP: u8>(even: [__m256; 3], odd: [__m256; 3]) -> f32 {
    let mut sums = [0.0; 3];
    for i in 0..3 {
        sums[i] = total8(_mm256_add_ps(even[i], odd[i]));
    }
    finish_floats::<OP>(sums)
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn angle8(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let ((a, a_rest), (b, b_rest)) = (a[..len].as_chunks::<16>(), b[..len].as_chunks::<16>());
    let (mut even, mut odd) = ([_mm256_setzero_ps(); 3], [_mm256_setzero_ps(); 3]);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x.as_chunks::<8>().0, y.as_chunks::<8>().0);
        add8::<ANGLE>(&mut even, load8(&x[0]), load8(&y[0]));
        add8::<ANGLE>(&mut odd, load8(&x[1]), load8(&y[1]));
    }
    for (x, y) in a_rest.chunks(8).zip(b_rest.chunks(8)) {
        add8::<ANGLE>(&mut even, load8(&padded(x)), load8(&padded(y)));
    }
    finish8::<ANGLE>(even, odd)
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen8(halves: &[u16; 8]) -> __m256 {
    // SAFETY: the array is 16 readable bytes and the load needs no alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(halves.as_ptr().cast()) })
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn halves8<const OP: u8>(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a, b): (&[u16], &[u16]) = (cast_slice(&a[..len]), cast_slice(&b[..len]));
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let (mut even, mut odd) = ([_mm256_setzero_ps(); 3], [_mm256_setzero_ps(); 3]);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x.as_chunks::<8>().0, y.as_chunks::<8>().0);
        add8::<OP>(&mut even, widen8(&x[0]), widen8(&y[0]));
        add8::<OP>(&mut odd, widen8(&x[1]), widen8(&y[1]));
    }
    for (x, y) in a_rest.chunks(8).zip(b_rest.chunks(8)) {
        add8::<OP>(&mut even, widen8(&padded(x)), widen8(&padded(y)));
    }
    finish8::<OP>(even, odd)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add16<const OP: u8>(sums: &mut [__m512; 3], x: __m512, y: __m512) {
    sums[0] = step16::<OP>(sums[0], x, y);
    if OP == ANGLE {
        sums[1] = step16::<DOT>(sums[1], x, x);
        sums[2] = step16::<DOT>(sums[2], y, y);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn finish16<const OP: u8>(even: [__m512; 3], odd: [__m512; 3]) -> f32 {
    let mut sums = [0.0; 3];
    for i in 0..3 {
        sums[i] = _mm512_reduce_add_ps(_mm512_add_ps(even[i], odd[i]));
    }
    finish_floats::<OP>(sums)
}

#[target_feature(enable = "avx512f")]
pub(super) fn angle16(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let ((a, a_rest), (b, b_rest)) = (a[..len].as_chunks::<32>(), b[..len].as_chunks::<32>());
    let (mut even, mut odd) = ([_mm512_setzero_ps(); 3], [_mm512_setzero_ps(); 3]);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x.as_chunks::<16>().0, y.as_chunks::<16>().0);
        add16::<ANGLE>(&mut even, load16(&x[0]), load16(&y[0]));
        add16::<ANGLE>(&mut odd, load16(&x[1]), load16(&y[1]));
    }
    for (x, y) in a_rest.chunks(16).zip(b_rest.chunks(16)) {
        add16::<ANGLE>(&mut even, load16(&padded(x)), load16(&padded(y)));
    }
    finish16::<ANGLE>(even, odd)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen16(halves: &[u16; 16]) -> __m512 {
    // SAFETY: the array is 32 readable bytes and the load needs no alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(halves.as_ptr().cast()) })
}

#[target_feature(enable = "avx512f")]
pub(super) fn halves16<const OP: u8>(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a, b): (&[u16], &[u16]) = (cast_slice(&a[..len]), cast_slice(&b[..len]));
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<32>(), b.as_chunks::<32>());
    let (mut even, mut odd) = ([_mm512_setzero_ps(); 3], [_mm512_setzero_ps(); 3]);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x.as_chunks::<16>().0, y.as_chunks::<16>().0);
        add16::<OP>(&mut even, widen16(&x[0]), widen16(&y[0]));
        add16::<OP>(&mut odd, widen16(&x[1]), widen16(&y[1]));
    }
    for (x, y) in a_rest.chunks(16).zip(b_rest.chunks(16)) {
        add16::<OP>(&mut even, widen16(&padded(x)), widen16(&padded(y)));
    }
    finish16::<OP>(even, odd)
}

/// Sixteen bytes as numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn shorts16(bytes: &[i8; 16]) -> __m256i {
    // SAFETY: the array is 16 readable bytes and the load needs no alignment.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn total_of_integers(sums: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
}

#[target_feature(enable = "avx2")]
pub(super) fn bytes16<const OP: u8>(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a, b): (&[i8], &[i8]) = (cast_slice(&a[..len]), cast_slice(&b[..len]));
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [_mm256_setzero_si256(); 3];
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (shorts16(x), shorts16(y));
        let products = match OP {
            DOT | ANGLE => _mm256_madd_epi16(x, y),
            L2 => {
                let difference = _mm256_sub_epi16(x, y);
                _mm256_madd_epi16(difference, difference)
            }
            _ => _mm256_madd_epi16(_mm256_abs_epi16(_mm256_sub_epi16(x, y)), _mm256_set1_epi16(1)),
        };
        sums[0] = _mm256_add_epi32(sums[0], products);
        if OP == ANGLE {
            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(x, x));
            sums[2] = _mm256_add_epi32(sums[2], _mm256_madd_epi16(y, y));
        }
    }
    let mut totals = byte_sums::<OP>(a_rest, b_rest);
    for i in 0..3 {
        totals[i] = totals[i].wrapping_add(total_of_integers(sums[i]));
    }
    finish_bytes::<OP>(totals)
}

/// Thirty-two bytes as numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn shorts32(bytes: &[i8; 32]) -> __m512i {
    // SAFETY: the array is 32 readable bytes and the load needs no alignment.
    _mm512_cvtepi8_epi16(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}

#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn bytes32<const OP: u8>(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a, b): (&[i8], &[i8]) = (cast_slice(&a[..len]), cast_slice(&b[..len]));
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<32>(), b.as_chunks::<32>());
    let mut sums = [_mm512_setzero_si512(); 3];
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (shorts32(x), shorts32(y));
        let products = match OP {
            DOT | ANGLE => _mm512_madd_epi16(x, y),
            L2 => {
                let difference = _mm512_sub_epi16(x, y);
                _mm512_madd_epi16(difference, difference)
            }
            _ => _mm512_madd_epi16(_mm512_abs_epi16(_mm512_sub_epi16(x, y)), _mm512_set1_epi16(1)),
        };
        sums[0] = _mm512_add_epi32(sums[0], products);
        if OP == ANGLE {
            sums[1] = _mm512_add_epi32(sums[1], _mm512_madd_epi16(x, x));
            sums[2] = _mm512_add_epi32(sums[2], _mm512_madd_epi16(y, y));
        }
    }
    let mut totals = byte_sums::<OP>(a_rest, b_rest);
    for i in 0..3 {
        totals[i] = totals[i].wrapping_add(_mm512_reduce_add_epi32(sums[i]));
    }
    finish_bytes::<OP>(totals)
}

/// Products of bytes, those of `b` raised by 128 to have no sign; what that adds is taken off at the end. Sums wrap.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn byte_products(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let ((a, a_rest), (b, b_rest)) = (a[..len].as_chunks::<16>(), b[..len].as_chunks::<16>());
    let (mut sum, mut all) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    let mut add = |x: __m512, y: __m512| {
        let (x, y) = (_mm512_castps_si512(x), _mm512_castps_si512(y));
        sum = _mm512_dpbusd_epi32(sum, _mm512_xor_si512(y, _mm512_set1_epi8(-128)), x);
        all = _mm512_dpbusd_epi32(all, _mm512_set1_epi8(1), x);
    };
    for (x, y) in a.iter().zip(b) {
        add(load16(x), load16(y));
    }
    if !a_rest.is_empty() {
        add(load_rest(a_rest), load_rest(b_rest));
    }
    let too_much = _mm512_slli_epi32::<7>(all);
    finish_bytes::<DOT>([_mm512_reduce_add_epi32(_mm512_sub_epi32(sum, too_much)), 0, 0])
}

/// Fewer than sixteen words, and zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_rest(words: &[f32]) -> __m512 {
    let mask = (1u16 << words.len().min(15)) - 1;
    // SAFETY: the mask leaves out what lies behind the slice.
    unsafe { _mm512_maskz_loadu_ps(mask, words.as_ptr()) }
}

/// How many bits differ.
#[target_feature(enable = "avx512f,avx512vpopcntdq")]
pub(super) fn bits64(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let ((a, a_rest), (b, b_rest)) = (a[..len].as_chunks::<16>(), b[..len].as_chunks::<16>());
    let mut sums = _mm512_setzero_si512();
    let mut add = |x: __m512, y: __m512| {
        let differ = _mm512_xor_si512(_mm512_castps_si512(x), _mm512_castps_si512(y));
        sums = _mm512_add_epi64(sums, _mm512_popcnt_epi64(differ));
    };
    for (x, y) in a.iter().zip(b) {
        add(load16(x), load16(y));
    }
    if !a_rest.is_empty() {
        add(load_rest(a_rest), load_rest(b_rest));
    }
    _mm512_reduce_add_epi64(sums) as f32
}

/// How many bits differ: set bits of each half byte are looked up, and bytes are summed by eights.
#[target_feature(enable = "avx2,popcnt")]
pub(super) fn bits(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a, b): (&[u8], &[u8]) = (cast_slice(&a[..len]), cast_slice(&b[..len]));
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<32>(), b.as_chunks::<32>());
    let counts = _mm256_setr_epi8(
        0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
    );
    let low = _mm256_set1_epi8(15);
    let mut sums = _mm256_setzero_si256();
    for (x, y) in a.iter().zip(b) {
        // SAFETY: the arrays are 32 readable bytes and the loads need no alignment.
        let (x, y) =
            unsafe { (_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(y.as_ptr().cast())) };
        let differ = _mm256_xor_si256(x, y);
        let halves = [_mm256_and_si256(differ, low), _mm256_and_si256(_mm256_srli_epi16::<4>(differ), low)];
        let count =
            _mm256_add_epi8(_mm256_shuffle_epi8(counts, halves[0]), _mm256_shuffle_epi8(counts, halves[1]));
        sums = _mm256_add_epi64(sums, _mm256_sad_epu8(count, _mm256_setzero_si256()));
    }
    let mut rest = 0;
    for (x, y) in a_rest.as_chunks::<4>().0.iter().zip(b_rest.as_chunks::<4>().0) {
        rest += (u32::from_le_bytes(*x) ^ u32::from_le_bytes(*y)).count_ones();
    }
    // A count is far below 32 bits: the upper halves of the four sums are zero.
    (total_of_integers(sums) as u32 + rest) as f32
}

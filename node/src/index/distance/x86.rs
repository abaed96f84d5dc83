//! Kernels for x86-64: AVX-512 and AVX2 with FMA and 16-bit floats.
//!
//! The sums are safe functions that need an instruction set; the entries of a [`Family`] call them through
//! `unsafe`, and a family is only handed out after the processor said that it has the set.

mod narrow;

use std::arch::is_x86_feature_detected;
use std::arch::x86_64::*;

use super::{ANGLE, DOT, Family, L1, L2, cut, padded};

/// What came with AVX-512 later: products of bytes in one instruction, and a count of set bits.
static AVX512_VNNI: Family = Family {
    byte: [
        // SAFETY (all): `families` hands this family out only where VNNI and VPOPCNTDQ were detected too.
        |a, b| unsafe { narrow::byte_products(a, b) },
        AVX512.byte[1],
        AVX512.byte[2],
        AVX512.byte[3],
    ],
    bits: |a, b| unsafe { narrow::bits64(a, b) },
    ..AVX512
};

const AVX512: Family = Family {
    name: "avx512",
    // SAFETY (all): `families` hands this family out only where AVX-512F and AVX-512BW were detected.
    dot: |a, b| unsafe { avx512_one::<DOT>(a, b) },
    l2: |a, b| unsafe { avx512_one::<L2>(a, b) },
    l1: |a, b| unsafe { avx512_one::<L1>(a, b) },
    dot_four: |query, rows| unsafe { avx512_four::<DOT>(query, rows) },
    l2_four: |query, rows| unsafe { avx512_four::<L2>(query, rows) },
    l1_four: |query, rows| unsafe { avx512_four::<L1>(query, rows) },
    angle: |a, b| unsafe { narrow::angle16(a, b) },
    half: [
        |a, b| unsafe { narrow::halves16::<DOT>(a, b) },
        |a, b| unsafe { narrow::halves16::<ANGLE>(a, b) },
        |a, b| unsafe { narrow::halves16::<L2>(a, b) },
        |a, b| unsafe { narrow::halves16::<L1>(a, b) },
    ],
    byte: [
        |a, b| unsafe { narrow::bytes32::<DOT>(a, b) },
        |a, b| unsafe { narrow::bytes32::<ANGLE>(a, b) },
        |a, b| unsafe { narrow::bytes32::<L2>(a, b) },
        |a, b| unsafe { narrow::bytes32::<L1>(a, b) },
    ],
    // SAFETY: AVX2 and POPCNT were detected too.
    bits: |a, b| unsafe { narrow::bits(a, b) },
};

static AVX512_FIRST: Family = AVX512;

static AVX2: Family = Family {
    name: "avx2",
    // SAFETY (all): `families` hands this family out only where AVX2, FMA, F16C and POPCNT were detected.
    dot: |a, b| unsafe { avx2_one::<DOT>(a, b) },
    l2: |a, b| unsafe { avx2_one::<L2>(a, b) },
    l1: |a, b| unsafe { avx2_one::<L1>(a, b) },
    dot_four: |query, rows| unsafe { avx2_four::<DOT>(query, rows) },
    l2_four: |query, rows| unsafe { avx2_four::<L2>(query, rows) },
    l1_four: |query, rows| unsafe { avx2_four::<L1>(query, rows) },
    angle: |a, b| unsafe { narrow::angle8(a, b) },
    half: [
        |a, b| unsafe { narrow::halves8::<DOT>(a, b) },
        |a, b| unsafe { narrow::halves8::<ANGLE>(a, b) },
        |a, b| unsafe { narrow::halves8::<L2>(a, b) },
        |a, b| unsafe { narrow::halves8::<L1>(a, b) },
    ],
    byte: [
        |a, b| unsafe { narrow::bytes16::<DOT>(a, b) },
        |a, b| unsafe { narrow::bytes16::<ANGLE>(a, b) },
        |a, b| unsafe { narrow::bytes16::<L2>(a, b) },
        |a, b| unsafe { narrow::bytes16::<L1>(a, b) },
    ],
    bits: |a, b| unsafe { narrow::bits(a, b) },
};

/// The families this processor has, best first.
pub(super) fn families() -> impl Iterator<Item = &'static Family> {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let avx512 = avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    let later =
        avx512 && is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vpopcntdq");
    [later.then_some(&AVX512_VNNI), avx512.then_some(&AVX512_FIRST), avx2.then_some(&AVX2)]
        .into_iter()
        .flatten()
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load8(values: &[f32; 8]) -> __m256 {
    // SAFETY: the array is 8 readable floats and the load needs no alignment.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

/// Adds the products of `x` and `y`, their squared or their absolute differences to `sum`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn step8<const OP: u8>(sum: __m256, x: __m256, y: __m256) -> __m256 {
    match OP {
        L2 => {
            let difference = _mm256_sub_ps(x, y);
            _mm256_fmadd_ps(difference, difference, sum)
        }
        L1 => _mm256_add_ps(sum, _mm256_andnot_ps(_mm256_set1_ps(-0.0), _mm256_sub_ps(x, y))),
        _ => _mm256_fmadd_ps(x, y, sum),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn total8(sums: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

#[target_feature(enable = "avx2,fma")]
fn avx2_one<const OP: u8>(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    let mut sums = [_mm256_setzero_ps(); 4];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<32>(), b.as_chunks::<32>());
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x.as_chunks::<8>().0, y.as_chunks::<8>().0);
        for i in 0..4 {
            sums[i] = step8::<OP>(sums[i], load8(&x[i]), load8(&y[i]));
        }
    }
    let ((a, a_rest), (b, b_rest)) = (a_rest.as_chunks::<8>(), b_rest.as_chunks::<8>());
    for (x, y) in a.iter().zip(b) {
        sums[0] = step8::<OP>(sums[0], load8(x), load8(y));
    }
    if !a_rest.is_empty() {
        sums[1] = step8::<OP>(sums[1], load8(&padded(a_rest)), load8(&padded(b_rest)));
    }
    total8(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])))
}

#[target_feature(enable = "avx2,fma")]
fn avx2_four<const OP: u8>(query: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let (query, [a, b, c, d]) = cut(query, rows);
    let mut even = [_mm256_setzero_ps(); 4];
    let mut odd = even;
    let (query, query_rest) = query.as_chunks::<16>();
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    let (c, c_rest) = c.as_chunks::<16>();
    let (d, d_rest) = d.as_chunks::<16>();
    for ((((q, a), b), c), d) in query.iter().zip(a).zip(b).zip(c).zip(d) {
        let q = q.as_chunks::<8>().0;
        let (low, high) = (load8(&q[0]), load8(&q[1]));
        for (i, row) in [a, b, c, d].into_iter().enumerate() {
            let row = row.as_chunks::<8>().0;
            even[i] = step8::<OP>(even[i], low, load8(&row[0]));
            odd[i] = step8::<OP>(odd[i], high, load8(&row[1]));
        }
    }
    if !query_rest.is_empty() {
        let q = padded::<_, 16>(query_rest);
        let q = q.as_chunks::<8>().0;
        for (i, rest) in [a_rest, b_rest, c_rest, d_rest].into_iter().enumerate() {
            let row = padded::<_, 16>(rest);
            let row = row.as_chunks::<8>().0;
            even[i] = step8::<OP>(even[i], load8(&q[0]), load8(&row[0]));
            odd[i] = step8::<OP>(odd[i], load8(&q[1]), load8(&row[1]));
        }
    }
    let mut totals = [0.0; 4];
    for i in 0..4 {
        totals[i] = total8(_mm256_add_ps(even[i], odd[i]));
    }
    totals
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load16(values: &[f32; 16]) -> __m512 {
    // SAFETY: the array is 16 readable floats and the load needs no alignment.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

/// [`step8`], sixteen at a time.
#[inline]
#[target_feature(enable = "avx512f")]
fn step16<const OP: u8>(sum: __m512, x: __m512, y: __m512) -> __m512 {
    match OP {
        L2 => {
            let difference = _mm512_sub_ps(x, y);
            _mm512_fmadd_ps(difference, difference, sum)
        }
        L1 => _mm512_add_ps(sum, _mm512_abs_ps(_mm512_sub_ps(x, y))),
        _ => _mm512_fmadd_ps(x, y, sum),
    }
}

#[target_feature(enable = "avx512f")]
fn avx512_one<const OP: u8>(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    let mut sums = [_mm512_setzero_ps(); 4];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<64>(), b.as_chunks::<64>());
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x.as_chunks::<16>().0, y.as_chunks::<16>().0);
        for i in 0..4 {
            sums[i] = step16::<OP>(sums[i], load16(&x[i]), load16(&y[i]));
        }
    }
    let ((a, a_rest), (b, b_rest)) = (a_rest.as_chunks::<16>(), b_rest.as_chunks::<16>());
    for (x, y) in a.iter().zip(b) {
        sums[0] = step16::<OP>(sums[0], load16(x), load16(y));
    }
    if !a_rest.is_empty() {
        sums[1] = step16::<OP>(sums[1], load16(&padded(a_rest)), load16(&padded(b_rest)));
    }
    let sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
    _mm512_reduce_add_ps(sum)
}

#[target_feature(enable = "avx512f")]
fn avx512_four<const OP: u8>(query: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let (query, [a, b, c, d]) = cut(query, rows);
    let mut sums = [_mm512_setzero_ps(); 4];
    let (query, query_rest) = query.as_chunks::<16>();
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    let (c, c_rest) = c.as_chunks::<16>();
    let (d, d_rest) = d.as_chunks::<16>();
    for ((((q, a), b), c), d) in query.iter().zip(a).zip(b).zip(c).zip(d) {
        let q = load16(q);
        for (i, row) in [a, b, c, d].into_iter().enumerate() {
            sums[i] = step16::<OP>(sums[i], q, load16(row));
        }
    }
    if !query_rest.is_empty() {
        let q = load16(&padded(query_rest));
        for (i, rest) in [a_rest, b_rest, c_rest, d_rest].into_iter().enumerate() {
            sums[i] = step16::<OP>(sums[i], q, load16(&padded(rest)));
        }
    }
    let mut totals = [0.0; 4];
    for i in 0..4 {
        totals[i] = _mm512_reduce_add_ps(sums[i]);
    }
    totals
}

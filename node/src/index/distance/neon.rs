//! Kernels for 64-bit ARM, where NEON is part of the base instruction set.

mod narrow;

use std::arch::aarch64::*;

use super::{ANGLE, DOT, Family, L1, L2, cut, padded, scalar};

pub(super) static FAMILY: Family = Family {
    name: "neon",
    dot: one::<DOT>,
    l2: one::<L2>,
    l1: one::<L1>,
    dot_four: four::<DOT>,
    l2_four: four::<L2>,
    l1_four: four::<L1>,
    angle: narrow::angle,
    half: [scalar::halves::<DOT>, scalar::halves::<ANGLE>, scalar::halves::<L2>, scalar::halves::<L1>],
    byte: [narrow::bytes::<DOT>, narrow::bytes::<ANGLE>, narrow::bytes::<L2>, narrow::bytes::<L1>],
    bits: narrow::bits,
};

#[inline]
fn load(values: &[f32; 4]) -> float32x4_t {
    // SAFETY: the array is 4 readable floats, the load needs no alignment, and every aarch64 target has NEON.
    unsafe { vld1q_f32(values.as_ptr()) }
}

#[inline]
fn zero() -> float32x4_t {
    load(&[0.0; 4])
}

/// Adds the products of `x` and `y`, their squared or their absolute differences to `sum`.
#[inline]
#[allow(unused_unsafe)]
fn step<const OP: u8>(sum: float32x4_t, x: float32x4_t, y: float32x4_t) -> float32x4_t {
    // SAFETY: arithmetic on registers; every aarch64 target has NEON.
    unsafe {
        match OP {
            L2 => {
                let difference = vsubq_f32(x, y);
                vfmaq_f32(sum, difference, difference)
            }
            L1 => vaddq_f32(sum, vabdq_f32(x, y)),
            _ => vfmaq_f32(sum, x, y),
        }
    }
}

#[inline]
#[allow(unused_unsafe)]
fn total(sums: [float32x4_t; 4]) -> f32 {
    // SAFETY: arithmetic on registers; every aarch64 target has NEON.
    unsafe { vaddvq_f32(vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3]))) }
}

fn one<const OP: u8>(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let ((a, a_rest), (b, b_rest)) = (a[..len].as_chunks::<16>(), b[..len].as_chunks::<16>());
    let mut sums = [zero(); 4];
    for (x, y) in a.iter().zip(b) {
        block::<OP>(&mut sums, x, y);
    }
    if !a_rest.is_empty() {
        block::<OP>(&mut sums, &padded(a_rest), &padded(b_rest));
    }
    total(sums)
}

#[inline]
fn block<const OP: u8>(sums: &mut [float32x4_t; 4], x: &[f32; 16], y: &[f32; 16]) {
    for (sum, (x, y)) in sums.iter_mut().zip(x.as_chunks::<4>().0.iter().zip(y.as_chunks::<4>().0)) {
        *sum = step::<OP>(*sum, load(x), load(y));
    }
}

fn four<const OP: u8>(query: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let (query, [a, b, c, d]) = cut(query, rows);
    let mut sums = [[zero(); 4]; 4];
    let (query, query_rest) = query.as_chunks::<16>();
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    let (c, c_rest) = c.as_chunks::<16>();
    let (d, d_rest) = d.as_chunks::<16>();
    for ((((q, a), b), c), d) in query.iter().zip(a).zip(b).zip(c).zip(d) {
        for (sums, row) in sums.iter_mut().zip([a, b, c, d]) {
            block::<OP>(sums, q, row);
        }
    }
    if !query_rest.is_empty() {
        let q = padded(query_rest);
        for (sums, rest) in sums.iter_mut().zip([a_rest, b_rest, c_rest, d_rest]) {
            block::<OP>(sums, &q, &padded(rest));
        }
    }
    sums.map(total)
}

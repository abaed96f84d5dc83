//! Sums over bytes and bits that lie packed in words, and the cosine, which is three sums at once. 16-bit floats are left to
//! the compiler: [`super::super::scalar`] widens them with integer steps that it turns into vector ones.

use std::arch::aarch64::*;

use bytemuck::cast_slice;

use super::super::scalar::byte_sums;
use super::super::{ANGLE, DOT, L2, finish_bytes, finish_floats, padded};
use super::{load, step, total, zero};

pub(super) fn angle(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let ((a, a_rest), (b, b_rest)) = (a[..len].as_chunks::<4>(), b[..len].as_chunks::<4>());
    let mut sums = [zero(); 3];
    let mut add = |x: &[f32; 4], y: &[f32; 4]| {
        let (x, y) = (load(x), load(y));
        for (sum, (x, y)) in sums.iter_mut().zip([(x, y), (x, x), (y, y)]) {
            *sum = step::<DOT>(*sum, x, y);
        }
    };
    a.iter().zip(b).for_each(|(x, y)| add(x, y));
    add(&padded(a_rest), &padded(b_rest));
    finish_floats::<ANGLE>(sums.map(|sum| total([sum, zero(), zero(), zero()])))
}

#[allow(unused_unsafe)]
pub(super) fn bytes<const OP: u8>(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a, b): (&[i8], &[i8]) = (cast_slice(&a[..len]), cast_slice(&b[..len]));
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut totals = byte_sums::<OP>(a_rest, b_rest);
    // SAFETY: each load reads the 8 bytes of an array and needs no alignment; every aarch64 target has NEON.
    unsafe {
        let mut sums = [vdupq_n_s32(0); 3];
        for (x, y) in a.iter().zip(b) {
            let (x, y) = (vld1_s8(x.as_ptr()), vld1_s8(y.as_ptr()));
            let terms = match OP {
                DOT | ANGLE => vmull_s8(x, y),
                _ => vabdl_s8(x, y),
            };
            sums[0] = match OP {
                L2 => vmlal_s16(
                    vmlal_s16(sums[0], vget_low_s16(terms), vget_low_s16(terms)),
                    vget_high_s16(terms),
                    vget_high_s16(terms),
                ),
                _ => vpadalq_s16(sums[0], terms),
            };
            if OP == ANGLE {
                sums[1] = vpadalq_s16(sums[1], vmull_s8(x, x));
                sums[2] = vpadalq_s16(sums[2], vmull_s8(y, y));
            }
        }
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total = total.wrapping_add(vaddvq_s32(sum));
        }
    }
    finish_bytes::<OP>(totals)
}

#[allow(unused_unsafe)]
pub(super) fn bits(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a, b): (&[u8], &[u8]) = (cast_slice(&a[..len]), cast_slice(&b[..len]));
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let rest: u32 = a_rest.iter().zip(b_rest).map(|(x, y)| (x ^ y).count_ones()).sum();
    // SAFETY: each load reads the 16 bytes of an array and needs no alignment; every aarch64 target has NEON.
    let whole: u32 = unsafe {
        let count = |(x, y): (&[u8; 16], &[u8; 16])| {
            u32::from(vaddlvq_u8(vcntq_u8(veorq_u8(vld1q_u8(x.as_ptr()), vld1q_u8(y.as_ptr())))))
        };
        a.iter().zip(b).map(count).sum()
    };
    (whole + rest) as f32
}

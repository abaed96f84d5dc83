//! Kernels for any processor, and the reference that the others are tested against.

use bytemuck::cast_slice;

use super::half::from_half;
use super::{ANGLE, DOT, Family, L1, L2, cut, finish_bytes, finish_floats};

pub(super) static FAMILY: Family = Family {
    name: "scalar",
    dot: floats::<DOT>,
    l2: floats::<L2>,
    l1: floats::<L1>,
    dot_four: floats_four::<DOT>,
    l2_four: floats_four::<L2>,
    l1_four: floats_four::<L1>,
    angle: floats::<ANGLE>,
    half: [halves::<DOT>, halves::<ANGLE>, halves::<L2>, halves::<L1>],
    byte: [bytes::<DOT>, bytes::<ANGLE>, bytes::<L2>, bytes::<L1>],
    bits,
};

/// Independent sums, so that the compiler may use whatever vectors the target's baseline has.
const LANES: usize = 8;

/// What one pair adds to the sums.
#[inline]
fn terms<const OP: u8>(x: f32, y: f32) -> [f32; 3] {
    match OP {
        DOT => [x * y, 0.0, 0.0],
        ANGLE => [x * y, x * x, y * y],
        L2 => [(x - y) * (x - y), 0.0, 0.0],
        _ => [(x - y).abs(), 0.0, 0.0],
    }
}

fn sums<const OP: u8, T: Copy>(a: &[T], b: &[T], widen: impl Fn(T) -> f32) -> f32 {
    let len = a.len().min(b.len());
    let (a, a_tail) = a[..len].as_chunks::<LANES>();
    let (b, b_tail) = b[..len].as_chunks::<LANES>();
    let mut sums = [[0.0; LANES]; 3];
    let mut add = |lane: usize, x: T, y: T| {
        let terms = terms::<OP>(widen(x), widen(y));
        sums[0][lane] += terms[0];
        if OP == ANGLE {
            sums[1][lane] += terms[1];
            sums[2][lane] += terms[2];
        }
    };
    for (x, y) in a.iter().zip(b) {
        for lane in 0..LANES {
            add(lane, x[lane], y[lane]);
        }
    }
    a_tail.iter().zip(b_tail).enumerate().for_each(|(lane, (x, y))| add(lane, *x, *y));
    finish_floats::<OP>(sums.map(|lanes| lanes.iter().sum()))
}

fn floats<const OP: u8>(a: &[f32], b: &[f32]) -> f32 {
    sums::<OP, f32>(a, b, |x| x)
}

fn floats_four<const OP: u8>(query: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let (query, rows) = cut(query, rows);
    rows.map(|row| floats::<OP>(query, row))
}

/// 16-bit floats in the words of the two slices.
pub(super) fn halves<const OP: u8>(a: &[f32], b: &[f32]) -> f32 {
    sums::<OP, u16>(cast_slice(a), cast_slice(b), from_half)
}

/// Signed bytes in the words of the two slices.
fn bytes<const OP: u8>(a: &[f32], b: &[f32]) -> f32 {
    finish_bytes::<OP>(byte_sums::<OP>(cast_slice(a), cast_slice(b)))
}

/// The sums of signed bytes; those of squares wrap, to be read without a sign.
pub(super) fn byte_sums<const OP: u8>(a: &[i8], b: &[i8]) -> [i32; 3] {
    let mut sums = [0_i32; 3];
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (i32::from(*x), i32::from(*y));
        let terms = match OP {
            DOT => [x * y, 0, 0],
            ANGLE => [x * y, x * x, y * y],
            L2 => [(x - y) * (x - y), 0, 0],
            _ => [(x - y).abs(), 0, 0],
        };
        for (sum, term) in sums.iter_mut().zip(terms) {
            *sum = sum.wrapping_add(term);
        }
    }
    sums
}

/// Bits that differ in the words of the two slices.
pub(super) fn bits(a: &[f32], b: &[f32]) -> f32 {
    let differ = a.iter().zip(b).map(|(x, y)| (x.to_bits() ^ y.to_bits()).count_ones());
    differ.sum::<u32>() as f32
}

//! Kernels for any processor, and the reference that the others are tested against.

use super::{Family, cut};

pub(super) static FAMILY: Family = Family { name: "scalar", dot, l2, dot_four, l2_four };

/// Independent sums, so that the compiler may use whatever vectors the target's baseline has.
const LANES: usize = 8;

fn sum(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let len = a.len().min(b.len());
    let (a, a_tail) = a[..len].as_chunks::<LANES>();
    let (b, b_tail) = b[..len].as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (x, y) in a.iter().zip(b) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += term(*x, *y);
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(x, y)| term(*x, *y)).sum();
    sums.iter().sum::<f32>() + tail
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b, |x, y| x * y)
}

fn l2(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b, |x, y| (x - y) * (x - y))
}

fn dot_four(query: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let (query, rows) = cut(query, rows);
    rows.map(|row| dot(query, row))
}

fn l2_four(query: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let (query, rows) = cut(query, rows);
    rows.map(|row| l2(query, row))
}

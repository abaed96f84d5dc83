use proptest::prelude::*;

use super::*;
use crate::index::sample::Seeded;

/// The two sums and the sums of their terms' magnitudes, in double precision.
fn reference(a: &[f32], b: &[f32]) -> [(f64, f64); 2] {
    let pairs = || a.iter().zip(b).map(|(&x, &y)| (f64::from(x), f64::from(y)));
    let dot = pairs().map(|(x, y)| x * y).sum();
    let magnitude = pairs().map(|(x, y)| (x * y).abs()).sum();
    // The differences themselves are rounded, relative to their own size: the terms' bound covers it twice over.
    let l2: f64 = pairs().map(|(x, y)| (x - y) * (x - y)).sum();
    [(dot, magnitude), (l2, 2.0 * l2)]
}

/// The bound stated in the module doc; the last term is what denormal products may lose per addition.
fn assert_near(name: &str, got: f32, (want, magnitude): (f64, f64), dims: usize) {
    let bound = (dims + 4) as f64 * (f64::from(f32::EPSILON) * magnitude + f64::from(f32::from_bits(1)));
    let error = (f64::from(got) - want).abs();
    assert!(error <= bound, "{name}, {dims} dims: {got} is {error} off {want}, bound {bound}");
}

fn check_all(query: &[f32], rows: [&[f32]; 4]) {
    let dims = query.len();
    for family in families() {
        let (dots, l2s) = ((family.dot_four)(query, rows), (family.l2_four)(query, rows));
        for (i, row) in rows.into_iter().enumerate() {
            let [dot, l2] = reference(query, row);
            assert_near(family.name, (family.dot)(query, row), dot, dims);
            assert_near(family.name, dots[i], dot, dims);
            assert_near(family.name, (family.l2)(query, row), l2, dims);
            assert_near(family.name, l2s[i], l2, dims);
        }
    }
}

/// Five vectors that start `shift` floats into a buffer, so that loads are unaligned.
fn check_seeded(seed: u64, dims: usize, shift: usize, scale: f32) {
    let mut random = Seeded::new(seed);
    let buffers: [Vec<f32>; 5] =
        std::array::from_fn(|_| (0..dims + shift).map(|_| random.signed() * scale).collect());
    let [q, a, b, c, d] = buffers.each_ref().map(|buffer| &buffer[shift..]);
    check_all(q, [a, b, c, d]);
}

#[test]
fn every_small_length_and_the_largest() {
    for dims in (0..=200).chain([255, 256, 257, 384, 768, 1024, 1536, 4095, 4096]) {
        check_seeded(dims as u64, dims, dims % 9, 1.0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_length_shift_and_scale(seed: u64, dims in 1usize..=4096, shift in 0usize..17, power in -22i32..=16) {
        check_seeded(seed, dims, shift, 10f32.powi(power));
    }
}

#[test]
fn denormals_count() {
    let tiny = [f32::from_bits(3); 40];
    let huge = [1e15f32; 40];
    check_all(&tiny, [&huge, &huge, &tiny, &[0.0; 40]]);
    let product = Distance::Dot.between(&tiny, &huge);
    assert!(product < 0.0, "denormals were flushed to zero");
}

#[test]
fn infinities_and_nan_come_through() {
    for family in families() {
        for at in [0, 7, 33] {
            let mut row = [0.5f32; 37];
            row[at] = f32::INFINITY;
            assert_eq!((family.dot)(&row, &[1.0; 37]), f32::INFINITY);
            row[at] = f32::NAN;
            assert!((family.l2)(&row, &[1.0; 37]).is_nan());
            assert!((family.dot_four)(&[1.0; 37], [&row; 4]).iter().all(|x| x.is_nan()));
        }
    }
}

#[test]
fn finishes() {
    let (a, b) = ([0.6, 0.8], [1.0, 0.0]);
    assert_eq!(Distance::Dot.between(&a, &b), -0.6);
    assert_eq!(Distance::Cosine.between(&a, &b), 1.0 - 0.6);
    assert!((Distance::Euclidean.between(&a, &b) - 0.8).abs() < 1e-6);
    assert_eq!(Distance::Dot.between(&[0.0], &[1.0]).to_bits(), 0, "no negative zero");
}

#[test]
fn unequal_lengths_are_compared_over_the_shorter() {
    for family in families() {
        assert_eq!((family.dot)(&[1.0; 20], &[1.0; 33]), 20.0);
        assert_eq!((family.dot_four)(&[1.0; 50], [&[1.0; 9], &[1.0; 40], &[1.0; 50], &[1.0; 60]]), [9.0; 4]);
    }
}

#[test]
fn the_best_family_is_one_of_the_processors() {
    assert!(families().iter().any(|family| family.name == instruction_set()));
}

use proptest::prelude::*;

use super::*;
use crate::index::sample::Seeded;

/// The sums of products, of squared and of absolute differences, each with the sum of its terms' magnitudes, in double
/// precision; and the cosine, whose bound is that of a number below 4.
fn reference(a: &[f32], b: &[f32]) -> [(f64, f64); 4] {
    let pairs = || a.iter().zip(b).map(|(&x, &y)| (f64::from(x), f64::from(y)));
    let sum = |term: &dyn Fn(f64, f64) -> f64| pairs().map(|(x, y)| term(x, y)).sum::<f64>();
    let dot = sum(&|x, y| x * y);
    let magnitude = sum(&|x, y| (x * y).abs());
    // The differences themselves are rounded, relative to their own size: the terms' bound covers it twice over.
    let (l2, l1) = (sum(&|x, y| (x - y) * (x - y)), sum(&|x, y| (x - y).abs()));
    let lengths = (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
    let cosine = if lengths == 0.0 { 0.0 } else { dot / lengths };
    [(dot, magnitude), (cosine, 4.0), (l2, 2.0 * l2), (l1, 2.0 * l1)]
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
        let fours = [family.dot_four, family.l2_four, family.l1_four].map(|four| four(query, rows));
        for (i, row) in rows.into_iter().enumerate() {
            let [dot, cosine, l2, l1] = reference(query, row);
            for ((one, four), want) in
                [family.dot, family.l2, family.l1].into_iter().zip(fours).zip([dot, l2, l1])
            {
                assert_near(family.name, one(query, row), want, dims);
                assert_near(family.name, four[i], want, dims);
            }
            // Squares of the tiniest numbers vanish, and with them the length.
            if [query, row].iter().all(|vector| vector.iter().any(|x| x.abs() > 1e-15)) {
                assert_near(family.name, (family.angle)(query, row), cosine, dims);
            }
        }
    }
}

/// Every measure of every family over narrow values, against the values widened; sums of bytes to the bit.
fn check_narrow(dims: usize, random: &mut Seeded) {
    let mut draw = |scale: f32| (0..dims).map(|_| random.signed() * scale).collect::<Vec<f32>>();
    for scale in [1.0, 60_000.0, 1e-6] {
        let halves = [draw(scale), draw(scale)].map(|values| values.into_iter().map(half::to_half).collect());
        let packed = halves.each_ref().map(|halves: &Vec<u16>| {
            let mut words = vec![0.0; dims.div_ceil(2) + 1];
            bytemuck::cast_slice_mut(&mut words[1..])[..dims].copy_from_slice(halves);
            words
        });
        let wide = halves.map(|halves| halves.into_iter().map(half::from_half).collect::<Vec<f32>>());
        for family in families() {
            for (sum, want) in family.half.into_iter().zip(reference(&wide[0], &wide[1])) {
                assert_near(family.name, sum(&packed[0][1..], &packed[1][1..]), want, dims);
            }
        }
    }
    let mut extremes = [vec![-128_i8; dims], vec![127; dims]];
    for _ in 0..2 {
        let packed = extremes.each_ref().map(|bytes| {
            let mut words = vec![0.0; dims.div_ceil(4) + 1];
            bytemuck::cast_slice_mut(&mut words[1..])[..dims].copy_from_slice(bytes);
            words
        });
        let wide = extremes.each_ref().map(|bytes| bytes.iter().map(|x| f32::from(*x)).collect::<Vec<f32>>());
        for family in families() {
            for (measure, want) in reference(&wide[0], &wide[1]).into_iter().enumerate() {
                let got = (family.byte[measure])(&packed[0][1..], &packed[1][1..]);
                assert_eq!(got, want.0 as f32, "{} {measure} of {dims}", family.name);
            }
            let differ = bytemuck::cast_slice::<f32, u8>(&packed[0][1..]).iter();
            let differ = differ.zip(bytemuck::cast_slice::<f32, u8>(&packed[1][1..]));
            let differ: u32 = differ.map(|(x, y)| (x ^ y).count_ones()).sum();
            assert_eq!((family.bits)(&packed[0][1..], &packed[1][1..]), differ as f32, "{}", family.name);
        }
        extremes = [0, 1].map(|_| (0..dims).map(|_| random.next() as i8).collect());
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
        check_narrow(dims, &mut Seeded::new(dims as u64));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_length_shift_and_scale(seed: u64, dims in 1usize..=4096, shift in 0usize..17, power in -22i32..=16) {
        check_seeded(seed, dims, shift, 10f32.powi(power));
        check_narrow(dims, &mut Seeded::new(seed));
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
            assert!((family.l2)(&row, &[1.0; 37]).is_nan() && (family.l1)(&row, &[1.0; 37]).is_nan());
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
    assert_eq!(Distance::Manhattan.between(&a, &b), 0.4 + 0.8);
    assert!((Distance::Angle.between(&[1.2, 1.6], &[5.0, 0.0]) - 0.4).abs() < 1e-6);
    assert_eq!(Distance::Angle.between(&[0.0; 3], &[1.0; 3]), 1.0);
    assert_eq!(Distance::Hamming.between(&[f32::from_bits(0b1011)], &[f32::from_bits(0b0110)]), 3.0);
    let bytes = |bytes: [i8; 4]| [f32::from_bits(u32::from_le_bytes(bytes.map(|x| x as u8)))];
    let (a, b) = (bytes([3, 4, 0, 0]), bytes([-128, 127, 127, 0]));
    assert_eq!(Distance::Byte(Measure::Dot).between(&a, &b), -124.0);
    assert_eq!(
        Distance::Byte(Measure::Euclidean).between(&a, &b),
        (131 * 131 + 123 * 123 + 127 * 127) as f32
    );
    assert_eq!(Distance::Byte(Measure::Manhattan).between(&a, &b), 381.0);
    assert_eq!(Distance::Byte(Measure::Angle).between(&a, &a), 0.0);
    let halves = [f32::from_bits(u32::from(half::to_half(1.5)) | u32::from(half::to_half(-2.0)) << 16)];
    assert_eq!(Distance::Half(Measure::Dot).between(&halves, &halves), -6.25);
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

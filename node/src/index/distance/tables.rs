//! Kernels over product codes: products of a group of values with those of many centroids, and which of them is nearest.
//!
//! Loops of fixed lengths that the compiler makes wide instructions of; where there is AVX2, they are compiled for it once more.
//! Nothing is fused or added in another order, so that every family gives the very same result.

#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected;
use std::sync::LazyLock;

/// Values of a group.
pub const GROUP: usize = 8;
/// Centroids that stand side by side.
pub const LANES: usize = 8;
/// Centroids of a group, at most: as many as a byte tells apart.
pub const CHOICES: usize = 256;

/// Eight centroids: for each value of the group, theirs.
pub type Eight = [[f32; LANES]; GROUP];

type Products = fn(&[f32; GROUP], &[Eight], &mut [f32; CHOICES]);
type Nearest = fn(&[f32; GROUP], &[Eight], &[[f32; LANES]]) -> (u8, f32);

/// The kernels of one instruction set.
pub(in super::super) struct Tables {
    #[cfg_attr(not(test), allow(dead_code))]
    name: &'static str,
    /// The products of these values with each centroid.
    pub products: Products,
    /// The centroid whose product with these values, less half its own length squared, is greatest: the nearest one; and that
    /// number. The first of equal ones, and the very first if nothing is a number.
    pub nearest: Nearest,
}

static SCALAR: Tables = Tables { name: "scalar", products: products_plain, nearest: nearest_plain };

#[cfg(target_arch = "x86_64")]
static AVX2: Tables = Tables {
    name: "avx2",
    // SAFETY (both): `families` hands these out only where AVX2 was detected.
    products: |values, book, to| unsafe { x86::products(values, book, to) },
    nearest: |values, book, halves| unsafe { x86::nearest(values, book, halves) },
};

/// The best kernels of this processor.
pub(in super::super) static TABLES: LazyLock<&'static Tables> = LazyLock::new(|| families()[0]);

fn families() -> Vec<&'static Tables> {
    let mut all: Vec<&'static Tables> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        all.push(&AVX2);
    }
    all.push(&SCALAR);
    all
}

#[inline(always)]
fn eight_products(values: &[f32; GROUP], centroids: &Eight) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    for (value, theirs) in values.iter().zip(centroids) {
        for (sum, their) in sums.iter_mut().zip(theirs) {
            *sum += value * their;
        }
    }
    sums
}

#[inline(always)]
fn products_plain(values: &[f32; GROUP], book: &[Eight], to: &mut [f32; CHOICES]) {
    for (centroids, to) in book.iter().zip(to.as_chunks_mut::<LANES>().0) {
        *to = eight_products(values, centroids);
    }
}

#[inline(always)]
fn nearest_plain(values: &[f32; GROUP], book: &[Eight], halves: &[[f32; LANES]]) -> (u8, f32) {
    let (mut most, mut places) = ([f32::NEG_INFINITY; LANES], [0u32; LANES]);
    for (at, (centroids, halves)) in (0u32..).zip(book.iter().zip(halves)) {
        let products = eight_products(values, centroids);
        for lane in 0..LANES {
            let score = products[lane] - halves[lane];
            let is_more = score > most[lane];
            most[lane] = if is_more { score } else { most[lane] };
            places[lane] = if is_more { at } else { places[lane] };
        }
    }
    let mut nearest = (0u32, f32::NEG_INFINITY);
    for (lane, (score, place)) in (0u32..).zip(most.into_iter().zip(places)) {
        let number = place * LANES as u32 + lane;
        if score > nearest.1 || (score == nearest.1 && number < nearest.0) {
            nearest = (number, score);
        }
    }
    (nearest.0 as u8, nearest.1)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHOICES, Eight, GROUP, LANES, nearest_plain, products_plain};

    #[target_feature(enable = "avx2")]
    pub(super) fn products(values: &[f32; GROUP], book: &[Eight], to: &mut [f32; CHOICES]) {
        products_plain(values, book, to);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn nearest(values: &[f32; GROUP], book: &[Eight], halves: &[[f32; LANES]]) -> (u8, f32) {
        nearest_plain(values, book, halves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_gives_the_same_numbers() {
        let mut state = 5u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        for eights in [0usize, 1, 5, 32] {
            let mut eight = || -> Eight { std::array::from_fn(|_| std::array::from_fn(|_| draw())) };
            let book: Vec<Eight> = (0..eights).map(|_| eight()).collect();
            let centroid = |at: usize| -> [f32; GROUP] { std::array::from_fn(|i| book[at / 8][i][at % 8]) };
            let product =
                |a: &[f32; GROUP], b: &[f32; GROUP]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
            let half = |at: usize| product(&centroid(at), &centroid(at)) / 2.0;
            let halves: Vec<[f32; LANES]> =
                (0..eights).map(|at| std::array::from_fn(|lane| half(at * 8 + lane))).collect();
            let values: [f32; GROUP] = std::array::from_fn(|_| draw());
            let wanted: Vec<f32> = (0..eights * 8).map(|at| product(&values, &centroid(at))).collect();
            let mut nearest = (0, f32::NEG_INFINITY);
            for (at, product) in wanted.iter().enumerate() {
                if product - half(at) > nearest.1 {
                    nearest = (at as u8, product - half(at));
                }
            }
            for family in families() {
                let mut to = [7.0; CHOICES];
                (family.products)(&values, &book, &mut to);
                assert_eq!(to[..eights * 8], wanted, "{} {eights}", family.name);
                assert!(to[eights * 8..].iter().all(|rest| *rest == 7.0));
                assert_eq!((family.nearest)(&values, &book, &halves), nearest, "{} {eights}", family.name);
                assert_eq!((family.nearest)(&[f32::NAN; GROUP], &book, &halves).0, 0, "{}", family.name);
            }
        }
    }

    #[test]
    fn the_first_of_equal_ones_is_nearest() {
        let book = vec![[[0.5; LANES]; GROUP]; 3];
        for family in families() {
            assert_eq!((family.nearest)(&[1.0; GROUP], &book, &[[1.0; LANES]; 3]).0, 0, "{}", family.name);
        }
    }
}

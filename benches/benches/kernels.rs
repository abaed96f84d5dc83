//! Distance kernels beside those of numkong and simsimd: one query against rows that are all in the cache, and against random rows
//! that are not, each pair by itself, as a search of a graph meets them.
//!
//! `cargo bench -p flotilla-benches --features peers --bench kernels`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flotilla_node::index::{Distance, Measure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use simsimd::SpatialSimilarity as _;

const DIMS: usize = 384;
/// Rows in the cache of a core, and rows that are not.
const ROWS: [usize; 2] = [64, 200_000];
const PAIRS: usize = 4_096;

/// Rows of one type, a query, and the order in which rows are met.
struct Set<T> {
    rows: Vec<T>,
    query: Vec<T>,
    order: Vec<usize>,
}

impl<T: Copy> Set<T> {
    fn new(count: usize, width: usize, value: impl Fn(&mut SmallRng) -> T) -> Set<T> {
        let mut random = SmallRng::seed_from_u64(count as u64);
        let mut values = |len: usize| (0..len).map(|_| value(&mut random)).collect::<Vec<T>>();
        let (rows, query) = (values(count * width), values(width));
        let mut random = SmallRng::seed_from_u64(7);
        let order = (0..PAIRS).map(|_| random.random_range(0..count) * width).collect();
        Set { rows, query, order }
    }

    /// The sum over all pairs, so that none is left out.
    fn sum(&self, between: impl Fn(&[T], &[T]) -> f64) -> f64 {
        let pair = |at: &usize| between(&self.query, &self.rows[*at..*at + self.query.len()]);
        self.order.iter().map(pair).sum()
    }
}

fn kernels(criterion: &mut Criterion) {
    for count in ROWS {
        let mut group = criterion.benchmark_group(format!("{DIMS} values, {count} rows"));
        group.throughput(Throughput::Elements(PAIRS as u64));
        let mut add = |name: &str, who: &str, sum: &dyn Fn() -> f64| {
            group.bench_function(BenchmarkId::new(name, who), |bencher| bencher.iter(|| black_box(sum())));
        };
        let floats = Set::new(count, DIMS, |random| random.random_range(-1.0f32..1.0));
        let ours = |distance: Distance| floats.sum(|a, b| f64::from(distance.between(a, b)));
        add("dot f32", "flotilla", &|| ours(Distance::Dot));
        add("dot f32", "numkong", &|| floats.sum(|a, b| numkong::Dot::dot(a, b).unwrap_or_default()));
        add("dot f32", "simsimd", &|| floats.sum(|a, b| f32::dot(a, b).unwrap_or_default()));
        add("euclidean f32", "flotilla", &|| ours(Distance::Euclidean));
        add("euclidean f32", "simsimd", &|| floats.sum(|a, b| f32::sqeuclidean(a, b).unwrap_or_default()));

        // The same bytes, as words for us and as they are for the others.
        let words = Set::new(count, DIMS / 4, |random| f32::from_bits(random.random()));
        let byte = Distance::Byte(Measure::Dot);
        add("dot i8", "flotilla", &|| words.sum(|a, b| f64::from(byte.between(a, b))));
        let bytes = |a: &[f32], b: &[f32], f: &dyn Fn(&[i8], &[i8]) -> f64| {
            f(bytemuck::cast_slice(a), bytemuck::cast_slice(b))
        };
        let numkong = |a: &[i8], b: &[i8]| f64::from(numkong::Dot::dot(a, b).unwrap_or_default());
        add("dot i8", "numkong", &|| words.sum(|a, b| bytes(a, b, &numkong)));
        let simsimd = |a: &[i8], b: &[i8]| i8::dot(a, b).unwrap_or_default();
        add("dot i8", "simsimd", &|| words.sum(|a, b| bytes(a, b, &simsimd)));

        let bits = Set::new(count, DIMS / 32, |random| f32::from_bits(random.random()));
        add("hamming", "flotilla", &|| bits.sum(|a, b| f64::from(Distance::Hamming.between(a, b))));
        let simsimd = |a: &[f32], b: &[f32]| {
            <u8 as simsimd::BinarySimilarity>::hamming(bytemuck::cast_slice(a), bytemuck::cast_slice(b))
        };
        add("hamming", "simsimd", &|| bits.sum(|a, b| simsimd(a, b).unwrap_or_default()));
        group.finish();
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);

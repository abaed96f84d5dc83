//! Distance kernels: one pair that stays in the cache, and an exact scan that does not.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flotilla_node::index::{Accept, Distance, Rows, TopK, scan};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const DISTANCES: [Distance; 2] = [Distance::Cosine, Distance::Euclidean];

fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut random = SmallRng::seed_from_u64(seed);
    (0..len).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn between(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("between");
    for dims in [96, 384, 768, 1536] {
        let (a, b) = (values(1, dims), values(2, dims));
        group.throughput(Throughput::Elements(dims as u64));
        for distance in DISTANCES {
            group.bench_function(BenchmarkId::new(format!("{distance:?}"), dims), |bencher| {
                bencher.iter(|| distance.between(black_box(&a), black_box(&b)));
            });
        }
    }
}

fn exact_scan(criterion: &mut Criterion) {
    let (dims, len) = (384, 20_000);
    let (data, query) = (values(3, dims * len), values(4, dims));
    let Ok(rows) = Rows::new(&data, dims) else { return };
    let mut group = criterion.benchmark_group("scan of 20,000 x 384");
    group.throughput(Throughput::Bytes(size_of_val(&data[..]) as u64));
    for distance in DISTANCES {
        group.bench_function(format!("{distance:?}"), |bencher| {
            bencher.iter(|| {
                let mut top = TopK::new(10);
                scan(rows, distance, black_box(&query), Accept::All, 0, &mut top);
                top.into_sorted()
            });
        });
    }
}

criterion_group!(distance, between, exact_scan);
criterion_main!(distance);

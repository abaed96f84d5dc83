//! From keys to slots, and the proposal of a map.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flotilla_proto::record::Key;
use flotilla_proto::ring;

fn slots(c: &mut Criterion) {
    let numbers: Vec<Key> = (0..1_000u64).map(Key::Number).collect();
    let texts: Vec<Key> = (0..1_000).map(|n| Key::Text(format!("vcenter-7/vm-{n:012}"))).collect();
    let mut group = c.benchmark_group("ring/slot");
    group.throughput(Throughput::Elements(1_000));
    for (name, keys) in [("number", numbers), ("text", texts)] {
        group.bench_function(name, |b| {
            b.iter(|| black_box(&keys).iter().map(ring::slot).fold(0, usize::wrapping_add));
        });
    }
    group.finish();
}

fn proposals(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring/propose");
    for count in [4u64, 32, 256] {
        let members: Vec<(u64, f64)> = (1..=count).map(|id| (id, 1.0)).collect();
        group.bench_with_input(BenchmarkId::from_parameter(count), &members, |b, members| {
            b.iter(|| ring::propose(black_box(members)));
        });
    }
    group.finish();
}

criterion_group!(benches, slots, proposals);
criterion_main!(benches);

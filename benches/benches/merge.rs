//! Partitions' hits and pages into one.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use flotilla_proto::record::Key;
use flotilla_router::merge::{self, Partial, Room, Run};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

fn lists(partitions: usize, length: usize) -> Vec<Vec<Partial>> {
    let mut random = SmallRng::seed_from_u64(7);
    (0..partitions)
        .map(|from| {
            let hit = |_| Partial {
                key: Key::Number(random.random()),
                distance: random.random(),
                version: 1,
                from,
            };
            let mut list: Vec<Partial> = (0..length).map(hit).collect();
            list.sort_by(Partial::order);
            list
        })
        .collect()
}

fn hits(c: &mut Criterion) {
    let mut group = c.benchmark_group("merge/hits");
    for (partitions, limit) in [(4, 10), (4, 1_000), (32, 100), (32, 10_000)] {
        let lists = lists(partitions, limit);
        let id = BenchmarkId::from_parameter(format!("{partitions}x{limit}"));
        group.bench_function(id, |b| {
            let merge = |lists| merge::hits(black_box(lists), 0, limit);
            b.iter_batched(|| lists.clone(), merge, BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn pages(c: &mut Criterion) {
    let run = |at: u64| Run {
        records: (0..1_000).map(|n| (Key::Number(n * 4 + at).to_bytes(), n)).collect(),
        more: false,
    };
    let runs: Vec<Run<u64>> = (0..4).map(run).collect();
    c.bench_function("merge/page/4x1000", |b| {
        let page = |mut runs: Vec<Run<u64>>| {
            let mut room = Room { records: 4_000, bytes: usize::MAX };
            let mut page = Vec::new();
            merge::page(&mut runs, &mut page, &mut room, |_| 8);
            page
        };
        b.iter_batched(|| runs.clone(), page, BatchSize::SmallInput);
    });
}

criterion_group!(benches, hits, pages);
criterion_main!(benches);

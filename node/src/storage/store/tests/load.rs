//! A measurement, not a check: importing into one partition while the background seals and indexes.
//!
//! `FLOTILLA_LOAD=100000 cargo test -p flotilla-node --lib -- --ignored --nocapture load::` prints, every second, rows
//! written, rows in memory, vectors that wait for a graph, segments and resident memory; then the time until all was
//! indexed beside the time of one graph over the same vectors.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use flotilla_proto::schema::{Distance, Hnsw, IndexKind, VectorSpec};

use super::*;
use crate::index::{Graph, Rows, VectorIndex};

const BATCH: u64 = 1_000;
const DIMS: usize = 384;

fn resident_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages * 4096 / (1 << 20)
}

/// A unit vector near one of 300 centres.
fn vector(n: u64) -> Vec<f32> {
    let (mut centre, mut noise) = (Dice::new(n * 7_919 % 300), Dice::new(n + 1_000_000));
    let values: Vec<f32> =
        centre.floats(DIMS).iter().zip(noise.floats(DIMS)).map(|(a, b)| a + 0.8 * b).collect();
    crate::storage::vectors::unit(&values).0
}

fn wide_spec() -> Arc<CollectionSpec> {
    let mut spec = sample::spec(4);
    let index = IndexKind::Hnsw(Hnsw { m: 16, ef_construction: 200, ef_search: 100 });
    spec.vectors = [("a".to_owned(), VectorSpec::new(DIMS as u32, Distance::Cosine, index))].into();
    Arc::new(spec)
}

#[test]
#[ignore = "a measurement"]
fn import() {
    let total: u64 = std::env::var("FLOTILLA_LOAD").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default();
    let (store, _) = Store::open(dir.path(), wide_spec(), options).unwrap();
    let (written, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let start = Instant::now();
    let (mut writing, mut indexed) = (Duration::ZERO, Duration::ZERO);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Relaxed) {
                if store.seal().unwrap().is_none() {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
        threads.spawn(|| {
            while !done.load(Relaxed) {
                let progress = Progress::new();
                let began = Instant::now();
                if store.compact(&progress).unwrap() {
                    println!("merge {:.1} s, {} inserted", began.elapsed().as_secs_f32(), progress.done());
                } else if store.build_graph(&progress).unwrap() {
                    println!("graph {:.1} s, {} inserted", began.elapsed().as_secs_f32(), progress.done());
                } else {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
        threads.spawn(|| {
            while !done.load(Relaxed) {
                std::thread::sleep(Duration::from_secs(1));
                let status = store.status();
                println!(
                    "{:5.1} s: {} written, {} in memory, {} unindexed, {} segments, {} MiB resident",
                    start.elapsed().as_secs_f32(),
                    written.load(Relaxed),
                    status.growing_rows,
                    status.unindexed_vectors,
                    status.segments,
                    resident_mib(),
                );
            }
        });
        for batch in 0..total / BATCH {
            let record = |n: u64| {
                let text = format!("record number {n} of a load");
                Record::new(n).vector("a", vector(n)).field("n", n as i64).field("t", text)
            };
            let batch_rows: Vec<StoredRow> = (batch * BATCH..(batch + 1) * BATCH)
                .map(|n| StoredRow::from_domain(&record(n), &wide_spec()).unwrap())
                .collect();
            let began = Instant::now();
            store.upsert(batch + 1, batch_rows).unwrap();
            store.publish(batch + 1);
            if store.needs_seal() {
                store.freeze(batch + 1, Vec::new());
            }
            writing += began.elapsed();
            written.fetch_add(BATCH, Relaxed);
            // The bar is 5,000 records per second.
            let due = Duration::from_millis((batch + 1) * BATCH / 5);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
        println!("{total} written after {:.1} s", start.elapsed().as_secs_f32());
        store.freeze(total / BATCH, Vec::new());
        while store.status().unindexed_vectors > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        indexed = start.elapsed();
        done.store(true, Relaxed);
    });
    println!(
        "upserts took {writing:.2?}, all indexed after {:.1} s: {:?}",
        indexed.as_secs_f32(),
        store.status()
    );
    store.verify().unwrap();
    drop(store);
    let began = Instant::now();
    let (store, _) = Store::open(dir.path(), wide_spec(), options).unwrap();
    println!("opened in {:?}", began.elapsed());
    search(&store.view(), total);
    let data: Vec<f32> = (0..total).flat_map(vector).collect();
    let params = crate::index::hnsw::Params::default();
    let began = Instant::now();
    Graph::build(
        Rows::new(&data, DIMS).unwrap(),
        crate::index::Distance::Cosine,
        &params,
        options.index_threads,
        &Progress::new(),
    )
    .unwrap();
    println!("one graph over all: {:.1} s", began.elapsed().as_secs_f32());
}

fn search(view: &View, total: u64) {
    let ask = |query: &[f32], method| {
        let mut found = Vec::new();
        for segment in view.segments() {
            let ask = Nearest { vector: "a", query, limit: 10, method, rescored: None, rows: None };
            found.extend(segment.nearest(&ask, &mut Stats::default()).unwrap().iter().map(|n| n.distance));
        }
        found.sort_by(f32::total_cmp);
        found.truncate(10);
        found
    };
    let (mut near, mut walked) = (0, Duration::ZERO);
    for n in 0..100 {
        let query = vector(total + n);
        let exact = ask(&query, Method::Exact);
        let began = Instant::now();
        let found = ask(&query, Method::Graph { ef: 100 });
        walked += began.elapsed();
        near += found.iter().filter(|distance| **distance <= exact[exact.len() - 1]).count();
    }
    println!("recall@10 {:.3}, {:.2?} per search, {} segments", near as f32 / 1e3, walked / 100, view.len());
}

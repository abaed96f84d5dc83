//! Appending to the WAL lanes, synced: 1.6 KB entries, in batches of 1 and 100, from 1 and 64 groups at once.
//!
//! One iteration is one durable batch of every group; the throughput counts entries. The folder is made beside the
//! target folder (`FLOTILLA_BENCH_DIR` to choose another), not in `/tmp`, which may be memory.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flotilla_node::log::{GroupLog, Lanes, LogEntry, Options};
use tokio::sync::oneshot;

const ENTRY_BYTES: usize = 1600;

fn folder() -> tempfile::TempDir {
    let base = std::env::var_os("FLOTILLA_BENCH_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    tempfile::tempdir_in(base).expect("a folder to write to")
}

/// Appends one batch after `next` and waits until it is durable.
async fn append(log: &GroupLog, next: u64, batch: u64, body: &Bytes) {
    let entries = (next..next + batch).map(|index| LogEntry { index, body: body.clone() }).collect();
    let (tell, told) = oneshot::channel();
    let sent = log.append(entries, move |result| drop(tell.send(result))).await;
    sent.expect("the log takes the batch");
    told.await.expect("an answer").expect("a durable batch");
}

/// One batch of every group at once; purges now and then, so that the folder stays small.
async fn round(logs: &[GroupLog], next: u64, batch: u64, body: &Bytes) {
    let mut writing = tokio::task::JoinSet::new();
    for log in logs {
        let (log, body) = (log.clone(), body.clone());
        writing.spawn(async move {
            append(&log, next, batch, &body).await;
            if next.is_multiple_of(batch * 64) && next > 0 {
                log.purge(next - 1, Bytes::new()).await.expect("a purge");
            }
        });
    }
    while let Some(done) = writing.join_next().await {
        done.expect("a batch");
    }
}

fn log_append(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let body = Bytes::from(vec![7; ENTRY_BYTES]);
    let mut group = c.benchmark_group("log_append");
    group.sample_size(20).measurement_time(Duration::from_secs(5)).warm_up_time(Duration::from_secs(1));
    for groups in [1u64, 64] {
        for batch in [1u64, 100] {
            let dir = folder();
            let (lanes, _) = Lanes::open(dir.path(), Options::default()).expect("a new log");
            let logs: Vec<_> = (0..groups).map(|id| lanes.group(id).expect("a group")).collect();
            let mut next = 0;
            group.throughput(Throughput::Elements(groups * batch));
            group.bench_function(
                BenchmarkId::new(format!("groups {groups}"), format!("batch {batch}")),
                |b| {
                    b.iter(|| {
                        runtime.block_on(round(&logs, next, batch, &body));
                        next += batch;
                    });
                },
            );
            let stats = lanes.stats();
            eprintln!("{stats:?}, mean sync {} us", stats.sync_micros / stats.syncs.max(1));
            runtime.block_on(lanes.close());
        }
    }
    group.finish();
}

criterion_group!(benches, log_append);
criterion_main!(benches);

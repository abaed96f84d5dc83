//! Tests of the log as a whole: what a group sees, what a reopened folder remembers, and what damage does.

mod damage;
mod full;
mod model;
mod serving;
mod steps;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{GroupLog, Lanes, LogEntry, Options, Recovery};

/// Small segments and one lane, so that little data meets every case.
fn small() -> Options {
    Options { lanes: 1, segment_bytes: 4096, cache_bytes: 1024, segments_max: 4, ..Options::default() }
}

fn open(dir: &Path, options: Options) -> (Arc<Lanes>, Recovery) {
    Lanes::open(dir, options).unwrap()
}

/// A folder in memory where there is one: for sweeps, whose syncs need not reach a disk.
fn swift_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Where the last byte that is not zero ends.
fn used(file: &Path) -> usize {
    let bytes = std::fs::read(file).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

/// A body that names its entry; `life` tells apart entries of one index.
fn entry(index: u64, life: u64, len: usize) -> LogEntry {
    let mut body = format!("entry {index} of life {life} ").into_bytes();
    body.resize(body.len().max(len), b'.');
    LogEntry { index, body: Bytes::from(body) }
}

/// Appends and waits until it is durable.
async fn append(log: &GroupLog, entries: Vec<LogEntry>) {
    let (tell, told) = oneshot::channel();
    log.append(entries, move |result| drop(tell.send(result))).await.unwrap();
    told.await.unwrap().unwrap();
}

fn all(log: &GroupLog) -> Vec<LogEntry> {
    log.read(0..u64::MAX, u64::MAX).unwrap()
}

fn segment_files(lane: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(lane).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Copies a log folder as a crash would leave it: what was written, nothing of the process. Begins anew if a file goes
/// meanwhile: what stood in it may have been written to one that was copied before.
fn copy_folder(from: &Path, to: &Path) {
    const TRIES: usize = 20;
    for _ in 0..TRIES {
        match try_copy(from, to) {
            Ok(()) => return,
            Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => std::fs::remove_dir_all(to).unwrap(),
            Err(why) => panic!("{}: {why}", from.display()),
        }
    }
    panic!("{}: files go faster than they are copied", from.display());
}

fn try_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        let Some(name) = path.file_name() else { continue };
        let target = to.join(name);
        if path.is_dir() {
            try_copy(&path, &target)?;
        } else {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

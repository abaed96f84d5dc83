//! The one loop that writes a lane: collect, write, sync, tell; then free what is no longer needed.
//!
//! It blocks on file calls and awaits only its queue, so it runs on a thread of its own or as a task of a
//! simulator alike. The first failed write or sync ends it and poisons the lane; only for space on the disk it waits.

mod reclaim;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::GroupId;
use super::group::{Place, SEGMENT_NUMBER_MAX};
use super::lane::{Lane, Op, What};
use super::ledger::Ledger;
use super::record::{self, Draft, HEADER_BYTES, Kind};
use super::segment::{self, SEGMENT_HEADER_BYTES, Segment};
use crate::env::{clock, fs, task};
use crate::planted::{self, Bug};

/// The writing end of a lane.
pub struct Writer {
    pub lane: Arc<Lane>,
    pub dir: PathBuf,
    pub ledger: Ledger,
    pub numbers: BTreeSet<u32>,
    /// The oldest segment that must be there.
    pub oldest: u32,
    /// Damage that may concern any group: nothing is freed, so that the next opening finds it again.
    pub keeps_evidence: bool,
    pub active: Arc<Segment>,
    /// Where the next write goes in the active segment.
    pub end: u64,
    pub next_seq: u64,
    /// Held until the loop has ended.
    pub _folder: Arc<fs::FolderLock>,
    pub staged: Staged,
}

/// Records collected for the next write.
#[derive(Default)]
pub struct Staged {
    bytes: Vec<u8>,
    records: u64,
    /// First record since the last sync.
    run_start: u64,
    placed: Vec<(GroupId, u64, u64, Place)>,
}

impl Staged {
    pub fn from(next_seq: u64) -> Staged {
        Staged { run_start: next_seq, ..Staged::default() }
    }
}

/// Poisons the lane if the loop ends in a panic.
struct Watch(Arc<Lane>);

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison("the writer panicked");
        }
    }
}

impl Writer {
    /// Writes until the lane closes or fails.
    pub async fn run(mut self) {
        let _watch = Watch(self.lane.clone());
        let mut outcome = self.reclaim().await;
        while outcome.is_ok() {
            let Some(batch) = self.lane.next_batch().await else { break };
            outcome = self.serve(batch).await;
        }
        if outcome.is_ok() {
            outcome = self.finish().await;
        }
        if let Err(error) = outcome {
            tracing::error!(lane = self.lane.number, %error, "log lane failed and takes no more writes");
            self.lane.poison(&error.to_string());
        }
    }

    /// Writes a batch and answers its calls in order.
    async fn serve(&mut self, mut batch: Vec<Op>) -> io::Result<()> {
        let frees =
            batch.iter().any(|op| matches!(op.what, What::Truncate(_) | What::Purge(..) | What::Removed));
        let number = self.active.title.number;
        let mut written = self.stage(&mut batch).await;
        if written.is_ok() {
            written = self.flush(true).await;
        }
        if let Err(error) = written {
            self.lane.poison_with(batch, &error.to_string());
            return Err(error);
        }
        for op in batch {
            if let Some(done) = op.done {
                done(Ok(()));
            }
        }
        if frees || self.active.title.number != number {
            self.reclaim().await?;
        }
        if self.lane.is_idle() {
            self.mark_durable().await?;
        }
        Ok(())
    }

    async fn stage(&mut self, batch: &mut [Op]) -> io::Result<()> {
        let none = Bytes::new();
        for op in batch {
            match &op.what {
                What::Entries(entries, ticket) => {
                    for (entry, ticket) in entries.iter().zip(*ticket..) {
                        let place = self.push(Kind::Entry, op.group, entry.index, &entry.body).await?;
                        self.staged.placed.push((op.group, entry.index, ticket, place));
                    }
                }
                What::Vote(body) => {
                    let _place = self.push(Kind::Vote, op.group, 0, body).await?;
                }
                What::Committed(body) => {
                    let _place = self.push(Kind::Committed, op.group, 0, body).await?;
                }
                What::Truncate(Some(index)) => {
                    let _place = self.push(Kind::Truncate, op.group, *index, &none).await?;
                }
                What::Truncate(None) => {
                    let _place = self.push(Kind::TruncateAll, op.group, 0, &none).await?;
                }
                What::Purge(index, id) => {
                    let _place = self.push(Kind::Purge, op.group, *index, id).await?;
                }
                What::Removed => {
                    let _place = self.push(Kind::Removed, op.group, 0, &none).await?;
                }
            }
        }
        Ok(())
    }

    /// Stages one record, in a new segment if it does not fit the active one.
    async fn push(&mut self, kind: Kind, group: GroupId, index: u64, body: &Bytes) -> io::Result<Place> {
        let size = (HEADER_BYTES + body.len()) as u64;
        if !self.fits(size) {
            self.roll(size).await?;
        }
        if self.next_seq - self.staged.run_start >= u64::from(u16::MAX) {
            self.flush(true).await?;
        }
        let offset = self.end + self.staged.bytes.len() as u64;
        let run = (self.next_seq - self.staged.run_start) as u16;
        let draft = Draft { kind, group, index, seq: self.next_seq, run };
        let header = record::encode(&mut self.staged.bytes, draft, body, self.active.title.salt);
        let segment = self.active.title.number;
        self.ledger.apply(&header, body, segment);
        self.next_seq += 1;
        self.staged.records += 1;
        Ok(Place { segment, offset: offset as u32, body_len: header.body_len })
    }

    fn fits(&self, size: u64) -> bool {
        self.end + self.staged.bytes.len() as u64 + size <= self.active.title.file_len
    }

    /// Writes what is staged; with `sync`, makes everything written so far durable and tells the places.
    async fn flush(&mut self, sync: bool) -> io::Result<()> {
        if !self.staged.bytes.is_empty() {
            self.with_space(|| self.active.file.write_at(&self.staged.bytes, self.end)).await?;
            self.end += self.staged.bytes.len() as u64;
            self.lane.counters.records.fetch_add(self.staged.records, Ordering::Relaxed);
            self.lane.counters.bytes.fetch_add(self.staged.bytes.len() as u64, Ordering::Relaxed);
            self.staged.records = 0;
            self.staged.bytes.clear();
            self.staged.bytes.shrink_to(1 << 20);
        }
        if sync && self.staged.run_start < self.next_seq {
            self.sync().await?;
            self.staged.run_start = self.next_seq;
        }
        if !self.staged.placed.is_empty() {
            self.lane.settle(&self.staged.placed);
            self.staged.placed.clear();
        }
        Ok(())
    }

    /// Does `work` as soon as there is space for it: a full disk is no failure. Nothing was acknowledged, what is queued waits,
    /// and writing the same bytes once more to the same place does no harm. Never for a sync, whatever it failed with.
    async fn with_space<T>(&self, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match work() {
                Err(why) if fs::is_full(&why) && self.lane.wait_for_space(&why).await => {}
                Err(why) => return Err(why),
                Ok(done) => {
                    self.lane.has_space();
                    return Ok(done);
                }
            }
        }
    }

    async fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.lane.sync_fault.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("injected sync failure"));
        }
        if !self.lane.options.sync || planted::has(Bug::NoSync) {
            return Ok(());
        }
        let start = clock::now();
        task::wait_for_disk().await;
        self.active.file.sync_data()?;
        self.lane.count_sync(start.elapsed().as_micros() as u64);
        Ok(())
    }

    /// Ends the active segment and begins the next, with room for a record of `size` bytes.
    async fn roll(&mut self, size: u64) -> io::Result<()> {
        self.flush(true).await?;
        let number = self.active.title.number + 1;
        if number >= SEGMENT_NUMBER_MAX {
            return Err(io::Error::other("the lane has used up its segment numbers"));
        }
        let len =
            self.lane.options.segment_bytes.max(SEGMENT_HEADER_BYTES as u64 + size + HEADER_BYTES as u64);
        let lane = self.lane.number as u32;
        let made = || segment::create(&self.dir, lane, number, self.oldest, self.next_seq, len);
        let segment = Arc::new(self.with_space(made).await?);
        self.lane.lock().segments.insert(number, segment.clone());
        self.numbers.insert(number);
        self.active = segment;
        self.end = SEGMENT_HEADER_BYTES as u64;
        Ok(())
    }

    /// Says in the log that everything before is durable; not synced, for it protects only against rot.
    async fn mark_durable(&mut self) -> io::Result<()> {
        if self.lane.options.sync && self.fits(HEADER_BYTES as u64) {
            self.push(Kind::Durable, 0, 0, &Bytes::new()).await?;
            self.flush(false).await?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.flush(true).await?;
        self.mark_durable().await?;
        self.flush(true).await
    }
}

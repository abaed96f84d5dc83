//! The door: all lanes of a node, and the handle of one group's log.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::group::{Place, Source};
use super::lane::{Done, Lane, Op, Shared, What};
use super::record::{self, BODY_BYTES_MAX, HEADER_BYTES, Kind};
use super::segment::Segment;
use super::{
    Damage, Error, GroupId, GroupState, LogEntry, MARK_BYTES_MAX, OpenError, Options, Recovery, Scope, Stats,
};
use crate::env::task::LoopEnd;

mod opening;

/// All lanes of a node's log folder. Dropping it lets the lanes write what is queued and end; [`Lanes::close`] waits.
pub struct Lanes {
    lanes: Vec<Arc<Lane>>,
    ends: Mutex<Vec<LoopEnd>>,
}

impl Lanes {
    /// Opens the log in `dir` (made if needed), replays it, and starts one writing loop per lane. Blocks on files.
    ///
    /// Damage does not fail the opening: it comes back in [`Recovery`], and the groups it may concern are
    /// refused with [`Error::Quarantined`].
    pub fn open(dir: &Path, options: Options) -> Result<(Arc<Lanes>, Recovery), OpenError> {
        let (lanes, ends, recovery) = opening::open(dir, options)?;
        Ok((Arc::new(Lanes { lanes, ends: Mutex::new(ends) }), recovery))
    }

    fn lane(&self, id: GroupId) -> &Arc<Lane> {
        &self.lanes[(id % self.lanes.len() as u64) as usize]
    }

    /// The log of a group, empty if it has none yet.
    pub fn group(&self, id: GroupId) -> Result<GroupLog, Error> {
        let lane = self.lane(id).clone();
        let life = {
            let mut shared = lane.lock();
            lane.working(&shared)?;
            shared.enter(id)?
        };
        Ok(GroupLog { lane, id, life })
    }

    /// Forgets a group with all it had, durably; its handles are refused from now on. Ends its quarantine, so
    /// that it can be built anew. A group that is not there is fine.
    pub async fn remove_group(&self, id: GroupId) -> Result<(), Error> {
        let lane = self.lane(id);
        submit(lane, id, HEADER_BYTES, |shared| Ok(shared.remove(id).then_some(What::Removed))).await
    }

    /// Numbers of all healthy groups, sorted.
    pub fn groups(&self) -> Vec<GroupId> {
        let mut ids = Vec::new();
        for lane in &self.lanes {
            let shared = lane.lock();
            ids.extend(shared.groups.keys().filter(|id| !shared.quarantine.named.contains_key(id)));
        }
        ids.sort_unstable();
        ids
    }

    /// Refuses further calls, writes what is queued, waits for the lanes to end and gives the folder free. A lane that
    /// fails while closing answers its own callbacks.
    pub async fn close(&self) {
        self.begin_close();
        let ends = std::mem::take(&mut *self.ends.lock());
        for end in ends {
            // A loop that panicked has poisoned its lane; there is nothing left to wait for.
            let _ = end.wait().await;
        }
    }

    fn begin_close(&self) {
        for lane in &self.lanes {
            lane.close();
        }
    }

    /// Counters since opening.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for lane in &self.lanes {
            let counters = &lane.counters;
            stats.records += counters.records.load(Ordering::Relaxed);
            stats.bytes += counters.bytes.load(Ordering::Relaxed);
            stats.syncs += counters.syncs.load(Ordering::Relaxed);
            stats.sync_micros += counters.sync_micros.load(Ordering::Relaxed);
            stats.sync_micros_max =
                stats.sync_micros_max.max(counters.sync_micros_max.load(Ordering::Relaxed));
            let shared = lane.lock();
            stats.segments += shared.segments.len() as u64;
            stats.queued_bytes += shared.queued_bytes as u64;
            stats.cached_bytes += shared.recent_bytes as u64;
            stats.lanes_full += u64::from(shared.full.is_some());
            stats.lanes_poisoned += u64::from(matches!(lane.working(&shared), Err(Error::Poisoned { .. })));
        }
        stats
    }

    /// Makes the next sync of a group's lane fail.
    #[cfg(test)]
    pub(super) fn fail_next_sync(&self, id: GroupId) {
        self.lane(id).sync_fault.store(true, Ordering::SeqCst);
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.begin_close();
    }
}

/// Queues what `change` asks for and waits until it is durable; `None` needs no write.
async fn submit(
    lane: &Lane,
    id: GroupId,
    bytes: usize,
    change: impl FnOnce(&mut Shared) -> Result<Option<What>, Error>,
) -> Result<(), Error> {
    let (answer, outcome) = oneshot::channel::<io::Result<()>>();
    {
        let mut shared = lane.room(1, bytes).await?;
        let Some(what) = change(&mut shared)? else { return Ok(()) };
        let done: Done = Box::new(move |result| drop(answer.send(result)));
        shared.push(Op { group: id, what, done: Some(done) }, 1, bytes);
    }
    lane.work.notify_one();
    match outcome.await {
        Ok(Ok(())) => Ok(()),
        _ => Err(lane.poisoned()),
    }
}

/// The log of one group. Clones are the same log.
#[derive(Clone)]
pub struct GroupLog {
    lane: Arc<Lane>,
    id: GroupId,
    life: u64,
}

impl GroupLog {
    /// The group's number.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Appends entries that follow the last one without gap (any index begins an empty, never purged log).
    ///
    /// Waits while the lane's queue is full; from its return on [`GroupLog::read`] shows the entries. `on_flushed` is
    /// called from the writing loop once they are durable, or with the error that poisoned the lane; it must be quick and
    /// must not wait. It is not called if this returns an error: then nothing was appended.
    pub async fn append(
        &self,
        entries: Vec<LogEntry>,
        on_flushed: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> Result<(), Error> {
        for entry in &entries {
            bounded(&entry.body, BODY_BYTES_MAX)?;
        }
        let bytes = entries.iter().map(|entry| HEADER_BYTES + entry.body.len()).sum();
        let records = entries.len();
        {
            let mut shared = self.lane.room(records, bytes).await?;
            let mut expected = shared.group(self.id, self.life)?.expected();
            for entry in &entries {
                let got = entry.index;
                if let Some(expected) = expected.filter(|expected| *expected != got) {
                    return Err(Error::NotContiguous { group: self.id, expected, got });
                }
                expected = Some(got.saturating_add(1));
            }
            let ticket = shared.append(self.id, &entries);
            let what = What::Entries(entries, ticket);
            shared.push(Op { group: self.id, what, done: Some(Box::new(on_flushed)) }, records, bytes);
        }
        self.lane.work.notify_one();
        Ok(())
    }

    /// The entries of `range` that are there, from its start on, up to `max_bytes` but at least one.
    ///
    /// Recent ones come from memory, the others block on a read of the segment files.
    pub fn read(&self, range: Range<u64>, max_bytes: u64) -> Result<Vec<LogEntry>, Error> {
        let mut found = Vec::new();
        let mut on_disk = Vec::new();
        {
            let mut shared = self.lane.lock();
            let Shared { groups, segments, .. } = &mut *shared;
            let group = groups.get(&self.id).filter(|group| group.life == self.life);
            let group = group.ok_or(Error::Removed(self.id))?;
            let state = group.state();
            let Some(last) = state.last_index else { return Ok(found) };
            let mut left = max_bytes;
            for index in range.start.max(state.first_index)..range.end.min(last.saturating_add(1)) {
                let Some(source) = group.source(index) else { break };
                let len = HEADER_BYTES as u64
                    + match &source {
                        Source::Memory(body) => body.len() as u64,
                        Source::Disk(place) => u64::from(place.body_len),
                    };
                if len > left && !found.is_empty() {
                    break;
                }
                left = left.saturating_sub(len);
                let body = match source {
                    Source::Memory(body) => body,
                    Source::Disk(place) => {
                        let segment = segments.get(&place.segment).cloned();
                        on_disk.push((found.len(), place, segment.ok_or(Error::Removed(self.id))?));
                        Bytes::new()
                    }
                };
                found.push(LogEntry { index, body });
            }
        }
        let mut rest = on_disk.as_slice();
        while !rest.is_empty() {
            let together = neighbours(rest);
            self.load(&rest[..together], &mut found)?;
            rest = &rest[together..];
        }
        Ok(found)
    }

    /// Reads records that stand side by side in one segment, and checks each.
    fn load(&self, run: &[(usize, Place, Arc<Segment>)], found: &mut [LogEntry]) -> Result<(), Error> {
        let (Some((_, first, segment)), Some((_, last, _))) = (run.first(), run.last()) else {
            return Ok(());
        };
        let start = u64::from(first.offset);
        let end = u64::from(last.offset) + (HEADER_BYTES as u64 + u64::from(last.body_len));
        let mut bytes = vec![0; (end - start) as usize];
        segment.file.read_exact_at(&mut bytes, start).map_err(|error| Error::Io(error.to_string()))?;
        let bytes = Bytes::from(bytes);
        let salt = segment.title.salt;
        for (at, place, _) in run {
            let entry = &mut found[*at];
            let from = (u64::from(place.offset) - start) as usize;
            let to = from + HEADER_BYTES + place.body_len as usize;
            let body = bytes.slice(from + HEADER_BYTES..to);
            let header = record::decode(&bytes[from..to], salt).filter(|header| {
                matches!(header.kind, Kind::Entry | Kind::Moved)
                    && (header.group, header.index) == (self.id, entry.index)
                    && header.fits(&body, salt)
            });
            if header.is_none() {
                return Err(Error::Corrupt(Damage {
                    file: segment.file.path().to_owned(),
                    offset: u64::from(place.offset),
                    reason: format!("entry {} of group {} does not read back", entry.index, self.id),
                    scope: Scope::Group(self.id),
                }));
            }
            entry.body = body;
        }
        Ok(())
    }

    /// The last entry.
    pub fn last_entry(&self) -> Result<Option<LogEntry>, Error> {
        match self.state()?.last_index {
            Some(last) => Ok(self.read(last..last.saturating_add(1), u64::MAX)?.pop()),
            None => Ok(None),
        }
    }

    /// Replaces the vote; durable on return.
    pub async fn save_vote(&self, vote: Bytes) -> Result<(), Error> {
        bounded(&vote, MARK_BYTES_MAX)?;
        self.submit(vote.len(), |shared| {
            shared.group(self.id, self.life)?.vote = Some(vote.clone());
            Ok(What::Vote(vote))
        })
        .await
    }

    /// The last vote given to [`GroupLog::save_vote`].
    pub fn vote(&self) -> Result<Option<Bytes>, Error> {
        Ok(self.lane.lock().group(self.id, self.life)?.vote.clone())
    }

    /// Replaces the committed mark. It is written with whatever the lane writes next: after a crash it may be an older one.
    ///
    /// 2026-11-21: as a write of its own it made every commit wait for the sync that the lane was at.
    pub fn save_committed(&self, committed: Bytes) -> Result<(), Error> {
        bounded(&committed, MARK_BYTES_MAX)?;
        let mut shared = self.lane.lock();
        self.lane.working(&shared)?;
        shared.group(self.id, self.life)?.committed = Some(committed.clone());
        shared.hint(self.id, committed);
        Ok(())
    }

    /// The last committed mark.
    pub fn committed(&self) -> Result<Option<Bytes>, Error> {
        Ok(self.lane.lock().group(self.id, self.life)?.committed.clone())
    }

    /// Drops the entries after `last_kept` (all, if `None`); durable on return. Nothing purged may be asked back.
    pub async fn truncate_after(&self, last_kept: Option<u64>) -> Result<(), Error> {
        self.submit(0, |shared| {
            let group = shared.group(self.id, self.life)?;
            if let Some(purged) =
                group.purged_index().filter(|purged| last_kept.is_none_or(|kept| kept < *purged))
            {
                return Err(Error::BelowPurge { group: self.id, purged, index: last_kept });
            }
            let freed = group.truncate(last_kept);
            shared.recent_bytes -= freed;
            Ok(What::Truncate(last_kept))
        })
        .await
    }

    /// Drops the entries up to `upto` and remembers `log_id` for it; durable on return. May lie beyond the last entry:
    /// the log is empty then and goes on at `upto + 1`. An index already purged is fine.
    pub async fn purge(&self, upto: u64, log_id: Bytes) -> Result<(), Error> {
        bounded(&log_id, MARK_BYTES_MAX)?;
        let change = |shared: &mut Shared| {
            let group = shared.group(self.id, self.life)?;
            if group.purged_index().is_some_and(|purged| purged >= upto) {
                return Ok(None);
            }
            let freed = group.purge(upto, log_id.clone());
            shared.recent_bytes -= freed;
            Ok(Some(What::Purge(upto, log_id.clone())))
        };
        submit(&self.lane, self.id, HEADER_BYTES + log_id.len(), change).await
    }

    /// Whether the entry with this index, and all before it, would be there after a crash.
    pub fn is_durable(&self, index: u64) -> Result<bool, Error> {
        Ok(self.lane.lock().group(self.id, self.life)?.is_durable(index))
    }

    /// Why nothing can be written at the moment: the disk is full. What was queued waits and is written once there is space.
    pub fn full(&self) -> Option<String> {
        self.lane.full()
    }

    /// Why nothing will be written any more.
    pub fn poisoned(&self) -> Option<Error> {
        self.lane.working(&self.lane.lock()).err().filter(|error| matches!(error, Error::Poisoned { .. }))
    }

    /// What the log holds.
    pub fn state(&self) -> Result<GroupState, Error> {
        Ok(self.lane.lock().group(self.id, self.life)?.state())
    }

    fn submit<'a>(
        &'a self,
        bytes: usize,
        change: impl FnOnce(&mut Shared) -> Result<What, Error> + Send + 'a,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'a {
        submit(&self.lane, self.id, HEADER_BYTES + bytes, |shared| change(shared).map(Some))
    }
}

fn bounded(bytes: &Bytes, max: usize) -> Result<(), Error> {
    if bytes.len() > max { Err(Error::TooLarge { bytes: bytes.len(), max }) } else { Ok(()) }
}

/// How many of the places stand side by side in one segment, within one read of 1 MiB; at least one.
fn neighbours(places: &[(usize, Place, Arc<Segment>)]) -> usize {
    const READ_BYTES: u64 = 1 << 20;
    let end = |place: &Place| u64::from(place.offset) + (HEADER_BYTES as u64) + u64::from(place.body_len);
    let Some((_, first, _)) = places.first() else { return 0 };
    let joined = |pair: &[(usize, Place, Arc<Segment>)]| {
        let (a, b) = (&pair[0].1, &pair[1].1);
        a.segment == b.segment
            && end(a) == u64::from(b.offset)
            && end(b).saturating_sub(u64::from(first.offset)) <= READ_BYTES
    };
    1 + places.windows(2).take_while(|pair| joined(pair)).count()
}

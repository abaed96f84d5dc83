//! What the callers and the writer of a lane share: its groups, its queue, and whether it still works.
//!
//! One mutex guards it all and is never held over a file call. A call checks its group, changes what readers see
//! and queues what must be written, under one lock: so the queue's order is the order in which readers saw the
//! changes.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::select;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::group::{Group, Place, cost};
use super::recovery::Quarantine;
use super::segment::Segment;
use super::{Error, GroupId, LogEntry, Options};
use crate::env::task;

/// How long the writer waits until it looks for space again.
const SPACE_PAUSE: Duration = Duration::from_millis(200);

/// Told once what became of a write.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Something to write.
pub enum What {
    /// Entries, the first of them with this ticket, the others with the following.
    Entries(Vec<LogEntry>, u64),
    Vote(Bytes),
    Committed(Bytes),
    Truncate(Option<u64>),
    Purge(u64, Bytes),
    Removed,
}

/// One call, queued.
pub struct Op {
    pub group: GroupId,
    pub what: What,
    pub done: Option<Done>,
}

/// Counters of a lane.
#[derive(Debug, Default)]
pub struct Counters {
    pub records: AtomicU64,
    pub bytes: AtomicU64,
    pub syncs: AtomicU64,
    pub sync_micros: AtomicU64,
    pub sync_micros_max: AtomicU64,
}

/// A lane, apart from its files.
pub struct Lane {
    pub number: usize,
    pub options: Options,
    pub counters: Counters,
    /// Rung when there is something to write, or the lane closes.
    pub work: Notify,
    space: Notify,
    /// Rung when the lane closes while its writer waits for space on the disk.
    closes: Notify,
    shared: Mutex<Shared>,
    /// Makes the next sync fail.
    #[cfg(test)]
    pub sync_fault: std::sync::atomic::AtomicBool,
}

/// The guarded part.
pub struct Shared {
    pub groups: HashMap<GroupId, Group>,
    pub quarantine: Quarantine,
    /// Groups removed since opening: nothing of them is lost.
    pub cleared: HashSet<GroupId>,
    pub segments: BTreeMap<u32, Arc<Segment>>,
    pub closing: bool,
    failure: Option<String>,
    /// What there is no space for on the disk, while the writer waits for some.
    pub full: Option<String>,
    queue: Vec<Op>,
    /// Committed marks that go along with the next write.
    hints: BTreeMap<GroupId, Bytes>,
    queued_records: usize,
    pub queued_bytes: usize,
    /// Bodies in memory in the order they came, and their cost together.
    recent: VecDeque<(u64, GroupId)>,
    pub recent_bytes: usize,
    next_ticket: u64,
    next_life: u64,
}

impl Lane {
    pub fn new(
        number: usize,
        options: Options,
        groups: HashMap<GroupId, Group>,
        quarantine: Quarantine,
        segments: BTreeMap<u32, Arc<Segment>>,
    ) -> Lane {
        let shared = Shared {
            groups,
            quarantine,
            cleared: HashSet::new(),
            segments,
            closing: false,
            failure: None,
            full: None,
            queue: Vec::new(),
            hints: BTreeMap::new(),
            queued_records: 0,
            queued_bytes: 0,
            recent: VecDeque::new(),
            recent_bytes: 0,
            next_ticket: 1,
            next_life: 1,
        };
        Lane {
            number,
            options,
            counters: Counters::default(),
            work: Notify::new(),
            space: Notify::new(),
            closes: Notify::new(),
            shared: Mutex::new(shared),
            #[cfg(test)]
            sync_fault: std::sync::atomic::AtomicBool::new(false),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock()
    }

    /// Waits until the queue has room and the lane works. The caller queues under the same lock.
    pub async fn room(&self, records: usize, bytes: usize) -> Result<MutexGuard<'_, Shared>, Error> {
        loop {
            let freed = self.space.notified();
            let mut freed = std::pin::pin!(freed);
            freed.as_mut().enable();
            {
                let shared = self.shared.lock();
                self.working(&shared)?;
                let fits = shared.queued_records + records <= self.options.queue_records
                    && shared.queued_bytes + bytes <= self.options.queue_bytes;
                if fits || shared.queue.is_empty() {
                    return Ok(shared);
                }
            }
            freed.await;
        }
    }

    /// Whether the lane takes calls.
    pub fn working(&self, shared: &Shared) -> Result<(), Error> {
        match &shared.failure {
            Some(reason) => Err(Error::Poisoned { lane: self.number, reason: reason.clone() }),
            None if shared.closing => Err(Error::Closed),
            None => Ok(()),
        }
    }

    /// The error a failed write is answered with.
    pub fn poisoned(&self) -> Error {
        let reason = self.shared.lock().failure.clone().unwrap_or_else(|| "the writer ended".into());
        Error::Poisoned { lane: self.number, reason }
    }

    /// Everything queued, then the hints of what of it is committed; `None` once the lane closes and nothing is left.
    pub async fn next_batch(&self) -> Option<Vec<Op>> {
        loop {
            {
                let mut shared = self.shared.lock();
                if !shared.queue.is_empty() || (shared.closing && !shared.hints.is_empty()) {
                    (shared.queued_records, shared.queued_bytes) = (0, 0);
                    let mut batch = std::mem::take(&mut shared.queue);
                    let hints = std::mem::take(&mut shared.hints).into_iter();
                    batch.extend(hints.map(|(group, mark)| Op {
                        group,
                        what: What::Committed(mark),
                        done: None,
                    }));
                    self.space.notify_waiters();
                    return Some(batch);
                }
                if shared.closing {
                    return None;
                }
            }
            self.work.notified().await;
        }
    }

    /// Whether nothing waits to be written.
    pub fn is_idle(&self) -> bool {
        self.shared.lock().queue.is_empty()
    }

    /// Why nothing can be written at the moment, although the lane works: the disk is full.
    pub fn full(&self) -> Option<String> {
        self.shared.lock().full.clone()
    }

    /// Waits a while for space on the disk. False if the lane closes meanwhile.
    pub async fn wait_for_space(&self, why: &io::Error) -> bool {
        {
            let mut shared = self.shared.lock();
            if shared.full.is_none() {
                tracing::error!(lane = self.number, %why, "the log waits for space on the disk");
            }
            shared.full = Some(why.to_string());
            if shared.closing {
                return false;
            }
        }
        let (pause, closes) = (pin!(task::pause_loop(SPACE_PAUSE)), pin!(self.closes.notified()));
        select(pause, closes).await;
        !self.shared.lock().closing
    }

    /// There is space again.
    pub fn has_space(&self) {
        if self.shared.lock().full.take().is_some() {
            tracing::info!(lane = self.number, "there is space for the log again");
        }
    }

    /// Refuses further calls and lets the writer end.
    pub fn close(&self) {
        self.shared.lock().closing = true;
        self.closes.notify_one();
        self.work.notify_one();
    }

    /// Ends the lane for good: all that is queued and all that comes later fails with `reason`.
    pub fn poison(&self, reason: &str) {
        self.poison_with(Vec::new(), reason);
    }

    /// As [`Lane::poison`]; the calls of `batch`, taken from the queue before, are answered first.
    pub fn poison_with(&self, batch: Vec<Op>, reason: &str) {
        let queue = {
            let mut shared = self.shared.lock();
            shared.failure.get_or_insert_with(|| reason.to_owned());
            (shared.queued_records, shared.queued_bytes) = (0, 0);
            std::mem::take(&mut shared.queue)
        };
        self.space.notify_waiters();
        fail(batch, reason);
        fail(queue, reason);
    }

    /// Tells what was written where, and lets go of bodies beyond the bound.
    pub fn settle(&self, placed: &[(GroupId, u64, u64, Place)]) {
        let mut shared = self.shared.lock();
        for (group, index, ticket, place) in placed {
            if let Some(group) = shared.groups.get_mut(group) {
                group.settle(*index, *ticket, *place);
            }
        }
        shared.evict(self.options.cache_bytes);
    }

    /// Counts a sync.
    pub fn count_sync(&self, micros: u64) {
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.counters.sync_micros.fetch_add(micros, Ordering::Relaxed);
        self.counters.sync_micros_max.fetch_max(micros, Ordering::Relaxed);
    }
}

/// Answers calls with a failure.
fn fail(ops: Vec<Op>, reason: &str) {
    for op in ops {
        if let Some(done) = op.done {
            done(Err(io::Error::other(reason.to_owned())));
        }
    }
}

impl Shared {
    /// A group for a new handle; made if it is not there.
    pub fn enter(&mut self, id: GroupId) -> Result<u64, Error> {
        let quarantined = |damage| Err(Error::Quarantined { group: id, damage });
        if let Some(damage) = self.quarantine.named.get(&id) {
            return quarantined(damage.clone());
        }
        let known = self.groups.contains_key(&id) || self.cleared.contains(&id);
        if let Some(damage) = self.quarantine.unseen.as_ref().filter(|_| !known) {
            return quarantined(damage.clone());
        }
        let group = self.groups.entry(id).or_default();
        if group.life == 0 {
            group.life = self.next_life;
            self.next_life += 1;
        }
        Ok(group.life)
    }

    /// The group of a handle.
    pub fn group(&mut self, id: GroupId, life: u64) -> Result<&mut Group, Error> {
        self.groups.get_mut(&id).filter(|group| group.life == life).ok_or(Error::Removed(id))
    }

    /// Forgets a group. Whether there was anything to forget.
    pub fn remove(&mut self, id: GroupId) -> bool {
        let group = self.groups.remove(&id);
        self.hints.remove(&id);
        let named = self.quarantine.named.remove(&id);
        let suspect = self.quarantine.unseen.is_some() && self.cleared.insert(id);
        self.recent_bytes -= group.as_ref().map_or(0, Group::recent_cost);
        group.is_some() || named.is_some() || suspect
    }

    /// Makes entries visible and returns their first ticket.
    pub fn append(&mut self, id: GroupId, entries: &[LogEntry]) -> u64 {
        let first = self.next_ticket;
        let Some(group) = self.groups.get_mut(&id) else { return first };
        for entry in entries {
            group.append(entry, self.next_ticket);
            self.recent.push_back((self.next_ticket, id));
            self.recent_bytes += cost(&entry.body);
            self.next_ticket += 1;
        }
        first
    }

    /// Has a committed mark go along with the next write.
    pub fn hint(&mut self, id: GroupId, mark: Bytes) {
        self.hints.insert(id, mark);
    }

    /// Queues a call.
    pub fn push(&mut self, op: Op, records: usize, bytes: usize) {
        self.queued_records += records;
        self.queued_bytes += bytes;
        self.queue.push(op);
    }

    /// Drops the oldest bodies until the rest costs at most `max`; stops at one not yet written.
    fn evict(&mut self, max: usize) {
        while self.recent_bytes > max {
            let Some((ticket, id)) = self.recent.front().copied() else { break };
            match self.groups.get_mut(&id).map_or(Ok(0), |group| group.evict(ticket)) {
                Ok(freed) => {
                    self.recent_bytes -= freed;
                    self.recent.pop_front();
                }
                Err(()) => break,
            }
        }
        self.tidy();
    }

    /// Forgets bodies that are gone already once they are most of the list.
    fn tidy(&mut self) {
        const MIN: usize = 4096;
        // Every body costs at least this much, so a list longer than twice this is mostly stale.
        let live_max = self.recent_bytes / cost(&Bytes::new()).max(1);
        if self.recent.len() > 2 * live_max + MIN {
            let groups = &self.groups;
            self.recent.retain(|(ticket, id)| groups.get(id).is_some_and(|group| group.has_recent(*ticket)));
        }
    }
}

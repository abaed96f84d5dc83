//! openraft's log over one group of the log lanes.
//!
//! Entries are encoded once, here, and stand in the lanes as opaque bodies. A vote is durable when `save_vote` returns;
//! an append is durable when its callback fires, which the lane does in order. The committed mark goes along with a later
//! write: it only saves work at the next boot.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use flotilla_proto::ids::NodeId;
use futures::StreamExt as _;
use openraft::alias::LeaderIdOf;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::vote::{RaftLeaderId as _, RaftVote as _};
use openraft::{BasicNode, EntryPayload, LogState, Membership};

use super::types::{Entry, LogId, Types, Vote, decode_entry, encode_entry};
use crate::invariants::{committed_stays, purge_behind_state, vote_goes_forward};
use crate::log::{GroupLog, LogEntry};
use crate::planted::{self, Bug};

/// Bytes of entries handed out in one piece, so that a long log is never in memory at once.
const READ_BYTES_MAX: u64 = 8 << 20;

/// The adapter; clones share the group.
#[derive(Clone)]
pub struct LogStore {
    log: GroupLog,
    /// Up to which entry the machine's state on disk reaches, if that is known.
    durable: Option<Arc<AtomicU64>>,
}

impl LogStore {
    /// Over one group's log.
    pub fn new(log: GroupLog) -> LogStore {
        LogStore { log, durable: None }
    }

    /// The same, purged no further than `durable` tells.
    pub fn behind(self, durable: Arc<AtomicU64>) -> LogStore {
        LogStore { durable: Some(durable), ..self }
    }

    /// After the machine's state was replaced by one that ends with `applied`: drops what the log holds besides, if it is not
    /// what led there.
    pub async fn follow_state(&self, applied: LogId) -> io::Result<()> {
        let state = self.log.state().map_err(io::Error::other)?;
        let purged = state.purged.map(|(index, _)| index);
        if state.last_index.is_none_or(|last| last < applied.index) || purged >= Some(applied.index) {
            return Ok(());
        }
        let held = self.read(applied.index, applied.index + 1, u64::MAX)?.pop();
        if held.is_some_and(|entry| entry.log_id == applied) {
            return Ok(());
        }
        self.log.truncate_after(purged).await.map_err(io::Error::other)
    }

    /// Begins a log that holds nothing, of a replica that never voted, with the first entry of a new group of these voters:
    /// their membership. It is the same at each of them, as if the first had led in term 0 and written it there. Tells
    /// whether it did.
    pub async fn found(&self, voters: &[NodeId]) -> io::Result<bool> {
        let Some(first) = voters.first() else { return Ok(false) };
        let state = self.log.state().map_err(io::Error::other)?;
        let leader = LeaderIdOf::<Types>::new(0, first.0);
        let vote = Vote::from_leader_id(leader, true);
        // A crash may have come between the two writes.
        let held: Option<Vote> = decode_mark(self.log.vote().map_err(io::Error::other)?)?;
        if state.last_index.is_some()
            || state.purged.is_some()
            || held.is_some_and(|held| held.leader_id().term() > 0)
        {
            return Ok(false);
        }
        let ids: BTreeSet<u64> = voters.iter().map(|voter| voter.0).collect();
        let nodes: BTreeMap<u64, BasicNode> = ids.iter().map(|id| (*id, BasicNode::default())).collect();
        let members = Membership::new(vec![ids], nodes).map_err(io::Error::other)?;
        let log_id = LogId::new(leader.to_committed(), 0);
        let entry = Entry { log_id, payload: EntryPayload::Membership(members) };
        let body = encode_entry(&entry).map_err(io::Error::other)?;
        self.log.save_vote(encode_mark(&vote)?).await.map_err(io::Error::other)?;
        let (flushed, is_flushed) = tokio::sync::oneshot::channel();
        let tell = move |result| drop(flushed.send(result));
        self.log.append(vec![LogEntry { index: 0, body }], tell).await.map_err(io::Error::other)?;
        is_flushed.await.map_err(io::Error::other)??;
        Ok(true)
    }

    fn range(&self, range: impl RangeBounds<u64>) -> io::Result<(u64, u64)> {
        let state = self.log.state().map_err(io::Error::other)?;
        let end = state.last_index.map_or(0, |last| last + 1);
        let from = match range.start_bound() {
            Bound::Included(&index) => index,
            Bound::Excluded(&index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(&index) => index + 1,
            Bound::Excluded(&index) => index,
            Bound::Unbounded => end,
        };
        Ok((from.max(state.first_index), to.min(end)))
    }

    fn read(&self, from: u64, to: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let entries = self.log.read(from..to, bytes_max).map_err(io::Error::other)?;
        entries.iter().map(decode).collect()
    }
}

fn decode(entry: &LogEntry) -> io::Result<Entry> {
    decode_entry(&entry.body).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("log entry {} does not decode", entry.index))
    })
}

fn decode_mark<T: serde::de::DeserializeOwned>(bytes: Option<Bytes>) -> io::Result<Option<T>> {
    bytes
        .map(|bytes| postcard::from_bytes(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)))
        .transpose()
}

fn encode_mark<T: serde::Serialize>(value: &T) -> io::Result<Bytes> {
    postcard::to_stdvec(value).map(Bytes::from).map_err(io::Error::other)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (from, to) = self.range(range)?;
        self.read(from, to, u64::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let (from, to) = self.range(start..end)?;
        self.read(from, to, READ_BYTES_MAX)
    }

    async fn entries_stream<R>(&mut self, range: R) -> impl futures::Stream<Item = io::Result<Entry>> + Send
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let pieces = match self.range(range) {
            Ok((from, to)) => Pieces { store: self.clone(), at: from, to, failed: None },
            Err(why) => Pieces { store: self.clone(), at: 0, to: 0, failed: Some(why) },
        };
        futures::stream::iter(pieces).flat_map(futures::stream::iter)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        decode_mark(self.log.vote().map_err(io::Error::other)?)
    }
}

/// A range of the log in pieces of bounded size.
struct Pieces {
    store: LogStore,
    at: u64,
    to: u64,
    failed: Option<io::Error>,
}

impl Iterator for Pieces {
    type Item = Vec<io::Result<Entry>>;

    fn next(&mut self) -> Option<Vec<io::Result<Entry>>> {
        if let Some(why) = self.failed.take() {
            return Some(vec![Err(why)]);
        }
        if self.at >= self.to {
            return None;
        }
        match self.store.read(self.at, self.to, READ_BYTES_MAX) {
            Ok(entries) if entries.is_empty() => None,
            Ok(entries) => {
                self.at += entries.len() as u64;
                Some(entries.into_iter().map(Ok).collect())
            }
            Err(why) => {
                self.at = self.to;
                Some(vec![Err(why)])
            }
        }
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let state = self.log.state().map_err(io::Error::other)?;
        let purged: Option<LogId> = decode_mark(state.purged.map(|(_, id)| id))?;
        let last = match state.last_index {
            Some(last) => self.read(last, last + 1, u64::MAX)?.pop().map(|entry| entry.log_id),
            None => purged,
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        if planted::has(Bug::VoteForgotten) {
            return Ok(());
        }
        let held: Option<Vote> = decode_mark(self.log.vote().map_err(io::Error::other)?)?;
        vote_goes_forward::check(held.as_ref(), vote)?;
        self.log.save_vote(encode_mark(vote)?).await.map_err(io::Error::other)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log.save_committed(encode_mark(&committed)?).map_err(io::Error::other)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(decode_mark::<Option<LogId>>(self.log.committed().map_err(io::Error::other)?)?.flatten())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let bodies = entries
            .into_iter()
            .map(|entry| {
                let body = encode_entry(&entry).map_err(io::Error::other)?;
                Ok(LogEntry { index: entry.log_id.index, body })
            })
            .collect::<io::Result<Vec<LogEntry>>>()?;
        self.log.append(bodies, move |result| callback.io_completed(result)).await.map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let committed: Option<Option<LogId>> = decode_mark(self.log.committed().map_err(io::Error::other)?)?;
        committed_stays::check(committed.flatten().map(|id| id.index), last.map(|id| id.index))?;
        self.log.truncate_after(last.map(|id| id.index)).await.map_err(io::Error::other)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        if let Some(durable) = &self.durable {
            purge_behind_state::check(durable.load(Ordering::SeqCst), upto.index)?;
        }
        self.log.purge(upto.index, encode_mark(&upto)?).await.map_err(io::Error::other)
    }
}

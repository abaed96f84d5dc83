//! A partition's machine: records in, deterministic changes of the store out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use flotilla_proto::filter::Compiled;
use flotilla_proto::ids::{CollectionId, LogIndex};
use flotilla_proto::schema::CollectionSpec;
use tokio::sync::Notify;

use super::command::{Body, Command};
use super::digests::Digests;
use super::kept::Kept;
use super::{Machine, Rejection, Reply};
use crate::query;
use crate::storage::store::{Restored, Store};
use crate::storage::{Fault, Quarantine, SegmentView};

/// Between a machine and the background work on its store.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// Told after each freeze, so that the background work begins at once.
    pub frozen: Arc<Notify>,
    /// Set when the next checkpoint is to freeze what grows.
    pub freeze_wanted: Arc<AtomicBool>,
    /// What `Digest` commands left.
    pub digests: Arc<Digests>,
    /// Where a fault of the machine or of the background work takes the replica.
    pub quarantine: Arc<Quarantine>,
}

/// Applies a partition's commands to its store.
pub struct PartitionMachine {
    collection: CollectionId,
    store: Arc<Store>,
    kept: Kept,
    durable_mark: Vec<u8>,
    /// Log index of the last publish.
    applied: LogIndex,
    signals: Signals,
}

fn decode(store: &Store, machine: &[u8]) -> Result<Kept, Fault> {
    if machine.is_empty() {
        return Ok(Kept::default());
    }
    let damaged =
        |e| Fault::damaged(store.manifest_path(), 0, format!("the machine's state does not decode: {e}"));
    Kept::decode(machine).map_err(damaged)
}

impl PartitionMachine {
    /// The machine over a store that was just opened.
    pub fn new(
        collection: CollectionId,
        store: Arc<Store>,
        restored: Restored,
        signals: Signals,
    ) -> Result<PartitionMachine, Fault> {
        let kept = decode(&store, &restored.machine)?;
        store.begin_digest(kept.digest)?;
        let durable_mark = kept.mark.clone();
        Ok(PartitionMachine { collection, store, kept, durable_mark, applied: restored.applied, signals })
    }

    fn carry_out(&mut self, index: LogIndex, command: Command) -> Result<Reply, Fault> {
        if command.collection != self.collection {
            return Ok(Reply::Rejected(Rejection::OtherIncarnation));
        }
        if let Some(reply) = command.request.and_then(|request| self.kept.window.seen(request)) {
            return Ok(reply);
        }
        let affected = match command.body {
            Body::Upsert(rows) => self.store.upsert(index, rows)?,
            Body::Delete(keys) => self.store.delete(index, &keys)?,
            Body::DeleteFilter { filter, fields } => {
                let spec = CollectionSpec { fields, strict: false, ..(*self.store.spec()).clone() };
                match Compiled::new(&filter, &spec) {
                    Ok(filter) => self.delete_matching(index, &filter)?,
                    Err(why) => return Ok(Reply::Rejected(Rejection::Unreadable(why.to_string()))),
                }
            }
            Body::Digest { deep } => {
                self.store.publish(index);
                self.signals.digests.record(index, self.store.view(), deep);
                0
            }
        };
        if let Some(request) = command.request {
            self.kept.window.record(request, index, affected);
        }
        Ok(Reply::Written { affected, log_index: index })
    }

    /// The condition is read against everything before this command, so that is published first.
    fn delete_matching(&mut self, index: LogIndex, filter: &Compiled) -> Result<u64, Fault> {
        self.store.publish(index - 1);
        let view = self.store.view();
        let segments: Vec<&dyn SegmentView> = view.segments().collect();
        let keys = query::matching_keys(&segments, filter)?;
        self.store.delete(index, &keys)
    }

    fn freeze(&mut self) -> Result<(), Fault> {
        self.kept.digest = Some(self.store.digest());
        let kept = self.kept.encode().map_err(|e| Fault::Io {
            file: self.store.manifest_path(),
            reason: format!("the machine's state does not encode: {e}"),
            is_full: false,
        })?;
        if self.store.freeze(self.applied, kept) {
            self.signals.frozen.notify_one();
        }
        Ok(())
    }
}

impl Machine for PartitionMachine {
    fn boot_mark(&self) -> Vec<u8> {
        self.kept.mark.clone()
    }

    fn durable_mark(&self) -> Vec<u8> {
        self.durable_mark.clone()
    }

    fn apply(&mut self, index: LogIndex, command: &Bytes) -> Result<Reply, Fault> {
        match Command::decode(command) {
            Ok(command) => {
                self.carry_out(index, command).inspect_err(|fault| self.signals.quarantine.note(fault))
            }
            Err(rejection) => Ok(Reply::Rejected(rejection)),
        }
    }

    fn publish(&mut self, index: LogIndex, mark: Vec<u8>) -> Result<(), Fault> {
        self.applied = index;
        self.kept.mark = mark;
        self.store.publish(index);
        if self.store.needs_seal() && !self.store.is_behind() { self.freeze() } else { Ok(()) }
    }

    fn link(&mut self, into: &std::path::Path) -> Result<Vec<u8>, Fault> {
        let (_, machine) = self.store.link_into(into)?;
        if machine.is_empty() { Ok(Vec::new()) } else { Ok(decode(&self.store, &machine)?.mark) }
    }

    fn checkpoint(&mut self) -> Result<(), Fault> {
        if self.signals.freeze_wanted.swap(false, Ordering::SeqCst) {
            self.freeze()?;
        }
        let machine = self.store.durable_machine();
        if !machine.is_empty() {
            self.durable_mark = decode(&self.store, &machine)?.mark;
        }
        Ok(())
    }
}

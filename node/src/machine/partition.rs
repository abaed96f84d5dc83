//! A partition's machine: records in, deterministic changes of the store out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use flotilla_proto::filter::Compiled;
use flotilla_proto::ids::{CollectionId, LogIndex};
use flotilla_proto::schema::CollectionSpec;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::command::{Body, Command};
use super::dedup::Window;
use super::{Machine, Rejection, Reply};
use crate::query;
use crate::storage::store::{Restored, Store};
use crate::storage::{Fault, SegmentView};

/// What the machine keeps in the manifest besides the records.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    mark: Vec<u8>,
    window: Window,
}

/// Between a machine and the background work on its store.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// Told after each freeze, so that the background work begins at once.
    pub frozen: Arc<Notify>,
    /// Set when the next checkpoint is to freeze what grows.
    pub freeze_wanted: Arc<AtomicBool>,
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

impl PartitionMachine {
    /// The machine over a store that was just opened.
    pub fn new(
        collection: CollectionId,
        store: Arc<Store>,
        restored: Restored,
        signals: Signals,
    ) -> Result<PartitionMachine, Fault> {
        let kept: Kept = if restored.machine.is_empty() {
            Kept::default()
        } else {
            postcard::from_bytes(&restored.machine).map_err(|e| Fault::Damaged {
                file: store.manifest_path(),
                offset: 0,
                reason: format!("the machine's state does not decode: {e}"),
            })?
        };
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

    fn decode(&self, machine: &[u8]) -> Result<Kept, Fault> {
        postcard::from_bytes(machine).map_err(|e| Fault::Damaged {
            file: self.store.manifest_path(),
            offset: 0,
            reason: format!("the machine's state does not decode: {e}"),
        })
    }

    fn freeze(&mut self) -> Result<(), Fault> {
        let kept = postcard::to_stdvec(&self.kept).map_err(|e| Fault::Io {
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
            Ok(command) => self.carry_out(index, command),
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
        if machine.is_empty() { Ok(Vec::new()) } else { Ok(self.decode(&machine)?.mark) }
    }

    fn checkpoint(&mut self) -> Result<(), Fault> {
        if self.signals.freeze_wanted.swap(false, Ordering::SeqCst) {
            self.freeze()?;
        }
        let machine = self.store.durable_machine();
        if !machine.is_empty() {
            self.durable_mark = self.decode(&machine)?.mark;
        }
        Ok(())
    }
}

//! A partition's machine: records in, deterministic changes of the store out.
//!
//! A write asks two questions before it changes anything, each answered by the machine's own state and so by every replica
//! alike: was this request seen before, for the pieces of the key space that its keys fall into ([`super::dedup`]); and
//! may these keys be written here at all, or are they moving ([`super::moves`]). At rest both are one look at something
//! empty. Steps of moves stand in [`steps`], those of replacements in [`replace`].

mod decided;
mod expire;
mod patch;
mod replace;
mod steps;
mod within;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use flotilla_proto::filter::{Compiled, Filter};
use flotilla_proto::ids::{CollectionId, LogIndex};
use flotilla_proto::record::Key;
use flotilla_proto::schema::{CollectionSpec, FieldType};
use tokio::sync::Notify;

use super::command::{Body, Command, RequestId};
use super::dedup::Place;
use super::digests::Digests;
use super::kept::{self, Kept};
use super::moves::{Ledger, Moves};
use super::replaces::Replaces;
use super::{Machine, Rejection, Reply};
use crate::planted::{self, Bug};
use crate::query;
use crate::storage::store::{Restored, Store};
use crate::storage::{Fault, Presence, Quarantine, SegmentView, StoredRow};

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
    mark: Vec<u8>,
    durable_mark: Vec<u8>,
    moves: Moves,
    /// What the moves say of the rows; kept beside them because every write asks.
    presence: Presence,
    /// Whether the moves changed since the last publish.
    is_moved: bool,
    replaces: Replaces,
    /// Whether the replacements changed since the last publish.
    is_replaced: bool,
    ledger: Arc<Ledger>,
    /// Log index of the last publish.
    applied: LogIndex,
    signals: Signals,
}

/// What of a command is new, and what is not.
struct Admitted<T> {
    fresh: Vec<(Place, Vec<T>)>,
    again: Vec<(Place, Vec<T>)>,
    seen: u64,
    seen_at: LogIndex,
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
        let Kept { mark, dedup, digest, moves, touched, replaces } = decode(&store, &restored.machine)?;
        let ledger = Ledger::default();
        *ledger.dedup.lock() = dedup;
        *ledger.touched.lock() = touched;
        ledger.moves.send_replace(Arc::new(moves.clone()));
        ledger.replaces.send_replace(Arc::new(replaces.seen()));
        let presence = Presence { generation: replaces.generation, ..moves.presence() };
        store.set_presence(presence.clone());
        store.begin_digest(digest)?;
        Ok(PartitionMachine {
            collection,
            store,
            durable_mark: mark.clone(),
            mark,
            moves,
            presence,
            is_moved: false,
            replaces,
            is_replaced: false,
            ledger: Arc::new(ledger),
            applied: restored.applied,
            signals,
        })
    }

    /// What others see of its moves.
    pub fn ledger(&self) -> Arc<Ledger> {
        self.ledger.clone()
    }

    fn carry_out(&mut self, index: LogIndex, command: Command) -> Result<Reply, Fault> {
        if command.collection != self.collection {
            return Ok(Reply::Rejected(Rejection::OtherIncarnation));
        }
        let request = command.request;
        match command.body {
            Body::Upsert(rows) => self.upsert(index, request, rows),
            Body::Delete(keys) => self.delete(index, request, keys),
            Body::DeleteFilter { filter, fields } => {
                self.delete_matching(index, request, &filter, fields, self.presence.layout)
            }
            Body::DeleteMatching { filter, fields, layout } => {
                self.delete_matching(index, request, &filter, fields, layout)
            }
            Body::Digest { deep } => {
                self.store.publish(index);
                self.signals.digests.record(index, self.store.view(), deep);
                Ok(Reply::Written { affected: 0, log_index: index })
            }
            Body::Move(step) => self.step(index, step),
            Body::UpsertIf(rows) => self.upsert_if(index, request, rows),
            Body::Patch { patches, rules } => self.patch(index, request, patches, rules),
            Body::PatchMatching { filter, edit, rules, layout } => {
                self.patch_matching(index, request, (&filter, &edit), rules, layout)
            }
            Body::Expire { until_ms, keys } => self.expire(index, until_ms, keys),
            Body::Replace(step) => self.replace(index, step),
            Body::Within { records_max, rows } => self.within(index, request, records_max, rows),
        }
    }

    fn upsert(
        &mut self,
        index: LogIndex,
        request: Option<RequestId>,
        rows: Vec<StoredRow>,
    ) -> Result<Reply, Fault> {
        let admitted = match self.admit(request, rows, |row| row.key.clone()) {
            Ok(admitted) => admitted,
            Err(rejection) => return Ok(Reply::Rejected(rejection)),
        };
        self.each(index, request, admitted, |machine, rows: Vec<StoredRow>| machine.write(index, rows))
    }

    fn delete(
        &mut self,
        index: LogIndex,
        request: Option<RequestId>,
        keys: Vec<Key>,
    ) -> Result<Reply, Fault> {
        let admitted = match self.admit(request, keys, Key::to_bytes) {
            Ok(admitted) => admitted,
            Err(rejection) => return Ok(Reply::Rejected(rejection)),
        };
        self.each(index, request, admitted, |machine, keys: Vec<Key>| machine.delete_keys(index, &keys))
    }

    fn delete_keys(&mut self, index: LogIndex, keys: &[Key]) -> Result<u64, Fault> {
        if planted::has(Bug::DeleteSkipped) && index.is_multiple_of(4) {
            return Ok(keys.len() as u64);
        }
        if self.moves.outgoing.is_some() {
            let bytes: Vec<Vec<u8>> = keys.iter().map(Key::to_bytes).collect();
            self.touch(index, bytes.iter().map(Vec::as_slice));
        }
        self.store.delete(index, keys)
    }

    /// The condition is read against everything before this command, so that is published first. Rows that are not the
    /// partition's to change do not count; while some wait to be settled, all of it waits.
    fn delete_matching(
        &mut self,
        index: LogIndex,
        request: Option<RequestId>,
        filter: &Filter,
        fields: BTreeMap<String, FieldType>,
        layout: u64,
    ) -> Result<Reply, Fault> {
        let mut admitted = match self.standing(request) {
            Ok(admitted) => admitted,
            Err(rejection) => return Ok(Reply::Rejected(rejection)),
        };
        if !admitted.fresh.is_empty() {
            if layout != self.presence.layout || !self.presence.frozen.is_empty() {
                return Ok(Reply::Rejected(Rejection::Moved));
            }
            let spec = CollectionSpec { fields, strict: false, ..(*self.store.spec()).clone() };
            match Compiled::new(filter, &spec) {
                Ok(filter) => self.choose(index, &filter, &mut admitted)?,
                Err(why) => return Ok(Reply::Rejected(Rejection::Unreadable(why.to_string()))),
            }
        }
        self.each(index, request, admitted, |machine, keys: Vec<Key>| machine.delete_keys(index, &keys))
    }

    /// Which windows have seen a request that is about all keys here. What was done elsewhere to keys that came is
    /// answered for there.
    fn standing(&self, request: Option<RequestId>) -> Result<Admitted<Key>, Rejection> {
        let mut admitted = Admitted { fresh: Vec::new(), again: Vec::new(), seen: 0, seen_at: 0 };
        let dedup = self.ledger.dedup.lock();
        for place in dedup.places(self.moves.incoming.as_ref().map(|incoming| incoming.id)) {
            match request.and_then(|request| dedup.seen(place, request)) {
                Some(Reply::Rejected(rejection)) => return Err(rejection),
                Some(Reply::Written { affected, log_index }) => {
                    admitted.seen_at = admitted.seen_at.max(log_index);
                    if dedup.is_done_here(place, log_index) {
                        admitted.seen += affected;
                        admitted.again.push((place, Vec::new()));
                    }
                }
                _ => admitted.fresh.push((place, Vec::new())),
            }
        }
        Ok(admitted)
    }

    /// Fills in the keys that pass, each where it belongs; those of a piece that has seen the request are left out.
    fn choose(
        &mut self,
        index: LogIndex,
        filter: &Compiled,
        admitted: &mut Admitted<Key>,
    ) -> Result<(), Fault> {
        self.store.publish(index - 1);
        let view = self.store.view();
        let segments: Vec<&dyn SegmentView> = view.segments().collect();
        let mut keys = query::matching_keys(&segments, filter)?;
        if !self.presence.closed.is_empty() {
            keys.retain(|key| !self.presence.closed.contains(&key.to_bytes()));
        }
        let dedup = self.ledger.dedup.lock();
        for key in keys {
            let place = if dedup.pieces.is_empty() { None } else { dedup.place(&key.to_bytes()) };
            if let Some((_, keys)) = admitted.fresh.iter_mut().find(|(fresh, _)| *fresh == place) {
                keys.push(key);
            }
        }
        Ok(())
    }

    /// What of a command with these keys has not been seen; all of it may be written here.
    fn admit<T>(
        &self,
        request: Option<RequestId>,
        items: Vec<T>,
        key: impl Fn(&T) -> Vec<u8>,
    ) -> Result<Admitted<T>, Rejection> {
        let dedup = self.ledger.dedup.lock();
        let mut groups: BTreeMap<Place, Vec<T>> = BTreeMap::new();
        if dedup.pieces.is_empty() || items.is_empty() {
            groups.insert(None, items);
        } else {
            for item in items {
                groups.entry(dedup.place(&key(&item))).or_default().push(item);
            }
        }
        let fresh = Vec::with_capacity(groups.len());
        let mut admitted = Admitted { fresh, again: Vec::new(), seen: 0, seen_at: 0 };
        for (place, items) in groups {
            match request.and_then(|request| dedup.seen(place, request)) {
                Some(Reply::Rejected(rejection)) => return Err(rejection),
                Some(Reply::Written { affected, log_index }) => {
                    let named: BTreeSet<Vec<u8>> = items.iter().map(&key).collect();
                    admitted.seen += affected.min(named.len() as u64);
                    admitted.seen_at = admitted.seen_at.max(log_index);
                    admitted.again.push((place, items));
                }
                _ => admitted.fresh.push((place, items)),
            }
        }
        let closed = &self.presence.closed;
        let mut fresh = admitted.fresh.iter().flat_map(|(_, items)| items);
        if !planted::has(Bug::EpochUnchecked)
            && !closed.is_empty()
            && fresh.any(|item| closed.contains(&key(item)))
        {
            return Err(Rejection::Moved);
        }
        Ok(admitted)
    }

    /// Applies what is new, window by window, and answers for all of it.
    fn each<T>(
        &mut self,
        index: LogIndex,
        request: Option<RequestId>,
        admitted: Admitted<T>,
        mut apply: impl FnMut(&mut PartitionMachine, Vec<T>) -> Result<u64, Fault>,
    ) -> Result<Reply, Fault> {
        let log_index = if admitted.fresh.is_empty() { admitted.seen_at } else { index };
        let mut total = admitted.seen;
        for (place, items) in admitted.fresh {
            let affected = apply(self, items)?;
            total += affected;
            if let Some(request) = request {
                self.ledger.dedup.lock().record(place, request, index, affected);
            }
        }
        Ok(Reply::Written { affected: total, log_index })
    }

    /// Keeps the keys that are about to go.
    fn touch<'a>(&mut self, index: LogIndex, keys: impl Iterator<Item = &'a [u8]>) {
        let Some(leaving) = self.moves.outgoing.as_mut().filter(|o| !o.is_overflowed) else { return };
        let mut touched = self.ledger.touched.lock();
        for key in keys.filter(|key| leaving.area.contains(key)) {
            touched.insert(key.to_vec(), index);
        }
        if touched.len() > leaving.touched_max as usize {
            leaving.is_overflowed = true;
            touched.clear();
            self.is_moved = true;
        }
    }

    /// States published from here on say what the moves and replacements say now.
    fn show_presence(&mut self) {
        self.presence = Presence { generation: self.replaces.generation, ..self.moves.presence() };
        self.store.set_presence(self.presence.clone());
    }

    fn freeze(&mut self) -> Result<(), Fault> {
        let kept = self.encode().map_err(|e| Fault::Io {
            file: self.store.manifest_path(),
            reason: format!("the machine's state does not encode: {e}"),
            is_full: false,
        })?;
        if self.store.freeze(self.applied, kept) {
            self.signals.frozen.notify_one();
        }
        Ok(())
    }

    fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        let (dedup, touched) = (self.ledger.dedup.lock(), self.ledger.touched.lock());
        if planted::has(Bug::WindowDropped) {
            let none = crate::machine::dedup::Dedup::default();
            let digest = self.store.digest();
            return kept::encode(&self.mark, &none, digest, &self.moves, &touched, &self.replaces);
        }
        kept::encode(&self.mark, &dedup, self.store.digest(), &self.moves, &touched, &self.replaces)
    }
}

impl Machine for PartitionMachine {
    fn boot_mark(&self) -> Vec<u8> {
        self.mark.clone()
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
        self.mark = mark;
        self.store.publish(index);
        if std::mem::take(&mut self.is_moved) {
            self.ledger.moves.send_replace(Arc::new(self.moves.clone()));
        }
        if std::mem::take(&mut self.is_replaced) {
            self.ledger.replaces.send_replace(Arc::new(self.replaces.seen()));
        }
        if self.store.needs_seal() && !self.store.is_full() { self.freeze() } else { Ok(()) }
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

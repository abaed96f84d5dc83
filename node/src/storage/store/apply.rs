//! The writer's side: one command at a time, in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::Key;

use super::{Fault, Frozen, State, Store};
use crate::storage::Presence;
use crate::storage::digest;
use crate::storage::growing::{Growing, fits};
use crate::storage::row::StoredRow;

/// Frozen states that may wait for the background at once; with more, the growing segment keeps growing and the
/// writer is told by [`Store::needs_seal`] to slow down.
pub(super) const FROZEN_MAX: usize = 3;

/// A live row.
struct Live {
    place: Place,
    version: LogIndex,
    /// Its part of the rolling digest.
    mark: u128,
}

/// Where a row stands.
enum Place {
    Growing(u32),
    /// The frozen segment with this place in the queue.
    Frozen(usize, u32),
    /// The sealed segment with this place in the list.
    Sealed(usize, u32),
}

impl Store {
    /// Stores the rows of the command at `index`; of rows with one key the last one wins. Returns how many rows were
    /// stored. Readers see them once the index is published.
    ///
    /// # Errors
    /// Damage, if a row is not one of this collection or a sealed segment cannot be read; nothing is stored then.
    pub fn upsert(&self, index: LogIndex, rows: Vec<StoredRow>) -> Result<u64, Fault> {
        let mut state = self.state.lock();
        let rows = last_of_each_key(rows);
        if let Some(at) = rows.iter().position(|row| !fits(row, &state.shapes)) {
            let reason = format!("row {at} of the command at {index} does not fit the collection");
            return Err(Fault::damaged(&self.dir, index, reason));
        }
        let replaced = rows.iter().filter_map(|row| state.find(&row.key).transpose());
        let replaced: Vec<Live> = replaced.collect::<Result<_, _>>()?;
        replaced.into_iter().for_each(|row| state.mark(row, index));
        rows.iter().for_each(|row| state.digest.add(digest::mark(&row.key, index)));
        let shapes = Arc::clone(&state.shapes);
        state.growing.append(index, &rows, &shapes);
        state.written = state.written.max(index);
        Ok(rows.len() as u64)
    }

    /// Live records after every command so far, published or not.
    pub fn live(&self) -> u64 {
        let state = self.state.lock();
        let in_memory = state.frozen.iter().map(|frozen| &frozen.rows).chain([&state.growing]);
        let in_memory: u64 = in_memory.map(|rows| u64::from(rows.live())).sum();
        in_memory + state.sealed.iter().map(|sealed| u64::from(sealed.live())).sum::<u64>()
    }

    /// The version of a key's record after every command so far, published or not; `None`: there is none.
    ///
    /// # Errors
    /// Damage, if a sealed segment cannot be read.
    pub fn version_of(&self, key: &[u8]) -> Result<Option<LogIndex>, Fault> {
        Ok(self.state.lock().find(key)?.map(|live| live.version))
    }

    /// When a key's record expires, after every command so far; `None`: never, or there is none.
    ///
    /// # Errors
    /// Damage, if a sealed segment cannot be read.
    pub fn expiry_of(&self, key: &[u8]) -> Result<Option<u64>, Fault> {
        let state = self.state.lock();
        Ok(state.find(key)?.and_then(|live| state.expires_at_ms(&live.place)))
    }

    /// The keys, in order, of records that expire at or before `until` and may be written here: at most so many, and about so
    /// many bytes. None only if there is none.
    ///
    /// # Errors
    /// Damage, if a sealed segment cannot be read.
    pub fn due(&self, until: u64, keys_max: usize, bytes_max: usize) -> Result<Vec<Vec<u8>>, Fault> {
        let (mut due, mut bytes) = (Vec::new(), 0);
        let sealed = {
            let state = self.state.lock();
            let closed = &state.presence.closed;
            let in_memory = state.frozen.iter().map(|frozen| &frozen.rows).chain([&state.growing]);
            for key in in_memory.flat_map(|rows| rows.due(until)).filter(|key| !closed.contains(key)) {
                if due.len() >= keys_max || bytes >= bytes_max {
                    break;
                }
                bytes += key.len();
                due.push(key.to_vec());
            }
            (state.sealed.clone(), Arc::clone(&state.presence))
        };
        let (sealed, presence) = sealed;
        'sealed: for segment in sealed {
            for row in segment.due(until) {
                if due.len() >= keys_max || bytes >= bytes_max {
                    break 'sealed;
                }
                let key = segment.key_bytes(row)?;
                if !presence.closed.contains(key) {
                    bytes += key.len();
                    due.push(key.to_vec());
                }
            }
        }
        due.sort_unstable();
        Ok(due)
    }

    /// Deletes the records of these keys by the command at `index`. Returns how many there were.
    ///
    /// # Errors
    /// Damage, if a sealed segment cannot be read; nothing is deleted then.
    pub fn delete(&self, index: LogIndex, keys: &[Key]) -> Result<u64, Fault> {
        let mut state = self.state.lock();
        let mut keys: Vec<Vec<u8>> = keys.iter().map(Key::to_bytes).collect();
        keys.sort_unstable();
        keys.dedup();
        let gone = keys.iter().filter_map(|key| state.find(key).transpose());
        let gone: Vec<Live> = gone.collect::<Result<_, _>>()?;
        let found = gone.len() as u64;
        #[cfg(test)]
        if self.skips_delete.swap(false, std::sync::atomic::Ordering::SeqCst) {
            return Ok(found);
        }
        gone.into_iter().for_each(|row| state.mark(row, index));
        state.written = state.written.max(index);
        Ok(found)
    }

    /// States published from here on say this of the keys they hold.
    pub fn set_presence(&self, presence: Presence) {
        self.state.lock().presence = Arc::new(presence);
    }

    /// From here on, new views see everything up to `index`, the command that was applied last.
    pub fn publish(&self, index: LogIndex) {
        let mut state = self.state.lock();
        state.written = state.written.max(index);
        self.publish_locked(&state);
    }

    pub(super) fn publish_locked(&self, state: &State) {
        self.published.store(Arc::new(state.published(state.written)));
    }

    /// Whether the growing segment is large enough to be frozen and sealed. While it stays true although
    /// [`Store::freeze`] was called, the background is behind: slow the writers down.
    pub fn needs_seal(&self) -> bool {
        self.state.lock().needs_seal(&self.options)
    }

    /// Freezes the state after the command at `applied`, the last one, for the background to make durable together with
    /// the `machine`'s own state at that index. Instant; publishes `applied`. Works without new rows too, so that
    /// deletions and the machine's state reach the manifest and the log can be purged.
    ///
    /// False, and nothing happens, if that state is frozen or durable already, if a later command was applied, or if too
    /// many frozen states wait.
    pub fn freeze(&self, applied: LogIndex, machine: Vec<u8>) -> bool {
        let mut state = self.state.lock();
        let last = state.frozen.back().map_or(state.durable, |frozen| frozen.applied);
        if applied <= last || applied < state.written || state.is_full() {
            return false;
        }
        state.written = applied;
        let rows: Growing = std::mem::take(&mut state.growing);
        let number = state.growing_number;
        state.growing_number = state.take_number();
        state.frozen.push_back(Frozen { applied, machine: Arc::new(machine), number, rows });
        self.publish_locked(&state);
        true
    }
}

/// The last row of each key, in order.
fn last_of_each_key(rows: Vec<StoredRow>) -> Vec<StoredRow> {
    let mut last = BTreeMap::new();
    for (place, row) in rows.iter().enumerate() {
        last.insert(row.key.clone(), place);
    }
    if last.len() == rows.len() {
        return rows;
    }
    let keeps = |(place, row): &(usize, StoredRow)| last.get(&row.key) == Some(place);
    rows.into_iter().enumerate().filter(keeps).map(|(_, row)| row).collect()
}

impl State {
    /// The live row of a key. The newest segment that knows the key decides.
    fn find(&self, key: &[u8]) -> Result<Option<Live>, Fault> {
        let live = |place, version| Live { place, version, mark: digest::mark(key, version) };
        if let Some((row, version)) = self.growing.newest(key) {
            return Ok(version.map(|version| live(Place::Growing(row), version)));
        }
        for (at, frozen) in self.frozen.iter().enumerate().rev() {
            if let Some((row, version)) = frozen.rows.newest(key) {
                return Ok(version.map(|version| live(Place::Frozen(at, row), version)));
            }
        }
        for (at, sealed) in self.sealed.iter().enumerate().rev() {
            if let Some(row) = sealed.live_row(key)? {
                return Ok(Some(live(Place::Sealed(at, row), sealed.version(row))));
            }
        }
        Ok(None)
    }

    fn expires_at_ms(&self, place: &Place) -> Option<u64> {
        match *place {
            Place::Growing(row) => self.growing.expires_at_ms(row),
            Place::Frozen(at, row) => self.frozen.get(at)?.rows.expires_at_ms(row),
            Place::Sealed(at, row) => self.sealed.get(at)?.expires_at_ms(row),
        }
    }

    fn mark(&mut self, row: Live, index: LogIndex) {
        self.digest.remove(row.mark);
        match row.place {
            Place::Growing(row) => self.growing.mark(row, index),
            Place::Frozen(at, row) => {
                if let Some(frozen) = self.frozen.get_mut(at) {
                    frozen.rows.mark(row, index);
                }
            }
            Place::Sealed(at, row) => {
                if let Some(sealed) = self.sealed.get(at) {
                    sealed.mark(row, index);
                }
            }
        }
    }
}

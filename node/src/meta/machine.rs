//! The catalogue as a state machine.
//!
//! Three places hold it: memory (what everybody watches), the derived store (one batch per publish: catalogue and mark
//! together), and the file `CATALOGUE` (written by rename before the log behind it is purged). At boot the newest of
//! the latter two that is whole is taken, the derived store only if it does not run ahead of the log; the log tells the
//! rest. Deleting the derived store therefore loses nothing.
//!
//! Layout of the state: postcard, and behind it, since format 3, the replacements of each collection that has any, and behind
//! those, since format 4, whose each collection is that is a tenant's, and the limits of each class; behind those, since format 5, how many nodes are
//! asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::ids::{CollectionId, LogIndex};
use flotilla_proto::placement::{PlacementMap, Replaces};
use flotilla_proto::tenant::{Classes, Tenancy};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::catalogue::Catalogue;
use super::derived::{self, Derived};
use crate::env::fs;
use crate::machine::{Machine, Reply};
use crate::storage::Fault;

const FORMAT: u32 = 5;
/// The oldest one that is read.
const FORMAT_MIN: u32 = 2;
const MAGIC: &[u8; 8] = b"FLOTCATA";
const STATE: &str = "catalogue";
const CATALOGUE: &str = "CATALOGUE";

#[derive(Clone, Default, Serialize, Deserialize)]
struct State {
    applied: LogIndex,
    mark: Vec<u8>,
    catalogue: Catalogue,
}

/// What the rest of the node sees of the catalogue; it outlives the machine, which is opened anew after a snapshot.
#[derive(Clone)]
pub struct Published {
    map: Arc<watch::Sender<Arc<PlacementMap>>>,
    catalogue: Arc<RwLock<Catalogue>>,
}

impl Default for Published {
    fn default() -> Published {
        Published { map: Arc::new(watch::channel(Arc::default()).0), catalogue: Arc::default() }
    }
}

impl Published {
    /// The map now, and each newer one.
    pub fn watch(&self) -> watch::Receiver<Arc<PlacementMap>> {
        self.map.subscribe()
    }

    /// The map now.
    pub fn map(&self) -> Arc<PlacementMap> {
        self.map.borrow().clone()
    }

    /// Looks at the whole catalogue.
    pub fn look<T>(&self, look: impl FnOnce(&Catalogue) -> T) -> T {
        look(&self.catalogue.read())
    }

    fn publish(&self, catalogue: &Catalogue) {
        *self.catalogue.write() = catalogue.clone();
        self.map.send_if_modified(|map| {
            let is_newer = map.epoch < catalogue.map.epoch;
            if is_newer {
                *map = Arc::new(catalogue.map.clone());
            }
            is_newer
        });
    }
}

/// See the module.
pub struct MetaMachine {
    state: State,
    durable_mark: Vec<u8>,
    derived: Box<dyn Derived>,
    file: PathBuf,
    published: Published,
}

impl MetaMachine {
    /// Opens the catalogue in `folder`. `log_last` is the last index that the group's log holds.
    pub fn open(
        folder: &Path,
        log_last: Option<LogIndex>,
        published: Published,
    ) -> Result<MetaMachine, Fault> {
        let file = folder.join(CATALOGUE);
        fs::make_dir(folder).map_err(|e| io_fault(folder, &e))?;
        let derived = derived::open(&folder.join("derived")).map_err(|reason| Fault::Io {
            file: folder.join("derived"),
            reason,
            is_full: false,
        })?;
        // What a failed sync left undone must not be built upon.
        fs::sync_dir(folder).map_err(|e| io_fault(folder, &e))?;
        let from_file = read_file(&file)?;
        let from_derived = derived
            .get(STATE)
            .and_then(|bytes| decode(&bytes).ok())
            .filter(|state| Some(state.applied) <= log_last);
        let durable_mark = from_file.as_ref().map(|state| state.mark.clone()).unwrap_or_default();
        let state = match (from_derived, from_file) {
            (Some(derived), Some(file)) if derived.applied >= file.applied => derived,
            (_, Some(file)) => file,
            (Some(derived), None) => derived,
            (None, None) => State::default(),
        };
        published.publish(&state.catalogue);
        Ok(MetaMachine { state, durable_mark, derived, file, published })
    }
}

fn io_fault(file: &Path, why: &std::io::Error) -> Fault {
    let is_full = why.kind() == std::io::ErrorKind::StorageFull;
    Fault::Io { file: file.to_owned(), reason: why.to_string(), is_full }
}

/// Magic, format (u32), crc of the rest (u32), postcard.
fn read_file(file: &Path) -> Result<Option<State>, Fault> {
    if !fs::exists(file).map_err(|e| io_fault(file, &e))? {
        return Ok(None);
    }
    let bytes = fs::read(file).map_err(|e| io_fault(file, &e))?;
    let damaged =
        |offset, reason: &str| Fault::Damaged { file: file.to_owned(), offset, reason: reason.to_owned() };
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| damaged(0, "too short"))?;
    if magic != MAGIC {
        return Err(damaged(0, "not a catalogue"));
    }
    let (format, rest) = rest.split_first_chunk::<4>().ok_or_else(|| damaged(8, "too short"))?;
    let found = u32::from_le_bytes(*format);
    if found > FORMAT {
        return Err(Fault::Newer { file: file.to_owned(), found, known: FORMAT });
    }
    if found < FORMAT_MIN {
        return Err(damaged(
            8,
            "written by a version of before the first release, which this one does not read",
        ));
    }
    let (crc, body) = rest.split_first_chunk::<4>().ok_or_else(|| damaged(12, "too short"))?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(damaged(16, "the checksum does not match"));
    }
    decode(body).map(Some).map_err(|e| damaged(16, &e.to_string()))
}

fn decode(bytes: &[u8]) -> Result<State, postcard::Error> {
    let (mut state, behind): (State, _) = postcard::take_from_bytes(bytes)?;
    if !behind.is_empty() {
        let (mut replaces, behind): (BTreeMap<CollectionId, Replaces>, _) =
            postcard::take_from_bytes(behind)?;
        let mut tenants = Tenants::default();
        if !behind.is_empty() {
            let (told, behind) = postcard::take_from_bytes(behind)?;
            tenants = told;
            if !behind.is_empty() {
                state.catalogue.fleet = postcard::from_bytes(behind)?;
            }
        }
        state.catalogue.classes = tenants.classes;
        for placement in &mut state.catalogue.map.collections {
            placement.replaces = replaces.remove(&placement.id).unwrap_or_default();
            placement.tenancy = tenants.owners.remove(&placement.id);
        }
    }
    Ok(state)
}

/// What the catalogue says of tenants, as stored.
#[derive(Default, Serialize, Deserialize)]
struct Tenants {
    classes: Classes,
    owners: BTreeMap<CollectionId, Tenancy>,
}

fn replaces(state: &State) -> BTreeMap<CollectionId, &Replaces> {
    let collections = state.catalogue.map.collections.iter();
    collections
        .filter(|placement| placement.replaces != Replaces::default())
        .map(|placement| (placement.id, &placement.replaces))
        .collect()
}

fn encode(state: &State) -> Result<Vec<u8>, Fault> {
    let collections = state.catalogue.map.collections.iter();
    let owners = collections.filter_map(|placement| Some((placement.id, placement.tenancy.clone()?)));
    let tenants = Tenants { classes: state.catalogue.classes.clone(), owners: owners.collect() };
    let encoded = postcard::to_stdvec(state)
        .and_then(|bytes| postcard::to_extend(&replaces(state), bytes))
        .and_then(|bytes| postcard::to_extend(&tenants, bytes))
        .and_then(|bytes| postcard::to_extend(&state.catalogue.fleet, bytes));
    encoded.map_err(|e| Fault::Io { file: "catalogue".into(), reason: e.to_string(), is_full: false })
}

impl Machine for MetaMachine {
    fn boot_mark(&self) -> Vec<u8> {
        self.state.mark.clone()
    }

    fn durable_mark(&self) -> Vec<u8> {
        self.durable_mark.clone()
    }

    fn apply(&mut self, _index: LogIndex, command: &Bytes) -> Result<Reply, Fault> {
        let answer = self.state.catalogue.apply(command).map_err(|e| Fault::Io {
            file: "catalogue".into(),
            reason: e.to_string(),
            is_full: false,
        })?;
        Ok(Reply::Catalogue(answer))
    }

    fn publish(&mut self, index: LogIndex, mark: Vec<u8>) -> Result<(), Fault> {
        self.state.applied = index;
        self.state.mark = mark;
        // The derived store may fail: then the next boot starts further back, and nothing is lost.
        if let Err(why) = self.derived.apply_batch(&[(STATE, encode(&self.state)?)]) {
            tracing::warn!(why, "the derived store does not take the catalogue");
        }
        self.published.publish(&self.state.catalogue);
        Ok(())
    }

    fn link(&mut self, into: &Path) -> Result<Vec<u8>, Fault> {
        self.checkpoint()?;
        fs::create_dir_all(into).map_err(|e| io_fault(into, &e))?;
        fs::hard_link(&self.file, &into.join(CATALOGUE)).map_err(|e| io_fault(into, &e))?;
        fs::sync_dir(into).map_err(|e| io_fault(into, &e))?;
        Ok(self.durable_mark.clone())
    }

    fn checkpoint(&mut self) -> Result<(), Fault> {
        let body = encode(&self.state)?;
        let mut bytes = Vec::with_capacity(16 + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        fs::write_atomic(&self.file, &bytes).map_err(|e| io_fault(&self.file, &e))?;
        if let Err(why) = self.derived.flush() {
            tracing::warn!(why, "the derived store does not flush");
        }
        self.durable_mark = self.state.mark.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::NodeId;
    use flotilla_proto::placement::Node;

    use super::super::catalogue::Change;
    use super::*;

    fn introduce(id: u64) -> Bytes {
        let node = Node::new(NodeId(0), uuid::Uuid::from_u128(id.into()), "inproc");
        Change::Introduce(node).encode().unwrap()
    }

    fn step(machine: &mut MetaMachine, index: LogIndex) {
        machine.apply(index, &introduce(index)).unwrap();
        machine.publish(index, vec![index as u8]).unwrap();
    }

    #[test]
    fn without_the_derived_store_the_file_is_taken_and_a_store_ahead_of_the_log_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = MetaMachine::open(folder.path(), None, Published::default()).unwrap();
        step(&mut machine, 1);
        step(&mut machine, 2);
        machine.checkpoint().unwrap();
        step(&mut machine, 3);
        machine.derived.flush().unwrap();
        drop(machine);
        let whole = MetaMachine::open(folder.path(), Some(3), Published::default()).unwrap();
        assert_eq!((whole.boot_mark(), whole.durable_mark()), (vec![3], vec![2]));
        drop(whole);
        let behind = MetaMachine::open(folder.path(), Some(2), Published::default()).unwrap();
        assert_eq!(behind.state.applied, 2);
        drop(behind);
        std::fs::remove_dir_all(folder.path().join("derived")).unwrap();
        let rebuilt = MetaMachine::open(folder.path(), Some(3), Published::default()).unwrap();
        assert_eq!((rebuilt.boot_mark(), rebuilt.durable_mark()), (vec![2], vec![2]));
        assert_eq!(rebuilt.published.watch().borrow().nodes.len(), 2);
    }

    #[test]
    fn replacements_and_tenants_stand_behind_the_catalogue_and_a_state_without_them_is_read() {
        use flotilla_proto::placement::CollectionPlacement;
        use flotilla_proto::schema::CollectionSpec;
        use flotilla_proto::tenant::{Class, Isolation, Limits};

        let mut state = State { applied: 5, ..State::default() };
        let former = postcard::to_stdvec(&state).unwrap();
        assert_eq!(decode(&former).unwrap().catalogue, state.catalogue);
        for n in 1..3 {
            state.catalogue.map.collections.push(CollectionPlacement {
                id: CollectionId::from_u128(n),
                spec: CollectionSpec::default(),
                epoch: flotilla_proto::ids::Epoch(1),
                partitions: Vec::new(),
                slots: Vec::new(),
                slot_move: None,
                replaces: Replaces { generation: n as u64 - 1, ..Replaces::default() },
                tenancy: (n == 2).then(|| Tenancy {
                    tenant: "acme".into(),
                    class: Class::Enterprise,
                    isolation: Isolation::Storage,
                    limits: Class::Default.limits(),
                    is_full: true,
                }),
            });
        }
        let without = postcard::to_extend(&replaces(&state), postcard::to_stdvec(&state).unwrap()).unwrap();
        let read = decode(&without).unwrap().catalogue;
        assert_eq!(
            (read.map.collections[1].replaces.generation, &read.map.collections[1].tenancy),
            (1, &None)
        );
        let less = Limits { max_collections: 3, ..Class::Default.limits() };
        state.catalogue.classes.0.insert(Class::Default, less);
        state.catalogue.fleet.target = Some(3);
        state.catalogue.fleet.leaving.insert(NodeId(4));
        let bytes = encode(&state).unwrap();
        assert_eq!(decode(&bytes).unwrap().catalogue, state.catalogue);
        assert!(decode(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn damage_in_the_file_is_named_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = MetaMachine::open(folder.path(), None, Published::default()).unwrap();
        step(&mut machine, 1);
        machine.checkpoint().unwrap();
        drop(machine);
        let file = folder.path().join("CATALOGUE");
        let whole = std::fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            std::fs::write(&file, &bytes).unwrap();
            assert!(read_file(&file).is_err(), "byte {at}");
            std::fs::write(&file, &whole[..at]).unwrap();
            assert!(read_file(&file).is_err(), "cut at {at}");
        }
    }
}

//! A small world: partitions as machines over stores with a log in memory, a meta group that is a map, and clients that
//! route as the router does. Everything happens on one task, in an order drawn from a seed: with each step of a driver
//! something else happens before and after it, and some steps fail, with or without having been done.

mod clients;

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_proto::filter::{Bounds, Compiled, Filter};
use flotilla_proto::ids::{CollectionId, Epoch, LogIndex, NodeId, PartitionId};
use flotilla_proto::placement::{CollectionPlacement, Partition, PlacementMap, SlotMove};
use flotilla_proto::record::{Key, Record, Value};
use flotilla_proto::refusal::Refusal;
use flotilla_proto::schema::{CollectionSpec, Distance, FieldType, IndexKind, Strategy as Slots, VectorSpec};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::super::Owned;
use super::super::owned::Seat;
use crate::index::Progress;
use crate::machine::command::{Body, Command, RequestId};
use crate::machine::moves::{Cursor, Import, Ledger, Step};
use crate::machine::{Machine as _, PartitionMachine, Rejection, Reply, Signals};
use crate::query::{self, Curtain};
use crate::storage::store::{Options, Store};
use crate::storage::{SegmentView, View};
use crate::worker::slots::{Holder, Reach, Stepped, Taker};
use clients::Wish;

pub const COLLECTION: CollectionId = CollectionId::from_u128(77);
pub const KEYS: u64 = 90;

fn spec(strategy: Slots) -> CollectionSpec {
    let v = VectorSpec::new(2, Distance::Euclidean, IndexKind::Flat);
    CollectionSpec {
        name: "c".into(),
        vectors: [("v".to_owned(), v)].into(),
        fields: [("n".to_owned(), FieldType::Integer)].into(),
        partitions: 3,
        strategy,
        ..Default::default()
    }
}

/// A partition: its folder and its log outlive its crashes.
pub struct Shelf {
    id: PartitionId,
    spec: Arc<CollectionSpec>,
    folder: tempfile::TempDir,
    log: Vec<bytes::Bytes>,
    running: Option<Running>,
    /// The map as this node follows it.
    map: PlacementMap,
    seat: Seat,
}

struct Running {
    machine: PartitionMachine,
    store: Arc<Store>,
    signals: Signals,
}

impl Shelf {
    fn new(id: u64, spec: &CollectionSpec, map: &PlacementMap) -> Shelf {
        let folder = tempfile::tempdir().unwrap();
        let (spec, map, seat) = (Arc::new(spec.clone()), map.clone(), Seat::default());
        let mut shelf = Shelf { id: PartitionId(id), spec, folder, log: vec![], running: None, map, seat };
        shelf.open();
        shelf
    }

    fn open(&mut self) {
        self.running = None;
        let options = Options { seal_rows: 25, graph_rows_min: 1_000, fan_in: 2, ..Options::default() };
        let (store, restored) = Store::open(self.folder.path(), self.spec.clone(), options).unwrap();
        let (store, signals, from) = (Arc::new(store), Signals::default(), restored.applied);
        let machine = PartitionMachine::new(COLLECTION, store.clone(), restored, signals.clone()).unwrap();
        self.running = Some(Running { machine, store, signals });
        for index in from + 1..=self.log.len() as u64 {
            self.apply(index);
        }
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().unwrap()
    }

    fn apply(&mut self, index: LogIndex) -> Reply {
        let command = self.log[index as usize - 1].clone();
        let machine = &mut self.running().machine;
        let reply = machine.apply(index, &command).unwrap();
        machine.publish(index, index.to_le_bytes().to_vec()).unwrap();
        reply
    }

    pub fn propose(&mut self, request: Option<RequestId>, body: Body) -> Reply {
        let command = Command { collection: COLLECTION, request, body };
        self.log.push(command.encode().unwrap());
        self.apply(self.log.len() as u64)
    }

    fn tidy(&mut self, how: usize) {
        let running = self.running();
        running.signals.freeze_wanted.store(how > 0, std::sync::atomic::Ordering::SeqCst);
        running.machine.checkpoint().unwrap();
        running.store.seal().unwrap();
        if how > 1 {
            running.store.compact(&Progress::new()).unwrap();
        }
    }

    pub fn ledger(&mut self) -> Arc<Ledger> {
        self.running().machine.ledger()
    }

    pub fn view(&mut self) -> View {
        self.running().store.view()
    }

    /// As the node's check of a target: what the caller's epoch means here, or that it is stale.
    fn owned(&mut self, caller: &PlacementMap, newest: &PlacementMap) -> Result<Owned, Refusal> {
        if self.map.epoch < caller.epoch {
            self.map = newest.clone();
        }
        let placement = &self.map.collections[0];
        let owned = Owned::of(placement, self.id);
        if placement.epoch > caller.epoch { Err(owned.stale()) } else { Ok(owned) }
    }
}

pub struct World {
    pub draw: Mutex<SmallRng>,
    pub shelves: Mutex<Vec<Shelf>>,
    pub map: Mutex<PlacementMap>,
    model: Mutex<BTreeMap<Key, i64>>,
    waiting: Mutex<Vec<Wish>>,
    granted: Mutex<Vec<Wish>>,
    serials: Mutex<u64>,
    /// How often a driver fails: one in this many; 0: never.
    pub faults: Mutex<u32>,
    pub reads: Mutex<u64>,
}

pub fn key(number: u64) -> Key {
    if number.is_multiple_of(3) { Key::Text(format!("k{number:03}")) } else { Key::Number(number) }
}

impl World {
    pub fn new(seed: u64, is_range: bool) -> Arc<World> {
        let strategy = match is_range {
            true => Slots::Range { splits: vec![key(20), key(50), key(80), key(30), key(60)] },
            false => Slots::ConsistentHash,
        };
        let strategy = match strategy {
            Slots::Range { mut splits } => {
                splits.sort();
                Slots::Range { splits }
            }
            other => other,
        };
        let spec = spec(strategy);
        let partitions = (1..=3).map(|id| Partition::new(PartitionId(id), vec![NodeId(1)])).collect();
        let slots = vec![0; spec.strategy.slots()];
        let placement = CollectionPlacement {
            id: COLLECTION,
            spec: spec.clone(),
            epoch: Epoch(1),
            partitions,
            slots,
            slot_move: None,
            replaces: Default::default(),
            tenancy: None,
        };
        let map = PlacementMap { epoch: Epoch(1), collections: vec![placement], ..Default::default() };
        let shelves = (1..=3).map(|id| Shelf::new(id, &spec, &map)).collect();
        Arc::new(World {
            draw: Mutex::new(SmallRng::seed_from_u64(seed)),
            shelves: Mutex::new(shelves),
            map: Mutex::new(map),
            model: Mutex::default(),
            waiting: Mutex::default(),
            granted: Mutex::default(),
            serials: Mutex::new(0),
            faults: Mutex::new(0),
            reads: Mutex::new(0),
        })
    }

    pub fn below(&self, n: u64) -> u64 {
        self.draw.lock().random_range(0..n)
    }

    fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn change(&self, change: impl FnOnce(&mut CollectionPlacement)) {
        let mut map = self.map.lock();
        map.epoch.0 += 1;
        let epoch = map.epoch;
        let placement = &mut map.collections[0];
        placement.epoch = epoch;
        change(placement);
    }

    /// A range is cut in two, both with the owner of the whole: slots get other numbers.
    pub fn split(&self) {
        let at = key(self.below(KEYS));
        self.change(|placement| {
            let Slots::Range { splits } = &mut placement.spec.strategy else { return };
            if let Err(place) = splits.binary_search(&at) {
                splits.insert(place, at);
                let owner = placement.slots[place];
                placement.slots.insert(place, owner);
            }
        });
    }

    /// Some slots of a partition that has any start to go to another.
    pub fn start_move(&self, id: u64) {
        let slots = self.map.lock().collections[0].slots.clone();
        let from = slots[self.below(slots.len() as u64) as usize];
        let to = (u64::from(from) + 1 + self.below(2)) % 3;
        let owned = slots.iter().zip(0_u16..).filter(|(owner, _)| **owner == from).map(|(_, slot)| slot);
        let mut chosen: Vec<u16> = owned.filter(|_| self.one_in(2)).collect();
        if chosen.is_empty() {
            chosen = vec![slots.iter().position(|owner| *owner == from).unwrap() as u16];
        }
        let (from, to) = (PartitionId(u64::from(from) + 1), PartitionId(to + 1));
        self.change(|placement| placement.slot_move = Some(SlotMove { id, from, to, slots: chosen }));
    }

    pub fn abort(&self) {
        self.change(|placement| placement.slot_move = None);
    }

    fn commit(&self, id: u64) -> Result<(), Refusal> {
        if self.map.lock().collections[0].slot_move.as_ref().is_none_or(|m| m.id != id) {
            return Err(Refusal::Aborted("there is no such move".into()));
        }
        self.change(|placement| {
            let moved = placement.slot_move.take().unwrap();
            let to = placement.partitions.iter().position(|p| p.id == moved.to).unwrap();
            moved.slots.iter().for_each(|slot| placement.slots[usize::from(*slot)] = to as u16);
        });
        Ok(())
    }

    // ---- what goes on beside a driver

    pub fn bustle(&self) {
        for _ in 0..self.below(3) {
            match self.below(13) {
                0..5 => self.write(),
                5 => self.write_again(),
                6 => self.shelves.lock()[self.below(3) as usize].open(),
                7 => {
                    let how = self.below(3) as usize;
                    self.shelves.lock()[self.below(3) as usize].tidy(how);
                }
                8 => {
                    let newest = self.map.lock().clone();
                    self.shelves.lock()[self.below(3) as usize].map = newest;
                }
                9 => self.nag(),
                10 => self.expire(),
                _ => self.read(),
            }
        }
    }

    /// A router's map: the newest, or as old as some node's.
    fn caller(&self) -> PlacementMap {
        let at = self.below(9) as usize;
        match self.shelves.lock().get(at) {
            Some(shelf) => shelf.map.clone(),
            None => self.map.lock().clone(),
        }
    }

    /// Reads everything at one epoch in every way. False if some partition called the reader stale.
    fn read(&self) {
        let (caller, newest) = (self.caller(), self.map.lock().clone());
        let mut found = Found::default();
        for at in 0..3 {
            let shelf = &mut self.shelves.lock()[at];
            let Ok(owned) = shelf.owned(&caller, &newest) else { return };
            if found.read(shelf, &owned).is_none() {
                return;
            }
        }
        *self.reads.lock() += 1;
        found.compare(&self.model.lock());
    }

    /// As [`World::read`], but nobody may call the reader stale.
    pub fn read_all(&self) {
        let newest = self.map.lock().clone();
        self.shelves.lock().iter_mut().for_each(|shelf| shelf.map = newest.clone());
        let before = *self.reads.lock();
        self.read();
        assert_eq!(*self.reads.lock(), before + 1, "a read is stale at rest");
        // Nothing is left over either.
        let map = self.map.lock().clone();
        let model = self.model.lock();
        for shelf in &mut *self.shelves.lock() {
            let area = map.collections[0].area(shelf.id);
            let own = model.keys().filter(|key| area.contains(&key.to_bytes())).count();
            assert_eq!(shelf.view().live(), own as u64, "partition {}", shelf.id);
        }
    }

    /// What may go wrong at a driver's step: `None` if nothing does; else whether the step is done all the same.
    fn fault(&self) -> Option<bool> {
        let faults = u64::from(*self.faults.lock());
        (faults > 0 && self.one_in(faults)).then(|| self.one_in(2))
    }

    /// A driver's step: `act`, with everything around it.
    fn act<T>(&self, act: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
        self.bustle();
        let lost = || Refusal::Unavailable("lost".into());
        let done = match self.fault() {
            None => act(),
            Some(false) => return Err(lost()),
            Some(true) => act().and(Err(lost())),
        };
        self.bustle();
        done
    }

    fn step_at<T>(&self, at: usize, step: Step, read: impl FnOnce(&mut Shelf, LogIndex) -> T) -> Stepped<T> {
        self.act(|| {
            let shelf = &mut self.shelves.lock()[at];
            match shelf.propose(None, Body::Move(step)) {
                Reply::Written { log_index, .. } => Ok(Ok(read(shelf, log_index))),
                Reply::Rejected(Rejection::Step(why)) => Ok(Err(why)),
                other => panic!("{other:?}"),
            }
        })
    }
}

fn record(key: Key, n: i64) -> Record {
    let expires_at_ms = expires_at_ms(n);
    Record { expires_at_ms, ..Record::new(key).field("n", n).vector("v", vec![n as f32, 1.0]) }
}

/// When the record with this number expires: some never do.
fn expires_at_ms(n: i64) -> Option<u64> {
    u64::try_from(n).ok().filter(|n| *n > 0 && n.is_multiple_of(3))
}

/// What all partitions together say.
#[derive(Default)]
struct Found {
    scanned: Vec<(Key, i64)>,
    counted: u64,
    low: u64,
    near: Vec<Key>,
    got: Vec<Key>,
}

impl Found {
    fn read(&mut self, shelf: &mut Shelf, owned: &Owned) -> Option<()> {
        let view = shelf.view();
        let curtain = shelf.seat.curtain(&view, owned).ok()?;
        let spec = shelf.spec.clone();
        let low = Filter::Range("n".into(), Bounds { lt: Some(Value::Int(500)), ..Bounds::default() });
        let low = Compiled::new(&low, &spec).unwrap();
        let segments: Vec<&dyn SegmentView> = view.segments().collect();
        let read = |segments: &[&dyn SegmentView]| {
            for (segment, row) in query::scan(segments, None, &Default::default(), 10_000)?.0 {
                let Some(Value::Int(n)) = segments[segment].payload(row)?.remove("n") else { panic!() };
                assert_eq!(segments[segment].expires_at_ms(row)?, expires_at_ms(n), "when it expires");
                self.scanned.push((segments[segment].key(row)?, n));
            }
            self.counted += query::count(segments, None)?;
            self.low += query::count(segments, Some(&low))?;
            let (vector, limit, exact) = ("v", 1_000, true);
            let ask = query::Search { vector, query: &[0.0, 1.0], limit, exact, ..Default::default() };
            let found = query::search(segments, &spec, &ask, &|| false)?.hits.into_iter();
            self.near.extend(found.map(|hit| hit.key));
            Ok(())
        };
        Curtain::over(curtain.as_deref(), &segments, read).unwrap();
        let keys: Vec<Key> = (0..KEYS).map(key).filter(|key| owned.area.contains(&key.to_bytes())).collect();
        let hidden = owned.hidden(&view, &keys).ok()?;
        let there = |key: &Key| !hidden.contains(key) && view.find(key).unwrap().is_some();
        self.got.extend(keys.into_iter().filter(there));
        Some(())
    }

    fn compare(mut self, model: &BTreeMap<Key, i64>) {
        self.scanned.sort();
        self.near.sort();
        self.got.sort();
        let wanted: Vec<(Key, i64)> = model.iter().map(|(key, n)| (key.clone(), *n)).collect();
        let keys: Vec<Key> = model.keys().cloned().collect();
        assert_eq!(self.scanned, wanted, "a scan");
        assert_eq!(self.counted, wanted.len() as u64, "a count");
        assert_eq!(self.low, model.values().filter(|n| **n < 500).count() as u64, "a count with a filter");
        assert_eq!(self.near, keys, "a search");
        assert_eq!(self.got, keys, "gets");
    }
}

/// A partition of the world, for drivers.
pub struct Seen {
    pub world: Arc<World>,
    pub at: usize,
}

impl Holder for Seen {
    fn id(&self) -> PartitionId {
        PartitionId(self.at as u64 + 1)
    }

    async fn step(&self, step: Step) -> Stepped<LogIndex> {
        self.world.step_at(self.at, step, |_, index| index)
    }

    fn state(&self) -> View {
        self.world.shelves.lock()[self.at].view()
    }

    fn ledger(&self) -> Arc<Ledger> {
        self.world.shelves.lock()[self.at].ledger()
    }
}

impl Taker for Seen {
    async fn begin(&self, step: Step) -> Stepped<Cursor> {
        let cursor =
            |shelf: &mut Shelf, _| shelf.ledger().moves().incoming.as_ref().map(|i| i.cursor.clone());
        let stepped = self.world.step_at(self.at, step, cursor)?;
        Ok(stepped.map(|cursor| cursor.expect("it comes")))
    }

    async fn import(&self, import: Import) -> Stepped<()> {
        self.world.step_at(self.at, import.into_step(), |_, _| ())
    }
}

pub struct Way(pub Arc<World>);

impl Reach for Way {
    type Taker = Seen;

    fn taker(&self, _: &CollectionPlacement, id: PartitionId) -> Seen {
        Seen { world: self.0.clone(), at: id.0 as usize - 1 }
    }

    async fn commit(&self, _: &CollectionPlacement, id: u64) -> Result<(), Refusal> {
        self.0.act(|| self.0.commit(id))
    }
}

//! The query cache: answers of searches, kept for who asks the same of the same state.
//!
//! **Never stale.** A search first finds the state that it may be answered from, by its fence, bound or token, as if nothing were kept.
//! Only then it looks here, with the whole question (not its hash alone) and that very state: the number of the published state,
//! which no other state of this process ever has, the description of the collection it was read by, and what was hidden from it.
//! An answer is given only where all of it is the same. So a write that a reader must see makes another state, and the cache
//! has nothing for it; nothing is ever invalidated.
//!
//! **One place for a question.** The answer for a newer state takes the place of that for an older one. A question is worth
//! keeping from the second time on that it is asked: what is asked once only never pushes out what is asked often. Of what
//! is kept, that goes which was used the longest ago.
//!
//! **Single flight.** Who asks what is being computed waits for it, within its own time. The computation goes on while anybody
//! waits, whoever began it; where it fails, one of those who wait computes it anew.

mod shelf;
#[cfg(test)]
mod tests;

use std::mem::size_of;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use flotilla_proto::ids::PartitionId;
use flotilla_proto::record::Key;
use flotilla_proto::schema::CollectionSpec;
use parking_lot::Mutex;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::shelf::{Kept, Shelf};
use crate::query::{Answer, Curtain, PartialHit};
use crate::room::{Room, Step};

/// Shelves with a lock of their own.
const SHELVES: usize = 16;
/// Of the memory that the process may use, the part that the cache takes at most.
const MEMORY_PART: u64 = 8;

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether anything is (default true).
    pub is_enabled: bool,
    /// Bytes, at most (default 512 MiB), and an eighth of the memory that the process may use. Zero: nothing is kept.
    pub bytes_max: u64,
    /// How long (default 300 s).
    pub ttl: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { is_enabled: true, bytes_max: 512 << 20, ttl: Duration::from_secs(300) }
    }
}

/// A search as it was asked: all that decides its answer, but for the state.
#[derive(Clone, Debug)]
pub struct Question {
    partition: PartitionId,
    bytes: Arc<[u8]>,
    hash: u64,
    spec: Arc<CollectionSpec>,
}

impl Question {
    /// The request in `bytes`, put to a partition whose collection was read as `spec`.
    pub fn new(partition: PartitionId, bytes: Vec<u8>, spec: Arc<CollectionSpec>) -> Question {
        let hash = xxh3_64_with_seed(&bytes, partition.0);
        Question { partition, bytes: bytes.into(), hash, spec }
    }

    /// Whether the collection is still read as it was when this was asked.
    pub(super) fn is_of(&self, spec: &Arc<CollectionSpec>) -> bool {
        Arc::ptr_eq(&self.spec, spec)
    }

    fn is(&self, other: &Question) -> bool {
        self.hash == other.hash
            && self.partition == other.partition
            && Arc::ptr_eq(&self.spec, &other.spec)
            && self.bytes == other.bytes
    }

    fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// What a question is put to.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    /// [`View::serial`](crate::storage::View::serial).
    pub serial: u64,
    /// What is hidden. Held, so that no other is ever at its address.
    pub curtain: Option<Arc<Curtain>>,
}

impl Scene {
    fn is(&self, other: &Scene) -> bool {
        let is_same = match (&self.curtain, &other.curtain) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            _ => false,
        };
        is_same && self.serial == other.serial
    }
}

/// What there is to a question.
pub(super) enum Found {
    /// The answer.
    Kept(Arc<Answer>),
    /// Somebody computes it.
    Coming(Coming),
    /// Nobody does: the caller is to. Others may wait for it, if there is a flight.
    Nothing(Option<Flight>),
}

/// A wait for an answer that somebody else computes.
pub(super) struct Coming {
    told: watch::Receiver<Option<Arc<Answer>>>,
    _alive: Arc<()>,
}

impl Coming {
    /// The answer; none if it failed, and is to be asked for anew.
    pub async fn answer(mut self) -> Option<Arc<Answer>> {
        let told = self.told.wait_for(Option::is_some).await;
        told.ok().and_then(|answer| answer.clone())
    }
}

/// A computation that others may wait for.
pub(super) struct Flight {
    answers: Arc<Answers>,
    question: Question,
    scene: Scene,
    number: u64,
    tell: watch::Sender<Option<Arc<Answer>>>,
    alive: Arc<()>,
}

impl Flight {
    /// What lives as long as anybody waits for the answer, once this is dropped.
    pub fn alive(&self) -> Arc<()> {
        self.alive.clone()
    }

    /// The flight without its own claim to be waited for.
    pub fn begun(self) -> Begun {
        let Flight { answers, question, scene, number, tell, .. } = self;
        Begun { answers, question, scene, number, tell }
    }
}

/// The computing end of a flight. Dropped without an answer, it sends those who wait away.
pub(super) struct Begun {
    answers: Arc<Answers>,
    question: Question,
    scene: Scene,
    number: u64,
    tell: watch::Sender<Option<Arc<Answer>>>,
}

impl Begun {
    /// Gives the answer to those who wait, and keeps it if it is worth it.
    pub fn done(self, answer: &Arc<Answer>) {
        let Question { hash, .. } = self.question;
        let kept = Kept::new(self.question.clone(), self.scene.clone(), answer.clone());
        self.answers.shelf(hash).lock().keep(kept, self.answers.shelf_bytes());
        self.tell.send_replace(Some(answer.clone()));
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.answers.shelf(self.question.hash).lock().landed(self.question.hash, self.number);
    }
}

/// What the cache counted, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Questions whose answer was kept.
    pub hits: u64,
    /// Questions that were answered by the computation of another.
    pub shared: u64,
    /// Questions that had to be computed.
    pub misses: u64,
    /// Bytes that are kept.
    pub bytes: u64,
    /// Answers that are kept.
    pub answers: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Answers {
    options: Options,
    room: Arc<Room>,
    shelves: [Mutex<Shelf>; SHELVES],
    flights: AtomicU64,
    hits: AtomicU64,
    shared: AtomicU64,
    misses: AtomicU64,
}

impl Answers {
    /// None yet.
    pub fn new(options: Options, room: Arc<Room>) -> Answers {
        let zero = || AtomicU64::new(0);
        let shelves = std::array::from_fn(|_| Mutex::default());
        Answers { options, room, shelves, flights: zero(), hits: zero(), shared: zero(), misses: zero() }
    }

    /// Whether answers are kept at the moment.
    pub fn is_on(&self) -> bool {
        self.options.is_enabled && self.options.bytes_max > 0 && self.room.step() < Step::DropCaches
    }

    fn shelf(&self, hash: u64) -> &Mutex<Shelf> {
        // The low bits choose the place on the shelf.
        &self.shelves[(hash >> 32) as usize % SHELVES]
    }

    /// Bytes of one shelf, at most.
    fn shelf_bytes(&self) -> u64 {
        let whole = if self.is_on() { self.options.bytes_max.min(self.room.part(MEMORY_PART)) } else { 0 };
        whole / SHELVES as u64
    }

    /// Looks for the answer of `question` to `scene`.
    pub(super) fn find(self: &Arc<Answers>, question: &Question, scene: &Scene) -> Found {
        let mut shelf = self.shelf(question.hash).lock();
        if let Some(answer) = shelf.find(question, scene, self.options.ttl) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Found::Kept(answer);
        }
        if let Some(coming) = shelf.coming(question, scene) {
            self.shared.fetch_add(1, Ordering::Relaxed);
            return Found::Coming(coming);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = watch::channel(None);
        let (number, alive) = (self.flights.fetch_add(1, Ordering::Relaxed), Arc::new(()));
        let waiting = Waiting {
            question: question.clone(),
            scene: scene.clone(),
            number,
            told,
            alive: Arc::downgrade(&alive),
        };
        if !shelf.depart(waiting) {
            return Found::Nothing(None);
        }
        drop(shelf);
        let (answers, question, scene) = (self.clone(), question.clone(), scene.clone());
        Found::Nothing(Some(Flight { answers, question, scene, number, tell, alive }))
    }

    /// Forgets every answer.
    pub fn clear(&self) {
        self.shelves.iter().for_each(|shelf| shelf.lock().clear());
    }

    /// Bytes that are kept for a partition.
    pub fn bytes_of(&self, partition: PartitionId) -> u64 {
        self.shelves.iter().map(|shelf| shelf.lock().bytes_of(partition)).sum()
    }

    /// What was counted, and what is kept.
    pub fn figures(&self) -> Figures {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (hits, shared, misses) = (of(&self.hits), of(&self.shared), of(&self.misses));
        let mut figures = Figures { hits, shared, misses, ..Figures::default() };
        for shelf in &self.shelves {
            let shelf = shelf.lock();
            figures.bytes += shelf.bytes();
            figures.answers += shelf.len();
        }
        figures
    }
}

/// A flight, as those see it who may wait for it.
#[derive(Debug)]
pub(super) struct Waiting {
    question: Question,
    scene: Scene,
    number: u64,
    told: watch::Receiver<Option<Arc<Answer>>>,
    alive: Weak<()>,
}

/// Bytes of an answer, about.
fn bytes_of(answer: &Answer) -> u64 {
    let hit = |hit: &PartialHit| {
        let key = match &hit.key {
            Key::Number(_) => 0,
            Key::Text(text) => text.len(),
        };
        (size_of::<PartialHit>() + key) as u64
    };
    let hits: u64 = answer.hits.iter().map(hit).sum();
    let groups = answer.groups.iter();
    let groups: u64 = groups.map(|group| GROUP_BYTES + group.hits.iter().map(hit).sum::<u64>()).sum();
    hits + groups + answer.plan.steps.len() as u64 * 16 + ANSWER_BYTES
}

/// What an answer takes beside its hits: its plan, and its place on the shelf.
const ANSWER_BYTES: u64 = 512;
/// What a group takes beside its hits: its value, twice.
const GROUP_BYTES: u64 = 2 * 1_024;

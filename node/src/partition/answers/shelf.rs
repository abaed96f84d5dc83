//! A shelf of the query cache: answers by their questions' hashes, what was asked lately, and what is being computed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::ids::PartitionId;

use super::{Coming, Question, Scene, Waiting, bytes_of};
use crate::env::clock;
use crate::query::Answer;

/// Questions of a shelf that are remembered as asked.
const ASKED: usize = 1 << 12;

/// An answer with its question.
#[derive(Debug)]
pub(super) struct Kept {
    question: Question,
    scene: Scene,
    answer: Arc<Answer>,
    bytes: u64,
    since: clock::Instant,
    used: u64,
}

impl Kept {
    /// From now on.
    pub fn new(question: Question, scene: Scene, answer: Arc<Answer>) -> Kept {
        let bytes = question.bytes() + bytes_of(&answer);
        Kept { question, scene, answer, bytes, since: clock::now(), used: 0 }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shelf {
    kept: HashMap<u64, Kept>,
    /// The hash of each answer by when it was used.
    by_use: BTreeMap<u64, u64>,
    uses: u64,
    bytes: u64,
    by_partition: BTreeMap<PartitionId, u64>,
    /// The hash that was asked last, by its low bits.
    asked: Box<[u64]>,
    flights: HashMap<u64, Waiting>,
}

impl Default for Shelf {
    fn default() -> Shelf {
        Shelf {
            kept: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            bytes: 0,
            by_partition: BTreeMap::new(),
            asked: vec![0; ASKED].into(),
            flights: HashMap::new(),
        }
    }
}

impl Shelf {
    /// The answer to this question and scene, if it is kept and no older than `ttl`.
    pub fn find(&mut self, question: &Question, scene: &Scene, ttl: Duration) -> Option<Arc<Answer>> {
        let kept = self.kept.get_mut(&question.hash)?;
        if !kept.question.is(question) || !kept.scene.is(scene) {
            return None;
        }
        if kept.since.elapsed() >= ttl {
            self.remove(question.hash);
            return None;
        }
        self.uses += 1;
        self.by_use.remove(&std::mem::replace(&mut kept.used, self.uses));
        self.by_use.insert(self.uses, question.hash);
        Some(kept.answer.clone())
    }

    /// A wait for who computes the answer to this question and scene, if anybody does for somebody.
    pub fn coming(&self, question: &Question, scene: &Scene) -> Option<Coming> {
        let flight = self.flights.get(&question.hash)?;
        if !flight.question.is(question) || !flight.scene.is(scene) {
            return None;
        }
        Some(Coming { told: flight.told.clone(), _alive: flight.alive.upgrade()? })
    }

    /// Shows a computation to those who may wait for it. False if another one has its place.
    pub fn depart(&mut self, flight: Waiting) -> bool {
        let hash = flight.question.hash;
        if self.flights.get(&hash).is_some_and(|other| other.alive.strong_count() > 0) {
            return false;
        }
        self.flights.insert(hash, flight);
        true
    }

    /// The computation of this number has ended.
    pub fn landed(&mut self, hash: u64, number: u64) {
        if self.flights.get(&hash).is_some_and(|flight| flight.number == number) {
            self.flights.remove(&hash);
        }
    }

    /// Keeps an answer if its question was asked before, within `bytes_max` for the shelf.
    pub fn keep(&mut self, mut kept: Kept, bytes_max: u64) {
        let (hash, bytes, partition) = (kept.question.hash, kept.bytes, kept.question.partition);
        let asked = &mut self.asked[hash as usize % ASKED];
        let is_known = std::mem::replace(asked, hash) == hash || self.kept.contains_key(&hash);
        self.remove(hash);
        if !is_known || bytes > bytes_max {
            return;
        }
        while self.bytes + bytes > bytes_max {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            self.remove(oldest);
        }
        self.uses += 1;
        kept.used = self.uses;
        self.by_use.insert(self.uses, hash);
        self.bytes += bytes;
        *self.by_partition.entry(partition).or_default() += bytes;
        self.kept.insert(hash, kept);
    }

    fn remove(&mut self, hash: u64) {
        let Some(kept) = self.kept.remove(&hash) else { return };
        self.by_use.remove(&kept.used);
        self.bytes -= kept.bytes;
        if let Some(bytes) = self.by_partition.get_mut(&kept.question.partition) {
            *bytes -= kept.bytes;
            if *bytes == 0 {
                self.by_partition.remove(&kept.question.partition);
            }
        }
    }

    /// Forgets every answer.
    pub fn clear(&mut self) {
        let flights = std::mem::take(&mut self.flights);
        *self = Shelf { flights, ..Shelf::default() };
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that are kept for a partition.
    pub fn bytes_of(&self, partition: PartitionId) -> u64 {
        self.by_partition.get(&partition).copied().unwrap_or(0)
    }

    /// Answers that are kept.
    pub fn len(&self) -> u64 {
        self.kept.len() as u64
    }
}

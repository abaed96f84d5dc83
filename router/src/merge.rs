//! Many partitions' answers become one. Pure: values in, values out.
//!
//! Hits are ordered by distance, ties by key; a distance that is not a number comes last, and both zeros are equal. Pages are
//! ordered by place, and a page ends where a partition's known records end while it holds more: beyond that point
//! nothing is certain.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use flotilla_proto::group::GroupKey;
use flotilla_proto::record::Key;
use flotilla_proto::v1;

/// A hit of one partition, before its payload is fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct Partial {
    /// The record's key.
    pub key: Key,
    /// Smaller is nearer.
    pub distance: f32,
    /// The record's version in the view that was searched; 0 if not told.
    pub version: u64,
    /// Which of the merged lists it comes from.
    pub from: usize,
}

impl Partial {
    /// The order of hits.
    pub fn order(&self, other: &Partial) -> Ordering {
        let by_distance = match (self.distance.is_nan(), other.distance.is_nan()) {
            (false, false) => self.distance.partial_cmp(&other.distance).unwrap_or(Ordering::Equal),
            (is_nan, other_is_nan) => is_nan.cmp(&other_is_nan),
        };
        by_distance.then_with(|| self.key.cmp(&other.key))
    }
}

/// The head of a list in the heap, nearest on top.
struct Head {
    hit: Partial,
    list: usize,
}

impl PartialEq for Head {
    fn eq(&self, other: &Head) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Head) -> Ordering {
        other.hit.order(&self.hit).then_with(|| other.list.cmp(&self.list))
    }
}

/// The hits `offset` to `offset + limit` of all lists together. Each list should be in order; one that is not is sorted.
pub fn hits(lists: Vec<Vec<Partial>>, offset: usize, limit: usize) -> Vec<Partial> {
    let mut rests: Vec<std::vec::IntoIter<Partial>> = lists.into_iter().map(in_order).collect();
    let mut heads: BinaryHeap<Head> = rests
        .iter_mut()
        .enumerate()
        .filter_map(|(list, rest)| Some(Head { hit: rest.next()?, list }))
        .collect();
    let found: usize = rests.iter().map(|rest| rest.len() + 1).sum();
    let mut merged = Vec::with_capacity(limit.min(found.saturating_sub(offset)));
    let mut skip = offset;
    while merged.len() < limit {
        let Some(mut head) = heads.peek_mut() else { break };
        let hit = match rests[head.list].next() {
            Some(next) => std::mem::replace(&mut head.hit, next),
            None => std::collections::binary_heap::PeekMut::pop(head).hit,
        };
        if skip > 0 {
            skip -= 1;
        } else {
            merged.push(hit);
        }
    }
    merged
}

/// A group of hits.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Which.
    pub key: GroupKey,
    /// The value that makes it, as its best hit has it.
    pub value: v1::Value,
    /// Its hits, in order; there is one at least.
    pub hits: Vec<Partial>,
}

impl Group {
    /// The order of groups: by best hit, then by group.
    fn order(&self, other: &Group) -> Ordering {
        let by_best = match (self.hits.first(), other.hits.first()) {
            (Some(one), Some(other)) => one.order(other),
            (one, other) => one.is_none().cmp(&other.is_none()),
        };
        by_best.then_with(|| self.key.cmp(&other.key))
    }
}

/// The first `limit` groups of all lists together, each with its first `size` hits.
pub fn groups(lists: Vec<Vec<Group>>, limit: usize, size: usize) -> Vec<Group> {
    let mut merged: BTreeMap<GroupKey, Vec<Group>> = BTreeMap::new();
    for group in lists.into_iter().flatten().filter(|group| !group.hits.is_empty()) {
        merged.entry(group.key.clone()).or_default().push(group);
    }
    let whole = |(key, mut parts): (GroupKey, Vec<Group>)| {
        parts.sort_by(Group::order);
        let value = parts.first()?.value.clone();
        Some(Group { key, value, hits: hits(parts.into_iter().map(|part| part.hits).collect(), 0, size) })
    };
    let mut groups: Vec<Group> = merged.into_iter().filter_map(whole).collect();
    groups.sort_by(Group::order);
    groups.truncate(limit);
    groups
}

fn in_order(mut list: Vec<Partial>) -> std::vec::IntoIter<Partial> {
    if !list.is_sorted_by(|a, b| a.order(b) != Ordering::Greater) {
        list.sort_by(Partial::order);
    }
    list.into_iter()
}

/// What is known of one partition's records from some place on: in order, and whether it holds more.
#[derive(Clone, Debug)]
pub struct Run<T> {
    /// The records known, by place: bytes that sort as the records do.
    pub records: VecDeque<(Vec<u8>, T)>,
    /// Whether the partition holds more beyond them.
    pub more: bool,
}

impl<T> Default for Run<T> {
    /// Nothing is known yet.
    fn default() -> Run<T> {
        Run { records: VecDeque::new(), more: true }
    }
}

/// The room left in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Records.
    pub records: usize,
    /// Bytes. A page takes at least one record, however large.
    pub bytes: usize,
}

impl Room {
    /// Whether nothing more fits.
    pub fn is_full(self) -> bool {
        self.records == 0 || self.bytes == 0
    }
}

/// Why a page stopped growing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It is full.
    Full,
    /// A run is used up and its partition holds more: ask it.
    Dry,
    /// There are no more records.
    End,
}

/// Moves records from the runs to `page`, by place, until one of the reasons to stop.
pub fn page<T>(
    runs: &mut [Run<T>],
    page: &mut Vec<(Vec<u8>, T)>,
    room: &mut Room,
    bytes_of: impl Fn(&T) -> usize,
) -> Stop {
    loop {
        if runs.iter().any(|run| run.records.is_empty() && run.more) {
            return if room.is_full() { Stop::Full } else { Stop::Dry };
        }
        let fronts = runs.iter().enumerate().filter_map(|(n, run)| Some((n, &run.records.front()?.0)));
        let Some((nearest, _)) = fronts.min_by(|a, b| a.1.cmp(b.1)) else { return Stop::End };
        if room.is_full() {
            return Stop::Full;
        }
        if let Some((place, record)) = runs[nearest].records.pop_front() {
            room.records -= 1;
            room.bytes = room.bytes.saturating_sub(bytes_of(&record));
            page.push((place, record));
        }
    }
}

#[cfg(test)]
mod tests;

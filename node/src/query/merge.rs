//! Merging what segments found: by distance, then key.

use std::cmp::Ordering;

use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::Key;

use crate::index::Neighbor;
use crate::storage::{Fault, SegmentView};

/// A hit before its payload is read. Ordered by distance (NaN last, -0 as 0), then key.
#[derive(Clone, Debug)]
pub struct PartialHit {
    /// The record.
    pub key: Key,
    /// How far; smaller is nearer.
    pub distance: f32,
    /// The record's version.
    pub version: LogIndex,
}

impl Ord for PartialHit {
    fn cmp(&self, other: &PartialHit) -> Ordering {
        by_distance(self.distance, other.distance).then_with(|| self.key.cmp(&other.key))
    }
}

impl PartialOrd for PartialHit {
    fn partial_cmp(&self, other: &PartialHit) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PartialHit {
    fn eq(&self, other: &PartialHit) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for PartialHit {}

/// Smaller first; NaN last, -0 as 0.
pub(super) fn by_distance(a: f32, b: f32) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Gathers neighbours of several segments.
pub(super) struct Merge {
    limit: usize,
    max_distance: Option<f32>,
    found: Vec<(usize, Neighbor)>,
}

impl Merge {
    /// Keeps the `limit` nearest that are no further than `max_distance`.
    pub(super) fn new(limit: usize, max_distance: Option<f32>) -> Merge {
        Merge { limit, max_distance, found: vec![] }
    }

    /// Nothing that is further can be among the hits any more.
    pub(super) fn bound(&self) -> Option<f32> {
        let is_full = self.found.len() >= self.limit;
        let farthest =
            self.found.iter().map(|(_, neighbor)| neighbor.distance).max_by(|a, b| by_distance(*a, *b));
        [self.max_distance, farthest.filter(|_| is_full)]
            .into_iter()
            .flatten()
            .min_by(|a, b| by_distance(*a, *b))
    }

    /// Adds what one segment found.
    pub(super) fn add(&mut self, segment: usize, neighbors: Vec<Neighbor>) {
        let near_enough =
            |neighbor: &Neighbor| self.max_distance.is_none_or(|farthest| neighbor.distance <= farthest);
        self.found.extend(neighbors.into_iter().filter(near_enough).map(|neighbor| (segment, neighbor)));
        self.cut();
    }

    /// Drops what is further than the last that counts; ties with it stay until keys are known.
    fn cut(&mut self) {
        if self.found.len() <= self.limit {
            return;
        }
        self.found.sort_by(|(_, a), (_, b)| by_distance(a.distance, b.distance));
        if let Some((_, last)) = self.limit.checked_sub(1).and_then(|last| self.found.get(last)) {
            let bound = last.distance;
            let end = self.found.partition_point(|(_, n)| by_distance(n.distance, bound).is_le());
            self.found.truncate(end);
        }
    }

    /// The hits, but for those `without`. Reads the keys of those only.
    pub(super) fn finish(self, segments: &[&dyn SegmentView], without: &[Key]) -> Result<Vec<Placed>, Fault> {
        let mut hits = Vec::with_capacity(self.found.len());
        for (segment, Neighbor { row, distance }) in self.found {
            let from = segments[segment];
            let hit = PartialHit { key: from.key(row)?, distance, version: from.version(row) };
            if !without.contains(&hit.key) {
                hits.push(Placed { hit, segment, row });
            }
        }
        hits.sort_unstable_by(|a, b| a.hit.cmp(&b.hit));
        hits.truncate(self.limit.saturating_sub(without.len()));
        Ok(hits)
    }
}

/// A hit, and where it lies.
pub(super) struct Placed {
    /// The hit.
    pub(super) hit: PartialHit,
    /// The segment's place in the view.
    pub(super) segment: usize,
    /// The row in it.
    pub(super) row: u32,
}

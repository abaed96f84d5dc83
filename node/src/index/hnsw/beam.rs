//! The walk over one layer: keep the `ef` nearest vertices seen, expand the nearest one not yet expanded.
//!
//! The beam is one sorted array of integers — distance, vertex, and in the lowest bit whether it was expanded —
//! so that candidates and results are the same thing and an insertion is a binary search and a short move.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::super::neighbor::from_ordered;
use super::layer::{Layer, Measure};
use super::visited::Visited;

/// A vertex and its distance as one sortable integer; the lowest bit marks it as expanded.
#[inline]
fn entry(vertex: u32, distance: u32) -> u64 {
    u64::from(distance) << 32 | u64::from(vertex) << 1
}

/// The vertex and distance of an entry.
#[inline]
fn parts(entry: u64) -> (u32, u32) {
    (entry as u32 >> 1, (entry >> 32) as u32)
}

/// The nearest vertices seen, nearest first, at most `width` of them.
#[derive(Debug, Default)]
pub(super) struct Beam {
    entries: Vec<u64>,
    width: usize,
    /// No entry before this one is unexpanded.
    cursor: usize,
}

impl Beam {
    fn start(&mut self, width: usize) {
        self.entries.clear();
        self.width = width;
        self.cursor = 0;
    }

    #[inline]
    fn offer(&mut self, vertex: u32, distance: u32) {
        let new = entry(vertex, distance);
        if self.entries.len() < self.width {
            self.entries.push(new);
        } else {
            match self.entries.last_mut() {
                Some(last) if new < *last => *last = new,
                _ => return,
            }
        }
        let end = self.entries.len() - 1;
        let at = self.entries[..end].partition_point(|held| *held < new);
        self.entries.copy_within(at..end, at + 1);
        self.entries[at] = new;
        self.cursor = self.cursor.min(at);
    }

    /// What is not nearer than this does not get in.
    #[inline]
    fn bound(&self) -> f32 {
        match self.entries.last() {
            Some(last) if self.entries.len() >= self.width => from_ordered(parts(*last).1),
            _ => f32::INFINITY,
        }
    }

    /// The nearest unexpanded vertex, marked as expanded.
    #[inline]
    fn next(&mut self) -> Option<u32> {
        let rest = self.entries.get_mut(self.cursor..)?;
        let at = rest.iter().position(|entry| entry & 1 == 0)?;
        rest[at] |= 1;
        self.cursor += at + 1;
        Some(parts(rest[at]).0)
    }

    /// The vertices that [`Beam::next`] would return now, one after the other.
    #[inline]
    fn ahead(&self) -> impl Iterator<Item = u32> + '_ {
        let rest = self.entries.get(self.cursor..).unwrap_or_default();
        rest.iter().filter(|entry| **entry & 1 == 0).map(|entry| parts(*entry).0)
    }

    /// Vertices and distances, nearest first.
    pub(super) fn found(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.entries.iter().map(|entry| parts(*entry))
    }
}

/// What a walk needs beside the graph; reused from walk to walk.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) visited: Visited,
    pub(super) beam: Beam,
    /// Vertices that are expanded at hand.
    pub(super) together: Vec<u32>,
    /// Vertices met for the first time by that.
    pub(super) fresh: Vec<u32>,
    /// Of a filtered search: vertices to expand, nearest first.
    pub(super) candidates: BinaryHeap<Reverse<u64>>,
    /// Of a filtered search: accepted rows, furthest first.
    pub(super) held: BinaryHeap<u64>,
}

impl Scratch {
    /// Walks `layer` from `starts`, leaving the `width` nearest vertices in the beam, and passing by the one that is to be left
    /// out. Returns how many vertices were expanded.
    pub(super) fn walk<L: Layer, M: Measure>(
        &mut self,
        layer: &L,
        probe: &mut M,
        starts: &[u32],
        width: usize,
        without: Option<u32>,
    ) -> u64 {
        self.visited.start(layer.len());
        if let Some(vertex) = without {
            self.visited.first(vertex);
        }
        self.beam.start(width);
        for start in starts {
            if self.visited.first(*start) {
                self.beam.offer(*start, probe.one(layer.row(*start)));
            }
        }
        let mut expanded = 0;
        loop {
            self.together.clear();
            while self.together.len() < M::TOGETHER
                && let Some(vertex) = self.beam.next()
            {
                self.together.push(vertex);
            }
            if self.together.is_empty() {
                return expanded;
            }
            expanded += self.together.len() as u64;
            if M::TOGETHER > 1 {
                self.together.iter().for_each(|vertex| probe.prefetch(layer, *vertex));
            }
            self.beam.ahead().take(M::TOGETHER).for_each(|vertex| probe.prefetch(layer, vertex));
            let (bound, beam) = (self.beam.bound(), &mut self.beam);
            let (visited, fresh) = (&mut self.visited, &mut self.fresh);
            probe.expand(layer, &self.together, bound, visited, fresh, |link, distance| {
                beam.offer(link, distance);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_nearest_and_expands_each_once() {
        let mut beam = Beam::default();
        beam.start(3);
        for (vertex, distance) in [(7, 50), (1, 40), (2, 90), (3, 60), (4, 95)] {
            beam.offer(vertex, distance);
        }
        assert_eq!(beam.found().collect::<Vec<_>>(), [(1, 40), (7, 50), (3, 60)]);
        assert_eq!(beam.ahead().collect::<Vec<_>>(), [1, 7, 3]);
        assert_eq!((beam.next(), beam.next()), (Some(1), Some(7)));
        beam.offer(9, 10);
        assert_eq!((beam.next(), beam.next()), (Some(9), None), "3 fell out; 1 and 7 are done");
        assert_eq!(beam.found().map(|x| x.0).collect::<Vec<_>>(), [9, 1, 7]);
    }

    #[test]
    fn width_zero_holds_nothing() {
        let mut beam = Beam::default();
        beam.start(0);
        beam.offer(1, 1);
        assert_eq!(beam.next(), None);
    }
}

//! A walk by codes instead of rows.

use super::super::Codes;
use super::super::codes::Question;
use super::super::neighbor::ordered;
use super::layer::{Layer, Measure};
use super::visited::Visited;

/// A query ready to be compared with codes: at layer 0 with the sketches that stand beside the links first, and with the bytes of
/// what may be near enough.
pub(super) struct Coded<'a> {
    codes: &'a Codes,
    question: &'a Question<'a>,
    pub(super) distances: u64,
}

impl<'a> Coded<'a> {
    pub(super) fn new(codes: &'a Codes, question: &'a Question<'a>) -> Self {
        Self { codes, question, distances: 0 }
    }

    #[inline]
    fn bytes(&mut self, row: impl Fn(u32) -> u32, vertices: &[u32], mut found: impl FnMut(u32, u32)) {
        self.distances += vertices.len() as u64;
        let (fours, rest) = vertices.as_chunks::<4>();
        for four in fours {
            let distances = self.question.four(four.map(&row));
            four.iter().zip(distances).for_each(|(vertex, distance)| found(*vertex, ordered(distance)));
        }
        for vertex in rest {
            found(*vertex, ordered(self.question.one(row(*vertex))));
        }
    }
}

impl Measure for Coded<'_> {
    #[inline]
    fn one(&mut self, row: u32) -> u32 {
        self.distances += 1;
        ordered(self.question.one(row))
    }

    #[inline]
    fn each<L: Layer>(&mut self, layer: &L, fresh: &[u32], found: impl FnMut(u32, u32)) {
        fresh.iter().for_each(|vertex| self.codes.prefetch(layer.row(*vertex)));
        self.bytes(|vertex| layer.row(vertex), fresh, found);
    }

    #[inline]
    fn expand<L: Layer>(
        &mut self,
        _: &L,
        vertex: u32,
        bound: f32,
        visited: &mut Visited,
        fresh: &mut Vec<u32>,
        found: impl FnMut(u32, u32),
    ) {
        fresh.clear();
        for block in self.codes.fan(vertex) {
            let mut passed = self.question.sketches(&block, bound);
            while passed != 0 {
                let link = block.links[passed.trailing_zeros() as usize];
                passed &= passed - 1;
                if visited.first(link) {
                    self.codes.prefetch(link);
                    fresh.push(link);
                }
            }
        }
        self.bytes(|vertex| vertex, fresh, found);
    }

    #[inline]
    fn prefetch<L: Layer>(&self, _: &L, vertex: u32) {
        self.codes.prefetch_fan(vertex);
    }
}

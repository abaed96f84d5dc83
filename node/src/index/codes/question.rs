//! A query against a block's codes.

use super::super::distance::codes::{Block, CODES, Pair, SLOTS, Sieve};
use super::{Codes, Offset, ROUNDING, Row, nearest, unit};

/// Sketch errors are taken this many times; with 1.9, as in the paper, one row in 30 is further off than its bound. A walk
/// forgives misses, as most rows are linked to by several. Measured on 100,000 x 384 at `ef` 48 (2026-11): recall 0.9518 with
/// 0.3, 0.9522 with 0.5 and 0.9524 with 1.0, which looks at 351 bytes' distances for 308.
const CAUTION: f32 = 0.5;

/// See the module.
#[derive(Debug)]
pub struct Question<'a> {
    codes: &'a Codes,
    bytes: Vec<i8>,
    /// What each value of each group of four signs counts.
    counts: Vec<Pair>,
    /// What every distance begins with.
    base: f32,
    /// What a product counts.
    weight: f32,
    unit: f32,
    /// A sum of counts times `step` plus `lowest` is a sum of signs.
    step: f32,
    lowest: f32,
    /// Times a row's error: how far its estimate is off.
    doubt: f32,
}

impl<'a> Question<'a> {
    pub(super) fn new(codes: &'a Codes, offset: &Offset) -> Question<'a> {
        let (counts, step, lowest) = counts(&offset.values);
        Question { counts, step, lowest, ..Question::bytes_only(codes, offset) }
    }

    /// One that takes sketch errors so many times.
    pub(super) fn cautious(mut self, caution: f32) -> Question<'a> {
        self.doubt *= caution / CAUTION;
        self
    }

    /// One that is never compared with sketches.
    pub(super) fn bytes_only(codes: &'a Codes, offset: &Offset) -> Question<'a> {
        let Offset { ref values, length, base, weight } = *offset;
        let unit = unit(values);
        let scale = if unit > 0.0 { unit.recip() } else { 0.0 };
        let mut bytes: Vec<i8> = values.iter().map(|value| nearest(value * scale)).collect();
        bytes.resize(codes.head.width(), 0);
        let doubt = CAUTION * length * weight;
        Question { codes, bytes, counts: Vec::new(), base, weight, unit, step: 0.0, lowest: 0.0, doubt }
    }

    /// Which of a block's links may be nearer than `bound`, as bits.
    #[inline]
    pub(in super::super) fn sketches(&self, block: &Block<'_>, bound: f32) -> u32 {
        let sieve = Sieve {
            step: self.weight * self.step,
            lowest: self.weight * self.lowest,
            doubt: self.doubt,
            bound: bound - self.base,
        };
        (CODES.sketches)(&self.counts, block, &sieve)
    }

    #[inline]
    fn finish(&self, row: Row<'_>, product: i32) -> f32 {
        self.base + row.add + self.weight * self.unit * row.unit * product as f32
    }

    /// The distance by the row's bytes.
    #[inline]
    pub(in super::super) fn one(&self, row: u32) -> f32 {
        let row = self.codes.row(row);
        self.finish(row, (CODES.bytes)(&self.bytes, row.bytes))
    }

    /// The distances of four rows by their bytes.
    #[inline]
    pub(in super::super) fn four(&self, rows: [u32; 4]) -> [f32; 4] {
        let rows = rows.map(|row| self.codes.row(row));
        let products = (CODES.bytes_four)(&self.bytes, rows.map(|row| row.bytes));
        std::array::from_fn(|i| self.finish(rows[i], products[i]))
    }
}

/// For each group of four values, what each of its sixteen choices of signs adds up to, in steps above the lowest of the group;
/// a step; and the sum of the lowest.
fn counts(query: &[f32]) -> (Vec<Pair>, f32, f32) {
    let spans = query.chunks(4).map(|four| four.iter().map(|value| value.abs()).sum::<f32>());
    let (groups, widest) =
        spans.clone().fold((0usize, 0.0f32), |(n, widest), span| (n + 1, widest.max(span)));
    let lowest = -spans.sum::<f32>();
    // All sums of counts fit 16 bits.
    let most = (65_535 / groups.max(1)).clamp(1, 255) as f32;
    let step = if widest > 0.0 && widest.is_finite() { 2.0 * widest / most } else { 1.0 };
    let scale = step.recip();
    let mut counts = vec![[0u8; SLOTS]; query.len().div_ceil(8)];
    for (eight, pair) in query.chunks(8).zip(&mut counts) {
        for (four, half) in eight.chunks(4).zip(pair.as_chunks_mut::<{ SLOTS / 2 }>().0) {
            // Above the lowest: twice the values whose sign is chosen to be plus.
            let doubled: [f32; 4] =
                std::array::from_fn(|at| four.get(at).map_or(0.0, |value| 2.0 * value * scale));
            let mut above = [-doubled.iter().map(|value| value.min(0.0)).sum::<f32>(); SLOTS / 2];
            for at in [3, 2, 1, 0] {
                for choices in above.chunks_exact_mut(2 << at) {
                    choices[1 << at..].iter_mut().for_each(|sum| *sum += doubled[at]);
                }
            }
            for (count, sum) in half.iter_mut().zip(above) {
                *count = (sum + ROUNDING).to_bits() as u8;
            }
        }
    }
    (counts, step, lowest)
}

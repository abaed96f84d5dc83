//! A query against product codes: what each centroid counts is worked out once, and a row is as many look-ups as it has groups.
//!
//! What is looked up are bytes, so that the tables stay near the processor (12 KiB with 384 dims); rounding to them adds about a
//! hundredth to what the codes are off.

use super::super::distance::prefetch::prefetch;
use super::super::distance::tables::{CHOICES, LANES, TABLES};
use super::{Codes, Offset, ROUNDING, Row, books, part};

/// Cache lines of a row that are asked for ahead.
const LINES_AHEAD: usize = 4;
/// What an entry of a table may be, at most.
const MOST: f32 = 255.0;

/// See the module.
#[derive(Debug)]
pub struct Tables<'a> {
    /// The rows' codes, and how long each is.
    codes: &'a [u8],
    stride: usize,
    /// For each group: what each centroid counts, in steps above the least of the group.
    counts: Vec<[u8; CHOICES]>,
    /// What every distance begins with.
    base: f32,
    /// What a step counts, before the row's unit; and what the least of all groups count together.
    step: f32,
    least: f32,
}

impl<'a> Tables<'a> {
    pub(super) fn new(codes: &'a Codes, offset: &Offset) -> Tables<'a> {
        let mut products = vec![[0.0f32; CHOICES]; books::groups(codes.dims())];
        let (mut widest, mut all) = (0.0f32, 0.0f32);
        let groups = products.iter_mut().zip(codes.books()).zip(books::split(&offset.values));
        let leasts: Vec<f32> = groups
            .map(|((products, book), values)| {
                (TABLES.products)(&values, book, products);
                let (least, most) = span(products);
                (widest, all) = (widest.max(most - least), all + least);
                least
            })
            .collect();
        let step = if widest > 0.0 && widest.is_finite() { widest / MOST } else { 1.0 };
        let scale = step.recip();
        let mut counts = vec![[0u8; CHOICES]; products.len()];
        for ((counts, products), least) in counts.iter_mut().zip(&products).zip(leasts) {
            for (count, product) in counts.iter_mut().zip(products) {
                *count = ((product - least) * scale + ROUNDING).to_bits() as u8;
            }
        }
        let (start, stride) = (codes.places.rows, codes.places.row);
        let codes = codes.bytes().get(start..start + codes.len() * stride).unwrap_or_default();
        Tables {
            codes,
            stride,
            counts,
            base: offset.base,
            step: offset.weight * step,
            least: offset.weight * all,
        }
    }

    /// The distance by a row's code.
    #[inline]
    pub(super) fn of(&self, row: Row<'_>) -> f32 {
        let codes: &[u8] = bytemuck::cast_slice(row.bytes);
        self.base + row.add + row.unit * (self.step * sum(&self.counts, codes) as f32 + self.least)
    }

    /// The distance by the row's code.
    #[inline]
    pub(in super::super) fn one(&self, row: u32) -> f32 {
        self.of(Row::read(part(self.codes, row, self.stride)))
    }

    /// The distances of four rows by their codes.
    #[inline]
    pub(in super::super) fn four(&self, rows: [u32; 4]) -> [f32; 4] {
        rows.map(|row| self.one(row))
    }

    /// Asks for a row's code.
    #[inline]
    pub(in super::super) fn prefetch(&self, row: u32) {
        prefetch(part(self.codes, row, self.stride), LINES_AHEAD);
    }
}

/// What a row's centroids count together.
#[inline]
fn sum(counts: &[[u8; CHOICES]], codes: &[u8]) -> u32 {
    let ((eights, rest), (code_eights, code_rest)) = (counts.as_chunks::<8>(), codes.as_chunks::<8>());
    let mut sum = 0;
    for (counts, codes) in eights.iter().zip(code_eights) {
        for (at, counts) in counts.iter().enumerate() {
            sum += u32::from(counts[usize::from(codes[at])]);
        }
    }
    rest.iter().zip(code_rest).fold(sum, |sum, (counts, code)| sum + u32::from(counts[usize::from(*code)]))
}

/// The least and the greatest of these; what is not a number does not count.
fn span(products: &[f32; CHOICES]) -> (f32, f32) {
    let (mut least, mut most) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    for run in products.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            least[lane] = if run[lane] < least[lane] { run[lane] } else { least[lane] };
            most[lane] = if run[lane] > most[lane] { run[lane] } else { most[lane] };
        }
    }
    let (least, most) =
        (least.into_iter().fold(f32::INFINITY, f32::min), most.into_iter().fold(f32::NEG_INFINITY, f32::max));
    if least <= most { (least, most) } else { (0.0, 0.0) }
}

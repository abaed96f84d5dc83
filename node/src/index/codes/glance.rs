//! A query against rows' sketches, one row at a time: for scans of scattered rows, and for walks without bytes.
//!
//! The query's values are rounded to one of sixteen steps and kept as four planes of bits, so that a product with a row's signs is
//! four times as many ANDs and counts of bits as the row has words (as RaBitQ does it). The rounding adds some hundredths to what the
//! signs themselves are off.

use super::super::distance::codes::{CODES, Glances, PLANES, RUN, Terms};
use super::{Codes, Offset};

/// See the module.
#[derive(Debug)]
pub struct Glance<'a> {
    codes: &'a Codes,
    /// For each word of bits: the planes of its values, lowest first.
    planes: Vec<[u64; PLANES]>,
    terms: Terms,
}

impl<'a> Glance<'a> {
    pub(super) fn new(codes: &'a Codes, offset: &Offset) -> Glance<'a> {
        let least = offset.values.iter().copied().fold(f32::INFINITY, f32::min);
        let most = offset.values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let levels = ((1 << PLANES) - 1) as f32;
        let step = if most > least && (most - least).is_finite() { (most - least) / levels } else { 0.0 };
        let scale = if step > 0.0 { step.recip() } else { 0.0 };
        let least = if least.is_finite() { least } else { 0.0 };
        let mut planes = vec![[0u64; PLANES]; offset.values.len().div_ceil(64)];
        for (planes, values) in planes.iter_mut().zip(offset.values.chunks(64)) {
            for (at, value) in values.iter().enumerate() {
                let level = (((value - least) * scale).round().clamp(0.0, levels)) as u64;
                for (number, plane) in planes.iter_mut().enumerate() {
                    *plane |= (level >> number & 1) << at;
                }
            }
        }
        // A sum over all bits of a sketch has plus or minus each value: twice the values of the bits that are set, less all of them.
        let terms = Terms {
            base: offset.base,
            weight: offset.weight,
            step: 2.0 * step,
            lowest: 2.0 * least,
            all: offset.values.iter().sum(),
            doubt: (offset.length * offset.weight).abs(),
        };
        Glance { codes, planes, terms }
    }

    /// Calls `found` with each of these rows, its distance by its sketch, and how far that is off (by one standard deviation, about).
    #[inline]
    pub(in super::super) fn each(&self, rows: &[u32], mut found: impl FnMut(u32, f32, f32)) {
        let sketches = self.codes.sketches();
        for rows in rows.chunks(RUN) {
            let mut glances = Glances::NONE;
            (CODES.planes)(&self.planes, &sketches, &self.terms, rows, &mut glances);
            for (row, (about, off)) in rows.iter().zip(glances.about.iter().zip(&glances.off)) {
                found(*row, *about, *off);
            }
        }
    }
}

//! A row against other rows, by their bytes: what a build of a graph measures with.

use super::super::Distance;
use super::super::distance::codes::CODES;
use super::{Codes, Row, dot};

/// A row ready to be compared with others.
#[derive(Clone, Copy, Debug)]
pub struct Between<'a> {
    codes: &'a Codes,
    bytes: &'a [i8],
    /// What every distance begins with.
    base: f32,
    /// What a product of bytes counts, before the other row's unit.
    scale: f32,
}

impl<'a> Between<'a> {
    pub(super) fn new(codes: &'a Codes, row: u32) -> Between<'a> {
        let Row { bytes, add, unit } = codes.row(row);
        let centre = &codes.centre;
        let (base, weight) = match codes.head.distance {
            Distance::Euclidean => (add, -2.0),
            // The product of what the row is off the centre and of the centre is that of the row, without the centre's own.
            Distance::Cosine => (1.0 + add + dot(centre, centre), -1.0),
            _ => (add + dot(centre, centre), -1.0),
        };
        Between { codes, bytes, base, scale: weight * unit }
    }

    #[inline]
    fn finish(&self, row: Row<'_>, product: i32) -> f32 {
        self.base + row.add + self.scale * row.unit * product as f32
    }

    /// How far a row is.
    #[inline]
    pub(in super::super) fn one(&self, row: u32) -> f32 {
        let row = self.codes.row(row);
        self.finish(row, (CODES.bytes)(self.bytes, row.bytes))
    }

    /// How far four rows are.
    #[inline]
    pub(in super::super) fn four(&self, rows: [u32; 4]) -> [f32; 4] {
        let rows = rows.map(|row| self.codes.row(row));
        let products = (CODES.bytes_four)(self.bytes, rows.map(|row| row.bytes));
        std::array::from_fn(|i| self.finish(rows[i], products[i]))
    }

    /// Asks for a row's bytes.
    #[inline]
    pub(in super::super) fn prefetch(&self, row: u32) {
        self.codes.prefetch(row);
    }
}

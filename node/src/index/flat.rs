//! Exact search: look at every accepted row.
//!
//! The planner picks it when few rows are accepted, the growing segment uses it for rows that have no graph yet,
//! and it is the fallback when a graph found fewer than it should. Rows are taken four at a time; accepted rows
//! of a filtered scan are gathered into fours first.

use super::accept::is_live;
use super::distance::prefetch::prefetch;
use super::{
    Accept, Backing, Bitset, Cancelled, Damage, Distance, Effort, Neighbor, Progress, Rows, Stats, TopK,
    VectorIndex,
};

/// Offers every accepted row of `rows` to `top`, and says how many those were. Row `i` of the slice is row `base_row + i` to
/// `accept` and in the neighbours, so that one logical block may be scanned in pieces.
pub fn scan(
    rows: Rows<'_>,
    distance: Distance,
    query: &[f32],
    accept: Accept<'_>,
    base_row: u32,
    top: &mut TopK,
) -> u64 {
    let all = 0..rows.len() as u32;
    let mut fours = Fours::new(rows, distance, query, base_row, top);
    match accept {
        Accept::All => fours.take(all),
        Accept::Bits(bits) if base_row == 0 => {
            fours.take(bits.iter().take_while(|row| (*row as usize) < rows.len()))
        }
        Accept::Bits(bits) => fours.take(all.filter(|row| bits.contains(base_row.saturating_add(*row)))),
        Accept::Live { deleted_at, at } => {
            fours.take(all.filter(|row| is_live(deleted_at, at, base_row.saturating_add(*row))))
        }
        Accept::Without(one) => fours.take(all.filter(|row| base_row.saturating_add(*row) != one)),
    }
}

/// Offers the rows of a set to `top`; costs nothing for rows outside it. Rows the block does not have are skipped.
pub fn scan_bits(rows: Rows<'_>, distance: Distance, query: &[f32], bits: &Bitset, top: &mut TopK) {
    scan(rows, distance, query, Accept::Bits(bits), 0, top);
}

/// Computes distances four rows at a time and offers them.
struct Fours<'a, 't> {
    rows: Rows<'a>,
    distance: Distance,
    query: &'a [f32],
    base_row: u32,
    top: &'t mut TopK,
}

impl<'a, 't> Fours<'a, 't> {
    fn new(rows: Rows<'a>, distance: Distance, query: &'a [f32], base_row: u32, top: &'t mut TopK) -> Self {
        Self { rows, distance, query, base_row, top }
    }

    /// `wanted` holds rows of the slice only.
    fn take(&mut self, wanted: impl Iterator<Item = u32>) -> u64 {
        if self.top.k() == 0 {
            return 0;
        }
        let mut taken = 0;
        let kernel = self.distance.kernel();
        let (mut four, mut held) = ([0u32; 4], 0);
        for row in wanted {
            prefetch(self.rows.row(row), 2);
            four[held] = row;
            held += 1;
            taken += 1;
            if held == 4 {
                let distances = kernel.four(self.query, four.map(|row| self.rows.row(row)));
                four.into_iter().zip(distances).for_each(|(row, distance)| self.offer(row, distance));
                held = 0;
            }
        }
        for row in &four[..held] {
            self.offer(*row, kernel.one(self.query, self.rows.row(*row)));
        }
        taken
    }

    #[inline]
    fn offer(&mut self, row: u32, distance: f32) {
        self.top.push(Neighbor { row: self.base_row.saturating_add(row), distance });
    }
}

/// The exact index: no structure beside the number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flat {
    len: u32,
}

impl Flat {
    const MAGIC: [u8; 8] = *b"FLFLAT\r\n";
    const VERSION: u32 = 1;
}

impl VectorIndex for Flat {
    type Params = ();

    fn build(rows: Rows<'_>, _: Distance, _: &(), _: usize, progress: &Progress) -> Result<Self, Cancelled> {
        progress.advance(rows.len() as u64)?;
        Ok(Self { len: rows.len() as u32 })
    }

    fn search(
        &self,
        rows: Rows<'_>,
        distance: Distance,
        query: &[f32],
        k: usize,
        _: impl Into<Effort>,
        accept: Accept<'_>,
        stats: &mut Stats,
    ) -> Vec<Neighbor> {
        let mut top = TopK::new(k);
        stats.distances += scan(rows, distance, query, accept, 0, &mut top);
        stats.visited += rows.len() as u64;
        top.into_sorted()
    }

    fn len(&self) -> usize {
        self.len as usize
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Self::MAGIC.to_vec();
        bytes.extend(Self::VERSION.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    fn open(backing: Backing) -> Result<Self, Damage> {
        let bytes = (*backing).as_ref();
        let Some((head, [version, len, crc])) = bytes.split_first_chunk::<8>().and_then(|(magic, rest)| {
            let words = rest.first_chunk::<12>()?.as_chunks::<4>().0;
            Some((magic, [words[0], words[1], words[2]].map(u32::from_le_bytes)))
        }) else {
            return Err(Damage::Foreign);
        };
        if *head != Self::MAGIC {
            return Err(Damage::Foreign);
        }
        if version != Self::VERSION {
            return Err(Damage::Version(version));
        }
        if crc32fast::hash(&bytes[..16]) != crc {
            return Err(Damage::Header);
        }
        if bytes.len() != 20 {
            return Err(Damage::Length { expected: 20, actual: bytes.len() as u64 });
        }
        Ok(Self { len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::exam;
    use crate::index::sample::clustered;

    #[test]
    fn sits_the_exam() {
        exam::sit::<Flat>(&(), true);
    }

    #[test]
    fn pieces_with_a_base_row_equal_the_whole() {
        let sample = clustered(3, 200, 12, 5);
        let bits = Bitset::with_rows(200, (0..200).filter(|row| row % 3 == 0));
        for accept in [Accept::All, Accept::Bits(&bits)] {
            let query = sample.rows().row(17);
            let (mut whole, mut pieces) = (TopK::new(9), TopK::new(9));
            scan(sample.rows(), Distance::Euclidean, query, accept, 0, &mut whole);
            for (base_row, piece) in [(0, 0..50), (50, 50..53), (53, 53..200)] {
                let piece = Rows::new(&sample.data[piece.start * 12..piece.end * 12], 12).unwrap();
                scan(piece, Distance::Euclidean, query, accept, base_row, &mut pieces);
            }
            assert_eq!(whole.into_sorted(), pieces.into_sorted());
        }
    }

    #[test]
    fn a_set_larger_than_the_block_is_cut() {
        let sample = clustered(3, 10, 4, 2);
        let mut top = TopK::new(100);
        scan_bits(sample.rows(), Distance::Dot, sample.rows().row(0), &Bitset::full(1000), &mut top);
        assert_eq!(top.len(), 10);
    }
}

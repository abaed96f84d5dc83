//! Digests: numbers by which replicas that hold the same records at one log index know it of each other.
//!
//! A digest is the wrapping 128-bit sum of one *mark* per live row, so the order of rows does not matter, nor which segment
//! they lie in, and a row is added or taken away in one step. There are two kinds:
//!
//! * **rolling**: the mark is made of key and version. The store keeps it up to date with every row that comes and goes,
//!   without reading one. Replicas whose rolling digests differ did not apply the same commands to the same effect.
//! * **deep** ([`Walk`]): the mark is made of everything that is stored: key, version, payload, and the bits of each vector
//!   with the length it was scaled by. It reads every live row of a frozen view, in steps.
//!
//! **Invariant.** The rolling digest of a view equals the one recounted from its rows ([`recount`]). Marks never change: two
//! versions of the program compare theirs.
//!
//! A sum is no signature: whoever chooses keys freely could make two sets collide. It finds faults, not forgers.

use xxhash_rust::xxh3::{Xxh3, xxh3_128, xxh3_128_with_seed};

use flotilla_proto::ids::LogIndex;
use serde::{Deserialize, Serialize};

use super::{Fault, StoredRow, View};

/// How often a recount looks whether it was cancelled, in rows.
const LOOK_EVERY: u32 = 4_096;

/// See the module. Empty, it is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub(super) u128);

impl Digest {
    /// With a row of this mark.
    pub(super) fn add(&mut self, mark: u128) {
        self.0 = self.0.wrapping_add(mark);
    }

    /// Without a row of this mark.
    pub(super) fn remove(&mut self, mark: u128) {
        self.0 = self.0.wrapping_sub(mark);
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The mark of a row in the rolling digest.
pub(super) fn mark(key: &[u8], version: LogIndex) -> u128 {
    let mut both = [0; 24];
    both[..16].copy_from_slice(&xxh3_128(key).to_le_bytes());
    both[16..].copy_from_slice(&version.to_le_bytes());
    xxh3_128_with_seed(&both, 1)
}

/// The mark of a row in the deep digest. Every part is preceded by its length or number, so that no two rows read alike.
pub(super) fn deep_mark(row: &StoredRow, version: LogIndex) -> u128 {
    let mut hasher = Xxh3::with_seed(2);
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(&version.to_le_bytes());
    part(&row.key);
    part(&row.payload);
    for vector in &row.vectors {
        part(&vector.ordinal.to_le_bytes());
        part(&vector.norm.to_bits().to_le_bytes());
        part(bytemuck::cast_slice(&vector.values));
    }
    hasher.digest128()
}

/// The rolling digest of a view, counted from its rows' keys and versions.
pub fn recount(view: &View, is_cancelled: &dyn Fn() -> bool) -> Result<Digest, Fault> {
    let mut digest = Digest::default();
    for segment in view.segments() {
        for row in 0..segment.rows() {
            if row.is_multiple_of(LOOK_EVERY) && is_cancelled() {
                return Err(Fault::Cancelled);
            }
            if segment.is_live(row) {
                digest.add(mark(&segment.key(row)?.to_bytes(), segment.version(row)));
            }
        }
    }
    Ok(digest)
}

/// A deep digest under way. It holds its view, and with it files and memory, until it is dropped.
#[derive(Debug)]
pub struct Walk {
    view: View,
    segment: usize,
    row: u32,
    read: u64,
    rolling: Digest,
    digest: Digest,
}

impl Walk {
    /// At the first row of the view.
    pub fn new(view: View) -> Walk {
        Walk { view, segment: 0, row: 0, read: 0, rolling: Digest::default(), digest: Digest::default() }
    }

    /// Reads on until about `bytes` were read; the digest once there is nothing left.
    ///
    /// # Errors
    /// Damage, where a row does not read back, or the rows are not those of the rolling digest. [`Fault::Cancelled`] soon after `is_cancelled`.
    pub fn step(&mut self, bytes: usize, is_cancelled: &dyn Fn() -> bool) -> Result<Option<Digest>, Fault> {
        let mut read = 0;
        while let Some(segment) = self.view.segment(self.segment) {
            while self.row < segment.rows() {
                if read >= bytes {
                    return Ok(None);
                }
                if is_cancelled() {
                    return Err(Fault::Cancelled);
                }
                if segment.is_live(self.row) {
                    let row = segment.stored(self.row)?;
                    let version = segment.version(self.row);
                    read += row.size();
                    self.read += 1;
                    self.rolling.add(mark(&row.key, version));
                    self.digest.add(deep_mark(&row, version));
                }
                self.row += 1;
            }
            (self.segment, self.row) = (self.segment + 1, 0);
        }
        match self.view.digest() {
            kept if kept == self.rolling => Ok(Some(self.digest)),
            kept => {
                let reason = format!("its rows add up to {}, its digest is {kept}", self.rolling);
                Err(Fault::damaged(format!("the view at log index {}", self.view.at), 0, reason))
            }
        }
    }

    /// The share of the rows that is read: 0 to 1.
    pub fn progress(&self) -> f32 {
        match self.view.live() {
            0 => 1.0,
            live => self.read as f32 / live as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::storage::row::StoredVector;

    /// Pinned: replicas of different versions compare them.
    #[test]
    fn marks_never_change() {
        let mut digest = Digest::default();
        digest.add(mark(b"key", 7));
        let rolling = digest.to_string();
        let vector = StoredVector { ordinal: 1, norm: 2.0, values: vec![0.6, 0.8] };
        let row = StoredRow {
            key: b"key".to_vec(),
            vectors: vec![vector],
            payload: Bytes::from_static(b"payload"),
        };
        let deep = Digest(deep_mark(&row, 7)).to_string();
        assert_eq!(
            (rolling.as_str(), deep.as_str()),
            ("552f3913472200ff74072b0642058d9a", "2451c4692a0612215242ec5233a944fa")
        );
    }

    #[test]
    fn every_part_of_a_row_counts() {
        let vector = |ordinal, norm, values: &[f32]| StoredVector { ordinal, norm, values: values.to_vec() };
        let row = |key: &[u8], payload: &'static [u8], vectors| StoredRow {
            key: key.to_vec(),
            payload: Bytes::from_static(payload),
            vectors,
        };
        let rows = [
            row(b"ab", b"c", vec![]),
            row(b"a", b"bc", vec![]),
            row(b"a", b"b", vec![vector(0, 1.0, &[1.0])]),
            row(b"a", b"b", vec![vector(0, 1.0, &[-1.0])]),
            row(b"a", b"b", vec![vector(1, 1.0, &[1.0])]),
            row(b"a", b"b", vec![vector(0, 2.0, &[1.0])]),
            row(b"a", b"b", vec![vector(0, 1.0, &[1.0]), vector(1, 1.0, &[1.0])]),
        ];
        let mut marks: Vec<u128> = rows.iter().map(|row| deep_mark(row, 1)).collect();
        marks.push(deep_mark(&rows[0], 2));
        marks.push(mark(b"ab", 1));
        marks.push(mark(b"ab", 2));
        marks.push(mark(b"a", 1));
        let all = marks.len();
        marks.sort_unstable();
        marks.dedup();
        assert_eq!(marks.len(), all);
    }

    #[test]
    fn what_is_added_can_be_taken_away_in_any_order() {
        let marks: Vec<u128> = (0..50_u64).map(|n| mark(&n.to_le_bytes(), n)).collect();
        let mut digest = Digest::default();
        marks.iter().for_each(|mark| digest.add(*mark));
        assert_ne!(digest, Digest::default());
        marks.iter().rev().for_each(|mark| digest.remove(*mark));
        assert_eq!(digest, Digest::default());
    }
}

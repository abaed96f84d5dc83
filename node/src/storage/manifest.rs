//! `MANIFEST`: which sealed segments a partition consists of, and the log index that they stand for.
//!
//! Replaced whole (written beside, synced, renamed, folder synced), so after a crash the old one or the new one is
//! there. It describes exactly the state after the command at `applied`: replay starts behind it. The tombstones are
//! therefore those of rows deleted at or before `applied`; a row deleted later is deleted again by the replay.

use std::collections::BTreeSet;
use std::path::Path;

use flotilla_proto::ids::LogIndex;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::Fault;
use super::sealed::{GraphEntry, Sealed};
use super::stamped::Kind;

/// Its name in the partition's folder.
pub(super) const MANIFEST: &str = "MANIFEST";

pub(super) const KIND: Kind = Kind { magic: *b"FLOTMANI", version: 1 };

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// The log index of the state it describes; 0: nothing was applied yet.
    pub applied: LogIndex,
    /// The machine's own state at that index; opaque here.
    pub machine: Vec<u8>,
    /// Numbers at and above this one are free.
    pub next_number: u64,
    /// The segments.
    pub segments: Vec<SegmentEntry>,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SegmentEntry {
    /// Its folder's number.
    pub number: u64,
    /// Its rows.
    pub rows: u32,
    /// Its graphs.
    pub graphs: Vec<GraphEntry>,
    /// Its deleted rows: a serialized roaring bitmap.
    tombstones: Vec<u8>,
}

impl Manifest {
    /// Replaces the file in `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), Fault> {
        let path = dir.join(MANIFEST);
        let body =
            postcard::to_allocvec(self).map_err(|error| Fault::damaged(&path, 0, error.to_string()))?;
        KIND.write(&path, &body)
    }

    /// Reads the file in `dir` and checks that it is consistent with itself.
    pub fn read(dir: &Path) -> Result<Manifest, Fault> {
        let path = dir.join(MANIFEST);
        let damaged = |reason: String| Fault::damaged(&path, 0, reason);
        let manifest: Manifest =
            postcard::from_bytes(&KIND.read(&path)?).map_err(|error| damaged(error.to_string()))?;
        manifest.check().map_err(damaged)?;
        Ok(manifest)
    }

    /// A number stands for one segment, and those to come are free.
    fn check(&self) -> Result<(), String> {
        if self.next_number == u64::MAX {
            return Err("no number is left for another segment".to_owned());
        }
        let mut numbers = BTreeSet::new();
        let is_free = |number: u64| number >= self.next_number;
        match self.segments.iter().find(|segment| is_free(segment.number) || !numbers.insert(segment.number))
        {
            Some(segment) => Err(format!("segment {} has a free number, or one of another", segment.number)),
            None => Ok(()),
        }
    }
}

impl SegmentEntry {
    /// The segment as it stands at `applied`.
    pub fn of(segment: &Sealed, applied: LogIndex) -> Result<SegmentEntry, Fault> {
        let dead: RoaringBitmap = segment.dead_at(applied).collect();
        let mut tombstones = Vec::with_capacity(dead.serialized_size());
        dead.serialize_into(&mut tombstones).map_err(|error| Fault::io(segment.dir(), &error))?;
        Ok(SegmentEntry {
            number: segment.number(),
            rows: segment.rows(),
            graphs: segment.graphs(),
            tombstones,
        })
    }

    /// Its deleted rows.
    pub fn tombstones(&self, dir: &Path) -> Result<RoaringBitmap, Fault> {
        let damaged = |reason: String| Fault::damaged(dir.join(MANIFEST), 0, reason);
        let dead = RoaringBitmap::deserialize_from(self.tombstones.as_slice())
            .map_err(|error| damaged(error.to_string()))?;
        if dead.max().is_some_and(|row| row >= self.rows) {
            return Err(damaged(format!("segment {} has deleted rows beyond its last", self.number)));
        }
        Ok(dead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> SegmentEntry {
        let mut tombstones = Vec::new();
        RoaringBitmap::new().serialize_into(&mut tombstones).unwrap();
        SegmentEntry { number, rows: 1, graphs: Vec::new(), tombstones }
    }

    #[test]
    fn numbers_that_cannot_be_are_damage() {
        let dir = tempfile::tempdir().unwrap();
        let read = |next_number, numbers: &[u64]| {
            let segments = numbers.iter().copied().map(entry).collect();
            Manifest { next_number, segments, ..Manifest::default() }.write(dir.path()).unwrap();
            Manifest::read(dir.path())
                .map(|manifest| manifest.segments.len())
                .map_err(|fault| fault.to_string())
        };
        assert_eq!(read(4, &[3, 1]), Ok(2));
        for (next_number, numbers, why) in
            [(u64::MAX, &[1][..], "no number"), (3, &[3], "segment 3"), (4, &[2, 2], "segment 2")]
        {
            let fault = read(next_number, numbers).unwrap_err();
            assert!(fault.contains("MANIFEST: damaged") && fault.contains(why), "{fault}");
        }
    }
}

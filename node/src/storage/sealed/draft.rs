//! Writing a sealed segment out of others: one frozen segment (a seal), or several sealed ones (a compaction).
//!
//! **What is kept.** Every row that lives at the log index `floor`, the durable one once the segment stands in a
//! manifest; rows deleted later are kept, with their marks carried over, because a replay that starts at `floor` finds
//! them alive. Rows keep their order. All versions are at or below `floor`, so a key is kept at most once.
//!
//! **Memory.** Values stream through buffers: vectors of sealed sources are read from their files rather than through
//! their maps, so that merging does not pull the whole of them into the process. Per row a few integers are held.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use flotilla_proto::ids::LogIndex;
use flotilla_proto::schema::{FieldType, Form};

use super::expiring::EXPIRIES;
use super::file::{Entry, Writer, cast};
use super::header::{
    ColumnHeader, Header, ends_name, inverted_name, norms_name, rows_name, sums_name, vectors_name,
};
use super::{Sealed, keys};
use crate::env::fs;
use crate::env::mmap::Mmap;
use crate::index::{Lists, Progress, Rows, inverted};
use crate::storage::column::sum;
use crate::storage::growing::Chunks;
use crate::storage::shape::{Shapes, VectorShape};
use crate::storage::{Compression, Fault, payload_index, vectors};

/// How often a long copy looks whether it was cancelled, in rows.
const LOOK_EVERY: u32 = 1_024;

/// A segment that rows are taken from.
#[derive(Clone, Debug)]
pub(in crate::storage) enum Source {
    /// A frozen segment.
    Frozen(Chunks),
    /// A sealed one.
    Sealed(Arc<Sealed>),
}

impl Source {
    fn rows(&self) -> u32 {
        match self {
            Source::Frozen(chunks) => chunks.rows(),
            Source::Sealed(sealed) => sealed.rows(),
        }
    }

    /// The log index that deleted the row; 0 while it lives.
    fn mark(&self, row: u32) -> LogIndex {
        let mark = match self {
            Source::Frozen(chunks) => {
                chunks.place(row).and_then(|(chunk, local)| chunk.deleted_at().get(local as usize))
            }
            Source::Sealed(sealed) => sealed.deleted_at().get(row as usize),
        };
        mark.map_or(0, |mark| mark.load(Ordering::Relaxed))
    }

    fn key(&self, row: u32) -> Result<&[u8], Fault> {
        match self {
            Source::Frozen(chunks) => Ok(chunks.place(row).map_or(&[], |(chunk, local)| chunk.key(local))),
            Source::Sealed(sealed) => sealed.key_bytes(row),
        }
    }

    fn version(&self, row: u32) -> LogIndex {
        match self {
            Source::Frozen(chunks) => chunks.place(row).map_or(0, |(chunk, local)| chunk.version(local)),
            Source::Sealed(sealed) => sealed.version(row),
        }
    }

    /// When the row expires; 0: never.
    fn expires_at_ms(&self, row: u32) -> u64 {
        let when = match self {
            Source::Frozen(chunks) => chunks.place(row).and_then(|(chunk, local)| chunk.expires_at_ms(local)),
            Source::Sealed(sealed) => sealed.expires_at_ms(row),
        };
        when.unwrap_or(0)
    }

    fn payload(&self, row: u32) -> Result<Bytes, Fault> {
        match self {
            Source::Frozen(chunks) => {
                let stored = chunks.place(row).map_or(&[][..], |(chunk, local)| chunk.payload(local));
                Ok(Bytes::copy_from_slice(stored))
            }
            Source::Sealed(sealed) => sealed.stored_payload(row),
        }
    }
}

/// A sealed segment about to be written.
#[derive(Debug)]
pub(in crate::storage) struct Draft {
    sources: Vec<Source>,
    /// The rows kept of each source, ascending.
    kept: Vec<Vec<u32>>,
    /// Where each source's rows begin in the new segment.
    starts: Vec<u32>,
    rows: u32,
}

/// What a draft is written with.
pub(in crate::storage) struct Plan<'a> {
    /// The new segment's folder.
    pub dir: &'a Path,
    /// Its number.
    pub number: u64,
    /// The collection's vectors.
    pub shapes: &'a Shapes,
    /// The fields to index.
    pub fields: &'a BTreeMap<String, FieldType>,
    /// What is done to payloads.
    pub compression: Compression,
    /// To stop it.
    pub progress: &'a Progress,
}

impl Draft {
    /// Chooses the rows that live at `floor`.
    pub fn new(sources: Vec<Source>, floor: LogIndex) -> Draft {
        let (mut kept, mut starts, mut rows) = (Vec::new(), Vec::new(), 0_u32);
        for source in &sources {
            let lives = |row: &u32| match source.mark(*row) {
                0 => true,
                deleted => deleted > floor,
            };
            let these: Vec<u32> = (0..source.rows()).filter(lives).collect();
            starts.push(rows);
            rows = rows.saturating_add(u32::try_from(these.len()).unwrap_or(u32::MAX));
            kept.push(these);
        }
        Draft { sources, kept, starts, rows }
    }

    /// The one segment that it is made of, if all rows of that are kept.
    pub fn whole(&self) -> Option<&Arc<Sealed>> {
        match self.sources.as_slice() {
            [Source::Sealed(sealed)] if sealed.rows() == self.rows => Some(sealed),
            _ => None,
        }
    }

    /// Rows kept.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// The marks of the kept rows as they stand now: (row of the new segment, log index).
    pub fn marks(&self) -> impl Iterator<Item = (u32, LogIndex)> + '_ {
        self.places().zip(0..).filter_map(|((source, row), new)| match self.sources[source].mark(row) {
            0 => None,
            mark => Some((new, mark)),
        })
    }

    /// (source, row in it) of each new row.
    fn places(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.kept.iter().enumerate().flat_map(|(source, rows)| rows.iter().map(move |row| (source, *row)))
    }

    fn place(&self, new: u32) -> Option<(&Source, u32)> {
        let source = self.starts.partition_point(|start| *start <= new).checked_sub(1)?;
        let row = self.kept.get(source)?.get((new - self.starts[source]) as usize)?;
        Some((&self.sources[source], *row))
    }

    fn key(&self, new: u32) -> Result<&[u8], Fault> {
        self.place(new).map_or(Ok(&[]), |(source, row)| source.key(row))
    }

    /// Writes the folder, whole and durable. Whatever has its name is removed before.
    pub fn write(&self, plan: &Plan<'_>) -> Result<(), Fault> {
        let io = |error: std::io::Error| Fault::io(plan.dir, &error);
        if fs::exists(plan.dir).map_err(io)? {
            fs::remove_dir_all(plan.dir).map_err(io)?;
        }
        fs::create_dir_all(plan.dir).map_err(io)?;
        let mut files = Vec::from(keys::write(plan.dir, self.rows, &|row| self.key(row))?);
        check(plan.progress)?;
        files.push(self.write_versions(plan.dir)?);
        files.extend(self.write_expiries(plan.dir)?);
        let mut columns = Vec::new();
        for (ordinal, shape) in plan.shapes.iter().enumerate() {
            columns.push(self.write_column(plan, ordinal, shape, &mut files)?);
        }
        self.write_payloads(plan, &mut files)?;
        let header = Header {
            number: plan.number,
            rows: self.rows,
            shapes: plan.shapes.to_vec(),
            columns,
            fields: plan.fields.clone(),
            files,
        };
        header.write(plan.dir)?;
        fs::sync_dir(plan.dir).map_err(io)?;
        plan.dir.parent().map_or(Ok(()), |above| fs::sync_dir(above).map_err(io))
    }

    fn write_versions(&self, dir: &Path) -> Result<Entry, Fault> {
        let mut file = Writer::create(dir, super::header::VERSIONS)?;
        for (source, row) in self.places() {
            file.write(&self.sources[source].version(row).to_le_bytes())?;
        }
        file.finish()
    }

    /// Nothing where no row expires.
    fn write_expiries(&self, dir: &Path) -> Result<Option<Entry>, Fault> {
        let times = || self.places().map(|(source, row)| self.sources[source].expires_at_ms(row));
        if times().all(|when| when == 0) {
            return Ok(None);
        }
        let mut file = Writer::create(dir, EXPIRIES)?;
        for when in times() {
            file.write(&when.to_le_bytes())?;
        }
        file.finish().map(Some)
    }

    fn write_column(
        &self,
        plan: &Plan<'_>,
        ordinal: usize,
        shape: &VectorShape,
        files: &mut Vec<Entry>,
    ) -> Result<ColumnHeader, Fault> {
        let mut file = Writer::create(plan.dir, &vectors_name(ordinal, shape))?;
        let (mut map, mut norms, mut sums) = (Vec::new(), Vec::new(), Vec::new());
        let (mut ends, mut words) = (Vec::new(), 0);
        for ((source, kept), start) in self.sources.iter().zip(&self.kept).zip(&self.starts) {
            let mut reader = ValueReader::of(source, ordinal, shape)?;
            for (row, new) in kept.iter().zip(*start..) {
                if new.is_multiple_of(LOOK_EVERY) {
                    check(plan.progress)?;
                }
                if let Some((values, norm)) = reader.read(*row)? {
                    file.write(bytemuck::cast_slice(values))?;
                    map.push(new);
                    norms.push(norm);
                    sums.push(sum(values, norm));
                    words += values.len();
                    if vectors::is_list(&shape.spec) {
                        ends.push(u32::try_from(words / shape.words()).unwrap_or(u32::MAX));
                    }
                }
            }
            reader.finish()?;
        }
        files.push(file.finish()?);
        files.push(write_whole(plan.dir, &sums_name(ordinal), bytemuck::cast_slice(&sums))?);
        let count = u32::try_from(map.len()).unwrap_or(u32::MAX);
        let (has_map, has_norms) = (count < self.rows, norms.iter().any(|norm| *norm != 1.0));
        if has_map {
            files.push(write_whole(plan.dir, &rows_name(ordinal), bytemuck::cast_slice(&map))?);
        }
        if has_norms {
            files.push(write_whole(plan.dir, &norms_name(ordinal), bytemuck::cast_slice(&norms))?);
        }
        if vectors::is_list(&shape.spec) {
            files.push(write_whole(plan.dir, &ends_name(ordinal), bytemuck::cast_slice(&ends))?);
        }
        if shape.spec.form == Form::Sparse {
            files.push(write_inverted(plan, ordinal, shape, &ends)?);
        }
        Ok(ColumnHeader { count, has_map, has_norms })
    }

    fn write_payloads(&self, plan: &Plan<'_>, files: &mut Vec<Entry>) -> Result<(), Fault> {
        let dir = super::payload_dir(plan.dir);
        fs::create_dir_all(&dir).map_err(|error| Fault::io(&dir, &error))?;
        let mut payloads = self.places().zip(0_u32..).map(|((source, row), new)| {
            if new.is_multiple_of(LOOK_EVERY) {
                check(plan.progress)?;
            }
            self.sources[source].payload(row)
        });
        payload_index::write(&dir, plan.fields, plan.compression, &mut payloads)?;
        for name in fs::read_dir(&dir).map_err(|error| Fault::io(&dir, &error))? {
            files.push(Entry::of(plan.dir, &format!("{}/{name}", super::PAYLOAD_DIR))?);
        }
        Ok(())
    }
}

fn check(progress: &Progress) -> Result<(), Fault> {
    if progress.is_cancelled() { Err(Fault::Cancelled) } else { Ok(()) }
}

fn write_whole(dir: &Path, name: &str, bytes: &[u8]) -> Result<Entry, Fault> {
    let mut file = Writer::create(dir, name)?;
    file.write(bytes)?;
    file.finish()
}

/// Writes the inverted index of lists whose file was just written.
fn write_inverted(
    plan: &Plan<'_>,
    ordinal: usize,
    shape: &VectorShape,
    ends: &[u32],
) -> Result<Entry, Fault> {
    let path = plan.dir.join(vectors_name(ordinal, shape));
    let map = Mmap::open(&path).map_err(|error| Fault::io(&path, &error))?;
    let rows = cast(&map).and_then(|values| Rows::new(values, shape.words()).ok());
    let Some(lists) = rows.and_then(|rows| Lists::new(rows, ends).ok()) else {
        return Err(Fault::damaged(path, 0, "the lists that were written are not as many as were to be"));
    };
    let mut file = Writer::create(plan.dir, &inverted_name(ordinal))?;
    inverted::write(lists, inverted::GATHERED, &mut |bytes| {
        check(plan.progress)?;
        file.write(bytes)
    })?;
    file.finish()
}

/// Reads one vector of ascending rows of a source.
enum ValueReader<'a> {
    /// Nothing there.
    Absent,
    Frozen(&'a Chunks, usize, &'a VectorShape),
    Sealed(FileReader<'a>),
}

/// Reads slots of a sealed column from its file, a block at a time: each byte of the file once, in order, so that what is copied is
/// held against the file's checksum. A copy of bytes that were read wrong would have a checksum of its own, and be believed.
struct FileReader<'a> {
    sealed: &'a Sealed,
    ordinal: usize,
    entry: &'a Entry,
    file: fs::File,
    path: PathBuf,
    crc: crc32fast::Hasher,
    /// Words that were read and may still be wanted, and where they begin in the file.
    block: Vec<f32>,
    first: usize,
}

/// Bytes read at once.
const BLOCK: usize = 1 << 20;

impl<'a> ValueReader<'a> {
    fn of(source: &'a Source, ordinal: usize, shape: &'a VectorShape) -> Result<ValueReader<'a>, Fault> {
        match source {
            Source::Frozen(chunks) => Ok(ValueReader::Frozen(chunks, ordinal, shape)),
            Source::Sealed(sealed) if sealed.column(ordinal).is_none_or(|column| column.rows.is_empty()) => {
                Ok(ValueReader::Absent)
            }
            Source::Sealed(sealed) => {
                let entry = sealed.files.header.file(sealed.dir(), &vectors_name(ordinal, shape))?;
                let path = entry.path(sealed.dir());
                let file = fs::open(&path).map_err(|error| Fault::io(&path, &error))?;
                let (crc, block) = (crc32fast::Hasher::new(), Vec::new());
                let reader = FileReader { sealed, ordinal, entry, file, path, crc, block, first: 0 };
                Ok(ValueReader::Sealed(reader))
            }
        }
    }

    /// No more are read: refuses them all if the file was read wrong.
    fn finish(self) -> Result<(), Fault> {
        match self {
            ValueReader::Absent | ValueReader::Frozen(..) => Ok(()),
            ValueReader::Sealed(reader) => reader.finish(),
        }
    }

    fn read(&mut self, row: u32) -> Result<Option<(&[f32], f32)>, Fault> {
        match self {
            ValueReader::Absent => Ok(None),
            ValueReader::Frozen(chunks, ordinal, shape) => {
                Ok(chunks.place(row).and_then(|(chunk, local)| {
                    let column = chunk.column(*ordinal, shape)?;
                    let slot = column.slot(local)?;
                    Some((column.words(slot), column.norm(slot)))
                }))
            }
            ValueReader::Sealed(reader) => reader.read(row),
        }
    }
}

impl FileReader<'_> {
    fn read(&mut self, row: u32) -> Result<Option<(&[f32], f32)>, Fault> {
        let Some(column) = self.sealed.column(self.ordinal) else { return Ok(None) };
        let Some(slot) = column.slot(row) else { return Ok(None) };
        let dims = column.rows.dims();
        let (start, end) = match column.ends {
            Some(ends) => Lists::known(column.rows, ends).bounds(slot),
            None => (slot, slot + 1),
        };
        let (start, end) = (start as usize * dims, end as usize * dims);
        while end > self.read_to() {
            // What lies before the row is not asked for again: rows ascend.
            let passed = start.saturating_sub(self.first).min(self.block.len());
            self.block.drain(..passed);
            self.first += passed;
            if self.read_block()? == 0 {
                return Err(Fault::damaged(
                    &self.path,
                    self.read_to() as u64 * 4,
                    "it ends before its last row",
                ));
            }
        }
        let words = self.block.get(start - self.first..end - self.first);
        Ok(words.map(|words| (words, column.norm(slot))))
    }

    /// The word up to which the file was read.
    fn read_to(&self) -> usize {
        self.first + self.block.len()
    }

    /// Reads on; returns how many words.
    fn read_block(&mut self) -> Result<usize, Fault> {
        let (at, kept) = (self.read_to() as u64 * 4, self.block.len());
        let left = self.entry.len.saturating_sub(at) / 4;
        let words = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK / 4);
        self.block.resize(kept + words, 0.0);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.block[kept..]);
        self.file.read_exact_at(bytes, at).map_err(|error| Fault::io(&self.path, &error))?;
        self.crc.update(bytes);
        Ok(words)
    }

    /// Reads what is left, and compares.
    fn finish(mut self) -> Result<(), Fault> {
        loop {
            self.first = self.read_to();
            self.block.clear();
            if self.read_block()? == 0 {
                return self.entry.same_crc(&self.path, self.crc.finalize());
            }
        }
    }
}

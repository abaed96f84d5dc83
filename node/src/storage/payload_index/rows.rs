//! The payloads of a segment by row, each for itself: to read few of them costs few.
//!
//! Records of a collection have mostly the same fields, so their names stand once: a payload tells its *shape*, the names of its fields
//! in their order, and holds the values alone. One of [`PRESSED_FROM`] bytes or more is compressed if that makes it smaller.
//!
//! The file `rows` holds the payloads one after the other; where each ends (u32, from the start of its group of [`GROUP`] rows);
//! where each group starts (u64); the shapes; and the [`Foot`]. A payload has its CRC-32 before it, against which it is held each time it is
//! read, and begins with a byte:
//!
//! | byte | what follows |
//! |---|---|
//! | 0 | the stored payload as it is |
//! | 1 | the number of its shape, its values |
//! | 2 | the number of its shape, when it expires (8 bytes), its values |
//! | 3, 4 | how long it is uncompressed, and one of the above in LZ4, in zstd |
//!
//! tantivy's store of documents compresses them by the block, and finds a block by leaps through a list of them. 2026-11-23, 4,100
//! scattered rows of 120 bytes, in a profile of the whole call: two fifths of the time to find blocks, to decompress what else
//! lies in them, and to allocate for that; and the names, in every row, took more room than the compression saved. See
//! `benches/results/2026-11-23-records-3.txt`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use flotilla_proto::limits::PAYLOAD_BYTES_MAX;
use flotilla_proto::stored::{self, Garbled};
use tantivy::directory::{TerminatingWrite as _, WritePtr};
use tantivy::{Directory as _, HasLen as _};

use super::super::row::split_expiry;
use super::super::{Compression, Fault};
use super::directory::{Folder, Mapped};
use super::{damaged, io_fault};
use crate::index::distance::prefetch::prefetch;

/// Name of the file.
pub(super) const ROWS: &str = "rows";
/// Rows that are counted together.
const GROUP: usize = 256;
/// Shapes that a segment knows; payloads of others keep their names.
const SHAPES_MAX: usize = 1_024;
/// Bytes of a payload from which on it is compressed.
const PRESSED_FROM: usize = 256;
/// Bytes that a payload may have uncompressed: what is admitted, and its expiry and marks.
const UNPRESSED_MAX: usize = PAYLOAD_BYTES_MAX + 64;

/// Cache lines of a payload that are asked for ahead.
const LINES_AHEAD: usize = 3;

const WHOLE: u8 = 0;
const SHAPED: u8 = 1;
const EXPIRING: u8 = 2;
const LZ4: u8 = 3;
const ZSTD: u8 = 4;

/// The end of the file: lengths in bytes of the parts before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Foot {
    payloads: u64,
    rows: u64,
    shapes: u64,
}

const FOOT_BYTES: usize = 24;

impl Foot {
    fn to_bytes(self) -> [u8; FOOT_BYTES] {
        let mut bytes = [0; FOOT_BYTES];
        for (part, word) in bytes.chunks_exact_mut(8).zip([self.payloads, self.rows, self.shapes]) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn of(bytes: &[u8]) -> Option<Foot> {
        let (words, []) = bytes.as_chunks::<8>() else { return None };
        let [payloads, rows, shapes] = words else { return None };
        let [payloads, rows, shapes] = [payloads, rows, shapes].map(|word| u64::from_le_bytes(*word));
        Some(Foot { payloads, rows, shapes })
    }
}

/// The names of the fields of a payload, in order: the stored payload without the values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shape {
    /// Their number, as it is stored.
    count: Vec<u8>,
    /// Each with its length before it.
    names: Vec<Vec<u8>>,
    bytes: usize,
}

impl Shape {
    /// Of names one behind the other, each with its length before it, behind their number.
    fn of(key: &[u8]) -> Result<Shape, Garbled> {
        let mut at = key;
        let mut cut = |read: &mut dyn FnMut(&mut &[u8]) -> Result<u64, Garbled>| {
            let before = at;
            let read = read(&mut at)?;
            Ok::<_, Garbled>((read, before[..before.len() - at.len()].to_vec()))
        };
        let (fields, count) = cut(&mut stored::varint)?;
        let mut shape = Shape { count, names: Vec::new(), bytes: key.len() };
        for _ in 0..fields {
            shape.names.push(cut(&mut |at| stored::text(at).map(|_| 0))?.1);
        }
        if at.is_empty() { Ok(shape) } else { Err(Garbled) }
    }
}

/// Writes the file, row by row.
pub(super) struct Writer {
    folder: Folder,
    path: PathBuf,
    out: WritePtr,
    compression: Compression,
    /// Of zstd, if that is how.
    zstd: Option<zstd::bulk::Compressor<'static>>,
    payloads: u64,
    ends: Vec<u32>,
    groups: Vec<u64>,
    numbers: HashMap<Vec<u8>, u32>,
    shapes: Vec<Vec<u8>>,
    /// The names of a payload, and its values; what is written of it.
    key: Vec<u8>,
    values: Vec<u8>,
    packed: Vec<u8>,
    pressed: Vec<u8>,
}

impl Writer {
    /// Begins the file in a folder.
    pub fn create(dir: &Path, compression: Compression) -> Result<Writer, Fault> {
        let folder = Folder::built(dir);
        let out = folder.open_write(Path::new(ROWS)).map_err(|error| folder.fault(error.into()))?;
        let zstd = match compression {
            Compression::Zstd(level) => Some(zstd::bulk::Compressor::new(level.clamp(1, 22))),
            Compression::None | Compression::Lz4 => None,
        };
        let zstd = zstd.transpose().map_err(|error| io_fault(dir, &error))?;
        Ok(Writer {
            path: dir.join(ROWS),
            folder,
            out,
            compression,
            zstd,
            payloads: 0,
            ends: Vec::new(),
            groups: Vec::new(),
            numbers: HashMap::new(),
            shapes: Vec::new(),
            key: Vec::new(),
            values: Vec::new(),
            packed: Vec::new(),
            pressed: Vec::new(),
        })
    }

    /// Adds the payload of the next row, as it is stored.
    pub fn add(&mut self, payload: &[u8]) -> Result<(), Fault> {
        self.pack(payload);
        self.press();
        if self.ends.len().is_multiple_of(GROUP) {
            self.groups.push(self.payloads);
        }
        let taken = if self.pressed.is_empty() { &self.packed } else { &self.pressed };
        let sum = crc32fast::hash(taken).to_le_bytes();
        self.payloads += (sum.len() + taken.len()) as u64;
        let start = self.groups.last().copied().unwrap_or_default();
        let end = u32::try_from(self.payloads - start);
        self.ends.push(end.map_err(|_| damaged(&self.path, "a group of rows is too large".into()))?);
        let written = self.out.write_all(&sum).and_then(|()| self.out.write_all(taken));
        written.map_err(|error| self.folder.fault(error.into()))
    }

    fn pack(&mut self, payload: &[u8]) {
        self.packed.clear();
        if self.shape(payload).is_err() {
            self.packed.push(WHOLE);
            self.packed.extend_from_slice(payload);
        }
    }

    /// Packs a payload without its names; refuses one of a shape too many, and what is none.
    fn shape(&mut self, payload: &[u8]) -> Result<(), Garbled> {
        let (expires, mut at) = split_expiry(payload);
        self.key.clear();
        self.values.clear();
        let copy = |to: &mut Vec<u8>, before: &[u8], at: &[u8]| {
            to.extend_from_slice(&before[..before.len() - at.len()]);
        };
        let before = at;
        let fields = stored::varint(&mut at)?;
        copy(&mut self.key, before, at);
        for _ in 0..fields {
            let before = at;
            stored::text(&mut at)?;
            copy(&mut self.key, before, at);
            let before = at;
            stored::step_over(&mut at)?;
            copy(&mut self.values, before, at);
        }
        if !at.is_empty() {
            return Err(Garbled);
        }
        let number = match self.numbers.get(&self.key) {
            Some(number) => *number,
            None if self.shapes.len() < SHAPES_MAX => {
                let number = self.shapes.len() as u32;
                self.numbers.insert(self.key.clone(), number);
                self.shapes.push(self.key.clone());
                number
            }
            None => return Err(Garbled),
        };
        self.packed.push(if expires.is_some() { EXPIRING } else { SHAPED });
        push_varint(&mut self.packed, u64::from(number));
        if let Some(when) = expires {
            self.packed.extend_from_slice(&when.to_le_bytes());
        }
        self.packed.extend_from_slice(&self.values);
        Ok(())
    }

    /// Compresses what is packed; to nothing if that does not make it smaller.
    fn press(&mut self) {
        let Writer { packed, pressed, compression, zstd, .. } = self;
        pressed.clear();
        let is_pressed = (PRESSED_FROM..=UNPRESSED_MAX).contains(&packed.len());
        if !is_pressed || *compression == Compression::None {
            return;
        }
        pressed.push(if zstd.is_some() { ZSTD } else { LZ4 });
        push_varint(pressed, packed.len() as u64);
        let head = pressed.len();
        // LZ4 wants room for the worst; what zstd cannot fit is not smaller.
        pressed.resize(head + lz4_flex::block::get_maximum_output_size(packed.len()), 0);
        let room = &mut pressed[head..];
        let len = match zstd {
            Some(zstd) => zstd.compress_to_buffer(packed, room).ok(),
            None => lz4_flex::block::compress_into(packed, room).ok(),
        };
        match len {
            Some(len) if head + len < packed.len() => pressed.truncate(head + len),
            _ => pressed.clear(),
        }
    }

    /// Writes the rest of the file. It is synced with its folder.
    pub fn finish(mut self) -> Result<(), Fault> {
        let mut shapes = Vec::new();
        for key in &self.shapes {
            push_varint(&mut shapes, key.len() as u64);
            shapes.extend_from_slice(key);
        }
        let foot =
            Foot { payloads: self.payloads, rows: self.ends.len() as u64, shapes: shapes.len() as u64 };
        let parts =
            [bytemuck::cast_slice(&self.ends), bytemuck::cast_slice(&self.groups), &shapes, &foot.to_bytes()];
        let written = parts.iter().try_for_each(|part| self.out.write_all(part));
        written.and_then(|()| self.out.terminate()).map_err(|error| self.folder.fault(error.into()))
    }
}

fn push_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// The payloads of a sealed segment.
#[derive(Debug)]
pub(super) struct Rows {
    path: PathBuf,
    file: Mapped,
    payloads: usize,
    rows: usize,
    groups: Vec<u64>,
    shapes: Vec<Shape>,
}

impl Rows {
    /// Opens the file of a sealed folder, and reads where its groups start, and its shapes.
    pub fn open(dir: &Path, folder: &Folder, rows: u32) -> Result<Rows, Fault> {
        let path = dir.join(ROWS);
        let file = folder.map(Path::new(ROWS)).map_err(|error| folder.fault(error.into()))?;
        let wrong = |what: &str| damaged(&path, what.to_owned());
        let read = |range| file.read(range).map_err(|error| io_fault(&path, &error));
        let Some(foot_at) = file.len().checked_sub(FOOT_BYTES) else {
            return Err(wrong("it is too short for its end"));
        };
        let foot = Foot::of(read(foot_at..file.len())?).ok_or_else(|| wrong("it has no end"))?;
        if foot.rows != u64::from(rows) {
            return Err(wrong(&format!("it holds {} rows, the manifest says {rows}", foot.rows)));
        }
        let rows = rows as usize;
        let groups = rows.div_ceil(GROUP);
        let at = |bytes: u64| usize::try_from(bytes).ok();
        let parts = at(foot.payloads).zip(at(foot.shapes)).and_then(|(payloads, shapes)| {
            let groups_at = payloads.checked_add(rows * 4)?;
            let shapes_at = groups_at.checked_add(groups * 8)?;
            (shapes_at.checked_add(shapes)? == foot_at).then_some((payloads, groups_at, shapes_at))
        });
        let Some((payloads, groups_at, shapes_at)) = parts else {
            return Err(wrong("its parts are not as long as the file"));
        };
        let groups = read(groups_at..shapes_at)?;
        let groups = groups.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let known = read(shapes_at..foot_at)?;
        let shapes = shapes_of(known).map_err(|_| wrong("its shapes do not decode"))?;
        Ok(Rows { path, file, payloads, rows, groups, shapes })
    }

    /// Adds the payload of a row, as it was handed to [`Writer::add`].
    pub fn read(&self, row: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
        let wrong = || damaged(&self.path, format!("the payload of row {row} is none"));
        let range = self.range(row as usize)?.ok_or_else(wrong)?;
        let (sum, packed) = self.bytes(range)?.split_first_chunk::<4>().ok_or_else(wrong)?;
        if crc32fast::hash(packed) != u32::from_le_bytes(*sum) {
            return Err(damaged(
                &self.path,
                format!("the checksum of the payload of row {row} does not match"),
            ));
        }
        match packed.split_first() {
            Some((&kind @ (LZ4 | ZSTD), mut at)) => {
                let len = stored::varint(&mut at).ok().and_then(|len| usize::try_from(len).ok());
                let len = len.filter(|len| *len <= UNPRESSED_MAX).ok_or_else(wrong)?;
                let unpressed = unpress(kind, at, len).ok_or_else(wrong)?;
                self.unpack(&unpressed, out).map_err(|_| wrong())
            }
            _ => self.unpack(packed, out).map_err(|_| wrong()),
        }
    }

    /// Asks the memory for where the row's payload lies, or for the payload.
    pub fn prefetch(&self, row: u32, is_placed: bool) {
        let row = row as usize;
        let at = self.payloads + row * 4;
        if !is_placed {
            return prefetch(self.file.peek(at), 1);
        }
        let before = if row.is_multiple_of(GROUP) { &[] } else { self.file.peek(at - 4) };
        let end = before.first_chunk::<4>().map_or(0, |word| u64::from(u32::from_le_bytes(*word)));
        let start = self.groups.get(row / GROUP).copied().unwrap_or(u64::MAX).saturating_add(end);
        prefetch(self.file.peek(usize::try_from(start).unwrap_or(usize::MAX)), LINES_AHEAD);
    }

    /// Where the row's payload lies; none where its place cannot be.
    fn range(&self, row: usize) -> Result<Option<Range<usize>>, Fault> {
        let Some(group) = self.groups.get(row / GROUP).copied().filter(|_| row < self.rows) else {
            return Ok(None);
        };
        let first = row.is_multiple_of(GROUP);
        let at = self.payloads + row * 4;
        let ends = self.bytes(if first { at } else { at - 4 }..at + 4)?;
        let (words, _) = ends.as_chunks::<4>();
        let place = |word: Option<&[u8; 4]>| {
            let word = word.map_or(0, |word| u64::from(u32::from_le_bytes(*word)));
            usize::try_from(group.saturating_add(word)).ok().filter(|at| *at <= self.payloads)
        };
        let start = place(words.first().filter(|_| !first));
        Ok(start
            .zip(place(words.last()))
            .map(|(start, end)| start..end)
            .filter(|range| range.start <= range.end))
    }

    fn bytes(&self, range: Range<usize>) -> Result<&[u8], Fault> {
        self.file.read(range).map_err(|error| io_fault(&self.path, &error))
    }

    fn unpack(&self, packed: &[u8], out: &mut Vec<u8>) -> Result<(), Garbled> {
        let (kind, mut at) = packed.split_first().ok_or(Garbled)?;
        if *kind == WHOLE {
            out.extend_from_slice(at);
            return Ok(());
        }
        if *kind != SHAPED && *kind != EXPIRING {
            return Err(Garbled);
        }
        let number = usize::try_from(stored::varint(&mut at)?).map_err(|_| Garbled)?;
        let shape = self.shapes.get(number).ok_or(Garbled)?;
        out.reserve(shape.bytes + at.len() + 10);
        if *kind == EXPIRING {
            let (when, rest) = at.split_first_chunk::<8>().ok_or(Garbled)?;
            super::super::row::push_expiry(u64::from_le_bytes(*when), out);
            at = rest;
        }
        out.extend_from_slice(&shape.count);
        for name in &shape.names {
            out.extend_from_slice(name);
            let before = at;
            stored::step_over(&mut at)?;
            out.extend_from_slice(&before[..before.len() - at.len()]);
        }
        if at.is_empty() { Ok(()) } else { Err(Garbled) }
    }
}

fn shapes_of(mut at: &[u8]) -> Result<Vec<Shape>, Garbled> {
    let mut shapes = Vec::new();
    while !at.is_empty() {
        let len = usize::try_from(stored::varint(&mut at)?).map_err(|_| Garbled)?;
        let (key, rest) = at.split_at_checked(len).ok_or(Garbled)?;
        shapes.push(Shape::of(key)?);
        at = rest;
    }
    Ok(shapes)
}

fn unpress(kind: u8, at: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; len];
    let read = match kind {
        LZ4 => lz4_flex::block::decompress_into(at, &mut out).ok(),
        _ => with_zstd(|zstd| zstd.decompress_to_buffer(at, &mut out)).ok(),
    };
    (read == Some(len)).then_some(out)
}

/// With what decompresses in this thread: to make it costs more than most payloads do.
fn with_zstd<T>(work: impl FnOnce(&mut zstd::bulk::Decompressor<'static>) -> io::Result<T>) -> io::Result<T> {
    thread_local! {
        static KEPT: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    }
    KEPT.with_borrow_mut(|kept| {
        let one = match kept.take() {
            Some(one) => one,
            None => zstd::bulk::Decompressor::new()?,
        };
        work(kept.insert(one))
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use flotilla_proto::record::{Payload, Value};

    use super::super::checks::Checks;
    use super::*;
    use crate::storage::row::{encode_expiring, encode_payload};
    use crate::storage::sample;

    const WAYS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd(3)];

    fn written(dir: &Path, compression: Compression, payloads: &[Bytes]) {
        let mut writer = Writer::create(dir, compression).unwrap();
        payloads.iter().for_each(|payload| writer.add(payload).unwrap());
        writer.finish().unwrap();
        Checks::seal(dir).unwrap();
    }

    impl Rows {
        fn get(&self, row: u32) -> Result<Bytes, Fault> {
            let mut payload = Vec::new();
            self.read(row, &mut payload).map(|()| payload.into())
        }
    }

    fn opened(dir: &Path, rows: usize) -> Result<Rows, Fault> {
        Rows::open(dir, &Folder::sealed(dir, Checks::open(dir)?), rows as u32)
    }

    fn payloads(count: usize) -> Vec<Bytes> {
        let mut dice = sample::Dice::new(5);
        let long =
            |n: usize| Payload::from([("long".to_owned(), Value::from("lorem ipsum ".repeat(n).as_str()))]);
        let payload = |n: usize| match n % 7 {
            0 => encode_expiring(&sample::payload(&mut dice), Some(n as u64)).unwrap(),
            1 => encode_payload(&long(n)).unwrap(),
            2 => encode_expiring(&Payload::new(), (n.is_multiple_of(2)).then_some(u64::MAX)).unwrap(),
            _ => encode_payload(&sample::payload(&mut dice)).unwrap(),
        };
        (0..count).map(payload).collect()
    }

    #[test]
    fn every_payload_comes_back_to_the_bit() {
        for compression in WAYS {
            for rows in [0, 1, GROUP, 2 * GROUP + 3] {
                let dir = tempfile::tempdir().unwrap();
                let payloads = payloads(rows);
                written(dir.path(), compression, &payloads);
                let opened = opened(dir.path(), rows).unwrap();
                for (row, payload) in payloads.iter().enumerate() {
                    assert_eq!(opened.get(row as u32).unwrap(), payload, "row {row}, {compression:?}");
                }
                assert!(opened.get(rows as u32).is_err() && opened.get(u32::MAX).is_err());
            }
        }
    }

    #[test]
    fn names_stand_once_and_what_is_long_is_compressed() {
        let record = |n: usize| Payload::from([("a_name_of_a_field".to_owned(), Value::from(n as i64))]);
        let short: Vec<Bytes> = (0..1_000).map(|n| encode_payload(&record(n)).unwrap()).collect();
        let long =
            [encode_payload(&Payload::from([("text".to_owned(), "x".repeat(5_000).as_str().into())]))
                .unwrap()];
        let size = |compression, payloads: &[Bytes]| {
            let dir = tempfile::tempdir().unwrap();
            written(dir.path(), compression, payloads);
            std::fs::metadata(dir.path().join(ROWS)).unwrap().len()
        };
        assert!(size(Compression::None, &short) < 1_000 * 14);
        assert!(size(Compression::None, &long) > 5_000);
        assert!(size(Compression::Lz4, &long) < 200 && size(Compression::Zstd(19), &long) < 200);
    }

    #[test]
    fn payloads_of_more_shapes_than_are_known_keep_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let of = |n: usize| Payload::from([(format!("field {n}"), Value::from(n as i64))]);
        let mut payloads: Vec<Bytes> = (0..SHAPES_MAX + 9).map(|n| encode_payload(&of(n)).unwrap()).collect();
        // What is no payload as well.
        payloads.extend([
            Bytes::from_static(b""),
            Bytes::from_static(&[3, 200]),
            Bytes::from_static(&[0x80, 0x00]),
        ]);
        written(dir.path(), Compression::Lz4, &payloads);
        let opened = opened(dir.path(), payloads.len()).unwrap();
        assert_eq!(opened.shapes.len(), SHAPES_MAX);
        for (row, payload) in payloads.iter().enumerate() {
            assert_eq!(opened.get(row as u32).unwrap(), payload);
        }
    }

    #[test]
    fn damage_is_told_or_changes_nothing_and_checksums_that_fit_it_do_not_make_it_panic() {
        let payloads = payloads(40);
        for compression in WAYS {
            let dir = tempfile::tempdir().unwrap();
            written(dir.path(), compression, &payloads);
            let path = dir.path().join(ROWS);
            let whole = std::fs::read(&path).unwrap();
            for at in (0..whole.len()).step_by(17).chain(whole.len() - FOOT_BYTES..whole.len()) {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x41;
                // Not in place: what was opened is mapped.
                std::fs::remove_file(&path).unwrap();
                std::fs::write(&path, &damaged).unwrap();
                let read =
                    |rows: Rows| (0..40).map(|row| rows.get(row)).collect::<Result<Vec<Bytes>, Fault>>();
                assert!(opened(dir.path(), 40).and_then(read).is_err(), "byte {at}");
                Checks::seal(dir.path()).unwrap();
                let _ = opened(dir.path(), 40).and_then(read);
                std::fs::write(&path, &whole).unwrap();
                Checks::seal(dir.path()).unwrap();
            }
            assert!(opened(dir.path(), 41).is_err());
        }
    }
}

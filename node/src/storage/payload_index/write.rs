//! Writing a payload index: streaming, with bounded memory, durable at the end.
//!
//! tantivy's single-segment writer holds terms and column values in memory until it is finished. To bound that, rows go to
//! *parts* of limited size, each an index of its own in a folder of its own, and the parts are merged at the end, which
//! streams. A segment that fits in one part is not merged: its files move up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flotilla_proto::geo::reach_points;
use flotilla_proto::record::{Payload, reach};
use flotilla_proto::schema::FieldType;
use tantivy::index::{IndexBuilder, IndexSettings};
use tantivy::indexer::merge_indices;
use tantivy::schema::Field;
use tantivy::store::{Compressor, ZstdCompressor};
use tantivy::{Index, SingleSegmentIndexWriter, TantivyDocument};

use super::super::row::decode_payload;
use super::super::{Compression, Fault};
use super::checks::Checks;
use super::directory::Folder;
use super::fields::{Cell, Declared, Layout, has_long_run};
use super::stems::analyzers;
use super::{damaged, io_fault, rows};
use crate::env::fs;

/// Memory that a part may take before the next one is begun.
const PART_BYTES_MAX: usize = 24 << 20;
/// What tantivy sizes its first hash table by.
const WRITER_BYTES: usize = 3 << 20;
/// The writer is asked for its size once in this many bytes of payload.
const ASK_EVERY_BYTES: usize = 64 << 10;

/// Writes the payload index of a segment to the empty folder `dir`: row by row, the payloads (as [`super::PayloadIndex::
/// payload_bytes`] gives them back) and what answers conditions on `fields`. Everything is durable when it returns, but
/// for the folder's own name.
///
/// # Errors
/// The first error of `payloads`, a payload that does not decode, or what the file system refused. The folder is then of
/// no use.
pub fn write(
    dir: &Path,
    fields: &BTreeMap<String, FieldType>,
    compression: Compression,
    payloads: &mut dyn Iterator<Item = Result<Bytes, Fault>>,
) -> Result<(), Fault> {
    write_parts(dir, (fields, compression), payloads, PART_BYTES_MAX)
}

/// [`write`] with parts of this many bytes.
pub(super) fn write_parts(
    dir: &Path,
    (fields, compression): (&BTreeMap<String, FieldType>, Compression),
    payloads: &mut dyn Iterator<Item = Result<Bytes, Fault>>,
    part_bytes_max: usize,
) -> Result<(), Fault> {
    fs::create_dir_all(dir).map_err(|error| io_fault(dir, &error))?;
    let layout = Layout::new(fields);
    let mut parts = Parts { dir, layout: &layout, sealed: vec![] };
    let mut part = parts.begin()?;
    let mut rows = rows::Writer::create(dir, compression)?;
    for (row, payload) in payloads.enumerate() {
        let payload = payload?;
        rows.add(&payload)?;
        part.add(row, &payload)?;
        if part.is_full(part_bytes_max) {
            parts.end(part)?;
            part = parts.begin()?;
        }
    }
    parts.end(part)?;
    parts.join()?;
    rows.finish()?;
    Checks::seal(dir)
}

struct Parts<'a> {
    dir: &'a Path,
    layout: &'a Layout,
    sealed: Vec<(PathBuf, Index)>,
}

impl<'a> Parts<'a> {
    fn begin(&self) -> Result<Part<'a>, Fault> {
        let dir = self.dir.join(format!("part-{}", self.sealed.len()));
        fs::create_dir_all(&dir).map_err(|error| io_fault(&dir, &error))?;
        let folder = Folder::built(&dir);
        let settings = IndexSettings {
            // Nothing is stored, and it still counts rows: payloads have a file of their own.
            docstore_compression: Compressor::Zstd(ZstdCompressor { compression_level: Some(1) }),
            docstore_compress_dedicated_thread: false,
            ..IndexSettings::default()
        };
        let writer = IndexBuilder::new()
            .schema(self.layout.schema.clone())
            .settings(settings)
            .tokenizers(analyzers())
            .single_segment_index_writer(folder.clone(), WRITER_BYTES)
            .map_err(|error| folder.fault(error))?;
        Ok(Part { dir, folder, layout: self.layout, writer, unasked: 0, used: 0 })
    }

    fn end(&mut self, part: Part<'_>) -> Result<(), Fault> {
        let Part { dir, folder, writer, .. } = part;
        let index = writer.finalize().map_err(|error| folder.fault(error))?;
        self.sealed.push((dir, index));
        Ok(())
    }

    /// Makes one index of the parts, in the folder itself.
    fn join(self) -> Result<(), Fault> {
        if let [(part, _)] = self.sealed.as_slice() {
            let io = |error| io_fault(part, &error);
            for name in fs::read_dir(part).map_err(io)? {
                fs::rename(&part.join(&name), &self.dir.join(&name)).map_err(io)?;
            }
        } else {
            let indices: Vec<Index> = self.sealed.iter().map(|(_, index)| index.clone()).collect();
            let folder = Folder::built(self.dir);
            merge_indices(&indices, folder.clone()).map_err(|error| folder.fault(error))?;
        }
        for (part, _) in self.sealed {
            fs::remove_dir_all(&part).map_err(|error| io_fault(&part, &error))?;
        }
        Ok(())
    }
}

struct Part<'a> {
    dir: PathBuf,
    folder: Folder,
    layout: &'a Layout,
    writer: SingleSegmentIndexWriter,
    unasked: usize,
    used: usize,
}

impl Part<'_> {
    fn add(&mut self, row: usize, bytes: &[u8]) -> Result<(), Fault> {
        let payload = decode_payload(bytes).map_err(|error| {
            damaged(&self.dir, format!("the payload of row {row} does not decode: {error}"))
        })?;
        let mut document = TantivyDocument::new();
        for declared in self.layout.declared.values() {
            add_field(&mut document, self.layout, declared, &payload);
        }
        self.unasked += 64 + bytes.len();
        self.writer.add_document(document).map_err(|error| self.folder.fault(error))
    }

    fn is_full(&mut self, bytes_max: usize) -> bool {
        if self.unasked >= ASK_EVERY_BYTES.min(bytes_max) {
            self.unasked = 0;
            self.used = self.writer.mem_usage();
        }
        self.used >= bytes_max
    }
}

fn add_field(document: &mut TantivyDocument, layout: &Layout, declared: &Declared, payload: &Payload) {
    let (mut exists, mut is_odd, mut is_long, mut texts) = (false, false, false, 0_u32);
    reach(payload, &declared.path, &mut |value| {
        exists = true;
        // What is at the end of a path to points is read as points, all at once.
        if declared.lon.is_some() {
            return false;
        }
        match Cell::of(declared.kind, value) {
            Cell::Text(text) => {
                is_long |= declared.kind == FieldType::Text && has_long_run(text);
                texts += u32::from(matches!(declared.kind, FieldType::Text | FieldType::TextIn(_)));
                document.add_text(declared.field, text);
            }
            Cell::Term(term) => document.add_text(declared.field, term),
            Cell::Whole(whole) => document.add_i64(declared.field, whole),
            Cell::Float(float) => document.add_f64(declared.field, float),
            Cell::Truth(truth) => document.add_bool(declared.field, truth),
            Cell::Odd => is_odd = true,
        }
        false
    });
    if let Some((_, lon)) = &declared.lon {
        add_points(document, declared, *lon, payload);
    }
    let marks = [
        (Some(layout.exists), exists),
        (Some(layout.odd), is_odd),
        (layout.long, is_long),
        (layout.several, texts > 1),
    ];
    for (field, is_marked) in marks {
        if let Some(field) = field.filter(|_| is_marked) {
            document.add_u64(field, declared.ordinal);
        }
    }
}

/// Adds the points that a path reaches; what is none is not in the index.
fn add_points(document: &mut TantivyDocument, declared: &Declared, lon: Field, payload: &Payload) {
    reach_points(payload, &declared.path, &mut |point| {
        if let Ok(point) = point {
            document.add_f64(declared.field, point.lat());
            document.add_f64(lon, point.lon());
        }
        false
    });
}

//! A sealed segment: an immutable folder, read through memory maps.
//!
//! ```text
//! seg-<number>/
//!   SEGMENT               what it is; length and CRC-32 of each file below (written last)
//!   keys  bloom           the keys by row and by key; which keys it surely lacks
//!   versions              the rows' versions, u64
//!   expiries              when each row expires, u64, milliseconds since 1970 or 0; where any does
//!   vectors.<o>.<type>    the values of the vector with ordinal <o>, slot by slot; <type> is f32, f16, i8 or bit
//!   ends.<o>              where each slot's values end, of a sparse vector or one that is several
//!   inverted.<o>          of a sparse vector: which slots have each index, and with what value
//!   rows.<o>  norms.<o>   the row of each slot, where rows lack the vector; former lengths, where any was scaled
//!   sums.<o>              the checksum of each slot's values and length
//!   payload/              the payload index
//!   graph.<o>             the graph over the slots, with codes where the collection wants them, once it was built
//! ```
//!
//! **Graphs come second.** A segment is durable and searchable (by scanning) before it has graphs. A graph is one more
//! file, written beside the others and then named, with its checksum, in the manifest; a graph file that no manifest
//! names is not read. A graph holds nothing that the rows do not: one that turns out damaged is left out and built again.
//!
//! **What opening checks.** The header's checksum, every file's length, and every byte of all files but the vectors and
//! the payload index, which are checked by [`Sealed::verify`]. Offsets read from a map are checked where they are used. What
//! is handed out or copied of the payload index and the vectors is held against a checksum of its own each time.
//!
//! The one thing that changes is in memory: when each row was deleted.

mod bloom;
mod draft;
mod expiring;
mod file;
mod header;
mod keys;
mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use flotilla_proto::ids::LogIndex;
use flotilla_proto::schema::{FieldType, Form};
use serde::{Deserialize, Serialize};

pub(super) use draft::{Draft, Plan, Source};
pub(super) use file::Entry;
#[cfg(any(test, feature = "fuzz"))]
pub(super) use header::KIND as HEADER_KIND;
pub(super) use header::{HEADER, Header};

use super::Fault;
use super::column::Column;
use super::matching::Filters;
use super::payload_index::PayloadIndex;
use super::shape::Shapes;
use super::{Soon, vectors};
use crate::env::fs;
use crate::env::mmap::{Advice, Mmap};
use crate::index::distance::prefetch::prefetch;
use crate::index::vector_cache::{VectorCache, VectorFile};
use crate::index::{AnyIndex, Damage, Inverted, Lists, Progress, Rows, VectorIndex};
use expiring::{EXPIRIES, Expiring};
use file::cast;
use keys::Keys;
use view::SealedView;

const PAYLOAD_DIR: &str = "payload";

fn payload_dir(dir: &Path) -> PathBuf {
    dir.join(PAYLOAD_DIR)
}

/// Whether a file of the folder is a graph, finished or not.
pub(super) fn is_graph_file(name: &str) -> bool {
    name.starts_with("graph.")
}

/// A graph as the manifest knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GraphEntry {
    /// Of which vector.
    pub ordinal: u16,
    /// Its file.
    pub file: Entry,
}

/// What of a segment lies in files.
#[derive(Debug)]
struct Files {
    dir: PathBuf,
    header: Header,
    keys: Keys,
    versions: Mmap,
    expiring: Option<Expiring>,
    columns: Vec<Mapped>,
    payloads: PayloadIndex,
}

#[derive(Debug)]
struct Mapped {
    values: Arc<Mmap>,
    /// If searches read a few scattered ones of them.
    on_disk: Option<VectorFile>,
    map: Option<Mmap>,
    norms: Option<Mmap>,
    ends: Option<Mmap>,
    sums: Option<Mmap>,
    inverted: Option<Inverted>,
}

/// A sealed segment. Cheap to copy with another set of graphs: files and marks are shared.
#[derive(Debug)]
pub(super) struct Sealed {
    files: Arc<Files>,
    graphs: Vec<Option<(GraphEntry, AnyIndex)>>,
    deleted_at: Arc<[AtomicU64]>,
    dead: Arc<AtomicU32>,
    filters: Filters,
}

impl Sealed {
    /// Opens the folder. Graphs that do not open are left out.
    pub fn open(dir: &Path, shapes: &Shapes, graphs: &[GraphEntry]) -> Result<Sealed, Fault> {
        let header = Header::read(dir)?;
        if header.shapes.len() != shapes.len()
            || header.shapes.iter().zip(&**shapes).any(|(a, b)| !a.is_like(b))
        {
            return Err(Fault::damaged(dir.join(HEADER), 0, "its vectors are not the collection's"));
        }
        header.files.iter().try_for_each(|entry| entry.check_len(dir))?;
        let bloom = header.file(dir, keys::BLOOM)?;
        let keys = Keys::open(dir, header.rows, header.file(dir, keys::KEYS)?, bloom)?;
        let versions = header.file(dir, header::VERSIONS)?.map_checked(dir)?;
        if versions.len() != header.rows as usize * 8 {
            return Err(Fault::damaged(dir.join(header::VERSIONS), 0, "as many versions as rows are due"));
        }
        let expiring = match header.file(dir, EXPIRIES) {
            Ok(entry) => Some(Expiring::open(dir, entry.map_checked(dir)?, header.rows)?),
            Err(_) => None,
        };
        let columns = (0..header.columns.len()).map(|ordinal| Mapped::open(dir, &header, ordinal));
        let columns = columns.collect::<Result<_, _>>()?;
        let payloads = PayloadIndex::open(&payload_dir(dir), &header.fields, header.rows)?;
        let deleted_at = (0..header.rows).map(|_| AtomicU64::new(0)).collect();
        let files =
            Arc::new(Files { dir: dir.to_owned(), header, keys, versions, expiring, columns, payloads });
        let filters = Filters::new(files.header.rows, shapes.len());
        let mut sealed = Sealed { files, graphs: Vec::new(), deleted_at, dead: Arc::default(), filters };
        sealed.graphs = (0..shapes.len()).map(|_| None).collect();
        for entry in graphs {
            sealed.adopt(entry);
        }
        Ok(sealed)
    }

    /// The same segment with `graphs` in addition.
    pub fn with_graphs(&self, graphs: &[GraphEntry]) -> Sealed {
        let mut copy = self.without_graphs();
        let own = self.graphs.iter().flatten().map(|(entry, _)| entry);
        own.chain(graphs).for_each(|entry| copy.adopt(entry));
        copy
    }

    /// The same segment without graphs.
    pub fn without_graphs(&self) -> Sealed {
        let (deleted_at, dead) = (Arc::clone(&self.deleted_at), Arc::clone(&self.dead));
        let graphs = self.graphs.iter().map(|_| None).collect();
        let files = Arc::clone(&self.files);
        let filters = Filters::new(files.header.rows, self.graphs.len());
        Sealed { files, graphs, deleted_at, dead, filters }
    }

    fn adopt(&mut self, entry: &GraphEntry) {
        match self.open_graph(entry) {
            Ok(graph) => {
                if let Some(place) = self.graphs.get_mut(usize::from(entry.ordinal)) {
                    *place = Some((entry.clone(), graph));
                }
            }
            Err(fault) => tracing::warn!(%fault, "a graph is left out, to be built again"),
        }
    }

    fn open_graph(&self, entry: &GraphEntry) -> Result<AnyIndex, Fault> {
        let (dir, ordinal) = (&self.files.dir, usize::from(entry.ordinal));
        let path = entry.file.path(dir);
        let map = entry.file.map(dir)?;
        map.advise(Advice::Random).map_err(|error| Fault::io(&path, &error))?;
        let graph =
            AnyIndex::open(Arc::new(map)).map_err(|error| Fault::damaged(&path, 0, error.to_string()))?;
        let vertices = self.column(ordinal).map_or(0, |column| column.rows.len());
        if entry.file.name != header::graph_name(ordinal) || graph.len() != vertices {
            let reason = format!("a graph over {} rows, the vector has {vertices}", graph.len());
            return Err(Fault::damaged(path, 0, reason));
        }
        Ok(graph)
    }

    /// Builds the graphs that are wanted and not there, and makes their files durable. The caller names them in the
    /// manifest before anyone reads them.
    pub fn build_graphs(
        &self,
        least: u32,
        threads: usize,
        progress: &Progress,
    ) -> Result<Vec<GraphEntry>, Fault> {
        self.lacking(least).map(|ordinal| self.build_graph(ordinal, threads, progress)).collect()
    }

    fn build_graph(&self, ordinal: usize, threads: usize, progress: &Progress) -> Result<GraphEntry, Fault> {
        let dir = &self.files.dir;
        let shape = &self.files.header.shapes[ordinal];
        let (Some(column), Some(params)) = (self.column(ordinal), shape.graph()) else {
            return Err(Fault::damaged(dir.join(HEADER), 0, format!("no vector {ordinal} to index")));
        };
        let mut graph = AnyIndex::build(column.rows, column.distance, &params, threads, progress)
            .map_err(|_| Fault::Cancelled)?;
        // What a walk over the vectors of all records finds says little of the records that are nearest.
        if column.ends.is_none() {
            graph.calibrate(column.rows, column.distance, progress).map_err(|_| Fault::Cancelled)?;
        }
        let bytes = graph.to_bytes();
        drop(graph);
        let (name, staged) = (header::graph_name(ordinal), format!("{}.new", header::graph_name(ordinal)));
        let written = file::Writer::create(dir, &staged).and_then(|mut file| {
            file.write(&bytes)?;
            file.finish()
        });
        if matches!(written, Err(Fault::Io { is_full: true, .. })) {
            // Gives the space back; the next open would remove it too.
            let _ = fs::remove_file(&dir.join(&staged));
        }
        let entry = written?;
        fs::rename(&dir.join(&staged), &dir.join(&name)).map_err(|error| Fault::io(dir, &error))?;
        fs::sync_dir(dir).map_err(|error| Fault::io(dir, &error))?;
        let ordinal = u16::try_from(ordinal).unwrap_or(u16::MAX);
        Ok(GraphEntry { ordinal, file: Entry { name, ..entry } })
    }

    /// The vectors that want a graph (those with `least` rows or more) and have none.
    fn lacking(&self, least: u32) -> impl Iterator<Item = usize> + '_ {
        let header = &self.files.header;
        (0..header.shapes.len()).filter(move |ordinal| {
            header.shapes[*ordinal].graph().is_some()
                && header.columns[*ordinal].count >= least
                && self.graphs[*ordinal].is_none()
        })
    }

    /// Takes over the graphs of a segment with the same rows, as links to its files. The caller names them in the manifest before
    /// anyone reads them.
    pub fn link_graphs(&self, same: &Sealed) -> Result<Vec<GraphEntry>, Fault> {
        let (from, to) = (&same.files.dir, &self.files.dir);
        let graphs = same.graphs();
        for GraphEntry { file, .. } in &graphs {
            fs::hard_link(&from.join(&file.name), &to.join(&file.name))
                .map_err(|error| Fault::io(to, &error))?;
        }
        fs::sync_dir(to).map_err(|error| Fault::io(to, &error))?;
        Ok(graphs)
    }

    /// The fields that its payload index knows.
    pub fn fields(&self) -> &BTreeMap<String, FieldType> {
        &self.files.header.fields
    }

    /// Vectors that wait for a graph: (those without one, all that want one).
    pub fn unindexed(&self, least: u32) -> (u64, u64) {
        let header = &self.files.header;
        let count = |ordinal: usize| u64::from(header.columns[ordinal].count);
        let wanted = (0..header.shapes.len()).filter(|ordinal| {
            header.shapes[*ordinal].graph().is_some() && count(*ordinal) >= u64::from(least)
        });
        (self.lacking(least).map(count).sum(), wanted.map(count).sum())
    }

    /// The graphs it has.
    pub fn graphs(&self) -> Vec<GraphEntry> {
        self.graphs.iter().flatten().map(|(entry, _)| entry.clone()).collect()
    }

    /// Its folder's number.
    pub fn number(&self) -> u64 {
        self.files.header.number
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.files.dir
    }

    /// Rows, dead ones included.
    pub fn rows(&self) -> u32 {
        self.files.header.rows
    }

    /// Rows that are not marked.
    pub fn live(&self) -> u32 {
        self.rows().saturating_sub(self.dead.load(Ordering::Relaxed))
    }

    /// Per row, the log index that deleted it, or 0.
    pub fn deleted_at(&self) -> &[AtomicU64] {
        &self.deleted_at
    }

    /// Rows deleted at or before `at`.
    pub fn dead_at(&self, at: LogIndex) -> impl Iterator<Item = u32> + '_ {
        let marks = self.deleted_at.iter().map(|mark| mark.load(Ordering::Relaxed));
        marks.zip(0..).filter_map(move |(mark, row)| (mark != 0 && mark <= at).then_some(row))
    }

    /// Rows that are not deleted at or before `at`.
    pub fn kept_at(&self, at: LogIndex) -> u32 {
        match self.dead.load(Ordering::Relaxed) {
            0 => self.rows(),
            _ => self.rows().saturating_sub(u32::try_from(self.dead_at(at).count()).unwrap_or(u32::MAX)),
        }
    }

    /// Marks a live row as deleted. False if there is no such live row.
    pub fn mark(&self, row: u32, at: LogIndex) -> bool {
        let Some(mark) = self.deleted_at.get(row as usize) else { return false };
        if mark.load(Ordering::Relaxed) != 0 {
            return false;
        }
        mark.store(at, Ordering::Relaxed);
        self.dead.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// The row of a key that is not marked.
    pub fn live_row(&self, key: &[u8]) -> Result<Option<u32>, Fault> {
        let row = self.files.keys.find(key)?;
        let lives = |row: &u32| {
            self.deleted_at.get(*row as usize).is_some_and(|mark| mark.load(Ordering::Relaxed) == 0)
        };
        Ok(row.filter(lives))
    }

    /// The row's key.
    pub fn key_bytes(&self, row: u32) -> Result<&[u8], Fault> {
        self.files.keys.get(row)
    }

    /// Asks the memory for what is soon read of a row.
    pub fn prefetch(&self, row: u32, what: Soon) {
        let Files { keys, versions, payloads, .. } = &*self.files;
        keys.prefetch(row, matches!(what, Soon::Key | Soon::Parts));
        match what {
            Soon::KeyPlace | Soon::Key => {}
            Soon::Places => {
                prefetch(versions.get(row as usize * 8..).unwrap_or_default(), 1);
                payloads.prefetch(row, false);
            }
            Soon::Parts => payloads.prefetch(row, true),
        }
    }

    /// The row's version; 0 beyond the last.
    pub fn version(&self, row: u32) -> LogIndex {
        let words = self.files.versions.as_chunks::<8>().0;
        words.get(row as usize).map_or(0, |word| u64::from_le_bytes(*word))
    }

    /// When the row expires, if ever.
    pub fn expires_at_ms(&self, row: u32) -> Option<u64> {
        self.files.expiring.as_ref().map(|expiring| expiring.at(row)).filter(|when| *when != 0)
    }

    /// The rows that are not marked and expire at or before `until`.
    pub fn due(&self, until: u64) -> Vec<u32> {
        let is_live = |row: u32| {
            self.deleted_at.get(row as usize).is_some_and(|mark| mark.load(Ordering::Relaxed) == 0)
        };
        self.files.expiring.as_ref().map_or_else(Vec::new, |expiring| expiring.due(until, is_live))
    }

    /// The row's payload in its stored form.
    pub fn stored_payload(&self, row: u32) -> Result<Bytes, Fault> {
        self.files.payloads.payload_bytes(row)
    }

    /// The values of the vector with this ordinal.
    pub fn column(&self, ordinal: usize) -> Option<Column<'_>> {
        let (mapped, shape) = (self.files.columns.get(ordinal)?, self.files.header.shapes.get(ordinal)?);
        Some(Column {
            rows: Rows::new(cast(&mapped.values)?, shape.words()).ok()?.of_file(mapped.on_disk.as_ref()),
            ends: mapped.ends.as_ref().and_then(|ends| cast(ends)),
            shape,
            distance: shape.distance(),
            map: mapped.map.as_ref().and_then(|map| cast(map)),
            norms: mapped.norms.as_ref().and_then(|norms| cast(norms)),
            sums: mapped.sums.as_ref().and_then(|sums| cast(sums)),
        })
    }

    /// The inverted index of the vector with this ordinal.
    pub fn inverted(&self, ordinal: usize) -> Option<&Inverted> {
        self.files.columns.get(ordinal)?.inverted.as_ref()
    }

    /// How many members a row has, at the most of its vectors on average; 1 where no vector is a list.
    pub fn members_per_row(&self) -> usize {
        let members = |ordinal: usize| self.column(ordinal).map_or(0, |column| column.rows.len());
        let most = (0..self.files.columns.len()).map(members).max().unwrap_or(0);
        most.div_ceil((self.rows() as usize).max(1)).max(1)
    }

    /// Checks every byte of every file.
    pub fn verify(&self) -> Result<(), Fault> {
        self.verify_rows()?;
        self.verify_graphs()
    }

    /// Checks every byte of every file but the graphs.
    pub fn verify_rows(&self) -> Result<(), Fault> {
        let dir = &self.files.dir;
        Header::read(dir)?;
        self.files.header.files.iter().try_for_each(|entry| entry.verify(dir))
    }

    /// Checks every byte of the graphs.
    pub fn verify_graphs(&self) -> Result<(), Fault> {
        let dir = &self.files.dir;
        self.graphs.iter().flatten().try_for_each(|(entry, _)| entry.file.verify(dir))
    }

    /// Gives every file a second name in the folder `into`.
    pub fn link_into(&self, into: &Path) -> Result<(), Fault> {
        let dir = &self.files.dir;
        fs::create_dir_all(&payload_dir(into)).map_err(|error| Fault::io(into, &error))?;
        let graphs = self.graphs.iter().flatten().map(|(entry, _)| &entry.file.name);
        let names = self.files.header.files.iter().map(|entry| &entry.name).chain(graphs);
        for name in names.map(String::as_str).chain([HEADER]) {
            fs::hard_link(&dir.join(name), &into.join(name)).map_err(|error| Fault::io(into, &error))?;
        }
        for folder in [&payload_dir(into), into] {
            fs::sync_dir(folder).map_err(|error| Fault::io(folder, &error))?;
        }
        Ok(())
    }

    /// Bytes of its files.
    pub fn disk_bytes(&self) -> u64 {
        let graphs: u64 = self.graphs.iter().flatten().map(|(entry, _)| entry.file.len).sum();
        self.files.header.files.iter().map(|entry| entry.len).sum::<u64>() + graphs
    }

    /// Bytes that a search may touch: maps of keys, vectors and graphs, and the marks.
    pub fn memory_bytes(&self) -> u64 {
        let graphs: u64 = self.graphs.iter().flatten().map(|(entry, _)| entry.file.len).sum();
        let lists = |column: &Mapped| {
            column.ends.as_ref().map_or(0, |ends| ends.len()) as u64
                + column.inverted.as_ref().map_or(0, Inverted::bytes)
        };
        let values = self.files.columns.iter().map(|column| column.values.len() as u64 + lists(column));
        let values: u64 = values.sum();
        graphs + values + self.files.keys.bytes() + u64::from(self.rows()) * 16
    }

    /// Bytes that building its graphs takes, about.
    pub fn build_bytes(&self) -> u64 {
        let Header { shapes, columns, .. } = &self.files.header;
        let each =
            shapes.iter().zip(columns).map(|(shape, column)| shape.build_bytes() * u64::from(column.count));
        each.sum()
    }

    /// Bytes of the filters that it remembers.
    pub fn cached_bytes(&self) -> u64 {
        self.filters.bytes() as u64
    }

    /// Forgets them.
    pub fn drop_caches(&self) {
        self.filters.forget();
    }

    /// Bound to a view at `at` that sees `live` rows.
    pub fn bind(self: Arc<Self>, at: LogIndex, live: u32) -> SealedView {
        SealedView::new(self, at, live)
    }

    /// Whether nobody else holds the folder open.
    pub fn is_last_holder(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && Arc::strong_count(&self.files) == 1
    }
}

impl Mapped {
    fn open(dir: &Path, header: &Header, ordinal: usize) -> Result<Mapped, Fault> {
        let (column, shape) = (&header.columns[ordinal], &header.shapes[ordinal]);
        let values = Arc::new(header.file(dir, &header::vectors_name(ordinal, shape))?.map(dir)?);
        let is_on_disk = shape.stays_on_disk() && values.is_mapped();
        if is_on_disk && let Err(why) = values.advise(Advice::Random) {
            tracing::debug!(%why, "vectors are read ahead of searches that want few of them");
        }
        let cache = VectorCache::known().filter(|_| is_on_disk);
        let on_disk = cache.map(|cache| cache.mapped(&values, shape.words() * 4));
        let map = column.has_map.then(|| header.file(dir, &header::rows_name(ordinal))?.map_checked(dir));
        let norms =
            column.has_norms.then(|| header.file(dir, &header::norms_name(ordinal))?.map_checked(dir));
        // Segments of before have none.
        let sums = header.file(dir, &header::sums_name(ordinal)).ok().map(|entry| entry.map_checked(dir));
        let (map, norms, sums) = (map.transpose()?, norms.transpose()?, sums.transpose()?);
        let count = column.count as usize;
        let fits = |mapped: &Option<Mmap>| mapped.as_ref().is_none_or(|mapped| mapped.len() == count * 4);
        let mut mapped = Mapped { values, on_disk, map, norms, ends: None, sums, inverted: None };
        let is_whole = match vectors::is_list(&shape.spec) {
            false => mapped.values.len() == count * shape.words() * 4,
            true => mapped.open_lists(dir, header, ordinal)?,
        };
        let tables = [&mapped.map, &mapped.norms, &mapped.ends, &mapped.sums];
        if !is_whole || !tables.into_iter().all(fits) {
            let reason = format!("not the size of {count} vectors of {} dims", shape.spec.dims);
            return Err(Fault::damaged(dir.join(header::vectors_name(ordinal, shape)), 0, reason));
        }
        Ok(mapped)
    }

    /// Where lists end, and their inverted index. False if the values are not as many as the ends say.
    fn open_lists(&mut self, dir: &Path, header: &Header, ordinal: usize) -> Result<bool, Fault> {
        let shape = &header.shapes[ordinal];
        let ends = self.ends.insert(header.file(dir, &header::ends_name(ordinal))?.map_checked(dir)?);
        let rows = cast(&self.values).and_then(|values| Rows::new(values, shape.words()).ok());
        let lists = rows.zip(cast(ends)).map(|(rows, ends)| Lists::new(rows, ends));
        if shape.spec.form == Form::Sparse {
            // Its own checksums are checked as it is opened.
            let entry = header.file(dir, &header::inverted_name(ordinal))?;
            let opened = Inverted::open(Arc::new(entry.map(dir)?), header.columns[ordinal].count as usize);
            let damaged = |error: Damage| Fault::damaged(entry.path(dir), 0, error.to_string());
            self.inverted = Some(opened.map_err(damaged)?);
        }
        Ok(matches!(lists, Some(Ok(_))))
    }
}

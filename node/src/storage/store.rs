//! One partition's storage: what the machine writes to, what reads look at, and what the background works on.
//!
//! Three kinds of callers share a [`Store`] and stay out of each other's way:
//!
//! * the **writer** (one task; [`Store::upsert`], [`Store::delete`], [`Store::publish`], [`Store::freeze`]) works in
//!   memory and marks rows of sealed segments as deleted;
//! * **readers** take a [`View`], which costs one atomic load;
//! * the **background** ([`Store::seal`], [`Store::build_graph`], [`Store::compact`]; each may run on its own thread)
//!   writes folders, then commits a manifest, then swaps segments.
//!
//! **Locks, in this order.** `sealing` (one seal at a time) before `commit` (one manifest at a time; held while it is
//! written) before `state` (held briefly, never while a file is written). Segments come and go only under `commit`.
//!
//! **Swaps lose no deletion.** While a new segment is written, the rows it copies may be deleted. The marks are read
//! again after the manifest stands, under `state`, where no mark is made meanwhile.
//!
//! **Folders go last.** A folder that the manifest no longer names is removed when no view holds it any more, or at the
//! next open.

mod apply;
mod background;
mod restore;
mod usage;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use flotilla_proto::ids::LogIndex;
use flotilla_proto::schema::CollectionSpec;
use parking_lot::Mutex;

use super::growing::Growing;
use super::manifest::MANIFEST;
use super::plan::Limits;
use super::sealed::Sealed;
use super::shape::Shapes;
use super::view::{Part, Published, View, next_serial};
use super::{Compression, Digest, Fault, Presence, digest};
use crate::env::fs;

/// Growing rows with declared fields that are sealed when no write came for a while.
const FIELD_ROWS_MIN: u32 = 128;

/// How a store works. The defaults are meant for a node; tests shrink them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Rows at which the growing segment wants to be sealed.
    pub seal_rows: usize,
    /// Bytes at which it wants to be sealed.
    pub seal_bytes: usize,
    /// Vectors from which on a segment gets a graph; fewer are scanned.
    pub graph_rows_min: usize,
    /// Threads of one graph build.
    pub index_threads: usize,
    /// Segments of a size that are merged into one.
    pub fan_in: usize,
    /// Sealed segments wanted, at most.
    pub segments_max: usize,
    /// Rows of a merged segment, at most.
    pub segment_rows_max: usize,
    /// Vectors that may wait for a graph, at most, before writers have to wait: searches scan them.
    pub backlog_max: usize,
    /// How the payloads of segments to come are compressed.
    pub compression: Compression,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            seal_rows: 10_000,
            seal_bytes: 32 << 20,
            graph_rows_min: 1_000,
            index_threads: 2,
            fan_in: 4,
            segments_max: 12,
            segment_rows_max: 1_000_000,
            backlog_max: 40_000,
            compression: Compression::default(),
        }
    }
}

impl Options {
    fn limits(&self) -> Limits {
        Limits {
            fan_in: self.fan_in.max(2),
            segments_max: self.segments_max.max(1),
            rows_max: u32::try_from(self.segment_rows_max).unwrap_or(u32::MAX).clamp(1, 1 << 30),
            index_rows: u32::try_from(self.seal_rows.saturating_mul(self.fan_in)).unwrap_or(u32::MAX),
        }
    }

    fn graph_least(&self) -> u32 {
        u32::try_from(self.graph_rows_min).unwrap_or(u32::MAX).max(2)
    }
}

/// What a store was found to hold when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The log index of its state; replay starts behind it. 0: empty.
    pub applied: LogIndex,
    /// The machine's state at that index, as it was given to [`Store::freeze`]; empty at 0.
    pub machine: Vec<u8>,
}

/// Why writers should wait for the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// A frozen state waits for each place there is, and the growing segment is full again.
    Sealing,
    /// So many vectors wait for a graph, more than may.
    Indexing(u64),
}

/// How a store stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Status {
    /// Live records.
    pub records: u64,
    /// Segments, of any kind.
    pub segments: u64,
    /// Rows that are in memory only: growing and frozen.
    pub growing_rows: u64,
    /// Bytes of those rows.
    pub growing_bytes: u64,
    /// Vectors that want a graph and have none: growing, frozen or waiting.
    pub unindexed_vectors: u64,
    /// Of them, those that the background is to build graphs over: not the ones that still grow.
    pub waiting_vectors: u64,
    /// Bytes of the sealed segments' files.
    pub disk_bytes: u64,
    /// Bytes of memory, mapped files included.
    pub memory_bytes: u64,
    /// Records of sealed segments that do not index every field as it is declared now: conditions on it read them.
    pub stale_records: u64,
    /// The share of sealed vectors that are indexed, of those that want it: 0 to 1.
    pub index_progress: f32,
}

/// One partition's storage.
pub struct Store {
    dir: PathBuf,
    options: Options,
    published: ArcSwap<Published>,
    sealing: Mutex<()>,
    commit: Mutex<Committed>,
    state: Mutex<State>,
    under_way: usage::UnderWay,
    /// Makes the next delete answer and do nothing.
    #[cfg(test)]
    pub(crate) skips_delete: std::sync::atomic::AtomicBool,
}

/// What the manifest says of the machine.
#[derive(Debug)]
struct Committed {
    applied: LogIndex,
    machine: Arc<Vec<u8>>,
}

/// What the writer and the swaps share.
struct State {
    spec: Arc<CollectionSpec>,
    shapes: Shapes,
    sealed: Vec<Arc<Sealed>>,
    /// Oldest first.
    frozen: VecDeque<Frozen>,
    growing: Growing,
    growing_number: u64,
    next_number: u64,
    /// The newest command's log index.
    written: LogIndex,
    /// The rolling digest there.
    digest: Digest,
    /// The manifest's log index.
    durable: LogIndex,
    /// Segments that the background is working on.
    busy: BTreeSet<u64>,
    /// Segments that the manifest no longer names.
    retired: Vec<Arc<Sealed>>,
    /// Whose rows the next published state will hold.
    presence: Arc<Presence>,
}

/// A state on its way to the manifest.
struct Frozen {
    applied: LogIndex,
    machine: Arc<Vec<u8>>,
    number: u64,
    /// The rows that came since the one before; there may be none.
    rows: Growing,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Store {
    /// From here on the collection is described like this. Its vectors are the same; segments that are written from
    /// now on index the fields it declares now, older ones are written anew by the background.
    pub fn set_spec(&self, spec: Arc<CollectionSpec>) {
        self.state.lock().spec = spec;
    }

    /// How the collection is described now.
    pub fn spec(&self) -> Arc<CollectionSpec> {
        self.state.lock().spec.clone()
    }

    /// The machine's state as of the manifest: see [`Store::durable_index`]. Empty at 0.
    pub fn durable_machine(&self) -> Arc<Vec<u8>> {
        self.commit.lock().machine.clone()
    }

    /// Where the manifest stands, to name it in a fault.
    pub fn manifest_path(&self) -> PathBuf {
        self.dir.join(super::manifest::MANIFEST)
    }

    /// Whether the growing segment has enough rows for a graph of its own, or for an index of the declared fields: until they are
    /// sealed, every condition is put to each of them.
    pub fn is_worth_sealing(&self) -> bool {
        let least = match self.spec().fields.is_empty() {
            true => self.options.graph_least(),
            false => self.options.graph_least().min(FIELD_ROWS_MIN),
        };
        self.state.lock().growing.rows() >= least
    }

    /// Whether [`Store::freeze`] would find no place.
    pub fn is_full(&self) -> bool {
        self.state.lock().is_full()
    }

    /// Whether the background is so far behind that writers should wait, and with what.
    pub fn behind(&self) -> Option<Behind> {
        let state = self.state.lock();
        if state.is_full() && state.needs_seal(&self.options) {
            return Some(Behind::Sealing);
        }
        let waiting = state.waiting(self.options.graph_least());
        (waiting > self.options.backlog_max as u64).then_some(Behind::Indexing(waiting))
    }

    /// The rolling digest after the last command: see [`super::digest`].
    pub fn digest(&self) -> Digest {
        self.state.lock().digest
    }

    /// Sets the rolling digest of the state that was just opened: as it was kept with that state, or counted from the rows
    /// if it was not. Called before anything is applied.
    pub fn begin_digest(&self, kept: Option<Digest>) -> Result<(), Fault> {
        let digest = kept.map_or_else(|| digest::recount(&self.view(), &|| false), Ok)?;
        let mut state = self.state.lock();
        state.digest = digest;
        self.publish_locked(&state);
        Ok(())
    }

    /// The newest published state.
    pub fn view(&self) -> View {
        View::of(self.published.load_full())
    }

    /// The log index of the manifest: commands up to it need no log any more.
    pub fn durable_index(&self) -> LogIndex {
        self.state.lock().durable
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        let state = self.state.lock();
        let least = self.options.graph_least();
        let in_memory = || state.frozen.iter().map(|frozen| &frozen.rows).chain([&state.growing]);
        let mut status = Status {
            segments: (state.sealed.len() + in_memory().filter(|rows| rows.rows() > 0).count()) as u64,
            ..Status::default()
        };
        let has_graphs = state.has_graphs();
        for rows in in_memory() {
            status.records += u64::from(rows.live());
            status.growing_rows += u64::from(rows.rows());
            status.unindexed_vectors += if has_graphs { u64::from(rows.rows()) } else { 0 };
            status.growing_bytes += rows.bytes() as u64;
            status.memory_bytes += rows.bytes() as u64;
        }
        status.waiting_vectors = state.waiting(least);
        let mut wanted = 0;
        let mut waiting = 0;
        for sealed in &state.sealed {
            let (lacks, wants) = sealed.unindexed(least);
            (waiting, wanted) = (waiting + lacks, wanted + wants);
            status.records += u64::from(sealed.live());
            if *sealed.fields() != state.spec.fields {
                status.stale_records += u64::from(sealed.live());
            }
            status.disk_bytes += sealed.disk_bytes();
            status.memory_bytes += sealed.memory_bytes();
        }
        status.unindexed_vectors += waiting;
        status.index_progress = if wanted == 0 { 1.0 } else { 1.0 - waiting as f32 / wanted as f32 };
        status
    }

    /// Checks every byte of every sealed segment against its checksum. Reads all of them.
    pub fn verify(&self) -> Result<(), Fault> {
        let sealed = self.state.lock().sealed.clone();
        sealed.iter().try_for_each(|segment| segment.verify())
    }

    /// Checks every byte of the sealed segment with the lowest number above `after`, and returns that number; `None` behind the
    /// last one. A graph that is damaged is taken out, to be built again.
    pub fn verify_next(&self, after: u64) -> Result<Option<u64>, Fault> {
        let above = |segment: &&Arc<Sealed>| segment.number() > after;
        let next =
            self.state.lock().sealed.iter().filter(above).min_by_key(|segment| segment.number()).cloned();
        let Some(segment) = next else { return Ok(None) };
        segment.verify_rows()?;
        if let Err(fault) = segment.verify_graphs() {
            tracing::error!(%fault, "a graph is taken out, to be built again");
            self.drop_graphs(&segment)?;
        }
        Ok(Some(segment.number()))
    }

    /// Fills the empty folder `into` (on the same file system) with hard links to the durable state: a folder that
    /// [`Store::open`] takes. Returns its log index and the machine's state there. Writes go on; no manifest is committed
    /// meanwhile.
    ///
    /// # Errors
    /// The system's refusal; what was linked so far is removed.
    pub fn link_into(&self, into: &Path) -> Result<(LogIndex, Arc<Vec<u8>>), Fault> {
        self.try_link_into(into).inspect_err(|_| {
            if let Err(why) = fs::remove_dir_all(into) {
                tracing::warn!(%why, "a folder of links that is half made stays");
            }
        })
    }

    fn try_link_into(&self, into: &Path) -> Result<(LogIndex, Arc<Vec<u8>>), Fault> {
        let commit = self.commit.lock();
        let io = |error: std::io::Error| Fault::io(into, &error);
        fs::create_dir_all(into).map_err(io)?;
        // Segments come and go under `commit` only: these are the manifest's.
        let sealed = self.state.lock().sealed.clone();
        sealed.iter().try_for_each(|segment| segment.link_into(&segment_dir(into, segment.number())))?;
        fs::hard_link(&self.dir.join(MANIFEST), &into.join(MANIFEST)).map_err(io)?;
        fs::sync_dir(into).map_err(io)?;
        Ok((commit.applied, Arc::clone(&commit.machine)))
    }

    /// Removes a partition's folder with everything in it. Nobody has it open.
    pub fn destroy(dir: &Path) -> Result<(), Fault> {
        let io = |error: std::io::Error| Fault::io(dir, &error);
        if fs::exists(dir).map_err(io)? {
            fs::remove_dir_all(dir).map_err(io)?;
        }
        match dir.parent() {
            Some(above) if fs::exists(above).map_err(io)? => fs::sync_dir(above).map_err(io),
            _ => Ok(()),
        }
    }
}

impl State {
    /// Whether no further state can be frozen.
    fn is_full(&self) -> bool {
        self.frozen.len() >= apply::FROZEN_MAX
    }

    /// Whether the growing segment is large enough to be frozen and sealed.
    fn needs_seal(&self, options: &Options) -> bool {
        self.growing.rows() as usize >= options.seal_rows || self.growing.bytes() >= options.seal_bytes
    }

    fn has_graphs(&self) -> bool {
        self.shapes.iter().any(|shape| shape.graph().is_some())
    }

    /// Vectors that the background is to build graphs over: frozen, or sealed and without one.
    fn waiting(&self, least: u32) -> u64 {
        let frozen: u64 = self.frozen.iter().map(|frozen| u64::from(frozen.rows.rows())).sum();
        let sealed: u64 = self.sealed.iter().map(|segment| segment.unindexed(least).0).sum();
        if self.has_graphs() { frozen + sealed } else { 0 }
    }

    /// Everything as it stands, as of `at`.
    fn published(&self, at: LogIndex) -> Published {
        let sealed = self.sealed.iter().map(|segment| Part {
            number: segment.number(),
            segment: Arc::new(Arc::clone(segment).bind(at, segment.live())),
        });
        let frozen = self.frozen.iter().map(|frozen| (frozen.number, &frozen.rows));
        let in_memory = frozen.chain([(self.growing_number, &self.growing)]);
        let in_memory = in_memory.filter(|(_, rows)| rows.rows() > 0).map(|(number, rows)| Part {
            number,
            segment: Arc::new(rows.chunks().bind(at, rows.live(), Arc::clone(&self.shapes))),
        });
        let presence = Arc::clone(&self.presence);
        let parts = sealed.chain(in_memory).collect();
        Published { serial: next_serial(), at, digest: self.digest, parts, presence }
    }

    fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }
}

/// The folder of the segment with this number.
pub(super) fn segment_dir(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("seg-{number}"))
}

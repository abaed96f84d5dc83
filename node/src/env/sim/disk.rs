//! A disk in memory that forgets like a real one: what was not synced may be gone after a power cut.
//!
//! A folder's names and a file's bytes each have two states: as the system shows them, and as they are on the platter.
//! Syncing a file makes its bytes durable, syncing a folder the names in it; neither does the other's work (POSIX promises no
//! more). [`Disk::kill`] ends the process that uses the disk: its open files fail from then on and nothing is lost.
//! [`Disk::cut`] cuts the power as well: of what was not synced, nothing survives or, block by block and name by name, some
//! does ([`Cut`]).
//!
//! A sync that fails loses its blocks for good: later syncs succeed and do not write them (as Linux does; see A. Rebello et
//! al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).

mod file;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use self::file::Contents;
pub(in crate::env) use self::file::Handle;
use self::tree::Tree;

static DISKS: RwLock<Vec<Arc<Disk>>> = RwLock::new(Vec::new());

/// What a power cut does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All of it is gone.
    Clean,
    /// Each block of 512 bytes and each name survives or not, by chance: torn writes.
    Torn,
}

/// How often calls fail, by chance: of a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Writes and syncs that fail with `EIO`.
    pub write_errors: u32,
    /// Reads that fail with `EIO`.
    pub read_errors: u32,
    /// Reads that return one wrong bit.
    pub read_flips: u32,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes and syncs that failed.
    pub write_errors: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Reads with a wrong bit.
    pub read_flips: u64,
    /// Calls that there was no space for.
    pub full: u64,
    /// Blocks and names that were not synced when the power was cut, and did not survive.
    pub lost: u64,
    /// Power cuts after which some of what was not synced was there, and some not.
    pub torn: u64,
    /// Calls that change something.
    pub changes: u64,
    /// Syncs of files and folders: nothing is durable without one.
    pub syncs: u64,
}

/// The sync at which a disk stops.
#[derive(Clone, Copy, Debug)]
struct StopAt {
    sync: u64,
    is_done: bool,
}

/// A simulated disk.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tree: Tree,
    files: BTreeMap<u64, Contents>,
    /// Files that somebody locked.
    locked: BTreeSet<u64>,
    /// Grows when the process that uses the disk ends: handles of an earlier one fail.
    process: u64,
    capacity: u64,
    rates: Rates,
    draw: SmallRng,
    counts: Counts,
    /// Changing calls that still succeed; then all fail.
    changes_left: u64,
    stop_at: Option<StopAt>,
    /// What the sync was of at which the disk stopped.
    stopped_at: Option<PathBuf>,
}

/// The disk that holds this path.
pub(in crate::env) fn of(path: &Path) -> Option<Arc<Disk>> {
    DISKS.read().iter().find(|disk| path.starts_with(&disk.root)).cloned()
}

impl Disk {
    /// A new, empty disk for everything below `root`, until it is [removed](Disk::remove).
    pub fn mount(root: impl Into<PathBuf>, seed: u64) -> Arc<Disk> {
        let state = State {
            tree: Tree::default(),
            files: BTreeMap::new(),
            locked: BTreeSet::new(),
            process: 0,
            capacity: u64::MAX,
            rates: Rates::default(),
            draw: SmallRng::seed_from_u64(seed),
            counts: Counts::default(),
            changes_left: u64::MAX,
            stop_at: None,
            stopped_at: None,
        };
        let disk = Arc::new(Disk { root: root.into(), state: Mutex::new(state) });
        DISKS.write().push(disk.clone());
        disk
    }

    /// Takes the disk away with all that is on it.
    pub fn remove(&self) {
        DISKS.write().retain(|disk| disk.root != self.root);
    }

    /// The folder below which everything is on this disk.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Has calls fail by chance.
    pub fn set_rates(&self, rates: Rates) {
        self.state.lock().rates = rates;
    }

    /// Leaves this many bytes free; none: as many as anybody wants.
    pub fn leave_free(&self, bytes: Option<u64>) {
        let mut state = self.state.lock();
        state.capacity = bytes.map_or(u64::MAX, |bytes| state.used() + bytes);
    }

    /// Lets so many more calls change something; all later ones fail, as if the process had ended there.
    pub fn stop_after(&self, changes: u64) {
        self.state.lock().changes_left = changes;
    }

    /// Lets the disk stop at a sync, counted from now on from 1. That one fails, its work done or not, and so does every later
    /// call that changes something: whoever waits for it never hears what came of it.
    pub fn stop_at_sync(&self, sync: u64, is_done: bool) {
        let mut state = self.state.lock();
        let sync = state.counts.syncs.saturating_add(sync);
        state.stop_at = Some(StopAt { sync, is_done });
    }

    /// What the sync was of at which the disk stopped, if it did.
    pub fn stopped_at(&self) -> Option<PathBuf> {
        self.state.lock().stopped_at.as_ref().map(|path| self.root.join(path))
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// Ends the process that uses the disk. Its open files fail; everything it wrote is there for the next one.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.process += 1;
        state.changes_left = u64::MAX;
        (state.stop_at, state.stopped_at) = (None, None);
        state.locked.clear();
    }

    /// Ends the process and cuts the power.
    pub fn cut(&self, cut: Cut) {
        self.kill();
        let mut state = self.state.lock();
        let State { tree, files, draw, counts, .. } = &mut *state;
        let (mut kept, mut lost) = (0, 0);
        let mut survives = || {
            let survives = cut == Cut::Torn && draw.random_bool(0.5);
            *(if survives { &mut kept } else { &mut lost }) += 1;
            survives
        };
        tree.cut(&mut survives);
        let live = tree.live();
        files.retain(|number, _| live.contains(number));
        files.values_mut().for_each(|file| file.cut(&mut survives));
        counts.lost += lost;
        counts.torn += u64::from(kept > 0 && lost > 0);
    }

    /// Every file, by path.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state.lock().tree.paths().into_iter().map(|(path, _)| self.root.join(path)).collect()
    }

    /// Flips one bit, at rest, of one file whose path passes, in a byte that is not zero where there is one. The path and the
    /// byte, if there is such a file.
    pub fn rot(&self, passes: impl Fn(&Path) -> bool) -> Option<(PathBuf, u64)> {
        let mut state = self.state.lock();
        let State { tree, files, draw, .. } = &mut *state;
        let mut found: Vec<(PathBuf, u64)> = tree.paths();
        found.retain(|(path, number)| {
            passes(&self.root.join(path)) && files.get(number).is_some_and(|f| f.len() > 0)
        });
        if found.is_empty() {
            return None;
        }
        let (path, number) = found.swap_remove(draw.random_range(0..found.len()));
        let file = files.get_mut(&number)?;
        let used = file.used();
        let at = used.get(draw.random_range(0..used.len().max(1))).copied().unwrap_or(0);
        file.flip(at, draw.random_range(0..8));
        Some((self.root.join(path), at))
    }

    /// The path within the disk.
    fn inside<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }

    pub(in crate::env) fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        self.state.lock().tree.list(self.inside(path))
    }

    pub(in crate::env) fn exists(&self, path: &Path) -> bool {
        self.state.lock().tree.find(self.inside(path)).is_ok()
    }

    pub(in crate::env) fn is_dir(&self, path: &Path) -> io::Result<bool> {
        self.state.lock().tree.find(self.inside(path)).map(|found| found.is_dir)
    }

    pub(in crate::env) fn links(&self, path: &Path) -> io::Result<u64> {
        self.state.lock().tree.links(self.inside(path))
    }

    pub(in crate::env) fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.tree.create_dir_all(self.inside(path))
    }

    pub(in crate::env) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.tree.rename(self.inside(from), self.inside(to))
    }

    pub(in crate::env) fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.tree.link(self.inside(from), self.inside(to))
    }

    pub(in crate::env) fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.tree.remove(self.inside(path), false)
    }

    pub(in crate::env) fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.tree.remove(self.inside(path), true)
    }

    pub(in crate::env) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.change()?;
        state.may_fail_writing()?;
        let stops = state.stops();
        if stops.is_none_or(|stop| stop.is_done) {
            state.tree.sync(self.inside(path))?;
        }
        match stops {
            Some(_) => Err(state.stop(self.inside(path).to_owned())),
            None => Ok(()),
        }
    }

    pub(in crate::env) fn free_bytes(&self) -> u64 {
        let state = self.state.lock();
        state.capacity.saturating_sub(state.used()).min(1 << 40)
    }

    pub(in crate::env) fn whole_bytes(&self) -> u64 {
        self.state.lock().capacity.min(1 << 40)
    }
}

impl State {
    /// Before a call that changes something.
    fn change(&mut self) -> io::Result<()> {
        let Some(left) = self.changes_left.checked_sub(1) else { return Err(error(libc::EIO)) };
        self.changes_left = left;
        self.counts.changes += 1;
        Ok(())
    }

    /// Counts a sync. How the disk stops at it, if it does.
    fn stops(&mut self) -> Option<StopAt> {
        self.counts.syncs += 1;
        self.stop_at.filter(|stop| stop.sync == self.counts.syncs)
    }

    /// From now on nothing changes any more. The error of the sync that it stopped at.
    fn stop(&mut self, path: PathBuf) -> io::Error {
        self.changes_left = 0;
        self.stopped_at = Some(path);
        error(libc::EIO)
    }

    /// Whether the call that writes or syncs fails by chance.
    fn may_fail_writing(&mut self) -> io::Result<()> {
        if happens(&mut self.draw, self.rates.write_errors) {
            self.counts.write_errors += 1;
            return Err(error(libc::EIO));
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        self.files.values().map(Contents::len).sum()
    }

    /// Whether a file may grow by so much.
    fn room(&mut self, more: u64) -> io::Result<()> {
        if more > 0 && self.used().saturating_add(more) > self.capacity {
            self.counts.full += 1;
            return Err(error(libc::ENOSPC));
        }
        Ok(())
    }
}

fn happens(draw: &mut SmallRng, per_million: u32) -> bool {
    per_million > 0 && draw.random_range(0..1_000_000) < per_million
}

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

#[cfg(test)]
mod tests;

//! The background's side: folders are written, a manifest is committed, segments are swapped.

use std::path::Path;
use std::sync::Arc;

use flotilla_proto::ids::LogIndex;

use super::{Committed, State, Store, segment_dir};
use crate::env::fs;
use crate::index::Progress;
use crate::planted::{self, Bug};
use crate::storage::Fault;
use crate::storage::manifest::{Manifest, SegmentEntry};
use crate::storage::plan::{self, Limits, Standing, Step};
use crate::storage::sealed::{Draft, Plan, Sealed, Source};
use crate::storage::view::{Part, Published};

/// Of a disk, the part that a merge leaves free, and bytes of it at most.
const SPARE_PART: u64 = 40;
const SPARE_MAX: u64 = 64 << 20;

/// A change of the set of segments.
struct Change {
    /// Numbers that go: sealed segments, or the frozen one.
    gone: Vec<u64>,
    /// The segment that comes, with the draft it was made by (none where rows and marks stay the same).
    come: Option<(Arc<Sealed>, Option<Draft>)>,
}

impl Store {
    /// Makes the oldest frozen state durable: writes its rows as a sealed segment and commits the manifest. Returns the
    /// log index up to which the log is no longer needed; `None` if nothing is frozen. Builds no graph.
    ///
    /// # Errors
    /// The system's refusal, with nothing lost: the frozen state stays in memory and in the log. After a refusal to
    /// sync, the replica must stop.
    pub fn seal(&self) -> Result<Option<LogIndex>, Fault> {
        let _one_at_a_time = self.sealing.lock();
        let Some((applied, machine, number, draft)) = self.oldest_frozen() else { return Ok(None) };
        let come = match draft.rows() {
            0 => None,
            _ => {
                let sealed = self.or_removed(number, self.write(number, &draft, &Progress::new()))?;
                Some((Arc::new(sealed), Some(draft)))
            }
        };
        let mut commit = self.commit.lock();
        let changed =
            self.change(&mut commit, Committed { applied, machine }, Change { gone: vec![number], come });
        self.or_removed(number, changed)?;
        drop(commit);
        self.sweep();
        Ok(Some(applied))
    }

    fn oldest_frozen(&self) -> Option<(LogIndex, Arc<Vec<u8>>, u64, Draft)> {
        let state = self.state.lock();
        let frozen = state.frozen.front()?;
        let (applied, chunks) = (frozen.applied, frozen.rows.chunks());
        let (machine, number) = (Arc::clone(&frozen.machine), frozen.number);
        drop(state);
        Some((applied, machine, number, Draft::new(vec![Source::Frozen(chunks)], applied)))
    }

    /// Builds the graphs of segments that lack them, if there are any: of one where it stands, of several as one. False if not.
    ///
    /// # Errors
    /// As [`Store::seal`]; [`Fault::Cancelled`] if `progress` was cancelled.
    pub fn build_graph(&self, progress: &Progress) -> Result<bool, Fault> {
        let Some((claim, step)) = self.claim(plan::index) else { return Ok(false) };
        let (Step::Index(_), [segment]) = (step, claim.segments.as_slice()) else {
            return self.merge(claim, progress);
        };
        let _counted = self.under_way.begin(segment);
        let graphs =
            segment.build_graphs(self.options.graph_least(), self.options.index_threads, progress)?;
        let indexed = Arc::new(segment.with_graphs(&graphs));
        let change = Change { gone: vec![segment.number()], come: Some((indexed, None)) };
        self.commit_as_is(change)?;
        Ok(true)
    }

    /// Merges segments into one with its graphs, if that is due. False if not. Rows that are dead at the durable index
    /// are dropped; deletions that come while it runs are carried over.
    ///
    /// # Errors
    /// As [`Store::seal`]; [`Fault::Cancelled`] if `progress` was cancelled, with what was written so far removed.
    pub fn compact(&self, progress: &Progress) -> Result<bool, Fault> {
        match self.claim(plan::merge) {
            Some((claim, _)) => self.merge(claim, progress),
            None => Ok(false),
        }
    }

    fn merge(&self, claim: Claim<'_>, progress: &Progress) -> Result<bool, Fault> {
        self.has_space_for(&claim.segments)?;
        let (floor, number) = {
            let mut state = self.state.lock();
            (state.durable, state.take_number())
        };
        let sources = claim.segments.iter().cloned().map(Source::Sealed).collect();
        let draft = Draft::new(sources, floor);
        let come = match draft.rows() {
            0 => None,
            _ => {
                let merged = self.or_removed(number, self.write_indexed(number, &draft, progress))?;
                Some((Arc::new(merged), Some(draft)))
            }
        };
        let gone = claim.segments.iter().map(|segment| segment.number()).collect();
        self.or_removed(number, self.commit_as_is(Change { gone, come }))?;
        drop(claim);
        self.sweep();
        Ok(true)
    }

    /// Refuses to write what would leave the log no space: a merge that fails for want of it fails everybody meanwhile.
    fn has_space_for(&self, segments: &[Arc<Sealed>]) -> Result<(), Fault> {
        let io = |error: std::io::Error| Fault::io(&self.dir, &error);
        let part = |segment: &Arc<Sealed>| {
            let kept =
                segment.disk_bytes() as f64 * f64::from(segment.live()) / f64::from(segment.rows().max(1));
            kept as u64
        };
        let needed: u64 = segments.iter().map(part).sum();
        let (free, whole) = (fs::free_bytes(&self.dir).map_err(io)?, fs::whole_bytes(&self.dir).map_err(io)?);
        if needed.saturating_add(SPARE_MAX.min(whole / SPARE_PART)) <= free {
            return Ok(());
        }
        let reason = format!("merging needs {needed} bytes, {free} are free");
        Err(Fault::Io { file: self.dir.clone(), reason, is_full: true })
    }

    /// What was done for the segment with this number; if it failed for want of space or was cancelled, without the folder
    /// that it left half made. After any other failure nothing is touched: which manifest is on the disk is not known.
    fn or_removed<T>(&self, number: u64, done: Result<T, Fault>) -> Result<T, Fault> {
        if let Err(Fault::Cancelled | Fault::Io { is_full: true, .. }) = &done
            && let Err(fault) = self.remove_folder(&segment_dir(&self.dir, number))
        {
            tracing::warn!(%fault, "a folder that is half made stays until the next start");
        }
        done
    }

    /// Goes on without the graphs of a segment. Nothing happens if the background works on it: it writes new ones.
    pub(super) fn drop_graphs(&self, segment: &Arc<Sealed>) -> Result<(), Fault> {
        let Some(claim) = self.claim_one(segment.number()) else { return Ok(()) };
        let come = claim.segments.first().map(|segment| (Arc::new(segment.without_graphs()), None));
        self.commit_as_is(Change { gone: vec![segment.number()], come })
    }

    /// Takes one segment, unless it is taken or gone.
    fn claim_one(&self, number: u64) -> Option<Claim<'_>> {
        let mut state = self.state.lock();
        let segment = state.sealed.iter().find(|segment| segment.number() == number)?.clone();
        let is_free = state.busy.insert(number);
        drop(state);
        is_free.then(|| Claim { store: self, segments: vec![segment] })
    }

    fn write_indexed(&self, number: u64, draft: &Draft, progress: &Progress) -> Result<Sealed, Fault> {
        let mut merged = self.write(number, draft, progress)?;
        if let Some(whole) = draft.whole() {
            merged = merged.with_graphs(&merged.link_graphs(whole)?);
        }
        let (least, threads) = (self.options.graph_least(), self.options.index_threads);
        let _counted = self.under_way.begin(&merged);
        let graphs = merged.build_graphs(least, threads, progress)?;
        Ok(merged.with_graphs(&graphs))
    }

    fn write(&self, number: u64, draft: &Draft, progress: &Progress) -> Result<Sealed, Fault> {
        let dir = segment_dir(&self.dir, number);
        let (spec, shapes) = {
            let state = self.state.lock();
            (Arc::clone(&state.spec), Arc::clone(&state.shapes))
        };
        let (fields, compression) = (&spec.fields, self.options.compression);
        draft.write(&Plan { dir: &dir, number, shapes: &shapes, fields, compression, progress })?;
        Sealed::open(&dir, &shapes, &[])
    }

    /// Chooses the next step and takes its segments.
    fn claim(&self, choose: fn(&[Standing], &Limits) -> Option<Step>) -> Option<(Claim<'_>, Step)> {
        let mut state = self.state.lock();
        let step = choose(&state.standings(self.options.graph_least()), &self.options.limits())?;
        let numbers = match &step {
            Step::Merge(numbers) => numbers.clone(),
            Step::Index(number) => vec![*number],
        };
        let of = |segment: &&Arc<Sealed>| numbers.contains(&segment.number());
        let segments = state.sealed.iter().filter(of).cloned().collect();
        state.busy.extend(&numbers);
        drop(state);
        Some((Claim { store: self, segments }, step))
    }

    fn commit_as_is(&self, change: Change) -> Result<(), Fault> {
        let mut commit = self.commit.lock();
        let same = Committed { applied: commit.applied, machine: Arc::clone(&commit.machine) };
        self.change(&mut commit, same, change)
    }

    /// Commits the manifest of the changed set at `next`, then swaps.
    fn change(&self, commit: &mut Committed, next: Committed, change: Change) -> Result<(), Fault> {
        let (mut sealed, next_number) = {
            let state = self.state.lock();
            (state.sealed.clone(), state.next_number)
        };
        sealed.retain(|segment| !change.gone.contains(&segment.number()));
        if let Some((segment, draft)) = &change.come {
            carry(segment, draft.as_ref());
            sealed.push(Arc::clone(segment));
        }
        let segments = sealed.iter().map(|segment| SegmentEntry::of(segment, next.applied));
        let segments = segments.collect::<Result<_, _>>()?;
        let (applied, machine) = (next.applied, next.machine.to_vec());
        Manifest { applied, machine, next_number, segments }.write(&self.dir)?;
        *commit = next;
        self.swap(sealed, applied, &change);
        Ok(())
    }

    /// Puts the new set in place of the old one, for the writer and for views at the published index.
    fn swap(&self, sealed: Vec<Arc<Sealed>>, durable: LogIndex, change: &Change) {
        let mut state = self.state.lock();
        if let Some((segment, draft)) = &change.come {
            carry(segment, draft.as_ref());
        }
        let old = std::mem::replace(&mut state.sealed, sealed);
        let dropped = |segment: &Arc<Sealed>| state.sealed.iter().all(|s| s.number() != segment.number());
        let retired: Vec<Arc<Sealed>> = old.into_iter().filter(dropped).collect();
        state.retired.extend(retired);
        state.frozen.retain(|frozen| !change.gone.contains(&frozen.number));
        state.durable = durable;
        let published = self.published.load();
        let at = published.at;
        let come = change.come.as_ref().map(|(segment, _)| part(segment, at));
        let swapped: Published = published.replaced(&change.gone, come);
        self.published.store(Arc::new(swapped));
    }

    /// Removes the folders that nobody holds any more. A folder that the system keeps is no fault: the next open tries
    /// again.
    pub(super) fn sweep(&self) {
        let mut state = self.state.lock();
        let (unheld, held) = std::mem::take(&mut state.retired).into_iter().partition(Sealed::is_last_holder);
        state.retired = held;
        drop(state);
        let unheld: Vec<Arc<Sealed>> = unheld;
        for segment in unheld {
            if let Err(fault) = self.remove_folder(segment.dir()) {
                tracing::warn!(%fault, "a merged segment's folder stays until the next start");
            }
        }
    }

    fn remove_folder(&self, dir: &Path) -> Result<(), Fault> {
        let io = |error: std::io::Error| Fault::io(dir, &error);
        if fs::exists(dir).map_err(io)? { fs::remove_dir_all(dir).map_err(io) } else { Ok(()) }
    }
}

/// Carries over the deletions of the rows that the segment was made of.
fn carry(segment: &Sealed, draft: Option<&Draft>) {
    if planted::has(Bug::TombstonesDropped) {
        return;
    }
    for (row, mark) in draft.into_iter().flat_map(Draft::marks) {
        segment.mark(row, mark);
    }
}

/// Members that a row may have before it counts as more than one.
const MEMBERS: usize = 1_024;

/// As how many rows each row of the segment counts in a merge: those with long lists fill a segment, whose members are numbered
/// by 31 bits, sooner than others.
fn weight(segment: &Sealed) -> u32 {
    u32::try_from(segment.members_per_row().div_ceil(MEMBERS)).unwrap_or(u32::MAX)
}

/// The segment in a view at `at`, which may lie before deletions that were applied already.
fn part(segment: &Arc<Sealed>, at: LogIndex) -> Part {
    let live = segment.kept_at(at);
    Part { number: segment.number(), segment: Arc::new(Arc::clone(segment).bind(at, live)) }
}

impl State {
    fn standings(&self, least: u32) -> Vec<Standing> {
        let idle = self.sealed.iter().filter(|segment| !self.busy.contains(&segment.number()));
        let standing = |segment: &Arc<Sealed>| {
            let weight = weight(segment);
            Standing {
                number: segment.number(),
                rows: segment.rows().saturating_mul(weight),
                kept: segment.kept_at(self.durable).saturating_mul(weight),
                is_unindexed: segment.unindexed(least).0 > 0,
                is_stale: *segment.fields() != self.spec.fields,
            }
        };
        idle.map(standing).collect()
    }
}

/// Segments that one background call works on; nobody else takes them meanwhile.
struct Claim<'a> {
    store: &'a Store,
    segments: Vec<Arc<Sealed>>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.store.state.lock();
        for segment in &self.segments {
            state.busy.remove(&segment.number());
        }
    }
}

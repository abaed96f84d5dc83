//! Moving slots: what the leader of a partition does about slots that leave it, came to it, or are left over.
//!
//! One [`Keeper`] per replica watches the placement map and its machine's state and asks [`decide`] what is to be done. It
//! acts by commands alone, so a keeper of a replica that does not lead is refused and waits; and whatever it was doing
//! when its process ended, the next one finds in the state and goes on from there.
//!
//! ```text
//! Begin (fence) -> BeginImport (where were we?) -> copy -> tail, round by round -> Freeze -> last round, answers
//!   -> HandOver -> the meta group commits -> End -> Drop
//! ```
//!
//! Any error ends the attempt; the next one begins with a new fence and asks the taker how far it is. What must hold for
//! that is told in [`crate::machine::moves`].
//!
//! **What a reader and a writer notice.** Writes of the slots wait from `Freeze` until the new map: one round over fewer
//! than [`Pace::tail_min`] keys, four log entries and one of the meta group. Reads of them wait from `HandOver` on: one entry
//! of the meta group. A record that moved has the log index of its import as its version; a commit token of the giver
//! says nothing about the taker, whose linearizable reads have everything.

mod give;
mod rows;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_proto::area::Area;
use flotilla_proto::ids::{LogIndex, PartitionId};
use flotilla_proto::placement::{CollectionPlacement, PlacementMap};
use flotilla_proto::refusal::Refusal;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::env::{clock, task};
use crate::machine::moves::{Cursor, Import, Ledger, Moves, Step, StepRejection};
use crate::storage::View;

/// Between attempts: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// How much is done in one go. The defaults are meant for a node; tests shrink them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Rows of one import, and keys of one drop, at most.
    pub rows: usize,
    /// Bytes of one import, about.
    pub bytes: usize,
    /// Touched keys that are few enough to freeze.
    pub tail_min: usize,
    /// Touched keys kept during a move, at most; with more it begins anew.
    pub touched_max: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { rows: 1_000, bytes: 1 << 20, tail_min: 1_000, touched_max: 1_000_000 }
    }
}

/// What a machine answers to a step.
pub type Stepped<T> = Result<Result<T, StepRejection>, Refusal>;

/// A replica, as far as moves need it.
pub trait Holder: Send + Sync + 'static {
    /// Which partition.
    fn id(&self) -> PartitionId;
    /// Proposes a step and waits until it is applied here.
    fn step(&self, step: Step) -> impl Future<Output = Stepped<LogIndex>> + Send;
    /// The newest state here: at least that of the last step.
    fn state(&self) -> View;
    /// What its machine shows.
    fn ledger(&self) -> Arc<Ledger>;
}

/// The partition that gets slots, wherever its leader is.
pub trait Taker: Send + Sync {
    /// Proposes [`Step::BeginImport`]; tells how far it is.
    fn begin(&self, step: Step) -> impl Future<Output = Stepped<Cursor>> + Send;
    /// Proposes [`Step::Import`].
    fn import(&self, import: Import) -> impl Future<Output = Stepped<()>> + Send;
}

/// What else a keeper reaches.
pub trait Reach: Send + Sync + 'static {
    /// A partition that gets slots.
    type Taker: Taker;
    /// The partition of this id in this collection.
    fn taker(&self, collection: &CollectionPlacement, id: PartitionId) -> Self::Taker;
    /// Asks the meta group to give the slots of the move to their new owner. Asking twice does no harm.
    fn commit(
        &self,
        collection: &CollectionPlacement,
        id: u64,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Waits until so many bytes more may be copied. The copy alone waits: while writes wait for a move, it hurries.
    fn room(&self, _bytes: usize) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// The map has a move from here: drive it.
    Give,
    /// A move from here ended.
    End {
        /// The move.
        id: u64,
        /// Whether it was committed.
        given: bool,
    },
    /// A move to here ended.
    EndImport {
        /// The move.
        id: u64,
        /// Whether it was committed.
        taken: bool,
    },
    /// Rows are left over.
    Drop {
        /// The move.
        id: u64,
        /// Of these keys.
        area: Area,
    },
}

/// What is to be done next, by the map and the machine's state. A map from before a move says nothing about its end.
pub fn decide(map: &PlacementMap, id: PartitionId, moves: &Moves) -> Option<Work> {
    let (placement, _) = map.partition(id)?;
    let current = placement.slot_move.as_ref();
    let is_over = |of: u64| current.is_none_or(|now| now.id != of);
    if let Some(leaving) = moves.outgoing.as_ref().filter(|leaving| leaving.epoch <= map.epoch) {
        if !is_over(leaving.id) {
            return Some(Work::Give);
        }
        let given = !placement.area(id).overlaps(&leaving.area);
        return Some(Work::End { id: leaving.id, given });
    }
    if let Some(coming) = moves.incoming.as_ref().filter(|coming| coming.epoch <= map.epoch)
        && is_over(coming.id)
    {
        let taken = coming.area.is_within(&placement.area(id));
        return Some(Work::EndImport { id: coming.id, taken });
    }
    if let Some((id, area)) = moves.dropping.first() {
        return Some(Work::Drop { id: *id, area: area.clone() });
    }
    let begins = current.is_some_and(|now| now.from == id) && moves.outgoing.is_none();
    (begins && !moves.given.overlaps(&placement.moving())).then_some(Work::Give)
}

/// How far a move is. Written by the keeper, read by whoever tells an operator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// The move; 0: none.
    pub id: u64,
    /// 0 to 1.
    pub share: f64,
    /// What is being done.
    pub phase: &'static str,
    /// Rows sent.
    pub rows: u64,
}

/// Looks after the moves of one replica.
pub struct Keeper<H, R> {
    holder: Arc<H>,
    reach: Arc<R>,
    progress: Arc<Mutex<Progress>>,
    pace: Pace,
}

/// A keeper at work. Dropped, it stops.
pub struct Kept {
    task: task::JoinHandle<()>,
    progress: Arc<Mutex<Progress>>,
}

impl Kept {
    /// How far the move from here is.
    pub fn progress(&self) -> Progress {
        self.progress.lock().clone()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<H: Holder, R: Reach> Keeper<H, R> {
    /// A keeper over a replica.
    pub fn new(holder: Arc<H>, reach: Arc<R>) -> Keeper<H, R> {
        Keeper { holder, reach, progress: Arc::default(), pace: Pace::default() }
    }

    /// With another pace.
    pub fn with_pace(self, pace: Pace) -> Keeper<H, R> {
        Keeper { pace, ..self }
    }

    /// Starts it; it follows the map until it is dropped or the map's sender is gone.
    pub fn start(self, maps: watch::Receiver<Arc<PlacementMap>>) -> Kept {
        let progress = self.progress.clone();
        Kept { task: task::spawn(self.run(maps)), progress }
    }

    async fn run(self, mut maps: watch::Receiver<Arc<PlacementMap>>) {
        let mut states = self.holder.ledger().moves.subscribe();
        let failures = AtomicU64::new(0);
        loop {
            let map = maps.borrow_and_update().clone();
            let moves = states.borrow_and_update().clone();
            let Some(work) = decide(&map, self.holder.id(), &moves) else {
                tokio::select! {
                    changed = maps.changed() => if changed.is_err() { return },
                    changed = states.changed() => if changed.is_err() { return },
                }
                continue;
            };
            let done = tokio::select! {
                done = self.work(&map, &moves, work.clone()) => done,
                // Stopping anywhere is safe; what is half done is found in the state.
                () = overtaken(&mut maps, self.holder.id(), &moves, &work) => continue,
            };
            match done {
                Ok(Ok(())) => failures.store(0, Ordering::Relaxed),
                failed => {
                    tracing::debug!(partition = self.holder.id().0, ?failed, "a move waits");
                    let step = failures.fetch_add(1, Ordering::Relaxed).min(16);
                    clock::sleep(PAUSE.1.min(PAUSE.0 * (1 << step.min(7)))).await;
                }
            }
        }
    }

    /// Does one piece of work; a move is driven up to its commit.
    pub async fn work(&self, map: &PlacementMap, moves: &Moves, work: Work) -> Stepped<()> {
        let Some((placement, _)) = map.partition(self.holder.id()) else { return Ok(Ok(())) };
        match work {
            Work::Give => self.give(placement, map.epoch).await,
            Work::End { id, given } => self.step(Step::End { id, given }).await,
            Work::EndImport { id, taken } => self.step(Step::EndImport { id, taken }).await,
            Work::Drop { id, area } => self.drop_rows(moves, id, area).await,
        }
    }

    async fn step(&self, step: Step) -> Stepped<()> {
        Ok(self.holder.step(step).await?.map(drop))
    }

    /// Deletes the rows of an area, some at a time. None come meanwhile: the machine refuses them.
    async fn drop_rows(&self, moves: &Moves, id: u64, area: Area) -> Stepped<()> {
        let (area, rows_max) = (Arc::new(area), self.pace.rows);
        let mut after = None;
        loop {
            let (view, area) = (self.holder.state(), area.clone());
            let keys = rows::read(move || rows::keys(&view, &area, after, rows_max)).await?;
            let is_last = keys.len() < rows_max;
            after = keys.last().cloned();
            if let Err(why) = self.step(Step::Drop { id, keys, is_last }).await? {
                return Ok(Err(why));
            }
            if is_last {
                tracing::info!(
                    partition = self.holder.id().0,
                    id,
                    layout = moves.layout,
                    "the slots are gone"
                );
                return Ok(Ok(()));
            }
        }
    }
}

/// Waits until a newer map makes the work void: a move that was aborted need not be driven on.
async fn overtaken(
    maps: &mut watch::Receiver<Arc<PlacementMap>>,
    id: PartitionId,
    moves: &Moves,
    work: &Work,
) {
    while *work != Work::Give || decide(&maps.borrow_and_update(), id, moves).as_ref() == Some(work) {
        if maps.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

//! One attempt to give slots away, from the fence to the commit.

use std::ops::Bound;
use std::sync::Arc;

use flotilla_proto::area::Area;
use flotilla_proto::ids::{Epoch, LogIndex};
use flotilla_proto::placement::CollectionPlacement;
use flotilla_proto::refusal::Refusal;

use super::{Holder, Keeper, Reach, Stepped, Taker, rows};
use crate::machine::moves::{Cursor, Import, Outgoing, Step, StepRejection};
use crate::storage::row::StoredRow;

/// Rounds after which the writes are frozen even though more keys are left: they come faster than they are sent.
const ROUNDS_MAX: usize = 32;
/// Why an attempt ended before its time.
enum Stop {
    Rejected(StepRejection),
    Refused(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

/// A move on its way, in the hands of one driver.
struct Giving<'a, H, R: Reach> {
    keeper: &'a Keeper<H, R>,
    taker: R::Taker,
    id: u64,
    area: Arc<Area>,
    fence: LogIndex,
    sequence: u64,
}

impl<H: Holder, R: Reach> Keeper<H, R> {
    /// Drives the move that the map shows, up to its commit.
    pub(super) async fn give(&self, placement: &CollectionPlacement, epoch: Epoch) -> Stepped<()> {
        match self.attempt(placement, epoch).await {
            Ok(()) => Ok(Ok(())),
            Err(Stop::Rejected(rejection)) => Ok(Err(rejection)),
            Err(Stop::Refused(refusal)) => Err(refusal),
        }
    }

    async fn attempt(&self, placement: &CollectionPlacement, epoch: Epoch) -> Result<(), Stop> {
        let Some(slot_move) = &placement.slot_move else { return Ok(()) };
        let (id, to, area) = (slot_move.id, slot_move.to, placement.moving());
        let begin = Step::Begin { id, to, area: area.clone(), epoch, touched_max: self.pace.touched_max };
        let fence = taken(self.holder.step(begin).await)?;
        let Some(leaving) = self.leaving(id) else { return Ok(()) };
        let taker = self.reach.taker(placement, to);
        let import = Step::BeginImport {
            id,
            from: self.holder.id(),
            area: leaving.area.clone(),
            epoch,
            begun: leaving.begun,
            fence,
        };
        let cursor = taken(taker.begin(import).await)?;
        let area = Arc::new(leaving.area);
        let mut giving = Giving { keeper: self, taker, id, area, fence, sequence: 0 };
        self.note(id, "copy", 0.0, 0);
        giving.all(cursor, leaving.begun).await?;
        self.note(id, "commit", 1.0, 0);
        taken(self.holder.step(Step::HandOver { id }).await)?;
        self.reach.commit(placement, id).await?;
        tracing::info!(partition = self.holder.id().0, to = to.0, id, "the slots have a new owner");
        Ok(())
    }

    /// The move as the machine has it.
    fn leaving(&self, id: u64) -> Option<Outgoing> {
        self.holder.ledger().moves().outgoing.clone().filter(|leaving| leaving.id == id)
    }

    fn note(&self, id: u64, phase: &'static str, share: f64, rows: u64) {
        let mut progress = self.progress.lock();
        if progress.id != id {
            *progress = super::Progress { id, ..Default::default() };
        }
        progress.phase = phase;
        progress.share = share.clamp(0.0, 1.0);
        progress.rows += rows;
    }
}

fn taken<T>(stepped: Stepped<T>) -> Result<T, Stop> {
    stepped?.map_err(Stop::Rejected)
}

impl<H: Holder, R: Reach> Giving<'_, H, R> {
    /// Everything that the taker lacks.
    async fn all(&mut self, cursor: Cursor, begun: LogIndex) -> Result<(), Stop> {
        let shipped = match cursor {
            Cursor::Complete => return Ok(()),
            Cursor::Copy(after) => {
                self.copy(after, begun).await?;
                begun
            }
            Cursor::Tail(upto) => upto,
        };
        let shipped = self.tail(shipped).await?;
        taken(self.keeper.holder.step(Step::Freeze { id: self.id }).await)?;
        self.keeper.note(self.id, "last round", 0.99, 0);
        self.round(shipped).await?;
        self.answers().await
    }

    /// The rows as they are now; those that change later are touched.
    async fn copy(&mut self, after: Vec<u8>, begun: LogIndex) -> Result<(), Stop> {
        let mut after = (!after.is_empty()).then_some(after);
        let mut looked = 0;
        let pace = self.keeper.pace;
        loop {
            self.check()?;
            let (view, area, from) = (self.keeper.holder.state(), self.area.clone(), after.take());
            let run = rows::read(move || rows::run(&view, &area, from, pace.rows, pace.bytes)).await?;
            looked += run.looked;
            let cursor = run.after.clone().map_or(Cursor::Tail(begun), Cursor::Copy);
            let (count, is_last) = (run.rows.len() as u64, run.after.is_none());
            self.keeper.reach.room(run.rows.iter().map(StoredRow::size).sum()).await;
            self.import(Import { rows: run.rows, cursor, ..Import::default() }).await?;
            let share = looked as f64 / run.live.max(1) as f64;
            self.keeper.note(self.id, "copy", 0.95 * share, count);
            if is_last {
                return Ok(());
            }
            after = run.after;
        }
    }

    /// The move as it stands, if it may go on.
    fn check(&self) -> Result<Outgoing, Stop> {
        match self.keeper.leaving(self.id) {
            None => Err(Stop::Rejected(StepRejection::Ended)),
            Some(leaving) if leaving.is_overflowed => Err(Stop::Rejected(StepRejection::Overflowed)),
            Some(leaving) => Ok(leaving),
        }
    }

    /// Rounds over what was touched meanwhile, until little is left. Returns up to where the taker has everything.
    async fn tail(&mut self, mut shipped: LogIndex) -> Result<LogIndex, Stop> {
        for _ in 0..ROUNDS_MAX {
            let leaving = self.check()?;
            let left =
                self.keeper.holder.ledger().touched.lock().values().filter(|at| **at > shipped).count();
            if leaving.frozen.is_some() || left < self.keeper.pace.tail_min {
                break;
            }
            self.keeper.note(self.id, "changes", 0.95, 0);
            shipped = self.round(shipped).await?;
        }
        Ok(shipped)
    }

    /// The current state of every key touched behind `shipped`, up to a log index, which is returned.
    async fn round(&mut self, shipped: LogIndex) -> Result<LogIndex, Stop> {
        // The state first: what was touched up to it is in the ledger by then.
        let view = self.keeper.holder.state();
        let (upto, pace) = (view.at, self.keeper.pace);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let keys = self.touched(shipped, upto, after.take());
            let is_last = keys.len() < pace.rows;
            let (state, asked) = (view.clone(), keys.clone());
            let (rows, gone, looked) = rows::read(move || rows::of_keys(&state, &asked, pace.bytes)).await?;
            let is_last = is_last && looked == keys.len();
            let cursor = Cursor::Tail(if is_last { upto } else { shipped });
            let count = rows.len() as u64;
            self.import(Import { rows, gone, cursor, ..Import::default() }).await?;
            self.keeper.note(self.id, "changes", 0.96, count);
            if is_last {
                break;
            }
            after = looked.checked_sub(1).and_then(|last| keys.get(last).cloned());
        }
        taken(self.keeper.holder.step(Step::Shipped { id: self.id, upto }).await)?;
        Ok(upto)
    }

    /// Touched keys in order: those behind `shipped` and not behind `upto`.
    fn touched(&self, shipped: LogIndex, upto: LogIndex, after: Option<Vec<u8>>) -> Vec<Vec<u8>> {
        let ledger = self.keeper.holder.ledger();
        let touched = ledger.touched.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = touched.range::<Vec<u8>, _>((from, Bound::Unbounded));
        let these = range.filter(|(_, at)| **at > shipped && **at <= upto);
        these.take(self.keeper.pace.rows).map(|(key, _)| key.clone()).collect()
    }

    /// The answers that the giver gave, so that a request sent again is recognised. Nothing is left to come then.
    async fn answers(&mut self) -> Result<(), Stop> {
        let ledger = self.keeper.holder.ledger();
        let carried = ledger.carried(&self.area).into_iter();
        let answers = carried.map(|part| Import { carried: vec![part], ..Import::default() });
        let told = ledger.carried_told(&self.area).into_iter();
        let refusals = told.map(|part| Import { told: vec![part], ..Import::default() });
        let parts: Vec<Import> = answers.chain(refusals).collect();
        let last = parts.len().saturating_sub(1);
        for (n, part) in parts.into_iter().enumerate() {
            let cursor = if n == last { Cursor::Complete } else { self.import_cursor() };
            self.import(Import { cursor, ..part }).await?;
        }
        Ok(())
    }

    /// Before the answers are through, a new driver does the last round again.
    fn import_cursor(&self) -> Cursor {
        Cursor::Tail(self.keeper.leaving(self.id).and_then(|leaving| leaving.frozen).unwrap_or(self.fence))
    }

    async fn import(&mut self, import: Import) -> Result<(), Stop> {
        self.sequence += 1;
        let import = Import { id: self.id, fence: self.fence, sequence: self.sequence, ..import };
        taken(self.taker.import(import).await)
    }
}

//! Pages of records: which rows are on one, and what they hold.
//!
//! Both are worked out beside the request loop, but for what is quickly done: that is done where the call runs, since
//! to go to another thread and back takes longer.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::filter::Compiled;
use flotilla_proto::ids::LogIndex;
use flotilla_proto::order::OrderBy;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::schema::CollectionSpec;

use super::fresh::Fresh;
use super::reading::Reader;
use super::{Owned, Parts, Replica};
use crate::query::{self, Curtain, Stretch};
use crate::storage::{Fault, SegmentView, Soon, View};

/// So many records are read where the call runs.
const ROWS_AT_ONCE: usize = 16;

/// Looks at so many values of indexes are made where the call runs: a tenth of a millisecond's worth. 2026-11-23, an equality that
/// one of 500,000 rows in 4 partitions passes, on one core: see `benches/results/2026-11-23-records.txt`.
const VALUES_AT_ONCE: u64 = 32_000;

/// Whether indexes tell with few looks which rows of the view pass.
fn is_quickly_told(view: &View, filter: &Compiled) -> bool {
    let costs = view.segments().map(|segment| segment.cost(filter));
    view.segments().all(|segment| segment.answers(filter))
        && costs.fold(0, u64::saturating_add) <= VALUES_AT_ONCE
}

/// A page in order.
#[derive(Debug)]
pub struct Scan {
    /// The condition.
    pub filter: Option<Compiled>,
    /// In which order, and where it begins.
    pub from: Start,
    /// Records wanted.
    pub limit: usize,
    /// What comes with each.
    pub parts: Parts,
    /// Whether the state that is shown will be asked for again.
    pub keep: bool,
}

/// The order of a page, and where the page before ended.
#[derive(Debug)]
pub enum Start {
    /// By key.
    Key(Stretch),
    /// By a field, then by key.
    Place(OrderBy, Option<Vec<u8>>),
}

/// A page.
#[derive(Debug)]
pub struct Scanned {
    /// Its records, each encoded for the wire.
    pub records: Vec<Bytes>,
    /// The place of each in the order of a field; none by key.
    pub places: Vec<Vec<u8>>,
    /// Whether there are more.
    pub more: bool,
    /// The view's log index.
    pub at: LogIndex,
}

/// A page of a view that stands still.
struct Page {
    view: View,
    curtain: Option<Arc<Curtain>>,
    spec: Arc<CollectionSpec>,
    scan: Scan,
}

/// The rows of a page, as (segment, row).
struct Found {
    rows: Vec<(usize, u32)>,
    places: Vec<Vec<u8>>,
    more: bool,
}

impl Page {
    /// Whether its rows are quickly found.
    fn is_light(&self) -> bool {
        let Scan { filter, from, limit, .. } = &self.scan;
        match (&self.curtain, from, filter) {
            (Some(_), ..) | (None, Start::Place(..), _) => false,
            (None, Start::Key(_), None) => *limit <= ROWS_AT_ONCE,
            (None, Start::Key(stretch), Some(filter)) => {
                stretch.prefix.is_none() && is_quickly_told(&self.view, filter)
            }
        }
    }

    fn find(&self, cancelled: &dyn Fn() -> bool) -> Result<Found, Fault> {
        let Scan { filter, from, limit, .. } = &self.scan;
        let segments: Vec<&dyn SegmentView> = self.view.segments().collect();
        Curtain::over(self.curtain.as_deref(), &segments, |segments| match from {
            Start::Key(stretch) => {
                let (rows, more) = query::scan(segments, filter.as_ref(), stretch, *limit)?;
                Ok(Found { rows, places: vec![], more })
            }
            Start::Place(order, after) => {
                let after = after.as_deref();
                let (placed, more) =
                    query::ordered(segments, order, filter.as_ref(), after, *limit, cancelled)?;
                let rows = placed.iter().map(|placed| (placed.segment, placed.row)).collect();
                Ok(Found { rows, places: placed.into_iter().map(|placed| placed.place).collect(), more })
            }
        })
    }

    fn read(&self, found: &Found) -> Result<Vec<Bytes>, Fault> {
        let segments: Vec<&dyn SegmentView> = self.view.segments().collect();
        let mut reader = Reader::new(&self.spec, &self.scan.parts, found.rows.len());
        let ask = |row: Option<&(usize, u32)>, what| {
            if let Some((segment, row)) = row {
                segments[*segment].prefetch(*row, what);
            }
        };
        for (at, (segment, row)) in found.rows.iter().enumerate() {
            ask(found.rows.get(at + 2 * query::ROWS_AHEAD), Soon::Places);
            ask(found.rows.get(at + query::ROWS_AHEAD), Soon::Parts);
            let segment: &dyn SegmentView = segments[*segment];
            reader.read(segment, *row, &segment.key(*row)?)?;
        }
        Ok(reader.records())
    }
}

impl Replica {
    /// A page.
    pub async fn scan(
        &self,
        scan: Scan,
        at: LogIndex,
        fresh: Fresh,
        owned: &Owned,
    ) -> Result<Scanned, Refusal> {
        let view = self.view_of_at(at, fresh, owned).await?;
        let curtain = self.seat.curtain(&view, owned)?;
        let (at, shown) = (view.at, scan.keep.then(|| view.clone()));
        let page = Page { view, curtain, spec: self.store.spec(), scan };
        let broken = |fault: Fault| self.broken(&fault);
        let found = page.is_light().then(|| page.find(&|| false)).transpose().map_err(broken)?;
        let (records, found) = match found {
            Some(found) if found.rows.len() <= ROWS_AT_ONCE => (page.read(&found).map_err(broken)?, found),
            found => {
                let work = move |cancelled: &dyn Fn() -> bool| {
                    let found = found.map_or_else(|| page.find(cancelled), Ok)?;
                    Ok((page.read(&found)?, found))
                };
                self.compute(work).await?
            }
        };
        let Found { places, more, .. } = found;
        if let Some(view) = shown.filter(|_| more) {
            self.views.keep_for_scan(&view);
        }
        Ok(Scanned { records, places, more, at })
    }

    /// How many records pass, and the view's log index.
    pub async fn count(
        &self,
        filter: Option<Compiled>,
        fresh: Fresh,
        owned: &Owned,
    ) -> Result<(u64, LogIndex), Refusal> {
        let view = self.view_of(fresh, owned).await?;
        let curtain = self.seat.curtain(&view, owned)?;
        let at = view.at;
        let is_told = filter.as_ref().is_none_or(|filter| is_quickly_told(&view, filter));
        let is_light = curtain.is_none() && is_told;
        let count = move || {
            let segments: Vec<&dyn SegmentView> = view.segments().collect();
            Curtain::over(curtain.as_deref(), &segments, |segments| query::count(segments, filter.as_ref()))
        };
        let count = match is_light {
            true => count().map_err(|fault| self.broken(&fault))?,
            false => self.compute(move |_| count()).await?,
        };
        Ok((count, at))
    }
}

//! Pages over all partitions, by key or in the order of a field.
//!
//! A [`Scan`] keeps, for each partition, the records fetched and not yet handed out, so that a stream of pages fetches each
//! record once. A single page starts from the token of the page before. If the placement changes on the way, the scan goes
//! on behind the last place handed out, by the newer view. A place is the key's bytes, or what the nodes say where there is an order.
//! Of keys that begin with a **prefix** only the partitions are asked that may own such.
//!
//! **One state.** Every page after the first names the states that the first one showed, and the node that has them ([`Shown`]);
//! the token carries them along. Where a node has given one up, or the placement changed, the partition shows a newer one
//! from there on, and the page says so.
//!
//! If the caller allows it, a partition that does not answer in time is **left out** of the page, and of all later pages of the
//! same stream; the coverage names it. The page after a single one asks it again, behind the last key as all others: so
//! no key comes twice, and what its keys before that were is missing, as the page before has said.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::convert::{key_of_encoded, key_to_wire};
use flotilla_proto::ids::{CollectionId, LogIndex, NodeId, PartitionId};
use flotilla_proto::limits::{LIMIT_MAX, MESSAGE_BYTES_MAX, PAGE_DEFAULT};
use flotilla_proto::order::OrderBy;
use flotilla_proto::placement::Partition;
use flotilla_proto::projection::Projection;
use flotilla_proto::record::Key;
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::schema::check_key_prefix;
use flotilla_proto::{passed, shard, v1};
use futures::Stream;
use futures::future::BoxFuture;
use tonic::Status;

use super::options::ReadOptions;
use super::token::Behind;
use super::{check_filter, records_per_call, token};
use crate::Router;
use crate::admission::Deadline;
use crate::coverage::Covered;
use crate::fanout::{Answer, Miss, Whom, gather};
use crate::merge::{self, Room, Run, Stop};
use crate::placement::View;

/// Records of a page of a stream, at most.
const STREAM_PAGE: usize = 1_000;
/// Bytes of a page, roughly at most; half a message, so that one large record more still fits.
const PAGE_BYTES: usize = MESSAGE_BYTES_MAX / 2;

/// One page.
pub async fn scan(
    router: &Router,
    request: v1::ScanRequest,
    deadline: Deadline,
) -> Result<passed::ScanResponse, Status> {
    let limit = if request.limit == 0 { PAGE_DEFAULT } else { request.limit };
    if limit > LIMIT_MAX {
        return Err(Violation::range("limit", 1, LIMIT_MAX, limit).into());
    }
    Scan::new(request)?.page(router, limit as usize, deadline).await
}

/// Pages one after the other, each fetched when the caller takes it. The first is fetched at once, so that a wrong request is
/// refused before the stream begins.
pub async fn scan_stream(
    router: Arc<Router>,
    request: v1::ScanRequest,
) -> Result<impl Stream<Item = Result<passed::ScanResponse, Status>> + Send + 'static, Status> {
    let left = if request.limit == 0 { u64::MAX } else { u64::from(request.limit) };
    let mut pages = Pages { router, scan: Scan::new(request)?, left };
    let first = pages.next().await?;
    let rest = if pages.is_over(&first) { None } else { Some(pages) };
    let rest = futures::stream::try_unfold(rest, |pages| async move {
        let Some(mut pages) = pages else { return Ok(None) };
        let page = pages.next().await?;
        let rest = if pages.is_over(&page) { None } else { Some(pages) };
        Ok(Some((page, rest)))
    });
    Ok(futures::StreamExt::chain(futures::stream::iter([Ok(first)]), rest))
}

/// The pages of a stream.
struct Pages {
    router: Arc<Router>,
    scan: Scan,
    left: u64,
}

impl Pages {
    async fn next(&mut self) -> Result<passed::ScanResponse, Status> {
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX).min(STREAM_PAGE);
        let (router, scan) = (&self.router, &mut self.scan);
        let page = router.batch(|deadline| scan.page(router, limit, deadline)).await?;
        self.left -= (page.items.len() as u64).min(self.left);
        Ok(page)
    }

    fn is_over(&self, page: &passed::ScanResponse) -> bool {
        page.next.is_empty() || self.left == 0
    }
}

/// A scan under way.
struct Scan {
    request: v1::ScanRequest,
    options: ReadOptions,
    collection: Option<CollectionId>,
    last: Option<Vec<u8>>,
    left_out: BTreeMap<PartitionId, Status>,
    cursors: Option<Cursors>,
    shown: Shown,
    /// Whether a partition shows a newer state than before.
    has_changed: bool,
}

/// The state of each partition that is shown: its log index, and the node that has it.
pub(super) type Shown = BTreeMap<PartitionId, (NodeId, LogIndex)>;

/// What is known of each partition, in the view's order.
struct Cursors {
    view: View,
    runs: Vec<Run<Bytes>>,
    /// How many of them are asked.
    asked: usize,
    answered: Vec<Option<(NodeId, LogIndex)>>,
}

impl Scan {
    fn new(request: v1::ScanRequest) -> Result<Scan, Violation> {
        let options = ReadOptions::new(request.read.as_ref())?;
        if request.descending && request.order_by.is_empty() {
            return Err(Violation::new("descending", "goes with order_by only"));
        }
        Projection::new(&request.fields)?;
        if let Some(prefix) = &request.key_prefix {
            check_key_prefix("key_prefix", prefix)?;
            if !request.order_by.is_empty() {
                return Err(Violation::new("key_prefix", "goes with the order of keys, not with order_by"));
            }
        }
        let left_out = BTreeMap::new();
        let (collection, last, cursors, shown) = (None, None, None, Shown::new());
        Ok(Scan { request, options, collection, last, left_out, cursors, shown, has_changed: false })
    }

    async fn page(
        &mut self,
        router: &Router,
        limit: usize,
        deadline: Deadline,
    ) -> Result<passed::ScanResponse, Status> {
        let name = self.request.collection.clone();
        let mut views = router.placement.views(&name, deadline);
        let mut page = Vec::new();
        let mut room = Room { records: limit, bytes: PAGE_BYTES };
        loop {
            let cursors = match self.cursors.take() {
                Some(cursors) => self.cursors.insert(cursors),
                None => {
                    let cursors = self.open(views.next().await?)?;
                    self.cursors.insert(cursors)
                }
            };
            match merge::page(&mut cursors.runs, &mut page, &mut room, Bytes::len) {
                Stop::Full => return self.answer(router, page, true),
                Stop::End => return self.answer(router, page, false),
                Stop::Dry => {}
            }
            if let Some((place, _)) = page.last() {
                self.last = Some(place.clone());
            }
            let time = self.options.deadline(deadline);
            let (request, options, last) = (&self.request, &self.options, self.last.as_deref());
            let ask = Ask { request, options, last, shown: &self.shown };
            match cursors.fill(router, ask, room, time).await {
                Ok(missing) => {
                    self.left_out.extend(missing);
                    for (partition, answered) in cursors.view.partitions.iter().zip(&cursors.answered) {
                        let Some(now) = *answered else { continue };
                        let before = self.shown.insert(partition.id, now);
                        self.has_changed |= before.is_some_and(|before| before.1 != now.1);
                    }
                }
                Err(Miss::Stale) => {
                    // By another layout, states from before say nothing of who has which record.
                    self.has_changed |= !self.shown.is_empty();
                    self.shown.clear();
                    self.cursors = None;
                }
                Err(Miss::Failed(status)) => return Err(status),
            }
        }
    }

    /// Starts, or starts over behind the last key, by `view`.
    fn open(&mut self, view: View) -> Result<Cursors, Status> {
        check_filter(&view, self.request.filter.as_ref())?;
        if !self.request.order_by.is_empty() {
            OrderBy::new(&self.request.order_by, self.request.descending, &view.spec)?;
        }
        match self.collection {
            None if !self.request.next.is_empty() => {
                let behind = token::decode(&self.request.next, view.id, (&self.request).into())?;
                self.last = Some(behind.last);
                // A state from before slots moved lacks what came since, and cannot tell.
                match behind.layout == view.layout() {
                    true => self.shown = behind.shown,
                    false => self.has_changed = !behind.shown.is_empty(),
                }
            }
            Some(id) if id != view.id => {
                return Err(Refusal::NotFound("collection", view.spec.name.clone()).into());
            }
            _ => {}
        }
        self.collection = Some(view.id);
        let prefix = self.request.key_prefix.as_deref();
        let is_asked = |ordinal: usize| prefix.is_none_or(|prefix| view.may_own_prefix(ordinal, prefix));
        let run = |(ordinal, partition): (usize, &Partition)| {
            let more = is_asked(ordinal) && !self.left_out.contains_key(&partition.id);
            Run { more, ..Run::default() }
        };
        let runs: Vec<Run<Bytes>> = view.partitions.iter().enumerate().map(run).collect();
        let asked = runs.iter().filter(|run| run.more).count();
        let answered = vec![None; view.partitions.len()];
        Ok(Cursors { view, runs, asked, answered })
    }

    fn answer(
        &mut self,
        router: &Router,
        page: Vec<(Vec<u8>, Bytes)>,
        is_full: bool,
    ) -> Result<passed::ScanResponse, Status> {
        if let Some((place, _)) = page.last() {
            self.last = Some(place.clone());
        }
        let cursors = self.cursors.as_ref();
        let more = |c: &Cursors| c.runs.iter().any(|run| run.more || !run.records.is_empty());
        let next = match (&self.last, self.collection, cursors) {
            (Some(last), Some(id), Some(cursors)) if is_full && more(cursors) => {
                let (last, layout, shown) = (last.clone(), cursors.view.layout(), self.shown.clone());
                token::encode(id, (&self.request).into(), &Behind { last, layout, shown })
            }
            _ => String::new(),
        };
        let mut covered = Covered::default();
        for (partition, answered) in cursors.iter().flat_map(|c| c.view.partitions.iter().zip(&c.answered)) {
            match (self.left_out.get(&partition.id), answered) {
                (Some(why), _) => covered.missed(partition.id, why),
                (None, Some((node, index))) => covered.answered(partition.id, *index, *node),
                (None, None) => {}
            }
        }
        Ok(passed::ScanResponse {
            items: page.into_iter().map(|(_, record)| record).collect(),
            next,
            coverage: Some(router.metrics.covered("scan", covered)?),
            changed: std::mem::take(&mut self.has_changed),
        })
    }
}

/// What a scan asks of each partition.
#[derive(Clone, Copy)]
struct Ask<'a> {
    request: &'a v1::ScanRequest,
    options: &'a ReadOptions,
    last: Option<&'a [u8]>,
    shown: &'a Shown,
}

impl Cursors {
    /// Asks each partition whose known records are used up for its next ones. Returns those that may be left out and were.
    async fn fill(
        &mut self,
        router: &Router,
        Ask { request, options, last, shown }: Ask<'_>,
        room: Room,
        deadline: Deadline,
    ) -> Result<Vec<(PartitionId, Status)>, Miss> {
        let limit = self.share(request.with_vectors, room.records);
        let is_ordered = !request.order_by.is_empty();
        // Of a scan by key, places are keys: a token that says otherwise is not ours.
        let after = match last.filter(|_| !is_ordered) {
            Some(last) => Some(
                Key::from_bytes(last)
                    .ok_or_else(|| Status::from(Violation::new("next", "is not a token of a scan")))?,
            ),
            None => None,
        };
        let after = after.as_ref().map(key_to_wire);
        let view = &self.view;
        let is_dry = |run: &Run<Bytes>| run.records.is_empty() && run.more;
        let dry: Vec<usize> = (0..self.runs.len()).filter(|at| is_dry(&self.runs[*at])).collect();
        let one = |at: &usize| -> BoxFuture<'_, _> {
            let id = view.partitions[*at].id;
            let known = shown.get(&id).copied();
            let whom = known.map_or(Whom::Reader(options), |(node, index)| Whom::Viewer(node, index));
            let named = known.map_or(0, |(_, index)| index);
            let after = after.clone();
            Box::pin(router.fanout.call(view, id, deadline, ("scan", whom), move |mut shard, call| {
                let message = call.request(shard::ScanRequest {
                    target: call.target(),
                    filter: request.filter.clone(),
                    limit,
                    after: after.clone(),
                    with_payload: request.with_payload,
                    with_vectors: request.with_vectors,
                    view: named,
                    keep: true,
                    fields: request.fields.clone(),
                    order_by: request.order_by.clone(),
                    descending: request.descending,
                    key_prefix: request.key_prefix.clone().unwrap_or_default(),
                    after_place: last.filter(|_| is_ordered).unwrap_or_default().to_vec(),
                });
                async move { shard.scan(message).await }
            }))
        };
        let ends: Vec<Result<Answer<shard::ScanResponse>, Status>> =
            gather(dry.iter().map(one).collect(), options.allows_partial).await?;
        let mut missing = Vec::new();
        for (at, end) in dry.into_iter().zip(ends) {
            let id = self.view.partitions[at].id;
            match end {
                Ok(Answer { value, node }) => {
                    self.answered[at] = Some((node, value.log_index));
                    self.runs[at] = run(value, last, is_ordered)
                        .and_then(|run| of_prefix(run, request.key_prefix.as_deref()))
                        .map_err(|why| Status::from(Refusal::Internal(format!("partition {id}: {why}"))))?;
                }
                Err(why) => {
                    self.runs[at].more = false;
                    missing.push((id, why));
                }
            }
        }
        Ok(missing)
    }

    /// Records that each partition is asked for: its share of the page and a little more.
    fn share(&self, with_vectors: bool, wanted: usize) -> u32 {
        let partitions = self.asked.max(1);
        let even = wanted.div_ceil(partitions);
        let share = if partitions == 1 { wanted } else { (even + even / 4 + 8).min(wanted) };
        let fits = if with_vectors { records_per_call(&self.view, true) } else { LIMIT_MAX as usize };
        share.clamp(1, fits) as u32
    }
}

/// A node's page behind `last`. One that is out of order, or makes no way and yet is not the last, would lose records or
/// go round for ever: it is refused.
fn run(answer: shard::ScanResponse, last: Option<&[u8]>, is_ordered: bool) -> Result<Run<Bytes>, Violation> {
    let mut run = Run { records: VecDeque::with_capacity(answer.records.len()), more: answer.more };
    let mut places = answer.places.into_iter();
    for record in answer.records {
        let key = key_of_encoded("record.key", &record)?;
        let place = match is_ordered {
            true => places.next().ok_or_else(|| Violation::new("page", "has too few places"))?,
            false => key.to_bytes(),
        };
        let before = run.records.back().map(|(place, _)| place.as_slice()).or(last);
        if before.is_some_and(|before| *before >= *place) {
            return Err(Violation::new("page", format!("key `{key}` is out of order")));
        }
        run.records.push_back((place, record));
    }
    if run.more && run.records.is_empty() {
        return Err(Violation::new("page", "is empty and yet not the last"));
    }
    Ok(run)
}

/// The same run. One with other keys comes from a node that knows of no prefixes: it is refused.
fn of_prefix(run: Run<Bytes>, prefix: Option<&str>) -> Result<Run<Bytes>, Violation> {
    let begins = |prefix: &str, place: &[u8]| matches!(Key::from_bytes(place), Some(Key::Text(text)) if text.starts_with(prefix));
    match prefix {
        Some(prefix) if run.records.iter().any(|(place, _)| !begins(prefix, place)) => {
            Err(Violation::new("page", format!("holds a key that does not begin with `{prefix}`")))
        }
        _ => Ok(run),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn page(keys: &[u64], more: bool) -> shard::ScanResponse {
        let record = |key: &u64| {
            let key = Some(key_to_wire(&Key::Number(*key)));
            Bytes::from(v1::Record { key, ..Default::default() }.encode_to_vec())
        };
        shard::ScanResponse { records: keys.iter().map(record).collect(), more, log_index: 1, places: vec![] }
    }

    #[test]
    fn a_page_that_would_lose_records_or_go_round_is_refused() {
        let last = Key::Number(4).to_bytes();
        let run = |page| run(page, Some(&last), false);
        assert_eq!(run(page(&[5, 7], true)).unwrap().records.len(), 2);
        assert!(!run(page(&[], false)).unwrap().more);
        for wrong in [page(&[4, 5], true), page(&[6, 5], false), page(&[5, 5], false), page(&[], true)] {
            assert!(run(wrong).is_err());
        }
    }
}

//! The way of a write: check all of it, split it by partition, send the parts at once.
//!
//! Nothing is sent before the whole batch has passed, so that a batch with one bad record writes nothing. The request id
//! goes with each part; each partition answers a second sending from its memory of the first. A request that brings no id
//! gets one here ([`ids`]), so every write may be sent again and is applied once. A part that a node refuses because the
//! placement changed, or because its slots are moving, goes again by the newer placement, split anew if the keys fall
//! differently by then. Parts that were acknowledged stay: a partition remembers requests by the slots they were about, so
//! it takes records that moved to it since for what they are, new to it or not. What a partition left as it was comes back
//! with its place in the request, which goes with it. A deletion by filter has no keys to split
//! by: it goes again to every partition, and those that have done it say so.

pub(crate) mod ids;

use std::collections::BTreeMap;

use flotilla_proto::convert::{
    filter_from_wire, key_from_wire, record_from_wire, record_to_wire, write_mode_from_wire,
};
use flotilla_proto::filter::Compiled;
use flotilla_proto::ids::PartitionId;
use flotilla_proto::limits::BATCH_MAX;
use flotilla_proto::record::Key;
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::schema::{at_most, check_key, check_ttl};
use flotilla_proto::shard::write_request::Command;
use flotilla_proto::{shard, v1};
use futures::{Stream, StreamExt as _};
use tonic::Status;

use crate::Router;
use crate::admission::Deadline;
use crate::coverage::Covered;
use crate::fanout::{Miss, Whom, settle};
use crate::placement::View;

/// A part of a write: what one partition is told.
type Part = (PartitionId, Command);

/// What the partitions acknowledged.
#[derive(Default)]
pub(crate) struct Acknowledged {
    affected: BTreeMap<PartitionId, u64>,
    unnamed: BTreeMap<PartitionId, u64>,
    pub(crate) covered: Covered,
    /// By partition: a condition's second answer holds its first.
    conflicts: BTreeMap<PartitionId, Vec<v1::Conflict>>,
}

impl Acknowledged {
    /// One more part. Keys of two parts are distinct; a filter's second answer holds its first.
    fn take(&mut self, partition: PartitionId, affected: u64, is_whole: bool) {
        let known = self.affected.entry(partition).or_default();
        *known = if is_whole { affected } else { *known + affected };
    }

    /// What the part left as it was.
    fn take_left(
        &mut self,
        partition: PartitionId,
        conflicts: Vec<v1::Conflict>,
        unnamed: u64,
        is_whole: bool,
    ) {
        let known = self.conflicts.entry(partition).or_default();
        if is_whole {
            known.clear();
        }
        known.extend(conflicts);
        self.unnamed.insert(partition, unnamed);
    }

    /// Records written or deleted.
    pub(crate) fn affected(&self) -> u64 {
        self.affected.values().sum()
    }

    /// Those left as they were, by their places in the request.
    pub(crate) fn take_conflicts(&mut self) -> Vec<v1::Conflict> {
        let mut conflicts: Vec<v1::Conflict> =
            std::mem::take(&mut self.conflicts).into_values().flatten().collect();
        conflicts.sort_by_key(|conflict| conflict.place);
        conflicts
    }

    /// How many more were left.
    pub(crate) fn unnamed(&self) -> u64 {
        self.unnamed.values().sum()
    }
}

/// Inserts the records or replaces their namesakes, those that the mode lets pass; all are checked before any is sent.
pub async fn upsert(
    router: &Router,
    request: v1::UpsertRequest,
    deadline: Deadline,
) -> Result<v1::UpsertResponse, Status> {
    let view = router.placement.view(&request.collection, deadline).await?;
    let mode = write_mode_from_wire(request.mode)?;
    let ttl_ms = request.ttl_ms;
    check_ttl(ttl_ms)?;
    let records = checked(&view, request.records, mode)?;
    let is_plain = mode == v1::WriteMode::Upsert && ttl_ms == 0;
    let command = if is_plain && records.iter().all(|record| record.expires_at_ms.is_none()) {
        Command::Upsert(shard::Records { records })
    } else {
        let places = (0..).take(records.len()).collect();
        Command::UpsertIf(shard::RecordsIf { records, mode: mode.into(), places, ttl_ms })
    };
    let mut done = write(router, &request.collection, command, request.request, deadline).await?;
    let conflicts = done.take_conflicts();
    Ok(v1::UpsertResponse { upserted: done.affected(), coverage: Some(done.covered.told()?), conflicts })
}

/// The records, ready to send; the first that does not fit is named.
fn checked(view: &View, records: Vec<v1::Record>, mode: v1::WriteMode) -> Result<Vec<v1::Record>, Violation> {
    at_most("records", "records", BATCH_MAX, records.len())?;
    let check = |(n, record): (usize, v1::Record)| {
        let at = format!("records[{n}]");
        let mut record = record_from_wire(&at, record)?;
        view.spec.check_record(&at, &record)?;
        if mode != v1::WriteMode::IfVersion {
            record.version = 0;
        }
        Ok(record_to_wire(record))
    };
    records.into_iter().enumerate().map(check).collect()
}

/// Applies batches in the order in which they come, one after the other. `admit` is asked before each.
///
/// # Errors
/// That of the first batch refused; it says how much was acknowledged before.
pub async fn upsert_stream<S>(router: &Router, mut batches: S) -> Result<v1::UpsertStreamResponse, Status>
where
    S: Stream<Item = Result<v1::UpsertRequest, Status>> + Unpin,
{
    let mut answer = v1::UpsertStreamResponse::default();
    let mut indexes: BTreeMap<u64, v1::PartitionIndex> = BTreeMap::new();
    while let Some(batch) = batches.next().await {
        let applied = match batch {
            Ok(batch) => router.batch(|deadline| upsert(router, batch, deadline)).await,
            Err(status) => Err(status),
        };
        let done = applied.map_err(|status| after(&answer, status))?;
        answer.upserted += done.upserted;
        answer.conflicts += done.conflicts.len() as u64;
        answer.batches += 1;
        for index in done.coverage.unwrap_or_default().indexes {
            let known = indexes.entry(index.partition).or_insert(index);
            if index.log_index > known.log_index {
                *known = index;
            }
        }
    }
    let count = u32::try_from(indexes.len()).unwrap_or(u32::MAX);
    answer.coverage = Some(v1::Coverage {
        partitions_asked: count,
        partitions_answered: count,
        indexes: indexes.into_values().collect(),
        missing: Vec::new(),
    });
    Ok(answer)
}

fn after(answer: &v1::UpsertStreamResponse, status: Status) -> Status {
    let message = format!(
        "after {} batches of {} records were acknowledged: {}",
        answer.batches,
        answer.upserted,
        status.message()
    );
    Status::with_details(status.code(), message, bytes::Bytes::copy_from_slice(status.details()))
}

/// Deletes the records of these keys, or all that a filter matches.
pub async fn delete(
    router: &Router,
    request: v1::DeleteRequest,
    deadline: Deadline,
) -> Result<v1::DeleteResponse, Status> {
    let view = router.placement.view(&request.collection, deadline).await?;
    let command = match request.target {
        None => return Err(Violation::new("target", "keys or a filter is needed").into()),
        Some(v1::delete_request::Target::Keys(list)) => {
            at_most("keys", "keys", BATCH_MAX, list.keys.len())?;
            list.keys.iter().enumerate().try_for_each(|(n, key)| {
                let at = format!("keys[{n}]");
                check_key(&at, &key_from_wire(&at, Some(key.clone()))?)
            })?;
            Command::Delete(list)
        }
        Some(v1::delete_request::Target::Filter(filter)) => {
            Compiled::new(&filter_from_wire(filter.clone())?, &view.spec)?;
            Command::DeleteFilter(filter)
        }
    };
    let done = write(router, &request.collection, command, request.request, deadline).await?;
    Ok(v1::DeleteResponse { deleted: done.affected(), coverage: Some(done.covered.told()?) })
}

/// Splits, sends, and sends again what was refused as stale.
pub(crate) async fn write(
    router: &Router,
    name: &str,
    command: Command,
    request: Option<v1::RequestId>,
    deadline: Deadline,
) -> Result<Acknowledged, Status> {
    let given = request.filter(|id| id.client != 0);
    let held = given.is_none().then(|| router.ids.take(&router.chance));
    let request = given.or(held.as_ref().map(|held| held.id));
    let mut views = router.placement.views(name, deadline);
    let mut done = Acknowledged::default();
    let mut view = views.next().await?;
    let mut parts = split(&view, command)?;
    loop {
        parts = send(router, &view, parts, request, deadline, &mut done).await?;
        if parts.is_empty() {
            return Ok(done);
        }
        let newer = views.next().await?;
        if newer.id != view.id {
            let why = format!(
                "collection `{name}` was deleted and made anew during the write; {} records were acknowledged",
                done.affected()
            );
            return Err(Refusal::Aborted(why).into());
        }
        if !newer.has_layout_of(&view) {
            parts = rejoin(parts).map_or(Ok(Vec::new()), |command| split(&newer, command))?;
        }
        view = newer;
    }
}

/// Sends the parts at once. Returns those that were refused as stale; fails if one failed otherwise.
async fn send(
    router: &Router,
    view: &View,
    parts: Vec<Part>,
    request: Option<v1::RequestId>,
    deadline: Deadline,
    done: &mut Acknowledged,
) -> Result<Vec<Part>, Status> {
    let call = |(partition, command): &Part| -> futures::future::BoxFuture<'_, _> {
        let (partition, command) = (*partition, command.clone());
        Box::pin(router.fanout.call(
            view,
            partition,
            deadline,
            ("write", Whom::Leader),
            move |mut shard, call| {
                let target = call.target();
                let message =
                    call.request(shard::WriteRequest { target, request, command: Some(command.clone()) });
                async move { shard.write(message).await }
            },
        ))
    };
    let ends = settle(parts.iter().map(call).collect()).await;
    let mut stale = Vec::new();
    let mut failure = None;
    for (part, end) in parts.into_iter().zip(ends) {
        match end {
            Ok(written) => {
                let value: shard::WriteResponse = written.value;
                let is_whole = matches!(part.1, Command::DeleteFilter(_) | Command::PatchMatching(_));
                done.take(part.0, value.affected, is_whole);
                done.take_left(part.0, value.conflicts, value.unnamed, is_whole);
                done.covered.acknowledged(part.0, value.log_index, written.node);
            }
            Err(Miss::Stale) => stale.push(part),
            Err(Miss::Failed(status)) => failure = failure.or(Some(status)),
        }
    }
    failure.map_or(Ok(stale), Err)
}

/// The parts of a command, by partition.
fn split(view: &View, command: Command) -> Result<Vec<Part>, Status> {
    let owner = |field: &str, key: Option<v1::Key>| -> Result<PartitionId, Status> {
        let key: Key = key_from_wire(field, key)?;
        let partition = view.partition_of(&key).map(|p| p.id);
        partition.ok_or_else(|| Status::internal(format!("the map gives key `{key}` no partition")))
    };
    match command {
        Command::Upsert(batch) => {
            let mut parts: BTreeMap<PartitionId, Vec<v1::Record>> = BTreeMap::new();
            for record in batch.records {
                parts.entry(owner("records.key", record.key.clone())?).or_default().push(record);
            }
            let part = |(p, records)| (p, Command::Upsert(shard::Records { records }));
            Ok(parts.into_iter().map(part).collect())
        }
        Command::UpsertIf(shard::RecordsIf { records, mode, places, ttl_ms }) => {
            let mut parts: BTreeMap<PartitionId, shard::RecordsIf> = BTreeMap::new();
            for (record, place) in records.into_iter().zip(places) {
                let part = parts.entry(owner("records.key", record.key.clone())?).or_default();
                (part.mode, part.ttl_ms) = (mode, ttl_ms);
                part.records.push(record);
                part.places.push(place);
            }
            Ok(parts.into_iter().map(|(p, part)| (p, Command::UpsertIf(part))).collect())
        }
        Command::Delete(list) => {
            let mut parts: BTreeMap<PartitionId, Vec<v1::Key>> = BTreeMap::new();
            for key in list.keys {
                parts.entry(owner("keys", Some(key.clone()))?).or_default().push(key);
            }
            Ok(parts.into_iter().map(|(p, keys)| (p, Command::Delete(v1::KeyList { keys }))).collect())
        }
        Command::Patch(shard::Patches { patches, places }) => {
            let mut parts: BTreeMap<PartitionId, shard::Patches> = BTreeMap::new();
            for (patch, place) in patches.into_iter().zip(places) {
                let part = parts.entry(owner("patches.key", patch.key.clone())?).or_default();
                part.patches.push(patch);
                part.places.push(place);
            }
            Ok(parts.into_iter().map(|(p, part)| (p, Command::Patch(part))).collect())
        }
        Command::PatchMatching(matching) => {
            Ok(view.partitions.iter().map(|p| (p.id, Command::PatchMatching(matching.clone()))).collect())
        }
        Command::Replace(step) => {
            Ok(view.partitions.iter().map(|p| (p.id, Command::Replace(step.clone()))).collect())
        }
        Command::DeleteFilter(filter) => {
            Ok(view.partitions.iter().map(|p| (p.id, Command::DeleteFilter(filter.clone()))).collect())
        }
    }
}

/// The command that was split into these parts. There is at least one.
fn rejoin(parts: Vec<Part>) -> Option<Command> {
    parts.into_iter().map(|(_, command)| command).reduce(|mut whole, part| {
        match (&mut whole, part) {
            (Command::Upsert(whole), Command::Upsert(part)) => whole.records.extend(part.records),
            (Command::UpsertIf(whole), Command::UpsertIf(part)) => {
                whole.records.extend(part.records);
                whole.places.extend(part.places);
            }
            (Command::Patch(whole), Command::Patch(part)) => {
                whole.patches.extend(part.patches);
                whole.places.extend(part.places);
            }
            (Command::Delete(whole), Command::Delete(part)) => whole.keys.extend(part.keys),
            // A condition is the same in each part, and no two parts are of two kinds.
            _ => {}
        }
        whole
    })
}

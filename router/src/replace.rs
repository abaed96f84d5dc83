//! Replacing a generation: the records that match a filter become another set, in one step for every reader.
//!
//! ```text
//! open at the meta group -> Begin in every partition -> Stage, as the set streams in
//!   -> commit at the meta group: a new epoch -> Settle in every partition -> the answer
//! ```
//!
//! Until the commit nothing is to be seen, and whatever fails leaves everything as it was: the replacement is closed at the
//! meta group, and the partitions let go of what they held back. After it the replacement is done, whoever dies: partitions
//! take it up before they answer at the new epoch. Sent again under the same id, a replacement that was committed is
//! answered as the first time.
//!
//! The set is held back by the partitions, so the router keeps no more of it than a batch for each of them, and a client that
//! sends faster than they take waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::convert::{filter_from_wire, record_from_wire, record_to_wire};
use flotilla_proto::filter::Compiled;
use flotilla_proto::ids::{CollectionId, PartitionId};
use flotilla_proto::limits::BATCH_MAX;
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::schema::at_most;
use flotilla_proto::shard::replace_request::Turn;
use flotilla_proto::shard::replace_step::Step;
use flotilla_proto::shard::write_request::Command;
use flotilla_proto::{shard, v1};
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::time::Instant;
use tonic::Status;

use crate::Router;
use crate::admission::{Deadline, exceeded};
use crate::coverage::Covered;
use crate::fanout::meta::Resend;
use crate::fanout::{Answer, Miss, Whom, settle};
use crate::placement::View;

/// Bytes of a part that is sent before it has all the records it may have.
const PART_BYTES: usize = 1 << 20;
/// How often each partition gets a part, were it an empty one: it tells that the replacement goes on.
const PART_EVERY: Duration = Duration::from_secs(15);
/// How long a client may keep silent.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// What one partition gets.
#[derive(Default)]
struct Way {
    sequence: u64,
    records: Vec<v1::Record>,
    bytes: usize,
}

/// A replacement under way. Dropped before its end, it is closed.
struct Replace {
    router: Arc<Router>,
    view: View,
    id: v1::RequestId,
    filter: v1::Filter,
    /// From which on nodes know of it.
    epoch: u64,
    is_over: bool,
}

/// Replaces all records that match by the set that streams in.
///
/// # Errors
/// That of the first message or record refused, or of the partition that failed; nothing changed then, unless the status
/// says that the outcome is not known.
pub async fn replace<S>(router: &Arc<Router>, mut messages: S) -> Result<v1::ReplaceResponse, Status>
where
    S: Stream<Item = Result<v1::ReplaceRequest, Status>> + Unpin,
{
    let first = next(&mut messages).await?;
    let first = first.ok_or_else(|| Violation::new("collection", "is missing: the stream has no message"))?;
    let view = router.batch(|deadline| router.placement.view(&first.collection, deadline)).await?;
    let filter = first.filter.ok_or_else(|| Violation::new("filter", "is missing"))?;
    let condition = Compiled::new(&filter_from_wire(filter.clone())?, &view.spec)?;
    let given = first.request.filter(|id| id.client != 0);
    let held = given.is_none().then(|| router.ids.take(&router.chance));
    let Some(id) = given.or(held.as_ref().map(|held| held.id)) else {
        return Err(Status::internal("a replacement got no id"));
    };
    let mut replace = Replace { router: router.clone(), view, id, filter, epoch: 0, is_over: true };
    if replace.open().await? {
        let settled = replace.begin().await?;
        replace.stream(&condition, first.records, messages).await?;
        replace.commit(settled).await?;
    }
    replace.settle().await
}

/// The next message, if it comes in time.
async fn next<S>(messages: &mut S) -> Result<Option<v1::ReplaceRequest>, Status>
where
    S: Stream<Item = Result<v1::ReplaceRequest, Status>> + Unpin,
{
    match tokio::time::timeout(SILENCE_MAX, messages.next()).await {
        Ok(message) => message.transpose(),
        Err(_) => Err(exceeded(&format!("nothing came for {} s", SILENCE_MAX.as_secs()))),
    }
}

impl Replace {
    /// False: it was committed before.
    async fn open(&mut self) -> Result<bool, Status> {
        let opened = self.turn(Turn::Open, 0).await?;
        self.epoch = opened.epoch;
        self.is_over = opened.generation != 0;
        Ok(!self.is_over)
    }

    /// Has every partition hold back what comes; returns the generation that all of them have reached.
    async fn begin(&self) -> Result<u64, Status> {
        let answers = self.tell_all(Step::Begin(self.filter.clone())).await?;
        Ok(answers.iter().map(|(_, answer)| answer.value.generation).min().unwrap_or(0))
    }

    /// Sends every record to its partition.
    async fn stream<S>(
        &self,
        condition: &Compiled,
        first: Vec<v1::Record>,
        mut messages: S,
    ) -> Result<(), Status>
    where
        S: Stream<Item = Result<v1::ReplaceRequest, Status>> + Unpin,
    {
        let mut ways: BTreeMap<PartitionId, Way> =
            self.view.partitions.iter().map(|partition| (partition.id, Way::default())).collect();
        let mut count = self.take(condition, first, 0, &mut ways)?;
        let mut due = Instant::now() + PART_EVERY;
        loop {
            for (partition, way) in &mut ways {
                while way.records.len() >= BATCH_MAX || way.bytes >= PART_BYTES {
                    self.send(*partition, way).await?;
                }
            }
            let message = {
                let next = next(&mut messages);
                tokio::pin!(next);
                loop {
                    match tokio::time::timeout_at(due, &mut next).await {
                        Ok(message) => break message?,
                        Err(_) => {
                            self.send_all(&mut ways).await?;
                            due = Instant::now() + PART_EVERY;
                        }
                    }
                }
            };
            let Some(message) = message else { break };
            if message.filter.is_some() || !message.collection.is_empty() || message.request.is_some() {
                let why = "belongs to the first message alone, like `filter` and `request`";
                return Err(Violation::new("collection", why).into());
            }
            count = self.take(condition, message.records, count, &mut ways)?;
            if Instant::now() >= due {
                self.send_all(&mut ways).await?;
                due = Instant::now() + PART_EVERY;
            }
        }
        ways.retain(|_, way| !way.records.is_empty());
        self.send_all(&mut ways).await
    }

    /// Puts checked records on their ways; `count` came before.
    fn take(
        &self,
        condition: &Compiled,
        records: Vec<v1::Record>,
        count: usize,
        ways: &mut BTreeMap<PartitionId, Way>,
    ) -> Result<usize, Status> {
        at_most("records", "records", BATCH_MAX, records.len())?;
        let came = records.len();
        for (n, record) in records.into_iter().enumerate() {
            let at = format!("records[{}]", count + n);
            let mut record = record_from_wire(&at, record)?;
            self.view.spec.check_record(&at, &record)?;
            if !condition.matches(&record.key, &record.payload) {
                let why = "does not match the filter: the next replacement would not replace it";
                return Err(Violation::new(at, why).into());
            }
            record.version = 0;
            let partition = self.view.partition_of(&record.key).map(|partition| partition.id);
            let way = partition.and_then(|id| ways.get_mut(&id));
            let way = way.ok_or_else(|| Status::internal("the map gives a key no partition"))?;
            let record = record_to_wire(record);
            way.bytes += record.encoded_len();
            way.records.push(record);
        }
        Ok(count + came)
    }

    /// Sends a part to each.
    async fn send_all(&self, ways: &mut BTreeMap<PartitionId, Way>) -> Result<(), Status> {
        let sends = ways.iter_mut().map(|(partition, way)| {
            let send: futures::future::BoxFuture<'_, _> = Box::pin(self.send(*partition, way));
            send
        });
        settle(sends.collect()).await.into_iter().collect()
    }

    /// Sends the next part of what is on the way to a partition.
    async fn send(&self, partition: PartitionId, way: &mut Way) -> Result<(), Status> {
        let mut bytes = 0;
        let fits = |record: &&v1::Record| {
            bytes += record.encoded_len();
            bytes <= 2 * PART_BYTES
        };
        let count = way.records.iter().take(BATCH_MAX).take_while(fits).count().max(1);
        let rest = way.records.split_off(count.min(way.records.len()));
        let records = std::mem::replace(&mut way.records, rest);
        way.bytes = way.records.iter().map(v1::Record::encoded_len).sum();
        way.sequence += 1;
        let step = Step::Stage(shard::ReplacePart { sequence: way.sequence, records });
        self.router.batch(|deadline| self.tell(partition, step, deadline)).await.map(drop)
    }

    async fn commit(&mut self, settled: u64) -> Result<(), Status> {
        let committed = self.turn(Turn::Commit, settled).await?;
        (self.epoch, self.is_over) = (committed.epoch, true);
        Ok(())
    }

    /// Has every partition take it up, and adds up what came of it.
    async fn settle(&self) -> Result<v1::ReplaceResponse, Status> {
        let answers = self.tell_all(Step::Settle(shard::ReplaceSettle {})).await?;
        let mut covered = Covered::default();
        let (mut written, mut removed) = (0, 0);
        for (partition, answer) in answers {
            written += answer.value.affected;
            removed += answer.value.removed;
            covered.acknowledged(partition, answer.value.log_index, answer.node);
        }
        Ok(v1::ReplaceResponse { written, removed, coverage: Some(covered.told()?) })
    }

    /// Tells the meta group. Each turn may be told again.
    async fn turn(&self, turn: Turn, settled: u64) -> Result<shard::ReplaceResponse, Status> {
        self.router.batch(|deadline| told(&self.router, self.view.id, self.id, turn, settled, deadline)).await
    }

    /// Tells every partition at once.
    async fn tell_all(&self, step: Step) -> Result<Vec<(PartitionId, Answer<shard::WriteResponse>)>, Status> {
        let tell = |deadline| {
            let calls = self.view.partitions.iter().map(|partition| {
                let call: futures::future::BoxFuture<'_, _> =
                    Box::pin(self.tell(partition.id, step.clone(), deadline));
                call
            });
            settle(calls.collect())
        };
        let ends = self.router.batch(|deadline| async move { Ok(tell(deadline).await) }).await?;
        let partitions = self.view.partitions.iter().map(|partition| partition.id);
        partitions.zip(ends).map(|(partition, end)| Ok((partition, end?))).collect()
    }

    /// Tells one partition, by whatever epoch it is now; the layout must be that of the beginning.
    async fn tell(
        &self,
        partition: PartitionId,
        step: Step,
        deadline: Deadline,
    ) -> Result<Answer<shard::WriteResponse>, Status> {
        let mut views = self.router.placement.views(&self.view.spec.name, deadline);
        let command = Command::Replace(shard::ReplaceStep { step: Some(step) });
        loop {
            let view = views.next().await?;
            if !view.has_layout_of(&self.view) {
                let why = "the collection's partitions changed during the replacement: send it again";
                return Err(Refusal::Aborted(why.to_owned()).into());
            }
            let send = |mut shard: shard::shard_client::ShardClient<_>, call: crate::fanout::Call| {
                let mut target = call.target();
                if let Some(target) = &mut target {
                    target.epoch = target.epoch.max(self.epoch);
                }
                let (request, command) = (Some(self.id), Some(command.clone()));
                let message = call.request(shard::WriteRequest { target, request, command });
                async move { shard.write(message).await }
            };
            match self.router.fanout.call(&view, partition, deadline, ("write", Whom::Leader), send).await {
                Ok(answer) => return Ok(answer),
                Err(Miss::Stale) => {}
                Err(Miss::Failed(status)) => return Err(status),
            }
        }
    }
}

async fn told(
    router: &Router,
    collection: CollectionId,
    id: v1::RequestId,
    turn: Turn,
    settled: u64,
    deadline: Deadline,
) -> Result<shard::ReplaceResponse, Status> {
    let collection_id = collection.to_string();
    let message = shard::ReplaceRequest { collection_id, id: Some(id), turn: turn.into(), settled };
    let send =
        |mut meta: shard::meta_client::MetaClient<_>, request| async move { meta.replace(request).await };
    router.fanout.meta(deadline, Resend::Freely, message, send).await
}

impl Drop for Replace {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let (router, collection, id) = (self.router.clone(), self.view.id, self.id);
        tokio::spawn(async move {
            let close = |deadline| told(&router, collection, id, Turn::Close, 0, deadline);
            if let Err(why) = router.batch(close).await {
                tracing::debug!(%why, "a replacement that was given up is closed when its partitions find out");
            }
        });
    }
}

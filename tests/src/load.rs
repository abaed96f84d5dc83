//! Clients at work: each makes one call after the other over keys that all share, and writes down what it was told.
//!
//! A client numbers its writes and so may be retried for by the router, hands its commit tokens to its session reads, and
//! goes to another router when its own does not answer; it never repeats a call itself, so that a failed call is seen as one.
//! Each record is made from its value alone: a record that mixes two writes is noticed; a patch replaces the field `value` and
//! nothing else. Writes that are decided record by record (on a condition, patches), records that expire, groups that are
//! replaced, and questions about the whole collection (scan, exact search, count, aggregation) stand in files of their own.

mod decided;
mod expiring;
mod groups;
mod owners;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flotilla_proto::v1;
use rand::Rng as _;
use rand::rngs::SmallRng;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use self::decided::{Sent, Wish, Write};
pub use self::groups::groups;
pub use self::owners::Owners;
use crate::api::{self, Api, int_of, vector_of};
use crate::history::{Act, Call, Freshness, Key, NEVER, Operation, Outcome, Position, Recorder};
use crate::seed::{Seed, unit_vector};
use crate::wait::eventually;

/// Dimensions of the vector `default`.
pub const DIMS: usize = 8;
/// Keys of one call, at most.
const BATCH_MAX: usize = 4;
/// The lag that bounded reads allow.
const LAG: Duration = Duration::from_millis(2_000);

/// What clients do, as histories call it; `refused` is what became of a record of one on a condition.
pub const VERBS: [&str; 16] = [
    "upsert",
    "upsert-stream",
    "upsert-if",
    "patch",
    "refused",
    "delete",
    "get",
    "get-in-session",
    "get-bounded",
    "scan",
    "search",
    "search-among",
    "search-words",
    "count",
    "aggregate",
    "replace",
];

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Work {
    /// On which collection; see [`collection`].
    pub collection: String,
    /// How many clients.
    pub clients: usize,
    /// Keys, shared by all clients: 1 and up.
    pub keys: Key,
    /// Between two calls of a client: the machine is shared with the servers.
    pub pace: Duration,
    /// How long a client waits for an answer.
    pub deadline: Duration,
    /// Whether replicas are read too: with tokens, and with a bounded lag.
    pub has_replica_reads: bool,
    /// By how much a server's wall clock may be off.
    pub clocks_off: Duration,
    /// A collection whose records are replaced group by group; see [`groups`].
    pub groups: Option<String>,
}

impl Work {
    /// The usual work on a collection: 8 clients, 5 seconds a call.
    pub fn on(collection: &str) -> Work {
        Work {
            collection: collection.to_owned(),
            clients: 8,
            keys: 60,
            pace: Duration::from_millis(6),
            deadline: Duration::from_secs(5),
            has_replica_reads: true,
            clocks_off: Duration::ZERO,
            groups: None,
        }
    }
}

/// A collection as the clients expect it.
pub fn collection(name: &str, partitions: u32) -> v1::CollectionSpec {
    let mut fields = ["value", "key", "base"].map(|field| (field, v1::FieldType::Integer)).to_vec();
    fields.push(("words", v1::FieldType::Text));
    v1::CollectionSpec { partitions, ..api::collection(name, DIMS as u32, fields) }
}

/// The key in messages: both kinds, sorted as the numbers are within each kind.
pub fn wire_key(key: Key) -> v1::Key {
    if key.is_multiple_of(2) { api::number_key(key) } else { api::key(format!("key-{key:06}")) }
}

/// The only record that an upsert of `value` to `key` makes.
pub fn record(key: Key, value: u64) -> v1::Record {
    patched(key, value, value)
}

/// The same, with the value that a patch gave it.
fn patched(key: Key, base: u64, value: u64) -> v1::Record {
    let fields = [("value", value), ("key", key), ("base", base)];
    let mut payload = fields.map(|(name, value)| (name, api::int(value as i64))).to_vec();
    payload.push(("words", api::text(format!("the record of {}", word(key)))));
    api::record(wire_key(key), unit_vector(base, DIMS), payload)
}

/// The word that only the record of this key has.
fn word(key: Key) -> String {
    format!("key{key}")
}

/// Clients at work. They stop when told to, or when dropped.
pub struct Load {
    recorder: Arc<Recorder>,
    is_over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    /// Where to ask who owns the keys, and who did at the start.
    router: Api,
    work: Work,
    owners: Owners,
}

impl Load {
    /// Sends the clients to work, spread over the routers. Loads that share a recorder may follow each other.
    ///
    /// # Errors
    /// If a router does not answer, or knows no such collection.
    pub async fn start(
        recorder: &Arc<Recorder>,
        routers: &[String],
        seed: &Seed,
        work: &Work,
    ) -> anyhow::Result<Load> {
        let first = routers.first().ok_or_else(|| anyhow::anyhow!("there is no router"))?;
        let router = Api::connect(first).await?.within(work.deadline);
        let owners = Owners::of(&router, &work.collection, work.keys).await?;
        let is_over = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for _ in 0..work.clients {
            let mut client = Client::new(recorder, routers, seed, work).await?;
            let is_over = is_over.clone();
            clients.push(tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    client.step().await;
                    tokio::time::sleep(client.work.pace).await;
                }
            }));
        }
        Ok(Load { recorder: recorder.clone(), is_over, clients, router, work: work.clone(), owners })
    }

    /// Waits until so many more calls are acknowledged.
    ///
    /// # Errors
    /// If they are not `within` this time; with the last failures.
    pub async fn progress(&self, calls: usize, within: Duration) -> anyhow::Result<()> {
        let count = || self.recorder.note(|history| history.acknowledged());
        let goal = count() + calls;
        let what = format!("{calls} calls are acknowledged");
        let done = eventually(&what, within, async || (count() >= goal).then_some(())).await;
        done.map_err(|why| why.context(self.last_failures()))
    }

    fn last_failures(&self) -> String {
        self.recorder.note(|history| {
            let failures: Vec<String> = history.failures().map(|call| format!("\n  {call}")).collect();
            format!(
                "the last of {} failures:{}",
                failures.len(),
                failures[failures.len().saturating_sub(8)..].concat()
            )
        })
    }

    /// Tells the history which keys have another owner than at the start.
    ///
    /// # Errors
    /// If nobody tells who owns them.
    pub async fn note_moved(&self) -> anyhow::Result<()> {
        let asked = async || Owners::of(&self.router, &self.work.collection, self.work.keys).await.ok();
        let now = eventually("the map is told", self.work.deadline * 4, asked).await?;
        self.owners.note_moved(&now, &self.recorder);
        Ok(())
    }

    /// Lets every client end its call, and stops.
    pub async fn stop(mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for client in std::mem::take(&mut self.clients) {
            // A client that gave up has said so in the test's output.
            let _ = client.await;
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.clients.iter().for_each(JoinHandle::abort);
    }
}

/// One client, that a test may also send step by step.
pub struct Client {
    id: u64,
    /// Its name in request ids.
    name: u64,
    serial: u64,
    /// The last write that can be sent again.
    last: Option<Sent>,
    /// The last replacement.
    last_set: Option<Vec<v1::ReplaceRequest>>,
    /// The records that it knows by their versions, with their values.
    known: BTreeMap<Key, (u64, u64)>,
    work: Work,
    draw: SmallRng,
    routers: Vec<Api>,
    router: usize,
    tokens: BTreeMap<u64, u64>,
    recorder: Arc<Recorder>,
}

/// What a call did to a key, or saw of it.
#[derive(Clone, Copy, Debug)]
struct Touch {
    key: Key,
    act: Act,
    version: Option<u64>,
    base: Option<u64>,
}

impl Touch {
    fn of(key: Key, act: Act) -> Touch {
        Touch { key, act, version: None, base: None }
    }
}

/// What a call said, for those who write it down.
struct Answer {
    coverage: Vec<v1::PartitionIndex>,
    touched: Vec<Touch>,
}

/// What a call that failed said, and what it may have done.
type Refused = (Status, Vec<Touch>);

impl Client {
    /// A client with connections of its own.
    ///
    /// # Errors
    /// If a router does not answer.
    pub async fn new(
        recorder: &Arc<Recorder>,
        routers: &[String],
        seed: &Seed,
        work: &Work,
    ) -> anyhow::Result<Client> {
        let mut connections = Vec::new();
        for url in routers {
            connections.push(Api::connect(url).await?.within(work.deadline));
        }
        Ok(Client::over(recorder, connections, seed, work))
    }

    /// A client over connections that somebody else made.
    pub fn over(recorder: &Arc<Recorder>, connections: Vec<Api>, seed: &Seed, work: &Work) -> Client {
        let id = recorder.client();
        let mut draw = seed.generator(id);
        Client {
            id,
            name: draw.random_range(1..u64::MAX),
            serial: 0,
            last: None,
            last_set: None,
            known: BTreeMap::new(),
            work: work.clone(),
            draw,
            router: usize::try_from(id).unwrap_or(0) % connections.len().max(1),
            routers: connections,
            tokens: BTreeMap::new(),
            recorder: recorder.clone(),
        }
    }

    /// How long it rests between two calls.
    pub fn pace(&self) -> Duration {
        self.work.pace
    }

    /// One call.
    pub async fn step(&mut self) {
        if self.work.groups.is_some() && self.draw.random_range(0..100) < groups::SHARE {
            return self.on_groups().await;
        }
        let chance = self.draw.random_range(0..100);
        match chance {
            0..32 => self.upsert().await,
            32..36 => self.upsert_if().await,
            36..42 => self.patch().await,
            42..45 => self.repeat().await,
            45..57 => self.delete().await,
            57..70 if self.work.has_replica_reads => self.get_in_session().await,
            70..76 if self.work.has_replica_reads => self.get_bounded().await,
            92..94 => self.aggregate().await,
            94 => self.count().await,
            95..97 => self.search_somehow().await,
            97.. => self.scan().await,
            _ => self.get(None).await,
        }
    }

    /// Writes every key anew.
    pub async fn upsert_all(&mut self) {
        let keys: Vec<Key> = (1..=self.work.keys).collect();
        for keys in keys.chunks(BATCH_MAX * 4) {
            self.upsert_keys(keys.to_vec()).await;
        }
    }

    /// Reads every key and group, linearizably: at the end of a test, this is what must be explained. How many calls that are.
    pub async fn get_all(&mut self) -> usize {
        for key in 1..=self.work.keys {
            self.get(Some(key)).await;
        }
        self.work.keys as usize + self.look_at_all().await
    }

    fn keys(&mut self) -> Vec<Key> {
        let count = if self.draw.random_bool(0.6) { 1 } else { self.draw.random_range(2..=BATCH_MAX) };
        // Those whose records expire are asked for more often: much happens to them.
        let first = if self.draw.random_ratio(1, 10) { self.first_expiring() } else { 1 };
        let keys: BTreeSet<Key> =
            (0..count).map(|_| self.draw.random_range(first..=self.work.keys)).collect();
        keys.into_iter().collect()
    }

    fn request_id(&mut self) -> Option<v1::RequestId> {
        self.serial += 1;
        Some(v1::RequestId { client: self.name, serial: self.serial })
    }

    fn api(&self) -> Api {
        self.routers[self.router].clone()
    }

    async fn upsert(&mut self) {
        let keys = self.keys();
        self.upsert_keys(keys).await;
    }

    async fn upsert_keys(&mut self, keys: Vec<Key>) {
        let request = self.request_id();
        let value = self.value();
        let records = keys.iter().map(|key| record(*key, value)).collect();
        let collection = self.work.collection.clone();
        let mut request = v1::UpsertRequest { collection, records, request, ..Default::default() };
        self.give_time(&mut request, &keys, value);
        let wishes = keys.iter().map(|key| Wish::of(*key, Act::Upsert(value))).collect();
        if self.draw.random_ratio(1, 8) {
            return self.decide("upsert-stream", Write::Stream(request), wishes).await;
        }
        self.decide("upsert", Write::Upsert(request), wishes).await;
    }

    /// By keys, or all that a filter matches which names them.
    async fn delete(&mut self) {
        let keys = self.keys();
        let request = self.request_id();
        let list = v1::KeyList { keys: keys.iter().map(|key| wire_key(*key)).collect() };
        let target = match self.draw.random_range(0..4) {
            0 => v1::delete_request::Target::Filter(of_keys(&keys)),
            _ => v1::delete_request::Target::Keys(list),
        };
        let collection = self.work.collection.clone();
        let request = v1::DeleteRequest { collection, target: Some(target), request };
        let invoked = self.recorder.now();
        let answer = self.api().delete(request).await.map(|done| {
            let existed = match done.deleted {
                0 => Some(false),
                all if all == keys.len() as u64 => Some(true),
                _ => None,
            };
            (covered(done.coverage), existed)
        });
        let touched = |existed| keys.iter().map(|key| Touch::of(*key, Act::Delete { existed })).collect();
        let answer = match answer {
            Ok((coverage, existed)) => Ok(Answer { coverage, touched: touched(existed) }),
            Err(status) => Err((status, touched(None))),
        };
        self.ended("delete", invoked, None, vec![], answer);
    }

    async fn get(&mut self, key: Option<Key>) {
        let keys = key.map_or_else(|| self.keys(), |key| vec![key]);
        self.get_keys("get", keys, Freshness::Linearizable, vec![], None).await;
    }

    /// Any replica, but never behind what this client saw.
    async fn get_in_session(&mut self) {
        let keys = self.keys();
        let tokens =
            self.tokens.iter().map(|(partition, index)| Position { partition: *partition, index: *index });
        let tokens: Vec<Position> = tokens.collect();
        let options = v1::ReadOptions {
            preference: v1::ReadPreference::Replica.into(),
            consistency: v1::Consistency::Any.into(),
            tokens: tokens.iter().map(token).collect(),
            ..Default::default()
        };
        self.get_keys("get-in-session", keys, Freshness::Session, tokens, Some(options)).await;
    }

    async fn get_bounded(&mut self) {
        let keys = self.keys();
        let options = v1::ReadOptions {
            preference: v1::ReadPreference::Replica.into(),
            consistency: v1::Consistency::Bounded.into(),
            max_lag_ms: LAG.as_millis() as u64,
            ..Default::default()
        };
        self.get_keys("get-bounded", keys, Freshness::Bounded(LAG), vec![], Some(options)).await;
    }

    async fn get_keys(
        &mut self,
        what: &'static str,
        keys: Vec<Key>,
        freshness: Freshness,
        tokens: Vec<Position>,
        read: Option<v1::ReadOptions>,
    ) {
        let request = v1::GetRequest {
            collection: self.work.collection.clone(),
            keys: keys.iter().map(|key| wire_key(*key)).collect(),
            with_payload: true,
            with_vectors: true,
            read,
            fields: Vec::new(),
        };
        let invoked = self.recorder.now();
        let answer = match self.api().get(request).await {
            Ok(found) => {
                let touched = self.seen(&keys, &found.records, freshness);
                Ok(Answer { coverage: covered(found.coverage), touched })
            }
            Err(status) => Err((status, vec![])),
        };
        self.ended(what, invoked, Some(freshness), tokens, answer);
    }

    /// What a read of these keys shows of each, in their order; a record that is not whole is damage.
    fn seen(&self, keys: &[Key], records: &[v1::Record], freshness: Freshness) -> Vec<Touch> {
        let mut rest = records.iter().peekable();
        let mut touched = Vec::new();
        for key in keys {
            let found = rest.next_if(|found| found.key.as_ref() == Some(&wire_key(*key)));
            if found.is_some() {
                // Twice is the business of the checker of sets.
                while rest.next_if(|again| again.key.as_ref() == Some(&wire_key(*key))).is_some() {}
            }
            let (value, base) = found.map(|found| self.whole(*key, found)).unzip();
            let act = Act::Read(value, freshness);
            touched.push(Touch { key: *key, act, version: found.map(|found| found.version), base });
        }
        if let Some(stray) = rest.next() {
            self.damage(format!("a record that was not asked for, or out of order: {:?}", stray.key));
        }
        touched
    }

    /// The value of a record and its base.
    fn whole(&self, key: Key, found: &v1::Record) -> (u64, u64) {
        let number = |field| int_of(found, field).unwrap_or(0) as u64;
        let (value, base) = (number("value"), number("base"));
        let written = patched(key, base, value);
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
        let (have, want) = (vector_of(found), vector_of(&written));
        let is_same_vector = have.len() == want.len() && have.iter().zip(want).all(near);
        let expires = self.lifetime(key, base).is_some();
        if found.payload != written.payload || !is_same_vector || found.expires_at_ms.is_some() != expires {
            self.damage(format!("key {key}: not what a write of {base:x} and {value:x} made: {found:?}"));
        }
        (value, base)
    }

    fn damage(&self, what: String) {
        let what = format!("client {}: {what}", self.id);
        self.recorder.note(|history| history.damage.push(what));
    }

    /// Writes a call down.
    fn ended(
        &mut self,
        what: &'static str,
        invoked: u64,
        freshness: Option<Freshness>,
        tokens: Vec<Position>,
        answer: Result<Answer, Refused>,
    ) {
        let returned = self.recorder.now();
        let (outcome, coverage, touched, error) = match answer {
            Ok(Answer { coverage, touched }) => (Outcome::Done, positions(&coverage), touched, None),
            Err((status, touched)) => {
                self.elsewhere(&status);
                let why = format!("{:?}: {}", status.code(), status.message());
                (outcome(&status), vec![], touched, Some(why))
            }
        };
        self.knows(&coverage);
        let position = match coverage[..] {
            [only] => Some(only),
            _ => None,
        };
        let client = self.id;
        let mut operations: Vec<Operation> = touched
            .into_iter()
            .map(|Touch { key, act, version, base }| {
                let returned = if outcome == Outcome::Unknown { NEVER } else { returned };
                Operation { client, key, act, outcome, invoked, returned, position, version, base }
            })
            .collect();
        self.remember(&operations);
        operations.extend(self.expiries(&operations));
        let call = Call { client, what, invoked, returned, outcome, freshness, tokens, coverage, error };
        self.recorder.note(|history| {
            history.calls.push(call);
            history.operations.extend(operations);
        });
    }

    /// Its later session reads are not to be behind this.
    fn knows(&mut self, seen: &[Position]) {
        for Position { partition, index } in seen {
            let token = self.tokens.entry(*partition).or_default();
            *token = (*token).max(*index);
        }
    }

    /// Another router may answer where this one does not.
    fn elsewhere(&mut self, status: &Status) {
        if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) {
            self.router = (self.router + 1) % self.routers.len();
        }
    }
}

/// Passes the records of these keys, by their payloads.
fn of_keys(keys: &[Key]) -> v1::Filter {
    api::among("key", keys.iter().map(|key| api::int(*key as i64)).collect())
}

/// What a caller may believe of a refusal: only that of a wrong request tells for sure that nothing was proposed.
fn outcome(status: &Status) -> Outcome {
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => Outcome::Failed,
        _ => Outcome::Unknown,
    }
}

fn covered(coverage: Option<v1::Coverage>) -> Vec<v1::PartitionIndex> {
    coverage.map_or_else(Vec::new, |coverage| coverage.indexes)
}

fn positions(coverage: &[v1::PartitionIndex]) -> Vec<Position> {
    coverage.iter().map(|at| Position { partition: at.partition, index: at.log_index }).collect()
}

fn token(at: &Position) -> v1::PartitionIndex {
    v1::PartitionIndex { partition: at.partition, log_index: at.index, node: 0 }
}

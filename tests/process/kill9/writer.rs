//! One client: writes over its own keys, one call after the other, and remembers what it may believe about each key.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use flotilla_tests::seed::unit_vector;
use rand::Rng as _;
use rand::rngs::SmallRng;

use super::{COLLECTION, DIMS};

/// Keys of one client.
const KEYS: u64 = 250;
/// Keys of a client fall into this many buckets, for filters.
pub(crate) const BUCKETS: u64 = 16;
const BATCH_MAX: usize = 20;

/// The value of a record; none: there is no record. Every write has a value of its own.
pub(crate) type State = Option<u64>;

/// A client.
pub(crate) struct Writer {
    id: u64,
    draw: SmallRng,
    serial: u64,
    acknowledged: u64,
    /// By key: what was acknowledged last. Keys never written are not in it.
    pub(crate) known: BTreeMap<u64, State>,
    /// By key: what the call under way at the crash would have made of it.
    pub(crate) maybe: BTreeMap<u64, State>,
}

/// The key's number in messages and payloads: clients share no key.
pub(crate) fn wire_key(key: u64) -> v1::Key {
    // Both kinds of key.
    if key.is_multiple_of(2) { api::number_key(key) } else { api::key(format!("key-{key:06}")) }
}

/// The bucket of a key.
pub(crate) fn bucket(key: u64) -> u64 {
    key % BUCKETS
}

/// The only record that a write of `value` to `key` makes: each part tells which write it came from.
pub(crate) fn record(key: u64, value: u64) -> v1::Record {
    let payload = vec![
        ("value", api::int(value as i64)),
        ("bucket", api::int(bucket(key) as i64)),
        ("client", api::int((key / KEYS) as i64)),
        ("text", api::text(format!("value {value} of key {key}"))),
    ];
    api::record(wire_key(key), unit_vector(value, DIMS), payload)
}

impl Writer {
    pub(crate) fn new(id: u64, draw: SmallRng) -> Writer {
        Writer { id, draw, serial: 0, acknowledged: 0, known: BTreeMap::new(), maybe: BTreeMap::new() }
    }

    /// Writes acknowledged since the last question.
    pub(crate) fn take_acknowledged(&mut self) -> u64 {
        std::mem::take(&mut self.acknowledged)
    }

    /// One call. If it fails, what it would have done is remembered as possible.
    pub(crate) async fn step(&mut self, client: &Api) -> Result<(), String> {
        match self.draw.random_range(0..100) {
            0..75 => self.upsert(client).await,
            75..92 => self.delete(client).await,
            92..95 => self.delete_bucket(client).await,
            _ => self.read(client).await,
        }
    }

    fn keys(&mut self) -> BTreeSet<u64> {
        let count = self.draw.random_range(1..=BATCH_MAX);
        (0..count).map(|_| self.id * KEYS + self.draw.random_range(0..KEYS)).collect()
    }

    async fn upsert(&mut self, client: &Api) -> Result<(), String> {
        let mut wanted = BTreeMap::new();
        for key in self.keys() {
            self.serial += 1;
            wanted.insert(key, Some(self.serial << 8 | self.id));
        }
        self.maybe = wanted.clone();
        let records = wanted.iter().filter_map(|(key, value)| Some(record(*key, (*value)?))).collect();
        let done = client.put(COLLECTION, records).await.map_err(|e| format!("upsert: {e}"))?;
        self.believe(done.upserted, wanted.len() as u64, wanted)
    }

    async fn delete(&mut self, client: &Api) -> Result<(), String> {
        let wanted: BTreeMap<u64, State> = self.keys().into_iter().map(|key| (key, None)).collect();
        let there = self.there(&wanted);
        self.maybe = wanted.clone();
        let keys = wanted.keys().map(|key| wire_key(*key)).collect();
        let deleted = client.remove(COLLECTION, keys).await.map_err(|e| format!("delete: {e}"))?;
        self.believe(deleted, there, wanted)
    }

    async fn delete_bucket(&mut self, client: &Api) -> Result<(), String> {
        let chosen = self.draw.random_range(0..BUCKETS);
        let keys = self.id * KEYS..(self.id + 1) * KEYS;
        let wanted: BTreeMap<u64, State> =
            keys.filter(|key| bucket(*key) == chosen).map(|key| (key, None)).collect();
        let there = self.there(&wanted);
        self.maybe = wanted.clone();
        let mine = api::equal("client", api::int(self.id as i64));
        let filter = api::all(vec![mine, api::equal("bucket", api::int(chosen as i64))]);
        let target = Some(v1::delete_request::Target::Filter(filter));
        let request = v1::DeleteRequest { collection: COLLECTION.into(), target, request: None };
        let done = client.delete(request).await.map_err(|e| format!("delete by filter: {e}"))?;
        self.believe(done.deleted, there, wanted)
    }

    /// A client reads what it wrote.
    async fn read(&mut self, client: &Api) -> Result<(), String> {
        let keys: Vec<u64> = self.keys().into_iter().collect();
        let request = v1::GetRequest {
            collection: COLLECTION.into(),
            keys: keys.iter().map(|key| wire_key(*key)).collect(),
            with_payload: true,
            with_vectors: true,
            read: None,
            fields: Vec::new(),
        };
        let found = client.get(request).await.map_err(|e| format!("get: {e}"))?.records;
        let expected: Vec<v1::Record> = keys
            .iter()
            .filter_map(|key| Some(record(*key, self.known.get(key).copied().flatten()?)))
            .collect();
        let found: Vec<_> = found.iter().map(|r| (&r.key, &r.payload)).collect();
        let expected: Vec<_> = expected.iter().map(|r| (&r.key, &r.payload)).collect();
        assert_eq!(found, expected, "client {} does not read what it wrote", self.id);
        Ok(())
    }

    fn there(&self, keys: &BTreeMap<u64, State>) -> u64 {
        keys.keys().filter(|key| self.known.get(key).copied().flatten().is_some()).count() as u64
    }

    /// The call was acknowledged: nothing about it is open any more.
    fn believe(&mut self, affected: u64, expected: u64, wanted: BTreeMap<u64, State>) -> Result<(), String> {
        assert_eq!(affected, expected, "client {}: records affected", self.id);
        self.acknowledged += wanted.len() as u64;
        self.known.extend(wanted);
        self.maybe.clear();
        Ok(())
    }

    /// After a crash: what was found is what holds from now on.
    pub(crate) fn settle(&mut self, found: &BTreeMap<u64, u64>) {
        for key in std::mem::take(&mut self.maybe).into_keys() {
            self.known.insert(key, found.get(&key).copied());
        }
    }
}

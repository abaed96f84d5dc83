//! Records: upsert, get, delete, scan, count.

use flotilla_proto::convert::{filter_to_wire, key_to_wire, record_from_wire, record_to_wire};
use flotilla_proto::filter::Filter;
use flotilla_proto::record::{Key, Record};
use flotilla_proto::v1;
use flotilla_proto::v1::delete_request::Target;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};

use crate::{Client, Error, Result};

/// What comes with a record besides its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct With {
    /// The payload.
    pub payload: bool,
    /// The vectors.
    pub vectors: bool,
}

impl With {
    /// The key alone.
    pub const KEY: With = With { payload: false, vectors: false };
    /// The payload.
    pub const PAYLOAD: With = With { payload: true, vectors: false };
    /// Payload and vectors.
    pub const ALL: With = With { payload: true, vectors: true };
}

/// A scan by key.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    wire: v1::ScanRequest,
}

impl Scan {
    /// All records, with keys alone.
    pub fn new() -> Scan {
        Scan::default()
    }

    /// Only what passes `filter`.
    pub fn filter(mut self, filter: Filter) -> Scan {
        self.wire.filter = Some(filter_to_wire(&filter));
        self
    }

    /// At most so many: in a page 1 to 10,000, by default 100; of a stream, by default all.
    pub fn limit(mut self, limit: u32) -> Scan {
        self.wire.limit = limit;
        self
    }

    /// Behind the page that gave this token.
    pub fn after(mut self, next: impl Into<String>) -> Scan {
        self.wire.next = next.into();
        self
    }

    /// With this in each record.
    pub fn with(mut self, with: With) -> Scan {
        self.wire.with_payload = with.payload;
        self.wire.with_vectors = with.vectors;
        self
    }

    fn of(mut self, collection: &str) -> v1::ScanRequest {
        self.wire.collection = collection.to_owned();
        self.wire
    }
}

/// A page of a scan.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The records, by key.
    pub records: Vec<Record>,
    /// For [`Scan::after`]; none: that was the last page.
    pub next: Option<String>,
}

impl Client {
    /// Inserts the records or replaces their namesakes: at most 1,000, all of them or, if one is wrong, none.
    /// Returns how many.
    pub async fn upsert(&self, collection: &str, records: Vec<Record>) -> Result<u64> {
        let message = self.upsert_request(collection, records);
        let client = self.records();
        let send = |request| {
            let mut client = client.clone();
            async move { client.upsert(request).await }
        };
        let answer = match self.is_deduplicated() {
            true => self.repeated(message, send).await?,
            false => self.once(message, send).await?,
        };
        Ok(answer.upserted)
    }

    fn upsert_request(&self, collection: &str, records: Vec<Record>) -> v1::UpsertRequest {
        let records = records.into_iter().map(record_to_wire).collect();
        v1::UpsertRequest { collection: collection.to_owned(), records, request: Some(self.next_request()) }
    }

    /// Writes batches as they come, one after the other; the server slows the stream down to what it can take. Returns how
    /// many records were written. It is not sent again; an error says how many batches were acknowledged before.
    pub async fn upsert_stream(
        &self,
        collection: &str,
        batches: impl Stream<Item = Vec<Record>> + Send + 'static,
    ) -> Result<u64> {
        let (client, collection) = (self.clone(), collection.to_owned());
        let messages = batches.map(move |records| client.upsert_request(&collection, records));
        Ok(self.records().upsert_stream(messages).await?.into_inner().upserted)
    }

    /// The records of these keys that exist, in the order asked for: at most 1,000.
    pub async fn get<K: Into<Key>>(
        &self,
        collection: &str,
        keys: impl IntoIterator<Item = K>,
        with: With,
    ) -> Result<Vec<Record>> {
        let message = v1::GetRequest {
            collection: collection.to_owned(),
            keys: wire(keys),
            with_payload: with.payload,
            with_vectors: with.vectors,
            read: None,
        };
        let client = self.records();
        let send = |request| {
            let mut client = client.clone();
            async move { client.get(request).await }
        };
        domain(self.repeated(message, send).await?.records)
    }

    /// Deletes the records of these keys: at most 1,000. Returns how many there were.
    pub async fn delete_keys<K: Into<Key>>(
        &self,
        collection: &str,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<u64> {
        self.delete(collection, Target::Keys(v1::KeyList { keys: wire(keys) })).await
    }

    /// Deletes all records that pass `filter`. Returns how many.
    pub async fn delete_filter(&self, collection: &str, filter: &Filter) -> Result<u64> {
        self.delete(collection, Target::Filter(filter_to_wire(filter))).await
    }

    async fn delete(&self, collection: &str, target: Target) -> Result<u64> {
        let request = Some(self.next_request());
        let message = v1::DeleteRequest { collection: collection.to_owned(), target: Some(target), request };
        let client = self.records();
        let send = |request| {
            let mut client = client.clone();
            async move { client.delete(request).await }
        };
        let answer = match self.is_deduplicated() {
            true => self.repeated(message, send).await?,
            false => self.once(message, send).await?,
        };
        Ok(answer.deleted)
    }

    /// One page.
    pub async fn scan(&self, collection: &str, scan: Scan) -> Result<Page> {
        let client = self.records();
        let send = |request| {
            let mut client = client.clone();
            async move { client.scan(request).await }
        };
        let answer = self.repeated(scan.of(collection), send).await?;
        let next = Some(answer.next).filter(|next| !next.is_empty());
        Ok(Page { records: domain(answer.items)?, next })
    }

    /// All records of a scan, fetched as they are taken.
    ///
    /// ```no_run
    /// # use flotilla_client::{Client, Scan, With};
    /// # async fn example(client: Client) -> Result<(), flotilla_client::Error> {
    /// use futures::TryStreamExt as _;
    /// let records = client.scan_all("vms", Scan::new().with(With::PAYLOAD)).await?;
    /// let mut records = std::pin::pin!(records);
    /// while let Some(record) = records.try_next().await? {
    ///     println!("{}", record.key);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn scan_all(
        &self,
        collection: &str,
        scan: Scan,
    ) -> Result<impl Stream<Item = Result<Record>> + Send + 'static + use<>> {
        let pages = self.records().scan_stream(scan.of(collection)).await?.into_inner();
        Ok(pages.map_err(Error::from).map_ok(|page| stream::iter(page.items).map(one)).try_flatten())
    }

    /// How many records pass `filter`; without one, all.
    pub async fn count(&self, collection: &str, filter: Option<&Filter>) -> Result<u64> {
        let message = v1::CountRequest {
            collection: collection.to_owned(),
            filter: filter.map(filter_to_wire),
            read: None,
        };
        let client = self.records();
        let send = |request| {
            let mut client = client.clone();
            async move { client.count(request).await }
        };
        Ok(self.repeated(message, send).await?.count)
    }
}

fn wire<K: Into<Key>>(keys: impl IntoIterator<Item = K>) -> Vec<v1::Key> {
    keys.into_iter().map(|key| key_to_wire(&key.into())).collect()
}

fn domain(records: Vec<v1::Record>) -> Result<Vec<Record>> {
    records.into_iter().map(one).collect()
}

pub(crate) fn one(record: v1::Record) -> Result<Record> {
    record_from_wire("record", record).map_err(Error::nonsense)
}

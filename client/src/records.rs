//! Records: upsert, get, delete, scan, count.

use std::sync::PoisonError;

use flotilla_proto::convert::{filter_to_wire, key_to_wire, record_from_wire};
use flotilla_proto::filter::Filter;
use flotilla_proto::record::{Key, Record};
use flotilla_proto::v1;
use flotilla_proto::v1::delete_request::Target;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tonic::Status;

use crate::identity;
use crate::write::{Conflict, upsert_request};
use crate::{Client, Error, Read, ReadPreference, Result, Tokens, WriteMode};

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
    read: Read,
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

    /// Only records whose key is text and begins with `prefix`, which is not empty; not with an order by a field. Where the
    /// collection has a shard delimiter and `prefix` holds it, one partition alone is asked.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Scan {
        self.wire.key_prefix = Some(prefix.into());
        self
    }

    /// With these fields of the payload alone.
    pub fn fields<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Scan {
        self.wire.fields = fields.into_iter().map(Into::into).collect();
        self
    }

    /// In the order of this field's least value and not of the keys; records without one come last.
    pub fn order_by(mut self, field: &str) -> Scan {
        self.wire.order_by = field.to_owned();
        self.wire.descending = false;
        self
    }

    /// In the order of this field's greatest value, the greatest first; records without one come last.
    pub fn order_by_descending(mut self, field: &str) -> Scan {
        self.wire.order_by = field.to_owned();
        self.wire.descending = true;
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

    /// Where and how fresh to read, as far as this read says otherwise than its client.
    pub fn read(mut self, read: Read) -> Scan {
        self.read = read;
        self
    }

    fn of(mut self, client: &Client, collection: &str) -> (v1::ScanRequest, ReadPreference) {
        let read = client.read(collection, self.read);
        self.wire.collection = collection.to_owned();
        self.wire.read = Some(read.to_wire());
        (self.wire, read.preferred())
    }
}

/// A page of a scan.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The records, by key or in the order asked for.
    pub records: Vec<Record>,
    /// For [`Scan::after`]; none: that was the last page.
    pub next: Option<String>,
    /// Which partitions answered, and which did not.
    pub coverage: v1::Coverage,
}

/// A read by key.
#[derive(Clone, Debug, Default)]
pub struct Get {
    keys: Vec<v1::Key>,
    with: With,
    fields: Vec<String>,
    read: Read,
}

impl Get {
    /// The records of these keys, with keys alone: at most 1,000.
    pub fn new<K: Into<Key>>(keys: impl IntoIterator<Item = K>) -> Get {
        Get { keys: wire(keys), ..Get::default() }
    }

    /// With these fields of the payload alone.
    pub fn fields<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Get {
        self.fields = fields.into_iter().map(Into::into).collect();
        self
    }

    /// With this in each record.
    pub fn with(mut self, with: With) -> Get {
        self.with = with;
        self
    }

    /// Where and how fresh to read, as far as this read says otherwise than its client.
    pub fn read(mut self, read: Read) -> Get {
        self.read = read;
        self
    }
}

/// The answer of a read by key.
#[derive(Clone, Debug, PartialEq)]
pub struct Got {
    /// Those that exist, in the order asked for.
    pub records: Vec<Record>,
    /// Which partitions answered, and which did not.
    pub coverage: v1::Coverage,
}

/// A question for a number of records.
#[derive(Clone, Debug, Default)]
pub struct Count {
    filter: Option<v1::Filter>,
    read: Read,
}

impl Count {
    /// Of all records.
    pub fn new() -> Count {
        Count::default()
    }

    /// Only of what passes `filter`.
    pub fn filter(mut self, filter: &Filter) -> Count {
        self.filter = Some(filter_to_wire(filter));
        self
    }

    /// Where and how fresh to read, as far as this read says otherwise than its client.
    pub fn read(mut self, read: Read) -> Count {
        self.read = read;
        self
    }
}

impl From<Option<&Filter>> for Count {
    fn from(filter: Option<&Filter>) -> Count {
        Count { filter: filter.map(filter_to_wire), read: Read::default() }
    }
}

/// The answer of a count.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    /// How many.
    pub count: u64,
    /// Which partitions answered, and which did not.
    pub coverage: v1::Coverage,
}

/// An acknowledged upsert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upserted {
    /// How many records were written.
    pub upserted: u64,
    /// Records that their condition left as they were, in order.
    pub conflicts: Vec<Conflict>,
    /// A read that carries them sees this write on any replica.
    pub tokens: Tokens,
}

/// An acknowledged delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// How many records there were.
    pub deleted: u64,
    /// A read that carries them sees this write on any replica.
    pub tokens: Tokens,
}

impl Client {
    /// Inserts the records or replaces their namesakes: at most 1,000, all of them or, if one is wrong, none.
    pub async fn upsert(&self, collection: &str, records: Vec<Record>) -> Result<Upserted> {
        self.upsert_with(collection, records, WriteMode::Upsert).await
    }

    /// Writes batches as they come, one after the other; the server slows the stream down to what it can take. It is not sent
    /// again; an error says how many batches were acknowledged before.
    pub async fn upsert_stream(
        &self,
        collection: &str,
        batches: impl Stream<Item = Vec<Record>> + Send + 'static,
    ) -> Result<Upserted> {
        let (mut id, to) = (identity::fresh(), collection.to_owned());
        let messages = batches.map(move |records| {
            id.serial += 1;
            upsert_request(&to, records, id)
        });
        // Only one host can be given the batches: they come once.
        let messages = std::sync::Mutex::new(Some(messages));
        let send = |channel| {
            let messages = messages.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move {
                let messages = messages
                    .ok_or_else(|| Status::unavailable("no server answered; send the batches again"))?;
                Client::records(channel).upsert_stream(messages).await
            }
        };
        let answer = self.begun(send).await?.into_inner();
        let tokens = self.written(collection, answer.coverage);
        Ok(Upserted { upserted: answer.upserted, conflicts: Vec::new(), tokens })
    }

    /// The records of these keys that exist.
    ///
    /// ```no_run
    /// # use flotilla_client::{Client, Get, With};
    /// # async fn example(client: Client) -> Result<(), flotilla_client::Error> {
    /// let got = client.get("vms", Get::new(["vm-1", "vm-2"]).with(With::PAYLOAD)).await?;
    /// println!("{} of 2", got.records.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get(&self, collection: &str, get: Get) -> Result<Got> {
        let read = self.read(collection, get.read);
        let message = v1::GetRequest {
            collection: collection.to_owned(),
            keys: get.keys,
            with_payload: get.with.payload,
            with_vectors: get.with.vectors,
            read: Some(read.to_wire()),
            fields: get.fields,
        };
        let send = |channel, request| async move { Client::records(channel).get(request).await };
        let answer = self.repeated(message, read.preferred(), send).await?;
        Ok(Got { records: domain(answer.records)?, coverage: answer.coverage.unwrap_or_default() })
    }

    /// Deletes the records of these keys: at most 1,000.
    pub async fn delete_keys<K: Into<Key>>(
        &self,
        collection: &str,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Deleted> {
        self.delete(collection, Target::Keys(v1::KeyList { keys: wire(keys) })).await
    }

    /// Deletes all records that pass `filter`.
    pub async fn delete_filter(&self, collection: &str, filter: &Filter) -> Result<Deleted> {
        self.delete(collection, Target::Filter(filter_to_wire(filter))).await
    }

    async fn delete(&self, collection: &str, target: Target) -> Result<Deleted> {
        let held = self.identity();
        let (target, request) = (Some(target), Some(held.id));
        let message = v1::DeleteRequest { collection: collection.to_owned(), target, request };
        let send = |channel, request| async move { Client::records(channel).delete(request).await };
        let answer = self.repeated(message, ReadPreference::Master, send).await?;
        let tokens = self.written(collection, answer.coverage);
        Ok(Deleted { deleted: answer.deleted, tokens })
    }

    pub(crate) fn written(&self, collection: &str, coverage: Option<v1::Coverage>) -> Tokens {
        let tokens = Tokens::from(&coverage.unwrap_or_default());
        self.note(collection, &tokens);
        tokens
    }

    /// One page.
    pub async fn scan(&self, collection: &str, scan: Scan) -> Result<Page> {
        let (message, preference) = scan.of(self, collection);
        let send = |channel, request| async move { Client::records(channel).scan(request).await };
        let answer = self.repeated(message, preference, send).await?;
        let next = Some(answer.next).filter(|next| !next.is_empty());
        Ok(Page { records: domain(answer.items)?, next, coverage: answer.coverage.unwrap_or_default() })
    }

    /// All records of a scan, fetched as they are taken. Who allows partial answers wants to see the coverage:
    /// [`Client::scan_pages`].
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
        let pages = self.scan_pages(collection, scan).await?;
        Ok(pages.map_ok(|page| stream::iter(page.records).map(Ok)).try_flatten())
    }

    /// All pages of a scan, fetched as they are taken, each with its coverage. Only the last one's token is of use: it goes on
    /// behind the limit.
    pub async fn scan_pages(
        &self,
        collection: &str,
        scan: Scan,
    ) -> Result<impl Stream<Item = Result<Page>> + Send + 'static + use<>> {
        let (message, _) = scan.of(self, collection);
        let send = |channel| {
            let message = message.clone();
            async move { Client::records(channel).scan_stream(message).await }
        };
        let pages = self.begun(send).await?.into_inner();
        let page = |page: v1::ScanResponse| {
            let next = Some(page.next).filter(|next| !next.is_empty());
            let coverage = page.coverage.unwrap_or_default();
            std::future::ready(domain(page.items).map(|records| Page { records, next, coverage }))
        };
        Ok(pages.map_err(Error::from).and_then(page))
    }

    /// How many records pass a filter, or there are: `client.count("vms", None)`.
    pub async fn count(&self, collection: &str, count: impl Into<Count>) -> Result<Counted> {
        let Count { filter, read } = count.into();
        let read = self.read(collection, read);
        let collection = collection.to_owned();
        let message = v1::CountRequest { collection, filter, read: Some(read.to_wire()) };
        let send = |channel, request| async move { Client::records(channel).count(request).await };
        let answer = self.repeated(message, read.preferred(), send).await?;
        Ok(Counted { count: answer.count, coverage: answer.coverage.unwrap_or_default() })
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

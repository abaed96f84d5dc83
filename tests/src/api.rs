//! `flotilla.v1` as a test speaks it: one method per call, and short builders for messages. Nothing is checked or retried
//! on this side, so that a test can send what a careful client would not.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use flotilla_proto::limits::MESSAGE_BYTES_MAX;
use flotilla_proto::v1;
use flotilla_proto::v1::cluster_client::ClusterClient;
use flotilla_proto::v1::collections_client::CollectionsClient;
use flotilla_proto::v1::records_client::RecordsClient;
use flotilla_proto::v1::search_client::SearchClient;
use futures::Stream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// No call of a test takes longer.
const CALL_WITHIN: Duration = Duration::from_secs(60);
/// Records of a page when everything is scanned.
const PAGE: u32 = 500;

/// A connection to a server.
#[derive(Clone, Debug)]
pub struct Api {
    channel: Channel,
    deadline: Option<Duration>,
}

/// Unary calls: name, stub, request, answer.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident: $stub:ident.$call:ident($request:ident) -> $answer:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// The server's refusal, or the connection's end.
        pub async fn $name(&self, request: v1::$request) -> Result<v1::$answer, Status> {
            let stub = $stub::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let mut stub = stub.max_encoding_message_size(usize::MAX);
            Ok(stub.$call(self.request(request)).await?.into_inner())
        }
    )*};
}

impl Api {
    /// Connects.
    ///
    /// # Errors
    /// If nobody listens there.
    pub async fn connect(url: &str) -> anyhow::Result<Api> {
        let endpoint = Endpoint::from_shared(url.to_owned())?.timeout(CALL_WITHIN);
        let channel = endpoint.connect_timeout(CALL_WITHIN).tcp_nodelay(true).connect().await;
        Ok(Api { channel: channel.with_context(|| format!("connecting to {url}"))?, deadline: None })
    }

    /// Over a channel that somebody else made.
    pub fn over(channel: Channel) -> Api {
        Api { channel, deadline: None }
    }

    /// The same connection; each call says that its caller waits no longer than this.
    pub fn within(&self, deadline: Duration) -> Api {
        Api { channel: self.channel.clone(), deadline: Some(deadline) }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(deadline) = self.deadline {
            request.set_timeout(deadline);
        }
        request
    }

    /// The connection, for other services than ours.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    calls! {
        /// Makes a collection.
        create: CollectionsClient.create(CreateCollectionRequest) -> CreateCollectionResponse;
        /// A collection and its status.
        collection: CollectionsClient.get(GetCollectionRequest) -> GetCollectionResponse;
        /// All collections.
        list: CollectionsClient.list(ListCollectionsRequest) -> ListCollectionsResponse;
        /// Changes a collection.
        update: CollectionsClient.update(UpdateCollectionRequest) -> UpdateCollectionResponse;
        /// Deletes a collection.
        drop_collection: CollectionsClient.delete(DeleteCollectionRequest) -> DeleteCollectionResponse;
        /// Writes records.
        upsert: RecordsClient.upsert(UpsertRequest) -> UpsertResponse;
        /// Reads records by key.
        get: RecordsClient.get(GetRequest) -> GetResponse;
        /// Deletes records.
        delete: RecordsClient.delete(DeleteRequest) -> DeleteResponse;
        /// Changes parts of records.
        patch: RecordsClient.patch(PatchRequest) -> PatchResponse;
        /// One page.
        scan: RecordsClient.scan(ScanRequest) -> ScanResponse;
        /// How many records pass.
        count: RecordsClient.count(CountRequest) -> CountResponse;
        aggregate: RecordsClient.aggregate(AggregateRequest) -> AggregateResponse;
        /// The nearest records.
        search: SearchClient.search(SearchRequest) -> SearchResponse;
        /// The placement map.
        describe: ClusterClient.describe(DescribeRequest) -> DescribeResponse;
        /// What would have to be done for a goal.
        plan: ClusterClient.plan(PlanRequest) -> PlanResponse;
        /// Queues the moves of a plan.
        apply: ClusterClient.apply(ApplyRequest) -> ApplyResponse;
        /// Moves queued, under way and ended.
        moves: ClusterClient.moves(MovesRequest) -> MovesResponse;
        /// Pauses, resumes or aborts moves.
        control: ClusterClient.control(ControlRequest) -> ControlResponse;
        /// How many shard nodes there are, should be and must be.
        status: ClusterClient.status(StatusRequest) -> StatusResponse;
        /// Asks for fewer of them.
        scale: ClusterClient.scale(ScaleRequest) -> ScaleResponse;
    }

    /// Replaces a generation by what streams in.
    ///
    /// # Errors
    /// The server's refusal, or the connection's end.
    pub async fn replace(
        &self,
        messages: impl Stream<Item = v1::ReplaceRequest> + Send + 'static,
    ) -> Result<v1::ReplaceResponse, Status> {
        let mut stub = RecordsClient::new(self.channel.clone());
        Ok(stub.replace(self.request(messages)).await?.into_inner())
    }

    /// Upserts batches, one after the other.
    ///
    /// # Errors
    /// The server's refusal, or the connection's end.
    pub async fn upsert_stream(
        &self,
        batches: Vec<v1::UpsertRequest>,
    ) -> Result<v1::UpsertStreamResponse, Status> {
        let mut stub = RecordsClient::new(self.channel.clone());
        Ok(stub.upsert_stream(self.request(futures::stream::iter(batches))).await?.into_inner())
    }

    /// Compares the replicas of each partition; one answer per collection.
    ///
    /// # Errors
    /// The server's refusal, or the connection's end.
    pub async fn verify(&self, collection: &str, deep: bool) -> Result<Vec<v1::VerifyResponse>, Status> {
        let request = v1::VerifyRequest { collection: collection.to_owned(), deep };
        let mut stub = ClusterClient::new(self.channel.clone());
        let mut answers = stub.verify(self.request(request)).await?.into_inner();
        let mut all = Vec::new();
        while let Some(answer) = answers.message().await? {
            all.push(answer);
        }
        Ok(all)
    }

    /// The map as it is now.
    ///
    /// # Errors
    /// The server's refusal, or the connection's end.
    pub async fn placement(&self) -> Result<v1::PlacementMap, Status> {
        let described = self.describe(v1::DescribeRequest {}).await?;
        described.placement.ok_or_else(|| Status::internal("described without a placement map"))
    }

    /// Every record that passes, page by page, with payload and vectors.
    ///
    /// # Errors
    /// That of a page.
    pub async fn scan_all(
        &self,
        collection: &str,
        filter: Option<v1::Filter>,
    ) -> Result<Vec<v1::Record>, Status> {
        let mut all = Vec::new();
        let mut next = String::new();
        loop {
            let page = v1::ScanRequest {
                collection: collection.to_owned(),
                filter: filter.clone(),
                limit: PAGE,
                next,
                with_payload: true,
                with_vectors: true,
                ..Default::default()
            };
            let page = self.scan(page).await?;
            all.extend(page.items);
            next = page.next;
            if next.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Writes these records, without a request id.
    ///
    /// # Errors
    /// The server's refusal, or the connection's end.
    pub async fn put(
        &self,
        collection: &str,
        records: Vec<v1::Record>,
    ) -> Result<v1::UpsertResponse, Status> {
        self.upsert(v1::UpsertRequest { collection: collection.to_owned(), records, ..Default::default() })
            .await
    }

    /// Deletes these keys, without a request id.
    ///
    /// # Errors
    /// The server's refusal, or the connection's end.
    pub async fn remove(&self, collection: &str, keys: Vec<v1::Key>) -> Result<u64, Status> {
        let target = Some(v1::delete_request::Target::Keys(v1::KeyList { keys }));
        let request = v1::DeleteRequest { collection: collection.to_owned(), target, request: None };
        Ok(self.delete(request).await?.deleted)
    }

    /// How many records pass `filter`.
    ///
    /// # Errors
    /// The server's refusal, or the connection's end.
    pub async fn total(&self, collection: &str, filter: Option<v1::Filter>) -> Result<u64, Status> {
        Ok(self
            .count(v1::CountRequest { collection: collection.to_owned(), filter, read: None })
            .await?
            .count)
    }
}

/// A text key.
pub fn key(text: impl Into<String>) -> v1::Key {
    v1::Key { kind: Some(v1::key::Kind::Text(text.into())) }
}

/// A number key.
pub fn number_key(number: u64) -> v1::Key {
    v1::Key { kind: Some(v1::key::Kind::Number(number)) }
}

/// A key that sorts as the server sorts, and prints.
pub fn sortable(key: &v1::Key) -> (bool, u64, String) {
    match &key.kind {
        Some(v1::key::Kind::Number(number)) => (false, *number, String::new()),
        Some(v1::key::Kind::Text(text)) => (true, 0, text.clone()),
        None => (true, 0, String::new()),
    }
}

fn value(kind: v1::value::Kind) -> v1::Value {
    v1::Value { kind: Some(kind) }
}

/// An integer.
pub fn int(number: i64) -> v1::Value {
    value(v1::value::Kind::Integer(number))
}

/// A float.
pub fn float(number: f64) -> v1::Value {
    value(v1::value::Kind::Float(number))
}

/// Text.
pub fn text(text: impl Into<String>) -> v1::Value {
    value(v1::value::Kind::Text(text.into()))
}

/// A truth value.
pub fn flag(flag: bool) -> v1::Value {
    value(v1::value::Kind::Boolean(flag))
}

/// An explicit null.
pub fn null() -> v1::Value {
    value(v1::value::Kind::Null(true))
}

/// A list.
pub fn list(values: Vec<v1::Value>) -> v1::Value {
    value(v1::value::Kind::List(v1::ListValue { values }))
}

/// Nested fields.
pub fn map(fields: Vec<(&str, v1::Value)>) -> v1::Value {
    value(v1::value::Kind::Map(v1::MapValue { fields: named(fields) }))
}

fn named<T>(fields: Vec<(&str, T)>) -> BTreeMap<String, T> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A record with the vector `default`; an empty one means none.
pub fn record(key: v1::Key, vector: Vec<f32>, payload: Vec<(&str, v1::Value)>) -> v1::Record {
    let vectors = if vector.is_empty() { vec![] } else { vec![("default", dense(vector))] };
    v1::Record { key: Some(key), vectors: named(vectors), payload: named(payload), ..Default::default() }
}

/// A dense vector.
pub fn dense(values: Vec<f32>) -> v1::Vector {
    v1::Vector { values, ..Default::default() }
}

/// The vector `default` of a record; empty if it has none.
pub fn vector_of(record: &v1::Record) -> &[f32] {
    record.vectors.get("default").map_or(&[], |vector| &vector.values)
}

/// A whole number of a record's payload.
pub fn int_of(record: &v1::Record, field: &str) -> Option<i64> {
    match record.payload.get(field)?.kind {
        Some(v1::value::Kind::Integer(number)) => Some(number),
        _ => None,
    }
}

/// Text of a record's payload.
pub fn text_of<'a>(record: &'a v1::Record, field: &str) -> Option<&'a str> {
    match &record.payload.get(field)?.kind {
        Some(v1::value::Kind::Text(text)) => Some(text),
        _ => None,
    }
}

/// A collection with the vector `default` and these fields, everything else left to the server.
pub fn collection(name: &str, dims: u32, fields: Vec<(&str, v1::FieldType)>) -> v1::CollectionSpec {
    let vector = v1::VectorParams { dims, ..Default::default() };
    v1::CollectionSpec {
        name: name.to_owned(),
        vectors: named(vec![("default", vector)]),
        fields: fields.into_iter().map(|(path, kind)| (path.to_owned(), kind.into())).collect(),
        ..Default::default()
    }
}

/// A search of everything by `vector`.
pub fn search(collection: &str, vector: Vec<f32>, limit: u32) -> v1::SearchRequest {
    v1::SearchRequest {
        collection: collection.to_owned(),
        vector: Some(dense(vector)),
        limit: Some(limit),
        ..Default::default()
    }
}

/// A filter of one kind.
pub fn filter(kind: v1::filter::Kind) -> v1::Filter {
    v1::Filter { kind: Some(kind) }
}

/// The field has this value.
pub fn equal(field: &str, value: v1::Value) -> v1::Filter {
    filter(v1::filter::Kind::Equal(v1::filter::Equal { field: field.to_owned(), value: Some(value) }))
}

/// All hold.
pub fn all(filters: Vec<v1::Filter>) -> v1::Filter {
    filter(v1::filter::Kind::All(v1::filter::List { filters }))
}

/// It does not hold.
pub fn not(part: v1::Filter) -> v1::Filter {
    filter(v1::filter::Kind::Not(Box::new(part)))
}

/// The field lies from `gte` up to `lt`; either may be open.
pub fn between(field: &str, gte: Option<v1::Value>, lt: Option<v1::Value>) -> v1::Filter {
    let range = v1::filter::Range { field: field.to_owned(), gte, lt, ..Default::default() };
    filter(v1::filter::Kind::Range(range))
}

/// The field has one of these values.
pub fn among(field: &str, values: Vec<v1::Value>) -> v1::Filter {
    filter(v1::filter::Kind::In(v1::filter::In { field: field.to_owned(), values }))
}

/// The field is text and starts like this.
pub fn prefix(field: &str, prefix: &str) -> v1::Filter {
    filter(v1::filter::Kind::Prefix(v1::filter::Prefix {
        field: field.to_owned(),
        prefix: prefix.to_owned(),
    }))
}

/// The field is text and, as a whole, what the pattern says.
pub fn glob(field: &str, pattern: &str) -> v1::Filter {
    filter(v1::filter::Kind::Glob(v1::filter::Glob { field: field.to_owned(), pattern: pattern.to_owned() }))
}

/// The field is there.
pub fn exists(field: &str) -> v1::Filter {
    filter(v1::filter::Kind::Exists(v1::filter::Exists { field: field.to_owned() }))
}

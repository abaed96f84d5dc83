//! Bad input over the real API: each has its status, names the field and the limit, and writes nothing.
//!
//! The tables stand in the parts, one per group of verbs. All rows run against one server that holds a little data; at the
//! end the data, the collections and the answers must be what they were before.

mod aggregations;
mod collections;
mod patches;
mod reads;
mod wire;
mod writes;

use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use flotilla_tests::seed::unit_vector;
use flotilla_tests::server::Server;
use tonic::{Code, Status};

/// Cosine, dimension 4, declared fields, not strict.
pub(crate) const OPEN: &str = "open";
/// The same, strict.
pub(crate) const STRICT: &str = "strict";
pub(crate) const DIMS: usize = 4;

/// A request.
pub(crate) enum Ask {
    Create(v1::CreateCollectionRequest),
    Update(v1::UpdateCollectionRequest),
    Describe(v1::GetCollectionRequest),
    Drop(v1::DeleteCollectionRequest),
    Upsert(v1::UpsertRequest),
    Delete(v1::DeleteRequest),
    Patch(v1::PatchRequest),
    Get(v1::GetRequest),
    Scan(v1::ScanRequest),
    Count(v1::CountRequest),
    Search(Box<v1::SearchRequest>),
    Aggregate(v1::AggregateRequest),
}

impl Ask {
    async fn send(self, client: &Api) -> Result<(), Status> {
        match self {
            Ask::Create(request) => client.create(request).await.map(drop),
            Ask::Update(request) => client.update(request).await.map(drop),
            Ask::Describe(request) => client.collection(request).await.map(drop),
            Ask::Drop(request) => client.drop_collection(request).await.map(drop),
            Ask::Upsert(request) => client.upsert(request).await.map(drop),
            Ask::Delete(request) => client.delete(request).await.map(drop),
            Ask::Patch(request) => client.patch(request).await.map(drop),
            Ask::Get(request) => client.get(request).await.map(drop),
            Ask::Scan(request) => client.scan(request).await.map(drop),
            Ask::Count(request) => client.count(request).await.map(drop),
            Ask::Search(request) => client.search(*request).await.map(drop),
            Ask::Aggregate(request) => client.aggregate(request).await.map(drop),
        }
    }
}

/// A request, the status it must get, and words that its message must hold.
pub(crate) struct Row {
    name: String,
    ask: Ask,
    code: Code,
    words: Vec<String>,
}

/// A row that gets `INVALID_ARGUMENT`.
pub(crate) fn invalid(name: &str, ask: Ask, words: &[&str]) -> Row {
    coded(name, ask, Code::InvalidArgument, words)
}

pub(crate) fn coded(name: &str, ask: Ask, code: Code, words: &[&str]) -> Row {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    Row { name: name.to_owned(), ask, code, words }
}

impl Row {
    /// What is wrong with the answer, if anything.
    async fn run(self, client: &Api) -> Option<String> {
        let Row { name, ask, code, words } = self;
        let status = match ask.send(client).await {
            Ok(()) => return Some(format!("{name}: accepted; expected {code:?}")),
            Err(status) => status,
        };
        if status.code() != code {
            return Some(format!("{name}: expected {code:?}, got {status}"));
        }
        let missing: Vec<&String> =
            words.iter().filter(|word| !status.message().contains(word.as_str())).collect();
        if !missing.is_empty() {
            return Some(format!("{name}: the message lacks {missing:?}: {}", status.message()));
        }
        (status.message().len() > 2_000)
            .then(|| format!("{name}: the message is {} bytes", status.message().len()))
    }
}

/// The data before and after.
async fn fingerprint(client: &Api) -> Vec<String> {
    let mut all = vec![format!("{:?}", client.list(v1::ListCollectionsRequest {}).await.unwrap())];
    for collection in [OPEN, STRICT] {
        all.push(format!("{:?}", client.scan_all(collection, None).await.unwrap()));
        all.push(client.total(collection, Some(api::exists("n"))).await.unwrap().to_string());
        let mut request = api::search(collection, unit_vector(77, DIMS), 10);
        (request.exact, request.with_payload) = (true, true);
        all.push(format!("{:?}", client.search(request).await.unwrap().hits));
    }
    all
}

async fn prepare(client: &Api) {
    use v1::FieldType::{Bool, Datetime, Float, Integer, Keyword};
    for (name, strict) in [(OPEN, false), (STRICT, true)] {
        let fields = vec![
            ("n", Integer),
            ("x", Float),
            ("word", Keyword),
            ("is", Bool),
            ("at", Datetime),
            ("in.ner", Integer),
        ];
        let mut spec = api::collection(name, DIMS as u32, fields);
        spec.strict = strict;
        spec.vectors.insert("second".to_owned(), v1::VectorParams { dims: 2, ..Default::default() });
        for (name, datatype) in
            [("half", v1::Datatype::F16), ("byte", v1::Datatype::I8), ("bit", v1::Datatype::Bit)]
        {
            let params = v1::VectorParams { dims: 2, datatype: datatype.into(), ..Default::default() };
            spec.vectors.insert(name.to_owned(), params);
        }
        let sparse = v1::VectorParams { kind: v1::VectorKind::Sparse.into(), ..Default::default() };
        let multi = v1::VectorParams { dims: 2, kind: v1::VectorKind::Multi.into(), ..Default::default() };
        spec.vectors.extend([("sparse".to_owned(), sparse), ("multi".to_owned(), multi)]);
        client.create(v1::CreateCollectionRequest { spec: Some(spec) }).await.unwrap();
        let row =
            |n: u64| api::record(api::number_key(n), unit_vector(n, DIMS), vec![("n", api::int(n as i64))]);
        client.put(name, (0..30).map(row).collect()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_by_name_and_writes_nothing() {
    let dir = crate::folder();
    let server = Server::start(crate::binary(), &dir.path().join("data"), &[]).unwrap();
    let client = server.client().await.unwrap();
    prepare(&client).await;
    let before = fingerprint(&client).await;
    let mut wrong = Vec::new();
    let rows =
        collections::rows().into_iter().chain(writes::rows()).chain(patches::rows()).chain(reads::rows());
    let rows = rows.chain(aggregations::rows());
    let mut count = 0;
    for row in rows {
        wrong.extend(row.run(&client).await);
        count += 1;
    }
    wrong.extend(writes::nothing_is_no_error(&client).await);
    wrong.extend(reads::tokens(&client).await);
    wrong.extend(wire::too_large(&client).await);
    assert!(wrong.is_empty(), "{} of {count} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(before, fingerprint(&client).await, "bad input changed something");
    let log = server.terminate().unwrap();
    assert!(!log.contains("panicked"), "{log}");
}

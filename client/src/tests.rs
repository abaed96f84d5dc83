//! The client against a small server of its own, over TCP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flotilla_proto::convert::{record_to_wire, value_to_wire};
use flotilla_proto::refusal::{Refusal, Violation};
use flotilla_proto::v1;
use flotilla_proto::v1::records_server::{Records, RecordsServer};
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    Aggregate, Aggregation, Client, Conflict, Consistency, Count, Figure, Get, Hosts, Kind, Options, Page,
    Patch, Read, ReadPreference, Record, Scan, Value, WriteMode,
};

#[derive(Clone, Default)]
struct Fake {
    /// Calls still to be refused as unavailable.
    refusals: Arc<AtomicU32>,
    upserts: Arc<std::sync::Mutex<Vec<v1::RequestId>>>,
    /// What the reads said.
    reads: Arc<std::sync::Mutex<Vec<v1::ReadOptions>>>,
}

impl Fake {
    fn strike(&self) -> Result<(), Status> {
        let strikes = self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        strikes.map_or(Ok(()), |_| Err(Refusal::Unavailable("not now".into()).into()))
    }
}

#[tonic::async_trait]
impl Records for Fake {
    async fn upsert(&self, r: Request<v1::UpsertRequest>) -> Result<Response<v1::UpsertResponse>, Status> {
        self.upserts.lock().unwrap().push(r.get_ref().request.unwrap());
        self.strike()?;
        let upserted = r.get_ref().records.len() as u64;
        let indexes = vec![v1::PartitionIndex { partition: 4, log_index: 40 + upserted, node: 1 }];
        let coverage = Some(v1::Coverage { indexes, ..Default::default() });
        let conflicts = match r.get_ref().mode() {
            v1::WriteMode::InsertOnly => {
                let key = r.get_ref().records[0].key.clone();
                vec![v1::Conflict { key, version: 7, reason: "there".into(), place: 0 }]
            }
            _ => Vec::new(),
        };
        Ok(Response::new(v1::UpsertResponse { upserted, coverage, conflicts }))
    }

    async fn upsert_stream(
        &self,
        r: Request<Streaming<v1::UpsertRequest>>,
    ) -> Result<Response<v1::UpsertStreamResponse>, Status> {
        let mut batches = r.into_inner();
        let mut answer = v1::UpsertStreamResponse::default();
        while let Some(batch) = batches.message().await? {
            self.upserts.lock().unwrap().push(batch.request.unwrap());
            answer.upserted += batch.records.len() as u64;
        }
        Ok(Response::new(answer))
    }

    async fn replace(
        &self,
        r: Request<Streaming<v1::ReplaceRequest>>,
    ) -> Result<Response<v1::ReplaceResponse>, Status> {
        let mut messages = r.into_inner();
        let mut answer = v1::ReplaceResponse::default();
        while let Some(message) = messages.message().await? {
            answer.written += message.records.len() as u64;
            answer.removed += u64::from(message.filter.is_some() && message.request.is_some());
        }
        Ok(Response::new(answer))
    }

    async fn get(&self, r: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        self.strike()?;
        self.reads.lock().unwrap().extend(r.get_ref().read.clone());
        let records =
            r.into_inner().keys.into_iter().map(|key| v1::Record { key: Some(key), ..<_>::default() });
        Ok(Response::new(v1::GetResponse { records: records.collect(), coverage: None }))
    }

    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        Err(Violation::new("keys", "wrong").into())
    }

    async fn patch(&self, r: Request<v1::PatchRequest>) -> Result<Response<v1::PatchResponse>, Status> {
        let Some(v1::patch_request::Target::Patches(list)) = r.into_inner().target else {
            return Err(Violation::new("matching.filter", "matches too much").into());
        };
        let conflicts = list.patches.iter().skip(1).map(|patch| v1::Conflict {
            key: patch.key.clone(),
            reason: "missing".into(),
            ..Default::default()
        });
        let conflicts: Vec<v1::Conflict> = conflicts.collect();
        let conflicted = conflicts.len() as u64;
        Ok(Response::new(v1::PatchResponse { patched: 1, conflicts, conflicted, coverage: None }))
    }

    async fn scan(&self, r: Request<v1::ScanRequest>) -> Result<Response<v1::ScanResponse>, Status> {
        self.reads.lock().unwrap().extend(r.into_inner().read);
        Ok(Response::new(v1::ScanResponse { next: "token".into(), ..Default::default() }))
    }

    type ScanStreamStream = BoxStream<'static, Result<v1::ScanResponse, Status>>;

    async fn scan_stream(
        &self,
        r: Request<v1::ScanRequest>,
    ) -> Result<Response<Self::ScanStreamStream>, Status> {
        self.reads.lock().unwrap().extend(r.into_inner().read);
        let page = |keys: std::ops::Range<u64>| {
            let items = keys.map(|k| record_to_wire(Record::new(k))).collect();
            Ok(v1::ScanResponse { items, ..Default::default() })
        };
        Ok(Response::new(Box::pin(tokio_stream::iter([page(0..3), page(3..5)]))))
    }

    async fn aggregate(
        &self,
        r: Request<v1::AggregateRequest>,
    ) -> Result<Response<v1::AggregateResponse>, Status> {
        self.reads.lock().unwrap().push(r.into_inner().read.unwrap());
        self.strike()?;
        let told = |kind| v1::AggregationResult { kind: Some(kind) };
        let value = v1::aggregation_result::Kind::Value(value_to_wire(&Value::Null));
        let stats = v1::aggregation_result::Kind::Stats(Default::default());
        let results = [("a".to_owned(), told(value)), ("b".to_owned(), told(stats))].into();
        Ok(Response::new(v1::AggregateResponse { count: 3, results, coverage: None }))
    }

    async fn count(&self, _: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        std::future::pending().await
    }
}

async fn house() -> (Fake, Client) {
    let (fake, url) = serve().await;
    (fake, Client::connect(&url).await.unwrap())
}

async fn serve() -> (Fake, String) {
    let fake = Fake::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes =
        axum::Router::new().route_service("/flotilla.v1.Records/{*rest}", RecordsServer::new(fake.clone()));
    let server = tonic::transport::Server::builder();
    tokio::spawn(server.serve_with_incoming(routes, TcpListenerStream::new(listener)));
    (fake, url)
}

/// An address at which nobody answers.
const NOBODY: &str = "http://127.0.0.1:1";

#[tokio::test]
async fn a_dead_address_is_passed_over_and_roles_say_who_is_asked_first() {
    let ((writer, master), (reader, replica)) = (serve().await, serve().await);
    let hosts = Hosts { master: vec![NOBODY.into(), master], replicas: vec![replica] };
    let client = Client::connect_hosts(&hosts, ReadPreference::Replica).await.unwrap();
    for _ in 0..3 {
        client.upsert("c", vec![Record::new(1)]).await.unwrap();
        client.get("c", Get::new([7u64])).await.unwrap();
    }
    let seen = |fake: &Fake| (fake.upserts.lock().unwrap().len(), fake.reads.lock().unwrap().len());
    assert_eq!((seen(&writer), seen(&reader)), ((3, 0), (0, 3)));
    reader.refusals.store(1, Ordering::SeqCst);
    client.get("c", Get::new([7u64])).await.unwrap();
    assert_eq!(seen(&writer), (3, 1), "the master answers where the replica does not");

    let batches = tokio_stream::iter([vec![Record::new(1)]]);
    assert_eq!(client.upsert_stream("c", batches).await.unwrap().upserted, 1);
    let nobody = Hosts { master: vec![NOBODY.into()], replicas: Vec::new() };
    let refused = Client::connect_hosts(&nobody, ReadPreference::Master).await.unwrap_err();
    assert_eq!(refused.kind(), &Kind::Retry);
    let refused = Client::connect_hosts(&Hosts::default(), ReadPreference::Master).await.unwrap_err();
    assert_eq!(refused.kind(), &Kind::FixRequest);
}

#[tokio::test]
async fn a_read_carries_what_it_says_and_the_tokens_of_its_session() {
    let (fake, client) = house().await;
    let client = client.with_read(Read::new().consistency(Consistency::Any));
    let session = client.session();
    let written = session.upsert("c", vec![Record::new(1), Record::new(2)]).await.unwrap();
    session.clone().get("c", Get::new([1u64])).await.unwrap();
    session.get("other", Get::new([1u64])).await.unwrap();
    client.get("c", Get::new([1u64])).await.unwrap();
    client.get("c", Get::new([1u64]).read(Read::new().after(&written.tokens))).await.unwrap();
    let linearizable = Read::new().consistency(Consistency::Linearizable);
    client.scan("c", Scan::new().read(linearizable)).await.unwrap();
    let whole: Vec<Page> = session.scan_pages("c", Scan::new()).await.unwrap().try_collect().await.unwrap();
    assert_eq!(whole.len(), 2);

    let reads = std::mem::take(&mut *fake.reads.lock().unwrap());
    let tokens = |n: usize| {
        let of = |i: &v1::PartitionIndex| (i.partition, i.log_index);
        reads[n].tokens.iter().map(of).collect::<Vec<(u64, u64)>>()
    };
    assert_eq!((tokens(0), tokens(1), tokens(2), tokens(3)), (vec![(4, 42)], vec![], vec![], vec![(4, 42)]));
    assert_eq!(tokens(5), [(4, 42)]);
    assert_eq!(reads[3].consistency(), v1::Consistency::Any);
    assert_eq!(reads[4].consistency(), v1::Consistency::Linearizable);
}

#[tokio::test]
async fn a_write_of_unknown_fate_is_sent_again_as_the_same_request() {
    let (fake, client) = house().await;
    fake.refusals.store(2, Ordering::SeqCst);
    assert_eq!(client.upsert("c", vec![Record::new(1)]).await.unwrap().upserted, 1);
    assert_eq!(client.upsert("c", vec![Record::new(2)]).await.unwrap().upserted, 1);
    let ids = fake.upserts.lock().unwrap().clone();
    assert_eq!(ids.iter().map(|id| id.serial).collect::<Vec<u64>>(), [1, 1, 1, 2]);
    assert!(ids[0].client != 0 && ids.iter().all(|id| id.client == ids[0].client));
    fake.refusals.store(1, Ordering::SeqCst);
    assert_eq!(client.get("c", Get::new([7u64])).await.unwrap().records, [Record::new(7)]);
}

#[tokio::test]
async fn what_was_left_as_it_was_is_told() {
    let (_, client) = house().await;
    let done = client.upsert_with("c", vec![Record::new(9)], WriteMode::InsertOnly).await.unwrap();
    let conflict = Conflict { key: 9.into(), version: 7, reason: "there".into(), place: 0 };
    assert_eq!(done.conflicts, [conflict]);
    let patches = vec![Patch::new(1).set("a.b", 1), Patch::new(2).unset("a")];
    let done = client.patch("c", patches).await.unwrap();
    assert_eq!((done.patched, done.conflicted, &done.conflicts[0].key), (1, 1, &2.into()));
    let edit = Patch::new(0).set("a", 1).edit;
    let refused = client.patch_filter("c", &crate::filter::exists("a"), edit).await.unwrap_err();
    assert_eq!(refused.violations()[0].field, "matching.filter");
}

#[tokio::test]
async fn streams_and_pages_give_domain_records() {
    let (_, client) = house().await;
    let batches = tokio_stream::iter([vec![Record::new(1), Record::new(2)], vec![Record::new(3)]]);
    assert_eq!(client.upsert_stream("c", batches).await.unwrap().upserted, 3);
    let set = futures::stream::iter([vec![Record::new(1)], vec![], vec![Record::new(2)]]);
    let replaced = client.replace("c", crate::filter::eq("f", 1), set).await.unwrap();
    // The fake counts the messages that name what is to be replaced, and by whom.
    assert_eq!((replaced.written, replaced.removed), (2, 1));
    let all: Vec<Record> = client.scan_all("c", Scan::new()).await.unwrap().try_collect().await.unwrap();
    assert_eq!(all, (0..5u64).map(Record::new).collect::<Vec<Record>>());
    assert_eq!(client.scan("c", Scan::new().limit(1)).await.unwrap().next.as_deref(), Some("token"));
}

#[tokio::test]
async fn errors_are_advice_and_the_time_is_bounded() {
    let (_, client) = house().await;
    let wrong = client.delete_keys("c", [1u64]).await.unwrap_err();
    assert_eq!((wrong.kind(), wrong.violations()[0].field.as_str()), (&Kind::FixRequest, "keys"));
    let short = Duration::from_millis(60);
    let hasty = client.with_options(Options { timeout: short, try_timeout: short / 3, ..Options::default() });
    assert_eq!(hasty.count("c", None).await.unwrap_err().kind(), &Kind::Retry);
    assert_eq!(Client::connect("no address").await.unwrap_err().kind(), &Kind::FixRequest);
    assert_eq!(Client::connect("http://127.0.0.1:1").await.unwrap_err().kind(), &Kind::Retry);
}

/// Calls may run in tasks of their own.
#[test]
fn calls_can_be_sent_between_threads() {
    fn sent<F: Send>(_: impl Fn(Client) -> F) {}
    sent(|c| async move { c.describe().await.is_ok() });
    sent(|c| async move { c.watch(0).await.is_ok() });
    sent(|c| async move { c.verify(None, true).await.is_ok() });
    sent(|c| async move { c.health().await.is_ok() });
    sent(|c| async move { c.list_collections().await.is_ok() });
    sent(|c| async move { c.get_collection("c").await.is_ok() });
    sent(|c| async move { c.delete_collection("c").await.is_ok() });
    sent(|c| async move { c.upsert("c", Vec::new()).await.is_ok() });
    sent(|c| async move { c.upsert_with("c", Vec::new(), WriteMode::InsertOnly).await.is_ok() });
    sent(|c| async move { c.patch("c", Vec::new()).await.is_ok() });
    sent(|c| async move { c.delete_keys("c", [1u64]).await.is_ok() });
    sent(|c| async move { c.search("c", crate::Search::new(vec![1.0])).await.is_ok() });
    sent(|c| async move { c.scan_all("c", Scan::new()).await.is_ok() });
    sent(|c| async move { c.count("c", Count::new()).await.is_ok() });
    sent(|c| async move { c.get("c", Get::new([1u64])).await.is_ok() });
    sent(|c| async move { c.upsert_stream("c", futures::stream::empty()).await.is_ok() });
}

#[tokio::test]
async fn an_aggregation_is_asked_again_and_read_as_the_client_reads() {
    let (fake, client) = house().await;
    fake.refusals.store(1, Ordering::SeqCst);
    let ask = Aggregate::new().with("a", Aggregation::sum("x")).read(Read::new().allow_partial(true));
    let told = client.aggregate("c", ask).await.unwrap();
    assert_eq!((told.count, &told.results["a"]), (3, &Figure::Value(Value::Null)));
    assert!(matches!(told.results["b"], Figure::Stats { count: 0, sum: None, .. }));
    let reads = fake.reads.lock().unwrap();
    assert_eq!((reads.len(), reads[1].partial()), (2, v1::Partial::Allow));
}

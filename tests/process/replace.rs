//! Generations that are replaced while others read them: every answer is of one generation, across partitions, whatever
//! dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use flotilla_tests::server::Server;
use futures::StreamExt as _;
use futures::stream;
use tonic::{Code, Status};

pub(crate) const COLLECTION: &str = "vms";

/// Set `generation` of what is there: its size differs from that of the one before and the one after.
pub(crate) fn set(generation: i64) -> Vec<v1::Record> {
    let size = 1_000 + 100 * (generation % 5);
    // Keys in part those of the set before.
    let first = 250 * generation;
    let record = |n: i64| v1::Record {
        key: Some(api::key(format!("vm-{}", first + n))),
        payload: [("of", 17), ("gen", generation)].map(|(f, v)| (f.to_owned(), api::int(v))).into(),
        ..Default::default()
    };
    (0..size).map(record).collect()
}

fn of() -> v1::Filter {
    api::equal("of", api::int(17))
}

pub(crate) fn messages(id: v1::RequestId, records: &[v1::Record]) -> Vec<v1::ReplaceRequest> {
    let first = v1::ReplaceRequest {
        collection: COLLECTION.into(),
        filter: Some(of()),
        request: Some(id),
        records: Vec::new(),
    };
    let batch =
        |records: &[v1::Record]| v1::ReplaceRequest { records: records.to_vec(), ..Default::default() };
    std::iter::once(first).chain(records.chunks(150).map(batch)).collect()
}

pub(crate) async fn replace(
    api: &Api,
    messages: Vec<v1::ReplaceRequest>,
) -> Result<v1::ReplaceResponse, Status> {
    let mut records = v1::records_client::RecordsClient::new(api.channel());
    Ok(records.replace(stream::iter(messages)).await?.into_inner())
}

pub(crate) fn id(serial: u64) -> v1::RequestId {
    v1::RequestId { client: 77, serial }
}

/// How many records of each generation there are, in one answer.
async fn seen(api: &Api) -> Vec<(i64, u64)> {
    looked(api, None).await.unwrap()
}

/// The same, as fresh as it is asked for.
pub(crate) async fn looked(api: &Api, read: Option<v1::ReadOptions>) -> Result<Vec<(i64, u64)>, Status> {
    let terms = v1::aggregation::Terms { size: 100, ..Default::default() };
    let terms = v1::Aggregation {
        field: "gen".into(),
        kind: Some(v1::aggregation::Kind::Terms(terms)),
        ..Default::default()
    };
    let request = v1::AggregateRequest {
        collection: COLLECTION.into(),
        filter: Some(of()),
        aggregations: [("gen".to_owned(), terms)].into(),
        read,
    };
    let answer = api.aggregate(request).await?;
    let Some(v1::aggregation_result::Kind::Buckets(buckets)) = &answer.results["gen"].kind else {
        panic!("{answer:?}")
    };
    let number = |value: &Option<v1::Value>| match value.as_ref().and_then(|value| value.kind.as_ref()) {
        Some(v1::value::Kind::Integer(number)) => *number,
        other => panic!("{other:?}"),
    };
    Ok(buckets.buckets.iter().map(|bucket| (number(&bucket.value), bucket.count)).collect())
}

pub(crate) fn spec() -> v1::CollectionSpec {
    let fields = vec![("of", v1::FieldType::Integer), ("gen", v1::FieldType::Integer)];
    let mut spec = api::collection(COLLECTION, 2, fields);
    spec.vectors.clear();
    spec.partitions = 4;
    spec
}

async fn collection(api: &Api) {
    api.create(v1::CreateCollectionRequest { spec: Some(spec()) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_one_generation_or_the_next_and_never_both_or_neither() {
    let dir = crate::folder();
    let (data, settings) = (dir.path().join("data"), crate::small_settings(dir.path()));
    let server = Server::start(crate::binary(), &data, &["--config", &settings]).unwrap();
    let api = Api::connect(&server.url()).await.unwrap();
    collection(&api).await;
    let other = v1::Record {
        key: Some(api::key("other")),
        payload: [("of".to_owned(), api::int(18))].into(),
        ..Default::default()
    };
    let upsert =
        v1::UpsertRequest { collection: COLLECTION.into(), records: vec![other], ..Default::default() };
    api.upsert(upsert).await.unwrap();
    let first = replace(&api, messages(id(1), &set(1))).await.unwrap();
    assert_eq!((first.written, first.removed), (1_100, 0));

    let (is_over, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (api, is_over, looks) = (api.clone(), is_over.clone(), looks.clone());
            tokio::spawn(async move {
                let mut last = 1;
                while !is_over.load(Ordering::SeqCst) {
                    let found = seen(&api).await;
                    let [(generation, count)] = found[..] else { panic!("{found:?}") };
                    assert!(generation >= last, "back from {last} to {generation}");
                    assert_eq!(count as usize, set(generation).len(), "of generation {generation}");
                    last = generation;
                    looks.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for generation in 2..=12 {
        let before = looks.load(Ordering::SeqCst);
        let done = replace(&api, messages(id(generation as u64), &set(generation))).await.unwrap();
        assert_eq!(done.written as usize, set(generation).len());
        assert_eq!(seen(&api).await, [(generation, done.written)], "acknowledged, it is seen");
        // Readers get between any two.
        while looks.load(Ordering::SeqCst) < before + 2 && readers.iter().all(|reader| !reader.is_finished())
        {
            tokio::task::yield_now().await;
        }
    }
    is_over.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.unwrap();
    }
    let all =
        api.count(v1::CountRequest { collection: COLLECTION.into(), ..Default::default() }).await.unwrap();
    assert_eq!(all.count as usize, set(12).len() + 1, "what does not match stays");

    // Sent again, it is answered as the first time; and what does not fit changes nothing.
    let again = replace(&api, messages(id(1), &set(1))).await.unwrap();
    assert_eq!((again.written, again.removed), (1_100, 0));
    let mut wrong = set(13);
    wrong[700].payload.insert("of".into(), api::int(18));
    let refused = replace(&api, messages(id(13), &wrong)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("records[700]"), "{refused}");
    assert_eq!(seen(&api).await, [(12, set(12).len() as u64)]);
    server.terminate().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_whole_is_never_seen_and_a_commit_survives_a_kill() {
    let dir = crate::folder();
    let (data, settings) = (dir.path().join("data"), crate::small_settings(dir.path()));
    let start = || Server::start(crate::binary(), &data, &["--config", &settings]).unwrap();
    let server = start();
    let api = Api::connect(&server.url()).await.unwrap();
    collection(&api).await;
    replace(&api, messages(id(1), &set(1))).await.unwrap();

    // A client that goes away in the middle of its set.
    let (took, mut taken) = tokio::sync::mpsc::channel(1);
    let half = move || {
        let took = took.clone();
        let batches = messages(id(2), &set(2)).into_iter().take(6);
        stream::iter(batches).chain(stream::once(async move {
            took.send(()).await.unwrap();
            std::future::pending().await
        }))
    };
    let mut records = v1::records_client::RecordsClient::new(api.channel());
    tokio::select! {
        answer = records.replace(half()) => panic!("{answer:?}"),
        _ = taken.recv() => {}
    }
    assert_eq!(seen(&api).await, [(1, 1_100)]);
    let done = replace(&api, messages(id(3), &set(3))).await.unwrap();
    assert_eq!((seen(&api).await, done.removed), (vec![(3, 1_300)], 500));

    // The process dies in the middle of one, and after another.
    tokio::select! {
        answer = records.replace(half()) => panic!("{answer:?}"),
        _ = taken.recv() => {}
    }
    server.kill9();
    let server = start();
    let api = Api::connect(&server.url()).await.unwrap();
    assert_eq!(seen(&api).await, [(3, 1_300)]);
    let again = replace(&api, messages(id(3), &set(3))).await.unwrap();
    assert_eq!((again.written, again.removed), (1_300, 500), "answered as the first time");
    let done = replace(&api, messages(id(4), &set(4))).await.unwrap();
    assert_eq!((seen(&api).await, done.written), (vec![(4, 1_400)], 1_400));
    server.terminate().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_of_a_scan_show_one_state_whatever_is_written_meanwhile() {
    let dir = crate::folder();
    let (data, settings) = (dir.path().join("data"), crate::small_settings(dir.path()));
    let server = Server::start(crate::binary(), &data, &["--config", &settings]).unwrap();
    let api = Api::connect(&server.url()).await.unwrap();
    collection(&api).await;
    for batch in set(1).chunks(500) {
        let collection = COLLECTION.to_owned();
        let request = v1::UpsertRequest { collection, records: batch.to_vec(), ..Default::default() };
        api.upsert(request).await.unwrap();
    }
    for order_by in ["", "gen"] {
        let mut request = v1::ScanRequest {
            collection: COLLECTION.into(),
            filter: Some(of()),
            limit: 90,
            with_payload: true,
            order_by: order_by.into(),
            ..Default::default()
        };
        let before: u64 = seen(&api).await.iter().map(|(_, count)| count).sum();
        let (mut shown, mut pages) = (Vec::new(), 0);
        loop {
            let page = api.scan(request.clone()).await.unwrap();
            assert!(!page.changed, "page {pages}");
            shown.extend(page.items.iter().map(|record| (record.key.clone(), api::int_of(record, "gen"))));
            pages += 1;
            if page.next.is_empty() {
                break;
            }
            request.next = page.next;
            // Everything is written anew, and something comes: of another generation.
            for batch in set(1 + pages).chunks(500) {
                let collection = COLLECTION.to_owned();
                let records = batch.to_vec();
                api.upsert(v1::UpsertRequest { collection, records, ..Default::default() }).await.unwrap();
            }
        }
        let keys: std::collections::BTreeSet<_> =
            shown.iter().map(|(key, _)| api::sortable(key.as_ref().unwrap())).collect();
        assert_eq!((shown.len() as u64, keys.len() as u64), (before, before), "by `{order_by}`");
        assert!(pages > 9, "{pages} pages");
        if order_by.is_empty() {
            assert!(shown.iter().all(|(_, generation)| *generation == Some(1)));
        }
    }
    server.terminate().unwrap();
}

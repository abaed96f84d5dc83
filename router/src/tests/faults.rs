//! What each call does when a node refuses, breaks off or keeps silent.

use std::time::Duration;

use flotilla_proto::ids::Epoch;
use flotilla_proto::refusal::Refusal;
use tonic::Code;

use super::*;
use crate::fake::Fault;

fn count() -> v1::CountRequest {
    v1::CountRequest { collection: "vms".into(), filter: None, read: None }
}

fn unavailable() -> Fault {
    Fault::Refuse(Refusal::Unavailable("not now".into()))
}

/// Moves every slot of `vms` to its first partition, at a new epoch that only the node knows.
fn concentrate(fake: &Fake) {
    fake.change(false, |map| {
        map.epoch.0 += 1;
        map.collections[0].epoch = map.epoch;
        map.collections[0].slots.fill(0);
    });
    fake.rehome("vms");
}

#[tokio::test]
async fn a_read_by_a_stale_map_starts_over_with_the_newer_one() {
    let mut house = House::with_records(100).await;
    concentrate(&house.fake);
    assert_eq!(house.records.count(count()).await.unwrap().into_inner().count, 100);
    concentrate(&house.fake);
    let hits = house.search.search(nearest(5.0, 100)).await.unwrap().into_inner().hits;
    assert_eq!(hits.len(), 100);
    concentrate(&house.fake);
    let page = house.records.scan(scan(1_000)).await.unwrap().into_inner();
    assert_eq!(page.items.len(), 100);
    concentrate(&house.fake);
    let get = v1::GetRequest { collection: "vms".into(), keys: vec![key(3)], ..Default::default() };
    assert_eq!(house.records.get(get).await.unwrap().into_inner().records.len(), 1);
    let epochs: Vec<u64> = house.fake.seen("get").iter().map(|s| s.epoch).collect();
    assert_eq!(epochs.last(), Some(&house.fake.map().epoch.0));
}

#[tokio::test]
async fn a_write_by_a_stale_map_is_split_anew() {
    let mut house = House::with_collection().await;
    concentrate(&house.fake);
    let written = house.records.upsert(upsert((0..50).map(record))).await.unwrap().into_inner();
    assert_eq!(written.upserted, 50);
    assert_eq!(written.coverage.unwrap().indexes.len(), 1, "all keys fall into one partition by now");
    assert_eq!(house.fake.len(), 50);
}

#[tokio::test]
async fn a_stream_of_pages_survives_a_change_of_the_map() {
    let mut house = House::with_records(5_000).await;
    let mut stream = house.records.scan_stream(scan(0)).await.unwrap().into_inner();
    let mut keys = Vec::new();
    while let Some(page) = stream.message().await.unwrap() {
        if keys.is_empty() {
            concentrate(&house.fake);
        }
        keys.extend(page.items.iter().map(number));
    }
    assert_eq!(keys, (0..5_000).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_stale_refusal_without_a_placement_makes_the_router_ask() {
    let mut house = House::with_records(10).await;
    house.fake.fault("count", Fault::Refuse(Refusal::StaleEpoch { seen: 1, current: 9, placement: None }));
    assert_eq!(house.records.count(count()).await.unwrap().into_inner().count, 10);
    house.fake.change(false, |map| {
        map.epoch.0 += 1;
        map.collections.clear();
    });
    assert_eq!(house.records.count(count()).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn what_is_unavailable_once_is_asked_again_if_that_is_harmless() {
    let mut house = House::with_records(10).await;
    house.fake.fault("count", unavailable());
    assert_eq!(house.records.count(count()).await.unwrap().into_inner().count, 10);
    assert_eq!(house.fake.seen("count").len(), 4);

    let id = Some(v1::RequestId { client: 5, serial: 1 });
    house.fake.fault("write", unavailable());
    let request = v1::UpsertRequest { request: id, ..upsert((10..11).map(record)) };
    assert_eq!(house.records.upsert(request.clone()).await.unwrap().into_inner().upserted, 1);
    assert_eq!(house.records.upsert(request).await.unwrap().into_inner().upserted, 0, "applied once");

    house.fake.fault("write", unavailable());
    let without_id = house.records.upsert(upsert((11..12).map(record))).await.unwrap().into_inner();
    assert_eq!(without_id.upserted, 1, "the router gave it an id");
    assert!(house.router.metrics.retries.get() >= 2);
}

#[tokio::test]
async fn the_deadline_is_passed_on_and_a_silent_node_is_not_waited_for() {
    let mut house = House::with_records(10).await;
    house.fake.fault("count", Fault::Hang);
    let mut request = tonic::Request::new(count());
    request.set_timeout(Duration::from_millis(300));
    let refused = house.records.count(request).await.unwrap_err();
    assert!(matches!(refused.code(), Code::DeadlineExceeded), "{refused:?}");
    tokio::time::timeout(crate::fake::SOON, house.fake.cancelled()).await.unwrap();
    for call in house.fake.seen("count") {
        let timeout = call.timeout.unwrap();
        let micros: u64 = timeout.strip_suffix('u').unwrap_or_else(|| panic!("{timeout}")).parse().unwrap();
        assert!(micros < 290_000, "{timeout} leaves no margin");
    }
}

#[tokio::test]
async fn work_ends_when_the_caller_goes() {
    let house = House::with_records(10).await;
    house.fake.fault("count", Fault::Hang);
    let mut records = house.records.clone();
    let call = tokio::spawn(async move { records.count(count()).await });
    while house.fake.seen("count").len() < 3 {
        tokio::task::yield_now().await;
    }
    call.abort();
    tokio::time::timeout(crate::fake::SOON, house.fake.cancelled()).await.unwrap();
}

#[tokio::test]
async fn a_search_whose_winners_vanish_runs_again_and_gives_up_in_the_end() {
    let mut house = House::with_records(30).await;
    let request = v1::SearchRequest { with_payload: true, ..nearest(5.0, 3) };
    house.fake.fault("get", Fault::Refuse(Refusal::Aborted("the view is gone".into())));
    assert_eq!(house.search.search(request.clone()).await.unwrap().into_inner().hits.len(), 3);
    for _ in 0..9 {
        house.fake.fault("get", Fault::Refuse(Refusal::Aborted("the view is gone".into())));
    }
    assert_eq!(house.search.search(request).await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test]
async fn damage_is_told_as_it_is() {
    let mut house = House::with_records(10).await;
    house.fake.fault("search", Fault::Refuse(Refusal::DataLoss("segment 4: bad check sum".into())));
    let refused = house.search.search(nearest(1.0, 1)).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::DataLoss, "segment 4: bad check sum"));
    let retry_after = Duration::from_millis(250);
    house.fake.fault("write", Fault::Refuse(Refusal::Exhausted { what: "memory".into(), retry_after }));
    let refused = house.records.upsert(upsert((0..1).map(record))).await.unwrap_err();
    let details = tonic_types_retry(&refused);
    assert_eq!((refused.code(), details), (Code::ResourceExhausted, true));
}

/// Whether the details came through: they hold the word that names them.
fn tonic_types_retry(status: &tonic::Status) -> bool {
    String::from_utf8_lossy(status.details()).contains("google.rpc.RetryInfo")
}

/// Two nodes over TCP that share one map: the one that does not lead names the other.
#[tokio::test]
async fn the_named_leader_is_asked_and_remembered() {
    let listeners = [
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
    ];
    let addresses: Vec<String> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
    let names: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let fakes = [Fake::new(1, &names), Fake::new(2, &names)];
    for (fake, listener) in fakes.iter().zip(listeners) {
        fake.serve(tokio_stream::wrappers::TcpListenerStream::new(listener));
    }
    let options = Options { nodes: vec![addresses[0].clone()], ..Options::default() };
    let router = Router::start(options, None, Registry::new()).unwrap();
    let mut collections =
        CollectionsClient::new(server::in_process(router.clone(), server::Options::default()));
    let mut one = spec("vms");
    one.partitions = 1;
    collections.create(v1::CreateCollectionRequest { spec: Some(spec_to_wire(&one)) }).await.unwrap();
    let map = fakes[0].map();
    fakes[1].change(true, |own| *own = map);
    assert_eq!(fakes[1].id().0, 2);

    fakes[0].fault("count", Fault::Refuse(Refusal::NotLeader { partition: 200, leader: Some(2) }));
    let mut records = RecordsClient::new(server::in_process(router, server::Options::default()));
    for _ in 0..3 {
        records.count(count()).await.unwrap();
    }
    assert_eq!((fakes[0].seen("count").len(), fakes[1].seen("count").len()), (1, 3));
}

#[tokio::test]
async fn a_map_never_goes_back() {
    let house = House::with_collection().await;
    let placement = house.router.placement();
    let now = placement.map().unwrap();
    placement.install(flotilla_proto::placement::PlacementMap { epoch: Epoch(1), ..(*now).clone() });
    assert_eq!(placement.map().unwrap().epoch, now.epoch);
    let mut newer = now.collections[0].clone();
    newer.epoch = Epoch(50);
    placement.learn(flotilla_proto::convert::placement_to_wire(&newer)).unwrap();
    let mut whole = (*now).clone();
    whole.epoch = Epoch(now.epoch.0 + 1);
    placement.install(whole);
    let known = placement.map().unwrap();
    assert_eq!((known.epoch.0, known.collections[0].epoch.0), (now.epoch.0 + 1, 50));
}

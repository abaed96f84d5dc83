//! What each call does when nothing goes wrong.

use flotilla_proto::refusal::Refusal;
use tonic::{Code, Status};

use super::*;

#[tokio::test]
async fn a_collection_is_made_seen_changed_and_deleted() {
    let mut house = House::with_collection().await;
    let again = v1::CreateCollectionRequest { spec: Some(spec_to_wire(&spec("vms"))) };
    assert_eq!(house.collections.create(again).await.unwrap_err().code(), Code::AlreadyExists);
    let listed = house.collections.list(v1::ListCollectionsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.collections.len(), 1);

    let fields = [("zone".to_owned(), v1::FieldType::Keyword.into())].into();
    let update = v1::UpdateCollectionRequest { name: "vms".into(), add_fields: fields, ..Default::default() };
    let updated = house.collections.update(update).await.unwrap().into_inner().collection.unwrap();
    assert!(updated.spec.unwrap().fields.contains_key("zone"));
    let get = || v1::GetCollectionRequest { name: "vms".into() };
    let got = house.collections.get(get()).await.unwrap().into_inner();
    assert!(got.collection.unwrap().spec.unwrap().fields.contains_key("zone"));
    let coverage = got.status.unwrap().coverage.unwrap();
    assert_eq!((coverage.partitions_asked, coverage.partitions_answered), (3, 3));

    house.collections.delete(v1::DeleteCollectionRequest { name: "vms".into() }).await.unwrap();
    assert_eq!(house.collections.get(get()).await.unwrap_err().code(), Code::NotFound);
    let gone =
        house.records.count(v1::CountRequest { collection: "vms".into(), filter: None, read: None }).await;
    assert_eq!(gone.unwrap_err().message(), "there is no collection `vms`");
}

#[tokio::test]
async fn records_are_written_read_counted_and_deleted() {
    let mut house = House::with_collection().await;
    let written = house.records.upsert(upsert((0..100).map(record))).await.unwrap().into_inner();
    assert_eq!(written.upserted, 100);
    assert_eq!(written.coverage.unwrap().indexes.len(), 3);

    let get = v1::GetRequest {
        collection: "vms".into(),
        keys: vec![key(7), key(500), key(3), key(7)],
        with_payload: true,
        with_vectors: true,
        read: None,
        fields: Vec::new(),
    };
    let got = house.records.get(get).await.unwrap().into_inner().records;
    assert_eq!(got.iter().map(number).collect::<Vec<u64>>(), [7, 3, 7]);
    assert_eq!(got[0].vectors["default"].values, [7.0, 0.0]);
    assert_eq!(got[1].payload.len(), 1);

    let count = |filter| v1::CountRequest { collection: "vms".into(), filter, read: None };
    assert_eq!(house.records.count(count(None)).await.unwrap().into_inner().count, 100);
    assert_eq!(house.records.count(count(cpu(1))).await.unwrap().into_inner().count, 25);

    let delete = |target| v1::DeleteRequest { collection: "vms".into(), target: Some(target), request: None };
    let keys = v1::delete_request::Target::Keys(v1::KeyList { keys: vec![key(1), key(2), key(500)] });
    assert_eq!(house.records.delete(delete(keys)).await.unwrap().into_inner().deleted, 2);
    let filter = v1::delete_request::Target::Filter(cpu(1).unwrap());
    assert_eq!(house.records.delete(delete(filter)).await.unwrap().into_inner().deleted, 24);
    assert_eq!(house.records.count(count(None)).await.unwrap().into_inner().count, 74);
    let none = v1::DeleteRequest { collection: "vms".into(), ..Default::default() };
    assert_eq!(house.records.delete(none).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn nothing_is_written_when_one_record_of_a_batch_is_bad() {
    let mut house = House::with_collection().await;
    let bad = Record::new(98).vector("default", vec![f32::NAN, 1.0]);
    let records = (0..98).map(record).chain([bad, record(99)]);
    let refused = house.records.upsert(upsert(records)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("records[98].vectors[default]"), "{}", refused.message());
    let many = house.records.upsert(upsert((0..1_001).map(record))).await.unwrap_err();
    assert_eq!(many.message(), "records: 1001 records, the limit is 1000");
    assert_eq!((house.fake.seen("write").len(), house.fake.len()), (0, 0));
}

#[tokio::test]
async fn a_stream_of_batches_ends_in_one_answer_or_says_how_far_it_came() {
    let mut house = House::with_collection().await;
    let batches = (0..5u64).map(|b| upsert((b * 10..b * 10 + 10).map(record)));
    let stream = tokio_stream::iter(batches.clone().collect::<Vec<_>>());
    let done = house.records.upsert_stream(stream).await.unwrap().into_inner();
    assert_eq!((done.upserted, done.batches), (50, 5));
    assert_eq!(done.coverage.unwrap().partitions_answered, 3);

    let wrong = v1::UpsertRequest { collection: "none".into(), ..Default::default() };
    let mut some: Vec<_> = batches.take(2).collect();
    some.push(wrong);
    let refused = house.records.upsert_stream(tokio_stream::iter(some)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(
        refused.message(),
        "after 2 batches of 20 records were acknowledged: there is no collection `none`"
    );
}

#[tokio::test]
async fn the_nearest_come_first_with_what_was_asked_for() {
    let mut house = House::with_records(200).await;
    let plain = house.search.search(nearest(50.2, 3)).await.unwrap().into_inner();
    let keys =
        |hits: &[v1::Hit]| hits.iter().map(|h| number(h.record.as_ref().unwrap())).collect::<Vec<u64>>();
    assert_eq!(keys(&plain.hits), [50, 51, 49]);
    assert!(plain.hits[0].record.as_ref().unwrap().payload.is_empty());
    assert!((plain.hits[1].score + 0.8).abs() < 1e-4, "the score is minus the distance");
    assert_eq!(plain.coverage.unwrap().partitions_answered, 3);

    let full = v1::SearchRequest {
        offset: 1,
        filter: cpu(2),
        with_payload: true,
        with_vectors: true,
        explain: true,
        ..nearest(50.2, 2)
    };
    let full = house.search.search(full).await.unwrap().into_inner();
    assert_eq!(keys(&full.hits), [54, 46]);
    assert_eq!(full.hits[0].record.as_ref().unwrap().vectors["default"].values, [54.0, 0.0]);
    assert_eq!(full.plans.len(), 3);
    assert!(house.fake.seen("get").iter().all(|call| call.view > 0), "winners are read by the view searched");

    let near = v1::SearchRequest { score_threshold: Some(-1.0), ..nearest(50.2, 10) };
    assert_eq!(keys(&house.search.search(near).await.unwrap().into_inner().hits), [50, 51]);
}

#[tokio::test]
async fn a_wrong_search_is_refused_by_field_and_value() {
    let mut house = House::with_collection().await;
    let vector = |values: Vec<f32>| Some(v1::Vector { values, ..Default::default() });
    let wrong = [
        (v1::SearchRequest { limit: Some(0), ..nearest(1.0, 1) }, "limit: must be 1 to 10000, got 0"),
        (nearest(1.0, 10_001), "limit: must be 1 to 10000, got 10001"),
        (
            v1::SearchRequest { offset: 1, ..nearest(1.0, 10_000) },
            "offset + limit: must be 1 to 10000, got 10001",
        ),
        (v1::SearchRequest { ef: 65_537, ..nearest(1.0, 1) }, "ef: must be 0 to 65536, got 65537"),
        (
            v1::SearchRequest { vector: vector(vec![1.0]), ..nearest(1.0, 1) },
            "vector: expected 2 dimensions, got 1",
        ),
        (v1::SearchRequest { vector: None, ..nearest(1.0, 1) }, "vector: a vector is needed"),
        (nearest(f32::NAN, 1), "vector: component 0 is NaN"),
        (v1::SearchRequest { vector_name: "x".into(), ..nearest(1.0, 1) }, "vector_name: collection `vms`"),
        (v1::SearchRequest { score_threshold: Some(f32::NAN), ..nearest(1.0, 1) }, "score_threshold: is NaN"),
        (v1::SearchRequest { filter: Some(v1::Filter::default()), ..nearest(1.0, 1) }, "filter: "),
    ];
    for (request, message) in wrong {
        let refused: Status = house.search.search(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{message}");
        assert!(refused.message().starts_with(message), "{} is not {message}", refused.message());
    }
    let none = v1::SearchRequest { collection: "none".into(), ..nearest(1.0, 1) };
    let refused = house.search.search(none).await.unwrap_err();
    assert_eq!(refused.message(), Refusal::NotFound("collection", "none".into()).to_string());
    assert!(house.fake.seen("search").is_empty(), "no node was asked");
}

#[tokio::test]
async fn pages_in_a_row_and_a_stream_of_pages_give_all_records_once_by_key() {
    let mut house = House::with_records(2_500).await;
    let mut request = v1::ScanRequest { with_payload: true, ..scan(400) };
    let mut keys = Vec::new();
    loop {
        let page = house.records.scan(request.clone()).await.unwrap().into_inner();
        keys.extend(page.items.iter().map(number));
        if page.next.is_empty() {
            break;
        }
        assert_eq!(page.items.len(), 400);
        request.next = page.next;
    }
    assert_eq!(keys, (0..2_500).collect::<Vec<u64>>());

    let filtered = v1::ScanRequest { filter: cpu(3), ..scan(0) };
    let mut stream = house.records.scan_stream(filtered).await.unwrap().into_inner();
    let mut keys = Vec::new();
    while let Some(page) = stream.message().await.unwrap() {
        keys.extend(page.items.iter().map(number));
    }
    assert_eq!(keys, (0..625).map(|n| n * 4 + 3).collect::<Vec<u64>>());

    let mut stream = house.records.scan_stream(scan(1_234)).await.unwrap().into_inner();
    let (mut count, mut last) = (0, String::new());
    while let Some(page) = stream.message().await.unwrap() {
        count += page.items.len();
        last = page.next;
    }
    assert_eq!(count, 1_234);
    let rest = v1::ScanRequest { next: last, ..scan(1) };
    let page = house.records.scan(rest).await.unwrap().into_inner();
    assert_eq!(number(&page.items[0]), 1_234);
}

#[tokio::test]
async fn a_foreign_or_garbled_token_is_refused() {
    let mut house = House::with_records(300).await;
    assert_eq!(
        house.records.scan(scan(10_001)).await.unwrap_err().message(),
        "limit: must be 1 to 10000, got 10001"
    );
    let page = house.records.scan(scan(5)).await.unwrap().into_inner();
    for (next, filter) in [("garbage".to_owned(), None), (page.next, cpu(1))] {
        let request = v1::ScanRequest { next, filter, ..scan(5) };
        let refused = house.records.scan(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with("next: "));
    }
}

#[tokio::test]
async fn the_map_is_told_and_each_newer_one() {
    let mut house = House::new().await;
    let told = house.cluster.describe(v1::DescribeRequest {}).await.unwrap().into_inner();
    assert_eq!(told.placement.unwrap().epoch, 1);
    let mut maps = house.cluster.watch(v1::WatchRequest { after_epoch: 0 }).await.unwrap().into_inner();
    assert_eq!(maps.message().await.unwrap().unwrap().epoch, 1);
    let request = v1::CreateCollectionRequest { spec: Some(spec_to_wire(&spec("vms"))) };
    house.collections.create(request).await.unwrap();
    let newer = maps.message().await.unwrap().unwrap();
    assert_eq!((newer.epoch, newer.collections.len()), (2, 1));
}

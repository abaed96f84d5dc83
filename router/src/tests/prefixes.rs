//! Keys that share their part before a delimiter, and scans of keys that begin alike.

use std::collections::BTreeSet;

use flotilla_proto::schema::Strategy;

use super::*;

const FILES: usize = 40;
const SEGMENTS: usize = 25;

fn text(record: &v1::Record) -> String {
    match record.key.as_ref().unwrap().kind.clone() {
        Some(v1::key::Kind::Text(text)) => text,
        _ => panic!("not a text: {record:?}"),
    }
}

fn segment(file: usize, segment: usize) -> String {
    format!("file-{file:02}/{segment:03}")
}

/// `vms` by this strategy, with the segments of some files, and records by number.
async fn house(strategy: Strategy) -> House {
    let mut house = House::new().await;
    let spec = CollectionSpec { strategy, ..spec("vms") };
    let request = v1::CreateCollectionRequest { spec: Some(spec_to_wire(&spec)) };
    house.collections.create(request).await.unwrap();
    let keys = (0..FILES).flat_map(|file| (0..SEGMENTS).map(move |n| segment(file, n)));
    let keys: Vec<Key> = keys.map(Key::Text).chain((0..100).map(Key::Number)).collect();
    for keys in keys.chunks(500) {
        let records = keys.iter().map(|key| Record::new(key.clone()).field("cpu", 1));
        house.records.upsert(upsert(records)).await.unwrap();
    }
    house
}

fn of_prefix(prefix: &str, limit: u32) -> v1::ScanRequest {
    v1::ScanRequest { key_prefix: Some(prefix.to_owned()), ..scan(limit) }
}

fn asked(coverage: Option<v1::Coverage>) -> (u32, u32) {
    let coverage = coverage.unwrap();
    (coverage.partitions_asked, coverage.partitions_answered)
}

/// All keys of a prefix, page by page, and how many partitions were asked and answered for the pages.
async fn paged(house: &mut House, prefix: &str, limit: u32) -> (Vec<String>, BTreeSet<(u32, u32)>) {
    let (mut request, mut keys, mut coverages) = (of_prefix(prefix, limit), Vec::new(), BTreeSet::new());
    loop {
        let page = house.records.scan(request.clone()).await.unwrap().into_inner();
        keys.extend(page.items.iter().map(text));
        coverages.insert(asked(page.coverage));
        if page.next.is_empty() {
            return (keys, coverages);
        }
        assert_eq!(page.items.len(), limit as usize);
        request.next = page.next;
    }
}

#[tokio::test]
async fn the_segments_of_a_file_are_in_one_partition_which_alone_is_asked_for_them() {
    let mut house = house(Strategy::ShardKey { delimiter: b'/' }).await;
    let map = house.fake.map();
    let placement = map.collection("vms").unwrap();
    let mut owners = BTreeSet::new();
    for file in 0..FILES {
        let all: Vec<String> = (0..SEGMENTS).map(|n| segment(file, n)).collect();
        let of: BTreeSet<_> =
            all.iter().map(|key| placement.partition_of(&key.as_str().into()).unwrap().id).collect();
        assert_eq!(of.len(), 1, "{of:?}");
        owners.extend(of);
        let prefix = format!("file-{file:02}/");
        for limit in [7, 1_000] {
            assert_eq!(paged(&mut house, &prefix, limit).await, (all.clone(), BTreeSet::from([(1, 1)])));
        }
    }
    assert_eq!(owners.len(), 3, "files are spread");
    let before = house.fake.seen("scan").len();
    let page = house.records.scan(of_prefix("file-07/02", 100)).await.unwrap().into_inner();
    assert_eq!(
        page.items.iter().map(text).collect::<Vec<_>>(),
        (20..25).map(|n| segment(7, n)).collect::<Vec<_>>()
    );
    assert_eq!(house.fake.seen("scan").len(), before + 1, "nobody else is asked");

    // Without a delimiter in it, a prefix may be anywhere.
    let tens: Vec<String> = (10..20).flat_map(|file| (0..SEGMENTS).map(move |n| segment(file, n))).collect();
    assert_eq!(paged(&mut house, "file-1", 60).await, (tens, BTreeSet::from([(3, 3)])));
    assert_eq!(paged(&mut house, "g", 60).await, (vec![], BTreeSet::from([(3, 3)])));
    assert_eq!(paged(&mut house, "file-99/", 60).await, (vec![], BTreeSet::from([(1, 1)])));

    let mut stream = house.records.scan_stream(of_prefix("file-07/", 0)).await.unwrap().into_inner();
    let mut keys = Vec::new();
    while let Some(page) = stream.message().await.unwrap() {
        assert_eq!(asked(page.coverage), (1, 1));
        keys.extend(page.items.iter().map(text));
    }
    assert_eq!(keys, (0..SEGMENTS).map(|n| segment(7, n)).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_a_delimiter_all_are_asked_for_a_prefix() {
    let all: Vec<String> = (0..SEGMENTS).map(|n| segment(7, n)).collect();
    let mut hashed = house(Strategy::ConsistentHash).await;
    assert_eq!(paged(&mut hashed, "file-07/", 4).await, (all, BTreeSet::from([(3, 3)])));
}

#[tokio::test]
async fn a_prefix_that_makes_no_sense_is_refused_and_a_token_is_of_its_prefix() {
    let mut house = house(Strategy::ShardKey { delimiter: b'/' }).await;
    let ordered = v1::ScanRequest { order_by: "cpu".into(), ..of_prefix("file-07/", 5) };
    let next = house.records.scan(of_prefix("file-07/", 5)).await.unwrap().into_inner().next;
    let with_next = |request: v1::ScanRequest| v1::ScanRequest { next: next.clone(), ..request };
    for (request, told) in [
        (of_prefix("", 5), "key_prefix: has at least 1 byte"),
        (of_prefix(&"f".repeat(1_025), 5), "key_prefix: 1025 bytes, the limit is 1024"),
        (ordered, "key_prefix: goes with the order of keys"),
        (
            with_next(of_prefix("file-0", 5)),
            "next: is a token of a scan with another filter, order or key prefix",
        ),
        (with_next(scan(5)), "next: is a token of a scan with another filter, order or key prefix"),
    ] {
        let refused = house.records.scan(request.clone()).await.unwrap_err();
        assert!(refused.message().starts_with(told), "{} is not {told}", refused.message());
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        let refused = house.records.scan_stream(request).await.unwrap_err();
        assert!(refused.message().starts_with(told), "{} is not {told}", refused.message());
    }
}

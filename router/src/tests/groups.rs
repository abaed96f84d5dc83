//! Searches in groups, over three partitions.

use flotilla_proto::convert::value_from_wire;
use flotilla_proto::record::Value;
use tonic::{Code, Status};

use super::*;

/// A record on a line, in the groups `tags`.
fn tagged(n: u64, tags: Vec<Value>) -> Record {
    Record::new(n).field("tags", Value::List(tags)).vector("default", vec![n as f32, 0.0])
}

/// Some groups are everywhere, some rare, some records in several.
fn tags(n: u64) -> Vec<Value> {
    let mut tags = vec![Value::from((n * n % 7) as i64)];
    if n.is_multiple_of(11) {
        tags.push("eleven".into());
    }
    if n.is_multiple_of(31) {
        tags = vec![];
    }
    tags
}

fn grouped(x: f32, groups: u32, size: u32) -> v1::SearchRequest {
    v1::SearchRequest { group_by: "tags".into(), group_size: size, ..nearest(x, groups) }
}

/// Each group's value, with its records.
type Groups = Vec<(String, Vec<u64>)>;

fn shown(answer: &v1::SearchResponse) -> Groups {
    let value =
        |group: &v1::Group| format!("{:?}", value_from_wire("value", group.value.clone().unwrap()).unwrap());
    let keys = |hits: &[v1::Hit]| hits.iter().map(|hit| number(hit.record.as_ref().unwrap())).collect();
    answer.groups.iter().map(|group| (value(group), keys(&group.hits))).collect()
}

fn naive(count: u64, x: f32, groups: usize, size: usize) -> Groups {
    let mut order: Vec<u64> = (0..count).collect();
    order.sort_by(|a, b| (*a as f32 - x).abs().total_cmp(&(*b as f32 - x).abs()).then(a.cmp(b)));
    let mut found: Groups = Vec::new();
    for n in order {
        let mut tags = tags(n);
        tags.sort_by_key(|tag| matches!(tag, Value::Text(_)));
        for tag in tags {
            let tag = format!("{tag:?}");
            match found.iter_mut().find(|(known, _)| *known == tag) {
                Some((_, keys)) => keys.push(n),
                None => found.push((tag, vec![n])),
            }
        }
    }
    found.truncate(groups);
    found.iter_mut().for_each(|(_, keys)| keys.truncate(size));
    found
}

async fn house(count: u64) -> House {
    let mut house = House::with_collection().await;
    house.records.upsert(upsert((0..count).map(|n| tagged(n, tags(n))))).await.unwrap();
    house
}

#[tokio::test]
async fn groups_over_partitions_are_the_obvious_ones() {
    let mut house = house(400).await;
    for (x, groups, size) in [
        (50.3, 2, 3),
        (0.0, 1, 100),
        (399.0, 5, 5),
        (123.4, 9, 2),
        (77.7, 3, 40),
        (250.1, 100, 100),
        (11.0, 4, 1),
    ] {
        let answer = house.search.search(grouped(x, groups, size)).await.unwrap().into_inner();
        assert_eq!(shown(&answer), naive(400, x, groups as usize, size as usize), "{x} {groups} {size}");
        assert!(answer.hits.is_empty() && !answer.groups_cut);
    }
    let second: Vec<_> = house.fake.seen("search").into_iter().filter(|call| call.view > 0).collect();
    assert!(!second.is_empty(), "some partition was asked twice, by its view");
}

#[tokio::test]
async fn records_of_groups_are_fetched_once_and_shown_in_each() {
    let mut house = house(60).await;
    let request = v1::SearchRequest { with_payload: true, explain: true, ..grouped(22.0, 3, 2) };
    let answer = house.search.search(request).await.unwrap().into_inner();
    assert_eq!(shown(&answer), naive(60, 22.0, 3, 2));
    let with_22: Vec<&v1::Record> = answer
        .groups
        .iter()
        .flat_map(|group| &group.hits)
        .filter_map(|hit| hit.record.as_ref())
        .filter(|record| number(record) == 22)
        .collect();
    assert_eq!(with_22.len(), 2, "22 is in two groups");
    assert!(with_22.iter().all(|record| record.payload.contains_key("tags")));
    assert!(answer.plans.iter().all(|plan| plan.rounds >= 1) && answer.plans.len() == 3);
}

#[tokio::test]
async fn wrong_groups_are_refused_by_field_and_value() {
    let mut house = house(10).await;
    let by = |field: &str| v1::SearchRequest { group_by: field.into(), ..nearest(1.0, 5) };
    let wrong = [
        (by("a..b"), "group_by: `a..b` is not a dotted path"),
        (by(&"x".repeat(256)), "group_by: 256 bytes, the limit is 255"),
        (grouped(1.0, 5, 101), "group_size: must be 1 to 100, got 101"),
        (grouped(1.0, 101, 100), "limit * group_size: must be 1 to 10000, got 10100"),
        (
            v1::SearchRequest { offset: 3, ..grouped(1.0, 5, 1) },
            "offset: is 3, and does not go with group_by",
        ),
        (
            v1::SearchRequest { group_size: 2, ..nearest(1.0, 5) },
            "group_size: is 2, and goes with group_by only",
        ),
    ];
    for (request, message) in wrong {
        let refused: Status = house.search.search(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{message}");
        assert!(refused.message().starts_with(message), "{} is not {message}", refused.message());
    }
    assert!(house.fake.seen("search").is_empty(), "no node was asked");
}

//! Searches by examples.

use flotilla_proto::refusal::Refusal;
use tonic::{Code, Status};

use super::*;
use crate::fake::Fault;

fn by_key(n: u64) -> v1::Example {
    v1::Example { kind: Some(v1::example::Kind::Key(key(n))) }
}

fn by_vector(values: Vec<f32>) -> v1::Example {
    v1::Example { kind: Some(v1::example::Kind::Vector(v1::Vector { values, ..Default::default() })) }
}

fn like(positive: Vec<v1::Example>, negative: Vec<v1::Example>) -> v1::SearchRequest {
    let recommend = Some(v1::Recommend { positive, negative, strategy: 0 });
    v1::SearchRequest { vector: None, recommend, ..nearest(0.0, 4) }
}

async fn found(house: &mut House, request: v1::SearchRequest) -> Vec<u64> {
    let answer = house.search.search(request).await.unwrap().into_inner();
    answer.hits.iter().map(|hit| number(hit.record.as_ref().unwrap())).collect()
}

#[tokio::test]
async fn the_nearest_to_the_mean_without_the_examples() {
    let mut house = House::with_records(200).await;
    let keys = found(&mut house, like(vec![by_key(50), by_key(53)], vec![])).await;
    assert_eq!(keys, [51, 52, 49, 54], "51.5, without 50 and 53");
    let keys = found(&mut house, like(vec![by_key(50)], vec![by_key(40), by_key(44)])).await;
    assert_eq!(keys, [58, 57, 59, 56], "50 + (50 - 42)");
    let keys = found(&mut house, like(vec![by_key(50), by_vector(vec![56.0, 0.0])], vec![])).await;
    assert_eq!(keys, [53, 52, 54, 51]);
    let keys = found(&mut house, like(vec![by_vector(vec![7.0, 0.0])], vec![])).await;
    assert_eq!(keys, [7, 6, 8, 5], "a vector is no record to be left out");
    let twice = like(vec![by_key(50), by_key(50), by_key(53), by_key(53)], vec![]);
    assert_eq!(found(&mut house, twice).await, [51, 52, 49, 54]);
    let page = v1::SearchRequest { offset: 1, limit: Some(2), ..like(vec![by_key(50), by_key(53)], vec![]) };
    assert_eq!(found(&mut house, page).await, [52, 49]);
}

#[tokio::test]
async fn examples_are_read_as_fresh_as_asked_and_whole_even_if_the_answer_may_be_partial() {
    let mut house = House::with_records(50).await;
    let read = v1::ReadOptions {
        consistency: v1::Consistency::Bounded.into(),
        max_lag_ms: 700,
        partial: v1::Partial::Allow.into(),
        ..Default::default()
    };
    let request = v1::SearchRequest { read: Some(read), ..like(vec![by_key(9)], vec![]) };
    found(&mut house, request.clone()).await;
    let fresh = house.fake.seen("get")[0].fresh.unwrap();
    assert_eq!((fresh.consistency(), fresh.max_lag_ms), (v1::Consistency::Bounded, 700));
    house.fake.fault("get", Fault::Refuse(Refusal::DataLoss("gone".into())));
    let refused = house.search.search(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss, "{refused}");
}

#[tokio::test]
async fn wrong_examples_are_named() {
    let mut house = House::with_records(10).await;
    let bare = flotilla_proto::record::Record::new(77);
    house.records.upsert(upsert([bare].into_iter())).await.unwrap();
    let none = v1::Example { kind: None };
    let empty = v1::Key { kind: Some(v1::key::Kind::Text(String::new())) };
    let empty = v1::Example { kind: Some(v1::example::Kind::Key(empty)) };
    let strange = v1::SearchRequest {
        recommend: Some(v1::Recommend { positive: vec![by_key(1)], strategy: 9, ..Default::default() }),
        ..like(vec![], vec![])
    };
    let both = v1::SearchRequest { vector: nearest(1.0, 1).vector, ..like(vec![by_key(1)], vec![]) };
    let wrong = [
        (like(vec![], vec![]), "recommend.positive: at least 1 example is needed, got 0"),
        (like(vec![], vec![by_key(1)]), "recommend.positive: at least 1 example is needed, got 0"),
        (like(vec![by_key(1); 60], vec![by_key(2); 41]), "recommend: 101 examples, the limit is 100"),
        (like(vec![by_key(1), none], vec![]), "recommend.positive[1]: a key or a vector is needed"),
        (like(vec![by_key(1)], vec![empty]), "recommend.negative[0]: a text key has at least 1 byte"),
        (like(vec![by_vector(vec![1.0])], vec![]), "recommend.positive[0]: expected 2 dimensions, got 1"),
        (like(vec![by_vector(vec![1.0, f32::NAN])], vec![]), "recommend.positive[0]: component 1 is NaN"),
        (
            like(vec![by_key(1), by_key(77)], vec![]),
            "recommend.positive[1]: record `77` has no vector `default`",
        ),
        (strange, "recommend.strategy: must be 0 to 1, got 9"),
        (both, "recommend: goes without vector"),
    ];
    for (request, message) in wrong {
        let refused: Status = house.search.search(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{message}");
        assert!(refused.message().starts_with(message), "{} is not {message}", refused.message());
    }
    let unknown = house.search.search(like(vec![by_key(1)], vec![by_key(999)])).await.unwrap_err();
    assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "there is no record `999`"));
    assert!(house.fake.seen("search").is_empty(), "no node was searched");
}

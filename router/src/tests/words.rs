//! Searches for words, hybrid ones, and what is shown of them, over one partition and over several.

use flotilla_proto::convert::value_to_wire;
use flotilla_proto::record::Value;
use tonic::{Code, Status};

use super::*;
use crate::fake::Fault;

const SUBJECTS: [&str; 7] = [
    "Disk full",
    "Upload failed: disk full on host",
    "Disk swapped, disk fine",
    "Raid rebuild",
    "Diskette found",
    "disc full of music",
    "Full backup of the host, and of another host",
];

fn texts(n: u64) -> Value {
    let subject = SUBJECTS[(n % 7) as usize];
    if n.is_multiple_of(5) { Value::List(vec![subject.into(), "host".into()]) } else { subject.into() }
}

/// A collection of so many partitions with `count` records of texts.
async fn house(partitions: u32, count: u64) -> House {
    let mut house = House::new().await;
    let mut spec = spec("vms");
    spec.partitions = partitions;
    spec.fields.insert("subject".into(), FieldType::Text);
    house.collections.create(v1::CreateCollectionRequest { spec: Some(spec_to_wire(&spec)) }).await.unwrap();
    let records = (0..count).map(|n| record(n).field("subject", texts(n)));
    house.records.upsert(upsert(records)).await.unwrap();
    house
}

fn asked(query: &str) -> v1::TextQuery {
    v1::TextQuery { field: "subject".into(), query: query.into(), ..Default::default() }
}

fn for_words(text: v1::TextQuery, limit: u32) -> v1::SearchRequest {
    let (collection, text) = ("vms".into(), Some(text));
    v1::SearchRequest { collection, text, limit: Some(limit), explain: true, ..Default::default() }
}

/// Keys and scores, to the bit.
fn shown(answer: &v1::SearchResponse) -> Vec<(u64, u32)> {
    answer.hits.iter().map(|hit| (number(hit.record.as_ref().unwrap()), hit.score.to_bits())).collect()
}

fn keys(answer: &v1::SearchResponse) -> Vec<u64> {
    shown(answer).into_iter().map(|(key, _)| key).collect()
}

#[tokio::test]
async fn scores_do_not_depend_on_how_records_are_spread() {
    let (mut one, mut four) = (house(1, 200).await, house(4, 200).await);
    let queries = [
        asked("disk"),
        asked("disk full host"),
        v1::TextQuery { operator: 2, ..asked("full host") },
        v1::TextQuery { phrase: true, ..asked("disk full") },
        v1::TextQuery { phrase: true, prefix_last: true, ..asked("disk f") },
        v1::TextQuery { prefix_last: true, ..asked("full dis") },
        v1::TextQuery { fuzzy_edits: 1, ..asked("disk") },
        v1::TextQuery { fuzzy_edits: 2, prefix_last: true, operator: 2, ..asked("fill dis") },
        asked("nothing here"),
    ];
    for query in queries {
        let mut request = for_words(query.clone(), 50);
        request.filter = Some(filter_to_wire(&Filter::Range(
            "cpu".into(),
            flotilla_proto::filter::Bounds { lt: Some(3.into()), ..Default::default() },
        )));
        let whole = one.search.search(request.clone()).await.unwrap().into_inner();
        let spread = four.search.search(request.clone()).await.unwrap().into_inner();
        assert_eq!(shown(&spread), shown(&whole), "{query:?}");
        assert_eq!(spread.text_plan, whole.text_plan, "{query:?}");
        assert_eq!(whole.hits.is_empty(), query.query == "nothing here", "{query:?}");
        assert!(whole.hits.is_sorted_by(|a, b| a.score >= b.score));
        // A threshold that is a score keeps its hit, and a page is a part of the whole.
        let Some(middle) = whole.hits.get(20) else { continue };
        let above = v1::SearchRequest { score_threshold: Some(middle.score), ..request.clone() };
        let above = four.search.search(above).await.unwrap().into_inner();
        assert_eq!(shown(&above), shown(&whole)[..above.hits.len()]);
        assert!(above.hits.len() > 20 && above.hits.iter().all(|hit| hit.score >= middle.score));
        let page = v1::SearchRequest { offset: 10, limit: Some(5), ..request };
        let page = four.search.search(page).await.unwrap().into_inner();
        assert_eq!(shown(&page), shown(&whole)[10..15]);
    }
    let views: Vec<u64> = four.fake.seen("search").iter().map(|call| call.view).collect();
    assert!(views.iter().all(|view| *view > 0), "the views that were weighed are searched");
}

#[tokio::test]
async fn kin_and_weights_are_explained() {
    let mut house = house(3, 70).await;
    let query = v1::TextQuery { prefix_last: true, ..asked("full dis") };
    let plan = house.search.search(for_words(query, 5)).await.unwrap().into_inner().text_plan.unwrap();
    assert_eq!((plan.records, plan.cut), (70, false));
    let words: Vec<(&str, u32, u64)> =
        plan.words.iter().map(|word| (word.word.as_str(), word.kin, word.records)).collect();
    // `dis` itself, disc, disk, diskette.
    assert_eq!(words, [("full", 1, 40), ("dis", 4, 50)]);
    assert_eq!(house.fake.seen("weigh").len(), 6, "kin, then weights");
}

#[tokio::test]
async fn a_hybrid_search_is_the_fusion_of_both() {
    let mut house = house(3, 120).await;
    let vector = nearest(60.2, 100);
    let text = for_words(asked("disk host"), 100);
    let by_vector = keys(&house.search.search(vector.clone()).await.unwrap().into_inner());
    let by_text = keys(&house.search.search(text.clone()).await.unwrap().into_inner());
    let hybrid = v1::SearchRequest {
        vector: vector.vector,
        fusion: Some(v1::Fusion::default()),
        limit: Some(20),
        ..text
    };
    let answer = house.search.search(hybrid.clone()).await.unwrap().into_inner();
    let share = |list: &[u64], key| {
        list.iter().position(|other| *other == key).map_or(0.0, |at| 1.0 / (61.0 + at as f64))
    };
    let mut naive: Vec<(u64, f32)> =
        (0..120).map(|key| (key, (share(&by_vector, key) + share(&by_text, key)) as f32)).collect();
    naive.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let naive: Vec<(u64, u32)> = naive.into_iter().map(|(key, score)| (key, score.to_bits())).collect();
    assert_eq!(shown(&answer), naive[..20]);
    assert!(answer.plans.iter().all(|plan| plan.plan == "exact,exact"), "{:?}", answer.plans);
    let page = v1::SearchRequest { offset: 5, limit: Some(4), with_payload: true, ..hybrid.clone() };
    let page = house.search.search(page).await.unwrap().into_inner();
    assert_eq!(shown(&page), naive[5..9]);
    assert!(page.hits.iter().all(|hit| hit.record.as_ref().unwrap().payload.contains_key("subject")));
    let few = v1::Fusion { candidates: 30, ..Default::default() };
    let few = v1::SearchRequest { fusion: Some(few), limit: Some(30), ..hybrid };
    assert_eq!(house.search.search(few).await.unwrap().into_inner().hits.len(), 30);
}

#[tokio::test]
async fn words_found_are_shown_and_the_payload_only_if_asked_for() {
    let mut house = house(3, 7).await;
    let highlight =
        Some(v1::Highlight { before: Some("[".into()), after: Some("]".into()), ..Default::default() });
    let request = v1::SearchRequest { highlight, ..for_words(asked("disk swapped"), 1) };
    let hit = house.search.search(request.clone()).await.unwrap().into_inner().hits.remove(0);
    assert_eq!(hit.highlights, ["[Disk] [swapped], [disk] fine"]);
    assert!(hit.record.unwrap().payload.is_empty());
    let request = v1::SearchRequest { with_payload: true, ..request };
    let hit = house.search.search(request).await.unwrap().into_inner().hits.remove(0);
    let payload = hit.record.unwrap().payload;
    assert_eq!(payload.get("subject"), Some(&value_to_wire(&SUBJECTS[2].into())));
    // One that only the vector found has nothing to show.
    let hybrid = v1::SearchRequest {
        fusion: Some(v1::Fusion::default()),
        highlight: Some(v1::Highlight::default()),
        text: Some(asked("raid")),
        ..nearest(0.0, 7)
    };
    let answer = house.search.search(hybrid).await.unwrap().into_inner();
    let shown: Vec<usize> = answer.hits.iter().map(|hit| hit.highlights.len()).collect();
    assert_eq!((shown.len(), shown.iter().sum::<usize>()), (7, 1));
}

#[tokio::test]
async fn a_partition_that_fell_silent_is_missing_from_the_answer_and_from_the_weights() {
    let mut house = house(3, 60).await;
    house.fake.fault("weigh", Fault::Refuse(flotilla_proto::refusal::Refusal::DataLoss("gone".into())));
    let mut request = for_words(asked("disk"), 60);
    request.read = Some(v1::ReadOptions { partial: v1::Partial::Allow.into(), ..Default::default() });
    let answer = house.search.search(request).await.unwrap().into_inner();
    let coverage = answer.coverage.unwrap();
    assert_eq!((coverage.partitions_asked, coverage.missing.len()), (3, 1));
    assert!(answer.text_plan.unwrap().records < 60);
}

#[tokio::test]
async fn groups_of_words_found_are_put_together() {
    let mut house = house(3, 100).await;
    let request = v1::SearchRequest { group_by: "cpu".into(), group_size: 2, ..for_words(asked("disk"), 4) };
    let answer = house.search.search(request).await.unwrap().into_inner();
    assert_eq!(answer.groups.len(), 4);
    assert!(answer.groups.iter().all(|group| group.hits.len() == 2 && group.hits[0].score > 0.0));
}

#[tokio::test]
async fn hostile_searches_for_words_are_refused_by_field_and_value() {
    let mut house = house(2, 5).await;
    let with = |text: v1::TextQuery| for_words(text, 5);
    let both = || v1::SearchRequest { text: Some(asked("disk")), ..nearest(1.0, 5) };
    let weighted = |weight| v1::Fusion { kind: 2, vector_weight: Some(weight), ..Default::default() };
    let wrong = [
        (with(asked("")), "text.query: at least one word is needed"),
        (with(asked("?!")), "text.query: at least one word is needed"),
        (with(asked(&"a ".repeat(100))), "text.query: 100 words, the limit is 64"),
        (with(asked(&"a".repeat(100_000))), "text.query: 100000 bytes, the limit is 4096"),
        (
            with(v1::TextQuery { field: "cpu".into(), ..asked("a") }),
            "text.field: `cpu` is declared as integer",
        ),
        (with(v1::TextQuery { fuzzy_edits: 3, ..asked("a") }), "text.fuzzy_edits: must be 0 to 2, got 3"),
        (both(), "text: goes without vector and recommend"),
        (
            v1::SearchRequest { fusion: Some(v1::Fusion::default()), ..with(asked("a")) },
            "fusion: needs both text and a vector",
        ),
        (
            v1::SearchRequest { fusion: Some(v1::Fusion::default()), ..nearest(1.0, 5) },
            "fusion: needs both text and a vector",
        ),
        (
            v1::SearchRequest { fusion: Some(weighted(f32::NAN)), ..both() },
            "fusion.vector_weight: must be 0 to 1000000, got NaN",
        ),
        (
            v1::SearchRequest { fusion: Some(v1::Fusion::default()), group_by: "cpu".into(), ..both() },
            "group_by: does not go with fusion",
        ),
        (
            v1::SearchRequest { highlight: Some(v1::Highlight::default()), ..nearest(1.0, 5) },
            "highlight: goes with text",
        ),
    ];
    for (request, message) in wrong {
        let refused: Status = house.search.search(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{message}");
        assert!(refused.message().starts_with(message), "{} is not {message}", refused.message());
    }
    assert!(house.fake.seen("search").is_empty() && house.fake.seen("weigh").is_empty(), "no node was asked");
}

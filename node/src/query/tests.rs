//! Searches, counts and pages over several segments against the obvious way over all records.

mod groups;
mod recall;
mod words;

use std::cell::Cell;
use std::collections::BTreeSet;

use flotilla_proto::filter::{Bounds, Filter};
use flotilla_proto::record::{Payload, Value};
use flotilla_proto::schema::{Distance, IndexKind, VectorSpec};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::naive::{Naive, Row, distance};
use super::*;
use crate::index::Stats;
use crate::storage::{Method, Nearest};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0x71_7565_7279),
        max_shrink_iters: 500,
        ..ProptestConfig::default()
    }
}

fn spec(distance: Distance) -> CollectionSpec {
    CollectionSpec {
        name: "c".into(),
        vectors: [("v".to_owned(), VectorSpec::new(2, distance, IndexKind::Flat))].into(),
        fields: Default::default(),
        partitions: 1,
        strict: false,
        ..Default::default()
    }
}

fn component() -> impl Strategy<Value = f32> {
    prop_oneof![
        20 => (-4_i8..5).prop_map(f32::from),
        1 => Just(-0.0),
        1 => Just(f32::NAN),
        1 => Just(1e38),
    ]
}

fn vector() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(component(), 2)
}

#[derive(Clone, Debug)]
struct Seed {
    vector: Option<Vec<f32>>,
    group: i64,
    is_live: bool,
    is_text: bool,
}

fn seeds(most: usize) -> impl Strategy<Value = Vec<Seed>> {
    let seed = (prop::option::weighted(0.9, vector()), 0_i64..5, prop::bool::weighted(0.85), any::<bool>())
        .prop_map(|(vector, group, is_live, is_text)| Seed { vector, group, is_live, is_text });
    prop::collection::vec(seed, 0..most)
}

fn segments(most: usize) -> impl Strategy<Value = Vec<Naive>> {
    let kinds = prop_oneof![Just(Distance::Euclidean), Just(Distance::Dot)];
    let shapes = prop::collection::vec((any::<bool>(), 1_usize..6), 1..4);
    (seeds(most), shapes, kinds).prop_map(|(seeds, shapes, distance)| {
        let empty = |(is_indexed, blindness)| Naive { rows: vec![], distance, is_indexed, blindness };
        let mut segments: Vec<Naive> = shapes.into_iter().map(empty).collect();
        for (place, seed) in (0_u64..).zip(seeds) {
            // Keys in another order than rows.
            let number = place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let key = if seed.is_text { Key::Text(format!("k{number}")) } else { Key::Number(number) };
            let payload = Payload::from([("group".into(), Value::from(seed.group))]);
            let row = Row { key, version: place + 1, payload, vector: seed.vector, is_live: seed.is_live };
            let chosen = (number % 7) as usize % segments.len();
            segments[chosen].rows.push(row);
        }
        segments
    })
}

fn filter() -> impl Strategy<Value = Option<Compiled>> {
    prop::option::of((0_i64..6).prop_map(|bound| {
        let below = Filter::Range("group".into(), Bounds { lt: Some(bound.into()), ..Bounds::default() });
        Compiled::new(&below, &spec(Distance::Dot)).unwrap()
    }))
}

fn views(segments: &[Naive]) -> Vec<&dyn SegmentView> {
    segments.iter().map(|segment| segment as &dyn SegmentView).collect()
}

/// The live records that pass.
fn passing<'a>(segments: &'a [Naive], filter: &Option<Compiled>) -> Vec<&'a Row> {
    let rows = segments.iter().flat_map(|segment| &segment.rows);
    let passes = |row: &&Row| filter.as_ref().is_none_or(|filter| filter.matches(&row.key, &row.payload));
    rows.filter(|row| row.is_live).filter(passes).collect()
}

fn naive_hits(segments: &[Naive], ask: &Search<'_>) -> Vec<PartialHit> {
    let rows = passing(segments, &ask.filter.cloned());
    let kind = segments[0].distance;
    let mut hits: Vec<PartialHit> = rows
        .into_iter()
        .filter_map(|row| Some((row, row.vector.as_ref()?)))
        .map(|(row, vector)| PartialHit {
            key: row.key.clone(),
            distance: distance(kind, ask.query, vector),
            version: row.version,
        })
        .filter(|hit| ask.max_distance.is_none_or(|farthest| hit.distance <= farthest))
        .collect();
    hits.sort_by(|a, b| {
        let nan = a.distance.is_nan().cmp(&b.distance.is_nan());
        nan.then(a.distance.partial_cmp(&b.distance).unwrap_or(nan)).then(a.key.cmp(&b.key))
    });
    hits.truncate(ask.limit);
    hits
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn an_exact_search_is_the_obvious_one(
        segments in segments(120),
        query in vector(),
        filter in filter(),
        limit in 0_usize..60,
        max_distance in prop::option::weighted(0.2, component()),
    ) {
        let filter = filter.as_ref();
        let ask = Search { vector: "v", query: &query, filter, limit, ef: 1, target_recall: None, oversampling: None, exact: true, max_distance, without: &[], text: None };
        let answer = search(&views(&segments), &spec(segments[0].distance), &ask, &|| false).unwrap();
        let naive = naive_hits(&segments, &ask);
        prop_assert_eq!(&answer.hits, &naive);
        for (hit, naive) in answer.hits.iter().zip(&naive) {
            prop_assert_eq!(hit.version, naive.version);
        }
        prop_assert!(answer.plan.steps.iter().all(|step| *step == Step::Exact));
    }

    #[test]
    fn a_search_never_returns_fewer_than_it_could(
        segments in segments(500),
        query in vector(),
        filter in filter(),
        limit in 1_usize..6,
        ef in 0_usize..6,
    ) {
        let filter = filter.as_ref();
        let ask = Search { vector: "v", query: &query, filter, limit, ef, target_recall: None, oversampling: None, exact: false, max_distance: None, without: &[], text: None };
        let answer = search(&views(&segments), &spec(segments[0].distance), &ask, &|| false).unwrap();
        prop_assert_eq!(answer.hits.len(), naive_hits(&segments, &ask).len());
        prop_assert!(answer.hits.is_sorted());
        let all = naive_hits(&segments, &Search { limit: usize::MAX, ..ask });
        let all: BTreeSet<&Key> = all.iter().map(|hit| &hit.key).collect();
        let found: BTreeSet<&Key> = answer.hits.iter().map(|hit| &hit.key).collect();
        prop_assert!(found.len() == answer.hits.len() && found.is_subset(&all));
        prop_assert_eq!(answer.plan.steps.len(), segments.len());
        let matches = filter.map(|filter| count(&views(&segments), Some(filter)).unwrap());
        prop_assert_eq!(answer.plan.matches, matches);
    }

    #[test]
    fn pages_counts_and_keys_are_the_obvious_ones(
        segments in segments(200),
        filter in filter(),
        limit in 1_usize..40,
    ) {
        let views = views(&segments);
        let mut naive: Vec<Key> = passing(&segments, &filter).iter().map(|row| row.key.clone()).collect();
        naive.sort();
        let filter = filter.as_ref();
        prop_assert_eq!(count(&views, filter).unwrap(), naive.len() as u64);
        if let Some(filter) = filter {
            prop_assert_eq!(&matching_keys(&views, filter).unwrap(), &naive);
        }
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let (page, more) = scan(&views, filter, &Stretch::after(after), limit).unwrap();
            prop_assert!(page.len() == limit || !more);
            paged.extend(page.iter().map(|(segment, row)| views[*segment].key(*row).unwrap()));
            prop_assert_eq!(more, paged.len() < naive.len());
            if !more {
                break;
            }
            after = paged.last().cloned();
        }
        prop_assert_eq!(paged, naive);
    }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn pages_of_a_prefix_are_the_keys_that_begin_so(
        segments in segments(200),
        filter in filter(),
        prefix in "k[0-9]{0,2}|[j-l]|\\PC{1,2}",
        begin in prop::option::of("k[0-9]{0,3}"),
        limit in 1_usize..40,
    ) {
        let views = views(&segments);
        let begin = begin.map(Key::Text);
        let is_wanted = |key: &Key| {
            let is_behind = begin.as_ref().is_none_or(|begin| key > begin);
            is_behind && matches!(key, Key::Text(text) if text.starts_with(&prefix))
        };
        let keys = passing(&segments, &filter).into_iter().map(|row| row.key.clone());
        let mut naive: Vec<Key> = keys.filter(is_wanted).collect();
        naive.sort();
        let (mut paged, mut after) = (Vec::new(), begin.clone());
        loop {
            let stretch = Stretch { after, prefix: Some(prefix.clone()) };
            let (page, more) = scan(&views, filter.as_ref(), &stretch, limit).unwrap();
            prop_assert!(page.len() == limit || !more);
            paged.extend(page.iter().map(|(segment, row)| views[*segment].key(*row).unwrap()));
            prop_assert_eq!(more, paged.len() < naive.len());
            if !more {
                break;
            }
            after = paged.last().cloned();
        }
        prop_assert_eq!(paged, naive);
    }
}

#[test]
fn a_prefix_that_is_a_key_begins_with_it() {
    let mut segments = [segment(0..3, false), segment(3..6, false)];
    let keys = ["a", "a/", "a/1", "a0", "b/", "a/2"];
    let rows = segments.iter_mut().flat_map(|segment| &mut segment.rows);
    rows.zip(keys).for_each(|(row, key)| row.key = key.into());
    segments[1].rows.push(row(6, [0.0, 0.0]));
    let views = views(&segments);
    let page = |prefix: &str, after: Option<&str>, limit| {
        let stretch = Stretch { after: after.map(Key::from), prefix: Some(prefix.to_owned()) };
        let (rows, more) = scan(&views, None, &stretch, limit).unwrap();
        let keys = rows.iter().map(|(segment, row)| views[*segment].key(*row).unwrap().to_string());
        (keys.collect::<Vec<String>>().join(" "), more)
    };
    let whole = |keys: &str| (keys.to_owned(), false);
    assert_eq!(page("a/", None, 9), whole("a/ a/1 a/2"));
    assert_eq!(page("a/", None, 1), ("a/".to_owned(), true));
    assert_eq!(page("a/", None, 0), (String::new(), true));
    assert_eq!(page("a/", Some("a"), 9), whole("a/ a/1 a/2"));
    assert_eq!(page("a/", Some("a/"), 9), whole("a/1 a/2"));
    assert_eq!(page("a/", Some("a/1"), 1), whole("a/2"));
    assert_eq!(page("a/", Some("a/2"), 9), whole(""));
    assert_eq!(page("a/", Some("b"), 9), whole(""));
    assert_eq!(page("a", None, 9), whole("a a/ a/1 a/2 a0"));
    assert_eq!(page("b", None, 9), whole("b/"));
    assert_eq!(page("c", None, 9), whole(""));
}

fn row(number: u64, vector: [f32; 2]) -> Row {
    let payload = Payload::from([("group".into(), Value::from((number % 10) as i64))]);
    Row { key: number.into(), version: number, payload, vector: Some(vector.into()), is_live: true }
}

fn segment(rows: std::ops::Range<u64>, is_indexed: bool) -> Naive {
    let rows = rows.map(|number| row(number, [number as f32, 1.0])).collect();
    Naive { rows, distance: Distance::Euclidean, is_indexed, blindness: 1 }
}

fn ask(limit: usize, filter: Option<&Compiled>) -> Search<'_> {
    Search {
        vector: "v",
        query: &[0.0, 1.0],
        filter,
        limit,
        ef: 10,
        target_recall: None,
        oversampling: None,
        exact: false,
        max_distance: None,
        without: &[],
        text: None,
    }
}

fn group_below(bound: i64) -> Compiled {
    let below = Filter::Range("group".into(), Bounds { lt: Some(bound.into()), ..Bounds::default() });
    Compiled::new(&below, &spec(Distance::Dot)).unwrap()
}

#[test]
fn a_plan_tells_what_was_done() {
    let segments = [segment(0..2_000, true), segment(2_000..2_100, false)];
    let spec = spec(Distance::Euclidean);
    let run = |ask: &Search<'_>| search(&views(&segments), &spec, ask, &|| false).unwrap();
    let plain = run(&ask(3, None));
    assert_eq!(plain.hits.iter().map(|hit| hit.version).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(plain.plan.words(), "graph,exact");
    assert_eq!((plain.plan.segments, plain.plan.unindexed, plain.plan.matches), (2, 100, None));
    assert_eq!(plain.plan.distances, 2_100);
    let (most, few) = (group_below(9), group_below(1));
    assert_eq!(run(&ask(3, Some(&most))).plan.words(), "filtered_graph,exact");
    assert_eq!(run(&ask(3, Some(&few))).plan.words(), "exact,exact");
    assert_eq!(run(&ask(3, Some(&few))).plan.matches, Some(210));
    assert_eq!(run(&Search { exact: true, ..ask(3, None) }).plan.words(), "exact,exact");
    let blind = [Naive { blindness: 1_500, ..segments[0].clone() }];
    let short = search(&views(&blind), &spec, &ask(3, Some(&most)), &|| false).unwrap();
    assert_eq!((short.plan.words().as_str(), short.hits.len()), ("exact", 3));
}

#[test]
fn nothing_is_wanted_or_nothing_is_there() {
    let segments = [segment(0..10, true)];
    let spec = spec(Distance::Euclidean);
    let run = |ask: &Search<'_>| search(&views(&segments), &spec, ask, &|| false).unwrap().hits;
    assert_eq!(run(&ask(0, None)), []);
    assert_eq!(run(&Search { vector: "w", ..ask(5, None) }), []);
    assert_eq!(search(&[], &spec, &ask(5, None), &|| false).unwrap().hits, []);
    assert_eq!(run(&ask(usize::MAX, None)).len(), 10);
    assert_eq!(run(&Search { max_distance: Some(4.0), ..ask(5, None) }).len(), 3);
    assert_eq!(scan(&views(&segments), None, &Stretch::default(), 0).unwrap(), (vec![], true));
    assert_eq!(scan(&[], None, &Stretch::default(), 5).unwrap(), (vec![], false));
}

#[test]
fn the_query_is_brought_to_unit_length_for_cosine_only() {
    let mut segment = segment(0..1, false);
    segment.rows = vec![row(1, [0.6, 0.8]), row(2, [1.0, 0.0])];
    segment.distance = Distance::Cosine;
    let ask = Search { query: &[3.0, 4.0], ..ask(2, None) };
    let hits = search(&[&segment], &spec(Distance::Cosine), &ask, &|| false).unwrap().hits;
    assert!(hits[0].distance.abs() < 1e-6 && (hits[1].distance - 0.4).abs() < 1e-6, "{hits:?}");
    segment.distance = Distance::Dot;
    let hits = search(&[&segment], &spec(Distance::Dot), &ask, &|| false).unwrap().hits;
    assert_eq!(hits[0].distance, -5.0);
}

#[test]
fn a_cancelled_search_stops_between_segments() {
    let segments = [segment(0..10, true), segment(10..20, true)];
    let asked = Cell::new(0);
    let cancelled = || asked.replace(asked.get() + 1) == 1;
    let result = search(&views(&segments), &spec(Distance::Euclidean), &ask(5, None), &cancelled);
    assert!(matches!(result, Err(Fault::Cancelled)));
    assert_eq!(asked.get(), 2);
}

#[test]
fn ties_at_the_limit_are_broken_by_key_however_many() {
    let mut segment = segment(0..3_000, false);
    for (number, row) in (0_u64..).zip(&mut segment.rows) {
        row.key = Key::Number(3_000 - number);
        row.vector = Some(vec![1.0, 1.0]);
    }
    let spec = spec(Distance::Euclidean);
    let hits = search(&[&segment], &spec, &ask(4, None), &|| false).unwrap().hits;
    assert_eq!(hits.iter().map(|hit| hit.key.clone()).collect::<Vec<_>>(), [1, 2, 3, 4].map(Key::Number));
    let nearest = Nearest {
        vector: "v",
        query: &[0.0, 0.0],
        limit: 1,
        method: Method::Exact,
        rescored: None,
        rows: None,
    };
    assert_eq!(
        segment.nearest(&nearest, &mut Stats::default()).unwrap()[0].row,
        0,
        "a segment breaks them by row"
    );
}

#[test]
fn a_page_of_a_filter_that_few_pass_evaluates_it_once() {
    let segments = [segment(0..5_000, true)];
    let rare = Compiled::new(&Filter::Keys(vec![4_000.into(), 4_999.into()]), &spec(Distance::Dot)).unwrap();
    let (page, more) = scan(&views(&segments), Some(&rare), &Stretch::default(), 1).unwrap();
    assert_eq!((page, more), (vec![(0, 4_000)], true));
}

//! Sealed segments whose vectors have codes: looking at them finds what a scan finds, in every form that the rows come in.

use flotilla_proto::filter::{Bounds, Filter};
use flotilla_proto::record::Value;
use flotilla_proto::schema::{Distance, Hnsw, IndexKind, Quantization, VectorSpec};

use super::*;
use crate::index::Neighbor;
use crate::storage::SegmentView;

const DIMS: usize = 64;
const ROWS: u64 = 1_500;

fn coded_spec() -> Arc<CollectionSpec> {
    let hnsw = Hnsw { m: 8, ef_construction: 40, ef_search: 40 };
    let index = IndexKind::Quantized(hnsw, Quantization::Scalar);
    let vector = VectorSpec::new(DIMS as u32, Distance::Cosine, index);
    Arc::new(CollectionSpec { vectors: [("a".to_owned(), vector)].into(), ..sample::spec(4) })
}

/// One sealed segment with a graph; where `some_lack_it`, one record in five is without the vector.
fn sealed(dir: &Path, some_lack_it: bool) -> Store {
    let (store, _) = Store::open(dir, coded_spec(), options()).unwrap();
    let record = |n: u64| {
        let record = Record::new(n).field("n", n as i64 % 100);
        let is_without = some_lack_it && n.is_multiple_of(5);
        if is_without { record } else { record.vector("a", Dice::new(n + 1).floats(DIMS)) }
    };
    let rows = (0..ROWS).map(|n| StoredRow::from_domain(&record(n), &coded_spec()).unwrap()).collect();
    store.upsert(1, rows).unwrap();
    store.publish(1);
    assert!(store.freeze(1, Vec::new()));
    store.seal().unwrap();
    assert!(store.build_graph(&Progress::new()).unwrap());
    store
}

fn below(bound: i64) -> Compiled {
    let bounds = Bounds { lt: Some(Value::from(bound)), ..Bounds::default() };
    Compiled::new(&Filter::Range("n".into(), bounds), &coded_spec()).unwrap()
}

fn nearest(
    segment: &dyn SegmentView,
    query: &[f32],
    method: Method,
    rows: Option<&Matching>,
) -> Vec<Neighbor> {
    let ask = Nearest { vector: "a", query, limit: 10, method, rescored: None, rows };
    segment.nearest(&ask, &mut Stats::default()).unwrap()
}

/// How many of what a scan finds the codes find too, of how many; and whether the filter's codes were gathered.
fn agreement(view: &View, filter: Option<&Compiled>, uses: usize) -> (usize, usize, bool) {
    let segment = view.segment(0).unwrap();
    assert!(segment.has_codes("a"));
    let (mut same, mut all, mut is_repeated) = (0, 0, false);
    for query in 0..20 {
        let query = crate::storage::vectors::unit(&Dice::new(10_000 + query).floats(DIMS)).0;
        let mut rows = None;
        for _ in 0..uses {
            rows = filter.map(|filter| segment.matching(filter).unwrap());
        }
        let rows = rows.as_ref();
        is_repeated = rows.is_some_and(Matching::is_repeated);
        let found = nearest(segment, &query, Method::Codes, rows);
        let wanted = nearest(segment, &query, Method::Exact, rows);
        assert!(found.is_sorted() && found.len() == wanted.len());
        let is_there =
            |near: &&Neighbor| segment.is_live(near.row) && rows.is_none_or(|r| r.contains(near.row));
        assert_eq!(found.iter().filter(is_there).count(), found.len());
        same += wanted.iter().filter(|near| found.contains(near)).count();
        all += wanted.len();
    }
    (same, all, is_repeated)
}

#[test]
fn codes_find_what_a_scan_finds() {
    for some_lack_it in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = sealed(dir.path(), some_lack_it);
        for has_dead in [false, true] {
            if has_dead {
                let keys: Vec<Key> = (0..ROWS).filter(|n| n % 3 == 1).map(Key::Number).collect();
                store.delete(2, &keys).unwrap();
                store.publish(2);
            }
            let view = store.view();
            for (bound, uses) in [(100, 1), (40, 1), (39, 2), (39, 3), (8, 2), (2, 2)] {
                let (same, all, is_repeated) = agreement(&view, Some(&below(bound)), uses);
                let what = format!("{some_lack_it} {has_dead} n < {bound}, {uses} uses");
                // Of so few rows a search reads the vectors: see the query's plan.
                let least = if bound == 2 { 95 } else { 99 };
                assert!(same * 100 >= all * least, "{same} of {all}: {what}");
                assert!(is_repeated, "twenty queries: {what}");
            }
            let (same, all, _) = agreement(&view, None, 1);
            assert!(same * 100 >= all * 99, "{same} of {all}: {some_lack_it} {has_dead}, no filter");
        }
    }
}

#[test]
fn hashes_are_an_index_too() {
    let dir = tempfile::tempdir().unwrap();
    let index = IndexKind::Lsh(flotilla_proto::schema::Lsh::default());
    let vector = VectorSpec::new(8, Distance::Euclidean, index);
    let spec = Arc::new(CollectionSpec { vectors: [("a".to_owned(), vector)].into(), ..sample::spec(4) });
    let record = |n: u64| Record::new(n).vector("a", Dice::new(n + 1).floats(8)).field("n", n as i64 % 100);
    let rows = (0..600).map(|n| StoredRow::from_domain(&record(n), &spec).unwrap()).collect();
    let (store, _) = Store::open(dir.path(), Arc::clone(&spec), options()).unwrap();
    store.upsert(1, rows).unwrap();
    store.publish(1);
    assert!(store.freeze(1, Vec::new()));
    store.seal().unwrap();
    assert!(store.build_graph(&Progress::new()).unwrap());
    drop(store);
    let (store, _) = Store::open(dir.path(), Arc::clone(&spec), options()).unwrap();
    assert_eq!(store.status().unindexed_vectors, 0, "it is opened again");
    let view = store.view();
    let segment = view.segment(0).unwrap();
    assert!(segment.is_indexed("a") && !segment.has_codes("a"));
    let some = segment.matching(&below(30)).unwrap();
    for rows in [None, Some(&some)] {
        let (mut same, mut all) = (0, 0);
        for query in 0..20 {
            let query = Dice::new(10_000 + query).floats(8);
            let found = nearest(segment, &query, Method::Graph { ef: 20 }, rows);
            let wanted = nearest(segment, &query, Method::Exact, rows);
            assert!(found.is_sorted() && found.len() == wanted.len());
            assert!(found.iter().all(|near| rows.is_none_or(|rows| rows.contains(near.row))));
            same += wanted.iter().filter(|near| found.contains(near)).count();
            all += wanted.len();
        }
        assert!(same * 10 >= all * 6, "{same} of {all}");
    }
}

//! How much of the exact answer the planned search finds: over how many records pass, and where they lie; and after much was
//! deleted. All over stores, as a partition searches them.

use std::path::Path;
use std::sync::Arc;

use flotilla_proto::filter::{Bounds, Compiled, Filter};
use flotilla_proto::record::{Key, Record, Value, Vector};
use flotilla_proto::schema::{
    CollectionSpec, Datatype, Distance, FieldType, Form, Hnsw, IndexKind, Quantization, VectorSpec,
};

use crate::index::Progress;
use crate::query::{Search, search};
use crate::storage::SegmentView;
use crate::storage::sample::Dice;
use crate::storage::store::{Options, Store};
use crate::storage::{StoredRow, View};

const DIMS: usize = 64;
const CLUSTERS: u64 = 60;
const QUERIES: u64 = 30;
const LIMIT: usize = 10;
const EF: usize = 100;

/// A vector near one of the centres.
fn vector(n: u64) -> Vec<f32> {
    let (mut centre, mut noise) = (Dice::new(n * 7_919 % CLUSTERS), Dice::new(n + 1_000_000));
    centre.floats(DIMS).iter().zip(noise.floats(DIMS)).map(|(centre, noise)| centre + 0.6 * noise).collect()
}

fn spec(index: IndexKind) -> Arc<CollectionSpec> {
    let vector = VectorSpec::new(DIMS as u32, Distance::Cosine, index);
    let fields = ["anywhere", "aside"].map(|name| (name.to_owned(), FieldType::Float));
    let vectors = [("v".to_owned(), vector)].into();
    Arc::new(CollectionSpec { name: "c".into(), vectors, fields: fields.into(), ..Default::default() })
}

fn graph(quantization: Option<Quantization>) -> IndexKind {
    let hnsw = Hnsw { m: 16, ef_construction: 80, ef_search: 100 };
    quantization.map_or(IndexKind::Hnsw(hnsw), |quantization| IndexKind::Quantized(hnsw, quantization))
}

/// `anywhere` says nothing of where a record lies, `aside` how far it lies to one side.
fn record(n: u64) -> Record {
    let vector = vector(n);
    let anywhere = (n * 40_503 % 65_536) as f64 / 65_536.0;
    Record::new(n).field("anywhere", anywhere).field("aside", f64::from(vector[0])).vector("v", vector)
}

struct House {
    store: Store,
    spec: Arc<CollectionSpec>,
    at: u64,
}

impl House {
    fn new(dir: &Path, index: IndexKind) -> House {
        let spec = spec(index);
        let options = Options { seal_rows: 1 << 30, seal_bytes: 1 << 40, ..Options::default() };
        let (store, _) = Store::open(dir, spec.clone(), options).unwrap();
        House { store, spec, at: 0 }
    }

    fn write(&mut self, keys: impl Iterator<Item = u64>) {
        let rows = keys.map(|n| StoredRow::from_domain(&record(n), &self.spec).unwrap());
        self.at += 1;
        self.store.upsert(self.at, rows.collect()).unwrap();
        self.store.publish(self.at);
    }

    fn delete(&mut self, keys: impl Iterator<Item = u64>) {
        self.at += 1;
        self.store.delete(self.at, &keys.map(Key::Number).collect::<Vec<_>>()).unwrap();
        self.store.publish(self.at);
    }

    fn settle(&self) {
        assert!(self.store.freeze(self.at, Vec::new()));
        while self.store.seal().unwrap().is_some() {}
        let progress = Progress::new();
        while self.store.build_graph(&progress).unwrap() || self.store.compact(&progress).unwrap() {}
        assert_eq!(self.store.status().unindexed_vectors, 0);
    }

    fn ask(&self, query: &[f32], filter: Option<&Compiled>, exact: bool) -> Vec<Key> {
        let ask = Search { vector: "v", query, filter, limit: LIMIT, ef: EF, exact, ..Search::default() };
        let view: View = self.store.view();
        let segments: Vec<&dyn SegmentView> = view.segments().collect();
        let answer = search(&segments, &self.spec, &ask, &|| false).unwrap();
        answer.hits.into_iter().map(|hit| hit.key).collect()
    }

    /// The share of the exact answers that is found. Never are there fewer hits.
    fn recall(&self, queries: &[Vec<f32>], filter: Option<&Compiled>) -> f64 {
        let (mut found, mut all) = (0, 0);
        for query in queries {
            let (hits, exact) = (self.ask(query, filter, false), self.ask(query, filter, true));
            assert_eq!(hits.len(), exact.len());
            found += exact.iter().filter(|key| hits.contains(key)).count();
            all += exact.len();
        }
        found as f64 / f64::from(all.max(1) as u32)
    }

    fn below(&self, field: &str, bound: f64) -> Compiled {
        let bounds = Bounds { lt: Some(Value::Float(bound)), ..Bounds::default() };
        Compiled::new(&Filter::Range(field.into(), bounds), &self.spec).unwrap()
    }
}

/// Queries like the records, of which so many thousandths lie to one side.
fn queries(of: std::ops::Range<usize>) -> Vec<Vec<f32>> {
    let mut all: Vec<Vec<f32>> = (0..QUERIES * 4).map(|n| vector(500_000 + n)).collect();
    all.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let share = |thousandths: usize| all.len() * thousandths / 1_000;
    all[share(of.start)..share(of.end)].to_vec()
}

#[test]
fn whatever_passes_and_wherever_it_lies() {
    const ROWS: u64 = 8_000;
    let mut aside: Vec<f64> = (0..ROWS).map(|n| f64::from(vector(n)[0])).collect();
    aside.sort_by(f64::total_cmp);
    let quantizations = [Quantization::Scalar, Quantization::Binary, Quantization::Product];
    for quantization in [None].into_iter().chain(quantizations.map(Some)) {
        let dir = tempfile::tempdir().unwrap();
        let mut house = House::new(dir.path(), graph(quantization));
        house.write(0..ROWS);
        house.settle();
        for share in [0.5, 0.1, 0.01, 0.001] {
            let there = aside[(share * ROWS as f64) as usize];
            for (what, field, bound, queries) in [
                ("anywhere", "anywhere", share, queries(0..250)),
                ("where the query is", "aside", there, queries(0..250)),
                ("where the query is not", "aside", there, queries(750..1_000)),
            ] {
                let filter = house.below(field, bound);
                let recall = house.recall(&queries, Some(&filter));
                assert!(recall >= 0.95, "{quantization:?}, {share} of the records, {what}: {recall}");
                let twice = Compiled::All(vec![
                    filter.clone(),
                    Compiled::Not(Compiled::Not(filter.clone().into()).into()),
                ]);
                let [one, other] =
                    [&filter, &twice].map(|filter| house.ask(&queries[0], Some(filter), false));
                assert_eq!(one, other, "{quantization:?}, {share} of the records, {what}");
            }
        }
    }
}

/// Half of the records go and as many come: the graph that has them all finds as much as one that was built afresh.
#[test]
fn deletes_and_new_records_lose_no_neighbour() {
    const ROWS: u64 = 4_000;
    for quantization in [None, Some(Quantization::Scalar)] {
        let [old, new] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let mut worn = House::new(old.path(), graph(quantization));
        worn.write(0..ROWS);
        worn.settle();
        worn.delete((0..ROWS).filter(|n| n % 2 == 0));
        let queries = queries(0..1_000);
        let while_dead = worn.recall(&queries, None);
        worn.write(ROWS..ROWS * 3 / 2);
        let while_new = worn.recall(&queries, None);
        worn.settle();
        let settled = worn.recall(&queries, None);

        let mut fresh = House::new(new.path(), graph(quantization));
        fresh.write((0..ROWS).filter(|n| n % 2 == 1).chain(ROWS..ROWS * 3 / 2));
        fresh.settle();
        let wanted = fresh.recall(&queries, None) - 0.01;
        for (when, recall) in [("deleted", while_dead), ("written", while_new), ("settled", settled)] {
            assert!(recall >= wanted, "{quantization:?}: {recall} once half was {when}, {wanted} is wanted");
        }
    }
}

#[test]
fn a_share_that_is_asked_for_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::new(dir.path(), graph(Some(Quantization::Scalar)));
    house.write(0..6_000);
    house.settle();
    house.write(6_000..6_500);
    let queries = queries(0..1_000);
    let mut last = 0;
    for target in [0.5, 0.9, 0.99, 1.0] {
        let (mut found, mut efs) = (0, 0);
        for query in &queries {
            let target_recall = Some(target);
            let ask = Search { vector: "v", query, limit: LIMIT, ef: 1, target_recall, ..Search::default() };
            let view = house.store.view();
            let segments: Vec<&dyn SegmentView> = view.segments().collect();
            let answer = search(&segments, &house.spec, &ask, &|| false).unwrap();
            let exact = house.ask(query, None, true);
            found += answer.hits.iter().filter(|hit| exact.contains(&hit.key)).count();
            efs = answer.plan.ef();
        }
        let recall = found as f32 / (queries.len() * LIMIT) as f32;
        assert!(recall >= target - 0.02, "{target}: {recall} with ef {efs}");
        assert!(efs >= last || efs == 0, "{target}: ef {efs} after {last}");
        last = efs;
    }
}

/// Records of several vectors, found by a graph over all of them.
#[test]
fn records_of_several_vectors_are_found_by_their_vectors() {
    const RECORDS: u64 = 2_400;
    let several = |n: u64, count: u64| -> Vec<Vec<f32>> {
        (0..count).map(|at| vector((n * 13 + at * at * 7) % 600 + n * 10_000)).collect()
    };
    for quantization in [None, Some(Quantization::Scalar)] {
        let index = graph(quantization);
        let tokens = VectorSpec {
            form: Form::Multi(Datatype::F32),
            ..VectorSpec::new(DIMS as u32, Distance::Dot, index)
        };
        let spec = CollectionSpec { vectors: [("v".to_owned(), tokens)].into(), ..(*spec(index)).clone() };
        let spec = Arc::new(spec);
        let dir = tempfile::tempdir().unwrap();
        let options = Options { seal_rows: 1 << 30, seal_bytes: 1 << 40, ..Options::default() };
        let (store, _) = Store::open(dir.path(), spec.clone(), options).unwrap();
        let mut house = House { store, spec, at: 1 };
        let record = |n: u64| {
            let record = Record::new(n).field("anywhere", (n % 100) as f64 / 100.0);
            record.vector("v", Vector::Multi(several(n, 3 + n % 5)))
        };
        let rows = (0..RECORDS).map(|n| StoredRow::from_domain(&record(n), &house.spec).unwrap());
        house.store.upsert(1, rows.collect()).unwrap();
        house.delete((0..RECORDS).filter(|n| n % 7 == 0));
        house.settle();
        let most = house.below("anywhere", 0.95);
        for (filter, what) in [(None, "graph"), (Some(&most), "filtered_graph")] {
            let (mut found, mut all) = (0, 0);
            for n in 0..QUERIES {
                let query = several(RECORDS + n, 4).concat();
                let ask =
                    Search { vector: "v", query: &query, filter, limit: LIMIT, ef: EF, ..Search::default() };
                let view = house.store.view();
                let segments: Vec<&dyn SegmentView> = view.segments().collect();
                let answer = search(&segments, &house.spec, &ask, &|| false).unwrap();
                let exact =
                    search(&segments, &house.spec, &Search { exact: true, ..ask }, &|| false).unwrap();
                assert_eq!((answer.plan.words(), exact.plan.words()), (what.to_owned(), "exact".to_owned()));
                assert!(answer.plan.distances * 2 < exact.plan.distances, "{:?}", answer.plan);
                let keys: Vec<Key> = answer.hits.into_iter().map(|hit| hit.key).collect();
                found += exact.hits.iter().filter(|hit| keys.contains(&hit.key)).count();
                all += exact.hits.len();
            }
            assert!(found * 10 >= all * 9, "{quantization:?} {what}: {found} of {all}");
        }
    }
}

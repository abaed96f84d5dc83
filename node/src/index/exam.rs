//! The examination that every [`VectorIndex`] sits.
//!
//! `sit::<Index>(params, is_exact)` asks the same questions of each; `is_exact` says whether recall must be whole. A
//! new kind of index adds one test that sits the exam, plus tests for what is its own.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::sample::{Sample, Seeded, clustered};
use super::{Accept, Bitset, Cancelled, Distance, Neighbor, Progress, Rows, Stats, TopK, VectorIndex, scan};

const DISTANCES: [Distance; 5] =
    [Distance::Dot, Distance::Cosine, Distance::Euclidean, Distance::Manhattan, Distance::Angle];

/// Enough effort for a beam to hold every row of the small sets.
const ALL: usize = 1 << 20;

/// Sits the whole exam.
pub(super) fn sit<I: VectorIndex>(params: &I::Params, is_exact: bool) {
    tiny_sets_are_exact::<I>(params);
    recall_on_clusters::<I>(params, is_exact);
    equal_rows_are_all_found::<I>(params);
    limits::<I>(params);
    hostile_values::<I>(params);
    filtered_by_bits::<I>(params, is_exact);
    filtered_by_log_index::<I>(params);
    mismatched_rows_and_queries::<I>(params);
    round_trip::<I>(params);
    damage::<I>(params);
    progress_and_cancel::<I>(params);
}

fn build<I: VectorIndex>(params: &I::Params, rows: Rows<'_>, distance: Distance) -> I {
    I::build(rows, distance, params, 1, &Progress::new()).unwrap()
}

/// What an exact scan answers.
fn truth(rows: Rows<'_>, distance: Distance, query: &[f32], k: usize, accept: Accept<'_>) -> Vec<Neighbor> {
    let mut top = TopK::new(k);
    scan(rows, distance, query, accept, 0, &mut top);
    top.into_sorted()
}

fn ids(neighbors: &[Neighbor]) -> HashSet<u32> {
    neighbors.iter().map(|neighbor| neighbor.row).collect()
}

/// Nearest first, no row twice, every row accepted, every distance the true one.
fn assert_sound(found: &[Neighbor], rows: Rows<'_>, distance: Distance, query: &[f32], accept: Accept<'_>) {
    assert!(found.is_sorted(), "not in order");
    assert_eq!(ids(found).len(), found.len(), "a row twice");
    for neighbor in found {
        assert!((neighbor.row as usize) < rows.len() && accept.contains(neighbor.row));
        let want = distance.between(query, rows.row(neighbor.row));
        let slack = 1e-4 * (1.0 + want.abs());
        assert!((neighbor.distance - want).abs() <= slack, "{neighbor:?} should be {want}");
    }
}

fn tiny_sets_are_exact<I: VectorIndex>(params: &I::Params) {
    for (len, dims) in [(1, 1), (2, 3), (5, 8), (17, 2), (40, 33), (100, 5)] {
        let sample = clustered(len as u64, len, dims, 3);
        for distance in DISTANCES {
            let index = build::<I>(params, sample.rows(), distance);
            assert_eq!((index.len(), index.is_empty()), (len, false));
            for query in 0..len.min(10) as u32 {
                let (rows, query) = (sample.rows(), sample.rows().row(query));
                let found = index.search(rows, distance, query, 10, ALL, Accept::All, &mut Stats::default());
                assert_sound(&found, rows, distance, query, Accept::All);
                let want = truth(rows, distance, query, 10, Accept::All);
                let far = |found: &[Neighbor]| found.iter().map(|x| x.distance).collect::<Vec<_>>();
                let pairs = far(&found).into_iter().zip(far(&want));
                assert_eq!(found.len(), want.len());
                assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-4), "{distance:?} {len} x {dims}");
            }
        }
    }
}

fn recall<I: VectorIndex>(index: &I, sample: &Sample, queries: &Sample, accept: Accept<'_>) -> f64 {
    let (mut hits, mut wanted) = (0, 0);
    for query in 0..queries.rows().len() as u32 {
        let (rows, query) = (sample.rows(), queries.rows().row(query));
        let mut stats = Stats::default();
        let found = index.search(rows, Distance::Cosine, query, 10, 100, accept, &mut stats);
        assert_sound(&found, rows, Distance::Cosine, query, accept);
        assert!(stats.visited > 0 && stats.distances > 0);
        let want = ids(&truth(rows, Distance::Cosine, query, 10, accept));
        hits += ids(&found).intersection(&want).count();
        wanted += want.len();
    }
    hits as f64 / wanted as f64
}

fn recall_on_clusters<I: VectorIndex>(params: &I::Params, is_exact: bool) {
    let sample = clustered(11, 4000, 24, 40);
    let queries = clustered(11, 50, 24, 40);
    for threads in [1, 3] {
        let index = I::build(sample.rows(), Distance::Cosine, params, threads, &Progress::new()).unwrap();
        let recall = recall(&index, &sample, &queries, Accept::All);
        assert!(recall >= if is_exact { 1.0 } else { 0.95 }, "recall {recall} with {threads} threads");
    }
}

fn equal_rows_are_all_found<I: VectorIndex>(params: &I::Params) {
    let other = clustered(5, 300, 6, 10);
    let mut data = other.data.clone();
    for copy in 0..300 {
        let at = (copy * 2).min(data.len() / 6) * 6;
        data.splice(at..at, [0.5, 0.5, 0.5, 0.5, 0.0, 0.0]);
    }
    let sample = Sample { data, dims: 6 };
    for distance in DISTANCES {
        let (index, rows) = (build::<I>(params, sample.rows(), distance), sample.rows());
        let query = [0.5, 0.5, 0.5, 0.5, 0.0, 0.0];
        let found = index.search(rows, distance, &query, 600, ALL, Accept::All, &mut Stats::default());
        assert_sound(&found, rows, distance, &query, Accept::All);
        assert_eq!(found.len(), 600, "{distance:?}: every row, equal or not, is reachable");
        let few = index.search(rows, Distance::Euclidean, &query, 10, 64, Accept::All, &mut Stats::default());
        assert!(distance != Distance::Euclidean || few.iter().all(|neighbor| neighbor.distance == 0.0));
    }
}

fn limits<I: VectorIndex>(params: &I::Params) {
    let search = |sample: &Sample, k: usize, effort: usize| {
        let index = build::<I>(params, sample.rows(), Distance::Euclidean);
        let query = [0.25; 4];
        index.search(
            sample.rows(),
            Distance::Euclidean,
            &query,
            k,
            effort,
            Accept::All,
            &mut Stats::default(),
        )
    };
    let (none, one, some) = (clustered(1, 0, 4, 1), clustered(1, 1, 4, 1), clustered(1, 50, 4, 4));
    assert!(search(&none, 10, 10).is_empty() && search(&none, 0, 0).is_empty());
    assert_eq!(ids(&search(&one, 10, 10)), HashSet::from([0]));
    assert!(search(&some, 0, 100).is_empty());
    assert_eq!(search(&some, 50, 1).len(), 50);
    assert_eq!(search(&some, usize::MAX, usize::MAX).len(), 50);
    assert_eq!(search(&some, 5, 0).len(), 5);
}

/// NaN, infinities and zeros are stored and searched like anything else: no panic, NaN last.
fn hostile_values<I: VectorIndex>(params: &I::Params) {
    let mut sample = clustered(9, 120, 5, 4);
    for (row, value) in [(3, f32::NAN), (4, f32::INFINITY), (5, f32::NEG_INFINITY), (6, 0.0), (7, -f32::NAN)]
    {
        sample.data[row * 5..row * 5 + 5].fill(value);
    }
    for distance in DISTANCES {
        let index = build::<I>(params, sample.rows(), distance);
        for query in [[0.3; 5], [f32::NAN; 5], [f32::INFINITY; 5], [0.0; 5]] {
            let all =
                index.search(sample.rows(), distance, &query, 120, ALL, Accept::All, &mut Stats::default());
            assert_eq!(all.len(), 120);
            assert!(
                all.is_sorted() && all.windows(2).all(|x| !x[0].distance.is_nan() || x[1].distance.is_nan())
            );
        }
    }
}

fn filtered_by_bits<I: VectorIndex>(params: &I::Params, is_exact: bool) {
    let sample = clustered(21, 2000, 16, 20);
    let queries = clustered(21, 20, 16, 20);
    let index = build::<I>(params, sample.rows(), Distance::Cosine);
    let mut random = Seeded::new(4);
    for one_in in [1, 2, 10, 200, 3000] {
        let bits = Bitset::with_rows(2000, (0..2000).filter(|_| random.below(one_in) == 0));
        let accept = Accept::Bits(&bits);
        for query in 0..5 {
            let query = queries.rows().row(query);
            let mut stats = Stats::default();
            let found = index.search(sample.rows(), Distance::Cosine, query, 10, 100, accept, &mut stats);
            assert_eq!(found.len(), bits.count().min(10), "one in {one_in}");
        }
        if bits.count() > 0 {
            let recall = recall(&index, &sample, &queries, accept);
            assert!(recall >= if is_exact { 1.0 } else { 0.95 }, "recall {recall} at one in {one_in}");
        }
    }
    let (none, small) = (Bitset::new(2000), Bitset::full(7));
    for (bits, want) in [(&none, 0), (&small, 7)] {
        let (rows, query) = (sample.rows(), queries.rows().row(0));
        let accept = Accept::Bits(bits);
        let found = index.search(rows, Distance::Cosine, query, 10, 50, accept, &mut Stats::default());
        assert_eq!(found.len(), want);
    }
}

fn filtered_by_log_index<I: VectorIndex>(params: &I::Params) {
    let sample = clustered(8, 500, 8, 6);
    let index = build::<I>(params, sample.rows(), Distance::Cosine);
    let deleted_at: Vec<_> = (0..500).map(|row| AtomicU64::new(if row % 2 == 0 { 0 } else { row })).collect();
    let query = sample.rows().row(250);
    let at = |at| {
        let accept = Accept::Live { deleted_at: &deleted_at, at };
        let found =
            index.search(sample.rows(), Distance::Cosine, query, 500, ALL, accept, &mut Stats::default());
        assert_sound(&found, sample.rows(), Distance::Cosine, query, accept);
        found.len()
    };
    assert_eq!((at(0), at(99), at(1000)), (500, 450, 250));
    deleted_at[0].store(7, Ordering::Relaxed);
    assert_eq!((at(6), at(7)), (497, 495), "rows 1, 3, 5 at 6; rows 0 and 7 at 7 besides");
}

/// Rows and queries that do not fit the index are answered badly, not with a panic.
fn mismatched_rows_and_queries<I: VectorIndex>(params: &I::Params) {
    let (sample, small) = (clustered(2, 200, 8, 6), clustered(2, 20, 8, 6));
    let index = build::<I>(params, sample.rows(), Distance::Cosine);
    let mut stats = Stats::default();
    for query in [vec![], vec![1.0], vec![0.5; 100]] {
        index.search(sample.rows(), Distance::Cosine, &query, 10, 50, Accept::All, &mut stats);
        let found = index.search(small.rows(), Distance::Dot, &query, 10, 50, Accept::All, &mut stats);
        assert!(found.iter().all(|neighbor| neighbor.row < 20));
        let none = Rows::new(&[], 8).unwrap();
        assert!(index.search(none, Distance::Dot, &query, 10, 50, Accept::All, &mut stats).is_empty());
    }
}

/// The bytes `shift` bytes into a buffer, so that words are not aligned.
fn open<I: VectorIndex>(bytes: &[u8], shift: usize) -> Result<I, super::Damage> {
    struct Shifted(Vec<u8>, usize);
    impl AsRef<[u8]> for Shifted {
        fn as_ref(&self) -> &[u8] {
            &self.0[self.1..]
        }
    }
    I::open(Arc::new(Shifted([&vec![0; shift], bytes].concat(), shift)))
}

fn round_trip<I: VectorIndex>(params: &I::Params) {
    for len in [0, 1, 2, 700] {
        let sample = clustered(31, len, 10, 9);
        let index = build::<I>(params, sample.rows(), Distance::Euclidean);
        let again = build::<I>(params, sample.rows(), Distance::Euclidean);
        let bytes = index.to_bytes();
        assert!(bytes == again.to_bytes(), "one thread builds the same bytes");
        for shift in 0..5 {
            let opened: I = open(&bytes, shift).unwrap();
            assert!(opened.to_bytes() == bytes && opened.len() == len);
            for query in 0..len.min(20) as u32 {
                let search = |index: &I, stats: &mut Stats| {
                    let (rows, query) = (sample.rows(), sample.rows().row(query));
                    index.search(rows, Distance::Euclidean, query, 10, 30, Accept::All, stats)
                };
                let (mut before, mut after) = (Stats::default(), Stats::default());
                assert_eq!(search(&index, &mut before), search(&opened, &mut after));
                assert_eq!(before, after);
            }
        }
    }
}

/// Every byte flipped, every cut, bytes added: refused, or opened and searched without a panic.
fn damage<I: VectorIndex>(params: &I::Params) {
    let sample = clustered(41, 90, 4, 9);
    let bytes = build::<I>(params, sample.rows(), Distance::Cosine).to_bytes();
    let try_it = |bytes: &[u8], what: &str| {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let Ok(index) = open::<I>(bytes, 0) else { return };
            let (rows, query) = (sample.rows(), sample.rows().row(0));
            let found =
                index.search(rows, Distance::Cosine, query, 10, 30, Accept::All, &mut Stats::default());
            assert_eq!(found.len(), 10, "damage that is let in must be harmless");
        }));
        assert!(outcome.is_ok(), "{what}");
    };
    let mut random = Seeded::new(77);
    for at in 0..bytes.len() {
        for flip in [1 << random.below(8), 0xff] {
            let mut bad = bytes.clone();
            bad[at] ^= flip;
            try_it(&bad, &format!("byte {at} of {} xor {flip}", bytes.len()));
        }
    }
    for cut in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
        assert!(open::<I>(&bytes[..cut], 0).is_err(), "cut to {cut}");
    }
    assert!(open::<I>(&[&bytes[..], &[0]].concat(), 0).is_err());
    assert!(open::<I>(&[&bytes[..], &[0; 64]].concat(), 0).is_err());
    for len in [0, 1, 20, 191, 192, 400] {
        let noise: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        assert!(open::<I>(&noise, 0).is_err());
    }
}

fn progress_and_cancel<I: VectorIndex>(params: &I::Params) {
    let sample = clustered(3, 300, 8, 6);
    let progress = Progress::new();
    I::build(sample.rows(), Distance::Dot, params, 2, &progress).unwrap();
    assert_eq!(progress.done(), 300);
    let progress = Progress::new();
    progress.cancel();
    for threads in [0, 1, 4] {
        let built = I::build(sample.rows(), Distance::Dot, params, threads, &progress);
        assert!(matches!(built, Err(Cancelled)));
    }
}

//! What codes by groups promise.

use std::hint::black_box;

use super::super::sample::{Sample, clustered};
use super::*;

const DISTANCES: [Distance; 3] = [Distance::Dot, Distance::Cosine, Distance::Euclidean];

fn built(sample: &Sample, distance: Distance, threads: usize) -> Codes {
    Codes::build(sample.rows(), distance, Kind::Product, 32, 7, threads, &Progress::new()).unwrap()
}

#[test]
fn a_row_takes_a_byte_for_each_eight_values() {
    for (dims, groups) in [(1, 1), (8, 1), (67, 9), (100, 13), (384, 48)] {
        let codes = built(&clustered(1, 300, dims, 5), Distance::Cosine, 1);
        assert_eq!((codes.head.width(), codes.places.row), (groups, groups + FACTORS));
        assert_eq!((codes.places.fans, codes.places.end), (codes.bytes().len(), codes.bytes().len()));
    }
}

#[test]
fn distances_by_groups_are_about_right() {
    for dims in [24, 67, 100, 384] {
        let (sample, queries) = (clustered(3, 2_000, dims, 30), clustered(3, 20, dims, 30));
        for distance in DISTANCES {
            let codes = built(&sample, distance, 2);
            let (mut off, mut lean) = (0.0, 0.0);
            for query in 0..20 {
                let query = queries.rows().row(query);
                let tables = codes.tables(query);
                for row in 0..2_000 {
                    let gap = tables.one(row) - distance.between(query, sample.rows().row(row));
                    off += f64::from(gap.abs()) / 40_000.0;
                    lean += f64::from(gap) / 40_000.0;
                }
            }
            // Of unit vectors; the more values, the better their errors cancel out. A square of a difference has a product twice.
            let times = if distance == Distance::Euclidean { 2.0 } else { 1.0 };
            let bound = times * 0.3 / (dims as f64).sqrt();
            assert!(off < bound && lean.abs() < bound / 10.0, "{distance:?} {dims}: {off} {lean} {bound}");
        }
    }
}

#[test]
fn any_number_of_threads_makes_the_same_codes() {
    let sample = clustered(4, 3_000, 100, 20);
    let one = built(&sample, Distance::Cosine, 1);
    for threads in [0, 2, 3, 8] {
        assert!(built(&sample, Distance::Cosine, threads).bytes() == one.bytes(), "{threads}");
    }
    let other = Codes::build(sample.rows(), Distance::Cosine, Kind::Product, 32, 8, 1, &Progress::new());
    assert!(other.unwrap().bytes() != one.bytes());
}

#[test]
fn few_rows_are_told_exactly() {
    for len in [1, 2, 7, 100, 255] {
        for dims in [5, 67, 100] {
            let sample = clustered(len as u64, len, dims, 3);
            let codes = built(&sample, Distance::Euclidean, 2);
            for row in 0..len as u32 {
                let tables = codes.tables(sample.rows().row(row));
                let own = tables.one(row);
                assert!(own.abs() < 0.05, "{len} x {dims}: {own}");
                let four = tables.four([row, 0, u32::MAX, len as u32]);
                assert_eq!(four, [own, tables.one(0), f32::INFINITY, f32::INFINITY]);
            }
        }
    }
    let none = built(&clustered(1, 0, 16, 1), Distance::Dot, 2);
    assert!(none.is_empty() && none.tables(&[0.5; 16]).one(0) == f32::INFINITY);
}

#[test]
fn equal_rows_and_rows_that_are_no_numbers_do_no_harm() {
    let mut sample = Sample { data: vec![0.5; 40 * 20], dims: 20 };
    let codes = built(&sample, Distance::Euclidean, 1);
    assert_eq!(codes.tables(&[0.5; 20]).one(3), 0.0);
    for (row, value) in [(3, f32::NAN), (4, f32::INFINITY), (5, f32::MAX), (6, -f32::MAX), (7, 1e-40)] {
        sample.data[row * 20..][..20].fill(value);
    }
    for distance in DISTANCES {
        let codes = built(&sample, distance, 1);
        for query in [[f32::NAN; 20], [f32::INFINITY; 20], [f32::MAX; 20], [0.0; 20]] {
            let tables = codes.tables(&query);
            (0..40).for_each(|row| _ = black_box(tables.one(row)));
        }
        let others = [&codes.tables(&[0.5; 3]), &codes.tables(&[]), &codes.tables(&[0.5; 100])];
        assert!(others.iter().all(|tables| !tables.one(0).is_infinite()));
    }
}

#[test]
fn opened_codes_are_the_same_and_others_are_refused() {
    let sample = clustered(6, 300, 67, 9);
    let codes = built(&sample, Distance::Dot, 2);
    let open = |bytes: &[u8], rows: usize| Codes::open(Arc::new(bytes.to_vec()), rows);
    let opened = open(codes.bytes(), 300).unwrap();
    assert_eq!((opened.kind(), opened.head, opened.bytes()), (Kind::Product, codes.head, codes.bytes()));
    let query = sample.rows().row(5);
    let (before, after) = (codes.tables(query), opened.tables(query));
    assert!((0..300).all(|row| before.one(row) == after.one(row)));
    let shifted = Shifted([&[0], codes.bytes()].concat());
    let shifted = Codes::open(Arc::new(shifted), 300).unwrap();
    assert!((0..300).all(|row| before.one(row) == shifted.tables(query).one(row)));
    assert!(open(codes.bytes(), 299).is_err());
    for at in 0..HEADER {
        let mut bad = codes.bytes().to_vec();
        bad[at] ^= 1 << (at % 8);
        assert!(open(&bad, 300).is_err(), "byte {at}");
    }
    for cut in (0..codes.bytes().len()).step_by(97) {
        assert!(open(&codes.bytes()[..cut], 300).is_err(), "cut to {cut}");
    }
    assert!(open(&[codes.bytes(), &[0; 64]].concat(), 300).is_err());
}

#[test]
fn damage_behind_the_header_misleads_and_no_more() {
    let sample = clustered(6, 40, 20, 4);
    let codes = built(&sample, Distance::Cosine, 1);
    for at in HEADER..codes.bytes().len() {
        let mut bad = codes.bytes().to_vec();
        bad[at] ^= 0xff;
        let opened = Codes::open(Arc::new(bad), 40).unwrap();
        let tables = opened.tables(sample.rows().row(1));
        assert!((40..50).all(|row| tables.one(row) == f32::INFINITY), "byte {at}");
        (0..40).for_each(|row| _ = black_box(tables.one(row)));
    }
}

struct Shifted(Vec<u8>);

impl AsRef<[u8]> for Shifted {
    fn as_ref(&self) -> &[u8] {
        &self.0[1..]
    }
}

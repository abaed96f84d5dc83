use std::sync::Arc;

use super::super::exam;
use super::super::sample::clustered;
use super::*;
use crate::index::Preset;

fn backing(bytes: Vec<u8>) -> Backing {
    Arc::new(bytes)
}

#[test]
fn sits_the_exam() {
    exam::sit::<Graph>(&Params::default(), false);
}

#[test]
fn params_outside_their_bounds_are_brought_inside() {
    let sample = clustered(1, 300, 8, 5);
    for (m, ef_construction) in [(0, 0), (1, 1), (2, 3), (500, 1)] {
        let params = Params { m, ef_construction, seed: 1 };
        let graph = build(sample.rows(), Distance::Cosine, &params, 2, &Progress::new()).unwrap();
        let query = sample.rows().row(5);
        let stats = &mut Stats::default();
        assert_eq!(
            graph.search(sample.rows(), Distance::Cosine, query, 300, 0, Accept::All, stats).len(),
            300
        );
    }
}

#[test]
fn every_preset_builds_and_finds() {
    let sample = clustered(6, 1500, 12, 20);
    for preset in Preset::ALL {
        let graph = build(sample.rows(), Distance::Cosine, &preset.params(), 2, &Progress::new()).unwrap();
        let found = (0..100).filter(|row| {
            let (query, stats) = (sample.rows().row(*row), &mut Stats::default());
            let ef = preset.ef_search();
            let nearest = graph.search(sample.rows(), Distance::Cosine, query, 1, ef, Accept::All, stats);
            nearest[0].row == *row
        });
        assert!(found.count() >= 98, "{preset:?}");
    }
}

#[test]
fn all_rows_equal_are_all_reachable() {
    let data = vec![0.5f32; 2000 * 4];
    let rows = Rows::new(&data, 4).unwrap();
    for threads in [1, 4] {
        let params = Params { m: 4, ef_construction: 20, seed: 3 };
        let graph = build(rows, Distance::Euclidean, &params, threads, &Progress::new()).unwrap();
        let found =
            graph.search(rows, Distance::Euclidean, &[0.5; 4], 2000, 0, Accept::All, &mut Stats::default());
        assert_eq!(found.len(), 2000);
    }
}

#[test]
fn a_wider_beam_visits_more_and_finds_no_less() {
    let sample = clustered(12, 3000, 16, 30);
    let params = Params { m: 6, ef_construction: 40, seed: 3 };
    let graph = build(sample.rows(), Distance::Cosine, &params, 1, &Progress::new()).unwrap();
    let near = |ef| {
        let mut stats = Stats::default();
        let sum: f64 = (0..40)
            .flat_map(|row| {
                let query = sample.rows().row(row * 7);
                graph.search(sample.rows(), Distance::Cosine, query, 10, ef, Accept::All, &mut stats)
            })
            .map(|neighbor| f64::from(neighbor.distance))
            .sum();
        (sum, stats.visited)
    };
    let (narrow, wide) = (near(10), near(300));
    assert!(narrow.0 >= wide.0 && narrow.1 < wide.1);
}

#[test]
fn damage_is_named() {
    let sample = clustered(2, 400, 4, 5);
    let good =
        build(sample.rows(), Distance::Dot, &Params::default(), 1, &Progress::new()).unwrap().to_bytes();
    let broken = |at: usize, flip: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= flip;
        Graph::open(backing(bytes)).unwrap_err()
    };
    assert_eq!(broken(0, 1), Damage::Foreign);
    assert_eq!(broken(8, 2), Damage::Version(3));
    assert_eq!(broken(12, 1), Damage::Header);
    assert_eq!(broken(200, 1), Damage::Checksum(0));
    assert_eq!(broken(good.len() - 1, 1), Damage::Checksum(usize::from(good[16]) - 1));
    let (cut, whole) = (good.len() as u64 - 4, good.len() as u64);
    let short = Graph::open(backing(good[..cut as usize].to_vec())).unwrap_err();
    assert_eq!(short, Damage::Length { expected: whole, actual: cut });
}

/// A file whose checksums are right but whose ids are not: written by a broken or hostile writer.
#[test]
fn ids_out_of_range_are_refused_though_checksums_match() {
    let sample = clustered(2, 400, 4, 5);
    let good =
        build(sample.rows(), Distance::Dot, &Params::default(), 1, &Progress::new()).unwrap().to_bytes();
    let forge = |at: usize, word: u32, layer: usize| {
        let mut words: Vec<u32> =
            good.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        words[at] = word;
        let section = if layer == 0 {
            48..48 + 400 * 32
        } else {
            48 + 400 * 32..48 + 400 * 32 + words[7] as usize * 18
        };
        let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        words[22 + layer] = crc32fast::hash(&bytes(&words[section]));
        words[47] = crc32fast::hash(&bytes(&words[..47]));
        Graph::open(backing(bytes(&words))).map(drop)
    };
    let upper = 48 + 400 * 32;
    assert_eq!(forge(48, 0, 0), Ok(()), "the forgery itself is sound");
    assert_eq!(forge(48, 400, 0), Err(Damage::Vertex(0)));
    assert_eq!(forge(upper, 400, 1), Err(Damage::Vertex(1)));
    assert_eq!(forge(5, 4000, 0), Err(Damage::Header), "entry");
    assert_eq!(forge(6, u32::MAX, 0), Err(Damage::Header), "more rows than a block may have");
    assert!(matches!(forge(6, 1 << 30, 0), Err(Damage::Length { .. })), "nothing is allocated for it");
    assert_eq!(forge(3, 0, 0), Err(Damage::Header), "m");
    assert_eq!(forge(4, 17, 0), Err(Damage::Header), "layers");
}

#[test]
fn searches_of_many_threads_share_one_graph() {
    let sample = clustered(15, 1000, 8, 10);
    let graph = build(sample.rows(), Distance::Cosine, &Params::default(), 2, &Progress::new()).unwrap();
    let answer = |row: u32| {
        let (query, stats) = (sample.rows().row(row), &mut Stats::default());
        graph.search(sample.rows(), Distance::Cosine, query, 5, 40, Accept::All, stats)
    };
    let alone: Vec<_> = (0..200).map(answer).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..200u32).for_each(|row| assert_eq!(answer(row), alone[row as usize])));
        }
    });
}

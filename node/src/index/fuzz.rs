//! The door for fuzzing of a graph's file.

use std::sync::Arc;

use super::{Accept, Distance, Graph, Rows, Stats};

/// Bytes of a graph that is made to fit, at most.
const BYTES_MAX: usize = 64 << 10;
/// Components of the rows it is walked over.
const DIMS: usize = 2;

/// What may be a graph. Then the same again with the length that its header asks for and checksums that fit.
///
/// **Promise.** It opens or is refused, without a panic, and without more memory than its bytes; what opens is the same bytes
/// again. A walk over it ends, answers at most as many rows as were asked for, each once, in order, and none that there
/// is not.
pub fn graph(bytes: &[u8]) {
    walk(bytes.to_vec());
    let mut bytes = bytes.to_vec();
    super::hnsw::restamp(&mut bytes, BYTES_MAX);
    walk(bytes);
}

fn walk(bytes: Vec<u8>) {
    let Ok(graph) = Graph::open(Arc::new(bytes.clone())) else { return };
    assert_eq!(graph.to_bytes(), bytes);
    let data: Vec<f32> = (0..graph.len() * DIMS).map(|n| (n * 37 % 101) as f32 / 101.0).collect();
    let Ok(rows) = Rows::new(&data, DIMS) else { return };
    let all = super::Bitset::full(graph.len());
    for (k, ef, query) in [(3, 8, [0.1, 0.9]), (100, 100, [0.5, 0.5]), (1, 0, [f32::NAN, 1.0])] {
        let accept = if k == 3 { Accept::All } else { Accept::Bits(&all) };
        let found = graph.search(rows, Distance::Euclidean, &query, k, ef, accept, &mut Stats::default());
        assert!(found.len() <= k && found.is_sorted());
        assert!(found.iter().all(|neighbor| (neighbor.row as usize) < graph.len()));
        let mut each: Vec<u32> = found.iter().map(|neighbor| neighbor.row).collect();
        each.sort_unstable();
        each.dedup();
        assert_eq!(each.len(), found.len(), "a row twice");
    }
}

/// A graph of a few layers, for the corpus.
#[cfg(test)]
pub fn sample(rows: usize) -> Vec<u8> {
    use super::VectorIndex as _;
    let sample = super::sample::clustered(3, rows, DIMS, 3);
    let params = super::hnsw::Params { m: 2, ef_construction: 8, seed: 1 };
    let built = Graph::build(sample.rows(), Distance::Euclidean, &params, 1, &super::Progress::new());
    built.unwrap().to_bytes()
}

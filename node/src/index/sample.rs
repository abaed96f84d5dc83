//! Seeded vectors for the tests of this layer.

use super::rows::Rows;

/// A small seeded generator (splitmix64).
pub(super) struct Seeded(u64);

impl Seeded {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, bound).
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Uniform in [-1, 1).
    pub(super) fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Owned rows.
pub(super) struct Sample {
    pub(super) data: Vec<f32>,
    pub(super) dims: usize,
}

impl Sample {
    pub(super) fn rows(&self) -> Rows<'_> {
        Rows::new(&self.data, self.dims).unwrap()
    }
}

/// `len` unit vectors spread around `clusters` centres.
pub(super) fn clustered(seed: u64, len: usize, dims: usize, clusters: usize) -> Sample {
    let mut random = Seeded::new(seed);
    let centres: Vec<f32> = (0..clusters * dims).map(|_| random.signed()).collect();
    let mut data = Vec::with_capacity(len * dims);
    for _ in 0..len {
        let at = random.below(clusters) * dims;
        let row: Vec<f32> = centres[at..at + dims].iter().map(|x| x + 0.4 * random.signed()).collect();
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        data.extend(row.iter().map(|x| x / norm));
    }
    Sample { data, dims }
}

//! How many different values there are: exact while they are few, then estimated by HyperLogLog.
//!
//! Values are told apart by 64-bit hashes. Up to [`EXACT_MAX`] hashes are kept; beyond, 2^14 registers hold the longest run of
//! zeros seen (Flajolet et al., "HyperLogLog", 2007), read by Ertl's improved estimator ("New cardinality estimation
//! algorithms for HyperLogLog sketches", 2017). Which of the two it is depends on the values alone, so the answer depends
//! neither on their order nor on how they were spread.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Different values that are counted exactly, at most.
pub const EXACT_MAX: usize = 4_096;
const PRECISION: u32 = 14;
const REGISTERS: usize = 1 << PRECISION;
/// The longest run of zeros, and one.
const RANK_MAX: usize = 64 - PRECISION as usize + 1;

/// Different values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distinct {
    exact: BTreeSet<u64>,
    /// None, or [`REGISTERS`].
    registers: Vec<u8>,
}

/// The hash of a value's canonical bytes; the same on all nodes and in all versions that talk to each other.
pub fn hash(class: u8, bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, 0x5eed_0000 + u64::from(class))
}

impl Distinct {
    /// Adds a value by its hash.
    pub fn add(&mut self, hash: u64) {
        if !self.registers.is_empty() {
            return self.register(hash);
        }
        self.exact.insert(hash);
        if self.exact.len() > EXACT_MAX {
            self.estimate();
        }
    }

    fn estimate(&mut self) {
        if self.registers.is_empty() {
            self.registers = vec![0; REGISTERS];
        }
        for hash in std::mem::take(&mut self.exact) {
            self.register(hash);
        }
    }

    fn register(&mut self, hash: u64) {
        let at = (hash >> (64 - PRECISION)) as usize;
        let zeros = (hash << PRECISION | 1 << (PRECISION - 1)).leading_zeros();
        if let Some(register) = self.registers.get_mut(at) {
            *register = (*register).max(zeros as u8 + 1);
        }
    }

    /// Adds other values.
    pub fn merge(&mut self, other: &Distinct) {
        if !other.registers.is_empty() {
            self.estimate();
            for (mine, theirs) in self.registers.iter_mut().zip(&other.registers) {
                *mine = (*mine).max(*theirs);
            }
        }
        other.exact.iter().for_each(|hash| self.add(*hash));
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        if self.registers.is_empty() {
            return self.exact.len() as u64;
        }
        let mut histogram = [0u32; RANK_MAX + 1];
        for register in &self.registers {
            histogram[usize::from(*register).min(RANK_MAX)] += 1;
        }
        let m = REGISTERS as f64;
        let mut z = m * tau(1.0 - f64::from(histogram[RANK_MAX]) / m);
        for rank in (1..RANK_MAX).rev() {
            z = 0.5 * (z + f64::from(histogram[rank]));
        }
        z += m * sigma(f64::from(histogram[0]) / m);
        (m * m / (2.0 * std::f64::consts::LN_2 * z)).round() as u64
    }

    /// The relative standard error of the count; 0: exact.
    pub fn relative_error(&self) -> f64 {
        if self.registers.is_empty() { 0.0 } else { 1.04 / (REGISTERS as f64).sqrt() }
    }

    /// Bytes that it holds, about.
    pub fn bytes(&self) -> usize {
        self.exact.len() * 12 + self.registers.len()
    }

    /// Whether it is of a size that [`Distinct::add`] makes; what came from elsewhere may not be.
    pub(super) fn is_sound(&self) -> bool {
        self.exact.len() <= EXACT_MAX
            && (self.registers.is_empty() || self.registers.len() == REGISTERS && self.exact.is_empty())
    }
}

/// Ertl's correction for registers that are still 0.
fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

/// Ertl's correction for registers that are full.
fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl Iterator<Item = u64>) -> Distinct {
        let mut distinct = Distinct::default();
        values.for_each(|value| distinct.add(hash(0, &value.to_le_bytes())));
        distinct
    }

    #[test]
    fn few_are_counted_exactly_and_many_to_within_the_error() {
        assert_eq!(of(std::iter::empty()).count(), 0);
        let exact = of((0..EXACT_MAX as u64).chain(0..100));
        assert_eq!((exact.count(), exact.relative_error()), (EXACT_MAX as u64, 0.0));
        for many in [EXACT_MAX as u64 + 1, 20_000, 300_000] {
            let distinct = of(0..many);
            let error = (distinct.count() as f64 - many as f64).abs() / many as f64;
            assert!(error < 4.0 * distinct.relative_error(), "{many}: {error}");
        }
    }

    #[test]
    fn parts_in_any_order_make_the_same_whole() {
        for many in [100, EXACT_MAX as u64, EXACT_MAX as u64 + 1, 50_000] {
            let whole = of(0..many);
            for cut in [0, 1, many / 3, many] {
                for (a, b) in [(0..cut, 0..many), (cut..many, 0..cut), (0..cut, cut..many)] {
                    let mut merged = of(a);
                    merged.merge(&of(b));
                    assert!(merged.is_sound());
                    assert_eq!(merged, whole, "{many} cut at {cut}");
                }
            }
        }
    }
}

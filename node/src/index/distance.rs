//! Distances between vectors, and the kernels that compute them.
//!
//! Every distance is one of two sums over the values — of products, or of squared differences — followed by a
//! linear finish. A [`Family`] holds the two sums in two shapes (one row, four rows at once) for one instruction
//! set; the best family that the processor has is chosen once per process. Four rows at once read the query from
//! registers and keep four streams of memory busy, which is what a search over random rows waits for.
//!
//! Accuracy: kernels add in a different order than a plain loop does, so results differ in the last bits. The
//! tests hold every family to `|error| <= (dims + 4) * EPSILON * sum of |terms|`, the bound of a plain loop.
//! Vectors of different lengths are compared over the shorter length; callers check dims before they come here.
//!
//! The folder `distance/` is one of the two places where `unsafe` is allowed: loads, calls into functions that
//! need an instruction set, and prefetches, each with its reason.

pub(super) mod codes;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod prefetch;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::LazyLock;

/// How far two vectors are from each other; smaller is nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Distance {
    /// Minus the dot product.
    Dot,
    /// One minus the dot product of unit vectors (normalised by the caller), 0 to 2.
    Cosine,
    /// Squared euclidean distance (the square root would not change the order).
    Euclidean,
}

impl Distance {
    /// The distance between two vectors.
    pub fn between(self, a: &[f32], b: &[f32]) -> f32 {
        self.kernel().one(a, b)
    }

    /// The functions to call in a loop.
    pub(super) fn kernel(self) -> Kernel {
        let family = *BEST;
        match self {
            Self::Dot => Kernel { one: family.dot, four: family.dot_four, bias: 0.0, scale: -1.0 },
            Self::Cosine => Kernel { one: family.dot, four: family.dot_four, bias: 1.0, scale: -1.0 },
            Self::Euclidean => Kernel { one: family.l2, four: family.l2_four, bias: 0.0, scale: 1.0 },
        }
    }
}

/// A distance resolved to functions of this processor.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    one: One,
    four: Four,
    bias: f32,
    scale: f32,
}

impl Kernel {
    /// The distance from `query` to one row.
    #[inline]
    pub(super) fn one(&self, query: &[f32], row: &[f32]) -> f32 {
        self.bias + self.scale * (self.one)(query, row)
    }

    /// The distances from `query` to four rows.
    #[inline]
    pub(super) fn four(&self, query: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
        (self.four)(query, rows).map(|sum| self.bias + self.scale * sum)
    }
}

type One = fn(&[f32], &[f32]) -> f32;
type Four = fn(&[f32], [&[f32]; 4]) -> [f32; 4];

/// The kernels of one instruction set.
struct Family {
    name: &'static str,
    dot: One,
    l2: One,
    dot_four: Four,
    l2_four: Four,
}

static BEST: LazyLock<&'static Family> = LazyLock::new(|| families()[0]);

/// The name of the instruction set in use: `avx512`, `avx2`, `neon` or `scalar`.
pub fn instruction_set() -> &'static str {
    BEST.name
}

/// The families this processor can run, best first; the scalar one is always there.
fn families() -> Vec<&'static Family> {
    let mut all = Vec::new();
    #[cfg(target_arch = "x86_64")]
    all.extend(x86::families());
    #[cfg(target_arch = "aarch64")]
    all.push(&neon::FAMILY);
    all.push(&scalar::FAMILY);
    all
}

/// Four slices cut to the length of the shortest of them and the query.
#[inline]
fn cut<'a>(query: &'a [f32], rows: [&'a [f32]; 4]) -> (&'a [f32], [&'a [f32]; 4]) {
    let len = rows.iter().fold(query.len(), |len, row| len.min(row.len()));
    (&query[..len], rows.map(|row| &row[..len]))
}

/// A short tail, padded with zeros: zeros add nothing to either sum.
#[inline]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn padded<const LANES: usize>(tail: &[f32]) -> [f32; LANES] {
    let mut whole = [0.0; LANES];
    whole.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
    whole
}

#[cfg(test)]
mod tests;

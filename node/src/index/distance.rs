//! Distances between vectors, and the kernels that compute them.
//!
//! Every distance is one of a few sums over the values — of products, of squared or of absolute differences, of differing
//! bits — followed by a linear finish. A [`Family`] holds the sums for one instruction set, those over 32-bit floats in two
//! shapes (one row, four rows at once); the best family that the processor has is chosen once per process. Four rows at once
//! read the query from registers and keep four streams of memory busy, which is what a search over random rows waits for.
//!
//! **Narrow values.** Rows of 16-bit floats, bytes and bits lie packed in the same words as 32-bit floats do, padded with
//! zeros to a whole word, and so does the query: to everything but the kernel of its distance, a row is a run of words.
//! 16-bit floats are widened as they are read; bytes and bits are summed as integers, with the same result everywhere.
//!
//! Accuracy: kernels add in a different order than a plain loop does, so results differ in the last bits. The
//! tests hold every family to `|error| <= (dims + 4) * EPSILON * sum of |terms|`, the bound of a plain loop; a quotient of
//! sums ([`Distance::Angle`] and its like) to `4 * (dims + 4) * EPSILON`.
//! Vectors of different lengths are compared over the shorter length; callers check dims before they come here.
//!
//! The folder `distance/` is one of the two places where `unsafe` is allowed: loads, calls into functions that
//! need an instruction set, and prefetches, each with its reason.

pub(super) mod codes;
pub mod half;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod prefetch;
mod scalar;
pub(super) mod tables;
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
    /// The sum of absolute differences.
    Manhattan,
    /// One minus the cosine of vectors of any length, 0 to 2; 1 where one has none.
    Angle,
    /// Of 16-bit floats.
    Half(Measure),
    /// Of signed bytes.
    Byte(Measure),
    /// The number of bits that differ.
    Hamming,
}

/// How narrow values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// As [`Distance::Dot`].
    Dot,
    /// As [`Distance::Angle`]: narrow vectors are of any length.
    Angle,
    /// As [`Distance::Euclidean`].
    Euclidean,
    /// As [`Distance::Manhattan`].
    Manhattan,
}

/// The sums, as parameters of kernels.
const DOT: u8 = 0;
/// The cosine: three sums at once.
const ANGLE: u8 = 1;
/// Squared differences.
const L2: u8 = 2;
/// Absolute differences.
const L1: u8 = 3;

impl Distance {
    /// The distance between two vectors.
    pub fn between(self, a: &[f32], b: &[f32]) -> f32 {
        self.kernel().one(a, b)
    }

    /// Whether rows are 32-bit floats whose products say it all, so that codes can stand for them.
    pub fn is_of_products(self) -> bool {
        matches!(self, Self::Dot | Self::Cosine | Self::Euclidean)
    }

    /// The functions to call in a loop.
    pub(super) fn kernel(self) -> Kernel {
        let family = *BEST;
        let (one, four) = match self {
            Self::Dot | Self::Cosine => (family.dot, Some(family.dot_four)),
            Self::Euclidean => (family.l2, Some(family.l2_four)),
            Self::Manhattan => (family.l1, Some(family.l1_four)),
            Self::Angle => (family.angle, None),
            Self::Half(measure) => (family.half[measure as usize], None),
            Self::Byte(measure) => (family.byte[measure as usize], None),
            Self::Hamming => (family.bits, None),
        };
        let (bias, scale) = match self {
            Self::Dot | Self::Half(Measure::Dot) | Self::Byte(Measure::Dot) => (0.0, -1.0),
            Self::Cosine | Self::Angle | Self::Half(Measure::Angle) | Self::Byte(Measure::Angle) => {
                (1.0, -1.0)
            }
            Self::Euclidean | Self::Manhattan | Self::Half(_) | Self::Byte(_) | Self::Hamming => (0.0, 1.0),
        };
        Kernel { one, four, bias, scale }
    }
}

/// A distance resolved to functions of this processor.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    one: One,
    four: Option<Four>,
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
        match self.four {
            Some(four) => four(query, rows).map(|sum| self.bias + self.scale * sum),
            None => rows.map(|row| self.one(query, row)),
        }
    }
}

type One = fn(&[f32], &[f32]) -> f32;
type Four = fn(&[f32], [&[f32]; 4]) -> [f32; 4];

/// The kernels of one instruction set.
struct Family {
    name: &'static str,
    dot: One,
    l2: One,
    l1: One,
    dot_four: Four,
    l2_four: Four,
    l1_four: Four,
    angle: One,
    /// By [`Measure`].
    half: [One; 4],
    /// By [`Measure`].
    byte: [One; 4],
    bits: One,
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
fn cut<'a, T>(query: &'a [T], rows: [&'a [T]; 4]) -> (&'a [T], [&'a [T]; 4]) {
    let len = rows.iter().fold(query.len(), |len, row| len.min(row.len()));
    (&query[..len], rows.map(|row| &row[..len]))
}

/// What three sums come to: of products, and of the squares of either side.
fn cosine([both, a, b]: [f64; 3]) -> f32 {
    let lengths = (a * b).sqrt();
    if lengths == 0.0 { 0.0 } else { (both / lengths) as f32 }
}

/// The finish of sums of bytes. A sum of squares may need all 32 bits: it is at most 255² x 65,536.
fn finish_bytes<const OP: u8>(sums: [i32; 3]) -> f32 {
    match OP {
        DOT => sums[0] as f32,
        ANGLE => cosine([f64::from(sums[0]), f64::from(sums[1] as u32), f64::from(sums[2] as u32)]),
        _ => sums[0] as u32 as f32,
    }
}

/// The finish of sums of floats.
fn finish_floats<const OP: u8>(sums: [f32; 3]) -> f32 {
    if OP == ANGLE { cosine(sums.map(f64::from)) } else { sums[0] }
}

/// A short tail, padded with zeros: zeros add nothing to any sum.
#[inline]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn padded<T: Copy + Default, const LANES: usize>(tail: &[T]) -> [T; LANES] {
    let mut whole = [T::default(); LANES];
    whole.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
    whole
}

#[cfg(test)]
mod tests;

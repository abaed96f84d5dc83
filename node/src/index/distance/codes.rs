//! Kernels over codes: products of signed bytes, sums over the sketches of 32 rows at once, and counts over one sketch.
//!
//! Integers, so that every family gives the very same result.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected;
use std::sync::LazyLock;

/// Rows whose sketches stand side by side.
pub const SLOTS: usize = 32;

/// Two groups of four bits of 32 sketches: in the first 16 bytes the first group, of sketch `i` in the low half of byte `i`, of
/// sketch `16 + i` in the high half; then the second group. Or what the two groups count, by their value.
pub type Pair = [u8; SLOTS];

/// Planes that a query's values are kept in.
pub const PLANES: usize = 4;

type Bytes = fn(&[i8], &[i8]) -> i32;
type BytesFour = fn(&[i8], [&[i8]; 4]) -> [i32; 4];
type Sketches = fn(&[Pair], &Block<'_>, &Sieve) -> u32;
type Planes = fn(&[[u64; PLANES]], &Strided<'_>, &Terms, &[u32], &mut Glances);

/// Sketches one behind the other: bits, in words of eight bytes, then what the row adds to its distances, what a sum of signs is
/// multiplied with, how far that is off (`f32` each), and how many bits are set (`u32`).
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a> {
    /// All of them.
    pub bytes: &'a [u8],
    /// From each to the next.
    pub stride: usize,
}

/// How a sum over planes becomes a distance: `base + add + weight * scale * (step * sum + lowest * ones - all)`, off by
/// `doubt * error`.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// See above.
    pub base: f32,
    /// See above.
    pub weight: f32,
    /// See above.
    pub step: f32,
    /// See above.
    pub lowest: f32,
    /// See above.
    pub all: f32,
    /// See above.
    pub doubt: f32,
}

/// Rows that are looked at together, at most.
pub const RUN: usize = 64;

/// For each row of a run: the distance by its sketch, and how far that is off. Infinitely far where there is no sketch.
#[derive(Clone, Copy, Debug)]
pub struct Glances {
    /// The distances.
    pub about: [f32; RUN],
    /// How far they are off.
    pub off: [f32; RUN],
}

impl Glances {
    /// Of no rows.
    pub const NONE: Glances = Glances { about: [f32::INFINITY; RUN], off: [0.0; RUN] };
}

/// 32 rows side by side.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Their sketches.
    pub sketches: &'a [Pair],
    /// What each adds to its distances.
    pub add: &'a [f32; SLOTS],
    /// What a sum of signs is multiplied with to be a product.
    pub scale: &'a [f32; SLOTS],
    /// How far that is off, for a query of length one.
    pub error: &'a [f32; SLOTS],
    /// Their numbers; all ones where there is none.
    pub links: &'a [u32; SLOTS],
}

/// Which rows pass: those with `add + scale * (step * sum + lowest) + doubt * error` not above `bound`, or not a number.
#[derive(Clone, Copy, Debug)]
pub struct Sieve {
    /// What a unit of a sum counts.
    pub step: f32,
    /// What a sum of zero counts.
    pub lowest: f32,
    /// What an error counts.
    pub doubt: f32,
    /// What is let pass.
    pub bound: f32,
}

/// The kernels of one instruction set.
pub(in super::super) struct Codes {
    #[cfg_attr(not(test), allow(dead_code))]
    name: &'static str,
    /// The product of a query and a row; values are -127 to 127, and the shorter of the two counts.
    pub bytes: Bytes,
    /// The products of a query and four rows.
    pub bytes_four: BytesFour,
    /// By what each value of each group counts (at most 65,535 in all), which of a block's rows pass.
    pub sketches: Sketches,
    /// A query's values, from 0 to 15 in planes of bits, against the sketches of these rows (at most [`RUN`]).
    pub planes: Planes,
}

static SCALAR: Codes = Codes {
    name: "scalar",
    bytes: bytes_scalar,
    bytes_four: bytes_four_scalar,
    sketches: sift_scalar,
    planes: planes_scalar,
};

#[cfg(target_arch = "x86_64")]
static AVX2: Codes = Codes {
    name: "avx2",
    // SAFETY (all four): `families` hands these out only where AVX2 was detected.
    bytes: |a, b| unsafe { avx2::bytes(a, b) },
    bytes_four: |query, rows| unsafe { avx2::bytes_four(query, rows) },
    sketches: |counts, block, sieve| unsafe { avx2::sift(counts, block, sieve) },
    planes: |planes, all, terms, rows, to| unsafe { avx2::planes(planes, all, terms, rows, to) },
};

#[cfg(target_arch = "x86_64")]
static AVX512: Codes = Codes {
    name: "avx512",
    // SAFETY (all four): `families` hands these out only where all that they need was detected.
    bytes: |a, b| unsafe { avx512::bytes(a, b) },
    bytes_four: |query, rows| unsafe { avx512::bytes_four(query, rows) },
    sketches: |counts, block, sieve| unsafe { avx512::sift(counts, block, sieve) },
    planes: |planes, all, terms, rows, to| unsafe { avx512::planes(planes, all, terms, rows, to) },
};

/// The best kernels of this processor.
pub(in super::super) static CODES: LazyLock<&'static Codes> = LazyLock::new(|| families()[0]);

fn families() -> Vec<&'static Codes> {
    let mut all: Vec<&'static Codes> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2");
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512vpopcntdq");
        all.extend((avx2 && wide).then_some(&AVX512));
        all.extend(avx2.then_some(&AVX2));
    }
    all.push(&SCALAR);
    all
}

fn bytes_scalar(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(x, y)| i32::from(*x) * i32::from(*y)).sum()
}

fn bytes_four_scalar(query: &[i8], rows: [&[i8]; 4]) -> [i32; 4] {
    rows.map(|row| bytes_scalar(query, row))
}

fn planes_scalar(
    planes: &[[u64; PLANES]],
    sketches: &Strided<'_>,
    terms: &Terms,
    rows: &[u32],
    glances: &mut Glances,
) {
    let sum = |bits: &[u8]| {
        let mut sums = [0u32; PLANES];
        for (planes, word) in planes.iter().zip(bits.as_chunks::<8>().0) {
            let word = u64::from_le_bytes(*word);
            sums.iter_mut().zip(planes).for_each(|(sum, plane)| *sum += (word & plane).count_ones());
        }
        sums.iter().rev().fold(0, |all, sum| 2 * all + sum)
    };
    glance(planes.len() * 8, sketches, terms, rows, glances, sum);
}

/// What every family does around the sum of a sketch's planes.
#[inline(always)]
fn glance(
    len: usize,
    sketches: &Strided<'_>,
    terms: &Terms,
    rows: &[u32],
    glances: &mut Glances,
    sum: impl Fn(&[u8]) -> u32,
) {
    // Apart, so that the distances of all rows are computed side by side.
    let (mut signed, mut scales, mut ones) = ([0.0f32; RUN], [0.0f32; RUN], [0.0f32; RUN]);
    *glances = Glances::NONE;
    for (at, row) in rows.iter().take(RUN).enumerate() {
        let start = *row as usize * sketches.stride;
        let record = sketches.bytes.get(start..start + sketches.stride).unwrap_or_default();
        let Some((bits, rest)) = record.split_at_checked(len) else { continue };
        let Some([add, scale, error, count]) = rest.as_chunks::<4>().0.first_chunk::<4>() else { continue };
        // Both are small: at most 15 times the dims.
        signed[at] = sum(bits) as i32 as f32;
        ones[at] = u32::from_le_bytes(*count) as i32 as f32;
        scales[at] = f32::from_le_bytes(*scale);
        glances.about[at] = f32::from_le_bytes(*add);
        glances.off[at] = f32::from_le_bytes(*error);
    }
    for at in 0..RUN {
        let product = terms.step * signed[at] + terms.lowest * ones[at] - terms.all;
        glances.about[at] += terms.base + terms.weight * scales[at] * product;
        glances.off[at] *= terms.doubt;
    }
}

fn sift_scalar(counts: &[Pair], block: &Block<'_>, sieve: &Sieve) -> u32 {
    sift(&sketches_scalar(counts, block.sketches), block, sieve)
}

#[inline(always)]
fn sift(sums: &[u16; SLOTS], block: &Block<'_>, sieve: &Sieve) -> u32 {
    let mut passed = 0;
    for (slot, sum) in sums.iter().enumerate() {
        let signed = sieve.step * f32::from(*sum) + sieve.lowest;
        let at_least = block.add[slot] + block.scale[slot] * signed + sieve.doubt * block.error[slot];
        let passes = at_least <= sieve.bound || at_least.is_nan();
        passed |= u32::from(passes && block.links[slot] != u32::MAX) << slot;
    }
    passed
}

fn sketches_scalar(counts: &[Pair], sketches: &[Pair]) -> [u16; SLOTS] {
    let mut sums = [0u16; SLOTS];
    for (counts, pair) in counts.iter().zip(sketches) {
        for half in [0, SLOTS / 2] {
            for slot in 0..SLOTS / 2 {
                let both = usize::from(pair[half + slot]);
                for (slot, value) in [(slot, both & 15), (slot + SLOTS / 2, both >> 4)] {
                    sums[slot] = sums[slot].wrapping_add(u16::from(counts[half + value]));
                }
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests;

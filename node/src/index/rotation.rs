//! A random rotation that is cheap to apply: it spreads what is in a vector evenly over its values, so that a few bits for each
//! lose little, whatever the data looks like.
//!
//! Three rounds, each of them random signs, then a fast Walsh-Hadamard transform over the longest power of two from the front
//! and over as many values from the back (Ailon & Chazelle, 2009; the two overlapping blocks stand in for padding). A long block
//! is transformed eight columns at a time and then transposed, so that processors add eight values at once; what the columns
//! keep apart in one round meets in the next. Every step is orthogonal, so distances and products stay what they were. Seed and
//! dims make the rotation; nothing is stored.

/// Rounds of signs and transforms: with two, the values of a unit vector with one entry were still visibly uneven.
const ROUNDS: usize = 3;

/// A rotation of vectors of one length.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// One factor per round and value: the sign, times the transform's scale where that is due.
    signs: Vec<f32>,
    dims: usize,
    block: usize,
}

impl Rotation {
    /// The rotation of `dims` values that belongs to a seed.
    pub fn new(dims: usize, seed: u64) -> Rotation {
        let mut state = seed;
        let signs =
            (0..ROUNDS * dims).map(|_| if next(&mut state) >> 63 == 0 { 1.0 } else { -1.0 }).collect();
        let block = if dims == 0 { 0 } else { 1 << dims.ilog2() };
        Rotation { signs, dims, block }
    }

    /// Number of values.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Rotates a vector in place; one of another length stays as it is.
    pub fn apply(&self, vector: &mut [f32]) {
        if vector.len() != self.dims || self.dims == 0 {
            return;
        }
        let mut spare = vec![0.0; self.block];
        for signs in self.signs.chunks_exact(self.dims) {
            vector.iter_mut().zip(signs).for_each(|(value, sign)| *value *= sign);
            mix(&mut vector[..self.block], &mut spare);
            if self.block < self.dims {
                let start = self.dims - self.block;
                mix(&mut vector[start..], &mut spare);
            }
        }
    }
}

/// Values that are added at once.
const LANES: usize = 8;

/// Transforms a power of two values, scaled to be orthogonal.
fn mix(values: &mut [f32], spare: &mut [f32]) {
    let rows = values.len() / LANES;
    let is_long = rows >= LANES;
    let mut half = if is_long { LANES } else { 1 };
    let scale = ((values.len() / half) as f32).sqrt().recip();
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    if is_long {
        for (number, row) in values.as_chunks::<LANES>().0.iter().enumerate() {
            for (lane, value) in row.iter().enumerate() {
                spare[lane * rows + number] = value * scale;
            }
        }
        values.copy_from_slice(spare);
    } else {
        values.iter_mut().for_each(|value| *value *= scale);
    }
}

/// SplitMix64.
pub(super) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    }

    #[test]
    fn products_stay_and_values_even_out() {
        for dims in [1, 2, 3, 7, 8, 96, 384, 768, 1000] {
            let rotation = Rotation::new(dims, 7);
            let mut a: Vec<f32> = (0..dims).map(|i| (i as f32 * 0.7).sin()).collect();
            let mut b: Vec<f32> = (0..dims).map(|i| (i as f32 * 0.3).cos()).collect();
            let before = (dot(&a, &a), dot(&a, &b));
            rotation.apply(&mut a);
            rotation.apply(&mut b);
            let bound = 1e-4 * dims as f64;
            assert!(
                (dot(&a, &a) - before.0).abs() < bound && (dot(&a, &b) - before.1).abs() < bound,
                "{dims}"
            );
            let mut one = vec![0.0; dims];
            one[dims / 2] = 1.0;
            rotation.apply(&mut one);
            let most = one.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            assert!(dims < 90 || most < 6.0 / (dims as f32).sqrt(), "{dims}: {most}");
        }
    }

    #[test]
    fn another_length_stays_as_it_is() {
        let mut vector = [1.0, 2.0];
        Rotation::new(3, 1).apply(&mut vector);
        Rotation::new(0, 1).apply(&mut []);
        assert_eq!(vector, [1.0, 2.0]);
    }
}

//! A found row and the bounded heap that keeps the best of them.
//!
//! Both order by one integer: the distance's bits, mapped so that integers compare as the floats do, in the high
//! half of a `u64`, the row in the low half. Ties, signed zeros and NaN are settled by the mapping, and a heap
//! of integers is quicker than a heap of pairs.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A row and how far it is from the query; smaller is nearer.
///
/// Ordered by distance, then row. -0 equals 0, and NaN sorts last.
#[derive(Clone, Copy, Debug)]
pub struct Neighbor {
    /// Row number.
    pub row: u32,
    /// Distance as [`Distance`](super::Distance) defines it.
    pub distance: f32,
}

impl Neighbor {
    #[inline]
    fn key(self) -> u64 {
        u64::from(ordered(self.distance)) << 32 | u64::from(self.row)
    }

    #[inline]
    fn from_key(key: u64) -> Self {
        Self { row: key as u32, distance: from_ordered((key >> 32) as u32) }
    }
}

impl Ord for Neighbor {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Neighbor {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Neighbor {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Neighbor {}

/// Maps a float to an integer that compares as the float does: -inf < ... < -0 = 0 < ... < inf < NaN.
#[inline]
pub(super) fn ordered(x: f32) -> u32 {
    if x.is_nan() {
        return u32::MAX;
    }
    let bits = (x + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// The float of [`ordered`]; NaN for its highest value.
#[inline]
pub(super) fn from_ordered(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

/// Keeps the `k` nearest of the neighbours pushed into it.
#[derive(Clone, Debug, Default)]
pub struct TopK {
    heap: BinaryHeap<u64>,
    k: usize,
    bound: f32,
}

impl TopK {
    /// Keeps at most `k`; 0 keeps none. Memory grows with what is pushed, not with `k`.
    pub fn new(k: usize) -> Self {
        let bound = if k == 0 { f32::NEG_INFINITY } else { f32::INFINITY };
        Self { heap: BinaryHeap::with_capacity(k.min(1024)), k, bound }
    }

    /// The `k` it was made with.
    pub fn k(&self) -> usize {
        self.k
    }

    /// What is further than this is not kept.
    #[inline]
    pub fn bound(&self) -> f32 {
        self.bound
    }

    /// Number of neighbours held.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// True when it holds none.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// True when a nearer neighbour would push one out.
    pub fn is_full(&self) -> bool {
        self.heap.len() >= self.k
    }

    /// Offers a neighbour; true if it was kept.
    #[inline]
    pub fn push(&mut self, neighbor: Neighbor) -> bool {
        if neighbor.distance > self.bound {
            return false;
        }
        self.push_key(neighbor.key())
    }

    fn push_key(&mut self, key: u64) -> bool {
        if self.heap.len() < self.k {
            self.heap.push(key);
        } else {
            let Some(mut worst) = self.heap.peek_mut() else { return false };
            if key >= *worst {
                return false;
            }
            *worst = key;
        }
        if self.is_full() {
            self.bound = self.worst().map_or(f32::NEG_INFINITY, |worst| worst.distance);
        }
        true
    }

    /// The furthest neighbour held, once `k` are held: what the next one has to beat.
    pub fn worst(&self) -> Option<Neighbor> {
        if self.is_full() { self.heap.peek().map(|&key| Neighbor::from_key(key)) } else { None }
    }

    /// What it holds, nearest first.
    pub fn into_sorted(self) -> Vec<Neighbor> {
        self.heap.into_sorted_vec().into_iter().map(Neighbor::from_key).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn n(row: u32, distance: f32) -> Neighbor {
        Neighbor { row, distance }
    }

    #[test]
    fn order_is_total() {
        let mut all =
            [n(1, f32::NAN), n(2, 0.0), n(1, -0.0), n(0, f32::INFINITY), n(9, -f32::NAN), n(3, -1.0)];
        all.sort();
        assert_eq!(all.map(|x| x.row), [3, 1, 2, 0, 1, 9]);
    }

    #[test]
    fn keeps_the_nearest_and_breaks_ties_by_row() {
        let mut top = TopK::new(3);
        for (row, distance) in [(5, 1.0), (4, 1.0), (9, 0.5), (1, 1.0), (2, f32::NAN)] {
            top.push(n(row, distance));
        }
        assert_eq!(top.worst(), Some(n(4, 1.0)));
        assert_eq!(top.into_sorted(), [n(9, 0.5), n(1, 1.0), n(4, 1.0)]);
    }

    #[test]
    fn zero_keeps_none_and_nan_is_kept_only_for_want_of_better() {
        let mut none = TopK::new(0);
        assert!(!none.push(n(0, f32::NEG_INFINITY)) && !none.push(n(0, f32::NAN)));
        assert!(none.worst().is_none() && none.into_sorted().is_empty());
        let mut one = TopK::new(1);
        assert!(one.push(n(7, f32::NAN)) && one.push(n(8, f32::INFINITY)) && one.push(n(9, 3.0)));
        assert_eq!(one.into_sorted(), [n(9, 3.0)]);
    }

    proptest! {
        #[test]
        fn agrees_with_sorting(bits in proptest::collection::vec(any::<u32>(), 0..60), k in 0usize..70) {
            let mut all: Vec<_> = bits.iter().zip(0..).map(|(&b, row)| n(row, f32::from_bits(b))).collect();
            let mut top = TopK::new(k);
            all.iter().for_each(|&x| { top.push(x); });
            all.sort();
            all.truncate(k);
            prop_assert_eq!(top.into_sorted(), all);
        }

        #[test]
        fn mapping_keeps_order(a in any::<f32>(), b in any::<f32>()) {
            prop_assert_eq!(ordered(a).cmp(&ordered(b)), a.partial_cmp(&b).unwrap());
            prop_assert_eq!(from_ordered(ordered(a)), a);
        }
    }
}

//! Sums of floats that do not depend on the order.
//!
//! A sum is kept as floats that do not overlap, whose sum is exact (Shewchuk, "Adaptive precision floating-point arithmetic",
//! 1997); it is rounded once, at the end. So replicas, partitions and segments may add in any order and agree to the last
//! bit. Values of 2^960 and more are kept apart and scaled down, so that no partial sum overflows before the end.

use serde::{Deserialize, Serialize};

/// Floats of one sum, at most: as many as fit side by side into the range of a float.
const PARTS_MAX: usize = 64;
const HUGE: f64 = f64::from_bits((1023 + 960) << 52);
const SCALE: f64 = f64::from_bits((1023 + 128) << 52);

/// An exact sum of finite floats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sum {
    small: Vec<f64>,
    huge: Vec<f64>,
}

impl Sum {
    /// Adds a finite value; any other is left out.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        if value.abs() >= HUGE {
            grow(&mut self.huge, value / SCALE);
        } else {
            grow(&mut self.small, value);
        }
        // A part may have grown out of its range.
        if let Some(last) = self.small.last().copied().filter(|last| last.abs() >= HUGE) {
            self.small.pop();
            grow(&mut self.huge, last / SCALE);
        }
    }

    /// Adds a whole number exactly.
    pub fn add_whole(&mut self, value: i128) {
        let mut rest = value.unsigned_abs();
        let mut scale = if value < 0 { -1.0 } else { 1.0 };
        while rest > 0 {
            self.add((rest & 0xffff_ffff) as f64 * scale);
            rest >>= 32;
            scale *= 4_294_967_296.0;
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Sum) {
        other.small.iter().for_each(|part| self.add(*part));
        other.huge.iter().filter(|part| part.is_finite()).for_each(|part| grow(&mut self.huge, *part));
    }

    /// The float nearest to the sum; infinite where it is beyond all floats.
    pub fn value(&self) -> f64 {
        if self.huge.is_empty() {
            return rounded(&self.small);
        }
        let mut parts = self.huge.clone();
        self.small.iter().for_each(|part| grow(&mut parts, part / SCALE));
        rounded(&parts) * SCALE
    }

    /// Whether it is of a size that [`Sum::add`] makes; what came from elsewhere may not be.
    pub(super) fn is_sound(&self) -> bool {
        [&self.small, &self.huge].iter().all(|parts| parts.len() <= PARTS_MAX)
    }
}

/// Adds `value` to parts that do not overlap, ascending; they do not overlap afterwards.
fn grow(parts: &mut Vec<f64>, mut value: f64) {
    let mut kept = 0;
    for at in 0..parts.len() {
        let mut part = parts[at];
        if value.abs() < part.abs() {
            std::mem::swap(&mut value, &mut part);
        }
        let high = value + part;
        let low = part - (high - value);
        if low != 0.0 {
            parts[kept] = low;
            kept += 1;
        }
        value = high;
    }
    parts.truncate(kept);
    if value != 0.0 {
        parts.push(value);
    }
}

/// The sum of parts that do not overlap, rounded to the nearest float, ties to even.
fn rounded(parts: &[f64]) -> f64 {
    let mut rest = parts.iter().rev().copied();
    let Some(mut high) = rest.next() else { return 0.0 };
    let mut low = 0.0;
    for part in rest.by_ref() {
        let before = high;
        high = before + part;
        low = part - (high - before);
        if low != 0.0 {
            break;
        }
    }
    // Half way between two floats, what comes after decides.
    if low != 0.0 && rest.next().is_some_and(|next| (low < 0.0) == (next < 0.0)) {
        let twice = low * 2.0;
        let up = high + twice;
        if twice == up - high {
            high = up;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(values: impl IntoIterator<Item = f64>) -> f64 {
        let mut sum = Sum::default();
        values.into_iter().for_each(|value| sum.add(value));
        sum.value()
    }

    #[test]
    fn what_cancels_leaves_what_is_left() {
        assert_eq!(sum([1e16, 1.0, -1e16]), 1.0);
        assert_eq!(sum([0.1; 10]), 1.0);
        assert_eq!(sum([1e308, 1e308, -1e308, -1e308, 3.5]), 3.5);
        assert_eq!(sum([f64::MAX, f64::MAX]), f64::INFINITY);
        assert_eq!(sum([f64::MAX, f64::MAX, -f64::MAX]), f64::MAX);
        assert_eq!(sum([5e-324, -5e-324, 5e-324]), 5e-324);
        assert_eq!(sum([]), 0.0);
        // Half way between two floats: what is far below decides.
        assert_eq!(sum([1.0, f64::EPSILON / 2.0, 1e-300]), 1.0 + f64::EPSILON);
        assert_eq!(sum([1.0, f64::EPSILON / 2.0, -1e-300]), 1.0);
        assert_eq!(sum([1.0, f64::EPSILON / 2.0]), 1.0);
    }

    #[test]
    fn whole_numbers_are_added_exactly() {
        let mut sum = Sum::default();
        sum.add_whole(i128::from(i64::MAX) * 3);
        sum.add_whole(-i128::from(i64::MAX) * 3 + 7);
        assert_eq!(sum.value(), 7.0);
    }

    proptest! {
        #[test]
        fn the_order_does_not_matter(
            values in prop::collection::vec((-1.0..1.0f64, -1070..1020i32), 0..60),
            cut in 0..60usize,
            seed in any::<u64>(),
        ) {
            let values: Vec<f64> = values.iter().map(|(m, e)| m * 2f64.powi(*e)).collect();
            let expected = sum(values.iter().copied());
            let mut shuffled = values.clone();
            let len = shuffled.len().max(1);
            (0..shuffled.len()).for_each(|at| shuffled.swap(at, (seed as usize).wrapping_mul(at + 7) % len));
            prop_assert_eq!(sum(shuffled.iter().copied()).to_bits(), expected.to_bits());
            let (left, right) = shuffled.split_at(cut.min(shuffled.len()));
            let mut sums = [Sum::default(), Sum::default()];
            left.iter().for_each(|value| sums[0].add(*value));
            right.iter().for_each(|value| sums[1].add(*value));
            let [mut whole, other] = sums;
            whole.merge(&other);
            prop_assert!(whole.is_sound());
            prop_assert_eq!(whole.value().to_bits(), expected.to_bits());
        }

        #[test]
        fn integers_are_summed_as_integers(values in prop::collection::vec(-(1i64 << 40)..(1 << 40), 0..200)) {
            let total: i64 = values.iter().sum();
            prop_assert_eq!(sum(values.iter().map(|value| *value as f64)), total as f64);
        }
    }
}

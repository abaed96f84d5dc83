//! Percentiles of numbers: exact while they are few, then by buckets whose bounds grow by a constant factor.
//!
//! The buckets are those of DDSketch (Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with
//! relative-error guarantees", VLDB 2019): a value `x > 0` is in bucket `ceil(log_g x)`, so each value is known to within the
//! relative error. Where the buckets would be too many, neighbours are joined in pairs (Epicoco et al., "UDDSketch",
//! 2020), which squares the factor. Whether they are depends on the values alone: what comes out does not depend on the order, nor
//! on how the values were spread over partitions.

use serde::{Deserialize, Serialize};

/// Values that are kept as they are, at most.
pub const EXACT_MAX: usize = 1_024;
/// The relative error of buckets that were never joined.
pub const RELATIVE_ERROR: f64 = 0.005;
/// Between the first and the last bucket of one sign, at most.
const SPAN_MAX: i64 = 4_096;
/// Joined so often, the buckets of all floats are few enough.
const LEVEL_MAX: u32 = 8;

/// How numbers are distributed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// All values, as long as they are few.
    exact: Vec<f64>,
    buckets: Option<Box<Buckets>>,
}

/// Counts of values by size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Buckets {
    /// How often neighbours were joined.
    level: u32,
    zeros: u64,
    positive: Run,
    negative: Run,
    least: f64,
    greatest: f64,
}

/// Buckets side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Run {
    first: i64,
    counts: Vec<u64>,
}

/// `ln g` at level 0: with `g = (1 + e) / (1 - e)`, the middle of a bucket is within `e` of all its values.
fn log_factor(level: u32) -> f64 {
    ((1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR)).ln() * f64::from(1u32 << level.min(LEVEL_MAX))
}

impl Run {
    fn span(&self) -> i64 {
        i64::try_from(self.counts.len()).unwrap_or(i64::MAX)
    }

    /// The span with this bucket too.
    fn span_with(&self, bucket: i64) -> i64 {
        if self.counts.is_empty() {
            return 1;
        }
        let last = self.first + self.span() - 1;
        last.max(bucket) - self.first.min(bucket) + 1
    }

    /// Counts values of a bucket; the span with it is not too large.
    fn add(&mut self, bucket: i64, count: u64) {
        if self.counts.is_empty() {
            self.first = bucket;
        }
        if bucket < self.first {
            let more = usize::try_from(self.first - bucket).unwrap_or(0);
            self.counts.splice(0..0, std::iter::repeat_n(0, more));
            self.first = bucket;
        }
        let at = usize::try_from(bucket - self.first).unwrap_or(0);
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] += count;
    }

    /// Joins neighbours: buckets `2i - 1` and `2i` are bucket `i` of the squared factor.
    fn join(&mut self) {
        let former = std::mem::take(self);
        for (bucket, count) in former.counted() {
            self.add((bucket + 1).div_euclid(2), count);
        }
    }

    fn counted(&self) -> impl DoubleEndedIterator<Item = (i64, u64)> {
        (self.first..)
            .take(self.counts.len())
            .zip(self.counts.iter().copied())
            .collect::<Vec<_>>()
            .into_iter()
            .filter(|(_, count)| *count > 0)
    }
}

impl Buckets {
    fn new() -> Buckets {
        Buckets {
            level: 0,
            zeros: 0,
            positive: Run::default(),
            negative: Run::default(),
            least: f64::INFINITY,
            greatest: f64::NEG_INFINITY,
        }
    }

    fn bucket_of(&self, size: f64) -> i64 {
        // Joined buckets are those of level 0 joined, so that a value's bucket does not depend on when it came.
        let bucket = (size.ln() / log_factor(0)).ceil() as i64;
        (0..self.level).fold(bucket, |bucket, _| (bucket + 1).div_euclid(2))
    }

    fn add(&mut self, value: f64) {
        self.least = self.least.min(value);
        self.greatest = self.greatest.max(value);
        if value == 0.0 {
            self.zeros += 1;
            return;
        }
        let bucket = self.bucket_of(value.abs());
        self.count(value > 0.0, bucket, 1);
    }

    /// Counts values of a bucket of this level.
    fn count(&mut self, is_positive: bool, mut bucket: i64, count: u64) {
        loop {
            let run = if is_positive { &mut self.positive } else { &mut self.negative };
            if run.span_with(bucket) <= SPAN_MAX || self.level >= LEVEL_MAX {
                return run.add(bucket, count);
            }
            self.coarsen();
            bucket = (bucket + 1).div_euclid(2);
        }
    }

    fn coarsen(&mut self) {
        self.level += 1;
        self.positive.join();
        self.negative.join();
    }

    fn merge(&mut self, other: &Buckets) {
        let mut other = other.clone();
        while self.level < other.level {
            self.coarsen();
        }
        while other.level < self.level {
            other.coarsen();
        }
        self.zeros += other.zeros;
        self.least = self.least.min(other.least);
        self.greatest = self.greatest.max(other.greatest);
        for (is_positive, run) in [(true, &other.positive), (false, &other.negative)] {
            let level = other.level;
            for (bucket, count) in run.counted() {
                // Counting may have joined buckets meanwhile.
                let joined = (level..self.level).fold(bucket, |bucket, _| (bucket + 1).div_euclid(2));
                self.count(is_positive, joined, count);
            }
        }
    }

    fn len(&self) -> u64 {
        self.zeros + [&self.positive, &self.negative].iter().flat_map(|run| &run.counts).sum::<u64>()
    }

    /// The value of this rank, the least at 0.
    fn at(&self, rank: u64) -> f64 {
        // The ends are known exactly.
        if rank == 0 {
            return self.least;
        }
        if rank + 1 >= self.len() {
            return self.greatest;
        }
        let factor = log_factor(self.level);
        // Where the relative error to either end of the bucket is the same: 2 g^i / (g + 1).
        let middle = |bucket: i64| (factor * bucket as f64).exp() * 2.0 / (factor.exp() + 1.0);
        let mut left = rank;
        let negative = self.negative.counted().rev().map(|(bucket, count)| (-middle(bucket), count));
        let positive = self.positive.counted().map(|(bucket, count)| (middle(bucket), count));
        for (value, count) in negative.chain([(0.0, self.zeros)]).chain(positive) {
            if left < count {
                return value.clamp(self.least, self.greatest);
            }
            left -= count;
        }
        self.greatest
    }
}

impl Quantiles {
    /// Adds a finite value.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        match &mut self.buckets {
            Some(buckets) => buckets.add(value),
            None if self.exact.len() < EXACT_MAX => self.exact.push(value + 0.0),
            None => self.bucketed().add(value),
        }
    }

    /// The values in buckets, from now on.
    fn bucketed(&mut self) -> &mut Buckets {
        let exact = std::mem::take(&mut self.exact);
        let buckets = self.buckets.get_or_insert_with(|| Box::new(Buckets::new()));
        exact.into_iter().for_each(|value| buckets.add(value));
        buckets
    }

    /// Adds other values.
    pub fn merge(&mut self, other: &Quantiles) {
        other.exact.iter().for_each(|value| self.add(*value));
        if let Some(buckets) = &other.buckets {
            self.bucketed().merge(buckets);
        }
    }

    /// How many values.
    pub fn len(&self) -> u64 {
        self.buckets.as_ref().map_or(self.exact.len() as u64, |buckets| buckets.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values at these percents (0 to 100), between the two nearest by rank; none if there are no values.
    pub fn values(&self, percents: &[f64]) -> Vec<f64> {
        let len = self.len();
        if len == 0 {
            return vec![];
        }
        let mut sorted = self.exact.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |rank: u64| match &self.buckets {
            Some(buckets) => buckets.at(rank),
            None => usize::try_from(rank).ok().and_then(|rank| sorted.get(rank)).copied().unwrap_or(0.0),
        };
        let value = |percent: &f64| {
            let place = percent / 100.0 * (len - 1) as f64;
            let below = (place as u64).min(len - 1);
            let (low, high) = (at(below), at((below + 1).min(len - 1)));
            let part = place - below as f64;
            // So that two large numbers of different signs do not overflow.
            if part == 0.0 { low } else { low * (1.0 - part) + high * part }
        };
        percents.iter().map(value).collect()
    }

    /// The relative error of what [`Quantiles::values`] says; 0: exact.
    pub fn relative_error(&self) -> f64 {
        let half = |level| (log_factor(level) / 2.0).tanh();
        self.buckets.as_ref().map_or(0.0, |buckets| half(buckets.level))
    }

    /// Bytes that it holds, about.
    pub fn bytes(&self) -> usize {
        let runs = |buckets: &Buckets| buckets.positive.counts.len() + buckets.negative.counts.len();
        8 * (self.exact.len() + self.buckets.as_ref().map_or(0, |buckets| runs(buckets)))
    }

    /// Whether it is of a size that [`Quantiles::add`] makes; what came from elsewhere may not be.
    pub(super) fn is_sound(&self) -> bool {
        let is_run = |run: &Run| run.span() <= SPAN_MAX && run.first.abs() < 1 << 20;
        self.exact.len() <= EXACT_MAX
            && self.exact.iter().all(|value| value.is_finite())
            && self.buckets.as_ref().is_none_or(|buckets| {
                buckets.level <= LEVEL_MAX
                    && is_run(&buckets.positive)
                    && is_run(&buckets.negative)
                    && buckets.zeros < 1 << 62
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[f64]) -> Quantiles {
        let mut quantiles = Quantiles::default();
        values.iter().for_each(|value| quantiles.add(*value));
        quantiles
    }

    fn exactly(values: &[f64], percent: f64) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let place = percent / 100.0 * (sorted.len() - 1) as f64;
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        sorted[low] * (1.0 - (place - low as f64)) + sorted[high] * (place - low as f64)
    }

    #[test]
    fn few_values_are_exact() {
        let quantiles = of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!(quantiles.values(&[0.0, 50.0, 100.0, 25.0]), [1.0, 2.5, 4.0, 1.75]);
        assert_eq!(quantiles.relative_error(), 0.0);
        assert!(of(&[]).values(&[50.0]).is_empty());
        assert_eq!(of(&[7.0]).values(&[0.0, 99.0]), [7.0, 7.0]);
    }

    #[test]
    fn the_widest_range_is_still_bounded() {
        let mut quantiles = Quantiles::default();
        for exponent in -1070..1024 {
            let value = 2f64.powi(exponent.max(-1022)) * if exponent < -1022 { 0.5 } else { 1.0 };
            quantiles.add(value);
            quantiles.add(-value);
        }
        assert!(quantiles.is_sound() && quantiles.bytes() <= 16 * SPAN_MAX as usize);
        assert!(quantiles.relative_error() > RELATIVE_ERROR && quantiles.relative_error() < 0.4);
        assert_eq!(quantiles.values(&[0.0, 100.0]), [-(2f64.powi(1023)), 2f64.powi(1023)]);
    }

    proptest! {
        #[test]
        fn many_are_within_the_error_and_in_any_order(
            seeds in prop::collection::vec((1.0..10.0f64, -8..8i32, any::<bool>()), 1_500..3_000),
            cut in 0..3_000usize,
            percent in 0.0..100.0f64,
        ) {
            let values: Vec<f64> =
                seeds.iter().map(|(m, e, sign)| m * 10f64.powi(*e) * if *sign { 1.0 } else { -1.0 }).collect();
            let whole = of(&values);
            let (left, right) = values.split_at(cut.min(values.len()));
            for (a, b) in [(left, right), (right, left)] {
                let mut merged = of(a);
                merged.merge(&of(b));
                prop_assert_eq!(&merged, &whole);
            }
            prop_assert!(whole.is_sound());
            // Of the two nearest by rank, each is within the error.
            let rank = (percent / 100.0 * (values.len() - 1) as f64).floor();
            let found = whole.values(&[rank * 100.0 / (values.len() - 1) as f64])[0];
            let nearby: Vec<f64> =
                [rank, (rank + 1.0).min((values.len() - 1) as f64)]
                    .iter().map(|rank| exactly(&values, rank * 100.0 / (values.len() - 1) as f64)).collect();
            let error = whole.relative_error() * 1.01;
            let is_near = |exact: f64| (found - exact).abs() <= exact.abs() * error;
            prop_assert!(
                nearby.iter().any(|exact| is_near(*exact))
                    || (found > nearby[0].min(nearby[1]) && found < nearby[0].max(nearby[1])),
                "{} is not near {:?}", found, nearby
            );
        }
    }
}

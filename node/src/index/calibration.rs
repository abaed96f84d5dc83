//! How much effort a search of an index takes for how much of the exact answer: measured, over a sample, once the index is built.
//!
//! The sample is of rows, each moved away from its nearest one by as much as lies between them, so that none of them is a row that
//! the index knows; rows that cannot be moved (packed ones) stand for themselves. For each, the index's answer at every one of
//! [`EFFORTS`] is compared with that of a scan. What is kept is the mean less its standard error, for the [`K`] nearest; a search
//! for more takes as much more effort.

use super::{Accept, Cancelled, Distance, Neighbor, Progress, Rows, Stats, TopK, VectorIndex, scan};

/// Efforts that are measured.
pub const EFFORTS: [usize; 7] = [16, 32, 64, 128, 256, 512, 1024];
/// Bytes of a calibration.
pub const BYTES: usize = 2 * EFFORTS.len();
/// Nearest rows that are compared.
pub const K: usize = 10;
/// Rows of the sample.
const SAMPLE: usize = 128;
/// How far each is moved, in distances to its nearest row. Measured (100,000 x 384): the sample's recall at an effort of 16 is 0.855
/// where that of real queries is 0.834, 0.910 (0.923) at 32, 0.951 (0.967) at 64, and below theirs from there on.
const AWAY: f32 = 1.0;
const WHOLE: f32 = u16::MAX as f32;

/// The recall that each of [`EFFORTS`] has at least, as a share of `u16::MAX`; all 0: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calibration {
    recalls: [u16; EFFORTS.len()],
}

impl Calibration {
    /// Measures an index of these rows.
    ///
    /// # Errors
    /// [`Cancelled`] if `progress` was cancelled before the end.
    pub fn measure(
        index: &impl VectorIndex,
        rows: Rows<'_>,
        distance: Distance,
        progress: &Progress,
    ) -> Result<Calibration, Cancelled> {
        let mut found = [(0.0f32, 0.0f32); EFFORTS.len()];
        let count = SAMPLE.min(rows.len());
        for nth in 0..count {
            progress.advance(0)?;
            let row = (nth * (rows.len() / count)) as u32;
            let (query, without) = moved(index, rows, distance, row);
            let nearest = |found: Vec<Neighbor>| {
                found.into_iter().filter(|near| Some(near.row) != without).take(K).collect::<Vec<_>>()
            };
            let mut top = TopK::new(K + 1);
            scan(rows, distance, &query, Accept::All, 0, &mut top);
            let exact = nearest(top.into_sorted());
            // Where there is nothing to find, all of it is found.
            let furthest = exact.last().map_or(f32::NEG_INFINITY, |near| near.distance);
            for (effort, (sum, squares)) in EFFORTS.into_iter().zip(&mut found) {
                let answer =
                    index.search(rows, distance, &query, K + 1, effort, Accept::All, &mut Stats::default());
                let hits = nearest(answer).iter().filter(|near| near.distance <= furthest).count();
                let recall = if exact.is_empty() { 1.0 } else { hits as f32 / exact.len() as f32 };
                (*sum, *squares) = (*sum + recall, *squares + recall * recall);
            }
        }
        let mut least = 0;
        let recalls = found.map(|(sum, squares)| {
            let (count, mean) = (count.max(1) as f32, sum / count.max(1) as f32);
            let error = ((squares / count - mean * mean).max(0.0) / count).sqrt();
            least = (((mean - error).clamp(0.0, 1.0) * WHOLE) as u16).max(least);
            least
        });
        Ok(Calibration { recalls })
    }

    /// The effort at which this share of the `k` nearest is found; `None` where none that was measured is enough.
    pub fn effort(&self, target: f32, k: usize) -> Option<usize> {
        let reached = self.recalls.map(|recall| f32::from(recall) / WHOLE);
        let at = reached.iter().position(|recall| *recall >= target)?;
        let (high, above) = (EFFORTS[at] as f32, reached[at]);
        // Recall bends downwards, so that a straight line between two points lies below it.
        let effort = match at.checked_sub(1) {
            Some(below) if above > reached[below] => {
                let (low, recall) = (EFFORTS[below] as f32, reached[below]);
                low + (high - low) * (target - recall) / (above - recall)
            }
            _ => high,
        };
        let wider = k.max(K) as f32 / K as f32;
        Some((effort * wider).ceil() as usize)
    }

    /// As bytes.
    pub fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let places = bytes.as_chunks_mut::<2>().0;
        places.iter_mut().zip(self.recalls).for_each(|(to, recall)| *to = recall.to_le_bytes());
        bytes
    }

    /// From bytes.
    pub fn from_bytes(bytes: &[u8; BYTES]) -> Calibration {
        let places = bytes.as_chunks::<2>().0;
        Calibration {
            recalls: std::array::from_fn(|at| places.get(at).map_or(0, |two| u16::from_le_bytes(*two))),
        }
    }
}

/// The row moved away from its nearest one; where it cannot be, the row itself and what its answers are to go without.
fn moved(index: &impl VectorIndex, rows: Rows<'_>, distance: Distance, row: u32) -> (Vec<f32>, Option<u32>) {
    let own = rows.row(row);
    if !distance.is_of_products() {
        return (own.to_vec(), Some(row));
    }
    let found = index.search(rows, distance, own, 2, K, Accept::All, &mut Stats::default());
    let Some(other) = found.into_iter().find(|near| near.row != row) else {
        return (own.to_vec(), Some(row));
    };
    let mut query: Vec<f32> =
        own.iter().zip(rows.row(other.row)).map(|(own, other)| own + AWAY * (own - other)).collect();
    if distance == Distance::Cosine {
        let length = query.iter().map(|value| value * value).sum::<f32>().sqrt();
        if length > 0.0 {
            query.iter_mut().for_each(|value| *value /= length);
        }
    }
    (query, None)
}

#[cfg(test)]
mod tests {
    use super::super::{AnyIndex, any, lsh, sample};
    use super::*;

    #[test]
    fn the_effort_found_gives_the_recall_asked_for() {
        let sample = sample::clustered(5, 5_000, 64, 200);
        let queries = sample::clustered(5, 100, 64, 200);
        let (rows, distance) = (sample.rows(), Distance::Cosine);
        for params in [any::Params::default(), any::Params::Lsh(lsh::Params::default())] {
            let index = AnyIndex::build(rows, distance, &params, 1, &Progress::new()).unwrap();
            let calibration = Calibration::measure(&index, rows, distance, &Progress::new()).unwrap();
            assert_eq!(Calibration::from_bytes(&calibration.to_bytes()), calibration);
            let mut last = 0;
            for target in [0.5, 0.8, 0.9, 0.95] {
                let Some(effort) = calibration.effort(target, K) else { continue };
                assert!(effort >= last, "{calibration:?}");
                last = effort;
                let mut hits = 0;
                for query in 0..100 {
                    let query = queries.rows().row(query);
                    let mut top = TopK::new(K);
                    scan(rows, distance, query, Accept::All, 0, &mut top);
                    let mut stats = Stats::default();
                    let found = index.search(rows, distance, query, K, effort, Accept::All, &mut stats);
                    hits += top.into_sorted().iter().filter(|near| found.contains(near)).count();
                }
                let recall = hits as f32 / 1_000.0;
                assert!(recall >= target - 0.03, "{params:?} effort {effort} for {target}: {recall}");
            }
            assert!(last > 0, "{calibration:?}");
        }
    }

    #[test]
    fn what_was_not_reached_or_not_measured_has_no_effort() {
        assert_eq!(Calibration::default().effort(0.1, K), None);
        let half =
            Calibration { recalls: [0, u16::MAX / 4, u16::MAX / 2, u16::MAX / 2, 40_000, 40_000, 40_000] };
        assert_eq!((half.effort(0.49, K).map(|ef| ef <= 64), half.effort(0.9, K)), (Some(true), None));
        let (few, many) = (half.effort(0.5, K).unwrap(), half.effort(0.5, 10 * K).unwrap());
        assert!(many <= 10 * few && many > 10 * (few - 1), "{few} {many}");
        for recalls in [[0; 7], [u16::MAX; 7]] {
            let calibration = Calibration { recalls };
            assert_eq!(calibration.effort(1.0, 1), (recalls[0] > 0).then_some(EFFORTS[0]));
        }
    }

    #[test]
    fn a_few_rows_are_a_sample_too() {
        for count in [1, 2, 11] {
            let sample = sample::clustered(7, count, 8, 2);
            let (rows, distance) = (sample.rows(), Distance::Euclidean);
            let index =
                AnyIndex::build(rows, distance, &any::Params::default(), 1, &Progress::new()).unwrap();
            let calibration = Calibration::measure(&index, rows, distance, &Progress::new()).unwrap();
            assert_eq!(calibration.effort(0.99, K), Some(EFFORTS[0]), "{count} rows: {calibration:?}");
        }
    }
}

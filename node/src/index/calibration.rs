//! How much effort a search of an index takes for how much of the exact answer: measured, over a sample, once the index is built.
//!
//! The sample is of rows, each left out in its turn: neither an answer nor a step on the way, as if the index did not know it
//! ([`Accept::Without`]). For each, the index's answer at every one of [`EFFORTS`] is compared with that of a scan. What is kept is
//! the mean less its standard error, for the [`K`] nearest; a search for more takes as much more effort.
//!
//! 2026-11-22, recall at efforts of 16, 32, 64 and 128 (300 real queries; 200 rows left out): text vectors (50,000 x 384) 0.856,
//! 0.935, 0.975, 0.993 and 0.830, 0.925, 0.965, 0.990; uniform ones (12,000 x 64) 0.483, 0.670, 0.852, 0.964 and 0.366, 0.559,
//! 0.775, 0.934. A row's neighbours are linked by way of it, so the estimate stays below. Rows moved away from their nearest one,
//! which came before, are too easy where rows lie anywhere: 0.755, 0.860, 0.936, 0.980 of the uniform ones.

use super::{Accept, Cancelled, Distance, Progress, Rows, Stats, TopK, VectorIndex, scan};

/// Efforts that are measured.
pub const EFFORTS: [usize; 7] = [16, 32, 64, 128, 256, 512, 1024];
/// Bytes of a calibration.
pub const BYTES: usize = 2 * EFFORTS.len();
/// Nearest rows that are compared.
pub const K: usize = 10;
/// Rows of the sample.
const SAMPLE: usize = 128;
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
        let (wanted, mut count) = (SAMPLE.min(rows.len()), 0.0f32);
        for nth in 0..wanted {
            progress.advance(0)?;
            let row = (nth * (rows.len() / wanted)) as u32;
            let Some(recalls) = recalls_without(index, rows, distance, row) else { continue };
            count += 1.0;
            for (recall, (sum, squares)) in recalls.into_iter().zip(&mut found) {
                (*sum, *squares) = (*sum + recall, *squares + recall * recall);
            }
        }
        let mut least = 0;
        let recalls = found.map(|(sum, squares)| {
            let mean = sum / count.max(1.0);
            let error = ((squares / count.max(1.0) - mean * mean).max(0.0) / count.max(1.0)).sqrt();
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

/// The share of the nearest rows to this one that the index finds, by effort, as if it did not know it. None for the row that
/// every walk begins at, without which there is none.
fn recalls_without(
    index: &impl VectorIndex,
    rows: Rows<'_>,
    distance: Distance,
    row: u32,
) -> Option<[f32; EFFORTS.len()]> {
    let (query, others) = (rows.row(row), Accept::Without(row));
    let mut top = TopK::new(K);
    scan(rows, distance, query, others, 0, &mut top);
    let exact = top.into_sorted();
    // Where there is nothing to find, all of it is found.
    let Some(furthest) = exact.last().map(|near| near.distance) else { return Some([1.0; EFFORTS.len()]) };
    let recalls = EFFORTS.map(|effort| {
        let found = index.search(rows, distance, query, K, effort, others, &mut Stats::default());
        let hits = found.iter().filter(|near| near.distance <= furthest).count();
        hits as f32 / exact.len() as f32
    });
    recalls.last().is_some_and(|most| *most > 0.0).then_some(recalls)
}

#[cfg(test)]
mod tests {
    use super::super::{AnyIndex, any, lsh, sample};
    use super::*;

    #[test]
    fn the_effort_found_gives_the_recall_asked_for() {
        // As many clusters as rows: they lie anywhere.
        for (clusters, params) in [
            (200, any::Params::default()),
            (200, any::Params::Lsh(lsh::Params::default())),
            (5_000, any::Params::default()),
        ] {
            let sample = sample::clustered(5, 5_000, 64, clusters);
            let queries = sample::clustered(5, 5_200, 64, clusters);
            let (rows, distance) = (sample.rows(), Distance::Cosine);
            let index = AnyIndex::build(rows, distance, &params, 1, &Progress::new()).unwrap();
            let calibration = Calibration::measure(&index, rows, distance, &Progress::new()).unwrap();
            assert_eq!(Calibration::from_bytes(&calibration.to_bytes()), calibration);
            let mut last = 0;
            for target in [0.5, 0.8, 0.9, 0.95] {
                let Some(effort) = calibration.effort(target, K) else { continue };
                assert!(effort >= last, "{calibration:?}");
                last = effort;
                let mut hits = 0;
                for query in 5_000..5_200 {
                    let query = queries.rows().row(query);
                    let mut top = TopK::new(K);
                    scan(rows, distance, query, Accept::All, 0, &mut top);
                    let mut stats = Stats::default();
                    let found = index.search(rows, distance, query, K, effort, Accept::All, &mut stats);
                    hits += top.into_sorted().iter().filter(|near| found.contains(near)).count();
                }
                let recall = hits as f32 / 2_000.0;
                assert!(
                    recall >= target - 0.03,
                    "{clusters} {params:?} effort {effort} for {target}: {recall}"
                );
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
            assert_eq!(calibration.effort(0.8, K), Some(EFFORTS[0]), "{count} rows: {calibration:?}");
        }
    }
}

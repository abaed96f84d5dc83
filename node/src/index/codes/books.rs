//! Codebooks: for each group of eight values of a row, up to 256 centroids, and how a row is told by one of each.
//!
//! This is product quantization (Jégou, Douze & Schmid, TPAMI 2011). How far its groups share the work evenly decides how good it
//! is; OPQ (Ge, He, Ke & Sun, CVPR 2013) learns a rotation for that, and the random one that rows go through anyway does the same
//! without learning. What is coded is a row's direction; its length goes into the row's unit.
//!
//! ```text
//! book of a group     ceil(centroids / 8) runs of eight centroids: for each value of the group, theirs (8 x 8 f32); where there
//!                     are fewer, zeros
//! ```
//!
//! The values of the last group are filled up with zeros. Centroids come of a sample of the rows, by k-means; the seed alone
//! decides what is drawn, for each group by itself, so that any number of threads trains the same books.

mod train;

use super::super::distance::tables::{CHOICES, Eight, GROUP, LANES, TABLES};
use super::super::{Cancelled, Progress};
use super::{FACTORS, Offset, in_parallel};

/// A row whose code is less alike than this is taken as if it were this much, lest what its code is off by is blown up.
const ALIKE_MIN: f32 = 0.25;

/// Groups of a row: the bytes of its code.
pub fn groups(dims: usize) -> usize {
    dims.div_ceil(GROUP)
}

/// Runs of eight centroids of a group, for so many rows.
pub fn eights(rows: usize) -> usize {
    rows.min(CHOICES).div_ceil(LANES)
}

/// Bytes of the books.
pub fn len(dims: usize, rows: usize) -> usize {
    groups(dims) * eights(rows) * size_of::<Eight>()
}

/// The values of each group.
pub fn split(values: &[f32]) -> impl Iterator<Item = [f32; GROUP]> {
    values.chunks(GROUP).map(|group| std::array::from_fn(|at| group.get(at).copied().unwrap_or_default()))
}

/// The book of each group where they lie; `eights` is how long each is.
pub fn read(bytes: &[u8], eights: usize) -> impl Iterator<Item = &[Eight]> {
    // Fails only for bytes that do not start on a word.
    let values: &[f32] = bytemuck::try_cast_slice(bytes).unwrap_or_default();
    values.as_chunks::<LANES>().0.as_chunks::<GROUP>().0.chunks(eights.max(1))
}

/// Books of which rows' codes are made.
pub(super) struct Books {
    centroids: Vec<Eight>,
    /// Half of each centroid's length squared; infinite where there is none.
    halves: Vec<[f32; LANES]>,
    eights: usize,
}

impl Books {
    /// Trains the books of so many rows of so many values by some of them, as `offset` takes them.
    ///
    /// # Errors
    /// [`Cancelled`] if `progress` was cancelled before the end.
    pub(super) fn train(
        dims: usize,
        rows: usize,
        offset: impl Fn(u32) -> Offset + Sync,
        seed: u64,
        threads: usize,
        progress: &Progress,
    ) -> Result<Books, Cancelled> {
        let (groups, eights) = (groups(dims), eights(rows));
        let picked = train::pick(rows, seed);
        let mut sample = vec![[0.0f32; GROUP]; picked.len() * groups];
        let direct = |at: u32, to: &mut [u8], _: &mut [u8]| {
            let offset = offset(picked[at as usize]);
            let to: &mut [[f32; GROUP]] = bytemuck::cast_slice_mut(to);
            to.iter_mut().zip(split(&offset.direction())).for_each(|(to, group)| *to = group);
        };
        let parts = (bytemuck::cast_slice_mut(&mut sample), groups * size_of::<[f32; GROUP]>());
        in_parallel(picked.len(), threads, parts, (&mut [], 0), progress, direct)?;
        let mut centroids = vec![[[0.0; LANES]; GROUP]; groups * eights];
        let mut halves = vec![[f32::INFINITY; LANES]; groups * eights];
        let parts = (bytemuck::cast_slice_mut(&mut centroids), eights * size_of::<Eight>());
        let half_parts = (bytemuck::cast_slice_mut(&mut halves), eights * size_of::<[f32; LANES]>());
        in_parallel(groups, threads, parts, half_parts, progress, |group, book, halves| {
            let points = sample.iter().skip(group as usize).step_by(groups).copied().collect::<Vec<_>>();
            let (book, halves) = (bytemuck::cast_slice_mut(book), bytemuck::cast_slice_mut(halves));
            train::group(&points, rows.min(CHOICES), seed ^ u64::from(group), book, halves);
        })?;
        Ok(Books { centroids, halves, eights })
    }

    /// As a file has them.
    pub(super) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.centroids)
    }

    /// Writes the code of a row that adds this to its distances: a byte per group, what it adds, and what a product with its
    /// centroids stands for, so that the row's own is its length squared.
    pub(super) fn write(&self, offset: &Offset, add: f32, to: &mut [u8]) {
        let Some((code, factors)) = to.split_last_chunk_mut::<FACTORS>() else { return };
        let direction = offset.direction();
        let books = self.centroids.chunks(self.eights.max(1)).zip(self.halves.chunks(self.eights.max(1)));
        let mut alike = 0.0;
        for ((to, values), (book, halves)) in code.iter_mut().zip(split(&direction)).zip(books) {
            let (number, score) = (TABLES.nearest)(&values, book, halves);
            let half =
                halves.get(usize::from(number) / LANES).map_or(0.0, |run| run[usize::from(number) % LANES]);
            *to = number;
            alike += score + half;
        }
        let unit = offset.length / alike.max(ALIKE_MIN);
        let unit = if unit.is_finite() { unit } else { 0.0 };
        factors[..4].copy_from_slice(&add.to_le_bytes());
        factors[4..].copy_from_slice(&unit.to_le_bytes());
    }
}

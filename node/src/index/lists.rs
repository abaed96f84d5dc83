//! Lists of short rows: what a record holds that has not one vector but several, or the pairs of a sparse one.
//!
//! A block of lists is a block of [`Rows`] and, for each list, where it ends. Everything here is exact.

use super::{Distance, Neighbor, Rows, Stats, TopK};

/// A borrowed block of lists.
#[derive(Clone, Copy, Debug)]
pub struct Lists<'a> {
    rows: Rows<'a>,
    ends: &'a [u32],
}

/// The ends do not ascend, or do not end where the rows do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ends of lists do not ascend up to the last row")]
pub struct Tangled;

impl<'a> Lists<'a> {
    /// Looks at `rows` as lists of which each ends before the row that `ends` names.
    ///
    /// # Errors
    /// [`Tangled`] when the ends do not ascend (a list may be empty) up to the number of rows.
    pub fn new(rows: Rows<'a>, ends: &'a [u32]) -> Result<Self, Tangled> {
        let last = ends.last().map_or(0, |end| *end as usize);
        if last == rows.len() && ends.is_sorted() { Ok(Self { rows, ends }) } else { Err(Tangled) }
    }

    /// Lists of which it is known that they are sound, such as those that were looked at before.
    pub(crate) fn known(rows: Rows<'a>, ends: &'a [u32]) -> Self {
        Self { rows, ends }
    }

    /// Number of lists.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True when there are no lists.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Where each list ends.
    pub fn ends(&self) -> &'a [u32] {
        self.ends
    }

    /// First row and end of a list; nothing where there is no such list.
    pub fn bounds(&self, list: u32) -> (u32, u32) {
        let list = list as usize;
        let end = self.ends.get(list).copied().unwrap_or(0);
        let start = list.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        (start.min(end), end)
    }

    /// The list that a row belongs to; behind the last where there is no such row.
    pub fn list_of(&self, row: u32) -> u32 {
        self.ends.partition_point(|end| *end <= row) as u32
    }

    /// The words of a list.
    pub fn words(&self, list: u32) -> &'a [f32] {
        let ((start, end), dims) = (self.bounds(list), self.rows.dims());
        self.rows.data().get(start as usize * dims..end as usize * dims).unwrap_or_default()
    }

    /// Minus the sum, over the rows of the query, of how similar the most similar row of the list is: late interaction.
    /// An empty list is similar to nothing: its sum is minus infinity. `similarity` turns a distance into a similarity,
    /// and falls where the distance grows.
    pub fn late(
        &self,
        list: u32,
        distance: Distance,
        query: Rows<'_>,
        similarity: impl Fn(f32) -> f32,
        stats: &mut Stats,
    ) -> f32 {
        let (kernel, (start, end)) = (distance.kernel(), self.bounds(list));
        stats.visited += 1;
        stats.distances += u64::from(end - start) * query.len() as u64;
        let mut sum = 0.0_f32;
        for asked in 0..query.len() as u32 {
            let asked = query.row(asked);
            let mut nearest = f32::INFINITY;
            let mut row = start;
            while row + 4 <= end {
                let four = [row, row + 1, row + 2, row + 3].map(|row| self.rows.row(row));
                nearest = kernel.four(asked, four).into_iter().fold(nearest, f32::min);
                row += 4;
            }
            for row in row..end {
                nearest = nearest.min(kernel.one(asked, self.rows.row(row)));
            }
            sum += similarity(nearest);
        }
        -sum
    }

    /// Minus the product of a sparse query and the list, both pairs of index and value by ascending index.
    pub fn product(&self, list: u32, query: &[f32]) -> f32 {
        let (mut sum, mut held) = (0.0_f32, pairs(self.words(list)).peekable());
        for (index, value) in pairs(query) {
            while held.next_if(|(other, _)| *other < index).is_some() {}
            if let Some((_, other)) = held.next_if(|(other, _)| *other == index) {
                sum += value * other;
            }
        }
        -sum
    }

    /// Offers the lists that are accepted to `top`, each at the distance that `distance` tells.
    pub fn scan(&self, accepts: impl Fn(u32) -> bool, mut distance: impl FnMut(u32) -> f32, top: &mut TopK) {
        for list in (0..self.ends.len() as u32).filter(|list| accepts(*list)) {
            top.push(Neighbor { row: list, distance: distance(list) });
        }
    }
}

/// The pairs of a sparse vector in words: index and value by turns.
pub fn pairs(words: &[f32]) -> impl Iterator<Item = (u32, f32)> + '_ {
    words.as_chunks::<2>().0.iter().map(|[index, value]| (index.to_bits(), *value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(pairs: &[(u32, f32)]) -> Vec<f32> {
        pairs.iter().flat_map(|(index, value)| [f32::from_bits(*index), *value]).collect()
    }

    #[test]
    fn ends_must_ascend_to_the_last_row() {
        let data = [1.0; 12];
        let rows = Rows::new(&data, 2).unwrap();
        let lists = Lists::new(rows, &[1, 1, 6]).unwrap();
        assert_eq!([0, 1, 2, 3].map(|list| lists.words(list).len()), [2, 0, 10, 0]);
        assert_eq!([0, 1, 5, 6].map(|row| lists.list_of(row)), [0, 2, 2, 3]);
        assert!([&[1, 5][..], &[3, 2, 6], &[7], &[]].iter().all(|ends| Lists::new(rows, ends).is_err()));
        assert!(Lists::new(Rows::new(&[], 3).unwrap(), &[]).unwrap().is_empty());
    }

    #[test]
    fn a_product_is_over_the_indices_that_both_have() {
        let data = [words(&[(0, 2.0), (7, 3.0), (u32::MAX, -1.0)]), words(&[(8, 1.0)])].concat();
        let lists = Lists::new(Rows::new(&data, 2).unwrap(), &[3, 4]).unwrap();
        let query = words(&[(0, 0.5), (1, 9.0), (7, 2.0), (u32::MAX, 4.0)]);
        assert_eq!((lists.product(0, &query), lists.product(1, &query)), (-3.0, 0.0));
    }

    #[test]
    fn late_interaction_takes_the_best_of_each() {
        let data = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8];
        let lists = Lists::new(Rows::new(&data, 2).unwrap(), &[2, 2, 3]).unwrap();
        let query = Rows::new(&[1.0, 0.0, 0.0, 2.0], 2).unwrap();
        let mut stats = Stats::default();
        let mut late = |list| lists.late(list, Distance::Dot, query, |distance| -distance, &mut stats);
        assert_eq!(late(0), -3.0);
        assert_eq!(late(1), f32::INFINITY);
        assert!((late(2) + 2.2).abs() < 1e-6);
        assert_eq!(stats.distances, 6);
    }
}

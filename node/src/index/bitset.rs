//! A dense set of row numbers.
//!
//! One bit per row in `u64` words. The universe is fixed when the set is made: rows outside it are never members
//! and inserting one is refused, so that a row number read from somewhere cannot grow the set.

/// A set of rows out of `0..len`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitset {
    words: Vec<u64>,
    len: usize,
}

impl Bitset {
    /// An empty set over rows `0..len`.
    pub fn new(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)], len }
    }

    /// The set of all rows `0..len`.
    pub fn full(len: usize) -> Self {
        let mut set = Self { words: vec![u64::MAX; len.div_ceil(64)], len };
        set.trim();
        set
    }

    /// The set of `rows` out of `0..len`; rows outside are left out.
    pub fn with_rows(len: usize, rows: impl IntoIterator<Item = u32>) -> Self {
        let mut set = Self::new(len);
        for row in rows {
            set.insert(row);
        }
        set
    }

    /// Size of the universe: members are below this. See [`Bitset::count`] for the number of members.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when the universe is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a row. True if it was not there before; false also for a row outside the universe.
    pub fn insert(&mut self, row: u32) -> bool {
        if row as usize >= self.len {
            return false;
        }
        let Some(word) = self.words.get_mut(row as usize / 64) else { return false };
        let bit = 1 << (row % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Takes a row out. True if it was there.
    pub fn remove(&mut self, row: u32) -> bool {
        let Some(word) = self.words.get_mut(row as usize / 64) else { return false };
        let bit = 1 << (row % 64);
        let was_there = *word & bit != 0;
        *word &= !bit;
        was_there
    }

    /// True if the row is a member.
    #[inline]
    pub fn contains(&self, row: u32) -> bool {
        self.words.get(row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    /// Number of members.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The words, 64 rows each, lowest row in the lowest bit; bits past [`Bitset::len`] are zero.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Keeps only rows that are in `other` too. The universe stays.
    pub fn and(&mut self, other: &Self) {
        let others = other.words.iter().copied().chain(std::iter::repeat(0));
        self.words.iter_mut().zip(others).for_each(|(mine, theirs)| *mine &= theirs);
    }

    /// Takes out all rows that are in `other`. The universe stays.
    pub fn and_not(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(mine, theirs)| *mine &= !theirs);
    }

    /// Adds all rows of `other` that lie in this universe.
    pub fn or(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(mine, theirs)| *mine |= theirs);
        self.trim();
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let (mut words, mut rest, mut base) = (self.words.iter(), 0_u64, 0_u32.wrapping_sub(64));
        std::iter::from_fn(move || {
            // Most words of a set of few are empty: a loop of its own passes them at a word a cycle.
            while rest == 0 {
                rest = *words.next()?;
                base = base.wrapping_add(64);
            }
            let row = base + rest.trailing_zeros();
            rest &= rest - 1;
            Some(row)
        })
    }

    /// Clears the bits of the last word that lie outside the universe.
    fn trim(&mut self) {
        let used = self.len % 64;
        if let (1.., Some(last)) = (used, self.words.last_mut()) {
            *last &= (1 << used) - 1;
        }
    }
}

impl FromIterator<u32> for Bitset {
    /// The universe ends with the highest row; for rows of our own making only (see [`Bitset::with_rows`]).
    fn from_iter<I: IntoIterator<Item = u32>>(rows: I) -> Self {
        let rows: Vec<u32> = rows.into_iter().collect();
        let len = rows.iter().max().map_or(0, |&row| row as usize + 1);
        Self::with_rows(len, rows)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edges_of_a_word() {
        let mut set = Bitset::new(65);
        assert!(set.insert(0) && set.insert(63) && set.insert(64));
        assert!(!set.insert(64), "already there");
        assert!(!set.insert(65), "outside");
        assert!(!set.contains(65) && !set.contains(u32::MAX));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64]);
        assert!(set.remove(63) && !set.remove(63) && !set.remove(1000));
        assert_eq!(set.count(), 2);
    }

    #[test]
    fn full_and_or_stay_inside_the_universe() {
        assert_eq!(Bitset::full(70).count(), 70);
        assert_eq!(Bitset::full(0).count(), 0);
        assert_eq!(Bitset::full(64).count(), 64);
        let mut small = Bitset::new(3);
        small.or(&Bitset::full(200));
        assert_eq!(small, Bitset::full(3));
    }

    proptest! {
        #[test]
        fn agrees_with_a_tree_set(a in proptest::collection::btree_set(0u32..300, 0..80),
                                  b in proptest::collection::btree_set(0u32..200, 0..80)) {
            let (left, right) = (Bitset::with_rows(300, a.clone()), b.iter().copied().collect::<Bitset>());
            let mut both = left.clone();
            both.and(&right);
            let mut only = left.clone();
            only.and_not(&right);
            prop_assert_eq!(both.iter().collect::<BTreeSet<_>>(), &a & &b);
            prop_assert_eq!(only.iter().collect::<BTreeSet<_>>(), &a - &b);
            prop_assert_eq!(left.count(), a.len());
            prop_assert!((0..310).all(|row| left.contains(row) == a.contains(&row)));
        }
    }
}

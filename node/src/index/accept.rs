//! Which rows count.

use std::sync::atomic::{AtomicU64, Ordering};

use super::bitset::Bitset;

/// Says of each row whether a search may return it.
#[derive(Clone, Copy, Debug)]
pub enum Accept<'a> {
    /// Every row.
    All,
    /// The rows of a set.
    Bits(&'a Bitset),
    /// Every row but this one, which a walk does not go through either: as if it were not in the index.
    Without(u32),
    /// The rows alive at a log index: never deleted (0), or deleted later than `at`. A row without an entry in
    /// `deleted_at` is not alive.
    Live {
        /// Per row, the log index that deleted it; 0 while it lives.
        deleted_at: &'a [AtomicU64],
        /// The log index of the view that the search reads.
        at: u64,
    },
}

impl Accept<'_> {
    /// True if the row counts.
    #[inline]
    pub fn contains(&self, row: u32) -> bool {
        match self {
            Self::All => true,
            Self::Bits(bits) => bits.contains(row),
            Self::Without(one) => row != *one,
            Self::Live { deleted_at, at } => is_live(deleted_at, *at, row),
        }
    }
}

/// The rule of [`Accept::Live`]. Relaxed is enough: a view at `at` was handed out after `at` was applied, and a
/// deletion applied while we search has a higher log index, so either value read gives the same answer.
#[inline]
pub(super) fn is_live(deleted_at: &[AtomicU64], at: u64, row: u32) -> bool {
    deleted_at.get(row as usize).map(|d| d.load(Ordering::Relaxed)).is_some_and(|d| d == 0 || d > at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_is_decided_by_log_index() {
        let deleted_at = [0, 5, 6, 7].map(AtomicU64::new);
        let accept = Accept::Live { deleted_at: &deleted_at, at: 6 };
        assert_eq!([0, 1, 2, 3, 4].map(|row| accept.contains(row)), [true, false, false, true, false]);
    }

    #[test]
    fn bits_and_all() {
        let bits = Bitset::with_rows(10, [3]);
        assert!(
            Accept::All.contains(99) && Accept::Bits(&bits).contains(3) && !Accept::Bits(&bits).contains(4)
        );
    }
}

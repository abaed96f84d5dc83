//! A set of keys as the moves of slots know it: slots of the hash (of keys, or of their part before a delimiter), or ranges
//! of keys.
//!
//! A slot of the range strategy has another number after each new split point, so nothing that outlives one map may name
//! it by number: an area names the keys themselves. Two nodes that move keys must agree on which they are.
//!
//! Areas of one collection are all of one kind, as its strategy never changes. Where two of different kinds meet all the
//! same (a damaged command), they are taken to overlap in everything, which stops a move and loses nothing.

use serde::{Deserialize, Serialize};

use crate::limits::SLOTS;
use crate::ring::{shard_key, slot_of};
use crate::schema::Strategy;

const WORDS: usize = SLOTS / 64;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Area {
    /// No key.
    #[default]
    Empty,
    /// The keys of these slots of the hash: a bit for each.
    Slots([u64; WORDS]),
    /// The keys of these ranges: ascending, apart, none empty.
    Ranges(Vec<Range>),
    /// The keys of these slots of the hash of their part before the delimiter ([`shard_key`]): it, and a bit for each.
    ShardKeys(u8, [u64; WORDS]),
}

/// The keys from one up to another, by [`Key::to_bytes`](crate::record::Key::to_bytes).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first key; empty: from the smallest.
    pub from: Vec<u8>,
    /// The first key behind; none: to the largest.
    pub to: Option<Vec<u8>>,
}

impl Range {
    fn contains(&self, key: &[u8]) -> bool {
        self.from.as_slice() <= key && self.to.as_ref().is_none_or(|to| key < to.as_slice())
    }

    fn meets(&self, other: &Range) -> Option<Range> {
        let from = self.from.clone().max(other.from.clone());
        let to = match (&self.to, &other.to) {
            (Some(a), Some(b)) => Some(a.clone().min(b.clone())),
            (to, None) | (None, to) => to.clone(),
        };
        to.as_ref().is_none_or(|to| from < *to).then_some(Range { from, to })
    }
}

impl Area {
    /// The keys of these slots of a strategy. Slots that there are not are left out.
    pub fn of(strategy: &Strategy, slots: impl IntoIterator<Item = usize>) -> Area {
        match strategy {
            Strategy::ConsistentHash => Area::slots(None, bits_of(slots)),
            Strategy::ShardKey { delimiter } => Area::slots(Some(*delimiter), bits_of(slots)),
            Strategy::Range { splits } => {
                let mut slots: Vec<usize> = slots.into_iter().filter(|s| *s <= splits.len()).collect();
                slots.sort_unstable();
                slots.dedup();
                let range = |slot: usize| Range {
                    from: slot.checked_sub(1).map_or(Vec::new(), |before| splits[before].to_bytes()),
                    to: splits.get(slot).map(|key| key.to_bytes()),
                };
                Area::ranges(slots.into_iter().map(range).collect())
            }
        }
    }

    fn slots(delimiter: Option<u8>, bits: [u64; WORDS]) -> Area {
        match delimiter {
            _ if bits == [0; WORDS] => Area::Empty,
            None => Area::Slots(bits),
            Some(delimiter) => Area::ShardKeys(delimiter, bits),
        }
    }

    /// The slots of both where both are slots of one kind, and the delimiter of that kind.
    fn pair<'a>(&'a self, other: &'a Area) -> Option<(Option<u8>, &'a [u64; WORDS], &'a [u64; WORDS])> {
        match (self, other) {
            (Area::Slots(a), Area::Slots(b)) => Some((None, a, b)),
            (Area::ShardKeys(one, a), Area::ShardKeys(two, b)) if one == two => Some((Some(*one), a, b)),
            _ => None,
        }
    }

    /// Joins neighbours.
    fn ranges(mut ranges: Vec<Range>) -> Area {
        ranges.sort_by(|a, b| a.from.cmp(&b.from));
        let mut joined: Vec<Range> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match joined.last_mut() {
                Some(last) if last.to.as_ref().is_none_or(|to| *to >= range.from) => {
                    let further = last.to.as_ref().is_some_and(|to| range.to.as_ref().is_none_or(|r| r > to));
                    if further {
                        last.to = range.to;
                    }
                }
                _ => joined.push(range),
            }
        }
        if joined.is_empty() { Area::Empty } else { Area::Ranges(joined) }
    }

    /// Whether it holds no key.
    pub fn is_empty(&self) -> bool {
        *self == Area::Empty
    }

    /// Whether it holds the key of these bytes.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Area::Empty => false,
            Area::Slots(bits) => has(bits, slot_of(key)),
            Area::ShardKeys(delimiter, bits) => has(bits, slot_of(shard_key(key, *delimiter))),
            Area::Ranges(ranges) => {
                let behind = ranges.partition_point(|range| range.from.as_slice() <= key);
                behind.checked_sub(1).is_some_and(|at| ranges[at].contains(key))
            }
        }
    }

    /// The keys of either.
    #[must_use]
    pub fn or(&self, other: &Area) -> Area {
        if let Some((kind, a, b)) = self.pair(other) {
            return Area::slots(kind, std::array::from_fn(|n| a[n] | b[n]));
        }
        match (self, other) {
            (Area::Empty, some) | (some, Area::Empty) => some.clone(),
            (Area::Ranges(a), Area::Ranges(b)) => Area::ranges(a.iter().chain(b).cloned().collect()),
            (either, _) => either.clone(),
        }
    }

    /// The keys of both.
    #[must_use]
    pub fn and(&self, other: &Area) -> Area {
        if let Some((kind, a, b)) = self.pair(other) {
            return Area::slots(kind, std::array::from_fn(|n| a[n] & b[n]));
        }
        match (self, other) {
            (Area::Empty, _) | (_, Area::Empty) => Area::Empty,
            (Area::Ranges(a), Area::Ranges(b)) => {
                Area::ranges(a.iter().flat_map(|a| b.iter().filter_map(|b| a.meets(b))).collect())
            }
            (either, _) => either.clone(),
        }
    }

    /// The keys of this one that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Area) -> Area {
        if let Some((kind, a, b)) = self.pair(other) {
            return Area::slots(kind, std::array::from_fn(|n| a[n] & !b[n]));
        }
        match (self, other) {
            (Area::Ranges(_), Area::Ranges(ranges)) => self.and(&Area::ranges(gaps(ranges))),
            (some, _) => some.clone(),
        }
    }

    /// Whether some key is in both. Costs nothing where there is none in either.
    pub fn overlaps(&self, other: &Area) -> bool {
        if let Some((_, a, b)) = self.pair(other) {
            return a.iter().zip(b).any(|(a, b)| a & b != 0);
        }
        match (self, other) {
            (Area::Empty, _) | (_, Area::Empty) => false,
            (Area::Ranges(a), Area::Ranges(b)) => a.iter().any(|a| b.iter().any(|b| a.meets(b).is_some())),
            _ => true,
        }
    }

    /// Whether every key of this one is in `other`.
    pub fn is_within(&self, other: &Area) -> bool {
        if let Some((_, a, b)) = self.pair(other) {
            return a.iter().zip(b).all(|(a, b)| a & !b == 0);
        }
        self.without(other).is_empty()
    }
}

fn bits_of(slots: impl IntoIterator<Item = usize>) -> [u64; WORDS] {
    let mut bits = [0; WORDS];
    slots.into_iter().filter(|s| *s < SLOTS).for_each(|s| bits[s / 64] |= 1 << (s % 64));
    bits
}

fn has(bits: &[u64; WORDS], slot: usize) -> bool {
    bits[slot / 64] >> (slot % 64) & 1 == 1
}

/// What lies between ranges, before the first and behind the last.
fn gaps(ranges: &[Range]) -> Vec<Range> {
    let mut gaps = Vec::with_capacity(ranges.len() + 1);
    let mut from = Some(Vec::new());
    for range in ranges {
        if let Some(from) = from
            && from < range.from
        {
            gaps.push(Range { from, to: Some(range.from.clone()) });
        }
        from = range.to.clone();
    }
    gaps.extend(from.map(|from| Range { from, to: None }));
    gaps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Key;
    use crate::schema::Strategy;

    fn hash(slots: &[usize]) -> Area {
        Area::of(&Strategy::ConsistentHash, slots.iter().copied())
    }

    fn parts(delimiter: u8, slots: &[usize]) -> Area {
        Area::of(&Strategy::ShardKey { delimiter }, slots.iter().copied())
    }

    fn range(splits: &[u64], slots: &[usize]) -> Area {
        let splits = splits.iter().map(|key| Key::Number(*key)).collect();
        Area::of(&Strategy::Range { splits }, slots.iter().copied())
    }

    #[test]
    fn a_range_keeps_its_keys_when_its_slots_get_other_numbers() {
        let before = range(&[10, 20], &[1]);
        assert_eq!(before, range(&[10, 15, 20], &[1, 2]), "neighbours join");
        assert!(
            before.contains(&Key::Number(10).to_bytes()) && !before.contains(&Key::Number(20).to_bytes())
        );
        let half = range(&[10, 15, 20], &[2]);
        assert!(half.is_within(&before) && !before.is_within(&half));
        assert_eq!(before.without(&half), range(&[10, 15], &[1]));
        assert!(range(&[10], &[1]).contains(&Key::from("text").to_bytes()));
        assert_eq!(range(&[10], &[0, 1]), Area::Ranges(vec![Range { from: vec![], to: None }]));
    }

    #[test]
    fn keys_with_one_part_before_the_delimiter_are_in_one_area() {
        let slot = Strategy::ShardKey { delimiter: b'/' }.slot(&"file-17".into());
        let area = parts(b'/', &[slot]);
        for key in ["file-17", "file-17/", "file-17/000003", "file-17/a/b"] {
            assert!(area.contains(&Key::from(key).to_bytes()), "{key}");
        }
        let all = parts(b'/', &(0..SLOTS).collect::<Vec<_>>());
        assert!(!all.without(&area).contains(&Key::from("file-17/000003").to_bytes()));
        assert!(all.without(&area).contains(&Key::from("file-18/000003").to_bytes()));
        // Of another kind: they overlap in everything.
        for other in [parts(b':', &[slot]), hash(&[slot]), range(&[5], &[0])] {
            assert!(area.overlaps(&other) && other.overlaps(&area));
            assert_eq!((area.and(&other), area.without(&other)), (area.clone(), area.clone()));
            assert!(!area.is_within(&other) && !other.is_within(&area));
        }
    }

    #[test]
    fn areas_are_stored_as_they_always_were() {
        let encoded = |area: &Area| postcard::to_allocvec(area).unwrap();
        assert_eq!(encoded(&Area::Empty), [0]);
        assert_eq!(encoded(&hash(&[0]))[..2], [1, 1]);
        assert_eq!(encoded(&range(&[1], &[0]))[..2], [2, 1]);
        assert_eq!(encoded(&parts(b'/', &[0]))[..3], [3, b'/', 1]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn sets_of_keys_are_sets(
            a in prop::collection::vec(0_usize..8, 0..8),
            b in prop::collection::vec(0_usize..8, 0..8),
            kind in 0..3,
        ) {
            let splits = [5, 10, 15, 20, 25, 30, 35];
            // Spread over the words.
            let spread = |slots: &[usize]| slots.iter().map(|s| s * 128).collect::<Vec<_>>();
            let area = |slots: &[usize]| match kind {
                0 => hash(&spread(slots)),
                1 => parts(b'/', &spread(slots)),
                _ => range(&splits, slots),
            };
            let (left, right) = (area(&a), area(&b));
            prop_assert_eq!(left.overlaps(&right), !left.and(&right).is_empty());
            prop_assert_eq!(left.is_within(&right), left.or(&right) == right);
            let texts = (0..2_000_u64).map(|n| Key::Text(format!("{n}/{}", n % 3)));
            for key in (0..2_000).map(Key::Number).chain(texts) {
                let key = key.to_bytes();
                let (l, r) = (left.contains(&key), right.contains(&key));
                prop_assert_eq!(left.or(&right).contains(&key), l || r);
                prop_assert_eq!(left.and(&right).contains(&key), l && r);
                prop_assert_eq!(left.without(&right).contains(&key), l && !r);
            }
        }
    }
}

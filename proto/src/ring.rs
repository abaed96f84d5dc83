//! From a key to its slot, and from partitions to the slots they should own.
//!
//! A collection's keys fall into [`SLOTS`] slots by a pinned hash: xxh3-64 of the key's bytes with a fixed seed, modulo
//! the number of slots. The hash carries a version and golden vectors, because two processes that disagree on it
//! lose records. Who owns a slot is **not** computed on the way of a request: it stands in the placement map.
//! [`propose`] only suggests a map, by a consistent-hash ring with virtual nodes and bounded loads: each slot goes to
//! the first partition clockwise that has room left, so that partitions get slots in proportion to their weights
//! (within one slot) and a partition that joins or leaves moves few slots besides its own.
//!
//! Bounded loads: Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2018).

use std::hash::{BuildHasher, Hash, Hasher};

use hashring::HashRing;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use crate::limits::SLOTS;
use crate::record::{Key, TEXT};

/// The version of the hash; stamped into the folder, and checked when it is opened.
pub const HASH_VERSION: u8 = 1;
const SEED: u64 = 0x666c_6f74_696c_6c61; // "flotilla"
const VIRTUAL_NODES: u32 = 64;

/// The slot of `key`, 0 to [`SLOTS`] - 1.
pub fn slot(key: &Key) -> usize {
    slot_of(&key.to_bytes())
}

/// The slot of the key of these bytes ([`Key::to_bytes`]).
pub fn slot_of(key: &[u8]) -> usize {
    (xxh3_64_with_seed(key, SEED) % SLOTS as u64) as usize
}

/// The part of a key that is hashed where a collection names a delimiter: of a text key what stands before the first one,
/// as the bytes of the text key of just that; the whole of a key without one, and of a number.
pub fn shard_key(key: &[u8], delimiter: u8) -> &[u8] {
    match key.split_first() {
        Some((&TEXT, text)) => {
            let end = text.iter().position(|byte| *byte == delimiter);
            end.map_or(key, |end| &key[..=end])
        }
        _ => key,
    }
}

/// The pinned hash as a hasher for the ring.
#[derive(Clone, Default)]
struct Pinned;

struct PinnedHasher(Xxh3);

impl BuildHasher for Pinned {
    type Hasher = PinnedHasher;
    fn build_hasher(&self) -> PinnedHasher {
        PinnedHasher(Xxh3::with_seed(SEED))
    }
}

impl Hasher for PinnedHasher {
    fn finish(&self) -> u64 {
        self.0.digest()
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn write_u64(&mut self, n: u64) {
        self.0.update(&n.to_le_bytes());
    }
    fn write_u32(&mut self, n: u32) {
        self.0.update(&n.to_le_bytes());
    }
}

/// A virtual node: one of a member's points on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    member: usize,
    id: u64,
    number: u32,
}

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.id);
        state.write_u32(self.number);
    }
}

struct SlotToken(u64);

impl Hash for SlotToken {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// Slot -> ordinal in `members`, each an id and a weight above 0 (finite; others count as 1). Empty if there are no members.
pub fn propose(members: &[(u64, f64)]) -> Vec<u16> {
    let weights: Vec<f64> =
        members.iter().map(|(_, w)| if w.is_finite() && *w > 0.0 { *w } else { 1.0 }).collect();
    let mut room = shares(&weights);
    let mut ring = HashRing::with_hasher(Pinned);
    let mut points = 0;
    for (member, (id, _)) in members.iter().enumerate() {
        let mean = weights.iter().sum::<f64>() / weights.len() as f64;
        let tokens = (f64::from(VIRTUAL_NODES) * weights[member] / mean).ceil().clamp(1.0, 1024.0) as u32;
        ring.batch_add((0..tokens).map(|number| Token { member, id: *id, number }).collect());
        points += tokens as usize;
    }
    let mut owners = Vec::with_capacity(SLOTS);
    for slot in 0..SLOTS as u64 {
        owners.extend(first_with_room(&ring, slot, points, &mut room));
    }
    owners
}

/// The first member clockwise of `slot` with room, whose room then shrinks by one.
fn first_with_room(
    ring: &HashRing<Token, Pinned>,
    slot: u64,
    points: usize,
    room: &mut [usize],
) -> Option<u16> {
    let mut depth = 16.min(points);
    loop {
        let clockwise = ring.get_with_replicas(&SlotToken(slot), depth)?;
        if let Some(token) = clockwise.iter().find(|token| room[token.member] > 0) {
            room[token.member] -= 1;
            return u16::try_from(token.member).ok();
        }
        if depth == points {
            return None;
        }
        depth = (depth * 8).min(points);
    }
}

/// Slots for each weight: proportional, whole, and all slots together (largest remainders get the rest).
fn shares(weights: &[f64]) -> Vec<usize> {
    let total: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|w| SLOTS as f64 * w / total).collect();
    let mut shares: Vec<usize> = exact.iter().map(|e| e.floor() as usize).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| (exact[b].fract()).total_cmp(&exact[a].fract()).then(a.cmp(&b)));
    let missing = SLOTS - shares.iter().sum::<usize>().min(SLOTS);
    for &member in order.iter().cycle().take(if weights.is_empty() { 0 } else { missing }) {
        shares[member] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slots_of_known_keys_never_change() {
        let golden = [
            (Key::Number(0), 670),
            (Key::Number(1), 325),
            (Key::Number(u64::MAX), 74),
            ("a".into(), 674),
            ("vm-000001".into(), 348),
            ("Zürich".into(), 818),
        ];
        let got: Vec<usize> = golden.iter().map(|(key, _)| slot(key)).collect();
        assert_eq!(got, golden.iter().map(|(_, s)| *s).collect::<Vec<usize>>());
    }

    #[test]
    fn slots_of_known_keys_with_a_delimiter_never_change() {
        let golden: [(Key, u8, usize); 11] = [
            ("a".into(), b'/', 674),
            ("a/1".into(), b'/', 674),
            ("vm-000001/disk/0".into(), b'/', 348),
            ("Zürich/7".into(), b'/', 818),
            ("file-17".into(), b'/', 865),
            ("file-17/000003".into(), b'/', 865),
            ("file-17/000004".into(), b'/', 865),
            ("file-17/000003".into(), b':', 141),
            ("a:1/x".into(), b'/', 310),
            // Nothing before it: the text key of nothing.
            ("/a".into(), b'/', 922),
            // The bytes of a number may well hold a delimiter.
            (Key::Number(u64::from(b'/')), b'/', slot(&Key::Number(u64::from(b'/')))),
        ];
        for (key, delimiter, wanted) in golden {
            assert_eq!(slot_of(shard_key(&key.to_bytes(), delimiter)), wanted, "{key}");
        }
    }

    #[test]
    fn the_proposal_of_four_equal_partitions_never_changes() {
        let owners = propose(&[(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)]);
        let bytes: Vec<u8> = owners.iter().flat_map(|o| o.to_le_bytes()).collect();
        assert_eq!(xxh3_64_with_seed(&bytes, 0), 7_091_002_128_543_155_441);
    }

    #[test]
    fn no_members_own_nothing() {
        assert!(propose(&[]).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn slots_follow_weights_within_one(weights in prop::collection::vec(1u32..8, 1..24)) {
            let members: Vec<(u64, f64)> =
                weights.iter().enumerate().map(|(i, w)| (i as u64 + 1, f64::from(*w))).collect();
            let owners = propose(&members);
            prop_assert_eq!(owners.len(), SLOTS);
            let total: u32 = weights.iter().sum();
            for (member, weight) in weights.iter().enumerate() {
                let share = SLOTS as f64 * f64::from(*weight) / f64::from(total);
                let got = owners.iter().filter(|o| usize::from(**o) == member).count() as f64;
                prop_assert!((got - share).abs() <= 1.0, "member {} has {}, its share is {}", member, got, share);
            }
        }

        #[test]
        fn a_partition_that_joins_moves_few_slots_besides_its_own(count in 2u64..16) {
            let members: Vec<(u64, f64)> = (1..=count).map(|id| (id, 1.0)).collect();
            let before = propose(&members);
            let mut joined = members.clone();
            joined.push((count + 1, 1.0));
            let after = propose(&joined);
            let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
            let needed = SLOTS / (count as usize + 1);
            prop_assert!(moved >= needed);
            prop_assert!(moved <= needed * 3 + 8, "moved {}, needed {}", moved, needed);
        }
    }
}

//! Which keys a segment surely does not hold.
//!
//! Ten bits and seven probes for each key: about one strange key in a hundred is taken for known, and no known key
//! for strange. The probes are spaced by the two halves of the key's 64-bit hash.

use xxhash_rust::xxh3::xxh3_64;

const BITS_PER_KEY: u64 = 10;
const PROBES: u32 = 7;

/// The filter of so many keys, as the words of its file.
pub(super) fn build<'a>(count: usize, keys: impl Iterator<Item = &'a [u8]>) -> Vec<u64> {
    let words = (count as u64 * BITS_PER_KEY).div_ceil(64).max(1);
    let mut filter = vec![0_u64; usize::try_from(words).unwrap_or(1)];
    for key in keys {
        for bit in probes(key, filter.len()) {
            filter[bit / 64] |= 1 << (bit % 64);
        }
    }
    filter
}

/// Whether the key may be among them.
pub(super) fn may_hold(filter: &[u64], key: &[u8]) -> bool {
    probes(key, filter.len()).all(|bit| filter.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1))
}

fn probes(key: &[u8], words: usize) -> impl Iterator<Item = usize> {
    let hash = xxh3_64(key);
    let (start, step) = (hash & 0xffff_ffff, hash >> 32 | 1);
    let bits = (words as u64 * 64).max(1);
    // Below the number of bits in memory, so a usize.
    (0..PROBES).map(move |n| (start.wrapping_add(step.wrapping_mul(u64::from(n))) % bits) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_keys_are_never_denied_and_strange_ones_mostly_are() {
        let key = |n: u64| n.to_be_bytes();
        for count in [0_u64, 1, 7, 5_000] {
            let keys: Vec<_> = (0..count).map(key).collect();
            let filter = build(keys.len(), keys.iter().map(|key| &key[..]));
            assert!(keys.iter().all(|key| may_hold(&filter, key)));
            let wrong = (count..count + 10_000).filter(|n| may_hold(&filter, &key(*n))).count();
            assert!(wrong < 200, "{wrong} of 10000 strange keys taken for known among {count}");
        }
    }
}

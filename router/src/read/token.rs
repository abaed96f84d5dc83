//! The opaque token that stands between two pages of a scan.
//!
//! It carries the last key, the collection's incarnation and a fingerprint of the filter, and a check sum: a token of another
//! collection, another filter or another program is refused rather than misread. It needs no memory at the router, so
//! any router goes on where another stopped. URL-safe base64 without padding.

use flotilla_proto::ids::CollectionId;
use flotilla_proto::limits::KEY_BYTES_MAX;
use flotilla_proto::record::Key;
use flotilla_proto::refusal::Violation;
use flotilla_proto::v1;
use prost::Message as _;

const VERSION: u8 = 1;
const HEAD: usize = 1 + 16 + 8;
const CHECK: usize = 4;
const BYTES_MAX: usize = HEAD + 9 + KEY_BYTES_MAX + CHECK;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The token after `last`.
pub(super) fn encode(collection: CollectionId, filter: Option<&v1::Filter>, last: &Key) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(collection.as_bytes());
    bytes.extend_from_slice(&fingerprint(filter).to_le_bytes());
    bytes.extend_from_slice(&last.to_bytes());
    let check = check(&bytes);
    bytes.extend_from_slice(&check);
    to_text(&bytes)
}

/// The last key of the page before.
///
/// # Errors
/// A violation of `next` if the token is not one of ours for this collection and filter.
pub(super) fn decode(
    token: &str,
    collection: CollectionId,
    filter: Option<&v1::Filter>,
) -> Result<Key, Violation> {
    let garbled = || Violation::new("next", "is not a token of a scan");
    if token.len() > BYTES_MAX * 4 / 3 + 4 {
        return Err(garbled());
    }
    let bytes = from_text(token).ok_or_else(garbled)?;
    let body = bytes.len().checked_sub(CHECK).filter(|len| *len > HEAD).ok_or_else(garbled)?;
    let (body, sum) = bytes.split_at(body);
    if sum != check(body) || body[0] != VERSION {
        return Err(garbled());
    }
    if body[1..17] != *collection.as_bytes() {
        return Err(Violation::new("next", "is a token of another collection, or of one since deleted"));
    }
    if body[17..HEAD] != fingerprint(filter).to_le_bytes() {
        return Err(Violation::new("next", "is a token of a scan with another filter"));
    }
    Key::from_bytes(&body[HEAD..]).ok_or_else(garbled)
}

fn fingerprint(filter: Option<&v1::Filter>) -> u64 {
    filter.map_or(0, |filter| fnv(&filter.encode_to_vec()))
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let sum = fnv(bytes);
    ((sum ^ (sum >> 32)) as u32).to_le_bytes()
}

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

fn to_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 4 / 3 + 3);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, b| group << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(group >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}

/// Only the one text that [`to_text`] makes of the bytes: a last digit with other spare bits is not taken.
fn from_text(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for chunk in text.as_bytes().chunks(4) {
        let mut group = 0u32;
        for digit in chunk {
            group = group << 6 | ALPHABET.iter().position(|a| a == digit)? as u32;
        }
        group <<= 6 * (4 - chunk.len());
        let whole = chunk.len().checked_sub(1).filter(|whole| *whole > 0)?;
        bytes.extend_from_slice(&group.to_be_bytes()[1..=whole]);
    }
    Some(bytes).filter(|bytes| to_text(bytes) == text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: CollectionId = CollectionId::from_u128(7);

    fn exists(field: &str) -> v1::Filter {
        flotilla_proto::convert::filter_to_wire(&flotilla_proto::filter::Filter::Exists(field.into()))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_token_gives_its_key_back(text in "\\PC{1,40}", number: u64) {
            for key in [Key::Text(text.clone()), Key::Number(number)] {
                let filter = exists("a");
                let token = encode(ID, Some(&filter), &key);
                prop_assert_eq!(decode(&token, ID, Some(&filter)), Ok(key));
            }
        }

        #[test]
        fn garbage_is_refused(garbage in "\\PC{0,60}") {
            prop_assert!(decode(&garbage, ID, None).is_err());
        }
    }

    #[test]
    fn foreign_and_garbled_tokens_are_refused_and_say_why() {
        let token = encode(ID, None, &Key::Number(5));
        let other = decode(&token, CollectionId::from_u128(8), None).unwrap_err();
        assert!(other.description.contains("another collection"));
        let other = decode(&token, ID, Some(&exists("a"))).unwrap_err();
        assert!(other.description.contains("another filter"));
        // Keys of three lengths: the last digit of a token then has none, two or four spare bits.
        for key in ["a", "ab", "abc"] {
            let token = encode(ID, None, &Key::Text(key.into()));
            for at in 0..token.len() {
                for digit in ALPHABET.iter().filter(|digit| **digit != token.as_bytes()[at]) {
                    let mut garbled = token.clone().into_bytes();
                    garbled[at] = *digit;
                    assert!(decode(std::str::from_utf8(&garbled).unwrap(), ID, None).is_err(), "byte {at}");
                }
            }
        }
        assert!(decode(&"A".repeat(1 << 20), ID, None).is_err());
    }
}

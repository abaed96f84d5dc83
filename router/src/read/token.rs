//! The opaque token that stands between two pages of a scan.
//!
//! It carries the last place, the collection's incarnation, a fingerprint of filter, order and key prefix, the states that the pages show
//! (each a partition, a node and a log index, as varints) with the layout that they belong to, and a check sum: a token of
//! another collection, filter, order or prefix, or of another program, is refused rather than misread. It needs no memory at the router, so
//! any router goes on where another stopped. URL-safe base64 without padding.

use flotilla_proto::ids::{CollectionId, NodeId, PartitionId};
use flotilla_proto::limits::{KEY_BYTES_MAX, ORDER_BYTES_MAX, PARTITIONS_MAX};
use flotilla_proto::refusal::Violation;
use flotilla_proto::v1;
use prost::Message as _;
use prost::encoding::{decode_varint, encode_varint};

use super::scan::Shown;

/// 1 had no states.
const VERSION: u8 = 2;
const HEAD: usize = 1 + 16 + 8;
const CHECK: usize = 4;
/// Of the states: three varints for each partition, and two lengths.
const SHOWN_BYTES_MAX: usize = (PARTITIONS_MAX as usize + 1) * 3 * 10;
const BYTES_MAX: usize = HEAD + 3 + 2 * ORDER_BYTES_MAX + 9 + KEY_BYTES_MAX + SHOWN_BYTES_MAX + CHECK;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What the pages of a scan have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) filter: Option<&'a v1::Filter>,
    pub(super) order_by: &'a str,
    pub(super) is_descending: bool,
    pub(super) key_prefix: Option<&'a str>,
}

impl<'a> From<&'a v1::ScanRequest> for Question<'a> {
    fn from(request: &'a v1::ScanRequest) -> Question<'a> {
        Question {
            filter: request.filter.as_ref(),
            order_by: &request.order_by,
            is_descending: request.descending,
            key_prefix: request.key_prefix.as_deref(),
        }
    }
}

/// Where the page before ended, and what it showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Behind {
    /// The last place.
    pub(super) last: Vec<u8>,
    /// Who owned which key then: see [`View::layout`](crate::placement::View::layout).
    pub(super) layout: u64,
    /// The states.
    pub(super) shown: Shown,
}

/// The token after the place `last`.
pub(super) fn encode(collection: CollectionId, question: Question<'_>, behind: &Behind) -> String {
    let Behind { last, layout, shown } = behind;
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(collection.as_bytes());
    bytes.extend_from_slice(&fingerprint(question).to_le_bytes());
    encode_varint(last.len() as u64, &mut bytes);
    bytes.extend_from_slice(last);
    bytes.extend_from_slice(&layout.to_le_bytes());
    encode_varint(shown.len() as u64, &mut bytes);
    for (partition, (node, index)) in shown {
        [partition.0, node.0, *index].into_iter().for_each(|number| encode_varint(number, &mut bytes));
    }
    let check = check(&bytes);
    bytes.extend_from_slice(&check);
    to_text(&bytes)
}

/// The last place of the page before, and the states that it showed.
///
/// # Errors
/// A violation of `next` if the token is not one of ours for this collection and question.
pub(super) fn decode(
    token: &str,
    collection: CollectionId,
    question: Question<'_>,
) -> Result<Behind, Violation> {
    let garbled = || Violation::new("next", "is not a token of a scan");
    if token.len() > BYTES_MAX * 4 / 3 + 4 {
        return Err(garbled());
    }
    let bytes = from_text(token).ok_or_else(garbled)?;
    let body = bytes.len().checked_sub(CHECK).filter(|len| *len > HEAD).ok_or_else(garbled)?;
    let (body, sum) = bytes.split_at(body);
    if sum != check(body) || body[0] == 0 || body[0] > VERSION {
        return Err(garbled());
    }
    if body[1..17] != *collection.as_bytes() {
        return Err(Violation::new("next", "is a token of another collection, or of one since deleted"));
    }
    if body[17..HEAD] != fingerprint(question).to_le_bytes() {
        return Err(Violation::new("next", "is a token of a scan with another filter, order or key prefix"));
    }
    if body[0] < VERSION {
        return Ok(Behind { last: body[HEAD..].to_vec(), ..Behind::default() });
    }
    parts(&body[HEAD..]).ok_or_else(garbled)
}

/// What stands behind the head.
fn parts(mut rest: &[u8]) -> Option<Behind> {
    let number = |rest: &mut &[u8]| decode_varint(rest).ok();
    let length = usize::try_from(number(&mut rest)?).ok()?;
    let (last, rest) = rest.split_at_checked(length)?;
    let (layout, mut rest) = rest.split_first_chunk::<8>()?;
    let count = number(&mut rest)?;
    let mut shown = Shown::new();
    for _ in 0..count.min(u64::from(PARTITIONS_MAX)) {
        let partition = PartitionId(number(&mut rest)?);
        shown.insert(partition, (NodeId(number(&mut rest)?), number(&mut rest)?));
    }
    let (last, layout) = (last.to_vec(), u64::from_le_bytes(*layout));
    (rest.is_empty() && !last.is_empty()).then_some(Behind { last, layout, shown })
}

fn fingerprint(Question { filter, order_by, is_descending, key_prefix }: Question<'_>) -> u64 {
    let filter = filter.map_or(0, |filter| fnv(&filter.encode_to_vec()));
    let ordered = match order_by {
        // As tokens of scans without an order always were.
        "" => filter,
        field => fnv(&[&filter.to_le_bytes(), field.as_bytes(), &[u8::from(is_descending)]].concat()),
    };
    match key_prefix {
        None => ordered,
        // No order ends so.
        Some(prefix) => fnv(&[&ordered.to_le_bytes(), prefix.as_bytes(), b"*"].concat()),
    }
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
    use flotilla_proto::record::Key;
    use proptest::prelude::*;

    use super::*;

    fn at(last: &[u8]) -> Behind {
        Behind { last: last.to_vec(), ..Behind::default() }
    }

    fn by(filter: Option<&v1::Filter>) -> Question<'_> {
        Question { filter, order_by: "", is_descending: false, key_prefix: None }
    }

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
                let token = encode(ID, by(Some(&filter)), &at(&key.to_bytes()));
                prop_assert_eq!(decode(&token, ID, by(Some(&filter))), Ok(at(&key.to_bytes())));
            }
        }

        #[test]
        fn and_the_states_that_were_shown(states in proptest::collection::btree_map(any::<u64>(), any::<(u64, u64)>(), 0..9)) {
            let state = |(partition, (node, index))| (PartitionId(partition), (NodeId(node), index));
            let shown: Shown = states.into_iter().map(state).collect();
            let behind = Behind { last: b"last".to_vec(), layout: 5, shown };
            let token = encode(ID, by(None), &behind);
            prop_assert_eq!(decode(&token, ID, by(None)), Ok(behind));
        }

        #[test]
        fn garbage_is_refused(garbage in "\\PC{0,60}") {
            prop_assert!(decode(&garbage, ID, by(None)).is_err());
        }
    }

    #[test]
    fn foreign_and_garbled_tokens_are_refused_and_say_why() {
        let token = encode(ID, by(None), &at(&Key::Number(5).to_bytes()));
        let other = decode(&token, CollectionId::from_u128(8), by(None)).unwrap_err();
        assert!(other.description.contains("another collection"));
        let other = decode(&token, ID, by(Some(&exists("a")))).unwrap_err();
        assert!(other.description.contains("another filter"));
        let ordered = Question { order_by: "a", ..by(None) };
        let other = decode(&token, ID, ordered).unwrap_err();
        assert!(other.description.contains(", order or"));
        let down = Question { is_descending: true, ..ordered };
        assert!(decode(&encode(ID, ordered, &at(b"x")), ID, down).is_err());
        let of_prefix = |prefix| Question { key_prefix: Some(prefix), ..by(None) };
        let token = encode(ID, of_prefix("a/"), &at(b"x"));
        assert!(decode(&token, ID, of_prefix("a/")).is_ok());
        for another in [of_prefix("a"), of_prefix("a/1"), by(None)] {
            let other = decode(&token, ID, another).unwrap_err();
            assert!(other.description.contains("or key prefix"));
        }
        assert!(decode(&encode(ID, by(None), &at(b"x")), ID, of_prefix("a")).is_err());
        // Keys of three lengths: the last digit of a token then has none, two or four spare bits.
        for key in ["a", "ab", "abc"] {
            let token = encode(ID, by(None), &at(&Key::Text(key.into()).to_bytes()));
            for at in 0..token.len() {
                for digit in ALPHABET.iter().filter(|digit| **digit != token.as_bytes()[at]) {
                    let mut garbled = token.clone().into_bytes();
                    garbled[at] = *digit;
                    assert!(
                        decode(std::str::from_utf8(&garbled).unwrap(), ID, by(None)).is_err(),
                        "byte {at}"
                    );
                }
            }
        }
        assert!(decode(&"A".repeat(1 << 20), ID, by(None)).is_err());
    }

    #[test]
    fn a_token_of_before_the_states_is_read() {
        let mut bytes = vec![1];
        bytes.extend_from_slice(ID.as_bytes());
        bytes.extend_from_slice(&fingerprint(by(None)).to_le_bytes());
        bytes.extend_from_slice(b"last");
        let sum = check(&bytes);
        bytes.extend_from_slice(&sum);
        assert_eq!(decode(&to_text(&bytes), ID, by(None)), Ok(at(b"last")));
    }
}

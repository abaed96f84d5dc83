//! The order of records by a field: places whose bytes sort as the records do.
//!
//! A scan in the order of a field goes by the least value that the field's path reaches (descending: by the greatest), and by
//! key where two are equal; a record without any value comes last, whichever the direction. Values are ordered by class
//! (truth, numbers, text, points in time), numbers exactly, text by its first [`ORDER_BYTES_MAX`] bytes.
//!
//! A **place** is the value's encoding, then the key's: comparing two places byte by byte compares the records. Router and
//! nodes hand places around, and so does the token between two pages: the encoding stays as it is.
//!
//! | value | bytes |
//! |---|---|
//! | truth | class, 1 |
//! | number | class, the nearest float in order (8), what the number is above it (8) |
//! | text; a UUID, as its canonical text | class, its bytes with 0 as 0 255, then 0 0 |
//! | point in time | class, microseconds in order (8) |
//! | none | 255 |

use std::borrow::Cow;

use crate::aggregate::Datum;
use crate::limits::ORDER_BYTES_MAX;
use crate::record::{Key, Payload, reach};
use crate::refusal::Violation;
use crate::schema::{CollectionSpec, FieldType, uuid_text};

/// The class byte of records without a value.
pub const NONE: u8 = 0xff;
const SIGN: u64 = 1 << 63;

/// A place in parts: the value's bytes as of ascending order (none: without a value), and the key's.
pub type Parts<'a> = (Option<Cow<'a, [u8]>>, &'a [u8]);

/// A field to order by, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderBy {
    /// Its path as named.
    pub field: String,
    /// Its path, split.
    pub path: Vec<String>,
    /// Its declared type, if declared.
    pub kind: Option<FieldType>,
    /// The greatest first.
    pub is_descending: bool,
}

impl OrderBy {
    /// By `field` of the collection.
    ///
    /// # Errors
    /// If it is no path, if a strict collection does not declare it, or if it is declared as points, which have no order.
    pub fn new(field: &str, is_descending: bool, spec: &CollectionSpec) -> Result<OrderBy, Violation> {
        let kind = spec.kind_of("order_by", field)?;
        if kind == Some(FieldType::Geo) {
            return Err(Violation::new(
                "order_by",
                format!("field `{field}` is declared as geo; points have no order"),
            ));
        }
        let path = field.split('.').map(str::to_owned).collect();
        Ok(OrderBy { field: field.to_owned(), path, kind, is_descending })
    }

    /// The value's part of the place of a record with this payload.
    pub fn value_of(&self, payload: &Payload) -> Vec<u8> {
        let mut least: Option<Vec<u8>> = None;
        reach(payload, &self.path, &mut |value| {
            let bytes = Datum::of(value, self.kind).and_then(|datum| self.encode(datum));
            if let Some(bytes) = bytes.filter(|bytes| least.as_ref().is_none_or(|least| bytes < least)) {
                least = Some(bytes);
            }
            false
        });
        least.unwrap_or_else(|| vec![NONE])
    }

    /// The place of a record.
    pub fn place(&self, payload: &Payload, key: &Key) -> Vec<u8> {
        let mut place = self.value_of(payload);
        place.extend(key.to_bytes());
        place
    }

    /// A value's part of a place; none of a map, which has no place of its own.
    pub fn encode(&self, datum: Datum<'_>) -> Option<Vec<u8>> {
        let mut bytes = match datum {
            Datum::Truth(truth) => vec![1, u8::from(truth)],
            Datum::Whole(whole) => fixed(2, &number(Datum::Whole(whole)).to_be_bytes()),
            Datum::Float(float) => fixed(2, &number(Datum::Float(float)).to_be_bytes()),
            Datum::Text(text) => {
                let mut bytes = vec![3];
                for byte in &text.as_bytes()[..text.len().min(ORDER_BYTES_MAX)] {
                    bytes.push(*byte);
                    if *byte == 0 {
                        bytes.push(0xff);
                    }
                }
                bytes.extend([0, 0]);
                bytes
            }
            Datum::Time(micros) => fixed(4, &time(micros).to_be_bytes()),
            Datum::Uuid(id) => return self.encode(Datum::Text(&uuid_text(id))),
            Datum::Map => return None,
        };
        if self.is_descending {
            bytes.iter_mut().for_each(|byte| *byte = !*byte);
        }
        Some(bytes)
    }

    /// A place in parts; none if it is no place.
    pub fn split<'a>(&self, place: &'a [u8]) -> Option<Parts<'a>> {
        if place.first() == Some(&NONE) {
            return Some((None, &place[1..]));
        }
        let straight = |byte: u8| if self.is_descending { !byte } else { byte };
        let len = match straight(*place.first()?) {
            1 => 2,
            2 => 17,
            3 => {
                let mut at = 1;
                loop {
                    match (straight(*place.get(at)?), place.get(at + 1).map(|byte| straight(*byte))) {
                        (0, Some(0)) => break at + 2,
                        (0, Some(0xff)) => at += 2,
                        (0, _) => return None,
                        _ => at += 1,
                    }
                }
            }
            4 => 9,
            _ => return None,
        };
        let (value, key) = place.split_at_checked(len)?;
        let value = match self.is_descending {
            true => Cow::Owned(value.iter().map(|byte| !byte).collect()),
            false => Cow::Borrowed(value),
        };
        Some((Some(value), key))
    }
}

/// A number's rank among numbers: the float nearest to it, then what it is above that.
pub fn number(datum: Datum<'_>) -> u128 {
    let (float, above) = match datum {
        Datum::Whole(whole) => {
            let float = whole as f64;
            (float, (i128::from(whole) - float as i128) as i64)
        }
        Datum::Float(float) => (float + 0.0, 0),
        _ => return 0,
    };
    let bits = float.to_bits();
    let ordered = if bits & SIGN == 0 { bits | SIGN } else { !bits };
    u128::from(ordered) << 64 | u128::from(above as u64 ^ SIGN)
}

/// A point in time's rank among them.
pub fn time(micros: i64) -> u64 {
    micros as u64 ^ SIGN
}

fn fixed(class: u8, rank: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + rank.len());
    bytes.push(class);
    bytes.extend_from_slice(rank);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::aggregate::GroupName;

    fn by(is_descending: bool) -> OrderBy {
        OrderBy::new("f", is_descending, &CollectionSpec::default()).unwrap()
    }

    fn datum() -> impl Strategy<Value = (Option<f64>, Option<i64>, Option<String>)> {
        let float = prop_oneof![
            any::<f64>().prop_filter("finite", |float| float.is_finite()),
            (-100i64..100).prop_map(|whole| whole as f64 / 2.0),
            Just(9_007_199_254_740_992.0),
        ];
        let whole = prop_oneof![any::<i64>(), -50i64..50, (1i64 << 53) - 3..(1 << 53) + 3];
        prop_oneof![
            float.prop_map(|float| (Some(float), None, None)),
            whole.prop_map(|whole| (None, Some(whole), None)),
            "[a-c\u{0}ä]{0,4}".prop_map(|text| (None, None, Some(text))),
        ]
    }

    fn of(parts: &(Option<f64>, Option<i64>, Option<String>)) -> Datum<'_> {
        match parts {
            (Some(float), ..) => Datum::Float(*float + 0.0),
            (_, Some(whole), _) => Datum::Whole(*whole),
            (.., text) => Datum::Text(text.as_deref().unwrap_or("")),
        }
    }

    proptest! {
        #[test]
        fn places_sort_as_values_do(a in datum(), b in datum()) {
            let (a, b) = (of(&a), of(&b));
            let values = GroupName::of(a, 0).unwrap().cmp(&GroupName::of(b, 0).unwrap());
            let (up, down) = (by(false), by(true));
            prop_assert_eq!(up.encode(a).unwrap().cmp(&up.encode(b).unwrap()), values);
            prop_assert_eq!(down.encode(b).unwrap().cmp(&down.encode(a).unwrap()), values);
            for order in [up, down] {
                let mut place = order.encode(a).unwrap();
                place.extend(Key::Number(7).to_bytes());
                let (value, key) = order.split(&place).unwrap();
                prop_assert_eq!(value.unwrap().into_owned(), by(false).encode(a).unwrap());
                prop_assert_eq!(key, Key::Number(7).to_bytes());
                prop_assert!(order.encode(a).unwrap() < vec![NONE]);
            }
        }

        #[test]
        fn garbage_is_no_place(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            for order in [by(false), by(true)] {
                if let Some((value, key)) = order.split(&bytes) {
                    prop_assert!(value.map_or(1, |value| value.len()) + key.len() == bytes.len());
                }
            }
        }
    }

    #[test]
    fn uuids_go_by_their_bytes_and_points_nowhere() {
        let fields = [("f".to_owned(), FieldType::Uuid), ("at".to_owned(), FieldType::Geo)].into();
        let spec = CollectionSpec { fields, ..Default::default() };
        let order = OrderBy::new("f", false, &spec).unwrap();
        let place = |spelt: &str| order.value_of(&Payload::from([("f".to_owned(), spelt.into())]));
        let (low, high) = ("0191d2a4-7b3c-7def-8abc-0123456789ab", "0191d2a4-7b3c-7def-8abc-0123456789ac");
        assert_eq!(place(low), place(&format!("{{{}}}", low.to_uppercase())));
        assert!(place(&low.to_uppercase()) < place(&high.replace('-', "")));
        assert_eq!(place("none"), vec![NONE]);
        let refused = OrderBy::new("at", false, &spec).unwrap_err().to_string();
        assert_eq!(refused, "order_by: field `at` is declared as geo; points have no order");
    }

    #[test]
    fn the_least_or_the_greatest_value_counts_and_none_comes_last() {
        use crate::record::Value;
        let payload = |value: Value| Payload::from([("f".to_owned(), value)]);
        let list = payload(Value::List(vec![5.into(), 2.into(), 9.into()]));
        let (up, down) = (by(false), by(true));
        assert_eq!(up.value_of(&list), up.value_of(&payload(2.into())));
        assert_eq!(down.value_of(&list), down.value_of(&payload(9.into())));
        for nothing in [Value::Null, Value::List(vec![]), Value::Map(Payload::new())] {
            assert_eq!(
                (up.value_of(&payload(nothing.clone())), down.value_of(&payload(nothing))),
                (vec![NONE], vec![NONE])
            );
        }
    }
}

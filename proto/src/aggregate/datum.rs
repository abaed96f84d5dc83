//! A payload value as aggregations see it, and the values that stand for groups.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::distinct::hash;
use crate::group::whole;
use crate::limits::GROUP_BYTES_MAX;
use crate::record::Value;
use crate::schema::{FieldType, datetime_micros, uuid_of, uuid_text};

/// A value of a field. The same value is the same datum, whether it is read from a payload or from a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Datum<'a> {
    /// Truth.
    Truth(bool),
    /// A whole number.
    Whole(i64),
    /// A finite float, not -0. In a field declared as float, every whole number that a float can hold is one.
    Float(f64),
    /// A point in time: microseconds since the Unix epoch. In a field declared as datetime only.
    Time(i64),
    /// Text.
    Text(&'a str),
    /// A UUID, which counts as its canonical text. In a field declared as uuid only.
    Uuid(Uuid),
    /// A map: it is there, and that is all.
    Map,
}

impl<'a> Datum<'a> {
    /// The datum of a value that a path reached, in a field declared as `kind`. None for what is no point in time in a
    /// field declared as datetime, what is no UUID in one declared as uuid, and in a field of points.
    pub fn of(value: &'a Value, kind: Option<FieldType>) -> Option<Datum<'a>> {
        match kind {
            Some(FieldType::Datetime) => return datetime_micros(value).map(Datum::Time),
            Some(FieldType::Uuid) => return uuid_of(value).map(Datum::Uuid),
            Some(FieldType::Geo) => return None,
            _ => {}
        }
        Some(match value {
            Value::Bool(truth) => Datum::Truth(*truth),
            Value::Int(whole) if kind == Some(FieldType::Float) => {
                let float = *whole as f64;
                if float as i128 == i128::from(*whole) { Datum::Float(float) } else { Datum::Whole(*whole) }
            }
            Value::Int(whole) => Datum::Whole(*whole),
            Value::Float(float) => Datum::Float(*float + 0.0),
            Value::Text(text) => Datum::Text(text),
            Value::Map(_) => Datum::Map,
            Value::Null | Value::List(_) => return None,
        })
    }

    /// The number, for what takes numbers.
    pub fn number(self) -> Option<f64> {
        match self {
            Datum::Whole(whole) => Some(whole as f64),
            Datum::Float(float) => Some(float),
            Datum::Truth(_) | Datum::Time(_) | Datum::Text(_) | Datum::Uuid(_) | Datum::Map => None,
        }
    }

    /// The hash that tells different values apart; numbers by value, whatever their type.
    pub fn hash(self) -> Option<u64> {
        match self.canonical() {
            Datum::Truth(truth) => Some(hash(0, &[u8::from(truth)])),
            Datum::Whole(whole) => Some(hash(1, &whole.to_le_bytes())),
            Datum::Float(float) => Some(hash(2, &float.to_le_bytes())),
            Datum::Time(micros) => Some(hash(3, &micros.to_le_bytes())),
            Datum::Text(text) => Some(hash(4, text.as_bytes())),
            Datum::Uuid(id) => Some(hash(4, uuid_text(id).as_bytes())),
            Datum::Map => None,
        }
    }

    /// A float that equals a whole number is that number.
    fn canonical(self) -> Datum<'a> {
        match self {
            Datum::Float(float) => whole(float).map_or(self, Datum::Whole),
            other => other,
        }
    }
}

/// What a group is named by. The order is that of answers by value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum GroupName {
    /// Truth.
    Truth(bool),
    /// A whole number.
    Whole(i64),
    /// A float that equals no whole number of 64 bits.
    Float(f64),
    /// Text.
    Text(String),
    /// Microseconds since the Unix epoch.
    Time(i64),
    /// The ordinal of a range, or of an interval.
    Place(i64),
}

impl GroupName {
    /// The group of a datum; none of maps and of text that is too long. Text counts by its first `prefix` characters, if that is
    /// not 0.
    pub fn of(datum: Datum<'_>, prefix: usize) -> Option<GroupName> {
        Some(match datum.canonical() {
            Datum::Truth(truth) => GroupName::Truth(truth),
            Datum::Whole(whole) => GroupName::Whole(whole),
            Datum::Float(float) => GroupName::Float(float),
            Datum::Time(micros) => GroupName::Time(micros),
            Datum::Text(text) => {
                let text = cut(text, prefix);
                (text.len() <= GROUP_BYTES_MAX).then(|| GroupName::Text(text.to_owned()))?
            }
            Datum::Uuid(id) => return GroupName::of(Datum::Text(&uuid_text(id)), prefix),
            Datum::Map => return None,
        })
    }

    /// As the API shows it, in a field declared as `kind`.
    pub fn value(&self, kind: Option<FieldType>) -> Value {
        match self {
            GroupName::Truth(truth) => Value::Bool(*truth),
            GroupName::Whole(whole) if kind == Some(FieldType::Float) => Value::Float(*whole as f64),
            GroupName::Whole(whole) | GroupName::Place(whole) => Value::Int(*whole),
            GroupName::Float(float) => Value::Float(*float),
            GroupName::Text(text) => Value::Text(text.clone()),
            GroupName::Time(micros) => time_value(*micros),
        }
    }

    /// Bytes that it holds, about.
    pub fn bytes(&self) -> usize {
        let text = if let GroupName::Text(text) = self { text.len() } else { 0 };
        size_of::<GroupName>() + text
    }
}

/// The first characters of a text; 0: all.
pub fn cut(text: &str, prefix: usize) -> &str {
    match prefix {
        0 => text,
        prefix => text.char_indices().nth(prefix).map_or(text, |(end, _)| &text[..end]),
    }
}

impl Eq for GroupName {}

impl PartialOrd for GroupName {
    fn partial_cmp(&self, other: &GroupName) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for GroupName {
    fn cmp(&self, other: &GroupName) -> Ordering {
        use GroupName::{Float, Place, Text, Time, Truth, Whole};
        let mixed = |whole: i64, float: f64| {
            let order = crate::filter::Scalar::Int(whole).compare(&crate::filter::Scalar::Float(float));
            order.unwrap_or(Ordering::Less)
        };
        match (self, other) {
            (Truth(a), Truth(b)) => a.cmp(b),
            (Whole(a), Whole(b)) | (Time(a), Time(b)) | (Place(a), Place(b)) => a.cmp(b),
            (Float(a), Float(b)) => a.total_cmp(b),
            (Whole(a), Float(b)) => mixed(*a, *b),
            (Float(a), Whole(b)) => mixed(*b, *a).reverse(),
            (Text(a), Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            _ => self.class().cmp(&other.class()),
        }
    }
}

impl GroupName {
    fn class(&self) -> u8 {
        match self {
            GroupName::Truth(_) => 0,
            GroupName::Whole(_) | GroupName::Float(_) => 1,
            GroupName::Text(_) => 2,
            GroupName::Time(_) => 3,
            GroupName::Place(_) => 4,
        }
    }
}

/// A point in time as a value: RFC 3339 text in UTC, or integer milliseconds where that has no spelling (before the year 0,
/// after 9999).
pub fn time_value(micros: i64) -> Value {
    let when = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok();
    let text = when.and_then(|when| when.format(&time::format_description::well_known::Rfc3339).ok());
    text.map_or(Value::Int(micros.div_euclid(1_000)), Value::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_one_value_are_one_group_and_one_value() {
        for (a, b) in [(Value::Int(2), Value::Float(2.0)), (Value::Float(0.0), Value::Float(-0.0))] {
            let (a, b) = (Datum::of(&a, None).unwrap(), Datum::of(&b, None).unwrap());
            assert_eq!(GroupName::of(a, 0), GroupName::of(b, 0));
            assert_eq!(a.hash(), b.hash());
        }
        let big = Value::Int((1 << 53) + 1);
        assert_eq!(Datum::of(&big, Some(FieldType::Float)), Some(Datum::Whole((1 << 53) + 1)));
        assert_eq!(Datum::of(&Value::Int(3), Some(FieldType::Float)), Some(Datum::Float(3.0)));
    }

    #[test]
    fn names_are_ordered_by_class_then_by_value() {
        let names = [
            GroupName::Truth(false),
            GroupName::Truth(true),
            GroupName::Float(-1e300),
            GroupName::Whole(-1),
            GroupName::Float(0.5),
            GroupName::Whole(1),
            GroupName::Float(1e300),
            GroupName::Text(String::new()),
            GroupName::Text("a".into()),
            GroupName::Text("ä".into()),
            GroupName::Time(-5),
            GroupName::Place(0),
        ];
        assert!(names.is_sorted() && names.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn text_is_cut_at_characters() {
        assert_eq!((cut("äöü", 2), cut("ä", 5), cut("äö", 0), cut("", 1)), ("äö", "ä", "äö", ""));
        let long = "x".repeat(GROUP_BYTES_MAX + 1);
        assert_eq!(GroupName::of(Datum::Text(&long), 0), None);
        assert_eq!(GroupName::of(Datum::Text(&long), 1), Some(GroupName::Text("x".into())));
    }

    #[test]
    fn uuids_are_one_value_however_spelt() {
        let canonical = "0191d2a4-7b3c-7def-8abc-0123456789ab";
        for spelt in [canonical, "{0191D2A4-7B3C-7DEF-8ABC-0123456789AB}", "0191d2a47b3c7def8abc0123456789ab"]
        {
            let value = Value::from(spelt);
            let datum = Datum::of(&value, Some(FieldType::Uuid)).unwrap();
            assert_eq!(GroupName::of(datum, 0), Some(GroupName::Text(canonical.into())));
            assert_eq!(GroupName::of(datum, 4), Some(GroupName::Text("0191".into())));
            // As a column of terms counts it.
            assert_eq!(datum.hash(), Datum::Text(canonical).hash());
        }
        assert_eq!(Datum::of(&"0191".into(), Some(FieldType::Uuid)), None);
        assert_eq!(Datum::of(&7.into(), Some(FieldType::Geo)), None);
    }

    #[test]
    fn points_in_time_are_spelt_or_counted() {
        assert_eq!(time_value(1_500), "1970-01-01T00:00:00.0015Z".into());
        assert_eq!(time_value(i64::MAX), Value::Int(i64::MAX / 1_000));
    }
}

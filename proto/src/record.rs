//! The domain shape of a record: key, named vectors, payload.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The identity of a record inside its collection. Numbers sort before text; numbers by value, text by bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Key {
    /// A 64-bit number.
    Number(u64),
    /// 1 to [`crate::limits::KEY_BYTES_MAX`] bytes of UTF-8.
    Text(String),
}

const NUMBER: u8 = 1;
/// The first of [`Key::to_bytes`] of a text key.
pub(crate) const TEXT: u8 = 2;

impl Key {
    /// The key as bytes that sort as the key does: a tag, then the number big-endian or the text. Hashed by
    /// [`crate::ring::slot`] and written to segments: the encoding never changes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        match self {
            Key::Number(n) => {
                bytes.push(NUMBER);
                bytes.extend_from_slice(&n.to_be_bytes());
            }
            Key::Text(t) => {
                bytes.push(TEXT);
                bytes.extend_from_slice(t.as_bytes());
            }
        }
        bytes
    }

    /// Length of [`Key::to_bytes`].
    pub fn encoded_len(&self) -> usize {
        match self {
            Key::Number(_) => 9,
            Key::Text(t) => 1 + t.len(),
        }
    }

    /// The key of such bytes; `None` if they are not one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Key> {
        let (tag, rest) = bytes.split_first()?;
        match *tag {
            NUMBER => Some(Key::Number(u64::from_be_bytes(rest.try_into().ok()?))),
            TEXT => Some(Key::Text(std::str::from_utf8(rest).ok()?.to_owned())),
            _ => None,
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Key::Number(n) => n.fmt(f),
            Key::Text(t) => t.fmt(f),
        }
    }
}

impl From<u64> for Key {
    fn from(n: u64) -> Key {
        Key::Number(n)
    }
}

impl From<&str> for Key {
    fn from(t: &str) -> Key {
        Key::Text(t.to_owned())
    }
}

impl From<String> for Key {
    fn from(t: String) -> Key {
        Key::Text(t)
    }
}

/// A JSON-like value that keeps integers and floats apart. Floats are finite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// An explicit null: as if absent, for every filter.
    Null,
    /// A truth value.
    Bool(bool),
    /// A 64-bit signed integer.
    Int(i64),
    /// A finite 64-bit float.
    Float(f64),
    /// UTF-8 text.
    Text(String),
    /// Values in order; a filter sees each of them.
    List(#[serde(deserialize_with = "crate::nesting::deeper")] Vec<Value>),
    /// Nested fields; a filter reaches them by a dotted path.
    Map(#[serde(deserialize_with = "crate::nesting::deeper")] Payload),
}

impl Value {
    /// The word for this value's type in messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Int(_) => "integer",
            Value::Float(_) => "float",
            Value::Text(_) => "text",
            Value::List(_) => "list",
            Value::Map(_) => "map",
        }
    }
}

impl From<i64> for Value {
    fn from(v: i64) -> Value {
        Value::Int(v)
    }
}

impl From<f64> for Value {
    fn from(v: f64) -> Value {
        Value::Float(v)
    }
}

impl From<bool> for Value {
    fn from(v: bool) -> Value {
        Value::Bool(v)
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Value {
        Value::Text(v.to_owned())
    }
}

impl From<String> for Value {
    fn from(v: String) -> Value {
        Value::Text(v)
    }
}

/// The structured part of a record.
pub type Payload = BTreeMap<String, Value>;

/// The values that `path` reaches in `payload`: steps through maps by name, through lists into every element.
/// Calls `seen` with each non-null scalar or map; stops, returning true, as soon as `seen` returns true.
pub fn reach(payload: &Payload, path: &[String], seen: &mut impl FnMut(&Value) -> bool) -> bool {
    match path.split_first() {
        Some((name, rest)) => payload.get(name).is_some_and(|value| descend(value, rest, seen)),
        None => false,
    }
}

fn descend(value: &Value, path: &[String], seen: &mut impl FnMut(&Value) -> bool) -> bool {
    match (value, path.split_first()) {
        (Value::List(items), _) => items.iter().any(|item| descend(item, path, seen)),
        (Value::Map(fields), Some((name, rest))) => {
            fields.get(name).is_some_and(|value| descend(value, rest, seen))
        }
        (Value::Null, _) | (_, Some(_)) => false,
        (value, None) => seen(value),
    }
}

/// A named vector of a record, as its user has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Vector {
    /// A number for each dimension.
    Dense(Vec<f32>),
    /// Pairs of index and value, by ascending index; the value of any other index is 0.
    Sparse(Vec<(u32, f32)>),
    /// Several dense ones, of the same dimensions.
    Multi(Vec<Vec<f32>>),
}

impl Vector {
    /// The components of a dense one.
    pub fn dense(&self) -> Option<&[f32]> {
        match self {
            Vector::Dense(values) => Some(values),
            Vector::Sparse(_) | Vector::Multi(_) => None,
        }
    }

    /// The word for its form in messages.
    pub fn form_name(&self) -> &'static str {
        match self {
            Vector::Dense(_) => "dense",
            Vector::Sparse(_) => "sparse",
            Vector::Multi(_) => "multi",
        }
    }

    /// Numbers in it.
    pub fn numbers(&self) -> usize {
        match self {
            Vector::Dense(values) => values.len(),
            Vector::Sparse(pairs) => 2 * pairs.len(),
            Vector::Multi(vectors) => vectors.iter().map(Vec::len).sum(),
        }
    }
}

impl From<Vec<f32>> for Vector {
    fn from(values: Vec<f32>) -> Vector {
        Vector::Dense(values)
    }
}

impl From<Vec<(u32, f32)>> for Vector {
    fn from(pairs: Vec<(u32, f32)>) -> Vector {
        Vector::Sparse(pairs)
    }
}

impl From<Vec<Vec<f32>>> for Vector {
    fn from(vectors: Vec<Vec<f32>>) -> Vector {
        Vector::Multi(vectors)
    }
}

/// A record as the node and its callers think of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its identity.
    pub key: Key,
    /// Vectors by name.
    pub vectors: BTreeMap<String, Vector>,
    /// The structured part.
    pub payload: Payload,
    /// Log index of the write that made it; in a write 0, or the version that it replaces.
    pub version: u64,
    /// When it is deleted, in milliseconds since 1970; none: never.
    pub expires_at_ms: Option<u64>,
}

impl Record {
    /// A record of `key` with nothing in it yet.
    pub fn new(key: impl Into<Key>) -> Record {
        let (vectors, payload) = (BTreeMap::new(), Payload::new());
        Record { key: key.into(), vectors, payload, version: 0, expires_at_ms: None }
    }

    /// To be deleted at this time, in milliseconds since 1970.
    pub fn expires_at(mut self, unix_ms: u64) -> Record {
        self.expires_at_ms = Some(unix_ms);
        self
    }

    /// With the vector `name`.
    pub fn vector(mut self, name: &str, vector: impl Into<Vector>) -> Record {
        self.vectors.insert(name.to_owned(), vector.into());
        self
    }

    /// With the payload field `name`.
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Record {
        self.payload.insert(name.to_owned(), value.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_bytes_do() {
        let keys = [
            Key::Number(0),
            Key::Number(255),
            Key::Number(256),
            Key::Number(u64::MAX),
            "".into(),
            "a".into(),
            "aa".into(),
            "b".into(),
            "ä".into(),
        ];
        for pair in keys.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].to_bytes() < pair[1].to_bytes());
        }
        for key in keys {
            assert_eq!(Key::from_bytes(&key.to_bytes()), Some(key));
        }
        assert_eq!(Key::from_bytes(&[]), None);
        assert_eq!(Key::from_bytes(&[1, 2, 3]), None);
        assert_eq!(Key::from_bytes(&[2, 0xff]), None);
    }

    #[test]
    fn a_path_steps_through_maps_and_fans_out_over_lists() {
        let disk = |gb: i64| Value::Map(Payload::from([("gb".into(), gb.into())]));
        let payload = Payload::from([("disks".into(), Value::List(vec![disk(10), Value::Null, disk(20)]))]);
        let path = ["disks".to_owned(), "gb".to_owned()];
        let mut got = Vec::new();
        reach(&payload, &path, &mut |v| {
            got.push(v.clone());
            false
        });
        assert_eq!(got, [Value::Int(10), Value::Int(20)]);
        assert!(!reach(&payload, &["disks".to_owned(), "mb".to_owned()], &mut |_| true));
    }
}

//! Keys, values and records.

use crate::limits::{MULTI_VECTORS_MAX, PAYLOAD_DEPTH_MAX, SPARSE_PAIRS_MAX};
use crate::record::{Key, Payload, Record, Value, Vector};
use crate::refusal::Violation;
use crate::schema::at_most;
use crate::v1;

/// A key; absent or empty ones are refused. `field` names its place in the request.
pub fn key_from_wire(field: &str, key: Option<v1::Key>) -> Result<Key, Violation> {
    match key.and_then(|key| key.kind) {
        Some(v1::key::Kind::Text(text)) => Ok(Key::Text(text)),
        Some(v1::key::Kind::Number(number)) => Ok(Key::Number(number)),
        None => Err(Violation::new(field, "a key is needed: text or number")),
    }
}

/// A key for the wire.
pub fn key_to_wire(key: &Key) -> v1::Key {
    let kind = match key {
        Key::Text(text) => v1::key::Kind::Text(text.clone()),
        Key::Number(number) => v1::key::Kind::Number(*number),
    };
    v1::Key { kind: Some(kind) }
}

/// A value; one nested deeper than [`PAYLOAD_DEPTH_MAX`] is refused. A value of no kind is null.
pub fn value_from_wire(field: &str, value: v1::Value) -> Result<Value, Violation> {
    nested(field, value, 0)
}

fn nested(field: &str, value: v1::Value, depth: usize) -> Result<Value, Violation> {
    use v1::value::Kind;
    if depth > PAYLOAD_DEPTH_MAX {
        return Err(Violation::new(field, format!("{depth} levels, the limit is {PAYLOAD_DEPTH_MAX}")));
    }
    Ok(match value.kind {
        None | Some(Kind::Null(_)) => Value::Null,
        Some(Kind::Boolean(b)) => Value::Bool(b),
        Some(Kind::Integer(i)) => Value::Int(i),
        Some(Kind::Float(f)) => Value::Float(f),
        Some(Kind::Text(t)) => Value::Text(t),
        Some(Kind::List(list)) => {
            let items = list.values.into_iter().map(|item| nested(field, item, depth + 1));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        Some(Kind::Map(map)) => {
            let fields = map.fields.into_iter().map(|(name, v)| Ok((name, nested(field, v, depth + 1)?)));
            Value::Map(fields.collect::<Result<_, Violation>>()?)
        }
    })
}

/// A value for the wire.
pub fn value_to_wire(value: &Value) -> v1::Value {
    use v1::value::Kind;
    let kind = match value {
        Value::Null => Kind::Null(true),
        Value::Bool(b) => Kind::Boolean(*b),
        Value::Int(i) => Kind::Integer(*i),
        Value::Float(f) => Kind::Float(*f),
        Value::Text(t) => Kind::Text(t.clone()),
        Value::List(items) => Kind::List(v1::ListValue { values: items.iter().map(value_to_wire).collect() }),
        Value::Map(fields) => Kind::Map(v1::MapValue {
            fields: fields.iter().map(|(name, v)| (name.clone(), value_to_wire(v))).collect(),
        }),
    };
    v1::Value { kind: Some(kind) }
}

/// A vector; an absent one is refused, and one that is of two forms at once. Whether it fits the collection is asked of its
/// spec.
pub fn vector_from_wire(field: &str, vector: Option<v1::Vector>) -> Result<Vector, Violation> {
    let vector = vector.ok_or_else(|| Violation::new(field, "a vector is needed"))?;
    let v1::Vector { values, indices, members } = vector;
    if !members.is_empty() {
        if !values.is_empty() || !indices.is_empty() {
            return Err(Violation::new(field, "holds members, and values or indices besides"));
        }
        at_most(field, "vectors", MULTI_VECTORS_MAX, members.len())?;
        return Ok(Vector::Multi(members.into_iter().map(|member| member.values).collect()));
    }
    if indices.is_empty() {
        return Ok(Vector::Dense(values));
    }
    if indices.len() != values.len() {
        let why = format!("{} indices and {} values: each index has one", indices.len(), values.len());
        return Err(Violation::new(field, why));
    }
    at_most(field, "indices", SPARSE_PAIRS_MAX, indices.len())?;
    Ok(Vector::Sparse(indices.into_iter().zip(values).collect()))
}

/// A vector for the wire.
pub fn vector_to_wire(vector: Vector) -> v1::Vector {
    match vector {
        Vector::Dense(values) => v1::Vector { values, ..Default::default() },
        Vector::Sparse(pairs) => {
            let (indices, values) = pairs.into_iter().unzip();
            v1::Vector { values, indices, ..Default::default() }
        }
        Vector::Multi(vectors) => {
            let members = vectors.into_iter().map(|values| v1::Member { values }).collect();
            v1::Vector { members, ..Default::default() }
        }
    }
}

/// A record. `field` names its place in the request, such as `records[3]`.
pub fn record_from_wire(field: &str, record: v1::Record) -> Result<Record, Violation> {
    let key = key_from_wire(&format!("{field}.key"), record.key)?;
    let vectors = record
        .vectors
        .into_iter()
        .map(|(name, vector)| {
            let vector = vector_from_wire(&format!("{field}.vectors[{name}]"), Some(vector))?;
            Ok((name, vector))
        })
        .collect::<Result<_, Violation>>()?;
    let payload = record
        .payload
        .into_iter()
        .map(|(name, value)| Ok((name, value_from_wire(&format!("{field}.payload"), value)?)))
        .collect::<Result<Payload, Violation>>()?;
    let (version, expires_at_ms) = (record.version, record.expires_at_ms);
    Ok(Record { key, vectors, payload, version, expires_at_ms })
}

/// A record for the wire.
pub fn record_to_wire(record: Record) -> v1::Record {
    v1::Record {
        key: Some(key_to_wire(&record.key)),
        vectors: record.vectors.into_iter().map(|(name, vector)| (name, vector_to_wire(vector))).collect(),
        payload: record.payload.iter().map(|(name, value)| (name.clone(), value_to_wire(value))).collect(),
        version: record.version,
        expires_at_ms: record.expires_at_ms,
    }
}

/// Which records of an upsert are written.
pub fn write_mode_from_wire(mode: i32) -> Result<v1::WriteMode, Violation> {
    v1::WriteMode::try_from(mode).map_err(|_| Violation::range("mode", 0, 3, mode))
}

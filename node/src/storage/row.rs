//! The stored shape of a record, and the one place where a record turns into it and back.
//!
//! A command of the log carries rows in this shape already, so that applying it needs no spec, no encoding and no
//! arithmetic on vectors: every replica stores the same bits. Vectors are named by their ordinal among the sorted
//! vector names of the collection (a collection's vectors never change) and packed as [`super::vectors`] says, keys are
//! [`Key::to_bytes`], payloads are postcard.
//!
//! What it does not do: check a record against its limits ([`CollectionSpec::check_record`] did, before the command
//! was proposed).

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::ids::LogIndex;
use flotilla_proto::record::{Key, Payload, Record, Vector};
use flotilla_proto::refusal::Violation;
use flotilla_proto::schema::CollectionSpec;
use serde::{Deserialize, Serialize};

use super::vectors;

const _: () = assert!(cfg!(target_endian = "little"), "segments hold little-endian numbers, read in place");

/// A record as segments and log entries hold it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredRow {
    /// [`Key::to_bytes`].
    #[serde(with = "as_bytes")]
    pub key: Vec<u8>,
    /// Its vectors, by ascending ordinal.
    pub vectors: Vec<StoredVector>,
    /// When the record expires, if it does, and the payload: encoded by [`encode_expiring`].
    #[serde(with = "as_shared")]
    pub payload: Bytes,
}

/// One vector of a row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredVector {
    /// Its name's place among the collection's sorted vector names.
    pub ordinal: u16,
    /// What to multiply the values by to get what the user wrote; 1 unless it was scaled.
    pub norm: f32,
    /// The words that the index compares.
    #[serde(with = "as_floats")]
    pub values: Vec<f32>,
}

impl StoredRow {
    /// The stored shape of a record that fits the collection. Refuses a vector that the collection does not have.
    pub fn from_domain(record: &Record, spec: &CollectionSpec) -> Result<StoredRow, Violation> {
        let vectors = stored_vectors(&record.vectors, spec)?;
        let payload = encode_expiring(&record.payload, record.expires_at_ms)
            .map_err(|error| Violation::new("record.payload", error.to_string()))?;
        Ok(StoredRow { key: record.key.to_bytes(), vectors, payload })
    }

    /// The record again; `None` if the row is not one of this collection.
    pub fn to_domain(&self, spec: &CollectionSpec, version: LogIndex) -> Option<Record> {
        let mut found = BTreeMap::new();
        for vector in &self.vectors {
            let (name, shape) = spec.vectors.iter().nth(usize::from(vector.ordinal))?;
            found.insert(name.clone(), vectors::unpack(shape, &vector.values, vector.norm));
        }
        let payload = decode_payload(&self.payload).ok()?;
        let (key, expires_at_ms) = (Key::from_bytes(&self.key)?, self.expires_at_ms());
        Some(Record { key, vectors: found, payload, version, expires_at_ms })
    }

    /// Its payload.
    pub fn decode(&self) -> Result<Payload, postcard::Error> {
        decode_payload(&self.payload)
    }

    /// The same record with another payload; it expires when it did.
    pub fn replace_payload(&mut self, payload: &Payload) -> Result<(), postcard::Error> {
        self.payload = encode_expiring(payload, self.expires_at_ms())?;
        Ok(())
    }

    /// When it expires, if it does: milliseconds since 1970.
    pub fn expires_at_ms(&self) -> Option<u64> {
        split_expiry(&self.payload).0
    }

    /// Bytes it takes in memory, roughly.
    pub fn size(&self) -> usize {
        self.key.len() + self.vector_size() + self.payload.len() + 64
    }

    /// Of those, the bytes of its vectors.
    pub fn vector_size(&self) -> usize {
        self.vectors.iter().map(|vector| vector.values.len() * 4 + 8).sum()
    }
}

/// The stored shape of named vectors, by ascending ordinal. Refuses one that the collection does not have.
pub fn stored_vectors(
    named: &BTreeMap<String, Vector>,
    spec: &CollectionSpec,
) -> Result<Vec<StoredVector>, Violation> {
    let mut stored = Vec::with_capacity(named.len());
    for (name, values) in named {
        let found = spec.vectors.iter().enumerate().find(|(_, (known, _))| *known == name);
        let Some((ordinal, (_, vector))) = found else {
            return Err(Violation::new(
                format!("record.vectors[{name}]"),
                format!("collection `{}` has no vector of this name", spec.name),
            ));
        };
        let ordinal = u16::try_from(ordinal).unwrap_or(u16::MAX);
        let (values, norm) = vectors::pack(vector, values);
        stored.push(StoredVector { ordinal, norm, values });
    }
    Ok(stored)
}

/// Bit by bit: the words of narrow values may look like numbers that are unequal to themselves.
impl PartialEq for StoredVector {
    fn eq(&self, other: &StoredVector) -> bool {
        let bits = |vector: &StoredVector| (vector.ordinal, vector.norm.to_bits());
        bits(self) == bits(other)
            && bytemuck::cast_slice::<f32, u32>(&self.values)
                == bytemuck::cast_slice::<f32, u32>(&other.values)
    }
}

/// What the stored payload of a record that expires begins with; the time follows, then the payload. No payload begins so: it
/// begins with the number of its fields, and zero is not written in two bytes.
const EXPIRES: [u8; 2] = [0x80, 0x00];

/// When a stored payload says that its record expires, and the rest of it.
pub fn split_expiry(stored: &[u8]) -> (Option<u64>, &[u8]) {
    match stored.strip_prefix(&EXPIRES).and_then(<[u8]>::split_first_chunk) {
        Some((when, payload)) => (Some(u64::from_le_bytes(*when)), payload),
        None => (None, stored),
    }
}

/// Begins a stored payload of a record that expires at `when`.
pub fn push_expiry(when: u64, to: &mut Vec<u8>) {
    to.extend_from_slice(&EXPIRES);
    to.extend_from_slice(&when.to_le_bytes());
}

/// The stored form of the payload of a record that expires at `when`, if ever.
pub fn encode_expiring(payload: &Payload, when: Option<u64>) -> Result<Bytes, postcard::Error> {
    let mut head = Vec::new();
    if let Some(when) = when {
        push_expiry(when, &mut head);
    }
    postcard::to_extend(payload, head).map(Bytes::from)
}

/// The stored form of a payload.
pub fn encode_payload(payload: &Payload) -> Result<Bytes, postcard::Error> {
    postcard::to_allocvec(payload).map(Bytes::from)
}

/// The payload of its stored form; trailing bytes are an error.
pub fn decode_payload(bytes: &[u8]) -> Result<Payload, postcard::Error> {
    let (when, payload) = split_expiry(bytes);
    let is_cut = when.is_none() && payload.starts_with(&EXPIRES);
    let (payload, rest) = postcard::take_from_bytes(payload)?;
    if rest.is_empty() && !is_cut { Ok(payload) } else { Err(postcard::Error::SerdeDeCustom) }
}

/// Reads a run of bytes in one piece, where serde's own would go byte by byte.
struct Run;

impl serde::de::Visitor<'_> for Run {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }
}

mod as_bytes {
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        from.deserialize_bytes(super::Run)
    }
}

mod as_shared {
    use bytes::Bytes;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        from.deserialize_bytes(super::Run).map(Bytes::from)
    }
}

mod as_floats {
    use serde::de::Error;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(values: &[f32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytemuck::cast_slice(values))
    }

    struct Floats;

    impl serde::de::Visitor<'_> for Floats {
        type Value = Vec<f32>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the bytes of 32-bit floats")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<f32>, E> {
            let (words, rest) = bytes.as_chunks::<4>();
            if !rest.is_empty() {
                return Err(E::invalid_length(bytes.len(), &self));
            }
            Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f32>, D::Error> {
        from.deserialize_bytes(Floats)
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::filter::Filter;
    use flotilla_proto::limits::NESTING_MAX;

    use super::*;
    use crate::storage::sample;

    #[test]
    fn a_record_comes_back_as_it_was() {
        let spec = sample::spec(4);
        let record = Record::new("k")
            .vector("a", vec![3.0, 0.0, 4.0, 0.0])
            .vector("b", vec![0.5, -2.0])
            .field("n", 7)
            .field("t", "x");
        let row = StoredRow::from_domain(&record, &spec).unwrap();
        assert_eq!(row.vectors[0].values, [0.6, 0.0, 0.8, 0.0], "cosine: of unit length");
        assert_eq!((row.vectors[0].norm, row.vectors[1].norm), (5.0, 1.0));
        let bytes = postcard::to_allocvec(&row).unwrap();
        let again: StoredRow = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(again, row);
        let back = again.to_domain(&spec, 9).unwrap();
        assert_eq!(back, Record { version: 9, ..record });
    }

    #[test]
    fn a_record_that_expires_is_told_from_any_other_by_its_first_bytes() {
        let spec = sample::spec(4);
        for fields in 0..200_i64 {
            let full = (0..fields).fold(Record::new(1), |record, n| record.field(&format!("f{n}"), n));
            let row = StoredRow::from_domain(&full, &spec).unwrap();
            assert_eq!((row.expires_at_ms(), &row.payload), (None, &encode_payload(&full.payload).unwrap()));
            let mut row = StoredRow::from_domain(&full.clone().expires_at(77), &spec).unwrap();
            assert_eq!((row.expires_at_ms(), row.decode().unwrap()), (Some(77), full.payload.clone()));
            row.replace_payload(&Payload::new()).unwrap();
            assert_eq!(row.to_domain(&spec, 3).unwrap().expires_at_ms, Some(77));
        }
        for cut in 2..10 {
            let row = StoredRow::from_domain(&Record::new(1).expires_at(77), &spec).unwrap();
            assert!(decode_payload(&row.payload[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn strangers_are_refused() {
        let spec = sample::spec(4);
        let record = Record::new(1).vector("zz", vec![1.0]);
        assert!(StoredRow::from_domain(&record, &spec).unwrap_err().to_string().contains("zz"));
        assert!(postcard::from_bytes::<StoredRow>(&[0xff; 40]).is_err());
        let row = StoredRow { key: vec![9], vectors: Vec::new(), payload: Bytes::from_static(&[0]) };
        assert_eq!(row.to_domain(&spec, 1), None);
        assert!(decode_payload(&[0, 0]).is_err(), "trailing bytes");
    }

    #[test]
    fn what_nests_too_deep_is_refused_before_the_stack_ends() {
        // A payload of one field that holds lists in lists: as many as fit a payload of the size that is admitted.
        let nested = |levels: usize| [&[1, 1, b'a'], &[5, 1].repeat(levels)[..], &[0]].concat();
        assert!(decode_payload(&nested(NESTING_MAX)).is_ok());
        for levels in [NESTING_MAX + 1, 500_000] {
            assert!(decode_payload(&nested(levels)).is_err(), "{levels} levels");
        }
        assert!(decode_payload(&nested(NESTING_MAX)).is_ok(), "a refusal leaves nothing behind");
        let negated = |levels: usize| [&[2].repeat(levels)[..], &[7, 1, b'a']].concat();
        assert!(postcard::from_bytes::<Filter>(&negated(NESTING_MAX)).is_ok());
        assert!(postcard::from_bytes::<Filter>(&negated(500_000)).is_err());
    }
}

//! Records encoded for the wire from their stored form: what is only passed on is not built on the way.

use std::collections::BTreeMap;

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::record::{key_to_wire, vector_to_wire};
use crate::record::{Key, Vector};
use crate::refusal::Violation;
use crate::stored::{self, Garbled, Head};
use crate::v1;

/// Field numbers of `Record`, and of the entries of its maps.
mod number {
    pub const KEY: u32 = 1;
    pub const VECTORS: u32 = 2;
    pub const PAYLOAD: u32 = 3;
    pub const VERSION: u32 = 4;
    pub const EXPIRES: u32 = 5;
    pub const NAME: u32 = 1;
    pub const VALUE: u32 = 2;
}

/// What is told of a record.
#[derive(Debug)]
pub struct Told<'a> {
    /// Its key.
    pub key: &'a Key,
    /// Its vectors.
    pub vectors: BTreeMap<String, Vector>,
    /// Its payload in the stored form; none: it is not told.
    pub payload: Option<&'a [u8]>,
    /// Its version.
    pub version: u64,
    /// When it expires.
    pub expires_at_ms: Option<u64>,
}

/// Encodes a record behind what is there: with the fields of its payload that are wanted.
///
/// # Errors
/// If the payload is none, or has more behind its end.
pub fn encode_record(
    told: Told<'_>,
    is_wanted: impl Fn(&str) -> bool,
    out: &mut Vec<u8>,
) -> Result<(), Garbled> {
    prost::encoding::message::encode(number::KEY, &key_to_wire(told.key), out);
    for (name, vector) in told.vectors {
        nested(number::VECTORS, out, |out| {
            encode_name(&name, out);
            prost::encoding::message::encode(number::VALUE, &vector_to_wire(vector), out);
            Ok(())
        })?;
    }
    if let Some(mut at) = told.payload {
        for _ in 0..stored::varint(&mut at)? {
            let name = stored::text(&mut at)?;
            match is_wanted(name) {
                true => nested(number::PAYLOAD, out, |out| encode_entry(name, &mut at, out))?,
                false => stored::step_over(&mut at)?,
            }
        }
        if !at.is_empty() {
            return Err(Garbled);
        }
    }
    if told.version != 0 {
        prost::encoding::uint64::encode(number::VERSION, &told.version, out);
    }
    if let Some(when) = told.expires_at_ms {
        prost::encoding::uint64::encode(number::EXPIRES, &when, out);
    }
    Ok(())
}

/// An encoded record. `field` names its place in messages.
pub fn decode_record(field: &str, record: &[u8]) -> Result<v1::Record, Violation> {
    v1::Record::decode(record).map_err(|_| Violation::new(field, "is no record"))
}

/// The key of an encoded record. `field` names its place in messages.
pub fn key_of_encoded(field: &str, record: &[u8]) -> Result<Key, Violation> {
    let broken = |_| Violation::new(field, "is no record");
    let mut at = record;
    // Encoders write it first; the message that has only it reads no more.
    while !at.is_empty() {
        let (number, kind) = prost::encoding::decode_key(&mut at).map_err(broken)?;
        if number == number::KEY {
            let mut key = v1::Key::default();
            let context = prost::encoding::DecodeContext::default();
            prost::encoding::message::merge(kind, &mut key, &mut at, context).map_err(broken)?;
            return super::key_from_wire(field, Some(key));
        }
        prost::encoding::skip_field(kind, number, &mut at, prost::encoding::DecodeContext::default())
            .map_err(broken)?;
    }
    super::key_from_wire(field, None)
}

fn encode_entry(name: &str, at: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Garbled> {
    encode_name(name, out);
    nested(number::VALUE, out, |out| encode_value(at, stored::LEVELS_MAX, out))
}

/// An empty name is that of an entry without one.
fn encode_name(name: &str, out: &mut Vec<u8>) {
    if !name.is_empty() {
        encode_bytes(number::NAME, name.as_bytes(), out);
    }
}

/// The body of a `Value`.
fn encode_value(at: &mut &[u8], levels: usize, out: &mut Vec<u8>) -> Result<(), Garbled> {
    let levels = levels.checked_sub(1).ok_or(Garbled)?;
    match stored::head(at)? {
        Head::Null => prost::encoding::bool::encode(1, &true, out),
        Head::Bool(truth) => prost::encoding::bool::encode(2, &truth, out),
        Head::Int(whole) => prost::encoding::int64::encode(3, &whole, out),
        Head::Float(float) => prost::encoding::double::encode(4, &float, out),
        Head::Text(text) => encode_bytes(5, text.as_bytes(), out),
        Head::List(count) => nested(6, out, |out| {
            (0..count).try_for_each(|_| nested(1, out, |out| encode_value(at, levels, out)))
        })?,
        Head::Map(count) => nested(7, out, |out| {
            (0..count).try_for_each(|_| {
                let name = stored::text(at)?;
                nested(1, out, |out| {
                    encode_name(name, out);
                    nested(number::VALUE, out, |out| encode_value(at, levels, out))
                })
            })
        })?,
    }
    Ok(())
}

fn encode_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A field with a length that is known once its body is written: it is put before the body then, which moves if the length takes more than
/// a byte.
fn nested(
    number: u32,
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), Garbled>,
) -> Result<(), Garbled> {
    encode_key(number, WireType::LengthDelimited, out);
    let start = out.len();
    out.push(0);
    body(out)?;
    let len = (out.len() - start - 1) as u64;
    match u8::try_from(len) {
        Ok(short) if short < 0x80 => out[start] = short,
        _ => {
            let mut head = Vec::with_capacity(encoded_len_varint(len));
            encode_varint(len, &mut head);
            out.splice(start..=start, head);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::record_to_wire;
    use crate::record::{Payload, Record, Value};

    fn encoded(record: &Record, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<u8>, Garbled> {
        let payload = postcard::to_allocvec(&record.payload).unwrap();
        let (key, vectors, version) = (&record.key, record.vectors.clone(), record.version);
        let expires_at_ms = record.expires_at_ms;
        let told = Told { key, vectors, payload: Some(&payload), version, expires_at_ms };
        // Behind what is there.
        let mut out = vec![7; 3];
        encode_record(told, is_wanted, &mut out)?;
        Ok(out.split_off(3))
    }

    fn deep(levels: usize) -> Value {
        (0..levels).fold(Value::Null, |below, level| match level % 2 {
            0 => Value::List(vec![below, level.to_string().into()]),
            _ => Value::Map(Payload::from([("é".repeat(level), below), (String::new(), 1.into())])),
        })
    }

    fn records() -> Vec<Record> {
        let values = [
            Value::Null,
            true.into(),
            false.into(),
            0.into(),
            (-1).into(),
            i64::MIN.into(),
            i64::MAX.into(),
            (-0.0).into(),
            f64::MIN_POSITIVE.into(),
            "".into(),
            "x".repeat(127).as_str().into(),
            "x".repeat(128).as_str().into(),
            "ü".repeat(20_000).as_str().into(),
            Value::List(vec![]),
            Value::Map(Payload::new()),
            deep(crate::limits::PAYLOAD_DEPTH_MAX),
        ];
        let all: Payload =
            values.iter().enumerate().map(|(n, value)| (n.to_string(), value.clone())).collect();
        let mut records: Vec<Record> = values.map(|value| Record::new(0).field("", value)).into();
        records.push(Record { payload: all, version: 300, expires_at_ms: Some(0), ..Record::new("κ") });
        records.push(Record {
            vectors: BTreeMap::from([
                ("a".to_owned(), Vector::Dense(vec![1.5; 40])),
                ("b".to_owned(), Vector::Sparse(vec![(3, 1.0), (9, -2.0)])),
                (String::new(), Vector::Multi(vec![vec![1.0], vec![2.0]])),
            ]),
            expires_at_ms: Some(u64::MAX),
            version: u64::MAX,
            ..Record::new(u64::MAX)
        });
        records
    }

    #[test]
    fn a_record_is_the_same_bytes_as_if_it_was_built() {
        for record in records() {
            let built = record_to_wire(record.clone()).encode_to_vec();
            assert_eq!(encoded(&record, |_| true).unwrap(), built, "{record:?}");
            assert_eq!(key_of_encoded("record", &built).unwrap(), record.key);
            assert_eq!(decode_record("record", &built).unwrap(), record_to_wire(record.clone()));
            let odd = |name: &str| name.len() % 2 == 1;
            let mut cut = record.clone();
            cut.payload.retain(|name, _| odd(name));
            assert_eq!(encoded(&record, odd).unwrap(), record_to_wire(cut).encode_to_vec());
        }
    }

    #[test]
    fn garbled_payloads_are_refused_and_none_panics() {
        let record = records().swap_remove(16);
        let payload = postcard::to_allocvec(&record.payload).unwrap();
        fn told<'a>(key: &'a Key, payload: &'a [u8]) -> Told<'a> {
            Told { key, vectors: BTreeMap::new(), payload: Some(payload), version: 1, expires_at_ms: None }
        }
        let key = &record.key;
        for cut in (0..payload.len()).step_by(7) {
            for is_wanted in [true, false] {
                assert_eq!(
                    encode_record(told(key, &payload[..cut]), |_| is_wanted, &mut vec![]),
                    Err(Garbled)
                );
            }
        }
        let longer = [&payload[..], &[0]].concat();
        assert_eq!(encode_record(told(key, &longer), |_| true, &mut vec![]), Err(Garbled));
        for place in (0..payload.len()).step_by(3) {
            let mut flipped = payload.clone();
            flipped[place] ^= 0x85;
            let _ = encode_record(told(key, &flipped), |name| name.len() < 2, &mut vec![]);
        }
        let deeper = postcard::to_allocvec(&Payload::from([("a".to_owned(), deep(80))])).unwrap();
        for is_wanted in [true, false] {
            assert_eq!(encode_record(told(key, &deeper), |_| is_wanted, &mut vec![]), Err(Garbled));
        }
    }

    #[test]
    fn what_is_no_record_has_no_key() {
        let keyless = v1::Record { version: 3, ..Default::default() }.encode_to_vec();
        for bytes in [&keyless[..], &[], &[0x0a, 0x05, 0x01], &[0xff]] {
            assert!(key_of_encoded("record", bytes).is_err(), "{bytes:?}");
        }
        assert!(decode_record("record", &[0x0a, 0x05, 0x01]).is_err());
        // What a future encoder may write before the key.
        let mut late = keyless.clone();
        late.extend(
            v1::Record { key: Some(key_to_wire(&Key::Number(7))), ..Default::default() }.encode_to_vec(),
        );
        assert_eq!(key_of_encoded("record", &late).unwrap(), Key::Number(7));
    }
}

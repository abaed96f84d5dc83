//! Judging a stored payload by a filter without decoding more of it than the filter names.
//!
//! A leaf of a filter looks at one top-level field, so the rest of a payload is stepped over byte by byte: no
//! allocation, no text copied. What the filter means stays in one place ([`Compiled::matches`]); this only hands it
//! a payload cut down to the fields that it can see.

use std::collections::BTreeSet;

use flotilla_proto::filter::Compiled;
use flotilla_proto::record::{Key, Payload, Value};
use flotilla_proto::stored::{self, Garbled};

use super::row::split_expiry;

/// A filter and what it needs to see of a record.
pub(super) struct Glimpse<'a> {
    filter: &'a Compiled,
    fields: BTreeSet<&'a str>,
    has_keys: bool,
}

impl<'a> Glimpse<'a> {
    /// What `filter` needs.
    pub fn of(filter: &'a Compiled) -> Glimpse<'a> {
        let mut glimpse = Glimpse { filter, fields: BTreeSet::new(), has_keys: false };
        glimpse.collect(filter);
        glimpse
    }

    fn collect(&mut self, filter: &'a Compiled) {
        match filter {
            Compiled::All(parts) | Compiled::Any(parts) => parts.iter().for_each(|part| self.collect(part)),
            Compiled::Not(part) => self.collect(part),
            Compiled::Leaf(leaf) => self.fields.extend(leaf.path.first().map(String::as_str)),
            Compiled::Keys(_) => self.has_keys = true,
        }
    }

    /// Whether the record passes.
    pub fn matches(&self, key: &[u8], payload: &[u8]) -> Result<bool, Garbled> {
        let key = if self.has_keys { Key::from_bytes(key).ok_or(Garbled)? } else { Key::Number(0) };
        Ok(self.filter.matches(&key, &self.fields(payload)?))
    }

    /// The payload, of the wanted fields only.
    fn fields(&self, bytes: &[u8]) -> Result<Payload, Garbled> {
        if self.fields.is_empty() {
            Ok(Payload::new())
        } else {
            cut(bytes, |name| self.fields.contains(name))
        }
    }
}

/// The payload, of the fields with a wanted name only.
pub(super) fn cut(bytes: &[u8], is_wanted: impl Fn(&str) -> bool) -> Result<Payload, Garbled> {
    let mut seen = Payload::new();
    let mut at = split_expiry(bytes).1;
    for _ in 0..stored::varint(&mut at)? {
        let name = stored::text(&mut at)?;
        if is_wanted(name) {
            let (value, rest) = postcard::take_from_bytes::<Value>(at).map_err(|_| Garbled)?;
            seen.insert(name.to_owned(), value);
            at = rest;
        } else {
            stored::step_over(&mut at)?;
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use flotilla_proto::filter::Filter;

    use super::*;
    use crate::storage::row::encode_payload;
    use crate::storage::sample;

    #[test]
    fn agrees_with_the_whole_payload() {
        let spec = sample::spec(4);
        let mut dice = sample::Dice::new(11);
        for round in 0..400 {
            let payload = sample::payload(&mut dice);
            let filter = Compiled::new(&sample::filter(&mut dice, 3), &spec).unwrap();
            let (key, bytes) = (Key::Number(round % 7), encode_payload(&payload).unwrap());
            let got = Glimpse::of(&filter).matches(&key.to_bytes(), &bytes);
            assert_eq!(got, Ok(filter.matches(&key, &payload)), "{payload:?} {filter:?}");
        }
    }

    #[test]
    fn every_cut_is_noticed_and_none_panics() {
        let spec = sample::spec(4);
        let payload = Payload::from([
            ("a".into(), Value::List(vec![Value::Null, 1.5.into(), "x".into(), true.into()])),
            ("b".into(), Value::Map(Payload::from([("c".into(), 300.into())]))),
            ("z".into(), 1.into()),
        ]);
        let bytes = encode_payload(&payload).unwrap();
        let filter = Compiled::new(&Filter::Exists("z".into()), &spec).unwrap();
        let glimpse = Glimpse::of(&filter);
        let key = Key::Number(1).to_bytes();
        assert_eq!(glimpse.matches(&key, &bytes), Ok(true));
        for cut in 0..bytes.len() {
            assert_eq!(glimpse.matches(&key, &bytes[..cut]), Err(Garbled));
        }
        for place in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[place] ^= 0x81;
            let _ = glimpse.matches(&key, &flipped);
        }
    }
}

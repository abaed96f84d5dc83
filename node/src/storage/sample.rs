//! Seeded records, payloads and filters for this layer's tests.

use std::collections::BTreeMap;

use flotilla_proto::filter::{Bounds, Filter};
use flotilla_proto::record::{Key, Payload, Record, Value};
use flotilla_proto::schema::{CollectionSpec, Distance, FieldType, Hnsw, IndexKind, VectorSpec};

/// A seeded source of choices (splitmix64): the same for ever, since kept fixtures were made with it.
pub(crate) struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Between -1 and 1.
    pub fn floats(&mut self, dims: usize) -> Vec<f32> {
        (0..dims).map(|_| (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
    }
}

/// A collection with a cosine vector `a` of these dims, a scanned one `b`, a few declared fields and room for others.
pub(super) fn spec(dims: u32) -> CollectionSpec {
    let hnsw = IndexKind::Hnsw(Hnsw { m: 8, ef_construction: 60, ef_search: 60 });
    let a = VectorSpec::new(dims, Distance::Cosine, hnsw);
    let b = VectorSpec::new(2, Distance::Euclidean, IndexKind::Flat);
    let fields = [("n", FieldType::Integer), ("t", FieldType::Keyword), ("deep.x", FieldType::Float)];
    CollectionSpec {
        name: "c".into(),
        vectors: BTreeMap::from([("a".into(), a), ("b".into(), b)]),
        fields: fields.map(|(path, kind)| (path.to_owned(), kind)).into(),
        partitions: 1,
        strict: false,
        ..Default::default()
    }
}

/// One of `keys` keys, half of them text.
pub(super) fn key(dice: &mut Dice, keys: usize) -> Key {
    match dice.below(keys) {
        n if n.is_multiple_of(2) => Key::Number(n as u64),
        n => Key::Text(format!("key-{n}")),
    }
}

pub(super) fn payload(dice: &mut Dice) -> Payload {
    let mut payload = Payload::new();
    if !dice.one_in(4) {
        payload.insert("n".into(), Value::Int(dice.below(10) as i64));
    }
    if !dice.one_in(4) {
        let word = |dice: &mut Dice| Value::Text(["ab", "abc", "b", "c"][dice.below(4)].into());
        let words = Value::List((0..dice.below(3)).map(|_| word(dice)).collect());
        let value = if dice.one_in(3) { words } else { word(dice) };
        payload.insert("t".into(), value);
    }
    if dice.one_in(2) {
        let x = Value::Float(dice.below(8) as f64 / 2.0);
        payload.insert("deep".into(), Value::Map(Payload::from([("x".into(), x)])));
    }
    if dice.one_in(2) {
        payload.insert("free".into(), if dice.one_in(2) { Value::Null } else { Value::Bool(dice.one_in(2)) });
    }
    payload
}

pub(super) fn filter(dice: &mut Dice, depth: usize) -> Filter {
    if depth > 0 && dice.one_in(2) {
        let parts = (0..=dice.below(3)).map(|_| filter(dice, depth - 1)).collect();
        return match dice.below(3) {
            0 => Filter::All(parts),
            1 => Filter::Any(parts),
            _ => Filter::Not(Box::new(filter(dice, depth - 1))),
        };
    }
    let int = |dice: &mut Dice| Value::Int(dice.below(10) as i64);
    match dice.below(8) {
        0 => Filter::Equal("n".into(), int(dice)),
        1 => Filter::In("t".into(), vec!["ab".into(), "c".into()]),
        2 => Filter::Range("n".into(), Bounds { gte: Some(int(dice)), ..Bounds::default() }),
        3 => Filter::Prefix("t".into(), "ab".into()),
        4 => Filter::Exists(["free", "t", "deep"][dice.below(3)].into()),
        5 => Filter::Glob("t".into(), ["?", "*b", "a*c", "a?*"][dice.below(4)].into()),
        6 => Filter::Range("deep.x".into(), Bounds { lt: Some(Value::Float(2.0)), ..Bounds::default() }),
        _ => Filter::Keys((0..4).map(|_| key(dice, 40)).collect()),
    }
}

/// A record with any of its vectors missing at times.
pub(super) fn record(dice: &mut Dice, key: Key, dims: usize) -> Record {
    let mut record = Record::new(key);
    record.payload = payload(dice);
    if !dice.one_in(5) {
        record = record.vector("a", dice.floats(dims));
    }
    if dice.one_in(2) {
        record = record.vector("b", dice.floats(2));
    }
    record
}

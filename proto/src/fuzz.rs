//! The door for fuzzing of what comes over the wire: decoded, turned into the domain's shape, checked, and used.
//!
//! Compiled for tests and under the feature `fuzz` only. A door takes any bytes and panics if the promise is broken; the
//! targets in `tests/fuzz` call it, and so does the replay of their corpora below.

use std::fmt::Debug;

use prost::Message;

use crate::convert::*;
use crate::filter::{Compiled, Filter, text};
use crate::fulltext::Language;
use crate::limits::FILTER_TEXT_BYTES_MAX;
use crate::placement::CollectionPlacement;
use crate::record::{Key, Record, Value};
use crate::refusal::Violation;
use crate::schema::{CollectionSpec, Distance, FieldType, Hnsw, IndexKind, VectorSpec};
use crate::{peer, shard, v1};

/// Messages that [`wire`] knows: the first byte says which.
const MESSAGES: u8 = 26;

/// The first byte names a message, the others are the message as a stranger might send it.
///
/// **Promise.** Whatever the bytes are: a violation or a value, no panic. A value goes back to the wire and comes again as
/// the same value. A record that its collection admits has a key that reads back from its stored form; a filter that
/// compiles holds exactly where its negation does not; a collection that is admitted has a partition for each key,
/// and that partition's area holds it.
pub fn wire(bytes: &[u8]) {
    let Some((kind, message)) = bytes.split_first() else { return };
    match kind % MESSAGES {
        0 => record(message),
        1 => filter(message),
        2 => spec(message),
        3 => placement(message),
        4 => drop(comes_back(message, map_from_wire, map_to_wire)),
        5 => drop(comes_back(message, node_from_wire, node_to_wire)),
        6 => same::<v1::UpsertRequest>(message),
        7 => same::<v1::GetRequest>(message),
        8 => same::<v1::DeleteRequest>(message),
        9 => same::<v1::ScanRequest>(message),
        10 => same::<v1::CountRequest>(message),
        11 => same::<v1::SearchRequest>(message),
        12 => same::<v1::SearchResponse>(message),
        13 => same::<v1::UpdateCollectionRequest>(message),
        14 => same::<v1::PlanRequest>(message),
        15 => same::<v1::ControlRequest>(message),
        16 => same::<shard::WriteRequest>(message),
        17 => same::<shard::SearchResponse>(message),
        18 => same::<shard::ImportRequest>(message),
        19 => same::<peer::Appends>(message),
        20 => same::<peer::SnapshotOffer>(message),
        21 => same::<peer::SnapshotPiece>(message),
        22 => same::<peer::JoinRequest>(message),
        23 => same::<peer::StatusResponse>(message),
        24 => weigh(message),
        _ => text(message),
    }
}

/// A message that decodes says the same after it was encoded.
fn same<W: Message + Default + Debug>(bytes: &[u8]) {
    if let Ok(message) = W::decode(bytes) {
        let again = W::decode(message.encode_to_vec().as_slice());
        assert_eq!(again.map(|again| format!("{again:?}")), Ok(format!("{message:?}")));
    }
}

/// The value of a message, if it is one; it goes to the wire and comes back the same. Compared as text, in which NaN
/// equals itself.
fn comes_back<W: Message + Default, D: Debug>(
    bytes: &[u8],
    from_wire: impl Fn(W) -> Result<D, Violation>,
    to_wire: impl Fn(&D) -> W,
) -> Option<D> {
    let value = from_wire(W::decode(bytes).ok()?).ok()?;
    let sent = to_wire(&value).encode_to_vec();
    let again = W::decode(sent.as_slice()).map(&from_wire);
    assert_eq!(again.map(|again| format!("{again:?}")), Ok(format!("{:?}", Ok::<_, Violation>(&value))));
    Some(value)
}

/// A collection with a vector and a field of each type.
fn collection() -> CollectionSpec {
    let vector = VectorSpec::new(2, Distance::Cosine, IndexKind::Hnsw(Hnsw::default()));
    let fields = [
        ("k", FieldType::Keyword),
        ("i", FieldType::Integer),
        ("f.x", FieldType::Float),
        ("b", FieldType::Bool),
        ("d", FieldType::Datetime),
        ("t", FieldType::Text),
        ("u", FieldType::Uuid),
        ("g", FieldType::Geo),
        ("e", FieldType::TextIn(Language::English)),
    ];
    CollectionSpec {
        name: "c".into(),
        vectors: [("v".to_owned(), vector)].into(),
        fields: fields.map(|(path, kind)| (path.to_owned(), kind)).into(),
        partitions: 4,
        ..Default::default()
    }
}

/// What a router asks of words.
fn weigh(bytes: &[u8]) {
    same::<shard::WeighRequest>(bytes);
    let Ok(ask) = shard::WeighRequest::decode(bytes) else { return };
    let kin = kin_from_wire("kin", ask.kin);
    let clauses = clauses_from_wire("clauses", ask.clauses);
    for kin in kin.iter().flatten() {
        assert_eq!(kin.edits_to(kin.word()), Some(0));
    }
    if let Ok(clauses) = clauses {
        let sent = clauses.iter().map(clause_to_wire).collect();
        assert_eq!(clauses_from_wire("clauses", sent), Ok(clauses));
    }
}

/// What a user asks of words: those of an admitted query find themselves.
fn text(bytes: &[u8]) {
    let Ok(query) = v1::TextQuery::decode(bytes) else { return };
    if let Ok(checked) = text_query_from_wire(&query, &collection()) {
        assert!(!checked.words.is_empty());
        assert!(checked.words.iter().all(|kin| kin.edits_to(kin.word()) == Some(0)));
    }
}

fn record(bytes: &[u8]) {
    let from_wire = |wire| record_from_wire("record", wire);
    let Some(record) = comes_back(bytes, from_wire, |record: &Record| record_to_wire(record.clone())) else {
        return;
    };
    if collection().check_record("record", &record).is_ok() {
        assert_eq!(Key::from_bytes(&record.key.to_bytes()).as_ref(), Some(&record.key));
        assert!(record.vectors.values().flat_map(|v| v.dense()).flatten().all(|x| x.is_finite()));
    }
}

/// Records that a filter is tried on.
fn samples() -> [Record; 3] {
    let nested = Value::Map([("x".to_owned(), Value::Float(2.5))].into());
    let day = "2026-11-21T12:00:00Z";
    let full = Record::new("key").field("k", "ab").field("i", 7).field("f", nested).field("b", true);
    let lists = Value::List(vec![Value::Int(1), Value::Null, Value::Text("ab".into()), Value::List(vec![])]);
    let point = Value::List(vec![13.4.into(), 52.5.into()]);
    let full = full.field("u", "0191d2a47b3c7def8abc0123456789ab").field("g", point).field("e", "words run");
    [full.field("d", day).field("t", "some text"), Record::new(7).field("k", lists), Record::new(0)]
}

fn filter(bytes: &[u8]) {
    let Some(filter) = comes_back(bytes, filter_from_wire, filter_to_wire) else { return };
    let spec = collection();
    let Ok(compiled) = Compiled::new(&filter, &spec) else { return };
    let negated = Compiled::Not(Box::new(compiled.clone()));
    for record in samples() {
        let holds = compiled.matches(&record.key, &record.payload);
        assert_eq!(negated.matches(&record.key, &record.payload), !holds);
    }
    // One level more or one condition more may be too many; nothing else of it may be wrong.
    let twice = Filter::Not(Box::new(Filter::Not(Box::new(filter))));
    if let Ok(twice) = Compiled::new(&twice, &spec) {
        let agree = |r: Record| twice.matches(&r.key, &r.payload) == compiled.matches(&r.key, &r.payload);
        assert!(samples().into_iter().all(agree));
    }
}

/// What may be a filter as text.
///
/// **Promise.** It is read, or the error names a line and a column of the text and draws them, without a panic. What is read is
/// written as text that reads the same, goes over the wire and comes back the same, and is never too large for a
/// collection.
pub fn filter_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let filter = match text::parse(&text) {
        Ok(filter) => filter,
        Err(why) => {
            let line = text.split('\n').nth(why.line - 1).map(|line| line.chars().count());
            assert!(line.is_some_and(|chars| (1..=chars + 1).contains(&why.column)), "{why}");
            assert_eq!(why.picture(&text).split('\n').count(), 2);
            return;
        }
    };
    let written = text::print(&filter);
    if written.len() <= FILTER_TEXT_BYTES_MAX {
        assert_eq!(format!("{:?}", text::parse(&written)), format!("{:?}", Ok::<_, Violation>(&filter)));
    }
    let back = filter_from_wire(filter_to_wire(&filter));
    assert_eq!(format!("{back:?}"), format!("{:?}", Ok::<_, Violation>(&filter)));
    if let Err(why) = Compiled::new(&filter, &CollectionSpec::default()) {
        assert!(!why.description.contains("limit"), "{why}");
    }
}

fn spec(bytes: &[u8]) {
    let Some(spec) = comes_back(bytes, spec_from_wire, spec_to_wire) else { return };
    if spec.check().is_ok() {
        let slots = spec.strategy.slots();
        assert!(samples().iter().all(|record| spec.strategy.slot(&record.key) < slots));
        assert!(spec.partitions as usize <= slots);
        samples().iter().for_each(|record| drop(spec.check_record("record", record)));
    }
}

fn placement(bytes: &[u8]) {
    let Some(placement) = comes_back(bytes, placement_from_wire, placement_to_wire) else { return };
    let CollectionPlacement { spec, partitions, .. } = &placement;
    let mut ids: Vec<_> = partitions.iter().map(|partition| partition.id).collect();
    ids.sort_unstable();
    ids.dedup();
    partitions.iter().for_each(|partition| drop((partition.wanted(), partition.holders().count())));
    let moving = placement.moving();
    if spec.check().is_ok() && ids.len() == partitions.len() {
        for Record { key, .. } in samples() {
            let owner = placement.partition_of(&key).map(|partition| partition.id);
            assert!(owner.is_some(), "no partition owns {key}");
            let area = placement.area(owner.unwrap_or_default());
            assert!(area.contains(&key.to_bytes()), "{key} in {area:?}");
            assert_eq!(area.without(&moving).contains(&key.to_bytes()), !moving.contains(&key.to_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use flotilla_tests::replay::{keep, replay};

    use super::*;

    #[test]
    fn the_corpus_of_wire_holds() {
        replay("wire", 4_000, wire);
    }

    #[test]
    fn the_corpus_of_filter_text_holds() {
        replay("filter_text", 4_000, filter_text);
    }

    #[test]
    #[ignore = "writes the corpus anew"]
    fn seeds_of_filter_text() {
        for (n, text) in [
            r#"power_state = "on" and cpu >= 8 and name ~ "web*""#,
            "not (a != -1.5e3 or `b c`.0 not in (1, 'x', true)) and 8 <= cpu < 64 and load between 0 and 1",
            r"name !~ 'w\*\u{e4}?\\' or owner is null",
            "key in (1, \"a\") or exists b\n  and key != 7 or false",
            "a == (\"",
            "within(at.`b c`, 52.5, -13, 1e3) or not within_box(at, 10, 170, -10, -170.5) and within = 1",
        ]
        .iter()
        .enumerate()
        {
            keep("filter_text", &format!("seed-{n}"), text.as_bytes());
        }
    }

    #[test]
    #[ignore = "writes the corpus anew"]
    fn seeds() {
        let vector = [("v".to_owned(), v1::Vector { values: vec![0.6, 0.8], ..Default::default() })];
        let [full, lists, _] = samples();
        let mut records = [record_to_wire(full), record_to_wire(lists)];
        records[0].vectors = vector.clone().into();
        let seed = |name: &str, kind: u8, message: &dyn Fn() -> Vec<u8>| {
            keep("wire", &format!("seed-{name}"), &[vec![kind], message()].concat());
        };
        seed("record", 0, &|| records[0].encode_to_vec());
        seed("lists", 0, &|| records[1].encode_to_vec());
        let field = |f: &str| f.to_owned();
        let range = crate::filter::Bounds { gt: Some(1.into()), lte: Some(2.5.into()), ..Default::default() };
        let filter = Filter::All(vec![
            Filter::Any(vec![Filter::Equal(field("b"), true.into()), Filter::Exists(field("f.x"))]),
            Filter::Not(Box::new(Filter::In(field("k"), vec!["ab".into(), "c".into()]))),
            Filter::Range(field("i"), range),
            Filter::Equal(field("d"), "2026-11-21T13:00:00+01:00".into()),
            Filter::Prefix(field("t"), "some".into()),
            Filter::Glob(field("k"), "a*\\?".into()),
            Filter::Keys(vec![7.into(), "key".into()]),
            Filter::Match { field: field("t"), query: "some words".into(), any: true },
            Filter::Phrase(field("t"), "some text".into()),
            Filter::Equal(field("u"), "{0191D2A4-7B3C-7DEF-8ABC-0123456789AB}".into()),
            Filter::Match { field: field("e"), query: "running words".into(), any: false },
            Filter::Within { field: field("g"), lat: 52.5, lon: 13.4, radius_m: 1e3 },
            Filter::WithinBox { field: field("g"), top: 1.0, left: 170.0, bottom: -1.0, right: -170.0 },
        ]);
        let filter = filter_to_wire(&filter);
        seed("filter", 1, &|| filter.encode_to_vec());
        let mut spec = collection();
        seed("spec", 2, &|| spec_to_wire(&spec).encode_to_vec());
        let one = |id: u64| {
            crate::placement::Partition::new(crate::ids::PartitionId(id), vec![crate::ids::NodeId(1)])
        };
        spec.strategy = crate::schema::Strategy::Range { splits: vec![5.into(), "a".into(), "k".into()] };
        let ranges = CollectionPlacement {
            id: crate::ids::CollectionId::from_u128(7),
            spec,
            epoch: crate::ids::Epoch(3),
            partitions: (1..=4).map(one).collect(),
            slots: vec![0, 1, 2, 3],
            slot_move: Some(crate::placement::SlotMove {
                id: 9,
                from: crate::ids::PartitionId(1),
                to: crate::ids::PartitionId(2),
                slots: vec![0],
            }),
            replaces: Default::default(),
            tenancy: None,
        };
        seed("placement", 3, &|| placement_to_wire(&ranges).encode_to_vec());
        let node = crate::placement::Node::new(
            crate::ids::NodeId(1),
            uuid::Uuid::from_u128(5),
            "http://127.0.0.1:1",
        );
        let map = crate::placement::PlacementMap {
            epoch: crate::ids::Epoch(4),
            nodes: vec![node.clone()],
            collections: vec![ranges],
            meta: vec![crate::ids::NodeId(1)],
        };
        seed("map", 4, &|| map_to_wire(&map).encode_to_vec());
        seed("node", 5, &|| node_to_wire(&node).encode_to_vec());
        let upsert =
            v1::UpsertRequest { collection: "c".into(), records: records.into(), ..Default::default() };
        seed("upsert", 6, &|| upsert.encode_to_vec());
        let search = v1::SearchRequest {
            collection: "c".into(),
            vector: Some(vector[0].1.clone()),
            filter: Some(filter),
            limit: Some(3),
            ..Default::default()
        };
        seed("search", 11, &|| search.encode_to_vec());
        let kin = shard::TextKin { word: "so".into(), prefix: true, edits: 1 };
        let term = shard::TextTerm { word: "some".into(), edits: 1 };
        let clauses = vec![shard::TextClause { terms: vec![term], weight: 0.5 }];
        let ask = shard::WeighRequest { field: "t".into(), kin: vec![kin], clauses, ..Default::default() };
        seed("weigh", 24, &|| ask.encode_to_vec());
        let query = v1::TextQuery { field: "t".into(), query: "some te".into(), ..Default::default() };
        let query = v1::TextQuery { prefix_last: true, fuzzy_edits: 2, ..query };
        seed("text", 25, &|| query.encode_to_vec());
        let file = peer::SnapshotFile { path: "MANIFEST".into(), bytes: 70, crc: 9 };
        let offer = peer::SnapshotOffer { files: vec![file], ..Default::default() };
        seed("offer", 20, &|| offer.encode_to_vec());
        let piece =
            peer::SnapshotPiece { bytes: b"piece".as_slice().into(), offset: 4, ..Default::default() };
        seed("piece", 21, &|| piece.encode_to_vec());
    }
}

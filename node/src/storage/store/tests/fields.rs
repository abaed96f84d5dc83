//! Fields of uuid, geo and text of a language, declared after some rows were sealed: the same rows pass before and after the
//! segments are written anew, and in a store that is opened again.

use flotilla_proto::filter::Filter;
use flotilla_proto::fulltext::Language;
use flotilla_proto::record::{Payload, Value};
use flotilla_proto::schema::FieldType;

use super::*;

fn declared() -> Arc<CollectionSpec> {
    let mut spec = sample::spec(DIMS as u32);
    let fields = [
        ("id", FieldType::Uuid),
        ("at", FieldType::Geo),
        ("said", FieldType::TextIn(Language::English)),
        ("prose", FieldType::Text),
    ];
    spec.fields.extend(fields.map(|(path, kind)| (path.to_owned(), kind)));
    Arc::new(spec)
}

fn filters() -> Vec<Filter> {
    let words =
        |field: &str, query: &str, any| Filter::Match { field: field.into(), query: query.into(), any };
    let id = "0000000a-0000-0000-0000-000000000000";
    vec![
        Filter::Equal("id".into(), id.into()),
        Filter::In(
            "id".into(),
            vec![id.replace('-', "").into(), "{00000005-0000-0000-0000-000000000000}".into()],
        ),
        Filter::Prefix("id".into(), "0000000".into()),
        Filter::Within { field: "at".into(), lat: 0.0, lon: 179.0, radius_m: 1e6 },
        Filter::WithinBox { field: "at".into(), top: 5.0, left: 170.0, bottom: -5.0, right: -170.0 },
        words("said", "run connection", false),
        words("said", "runs upload", true),
        Filter::Phrase("said".into(), "host running".into()),
        Filter::Prefix("said".into(), "Hosts".into()),
        words("prose", "running", true),
        Filter::Not(Box::new(Filter::Exists("at".into()))),
    ]
}

/// Rows as somebody may have written them before the fields were declared; some of them fit.
fn record(dice: &mut Dice, key: u64) -> Record {
    let id = |dice: &mut Dice| {
        let plain = format!("{:08X}000000000000000000000000", dice.below(20));
        match dice.below(4) {
            0 => Value::from(plain),
            1 => Value::from(format!("{{{plain}}}")),
            2 => Value::from("0000000a"),
            _ => Value::Int(10),
        }
    };
    let at = |dice: &mut Dice| {
        let (lat, lon) = (dice.below(20) as i64 - 10, dice.below(50) as i64 + 155);
        let lon = if lon > 180 { lon - 360 } else { lon };
        match dice.below(5) {
            0 => Value::Map(Payload::from([("lat".into(), lat.into()), ("lon".into(), lon.into())])),
            1 => Value::List(vec![lon.into(), lat.into()]),
            2 => Value::List(vec![
                Value::List(vec![lon.into(), lat.into()]),
                Value::List(vec![0.into(), 0.into()]),
            ]),
            3 => Value::List(vec![lon.into(), 91.into()]),
            _ => Value::Null,
        }
    };
    let said = |dice: &mut Dice| {
        let words = ["Hosts", "run", "running", "connected", "connections", "uploads", "7"];
        let words: Vec<&str> = (0..dice.below(6)).map(|_| words[dice.below(words.len())]).collect();
        Value::from(words.join(" "))
    };
    let mut record = Record::new(key);
    let values = [("id", id(dice)), ("at", at(dice)), ("said", said(dice)), ("prose", said(dice))];
    for (name, value) in values {
        if !dice.one_in(6) {
            record.payload.insert(name.to_owned(), value);
        }
    }
    record
}

fn check(store: &Store, records: &[Record]) {
    for filter in filters() {
        let filter = Compiled::new(&filter, &declared()).unwrap();
        let expected = records.iter().filter(|record| filter.matches(&record.key, &record.payload)).count();
        let found: usize = matching(&store.view(), &filter).iter().map(|rows| rows.count()).sum();
        assert_eq!(found, expected, "{filter:?}");
    }
}

/// Format versions of the segments' headers.
fn formats(dir: &Path) -> Vec<u32> {
    let names =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let format = |name: String| {
        let header = std::fs::read(dir.join(name).join("SEGMENT")).unwrap();
        u32::from_le_bytes(header[8..12].try_into().unwrap())
    };
    names.filter(|name| name.starts_with("seg-")).map(format).collect()
}

#[test]
fn fields_of_later_types_mean_the_same_in_old_segments_and_in_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut dice = Dice::new(8);
    let mut records = Vec::new();
    for index in 1..=3_u64 {
        let more: Vec<Record> = (0..120).map(|n| record(&mut dice, index * 1_000 + n)).collect();
        store.upsert(index, rows(&more)).unwrap();
        store.publish(index);
        records.extend(more);
        if index < 3 {
            assert!(store.freeze(index, Vec::new()));
            store.seal().unwrap();
        }
        if index == 1 {
            assert_eq!(formats(dir.path()), [1]);
            store.set_spec(declared());
        }
    }
    check(&store, &records);
    assert_eq!(store.status().stale_records, 120);
    while store.compact(&Progress::new()).unwrap() {}
    assert_eq!(store.status().stale_records, 0);
    check(&store, &records);
    assert!(store.freeze(3, Vec::new()));
    store.seal().unwrap();
    check(&store, &records);
    assert!(formats(dir.path()).contains(&4), "what earlier programs cannot read says so");
    store.verify().unwrap();
    drop(store);
    let store = Store::open(dir.path(), declared(), options()).unwrap().0;
    check(&store, &records);
}

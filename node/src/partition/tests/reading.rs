//! What is read of a record is what was asked for of what was written, sealed or growing.

use flotilla_proto::convert::{decode_record, record_to_wire};
use flotilla_proto::record::{Payload, Record, Value};

use super::super::house::*;
use super::super::*;

fn record(key: u64) -> Record {
    let map =
        |fields: [(&str, Value); 2]| Payload::from(fields.map(|(name, value)| (name.to_owned(), value)));
    let disks = (0..key % 4)
        .map(|n| Value::Map(map([("size", (n as i64).into()), ("name", "é".repeat(90).as_str().into())])));
    let record = Record::new(key).vector("default", vec![0.6, 0.8]).field("name", format!("vm-{key}"));
    let record = record.field("disks", Value::List(disks.collect())).field("on", key.is_multiple_of(2));
    match key % 3 {
        0 => record.field("note", Value::Null).expires_at(flotilla_proto::limits::EXPIRES_AT_MS_MAX),
        1 => record.field("load", -0.5),
        _ => record,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_comes_with_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), 1).await;
    let replica = house.replica(1).await.unwrap();
    let first: Vec<u64> = (0..130).collect();
    for keys in first.chunks(65) {
        replica
            .write(None, Write::Upsert(keys.iter().map(|key| record(*key)).collect()), &whole())
            .await
            .unwrap();
    }
    let sealed = flotilla_tests::wait::eventually("rows are sealed", SOON, async || {
        let segments = replica.store.view();
        segments.segments().any(|segment| segment.identity().is_some()).then_some(())
    });
    sealed.await.unwrap();
    replica.write(None, Write::Upsert((130..150).map(record).collect()), &whole()).await.unwrap();

    let fields = |paths: &[&str]| {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        Projection::new(&paths).unwrap()
    };
    let asked = [
        Parts::default(),
        Parts { payload: true, vectors: true, fields: None },
        Parts { payload: true, vectors: false, fields: fields(&["name", "note", "none"]) },
        Parts { payload: true, vectors: false, fields: fields(&["disks.size", "on"]) },
    ];
    for parts in asked {
        let keys: Vec<u64> = (0..150).rev().collect();
        let wanted = keys.iter().map(|key| Key::Number(*key)).collect();
        let (records, _) = replica.get(wanted, parts.clone(), 0, FRESH, &whole()).await.unwrap();
        assert_eq!(records.len(), keys.len());
        for (key, bytes) in keys.into_iter().zip(records) {
            let got = decode_record("record", &bytes).unwrap();
            assert!(got.version > 0);
            let mut meant = Record { version: got.version, ..record(key) };
            if !parts.vectors {
                meant.vectors.clear();
            }
            meant.payload = match (&parts.fields, parts.payload) {
                (_, false) => Payload::new(),
                (None, true) => meant.payload,
                (Some(fields), true) => fields.of(meant.payload),
            };
            assert_eq!(got, record_to_wire(meant), "{parts:?}");
        }
    }
    drop(replica);
    house.close().await;
}

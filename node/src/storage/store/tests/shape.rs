//! Small and odd shapes of data.

use flotilla_proto::filter::Filter;
use flotilla_proto::record::Payload;
use flotilla_proto::schema::FieldType;

use super::*;

#[test]
fn nothing_is_a_state_too() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    assert!(store.view().is_empty() && store.view().find(&1.into()).unwrap().is_none());
    assert!(!store.freeze(0, Vec::new()), "nothing was applied");
    assert_eq!(store.seal().unwrap(), None);
    assert_eq!(store.upsert(1, Vec::new()).unwrap(), 0);
    assert_eq!(store.delete(2, &[7.into()]).unwrap(), 0);
    store.publish(2);
    assert!(store.freeze(2, b"m".to_vec()));
    assert!(!store.freeze(2, b"m".to_vec()), "frozen already");
    assert_eq!(store.seal().unwrap(), Some(2));
    assert_eq!(store.durable_index(), 2);
    assert!(!store.compact(&Progress::new()).unwrap() && !store.build_graph(&Progress::new()).unwrap());
    drop(store);
    assert_eq!(open(dir.path()).1, Restored { applied: 2, machine: b"m".to_vec() });
}

#[test]
fn only_deletions_reach_the_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let record = Record::new(1).field("n", 1);
    store.upsert(1, rows(&[record.clone(), Record { key: 2.into(), ..record }])).unwrap();
    store.publish(1);
    assert!(store.freeze(1, Vec::new()));
    assert_eq!(store.seal().unwrap(), Some(1));
    assert_eq!(store.delete(2, &[1.into(), 1.into()]).unwrap(), 1);
    store.publish(2);
    assert!(store.freeze(2, Vec::new()));
    assert_eq!(store.seal().unwrap(), Some(2));
    drop(store);
    let (store, _) = open(dir.path());
    let view = store.view();
    assert_eq!((view.live(), view.find(&1.into()).unwrap()), (1, None));
    assert!(view.find(&2.into()).unwrap().is_some());
    // The dead half is worth a rewrite; the last row dead, the segment goes.
    assert!(store.compact(&Progress::new()).unwrap());
    assert_eq!(store.view().segment(0).unwrap().rows(), 1);
    store.delete(3, &[2.into()]).unwrap();
    store.publish(3);
    assert!(!store.compact(&Progress::new()).unwrap(), "not durable yet: replay would find it alive");
    assert!(store.freeze(3, Vec::new()));
    store.seal().unwrap();
    assert!(store.compact(&Progress::new()).unwrap());
    assert!(store.view().is_empty());
    assert_eq!(store.status().disk_bytes, 0);
}

#[test]
fn the_last_row_of_a_key_in_a_batch_wins() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let batch = [Record::new(1).field("n", 1), Record::new(2), Record::new(1).field("n", 3)];
    assert_eq!(store.upsert(1, rows(&batch)).unwrap(), 2);
    assert!(store.view().is_empty(), "not published");
    store.publish(1);
    let view = store.view();
    let (_, row) = view.find(&1.into()).unwrap().unwrap();
    assert_eq!(view.segment(0).unwrap().payload(row).unwrap(), batch[2].payload);
    assert_eq!(view.live(), 2);
}

#[test]
fn a_row_that_does_not_fit_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let good = rows(&[Record::new(1).vector("b", vec![1.0, 2.0])]).remove(0);
    let mut short = good.clone();
    short.vectors[0].values.pop();
    let mut strange = good.clone();
    strange.vectors[0].ordinal = 9;
    let nameless = StoredRow { key: Vec::new(), ..good.clone() };
    for bad in [short, strange, nameless] {
        assert!(store.upsert(1, vec![good.clone(), bad]).is_err());
    }
    store.publish(1);
    assert!(store.view().is_empty());
}

#[test]
fn a_field_declared_later_means_the_same_in_old_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let record = |key: u64| Record::new(key).field("later", (key % 3) as i64);
    for index in 1..=3_u64 {
        store.upsert(index, rows(&[record(index * 2), record(index * 2 + 1)])).unwrap();
        store.publish(index);
        if index < 3 {
            assert!(store.freeze(index, Vec::new()));
            store.seal().unwrap();
        }
        if index == 1 {
            let mut wider = sample::spec(DIMS as u32);
            wider.fields.insert("later".into(), FieldType::Integer);
            store.set_spec(Arc::new(wider));
        }
    }
    let mut wider = sample::spec(DIMS as u32);
    wider.fields.insert("later".into(), FieldType::Integer);
    let filter = Compiled::new(&Filter::Equal("later".into(), 1.into()), &wider).unwrap();
    let view = store.view();
    let counts: Vec<usize> = matching(&view, &filter).iter().map(|rows| rows.count()).collect();
    assert_eq!(counts.iter().sum::<usize>(), (2..8).filter(|key| key % 3 == 1).count());
    assert_eq!(view.len(), 3);
    drop(view);
    // The first segment is written anew for the field; the second has it.
    assert_eq!(store.status().stale_records, 2);
    assert!(store.compact(&Progress::new()).unwrap());
    assert_eq!(store.status().stale_records, 0);
    assert!(!store.compact(&Progress::new()).unwrap());
    let view = store.view();
    let known = view.segments().filter(|segment| segment.column("later").unwrap().is_some());
    assert_eq!(known.count(), 2, "the third still grows");
    let counts: Vec<usize> = matching(&view, &filter).iter().map(|rows| rows.count()).collect();
    assert_eq!(counts.iter().sum::<usize>(), (2..8).filter(|key| key % 3 == 1).count());
}

#[test]
fn a_segment_written_anew_for_its_fields_keeps_its_graph() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut dice = Dice::new(5);
    let record = |key: u64| Record::new(key).vector("a", dice.floats(DIMS)).field("later", (key % 3) as i64);
    let records: Vec<Record> = (0..400).map(record).collect();
    store.upsert(1, rows(&records)).unwrap();
    store.publish(1);
    assert!(store.freeze(1, Vec::new()));
    store.seal().unwrap();
    while store.build_graph(&Progress::new()).unwrap() {}
    let mut wider = sample::spec(DIMS as u32);
    wider.fields.insert("later".into(), FieldType::Integer);
    store.set_spec(Arc::new(wider));
    let indexed = |store: &Store| store.view().segments().all(|segment| segment.is_indexed("a"));
    assert!(indexed(&store), "there is a graph to keep");
    let cancelled = Progress::new();
    cancelled.cancel();
    assert!(matches!(store.compact(&cancelled), Err(Fault::Cancelled)));
    assert!(store.compact(&Progress::new()).unwrap());
    assert!(indexed(&store) && store.status().stale_records == 0);
    assert!(!store.build_graph(&Progress::new()).unwrap(), "nothing is left to build");
    store.verify().unwrap();
    drop(store);
    let (store, _) = open(dir.path());
    assert!(indexed(&store));
    assert_eq!(store.view().live(), 400);
}

#[test]
fn payloads_of_any_shape_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let long = "x".repeat(100_000);
    let payload = Payload::from([("s".into(), long.as_str().into()), ("f".into(), f64::MAX.into())]);
    let wide = Record { payload, ..Record::new("wide") };
    store.upsert(1, rows(&[wide.clone(), Record::new("empty")])).unwrap();
    store.publish(1);
    assert!(store.freeze(1, Vec::new()));
    store.seal().unwrap();
    let view = store.view();
    let (segment, row) = view.find(&"wide".into()).unwrap().unwrap();
    assert_eq!(view.segment(segment).unwrap().payload(row).unwrap(), wide.payload);
    let (segment, row) = view.find(&"empty".into()).unwrap().unwrap();
    assert!(view.segment(segment).unwrap().payload(row).unwrap().is_empty());
    assert_eq!(view.segment(segment).unwrap().vector("a", row).unwrap(), None);
}

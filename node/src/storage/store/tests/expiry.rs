//! Rows that expire: where that is kept, and how due ones are found.

use super::*;

fn expiring(key: u64, when: u64) -> Record {
    Record::new(key).field("n", key as i64).expires_at(when)
}

fn seal(store: &Store, index: LogIndex) {
    assert!(store.freeze(index, Vec::new()));
    assert_eq!(store.seal().unwrap(), Some(index));
}

fn due(store: &Store, until: u64) -> Vec<Key> {
    let keys = store.due(until, 100, 1 << 20).unwrap();
    keys.iter().map(|key| Key::from_bytes(key).unwrap()).collect()
}

/// Format versions of the segments' headers, by number.
fn formats(dir: &Path) -> BTreeMap<String, u32> {
    let folders =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let format = |name: String| {
        let header = std::fs::read(dir.join(&name).join("SEGMENT")).unwrap();
        let has_file = dir.join(&name).join("expiries").exists();
        let format = u32::from_le_bytes(header[8..12].try_into().unwrap());
        assert_eq!(has_file, format == 3, "{name}");
        (name, format)
    };
    folders.filter(|name| name.starts_with("seg-")).map(format).collect()
}

#[test]
fn only_segments_with_rows_that_expire_are_of_the_newer_format() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.upsert(1, rows(&[Record::new(1), Record::new(2)])).unwrap();
    store.publish(1);
    seal(&store, 1);
    assert_eq!(formats(dir.path()).into_values().collect::<Vec<_>>(), [1]);
    store.upsert(2, rows(&[expiring(3, 50), Record::new(4)])).unwrap();
    store.publish(2);
    seal(&store, 2);
    assert_eq!(formats(dir.path()).into_values().collect::<Vec<_>>(), [1, 3]);
    store.upsert(3, rows(&[expiring(5, 70)])).unwrap();
    store.publish(3);
    seal(&store, 3);
    assert!(store.compact(&Progress::new()).unwrap(), "three are one");
    assert_eq!(formats(dir.path()).into_values().max(), Some(3));
    store.verify().unwrap();
    drop(store);
    let (store, _) = open(dir.path());
    assert_eq!(due(&store, 69), [3.into()]);
    assert_eq!(store.expiry_of(&Key::Number(5).to_bytes()).unwrap(), Some(70));
    assert_eq!(store.expiry_of(&Key::Number(4).to_bytes()).unwrap(), None);
    // What expires is gone, and with it the file.
    store.delete(4, &[3.into(), 5.into()]).unwrap();
    store.publish(4);
    seal(&store, 4);
    while store.compact(&Progress::new()).unwrap() {}
    drop(store);
    let (store, _) = open(dir.path());
    assert_eq!((formats(dir.path()).into_values().max(), store.status().records), (Some(1), 3));
}

#[test]
fn due_rows_are_found_in_every_kind_of_segment_and_dead_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.upsert(1, rows(&[expiring(1, 10), expiring(2, 20), expiring(3, 30)])).unwrap();
    store.publish(1);
    seal(&store, 1);
    store.upsert(2, rows(&[expiring(4, 15), expiring(2, 90)])).unwrap();
    store.publish(2);
    assert!(store.freeze(2, Vec::new()));
    store.upsert(3, rows(&[expiring(5, 5), Record::new(1)])).unwrap();
    store.publish(3);
    assert_eq!(due(&store, 4), []);
    assert_eq!(due(&store, 30), [3, 4, 5].map(Key::Number), "1 lives for ever now, and 2 longer");
    assert_eq!(due(&store, 90), [2, 3, 4, 5].map(Key::Number));
    store.delete(4, &[5.into(), 3.into(), 4.into()]).unwrap();
    store.publish(4);
    assert_eq!(due(&store, 89), []);
    assert_eq!(due(&store, u64::MAX), [Key::Number(2)]);
    assert_eq!(store.due(u64::MAX, 0, 1 << 20).unwrap(), Vec::<Vec<u8>>::new());
}

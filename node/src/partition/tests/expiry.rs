//! Records whose time has come go by themselves, through the log, and stay away after a restart.

use flotilla_proto::convert::{decode_record, key_from_wire};
use flotilla_proto::limits::EXPIRES_AT_MS_MAX;
use flotilla_proto::record::Record;
use flotilla_tests::wait::eventually;

use super::super::house::*;
use super::super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_goes_and_the_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), 1).await;
    let replica = house.replica(1).await.unwrap();
    // Some seal a segment, some are growing.
    let record = |key: u64| {
        let when = if key.is_multiple_of(2) { 1 } else { EXPIRES_AT_MS_MAX };
        Record::new(key).vector("default", vec![key as f32, 1.0]).expires_at(when)
    };
    for first in [0, 60, 120] {
        let records = (first..first + 60).map(record).collect();
        replica.write(None, Write::Upsert(records), &whole()).await.unwrap();
    }
    let gone = eventually("what is due is gone", SOON, async || {
        let (count, _) = replica.count(None, FRESH, &whole()).await.ok()?;
        (count == 90).then_some(())
    });
    gone.await.unwrap();
    drop(replica);
    house.close().await;

    let house = House::open(dir.path(), 1).await;
    let replica = house.replica(1).await.unwrap();
    let parts = Parts::default();
    let keys = (0..180).map(Key::Number).collect();
    let (records, _) = replica.get(keys, parts, 0, FRESH, &whole()).await.unwrap();
    let told = |record: &Bytes| {
        let record = decode_record("record", record).unwrap();
        (key_from_wire("key", record.key).unwrap(), record.expires_at_ms)
    };
    let odd = (1..180).step_by(2).map(|key| (Key::Number(key), Some(EXPIRES_AT_MS_MAX)));
    assert_eq!(records.iter().map(told).collect::<Vec<_>>(), odd.collect::<Vec<_>>());
    drop(replica);
    house.close().await;
}

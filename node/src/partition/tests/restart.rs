//! What a node does with a map that may be older than what it holds.

use flotilla_proto::placement::PlacementMap;

use crate::env::fs;
use crate::env::sim::{Cut, Disk};
use crate::partition::house::{FRESH, House, SOON, placement, upsert, whole};
use crate::worker;

/// After a restart the map is first that of the last checkpoint, and may not know a collection that was made, and written
/// to, since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_map_that_may_be_old_takes_nothing_away() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), 1).await;
    upsert(&house.replica(1).await.unwrap(), 0..10).await.unwrap();
    house.close().await;

    let house = House::empty(dir.path(), worker::Options::default());
    house.registry.reconcile(&PlacementMap::default(), false).await;
    house.registry.reconcile(&placement(1), true).await;
    let replica = house.replica(1).await.unwrap();
    replica.group().wait_ready(SOON).await.unwrap();
    assert_eq!(replica.count(None, FRESH, &whole()).await.unwrap().0, 10);
    house.registry.reconcile(&PlacementMap::default(), true).await;
    assert_eq!(std::fs::read_dir(dir.path().join("partitions")).unwrap().count(), 0);
    house.close().await;
}

/// The power is cut at each sync of giving a partition up. By a map that does not know of that yet, the partition is there whole or
/// not at all: never without its log, which holds what it acknowledged and whom it voted for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_given_up_never_comes_back_without_its_log() {
    for (sync, is_done) in (1..).flat_map(|sync| [(sync, false), (sync, true)]) {
        let disk = Disk::mount("/simulated/given-up", sync);
        let house = House::open(disk.root(), 2).await;
        upsert(&house.replica(2).await.unwrap(), 0..10).await.unwrap();
        disk.stop_at_sync(sync, is_done);
        house.registry.reconcile(&placement(1), true).await;
        let is_over = disk.stopped_at().is_none();
        disk.cut(Cut::Clean);
        house.close().await;

        let house = House::empty(disk.root(), worker::Options::default());
        house.registry.reconcile(&placement(2), false).await;
        for replica in house.registry.serving().iter().filter(|replica| replica.id().0 == 2) {
            replica.group().wait_ready(SOON).await.unwrap();
            let found = replica.count(None, FRESH, &whole()).await.unwrap().0;
            assert_eq!(found, 10, "sync {sync}, done: {is_done}");
        }
        house.registry.reconcile(&placement(1), true).await;
        assert_eq!(fs::read_dir(&disk.root().join("partitions")).unwrap(), ["1"]);
        assert!(!house.lanes.groups().contains(&2), "its log is left over");
        house.close().await;
        disk.remove();
        if is_over {
            assert!(sync > 2, "the sweep meets the folder and the log");
            return;
        }
    }
}

//! What a node does with a map that may be older than what it holds.

use flotilla_proto::placement::PlacementMap;

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

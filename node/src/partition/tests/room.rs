//! Memory or disk that runs short, as a replica takes it.

use flotilla_tests::wait::eventually;

use super::super::house::*;
use super::super::*;
use crate::room::Purpose;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_memory_refuses_what_adds_and_takes_what_frees() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), 1).await;
    let replica = house.replica(1).await.unwrap();
    upsert(&replica, 0..30).await.unwrap();
    house.room.take_memory(81, 100);
    let Err(Refusal::Exhausted { what, .. }) = upsert(&replica, 30..40).await else { panic!("it is taken") };
    assert!(what.contains("short of memory"), "{what}");
    let gone = replica.write(None, Write::Delete(vec![Key::Number(3)]), &whole()).await.unwrap();
    assert_eq!(gone.affected, 1);
    let (found, _) = replica.get(vec![Key::Number(4)], Parts::default(), 0, FRESH, &whole()).await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(replica.growing_bytes() > 0);
    assert!(replica.usage().of(Purpose::Vectors) >= 30 * 2 * 4);
    replica.seal_early().await.unwrap();
    let sealed = eventually("it is sealed", SOON, async || {
        let usage = replica.usage();
        (replica.growing_bytes() == 0 && usage.of(Purpose::Vectors) == 0).then_some(())
    });
    sealed.await.unwrap();
    house.room.take_memory(50, 100);
    upsert(&replica, 30..40).await.unwrap();

    house.room.take_disk(0, 100 << 30);
    let Err(Refusal::Exhausted { what, .. }) = upsert(&replica, 40..50).await else { panic!("it is taken") };
    assert!(what.contains("short of disk"), "{what}");
    replica.write(None, Write::Delete(vec![Key::Number(5)]), &whole()).await.unwrap();
    drop(replica);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_graph_is_begun_while_memory_is_short() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), 1).await;
    let replica = house.replica(1).await.unwrap();
    upsert(&replica, 0..40).await.unwrap();
    house.room.take_memory(86, 100);
    replica.seal_early().await.unwrap();
    let sealed = eventually("rows are sealed", SOON, async || (replica.growing_bytes() == 0).then_some(()));
    sealed.await.unwrap();
    replica.give_up_builds();
    let waiting = replica.status().waiting_vectors;
    assert_eq!(waiting, 40, "they are sealed and have no graph");
    house.room.take_memory(10, 100);
    let built =
        eventually("graphs are built", SOON, async || (replica.status().waiting_vectors == 0).then_some(()));
    built.await.unwrap();
    // A worker that waits for memory stops all the same.
    house.room.take_memory(99, 100);
    drop(replica);
    tokio::time::timeout(SOON, house.close()).await.unwrap();
}

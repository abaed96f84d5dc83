//! Writes that come faster than graphs are built: they wait, so that what searches scan stays bounded.

use std::time::Duration;

use flotilla_tests::wait::eventually;

use super::super::house::*;
use super::super::*;

const BATCH: u64 = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_wait_while_many_vectors_wait_for_their_index() {
    let dir = tempfile::tempdir().unwrap();
    let options = worker::Options { behind_max: Duration::from_millis(100), ..Default::default() };
    let house = House::open_with(dir.path(), 1, options).await;
    let replica = house.replica(1).await.unwrap();
    let builds = house.permits.builds().await;
    let (mut written, mut refused) = (0, None);
    while refused.is_none() && written < 100 * BATCH {
        match upsert(&replica, written..written + BATCH).await {
            Ok(_) => written += BATCH,
            Err(refusal) => refused = Some(refusal),
        }
    }
    let Some(Refusal::Exhausted { what, .. }) = refused else { panic!("{refused:?}") };
    assert!(what.contains("wait for their index"), "{what}");
    let status = replica.status();
    assert!(status.waiting_vectors > BACKLOG_MAX as u64, "{status:?}");
    assert!(
        status.unindexed_vectors <= BACKLOG_MAX as u64 + 100,
        "it would scan as many as came: {status:?}"
    );
    assert_eq!((status.records, status.unindexed_vectors), (written, written), "{status:?}");
    // Memory and the log are short all the same: segments are sealed while no graph can be built.
    let sealed =
        eventually("rows are sealed", SOON, async || (replica.status().growing_rows < 50).then_some(()));
    sealed.await.unwrap();
    assert_eq!(replica.pace(&status).1, None, "nothing was built yet");

    drop(builds);
    let deadline = tokio::time::Instant::now() + SOON;
    let mut next = written;
    while next < written + 10 * BATCH {
        match upsert(&replica, next..next + BATCH).await {
            Ok(_) => next += BATCH,
            Err(refusal) => assert!(
                matches!(refusal, Refusal::Exhausted { .. }) && tokio::time::Instant::now() < deadline,
                "{refusal}"
            ),
        }
    }
    assert_eq!(replica.status().records, next);
    assert!(replica.pace(&replica.status()).0.is_some_and(|rate| rate > 0.0), "graphs were built");
    drop(replica);
    house.close().await;
}

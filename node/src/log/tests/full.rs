//! A full disk: the lane waits, refuses nothing that it took, and goes on.

use super::*;
use crate::env::faults::{Failure, plant};
use crate::env::fs::Op;
use crate::log::Error;

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_without_space_is_done_once_there_is_some() {
    for op in [Op::Preallocate, Op::Create, Op::Write] {
        let dir = tempfile::tempdir().unwrap();
        let (lanes, _) = open(dir.path(), small());
        let log = lanes.group(1).unwrap();
        append(&log, vec![entry(0, 1, 0)]).await;
        let lane = dir.path().join("lane-0").display().to_string();
        let fault = plant(lane, op, Failure::Full, None);
        let writing = tokio::spawn({
            let log = log.clone();
            async move {
                for index in 1..40 {
                    append(&log, vec![entry(index, 1, 300)]).await;
                }
            }
        });
        // The first call to fail may be the mark behind entry 0, before there is an entry 1: reads go on all the same.
        until(|| log.full().is_some() && all(&log).len() >= 2).await;
        assert!(log.full().unwrap().contains("No space"), "{op:?}");
        assert!(log.poisoned().is_none() && fault.failed() > 0);
        drop(fault);
        writing.await.unwrap();
        assert_eq!(log.full(), None);
        assert_eq!(all(&log).len(), 40);
        lanes.close().await;
        let (lanes, recovery) = open(dir.path(), small());
        assert!(recovery.torn.is_empty() && recovery.damage.is_empty(), "{op:?}: {recovery:?}");
        assert_eq!(all(&lanes.group(1).unwrap()).len(), 40, "{op:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_closes_while_it_waits_refuses_what_it_had_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let (lanes, _) = open(dir.path(), small());
    let log = lanes.group(1).unwrap();
    append(&log, vec![entry(0, 1, 0)]).await;
    let fault = plant(dir.path().join("lane-0").display().to_string(), Op::Write, Failure::Full, None);
    let (tell, told) = oneshot::channel();
    log.append(vec![entry(1, 1, 0)], move |result| drop(tell.send(result))).await.unwrap();
    until(|| log.full().is_some()).await;
    lanes.close().await;
    assert!(told.await.unwrap().is_err());
    drop((fault, lanes));
    let (lanes, recovery) = open(dir.path(), small());
    assert!(recovery.damage.is_empty() && recovery.torn.is_empty(), "{recovery:?}");
    assert_eq!(all(&lanes.group(1).unwrap()), [entry(0, 1, 0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_without_space_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (lanes, _) = open(dir.path(), small());
    let log = lanes.group(1).unwrap();
    append(&log, vec![entry(0, 1, 0)]).await;
    let fault = plant(dir.path().join("lane-0").display().to_string(), Op::Sync, Failure::Full, Some(1));
    assert!(matches!(log.save_vote(Bytes::new()).await, Err(Error::Poisoned { .. })));
    assert!(matches!(log.save_vote(Bytes::new()).await, Err(Error::Poisoned { .. })));
    assert_eq!(fault.failed(), 1, "asked for once");
    assert!(log.poisoned().is_some());
    lanes.close().await;
}

//! A group's log in use: order, bounds, marks, rolling, freeing, failing, concurrency.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::*;
use crate::log::{BODY_BYTES_MAX, Error, MARK_BYTES_MAX};

#[tokio::test]
async fn entries_are_visible_at_once_and_durable_after_the_callback() {
    let dir = tempfile::tempdir().unwrap();
    let (lanes, recovery) = open(dir.path(), Options::default());
    assert!(recovery.groups.is_empty() && recovery.torn.is_empty() && recovery.damage.is_empty());
    let log = lanes.group(5).unwrap();
    let (tell, told) = oneshot::channel();
    log.append(vec![entry(0, 1, 0), entry(1, 1, 100)], move |result| drop(tell.send(result))).await.unwrap();
    assert_eq!(all(&log), [entry(0, 1, 0), entry(1, 1, 100)]);
    told.await.unwrap().unwrap();
    log.save_vote(Bytes::from_static(b"vote")).await.unwrap();
    log.save_committed(Bytes::from_static(b"committed")).unwrap();
    lanes.close().await;
    assert!(matches!(log.save_vote(Bytes::new()).await, Err(Error::Closed)));
    let (lanes, recovery) = open(dir.path(), Options::default());
    assert_eq!(recovery.groups.len(), 1);
    assert!(recovery.torn.is_empty() && recovery.damage.is_empty(), "{recovery:?}");
    let log = lanes.group(5).unwrap();
    assert_eq!(all(&log), [entry(0, 1, 0), entry(1, 1, 100)]);
    assert_eq!(log.last_entry().unwrap(), Some(entry(1, 1, 100)));
    assert_eq!(log.vote().unwrap().unwrap(), "vote");
    assert_eq!(log.committed().unwrap().unwrap(), "committed");
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (lanes, _) = open(dir.path(), small());
    let log = lanes.group(1).unwrap();
    append(&log, vec![entry(7, 1, 0), entry(8, 1, 0)]).await;
    let refused = |result: Result<(), Error>| matches!(result, Err(Error::NotContiguous { expected: 9, .. }));
    assert!(refused(log.append(vec![entry(8, 1, 0)], |_| {}).await));
    assert!(refused(log.append(vec![entry(10, 1, 0)], |_| {}).await));
    let gap = log.append(vec![entry(9, 1, 0), entry(11, 1, 0)], |_| {}).await;
    assert!(matches!(gap, Err(Error::NotContiguous { expected: 10, got: 11, .. })));
    assert_eq!(log.state().unwrap().last_index, Some(8), "a refused append leaves nothing behind");
    let long = LogEntry { index: 9, body: Bytes::from(vec![0; BODY_BYTES_MAX + 1]) };
    assert!(matches!(log.append(vec![long], |_| {}).await, Err(Error::TooLarge { .. })));
    let mark = Bytes::from(vec![0; MARK_BYTES_MAX + 1]);
    assert!(matches!(log.save_vote(mark).await, Err(Error::TooLarge { .. })));
    log.purge(7, Bytes::new()).await.unwrap();
    assert!(matches!(log.truncate_after(Some(6)).await, Err(Error::BelowPurge { purged: 7, .. })));
    assert!(matches!(log.truncate_after(None).await, Err(Error::BelowPurge { .. })));
}

#[tokio::test]
async fn a_purge_beyond_the_end_moves_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (lanes, _) = open(dir.path(), small());
    let log = lanes.group(1).unwrap();
    append(&log, vec![entry(0, 1, 0), entry(1, 1, 0)]).await;
    log.purge(100, Bytes::from_static(b"id")).await.unwrap();
    log.purge(50, Bytes::from_static(b"older")).await.unwrap();
    let state = log.state().unwrap();
    assert_eq!((state.first_index, state.last_index), (101, None));
    assert_eq!(state.purged, Some((100, Bytes::from_static(b"id"))));
    append(&log, vec![entry(101, 1, 0)]).await;
    lanes.close().await;
    let (lanes, recovery) = open(dir.path(), small());
    assert!(recovery.damage.is_empty());
    assert_eq!(all(&lanes.group(1).unwrap()), [entry(101, 1, 0)]);
}

#[tokio::test]
async fn reads_are_bounded_and_cross_memory_and_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (lanes, _) = open(dir.path(), small());
    let log = lanes.group(1).unwrap();
    for index in 0..200 {
        append(&log, vec![entry(index, 1, 90)]).await;
    }
    assert!(lanes.stats().segments > 5 && lanes.stats().cached_bytes <= 1024, "{:?}", lanes.stats());
    let expected: Vec<_> = (0..200).map(|index| entry(index, 1, 90)).collect();
    assert_eq!(all(&log), expected);
    assert_eq!(log.read(190..195, u64::MAX).unwrap(), expected[190..195]);
    assert_eq!(log.read(3..100, 1).unwrap(), expected[3..4], "at least one");
    assert_eq!(log.read(3..100, 3 * 130 + 5).unwrap(), expected[3..6]);
    assert!(log.read(200..300, 999).unwrap().is_empty());
    let big = entry(200, 1, 10_000);
    append(&log, vec![big.clone()]).await;
    append(&log, vec![entry(201, 1, 0)]).await;
    lanes.close().await;
    let (lanes, recovery) = open(dir.path(), small());
    assert!(recovery.torn.is_empty() && recovery.damage.is_empty());
    let log = lanes.group(1).unwrap();
    assert_eq!(all(&log)[..200], expected);
    assert_eq!(log.read(200..201, 1).unwrap(), [big], "longer than a segment");
}

#[tokio::test]
async fn callbacks_come_in_order_while_groups_write_together() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { lanes: 2, queue_records: 16, segment_bytes: 64 << 10, ..Options::default() };
    let (lanes, _) = open(dir.path(), options.clone());
    let mut writers = tokio::task::JoinSet::new();
    for group in 0..16u64 {
        let log = lanes.group(group).unwrap();
        writers.spawn(async move {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let (tell, told) = oneshot::channel();
            let mut tell = Some(tell);
            for index in 0..100 {
                let (seen, tell) = (seen.clone(), if index == 99 { tell.take() } else { None });
                let told = move |result: std::io::Result<()>| {
                    result.unwrap();
                    seen.lock().push(index);
                    if let Some(tell) = tell {
                        tell.send(()).unwrap();
                    }
                };
                log.append(vec![entry(index, group, 200)], told).await.unwrap();
            }
            told.await.unwrap();
            assert_eq!(*seen.lock(), (0..100).collect::<Vec<_>>());
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let stats = lanes.stats();
    assert!(stats.records >= 1600 && stats.syncs < 1600, "syncs are shared: {stats:?}");
    lanes.close().await;
    // The folder keeps its lanes, whatever is asked for.
    let (lanes, _) = open(dir.path(), Options { lanes: 7, ..options });
    for group in 0..16 {
        let expected: Vec<_> = (0..100).map(|index| entry(index, group, 200)).collect();
        assert_eq!(all(&lanes.group(group).unwrap()), expected);
    }
}

#[tokio::test]
async fn purged_segments_go_and_marks_stay() {
    let dir = tempfile::tempdir().unwrap();
    let lane = dir.path().join("lane-0");
    let (lanes, _) = open(dir.path(), small());
    let log = lanes.group(1).unwrap();
    let idle = lanes.group(2).unwrap();
    idle.save_vote(Bytes::from_static(b"idle vote")).await.unwrap();
    idle.purge(41, Bytes::from_static(b"idle purge")).await.unwrap();
    log.save_vote(Bytes::from_static(b"vote")).await.unwrap();
    log.save_committed(Bytes::from_static(b"committed")).unwrap();
    for round in 0..20 {
        append(&log, (0..20).map(|i| entry(round * 20 + i, 1, 300)).collect()).await;
        log.purge(round * 20 + 18, Bytes::from_static(b"purge")).await.unwrap();
    }
    lanes.close().await;
    let files = segment_files(&lane);
    assert!(files.len() <= 3, "{files:?}");
    assert!(!files[0].ends_with("0000000001.wal"));
    let (lanes, recovery) = open(dir.path(), small());
    assert!(recovery.torn.is_empty() && recovery.damage.is_empty(), "{recovery:?}");
    let (log, idle) = (lanes.group(1).unwrap(), lanes.group(2).unwrap());
    assert_eq!(all(&log), [entry(399, 1, 300)]);
    assert_eq!(log.state().unwrap().purged, Some((398, Bytes::from_static(b"purge"))));
    assert_eq!(log.vote().unwrap().unwrap(), "vote");
    assert_eq!(log.committed().unwrap().unwrap(), "committed");
    assert_eq!(idle.vote().unwrap().unwrap(), "idle vote");
    assert_eq!(idle.state().unwrap().purged, Some((41, Bytes::from_static(b"idle purge"))));
}

#[tokio::test]
async fn a_slow_group_does_not_pin_the_lane() {
    let dir = tempfile::tempdir().unwrap();
    let (lanes, _) = open(dir.path(), small());
    let (slow, busy) = (lanes.group(1).unwrap(), lanes.group(2).unwrap());
    append(&slow, (0..5).map(|i| entry(i, 9, 50)).collect()).await;
    for round in 0..30 {
        append(&busy, (0..20).map(|i| entry(round * 20 + i, 1, 300)).collect()).await;
        busy.purge(round * 20 + 19, Bytes::new()).await.unwrap();
        if round == 10 {
            append(&slow, vec![entry(5, 9, 50)]).await;
        }
    }
    assert!(segment_files(&dir.path().join("lane-0")).len() <= 6);
    let expected: Vec<_> = (0..6).map(|i| entry(i, 9, 50)).collect();
    assert_eq!(all(&slow), expected, "moved entries read back");
    lanes.close().await;
    let (lanes, recovery) = open(dir.path(), small());
    assert!(recovery.quarantined.is_empty(), "{recovery:?}");
    assert_eq!(all(&lanes.group(1).unwrap()), expected);
}

/// Its oldest entries were moved behind newer ones, while those between still stood in segments that went later.
#[tokio::test]
async fn a_slow_group_that_goes_on_writing_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let (lanes, _) = open(dir.path(), small());
    let (slow, busy) = (lanes.group(1).unwrap(), lanes.group(2).unwrap());
    for round in 0..60 {
        append(&slow, vec![entry(round, 9, 50)]).await;
        append(&busy, (0..5).map(|i| entry(round * 5 + i, 1, 300)).collect()).await;
        busy.purge(round * 5 + 4, Bytes::new()).await.unwrap();
        let copy = super::swift_dir();
        super::copy_folder(dir.path(), copy.path());
        let (again, recovery) = open(copy.path(), small());
        assert!(recovery.quarantined.is_empty(), "round {round}: {recovery:?}");
        let expected: Vec<_> = (0..=round).map(|i| entry(i, 9, 50)).collect();
        assert_eq!(all(&again.group(1).unwrap()), expected, "round {round}");
        again.close().await;
    }
    lanes.close().await;
}

#[tokio::test]
async fn a_removed_group_stays_away() {
    let dir = tempfile::tempdir().unwrap();
    let (lanes, _) = open(dir.path(), small());
    let old = lanes.group(1).unwrap();
    append(&old, vec![entry(0, 1, 0)]).await;
    old.save_vote(Bytes::from_static(b"vote")).await.unwrap();
    lanes.remove_group(1).await.unwrap();
    lanes.remove_group(77).await.unwrap();
    assert!(matches!(old.append(vec![entry(1, 1, 0)], |_| {}).await, Err(Error::Removed(1))));
    let new = lanes.group(1).unwrap();
    assert!(matches!(old.vote(), Err(Error::Removed(1))), "a handle of the earlier life");
    assert_eq!((new.vote().unwrap(), new.state().unwrap().last_index), (None, None));
    append(&new, vec![entry(3, 2, 0)]).await;
    lanes.close().await;
    let (lanes, _) = open(dir.path(), small());
    assert_eq!(lanes.groups(), [1]);
    assert_eq!(all(&lanes.group(1).unwrap()), [entry(3, 2, 0)]);
    assert_eq!(lanes.group(1).unwrap().vote().unwrap(), None);
}

#[tokio::test]
async fn a_failed_sync_poisons_the_lane_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let (lanes, _) = open(dir.path(), Options { lanes: 2, ..small() });
    let (log, other) = (lanes.group(0).unwrap(), lanes.group(1).unwrap());
    append(&log, vec![entry(0, 1, 0)]).await;
    lanes.fail_next_sync(0);
    let failures = Arc::new(AtomicU64::new(0));
    let mut waiting = Vec::new();
    for index in 1..50 {
        let (failures, (tell, told)) = (failures.clone(), oneshot::channel::<()>());
        let told_of = move |result: std::io::Result<()>| {
            failures.fetch_add(u64::from(result.is_err()), Ordering::SeqCst);
            drop(tell);
        };
        match log.append(vec![entry(index, 1, 0)], told_of).await {
            Ok(()) => waiting.push(told),
            Err(error) => assert!(matches!(error, Error::Poisoned { lane: 0, .. }), "{error}"),
        }
    }
    let accepted = waiting.len() as u64;
    for told in waiting {
        let _ = told.await;
    }
    assert_eq!(failures.load(Ordering::SeqCst), accepted, "every accepted write hears of the failure");
    let error = log.save_vote(Bytes::new()).await.unwrap_err();
    assert!(error.to_string().contains("injected sync failure"), "{error}");
    assert!(matches!(lanes.group(2), Err(Error::Poisoned { .. })));
    append(&other, vec![entry(0, 1, 0)]).await;
    lanes.close().await;
}

#[tokio::test]
async fn a_folder_has_one_user_and_its_own_format() {
    let dir = tempfile::tempdir().unwrap();
    let (lanes, _) = open(dir.path(), small());
    let second = Lanes::open(dir.path(), small()).err().unwrap();
    assert!(second.to_string().contains("in use"), "{second}");
    append(&lanes.group(1).unwrap(), vec![entry(0, 1, 0)]).await;
    lanes.close().await;
    let format = dir.path().join("FORMAT");
    let text = std::fs::read(&format).unwrap();
    std::fs::write(&format, b"flotilla log 2 lanes 1").unwrap();
    assert!(matches!(Lanes::open(dir.path(), small()), Err(crate::log::OpenError::Format { .. })));
    std::fs::remove_file(&format).unwrap();
    let lost = Lanes::open(dir.path(), small()).err().unwrap();
    assert!(lost.to_string().contains("holds records"), "{lost}");
    std::fs::write(&format, text).unwrap();
    assert_eq!(all(&open(dir.path(), small()).0.group(1).unwrap()).len(), 1);
}

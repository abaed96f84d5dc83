//! Damage: every byte of a small log cut or flipped, lost files, torn runs. Nothing synced goes without a word.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::log::{Error, Scope};

type Logs = BTreeMap<u64, Vec<LogEntry>>;

/// Makes a log of three groups over a few segments and returns what was acknowledged. `clean`: closed properly.
async fn make(dir: &Path, clean: bool) -> Logs {
    let source = dir.join("source");
    let (lanes, _) = open(&source, small());
    let mut logs = Logs::new();
    for step in 0..36u64 {
        let group = step % 3;
        let log = lanes.group(group).unwrap();
        let held = logs.entry(group).or_default();
        let new: Vec<_> =
            (0..2).map(|i| entry(held.len() as u64 + i, step, 60 + 3 * step as usize)).collect();
        append(&log, new.clone()).await;
        held.extend(new);
        if step < 3 {
            log.save_vote(Bytes::from(format!("vote of {group}"))).await.unwrap();
        }
    }
    if clean {
        lanes.close().await;
    }
    copy_folder(&source, &dir.join("crashed"));
    lanes.close().await;
    logs
}

/// Opens the folder and checks the promise: nothing foreign is returned, nothing is lost unsaid. Returns how many
/// groups were refused.
async fn check(folder: &Path, logs: &Logs, context: &str) -> usize {
    let (lanes, recovery) = open(folder, small());
    let mut refused = 0;
    for (group, written) in logs {
        let log = match lanes.group(*group) {
            Ok(log) => log,
            Err(Error::Quarantined { .. }) => {
                assert!(!recovery.damage.is_empty(), "{context}: a quarantine has its reason");
                refused += 1;
                continue;
            }
            Err(error) => panic!("{context}: {error}"),
        };
        let read = all(&log);
        assert_eq!(read, written[..read.len()], "{context}: only what was written");
        let whole = read.len() == written.len() && log.vote().unwrap().is_some();
        assert!(
            whole || !recovery.torn.is_empty(),
            "{context}: group {group} lost entries unsaid: {recovery:?}"
        );
        if let Some(vote) = log.vote().unwrap() {
            assert_eq!(vote, format!("vote of {group}"));
        }
        // It goes on from here, and what is added is there after another opening.
        let next = log.state().unwrap().last_index.map_or(0, |last| last + 1);
        append(&log, vec![entry(next, 99, 10)]).await;
    }
    let quarantined = recovery.quarantined;
    lanes.close().await;
    let (lanes, again) = open(folder, small());
    assert!(again.torn.is_empty(), "{context}: cut once, cut for good: {again:?}");
    assert_eq!(again.quarantined.len(), quarantined.len(), "{context}: a quarantine lasts");
    for (group, state) in again.groups {
        let last = lanes.group(group).unwrap().last_entry().unwrap().unwrap();
        assert_eq!(last, entry(state.last_index.unwrap(), 99, 10), "{context}");
    }
    lanes.close().await;
    refused
}

/// A fresh copy of the crashed folder, and its segment files.
fn fresh(dir: &Path) -> (PathBuf, Vec<PathBuf>) {
    let folder = dir.join("victim");
    let _ = std::fs::remove_dir_all(&folder);
    copy_folder(&dir.join("crashed"), &folder);
    let files = segment_files(&folder.join("lane-0"));
    (folder, files)
}

#[tokio::test]
async fn every_cut_of_the_newest_segment_is_a_torn_tail() {
    let dir = swift_dir();
    let logs = make(dir.path(), false).await;
    let (_, files) = fresh(dir.path());
    assert!(files.len() >= 3);
    for cut in 0..=used(files.last().unwrap()) {
        let (folder, files) = fresh(dir.path());
        let file = std::fs::OpenOptions::new().write(true).open(files.last().unwrap()).unwrap();
        file.set_len(cut as u64).unwrap();
        let refused = check(&folder, &logs, &format!("cut at {cut}")).await;
        assert_eq!(refused, if cut < 64 { 3 } else { 0 }, "cut at {cut}");
    }
}

#[tokio::test]
async fn every_cut_of_an_older_segment_is_damage() {
    let dir = swift_dir();
    let logs = make(dir.path(), false).await;
    let (_, files) = fresh(dir.path());
    for cut in (0..used(&files[1])).step_by(7) {
        let (folder, files) = fresh(dir.path());
        let file = std::fs::OpenOptions::new().write(true).open(&files[1]).unwrap();
        file.set_len(cut as u64).unwrap();
        assert_eq!(check(&folder, &logs, &format!("cut at {cut}")).await, 3);
    }
}

#[tokio::test]
async fn every_flipped_byte_is_damage_or_a_torn_tail() {
    let dir = swift_dir();
    let logs = make(dir.path(), true).await;
    let (_, files) = fresh(dir.path());
    for number in 0..files.len() {
        // The oldest of three is like the middle one: every fifth byte of it.
        for at in (0..used(&files[number])).step_by(if number == 0 { 5 } else { 1 }) {
            let (folder, files) = fresh(dir.path());
            let mut bytes = std::fs::read(&files[number]).unwrap();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&files[number], bytes).unwrap();
            check(&folder, &logs, &format!("segment {number}, bit {} of byte {at}", at % 8)).await;
        }
    }
}

#[tokio::test]
async fn a_flip_in_a_body_concerns_its_group_alone_until_it_is_removed() {
    let dir = swift_dir();
    let logs = make(dir.path(), false).await;
    let (folder, files) = fresh(dir.path());
    let mut bytes = std::fs::read(&files[0]).unwrap();
    let needle = &logs[&1][1].body;
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at + 3] ^= 4;
    std::fs::write(&files[0], bytes).unwrap();
    assert_eq!(check(&folder, &logs, "flip in group 1").await, 1);

    let (lanes, recovery) = open(&folder, small());
    assert_eq!(recovery.quarantined.len(), 1);
    let (group, damage) = &recovery.quarantined[0];
    assert_eq!((*group, damage.scope, damage.offset), (1, Scope::Group(1), at as u64 - 40));
    assert_eq!(damage.file, files[0]);
    let error = lanes.group(1).err().unwrap();
    assert!(error.to_string().contains("0000000001.wal at byte"), "{error}");
    lanes.remove_group(1).await.unwrap();
    append(&lanes.group(1).unwrap(), vec![entry(0, 7, 7)]).await;
    lanes.close().await;
    let (lanes, recovery) = open(&folder, small());
    assert!(recovery.quarantined.is_empty(), "{recovery:?}");
    assert_eq!(all(&lanes.group(1).unwrap()), [entry(0, 7, 7)]);
}

#[tokio::test]
async fn a_lost_segment_is_noticed_and_settled_by_removal() {
    let dir = swift_dir();
    let logs = make(dir.path(), false).await;
    for number in 0..2 {
        let (folder, files) = fresh(dir.path());
        std::fs::remove_file(&files[number]).unwrap();
        assert_eq!(check(&folder, &logs, "lost segment").await, 3);
        let (lanes, _) = open(&folder, small());
        assert!(matches!(lanes.group(1000), Err(Error::Quarantined { .. })), "even a group never seen");
        for group in [0, 1, 2] {
            lanes.remove_group(group).await.unwrap();
            append(&lanes.group(group).unwrap(), (0..40).map(|i| entry(i, 5, 100)).collect()).await;
        }
        lanes.close().await;
        for _ in 0..3 {
            // Settled: the old segments go, and openings after that find nothing to complain about in the groups.
            let (lanes, recovery) = open(&folder, small());
            assert!(recovery.quarantined.is_empty(), "{recovery:?}");
            assert_eq!(all(&lanes.group(2).unwrap()).len(), 40);
            assert!(lanes.group(1000).is_ok());
            lanes.close().await;
        }
        assert!(open(&folder, small()).1.damage.is_empty(), "the gap is behind the oldest segment now");
    }
}

#[tokio::test]
async fn a_lane_without_files_is_not_an_empty_lane() {
    let dir = swift_dir();
    let logs = make(dir.path(), false).await;
    let (folder, _) = fresh(dir.path());
    std::fs::remove_dir_all(folder.join("lane-0")).unwrap();
    assert_eq!(check(&folder, &logs, "no files").await, 3);
    let (lanes, _) = open(&folder, small());
    for group in [0, 1, 2] {
        lanes.remove_group(group).await.unwrap();
    }
    append(&lanes.group(0).unwrap(), vec![entry(0, 5, 10)]).await;
    lanes.close().await;
    let (lanes, recovery) = open(&folder, small());
    assert!(recovery.quarantined.is_empty());
    assert!(lanes.group(0).is_ok() && lanes.group(1).is_ok());
}

/// A power cut may leave the pieces of one unsynced write in any combination.
#[tokio::test]
async fn a_hole_in_the_last_run_is_torn_and_not_damage() {
    let dir = swift_dir();
    let (lanes, _) = open(&dir.path().join("source"), Options { segment_bytes: 64 << 10, ..small() });
    let log = lanes.group(1).unwrap();
    append(&log, vec![entry(0, 1, 100)]).await;
    append(&log, (1..6).map(|i| entry(i, 1, 100)).collect()).await;
    append(&log, (6..40).map(|i| entry(i, 1, 100)).collect()).await;
    // The copy is taken before the mark of an idle lane may have been written, or is cut back to before it.
    lanes.close().await;
    copy_folder(&dir.path().join("source"), &dir.path().join("crashed"));
    let (_, files) = fresh(dir.path());
    let bytes = std::fs::read(&files[0]).unwrap();
    let find = |index| {
        let body = entry(index, 1, 100).body;
        bytes.windows(body.len()).position(|window| window == body).unwrap()
    };
    let end = find(39) + 100;
    for (hole, torn) in [(20, true), (3, false)] {
        let (folder, files) = fresh(dir.path());
        let mut bytes = bytes.clone();
        bytes[end..].fill(0);
        bytes[find(hole) - 40..find(hole) + 50].fill(0);
        std::fs::write(&files[0], bytes).unwrap();
        let (lanes, recovery) = open(&folder, small());
        if torn {
            assert_eq!((recovery.torn.len(), recovery.damage.len()), (1, 0), "{recovery:?}");
            let log = lanes.group(1).unwrap();
            assert_eq!(log.state().unwrap().last_index, Some(hole - 1));
            // What stood behind the hole never comes back.
            append(&log, vec![entry(hole, 2, 100)]).await;
            lanes.close().await;
            let (lanes, recovery) = open(&folder, small());
            assert!(recovery.torn.is_empty() && recovery.damage.is_empty());
            assert_eq!(lanes.group(1).unwrap().last_entry().unwrap(), Some(entry(hole, 2, 100)));
        } else {
            assert!(recovery.torn.is_empty(), "{recovery:?}");
            assert_eq!(recovery.quarantined.len(), 1);
        }
    }
}

#[tokio::test]
async fn a_read_notices_rot_after_opening() {
    let dir = swift_dir();
    let (lanes, _) = open(dir.path(), Options { cache_bytes: 0, ..small() });
    let log = lanes.group(1).unwrap();
    append(&log, (0..4).map(|i| entry(i, 1, 100)).collect()).await;
    let file = &segment_files(&dir.path().join("lane-0"))[0];
    let mut bytes = std::fs::read(file).unwrap();
    bytes[64 + 140 + 60] ^= 1;
    std::fs::write(file, bytes).unwrap();
    assert_eq!(log.read(0..1, u64::MAX).unwrap(), [entry(0, 1, 100)]);
    let error = log.read(0..4, u64::MAX).unwrap_err();
    assert!(matches!(&error, Error::Corrupt(damage) if damage.offset == 64 + 140), "{error}");
}

/// What proves that a damaged record was whole once may stand among records that are torn, and go with them.
#[tokio::test]
async fn a_torn_tail_goes_without_the_evidence_of_damage_before_it() {
    let dir = swift_dir();
    let (lanes, _) = open(&dir.path().join("source"), Options { segment_bytes: 64 << 10, ..small() });
    let log = lanes.group(1).unwrap();
    append(&log, (0..4).map(|i| entry(i, 1, 100)).collect()).await;
    append(&log, (4..10).map(|i| entry(i, 1, 100)).collect()).await;
    lanes.close().await;
    copy_folder(&dir.path().join("source"), &dir.path().join("crashed"));
    let (folder, files) = fresh(dir.path());
    let mut bytes = std::fs::read(&files[0]).unwrap();
    let find = |index| {
        let body = entry(index, 1, 100).body;
        bytes.windows(body.len()).position(|window| window == body).unwrap()
    };
    let (first, torn, end) = (find(0), find(3) + 100..find(4) + 50, find(9) + 100);
    bytes[first - 30] ^= 1;
    bytes[torn].fill(0);
    bytes[end..].fill(0);
    std::fs::write(&files[0], bytes).unwrap();
    for opening in 0..3 {
        let (lanes, recovery) = open(&folder, small());
        assert_eq!(recovery.torn.len(), usize::from(opening == 0), "{recovery:?}");
        assert!(matches!(lanes.group(1), Err(Error::Quarantined { .. })), "{opening}: {recovery:?}");
        // As a crash leaves it that comes at once.
        let crashed = dir.path().join(format!("crashed-{opening}"));
        copy_folder(&folder, &crashed);
        lanes.close().await;
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::rename(&crashed, &folder).unwrap();
    }
}

/// Bits may flip in what was the last run, and then in what is the last since: that one was read, and synced once more.
#[tokio::test]
async fn what_a_torn_tail_was_cut_off_from_is_known_to_have_been_whole() {
    let dir = swift_dir();
    let (lanes, _) = open(&dir.path().join("source"), Options { segment_bytes: 64 << 10, ..small() });
    let log = lanes.group(1).unwrap();
    append(&log, (0..4).map(|i| entry(i, 1, 100)).collect()).await;
    append(&log, (4..10).map(|i| entry(i, 1, 100)).collect()).await;
    lanes.close().await;
    copy_folder(&dir.path().join("source"), &dir.path().join("crashed"));
    let (folder, files) = fresh(dir.path());
    let flip = |index, from: usize| {
        let mut bytes = std::fs::read(&files[0]).unwrap();
        let body = entry(index, 1, 100).body;
        let at = bytes.windows(body.len()).position(|window| window == body).unwrap();
        bytes[at + 5] ^= 1;
        bytes[from..].fill(0);
        std::fs::write(&files[0], bytes).unwrap();
    };
    let bytes = std::fs::read(&files[0]).unwrap();
    let last = entry(9, 1, 100).body;
    flip(4, bytes.windows(last.len()).position(|window| window == last).unwrap() + 100);
    let (lanes, recovery) = open(&folder, small());
    assert_eq!((recovery.torn.len(), recovery.damage.len()), (1, 0), "{recovery:?}");
    assert_eq!(lanes.group(1).unwrap().state().unwrap().last_index, Some(3));
    // As a crash leaves it that comes at once.
    let crashed = dir.path().join("at-once");
    copy_folder(&folder, &crashed);
    lanes.close().await;
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&crashed, &folder).unwrap();
    flip(2, bytes.len());
    let (lanes, recovery) = open(&folder, small());
    assert_eq!((recovery.torn.len(), recovery.damage.len()), (0, 1), "{recovery:?}");
    assert!(matches!(lanes.group(1), Err(Error::Quarantined { .. })));
}

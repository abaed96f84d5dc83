//! What breaks under a running replica, and what becomes of it: this replica stops, or waits; the others serve.

use std::path::{Path, PathBuf};

use flotilla_proto::record::{Key, Record};

use super::house::{FRESH, House, SOON, stopped, upsert, whole};
use super::*;
use crate::env::faults::{Failure, plant};
use crate::env::fs::Op;
use crate::storage::quarantine::MARK;

const ALL: Parts = Parts { payload: true, fields: None, vectors: true };

/// Waits until something holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            clock::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, waiting).await.is_ok(), "{what}");
}

fn is_at_rest(replica: &Replica) -> bool {
    let status = replica.status();
    status.growing_rows == 0 && status.index_progress == 1.0
}

/// A house whose partitions 1 and 2 hold 120 sealed and indexed records.
async fn sealed(dir: &Path) -> House {
    let house = House::open(dir, 2).await;
    for id in [1, 2] {
        let replica = house.replica(id).await.unwrap();
        upsert(&replica, 0..120).await.unwrap();
        until("sealed and indexed", || is_at_rest(&replica)).await;
    }
    house
}

async fn count(house: &House, id: u64) -> Result<u64, Refusal> {
    let replica = house.replica(id).await?;
    Ok(replica.count(None, FRESH, &whole()).await?.0)
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

fn is_data_loss<T: std::fmt::Debug>(answer: &Result<T, Refusal>, words: &str) -> bool {
    matches!(answer, Err(Refusal::DataLoss(why)) if why.contains(words))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_any_file_takes_the_replica_out_or_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    sealed(dir.path()).await.close().await;
    let home = dir.path().join("partitions/1");
    let mut all = Vec::new();
    files(&home, &mut all);
    let soon = worker::Options { verify_every: Duration::from_millis(1), ..Default::default() };
    let (mut at_open, mut later, mut mended) = (0, 0, 0);
    for path in &all {
        let whole = std::fs::read(path).unwrap();
        if whole.is_empty() {
            continue;
        }
        let mut bytes = whole.clone();
        bytes[whole.len() / 2] ^= 4;
        std::fs::write(path, bytes).unwrap();
        let name = path.strip_prefix(&home).unwrap().display().to_string();
        // Once with checks far apart, for what opening finds; again with checks at once, for what it does not.
        let house = House::open(dir.path(), 2).await;
        let is_found = house.replica(1).await.map(drop);
        let house = match &is_found {
            Err(_) => house,
            Ok(()) => {
                house.close().await;
                House::open_with(dir.path(), 2, soon).await
            }
        };
        match (is_found, house.replica(1).await) {
            (Err(refused), _) => {
                assert!(is_data_loss(&Err::<(), _>(refused), "quarantined"), "{name}");
                at_open += 1;
            }
            (Ok(()), Ok(replica)) if name.contains("graph") => {
                until(&name, || replica.store.verify().is_ok() && is_at_rest(&replica)).await;
                mended += 1;
            }
            (Ok(()), replica) => {
                // It may have been found while the replica was being opened.
                if let Ok(replica) = replica {
                    until(&name, || replica.quarantined().is_some()).await;
                }
                assert!(is_data_loss(&count(&house, 1).await, "damaged"), "{name}");
                later += 1;
            }
        }
        assert_eq!(count(&house, 2).await.unwrap(), 120, "{name}: the other serves");
        house.close().await;
        // What was opened was mapped: a new file, not the old one overwritten.
        let _ = std::fs::remove_file(home.join(MARK));
        let _ = std::fs::remove_file(path);
        std::fs::write(path, &whole).unwrap();
    }
    assert!(at_open > 3 && later > 0 && mended > 0, "{at_open} at open, {later} later, {mended} mended");
    let house = House::open(dir.path(), 2).await;
    assert_eq!(count(&house, 1).await.unwrap(), 120);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_meets_damage_takes_the_replica_out_and_not_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let house = sealed(dir.path()).await;
    let mut all = Vec::new();
    files(&dir.path().join("partitions/1"), &mut all);
    let store = all.iter().find(|path| path.ends_with("payload/rows")).unwrap();
    // In place: the map sees it.
    let file = std::fs::OpenOptions::new().write(true).open(store).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xa5; 64], 16).unwrap();
    let replica = house.replica(1).await.unwrap();
    let keys: Vec<Key> = (0..120).map(Key::Number).collect();
    let read = replica.get(keys, ALL, 0, FRESH, &whole()).await;
    assert!(is_data_loss(&read, "payload"), "{read:?}");
    assert!(is_data_loss(&count(&house, 1).await, "restore a backup"));
    assert!(is_data_loss(&upsert(&replica, 0..1).await, "quarantined"));
    stopped(&replica).await;
    assert_eq!(count(&house, 2).await.unwrap(), 120);
    upsert(&house.replica(2).await.unwrap(), 0..1).await.unwrap();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_the_middle_of_the_log_concerns_its_group_alone() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), 3).await;
    for id in [1, 3, 1, 3] {
        let record = Record::new(id).field("text", format!("needle of {id}"));
        let replica = house.replica(id).await.unwrap();
        replica.write(None, Write::Upsert(vec![record]), &whole()).await.unwrap();
    }
    house.close().await;
    let mut all = Vec::new();
    files(&dir.path().join("log/lane-1"), &mut all);
    let path = all.iter().find(|path| path.extension().is_some_and(|ending| ending == "wal")).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(11).position(|window| window == b"needle of 1").unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let house = House::open(dir.path(), 3).await;
    assert!(is_data_loss(&count(&house, 1).await, ".wal at byte"), "{:?}", count(&house, 1).await);
    assert_eq!(
        (count(&house, 3).await.unwrap(), count(&house, 2).await.unwrap()),
        (1, 0),
        "of the same lane too"
    );
    upsert(&house.replica(3).await.unwrap(), 10..12).await.unwrap();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_sync_takes_no_more_writes_until_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), 3).await;
    let [one, two, three] =
        [house.replica(1).await.unwrap(), house.replica(2).await.unwrap(), house.replica(3).await.unwrap()];
    for replica in [&one, &two, &three] {
        upsert(replica, 0..10).await.unwrap();
    }
    let lane = dir.path().join("log/lane-1").display().to_string();
    let fault = plant(&lane, Op::Sync, Failure::Io, Some(1));
    let told = |answer: &Result<Written, Refusal>| matches!(answer, Err(Refusal::Unavailable(why)) if why.contains("poisoned") && why.contains("restart"));
    let answer = upsert(&one, 100..110).await;
    assert!(told(&answer), "{answer:?}");
    // The next sync would succeed: nobody asks for it.
    for replica in [&one, &three] {
        let answer = upsert(replica, 0..1).await;
        assert!(told(&answer), "{answer:?}");
        assert_eq!(replica.quarantined(), None, "what it has is whole");
    }
    assert_eq!(fault.failed(), 1);
    upsert(&two, 10..20).await.unwrap();
    assert_eq!(count(&house, 2).await.unwrap(), 20);
    drop((one, two, three));
    house.close().await;
    let house = House::open(dir.path(), 3).await;
    assert_eq!((count(&house, 2).await.unwrap(), count(&house, 3).await.unwrap()), (20, 10));
    assert!(
        [10, 20].contains(&count(&house, 1).await.unwrap()),
        "the one that was refused may be there, whole"
    );
    upsert(&house.replica(1).await.unwrap(), 0..1).await.unwrap();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_space_waits_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path(), 2).await;
    let [one, two] = [house.replica(1).await.unwrap(), house.replica(2).await.unwrap()];
    let lane = dir.path().join("log/lane-1").display().to_string();
    let fault = plant(&lane, Op::Preallocate, Failure::Full, None);
    let writer = tokio::spawn({
        let one = one.clone();
        async move {
            let (mut done, mut refused) = (0, 0);
            while refused == 0 {
                match upsert(&one, done * 40..(done + 1) * 40).await {
                    Ok(_) => done += 1,
                    Err(Refusal::Exhausted { what, .. }) if what.contains("No space") => refused += 1,
                    Err(other) => panic!("{other:?}"),
                }
            }
            done
        }
    });
    until("the segment is used up", || fault.failed() > 0).await;
    // The write that met the full disk waits; whoever comes now is told at once.
    let answer = upsert(&one, 0..1).await;
    assert!(
        matches!(&answer, Err(Refusal::Exhausted { what, .. }) if what.contains("once there is space")),
        "{answer:?}"
    );
    one.store.view().find(&Key::Number(0)).unwrap().unwrap();
    upsert(&two, 0..10).await.unwrap();
    drop(fault);
    until("it goes on by itself", || one.group.has_space().is_ok()).await;
    writer.abort();
    let _ = writer.await;
    // Proposals keep their order: what the writer left behind is applied before this one.
    upsert(&one, 0..1).await.unwrap();
    let held = count(&house, 1).await.unwrap();
    assert!(held >= 40 && held % 40 == 0, "{held}");
    drop((one, two));
    house.close().await;
    let house = House::open(dir.path(), 2).await;
    assert_eq!(count(&house, 1).await.unwrap(), held);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealing_waits_for_space_and_goes_on() {
    for (op, part) in
        [(Op::Write, "seg-"), (Op::Create, "seg-"), (Op::Write, "MANIFEST.new"), (Op::Write, "seg-1/graph.0")]
    {
        let dir = tempfile::tempdir().unwrap();
        let soon = worker::Options { space_pause: Duration::from_millis(1), ..Default::default() };
        let house = House::open_with(dir.path(), 1, soon).await;
        let replica = house.replica(1).await.unwrap();
        let home = dir.path().join("partitions/1").display().to_string();
        let fault = plant(format!("{home}/{part}"), op, Failure::Full, Some(3));
        upsert(&replica, 0..120).await.unwrap();
        until("sealed and indexed", || is_at_rest(&replica)).await;
        assert_eq!(fault.failed(), 3, "{part}");
        assert_eq!((count(&house, 1).await.unwrap(), replica.quarantined()), (120, None));
        replica.store.verify().unwrap();
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_synced_or_renamed_takes_the_replica_out() {
    for (op, part) in [(Op::Sync, "seg-"), (Op::Sync, "MANIFEST.new"), (Op::Rename, "MANIFEST")] {
        let dir = tempfile::tempdir().unwrap();
        let house = House::open(dir.path(), 2).await;
        let replica = house.replica(1).await.unwrap();
        let home = dir.path().join("partitions/1").display().to_string();
        let fault = plant(format!("{home}/{part}"), op, Failure::Io, Some(1));
        // It is refused only if the fault came before the answer.
        let _ = upsert(&replica, 0..120).await;
        until(part, || replica.quarantined().is_some()).await;
        assert_eq!(fault.failed(), 1, "{part}: not tried again");
        assert!(is_data_loss(&count(&house, 1).await, part.trim_end_matches(".new")), "{part}");
        upsert(&house.replica(2).await.unwrap(), 0..10).await.unwrap();
        assert_eq!(count(&house, 2).await.unwrap(), 10);
        drop(replica);
        house.close().await;
        let house = House::open(dir.path(), 2).await;
        assert!(is_data_loss(&count(&house, 1).await, MARK), "{part}: a restart does not bring it back");
        assert_eq!(count(&house, 2).await.unwrap(), 10);
        house.close().await;
    }
}

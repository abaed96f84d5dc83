use super::*;
use crate::env::fs;

fn disk(name: &str) -> (Arc<Disk>, PathBuf) {
    let root = PathBuf::from(format!("/simulated/{name}"));
    (Disk::mount(&root, 7), root)
}

#[test]
fn what_was_not_synced_is_gone_after_a_cut_and_there_after_a_kill() {
    let (disk, root) = disk("cut");
    let file = fs::create(&root.join("a")).unwrap();
    file.write_at(&[1; 600], 0).unwrap();
    file.sync_data().unwrap();
    fs::sync_dir(&root).unwrap();
    file.write_at(&[2; 1000], 0).unwrap();
    fs::create(&root.join("b")).unwrap().sync_all().unwrap();
    disk.kill();
    assert!(file.write_at(&[3], 0).is_err(), "the process has ended");
    assert_eq!(fs::read(&root.join("a")).unwrap(), [2; 1000]);
    assert!(fs::exists(&root.join("b")).unwrap());
    disk.cut(Cut::Clean);
    assert_eq!(fs::read(&root.join("a")).unwrap(), [1; 600]);
    assert!(!fs::exists(&root.join("b")).unwrap(), "its name was never synced");
    assert_eq!(disk.counts().torn, 0);
    disk.remove();
}

#[test]
fn a_torn_cut_keeps_some_blocks() {
    let (disk, root) = disk("torn");
    let file = fs::create(&root.join("a")).unwrap();
    file.set_len(64 * 512).unwrap();
    file.sync_all().unwrap();
    fs::sync_dir(&root).unwrap();
    file.write_at(&[1; 64 * 512], 0).unwrap();
    disk.cut(Cut::Torn);
    let bytes = fs::read(&root.join("a")).unwrap();
    let blocks: Vec<u8> = bytes.chunks(512).map(|block| block[0]).collect();
    assert!(bytes.chunks(512).all(|block| block.iter().all(|byte| *byte == block[0])));
    assert!(blocks.contains(&0) && blocks.contains(&1));
    assert_eq!(disk.counts().torn, 1);
    disk.remove();
}

#[test]
fn a_failed_sync_loses_its_blocks_for_good() {
    let (disk, root) = disk("eio");
    let file = fs::create(&root.join("a")).unwrap();
    file.set_len(10).unwrap();
    file.sync_all().unwrap();
    fs::sync_dir(&root).unwrap();
    file.write_at(&[1; 10], 0).unwrap();
    disk.set_rates(Rates { write_errors: 1_000_000, ..Rates::default() });
    assert!(file.sync_data().is_err());
    disk.set_rates(Rates::default());
    file.sync_data().unwrap();
    disk.cut(Cut::Clean);
    assert_eq!(fs::read(&root.join("a")).unwrap(), [0; 10]);
    disk.remove();
}

#[test]
fn names_links_locks_and_space() {
    let (disk, root) = disk("names");
    fs::create_dir_all(&root.join("d/e")).unwrap();
    fs::append(&root.join("d/e/f")).unwrap().write_all(b"one ").unwrap();
    fs::append(&root.join("d/e/f")).unwrap().write_all(b"two").unwrap();
    fs::hard_link(&root.join("d/e/f"), &root.join("g")).unwrap();
    fs::rename(&root.join("d"), &root.join("h")).unwrap();
    fs::remove_file(&root.join("h/e/f")).unwrap();
    assert_eq!(fs::read(&root.join("g")).unwrap(), b"one two");
    assert_eq!(fs::read_dir(&root).unwrap(), ["g", "h"]);
    assert!(fs::is_dir(&root.join("h/e")).unwrap());
    fs::remove_dir_all(&root.join("h")).unwrap();
    assert_eq!(fs::open(&root.join("h/e/f")).unwrap_err().kind(), io::ErrorKind::NotFound);
    fs::write_atomic(&root.join("m"), b"manifest").unwrap();
    disk.cut(Cut::Clean);
    assert_eq!(fs::read(&root.join("m")).unwrap(), b"manifest");

    let held = fs::lock_folder(&root.join("data")).unwrap();
    assert_eq!(fs::lock_folder(&root.join("data")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(held);
    fs::lock_folder(&root.join("data")).unwrap();

    disk.leave_free(Some(100));
    let file = fs::create(&root.join("big")).unwrap();
    assert!(fs::is_full(&file.preallocate(101).unwrap_err()));
    file.preallocate(100).unwrap();
    assert!(fs::is_full(&file.write_at(&[1], 100).unwrap_err()));
    assert_eq!((fs::free_bytes(&root).unwrap(), disk.counts().full), (0, 2));
    disk.remove();
}

#[test]
fn it_stops_at_a_sync_done_or_not() {
    let (disk, root) = disk("stops-at");
    let path = root.join("m");
    // Two syncs: of the file, and of the folder with the name.
    let cases = [(1, false, "old"), (1, true, "old"), (2, false, "old"), (2, true, "new"), (3, false, "new")];
    for (sync, is_done, left) in cases {
        fs::write_atomic(&path, b"old").unwrap();
        let before = disk.counts().syncs;
        disk.stop_at_sync(sync, is_done);
        assert_eq!(fs::write_atomic(&path, b"new").is_ok(), sync == 3);
        assert_eq!(disk.counts().syncs - before, sync.min(2));
        let stopped_at = [Some(root.join("m.new")), Some(root.clone()), None];
        assert_eq!(disk.stopped_at(), stopped_at[sync as usize - 1]);
        assert_eq!(fs::create(&root.join("later")).is_err(), sync < 3, "nothing changes any more");
        disk.cut(Cut::Clean);
        assert_eq!(fs::read(&path).unwrap(), left.as_bytes(), "sync {sync}, done: {is_done}");
        assert_eq!(disk.stopped_at(), None);
    }
    disk.remove();
}

#[test]
fn it_stops_where_it_is_told_and_rots() {
    let (disk, root) = disk("stops");
    let path = root.join("m");
    fs::write_atomic(&path, b"old").unwrap();
    let before = disk.counts().changes;
    fs::write_atomic(&path, b"new").unwrap();
    let steps = disk.counts().changes - before;
    let mut seen = Vec::new();
    for step in 0..=steps {
        fs::write_atomic(&path, b"old").unwrap();
        disk.stop_after(step);
        assert_eq!(fs::write_atomic(&path, b"new").is_ok(), step == steps);
        disk.cut(Cut::Torn);
        seen.push(fs::read(&path).unwrap());
    }
    assert!(seen.iter().all(|bytes| bytes == b"old" || bytes == b"new"));
    assert!(seen[0] == b"old" && seen[steps as usize] == b"new");
    let before = fs::read(&path).unwrap();
    assert!(disk.rot(|path| path.ends_with("m")).is_some());
    let after = fs::read(&path).unwrap();
    let flipped: u32 = before.iter().zip(after).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!(flipped, 1);
    disk.remove();
}

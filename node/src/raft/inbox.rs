//! The receiver's side of a raft snapshot: a staging folder beside the replica's own, filled file by file, and put in the
//! replica's place as a whole.
//!
//! ```text
//! <folder>                    the replica's state
//! <folder>.incoming/          staged files; survives a broken transfer, which goes on where it stopped
//! <folder>.incoming/COMPLETE  every file is there, checked and synced: from here on the staged state counts
//! <folder>.old                the former state, for the moment between two renames
//! ```
//!
//! The replica is stopped before [`put_in_place`] and opened again after it; a crash in between is finished by
//! [`recover`] at the next boot. A state that is installed is always a committed one, and never older than the replica's own.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use flotilla_proto::peer;

use super::outbox::{FILES_MAX, OUTGOING, PIECE_BYTES, checksum};
use crate::env::fs;
use crate::planted::{self, Bug};

const COMPLETE: &str = "COMPLETE";

fn beside(folder: &Path, suffix: &str) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Where the state that replaces `folder` is staged.
pub fn staging(folder: &Path) -> PathBuf {
    beside(folder, ".incoming")
}

/// A transfer under way into a staging folder.
#[derive(Debug)]
pub struct Inbox {
    staging: PathBuf,
    files: Vec<peer::SnapshotFile>,
    open: Option<(usize, fs::File)>,
}

fn wrong(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.into())
}

/// Refuses a path that leads out of the folder, or is one of ours: the mark, the mark as it is written, or below them.
fn check(path: &str) -> io::Result<()> {
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    let top = path.split('/').next().unwrap_or_default();
    let is_mark = top.strip_prefix(COMPLETE).is_some_and(|rest| rest.is_empty() || rest == ".new");
    if path.len() > 512 || is_mark || !path.split('/').all(is_plain) {
        return Err(wrong(format!("`{path}` is not a file of a snapshot")));
    }
    Ok(())
}

impl Inbox {
    /// Begins, or goes on with, the transfer of these files in place of `folder`. Files that the replica has already are
    /// linked. Returns where to go on in each file.
    pub fn open(folder: &Path, files: Vec<peer::SnapshotFile>) -> io::Result<(Inbox, Vec<u64>)> {
        if files.len() > FILES_MAX {
            return Err(wrong(format!("{} files in a snapshot, {FILES_MAX} at most", files.len())));
        }
        let mut named = BTreeSet::new();
        for file in &files {
            check(&file.path)?;
            if !named.insert(file.path.as_str()) {
                return Err(wrong(format!("`{}` is offered twice", file.path)));
            }
        }
        let staging = staging(folder);
        fs::create_dir_all(&staging)?;
        let mut from = Vec::with_capacity(files.len());
        for file in &files {
            let at = staging.join(&file.path);
            if let Some(above) = at.parent() {
                fs::create_dir_all(above)?;
            }
            from.push(Self::held(&folder.join(&file.path), &at, file)?);
        }
        remove_others(&staging, &named)?;
        Ok((Inbox { staging, files, open: None }, from))
    }

    /// How much of the file is there: all of it if the replica or an earlier transfer has it, some if one broke off.
    fn held(own: &Path, staged: &Path, file: &peer::SnapshotFile) -> io::Result<u64> {
        let is_same = |path: &Path| -> io::Result<bool> {
            Ok(fs::exists(path)?
                && fs::open(path)?.len()? == file.bytes
                && checksum(path)? == (file.bytes, file.crc))
        };
        if fs::exists(staged)? {
            let length = fs::open(staged)?.len()?;
            // A shorter one is what came of it before the transfer broke off. But not one that has another name: that is
            // the replica's own, linked for an earlier offer, and what is appended to it would be appended there.
            if length < file.bytes && fs::links(staged)? == 1 || is_same(staged)? {
                return Ok(length.min(file.bytes));
            }
            fs::remove_file(staged)?;
        }
        if is_same(own)? {
            fs::hard_link(own, staged)?;
            return Ok(file.bytes);
        }
        Ok(0)
    }

    /// Writes a piece behind what is there of its file.
    pub fn write(&mut self, piece: &peer::SnapshotPiece) -> io::Result<()> {
        if piece.bytes.is_empty() {
            return Ok(());
        }
        let n = piece.file as usize;
        let file =
            self.files.get(n).ok_or_else(|| wrong(format!("piece of file {n}, which was not offered")))?;
        let end = piece.offset.saturating_add(piece.bytes.len() as u64);
        if piece.bytes.len() > PIECE_BYTES || end > file.bytes {
            return Err(wrong(format!("a piece of `{}` goes beyond its bounds", file.path)));
        }
        let path = self.staging.join(&file.path);
        if self.open.as_ref().is_none_or(|(open, _)| *open != n) {
            self.close()?;
            self.open = Some((n, fs::append(&path)?));
        }
        if let Some((_, open)) = &mut self.open {
            if open.len()? != piece.offset {
                return Err(wrong(format!("a piece of {} leaves a gap", path.display())));
            }
            open.write_all(&piece.bytes)?;
        }
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        match self.open.take() {
            Some((_, file)) if !planted::has(Bug::ManifestFirst) => file.sync_all(),
            Some(_) => Ok(()),
            None => Ok(()),
        }
    }

    /// Checks every file against its checksum, makes all durable and marks the state as complete.
    pub fn finish(mut self) -> io::Result<()> {
        self.close()?;
        for file in &self.files {
            let at = self.staging.join(&file.path);
            if file.bytes == 0 && !fs::exists(&at)? {
                fs::create(&at)?.sync_all()?;
            }
            if checksum(&at)? != (file.bytes, file.crc) {
                fs::remove_file(&at)?;
                return Err(io::Error::other(format!("`{}` did not arrive as it was sent", file.path)));
            }
            fs::open(&at)?.sync_all()?;
        }
        let mut folders = vec![self.staging.clone()];
        while let Some(folder) = folders.pop() {
            for name in fs::read_dir(&folder)? {
                let at = folder.join(name);
                if fs::is_dir(&at)? {
                    folders.push(at);
                }
            }
            fs::sync_dir(&folder)?;
        }
        fs::write_atomic(&self.staging.join(COMPLETE), b"complete\n")
    }
}

/// Removes files of an earlier offer that this one does not name.
fn remove_others(staging: &Path, named: &BTreeSet<&str>) -> io::Result<()> {
    let mut folders = vec![String::new()];
    while let Some(inside) = folders.pop() {
        for name in fs::read_dir(&staging.join(&inside))? {
            let path = if inside.is_empty() { name } else { format!("{inside}/{name}") };
            let at = staging.join(&path);
            if fs::is_dir(&at)? {
                folders.push(path);
            } else if !named.contains(path.as_str()) {
                fs::remove_file(&at)?;
            }
        }
    }
    Ok(())
}

/// Puts the complete staged state in the place of `folder`. Nobody has `folder` open.
pub fn put_in_place(folder: &Path) -> io::Result<()> {
    let (staging, old) = (staging(folder), beside(folder, ".old"));
    if fs::exists(&old)? {
        fs::remove_dir_all(&old)?;
    }
    if fs::exists(folder)? {
        fs::rename(folder, &old)?;
    }
    fs::rename(&staging, folder)?;
    if let Some(above) = folder.parent() {
        fs::sync_dir(above)?;
    }
    fs::remove_file(&folder.join(COMPLETE))?;
    if fs::exists(&old)? {
        fs::remove_dir_all(&old)?;
    }
    Ok(())
}

/// Finishes what a crash interrupted: see the module. Links that were on their way out are removed.
pub fn recover(folder: &Path) -> io::Result<()> {
    let (staging, old) = (staging(folder), beside(folder, ".old"));
    if fs::exists(&staging.join(COMPLETE))? {
        put_in_place(folder)?;
    }
    if fs::exists(&folder.join(COMPLETE))? {
        fs::remove_file(&folder.join(COMPLETE))?;
    }
    if fs::exists(&old)? {
        fs::remove_dir_all(&old)?;
    }
    remove_links(folder)
}

/// Removes whatever stands beside `folder` on its behalf.
pub fn remove_beside(folder: &Path) -> io::Result<()> {
    for at in [staging(folder), beside(folder, ".old")] {
        if fs::exists(&at)? {
            fs::remove_dir_all(&at)?;
        }
    }
    remove_links(folder)
}

/// Removes links to what was in `folder`, made to be sent ([`Outgoing`](super::outbox::Outgoing)): who made them is gone.
fn remove_links(folder: &Path) -> io::Result<()> {
    let (Some(above), Some(name)) = (folder.parent(), folder.file_name()) else { return Ok(()) };
    if !fs::exists(above)? {
        return Ok(());
    }
    let start = format!("{}{OUTGOING}", name.to_string_lossy());
    for link in fs::read_dir(above)?.iter().filter(|name| name.starts_with(&start)) {
        fs::remove_dir_all(&above.join(link))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::outbox::list;
    use super::*;

    fn sample(folder: &Path) {
        std::fs::create_dir_all(folder.join("seg-1/payload")).unwrap();
        std::fs::write(folder.join("MANIFEST"), vec![1; 5000]).unwrap();
        std::fs::write(folder.join("seg-1/vectors"), vec![2; 3 << 20]).unwrap();
        std::fs::write(folder.join("seg-1/payload/store"), b"").unwrap();
    }

    fn deliver(
        inbox: &mut Inbox,
        source: &Path,
        files: &[peer::SnapshotFile],
        from: &[u64],
        most: usize,
    ) -> usize {
        let mut sent = 0;
        for (n, (file, from)) in files.iter().zip(from).enumerate() {
            let bytes = std::fs::read(source.join(&file.path)).unwrap();
            for (k, chunk) in bytes[*from as usize..].chunks(PIECE_BYTES).enumerate() {
                if sent == most {
                    return sent;
                }
                let offset = from + (k * PIECE_BYTES) as u64;
                let bytes = Bytes::copy_from_slice(chunk);
                inbox.write(&peer::SnapshotPiece { to: None, file: n as u32, offset, bytes }).unwrap();
                sent += 1;
            }
        }
        sent
    }

    #[test]
    fn a_transfer_goes_on_where_it_broke_and_replaces_the_folder_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (source, folder) = (dir.path().join("source"), dir.path().join("7"));
        sample(&source);
        std::fs::create_dir_all(folder.join("seg-1")).unwrap();
        std::fs::write(folder.join("MANIFEST"), vec![1; 5000]).unwrap();
        std::fs::write(folder.join("stale"), b"stale").unwrap();
        let files = list(&source).unwrap();
        assert_eq!(files.len(), 3);

        let (mut inbox, from) = Inbox::open(&folder, files.clone()).unwrap();
        assert_eq!(from, [5000, 0, 0], "what the replica has is not sent again");
        assert_eq!(deliver(&mut inbox, &source, &files, &from, 2), 2);
        drop(inbox);
        recover(&folder).unwrap();
        assert!(folder.join("stale").exists(), "half a transfer changes nothing");

        let (mut inbox, from) = Inbox::open(&folder, files.clone()).unwrap();
        assert_eq!(from, [5000, 0, 2 << 20]);
        assert_eq!(deliver(&mut inbox, &source, &files, &from, usize::MAX), 1);
        inbox.finish().unwrap();
        put_in_place(&folder).unwrap();
        assert_eq!(list(&folder).unwrap(), files);
        assert!(!staging(&folder).exists());
    }

    #[test]
    fn a_crash_after_the_mark_is_finished_at_boot() {
        let dir = tempfile::tempdir().unwrap();
        let (source, folder) = (dir.path().join("source"), dir.path().join("7"));
        sample(&source);
        let files = list(&source).unwrap();
        for crash in 0..3 {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("stale"), b"stale").unwrap();
            let (mut inbox, from) = Inbox::open(&folder, files.clone()).unwrap();
            deliver(&mut inbox, &source, &files, &from, usize::MAX);
            inbox.finish().unwrap();
            if crash > 0 {
                std::fs::rename(&folder, beside(&folder, ".old")).unwrap();
            }
            if crash > 1 {
                std::fs::rename(staging(&folder), &folder).unwrap();
            }
            recover(&folder).unwrap();
            assert_eq!(list(&folder).unwrap(), files, "crash {crash}");
            assert!(!beside(&folder, ".old").exists());
        }
    }

    /// What is there under this name, by path.
    fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        for name in fs::read_dir(folder).unwrap_or_default() {
            let at = folder.join(&name);
            if fs::is_dir(&at).unwrap() {
                found.extend(content(&at).into_iter().map(|(path, bytes)| (format!("{name}/{path}"), bytes)));
            } else {
                found.push((name, fs::read(&at).unwrap()));
            }
        }
        found
    }

    /// Takes a whole transfer in, as far as the disk goes along.
    fn receive(folder: &Path, new: &[(&str, Vec<u8>)]) -> io::Result<()> {
        let file = |(path, bytes): &(&str, Vec<u8>)| peer::SnapshotFile {
            path: (*path).to_owned(),
            bytes: bytes.len() as u64,
            crc: crc32fast::hash(bytes),
        };
        let (mut inbox, from) = Inbox::open(folder, new.iter().map(file).collect())?;
        for (n, ((_, bytes), from)) in new.iter().zip(from).enumerate() {
            for (k, chunk) in bytes[from as usize..].chunks(700).enumerate() {
                let bytes = Bytes::copy_from_slice(chunk);
                let offset = from + (k * 700) as u64;
                inbox.write(&peer::SnapshotPiece { to: None, file: n as u32, offset, bytes })?;
            }
        }
        inbox.finish()?;
        put_in_place(folder)
    }

    #[test]
    fn a_power_cut_after_any_step_leaves_the_old_folder_or_the_new_one() {
        use crate::env::sim::{Cut, Disk};

        let old = vec![("MANIFEST".to_owned(), vec![1; 900]), ("seg-1/rows".to_owned(), vec![7; 1500])];
        let new = [("MANIFEST", vec![2; 1000]), ("seg-1/rows", vec![7; 1500]), ("seg-2/rows", vec![3; 2000])];
        let whole: Vec<(String, Vec<u8>)> =
            new.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect();
        let mut seen = [0, 0];
        for (cut, after) in
            [Cut::Clean, Cut::Torn].into_iter().flat_map(|cut| (0..120).map(move |n| (cut, n)))
        {
            let disk = Disk::mount(format!("/simulated/inbox-{cut:?}-{after}"), after);
            let folder = disk.root().join("7");
            for (path, bytes) in &old {
                fs::make_dir(folder.join(path).parent().unwrap()).unwrap();
                fs::write_atomic(&folder.join(path), bytes).unwrap();
            }
            disk.stop_after(after);
            let is_done = receive(&folder, &new).is_ok();
            disk.cut(cut);
            recover(&folder).unwrap();
            let found = content(&folder);
            let is_new = found == whole;
            assert!(is_new || found == old && !is_done, "{cut:?} after step {after}: {found:?}");
            seen[usize::from(is_new)] += 1;
            // And the transfer can be made again. A file that was torn is found, thrown away and sent once more.
            let again = (0..=new.len()).find(|_| receive(&folder, &new).is_ok());
            assert!(again.is_some(), "{cut:?} after step {after}");
            assert_eq!(content(&folder), whole);
            disk.remove();
        }
        assert!(seen[0] > 20 && seen[1] > 20, "{seen:?}: steps before and after the swap");
    }

    #[test]
    fn links_whose_maker_is_gone_go_and_those_of_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for forget in [recover, remove_beside] {
            ["1.out-00ff", "1.out-17", "11.out-00ff", "1"].iter().for_each(|name| sample(&at(name)));
            forget(&at("1")).unwrap();
            let left = ["1.out-00ff", "1.out-17", "11.out-00ff", "1"].map(|name| at(name).exists());
            assert_eq!(left, [false, false, true, true]);
        }
        recover(&at("none/1")).unwrap();
    }

    #[test]
    fn a_longer_file_of_another_sender_leaves_the_replicas_own_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (source, folder) = (dir.path().join("source"), dir.path().join("7"));
        sample(&source);
        sample(&folder);
        let (inbox, from) = Inbox::open(&folder, list(&source).unwrap()).unwrap();
        assert_eq!(from, [5000, 0, 3 << 20], "the replica has all of it");
        drop(inbox);
        // The transfer broke off; another leader's file of that name begins alike and goes on.
        std::fs::write(source.join("MANIFEST"), vec![1; 6000]).unwrap();
        let files = list(&source).unwrap();
        let (mut inbox, from) = Inbox::open(&folder, files.clone()).unwrap();
        deliver(&mut inbox, &source, &files, &from, usize::MAX);
        inbox.finish().unwrap();
        assert_eq!(std::fs::read(folder.join("MANIFEST")).unwrap(), vec![1; 5000], "not yet in place");
        put_in_place(&folder).unwrap();
        assert_eq!(list(&folder).unwrap(), files);
    }

    #[test]
    fn no_offered_name_makes_half_a_transfer_look_complete() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("7");
        sample(&folder);
        let before = list(&folder).unwrap();
        let file = |path: &str, bytes| peer::SnapshotFile { path: path.into(), bytes, crc: 0 };
        for path in ["COMPLETE/x", "COMPLETE.new"] {
            assert!(Inbox::open(&folder, vec![file(path, 1)]).is_err(), "{path}");
            recover(&folder).unwrap();
            assert_eq!(list(&folder).unwrap(), before, "{path}");
        }
        let twice = Inbox::open(&folder, vec![file("a", 1), file("a", 2)]).unwrap_err();
        assert!(twice.to_string().contains("`a`"), "{twice}");
    }

    #[test]
    fn what_is_damaged_on_the_way_or_leads_outside_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (source, folder) = (dir.path().join("source"), dir.path().join("7"));
        sample(&source);
        let mut files = list(&source).unwrap();
        files[2].crc ^= 1;
        let (mut inbox, from) = Inbox::open(&folder, files.clone()).unwrap();
        deliver(&mut inbox, &source, &files, &from, usize::MAX);
        assert!(inbox.finish().unwrap_err().to_string().contains("seg-1/vectors"));
        for path in ["../7", "/etc/passwd", "a//b", "", "COMPLETE", "a/./b"] {
            let file = peer::SnapshotFile { path: path.into(), bytes: 1, crc: 0 };
            assert!(Inbox::open(&folder, vec![file]).is_err(), "{path}");
        }
    }
}

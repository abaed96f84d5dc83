//! The receiver of a raft snapshot, spoken to by anybody.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use flotilla_proto::peer::{SnapshotFile, SnapshotPiece};

use super::super::inbox::{self, Inbox};
use super::super::outbox::list;
use crate::fuzz::Input;

/// Files of an offer, at most.
const FILES_MAX: usize = 6;
/// Names that an honest sender uses, and some that lead elsewhere or are the receiver's own.
const NAMES: [&str; 16] = [
    "MANIFEST",
    "seg-1/keys",
    "seg-1/payload/store",
    "a",
    "a/b",
    "COMPLETE",
    "COMPLETE/x",
    "COMPLETE.new",
    "../7/MANIFEST",
    "seg-1/../../beside",
    "/dev/null",
    "seg-1",
    ".",
    "",
    "a//b",
    "a\0b",
];
const LIVE: [(&str, &[u8]); 2] = [("MANIFEST", b"the replica's own"), ("seg-1/keys", b"its keys")];
const BESIDE: &[u8] = b"somebody else's";

/// A script: the offer's files, the pieces that come, and how it ends.
///
/// **Promise.** Nothing outside the staging folder is touched before the transfer is whole, and nothing but the replica's folder
/// after it; a transfer that broke off changes nothing, also at the next boot. One that is whole put exactly the files that
/// were offered there, each with its length and checksum. Refused or not, no panic, and no memory for a length that is only
/// claimed.
pub fn snapshot(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let root = crate::fuzz::folder();
    let folder = root.path().join("7");
    for (name, bytes) in LIVE {
        let path = folder.join(name);
        path.parent().map(std::fs::create_dir_all).transpose().expect("the folder is ours");
        std::fs::write(path, bytes).expect("the folder is ours");
    }
    std::fs::write(root.path().join("beside"), BESIDE).expect("the folder is ours");
    let (files, contents) = offer(&mut input);
    let finishes = input.byte().is_multiple_of(2);
    let is_whole = Inbox::open(&folder, files.clone()).and_then(|(inbox, from)| {
        assert!(from.len() == files.len() && from.iter().zip(&files).all(|(from, file)| *from <= file.bytes));
        let sent = send(inbox, &files, &contents, from, &mut input);
        if finishes { sent.finish().map(|()| true) } else { Ok(false) }
    });
    assert_eq!(held(&folder), live(), "nothing changes before the transfer is whole");
    match is_whole {
        Ok(true) => {
            inbox::put_in_place(&folder).expect("a whole transfer is put in place");
            let mut offered = files;
            offered.sort_by(|a, b| a.path.cmp(&b.path));
            offered.dedup();
            assert_eq!(list(&folder).expect("the folder is ours"), offered);
        }
        _ => {
            inbox::recover(&folder).expect("a boot");
            assert_eq!(held(&folder), live(), "half a transfer changes nothing");
        }
    }
    assert_eq!(std::fs::read(root.path().join("beside")).ok().as_deref(), Some(BESIDE));
    inbox::remove_beside(&folder).expect("the folder is ours");
    let left = std::fs::read_dir(root.path()).expect("the folder is ours").count();
    assert_eq!(left, 2, "the replica's folder, and the one file beside it");
}

/// The files on offer, and what they would hold.
fn offer(input: &mut Input<'_>) -> (Vec<SnapshotFile>, Vec<Vec<u8>>) {
    let (mut files, mut contents) = (Vec::new(), Vec::new());
    for _ in 0..usize::from(input.byte()).min(FILES_MAX) {
        let (name, twist, len) = (input.byte(), input.byte(), usize::from(input.byte()));
        let path = match NAMES.get(usize::from(name)) {
            Some(name) => (*name).to_owned(),
            None => String::from_utf8_lossy(input.take(usize::from(name) % 24)).into_owned(),
        };
        let held = LIVE.iter().find(|(live, _)| *live == path && len % 4 == 0);
        let content = held.map_or(vec![len as u8; len], |(_, bytes)| bytes.to_vec());
        let mut file = SnapshotFile { path, bytes: content.len() as u64, crc: crc32fast::hash(&content) };
        match twist % 8 {
            6 => file.crc ^= 1,
            7 => file.bytes = input.long(),
            _ => {}
        }
        files.push(file);
        contents.push(content);
    }
    (files, contents)
}

/// Sends what the script says; with nothing left to say, all that is missing.
fn send(
    mut inbox: Inbox,
    files: &[SnapshotFile],
    contents: &[Vec<u8>],
    mut from: Vec<u64>,
    input: &mut Input<'_>,
) -> Inbox {
    for _ in 0..usize::from(input.byte() % 16) {
        let (n, what, len) = (usize::from(input.byte()), input.byte(), usize::from(input.byte()));
        let at = from.get(n).copied().unwrap_or_default();
        let offset = match what % 4 {
            0 => input.long(),
            1 => at.wrapping_add(1),
            _ => at,
        };
        let content = contents.get(n).map(Vec::as_slice).unwrap_or_default();
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(content.len());
        let bytes = content[start..].iter().chain(&[what; 256]).take(len).copied().collect();
        if inbox.write(&SnapshotPiece { to: None, file: n as u32, offset, bytes }).is_ok() && n < from.len() {
            from[n] += len as u64;
        }
    }
    for (n, (content, at)) in contents.iter().zip(from).enumerate() {
        let rest = usize::try_from(at).ok().and_then(|at| content.get(at..)).unwrap_or_default();
        if files[n].bytes == content.len() as u64 && !rest.is_empty() {
            let bytes = Bytes::copy_from_slice(rest);
            drop(inbox.write(&SnapshotPiece { to: None, file: n as u32, offset: at, bytes }));
        }
    }
    inbox
}

fn live() -> BTreeMap<String, Vec<u8>> {
    LIVE.map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).into()
}

fn held(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = list(folder).expect("the folder is ours").into_iter();
    files.map(|file| (file.path.clone(), std::fs::read(folder.join(file.path)).expect("a file"))).collect()
}

/// An honest transfer, one that breaks off, and one of strange names, for the corpus.
#[cfg(test)]
pub fn samples() -> [Vec<u8>; 3] {
    [
        vec![3, 0, 0, 4, 1, 0, 9, 2, 0, 100, 0, 3, 1, 2, 4, 2, 2, 60, 2, 2, 40],
        vec![2, 0, 0, 7, 2, 0, 80, 1, 1, 1, 2, 30],
        vec![4, 3, 0, 5, 5, 0, 1, 8, 7, 1, 255, 0, 0, 0, 0, 0, 0, 0, 9, 6, 3, 0, 2, 0, 0, 3, 1, 2, 3],
    ]
}

//! The data folder: whose it is, and whether this program may open it.
//!
//! `NODE` names the format, the version of the pinned hash and the node's identity; `LOCK` is held while a process uses the
//! folder. The folder is portable: stop, copy, start elsewhere.

use std::io;
use std::path::{Path, PathBuf};

use flotilla_proto::ring::HASH_VERSION;
use uuid::Uuid;

use crate::env::{fs, random};
use crate::storage::Fault;

/// The newest format of a data folder that this program reads, and the one that it writes.
pub const FORMAT: u32 = 1;

/// An open data folder.
pub struct Folder {
    path: PathBuf,
    uuid: Uuid,
    _lock: fs::FolderLock,
}

impl Folder {
    /// Opens the folder, or makes a new one.
    pub fn open(path: &Path) -> Result<Folder, Fault> {
        let fault = |why: io::Error| Fault::Io {
            file: path.to_owned(),
            reason: why.to_string(),
            is_full: why.kind() == io::ErrorKind::StorageFull,
        };
        fs::create_dir_all(path).map_err(fault)?;
        let lock = fs::lock_folder(path).map_err(fault)?;
        let file = path.join("NODE");
        let uuid = if fs::exists(&file).map_err(fault)? {
            let bytes = fs::read(&file).map_err(fault)?;
            parse(&file, &bytes)?
        } else {
            let uuid = random::uuid();
            fs::write_atomic(&file, text(uuid).as_bytes()).map_err(fault)?;
            uuid
        };
        Ok(Folder { path: path.to_owned(), uuid, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's identity.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }
}

fn text(uuid: Uuid) -> String {
    format!("format {FORMAT}\nhash {HASH_VERSION}\nnode {uuid}\n")
}

fn parse(file: &Path, bytes: &[u8]) -> Result<Uuid, Fault> {
    let damaged = |reason: String| Fault::Damaged { file: file.to_owned(), offset: 0, reason };
    let text = std::str::from_utf8(bytes).map_err(|e| damaged(e.to_string()))?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.ok_or_else(|| damaged(format!("no line `{key} ...`")))
    };
    let number = |key: &str| {
        let value = value(key)?;
        value.parse::<u32>().map_err(|_| damaged(format!("`{key} {value}` is not a number")))
    };
    for (key, known) in [("format", FORMAT), ("hash", u32::from(HASH_VERSION))] {
        let found = number(key)?;
        if found > known {
            return Err(Fault::Newer { file: file.to_owned(), found, known });
        }
    }
    let node = value("node")?;
    node.parse().map_err(|_| damaged(format!("`{node}` is not a node's identity")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_and_a_second_opener_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let uuid = folder.uuid();
        let second = Folder::open(dir.path()).err().expect("refused").to_string();
        assert!(second.contains("another process"), "{second}");
        drop(folder);
        assert_eq!(Folder::open(dir.path()).unwrap().uuid(), uuid);
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let newer = format!("format 99\nhash 1\nnode {}\n", Uuid::nil());
        std::fs::write(dir.path().join("NODE"), newer).unwrap();
        let refused = Folder::open(dir.path()).err().expect("refused").to_string();
        assert!(refused.contains("version 99 is newer than 1"), "{refused}");
        std::fs::write(dir.path().join("NODE"), "format one\n").unwrap();
        assert!(Folder::open(dir.path()).is_err());
    }
}

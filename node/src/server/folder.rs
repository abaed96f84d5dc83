//! The data folder: whose it is, and whether this program may open it.
//!
//! `NODE` names the format, the version of the pinned hash, the node's identity, and, once it is a member, its cluster and its
//! number there; `LOCK` is held while a process uses the folder. The folder is portable: stop, copy, start elsewhere. A
//! folder is bound to its cluster for good: what it holds means nothing in another.

use std::io;
use std::path::{Path, PathBuf};

use flotilla_proto::ids::NodeId;
use flotilla_proto::ring::HASH_VERSION;
use uuid::Uuid;

use crate::env::{fs, random};
use crate::storage::Fault;

/// The newest format of a data folder that this program reads, and the one that it writes.
pub const FORMAT: u32 = 2;
/// The oldest one that it reads.
const FORMAT_OLDEST: u32 = 2;

/// What a folder is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The cluster.
    pub cluster: Uuid,
    /// The node's number in it.
    pub id: NodeId,
}

impl Membership {
    /// That of the first node of a new cluster.
    pub fn first() -> Membership {
        Membership { cluster: random::uuid(), id: NodeId(1) }
    }
}

/// An open data folder.
pub struct Folder {
    path: PathBuf,
    uuid: Uuid,
    membership: Option<Membership>,
    _lock: fs::FolderLock,
}

impl Folder {
    /// Opens the folder, or makes a new one.
    pub fn open(path: &Path) -> Result<Folder, Fault> {
        let fault = |why: io::Error| io_fault(path, &why);
        fs::make_dir(path).map_err(fault)?;
        let lock = fs::lock_folder(path).map_err(fault)?;
        let file = path.join("NODE");
        let (uuid, membership) = if fs::exists(&file).map_err(fault)? {
            parse(&file, &fs::read(&file).map_err(fault)?)?
        } else {
            let uuid = random::uuid();
            fs::write_atomic(&file, text(uuid, None).as_bytes()).map_err(fault)?;
            (uuid, None)
        };
        Ok(Folder { path: path.to_owned(), uuid, membership, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's identity.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// What it is bound to, if it is yet.
    pub fn membership(&self) -> Option<Membership> {
        self.membership
    }

    /// Binds it.
    pub fn bind(&mut self, membership: Membership) -> Result<(), Fault> {
        if self.membership != Some(membership) {
            let text = text(self.uuid, Some(membership));
            fs::write_atomic(&self.path.join("NODE"), text.as_bytes())
                .map_err(|why| io_fault(&self.path, &why))?;
            self.membership = Some(membership);
        }
        Ok(())
    }
}

fn io_fault(path: &Path, why: &io::Error) -> Fault {
    let is_full = why.kind() == io::ErrorKind::StorageFull;
    Fault::Io { file: path.to_owned(), reason: why.to_string(), is_full }
}

fn text(uuid: Uuid, membership: Option<Membership>) -> String {
    let bound = membership.map(|m| format!("cluster {}\nid {}\n", m.cluster, m.id)).unwrap_or_default();
    format!("format {FORMAT}\nhash {HASH_VERSION}\nnode {uuid}\n{bound}")
}

fn parse(file: &Path, bytes: &[u8]) -> Result<(Uuid, Option<Membership>), Fault> {
    let damaged = |reason: String| Fault::Damaged { file: file.to_owned(), offset: 0, reason };
    let text = std::str::from_utf8(bytes).map_err(|e| damaged(e.to_string()))?;
    let find = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    let value = |key: &str| find(key).ok_or_else(|| damaged(format!("no line `{key} ...`")));
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
    if number("format")? < FORMAT_OLDEST {
        return Err(damaged(format!(
            "format {} is older than {FORMAT_OLDEST}, the oldest read",
            number("format")?
        )));
    }
    let uuid = |key: &str| {
        let value = value(key)?;
        value.parse::<Uuid>().map_err(|_| damaged(format!("`{key} {value}` is not an identity")))
    };
    let membership = match find("id") {
        None => None,
        Some(id) => {
            let id = id.parse().map_err(|_| damaged(format!("`id {id}` is not a number")))?;
            Some(Membership { cluster: uuid("cluster")?, id: NodeId(id) })
        }
    };
    Ok((uuid("node")?, membership))
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
        let mut folder = Folder::open(dir.path()).unwrap();
        assert_eq!((folder.uuid(), folder.membership()), (uuid, None));
        let bound = Membership { cluster: Uuid::from_u128(5), id: NodeId(3) };
        folder.bind(bound).unwrap();
        drop(folder);
        let folder = Folder::open(dir.path()).unwrap();
        assert_eq!((folder.uuid(), folder.membership()), (uuid, Some(bound)));
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let newer = format!("format 99\nhash 1\nnode {}\n", Uuid::nil());
        std::fs::write(dir.path().join("NODE"), newer).unwrap();
        let refused = Folder::open(dir.path()).err().expect("refused").to_string();
        assert!(refused.contains("version 99 is newer than 2"), "{refused}");
        std::fs::write(dir.path().join("NODE"), "format one\n").unwrap();
        assert!(Folder::open(dir.path()).is_err());
    }
}

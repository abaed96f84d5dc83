//! Folders and names: as the system shows them, and as they are on the platter.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::error;

const ROOT: u64 = 0;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) number: u64,
    pub(super) is_dir: bool,
}

type Names = BTreeMap<String, Found>;

#[derive(Debug, Default)]
struct Folder {
    shown: Names,
    durable: Names,
}

/// All folders of a disk.
#[derive(Debug)]
pub(super) struct Tree {
    folders: BTreeMap<u64, Folder>,
    last: u64,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree { folders: BTreeMap::from([(ROOT, Folder::default())]), last: ROOT }
    }
}

fn names(path: &Path) -> io::Result<Vec<&str>> {
    path.components()
        .map(|part| match part {
            Component::Normal(name) => name.to_str().ok_or_else(|| error(libc::EINVAL)),
            _ => Err(error(libc::EINVAL)),
        })
        .collect()
}

impl Tree {
    pub(super) fn find(&self, path: &Path) -> io::Result<Found> {
        let mut at = Found { number: ROOT, is_dir: true };
        for name in names(path)? {
            let folder = self.folders.get(&at.number).filter(|_| at.is_dir);
            let folder = folder.ok_or_else(|| error(libc::ENOTDIR))?;
            at = *folder.shown.get(name).ok_or_else(|| error(libc::ENOENT))?;
        }
        Ok(at)
    }

    /// The names in the folder above, and the path's own name.
    fn above<'a>(&mut self, path: &'a Path) -> io::Result<(&mut Names, &'a str)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| error(libc::EINVAL))?;
        let folder = self.find(path.parent().unwrap_or(Path::new("")))?;
        let names = self.folders.get_mut(&folder.number).filter(|_| folder.is_dir);
        Ok((&mut names.ok_or_else(|| error(libc::ENOTDIR))?.shown, name))
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let found = self.find(path)?;
        let folder = self.folders.get(&found.number).filter(|_| found.is_dir);
        Ok(folder.ok_or_else(|| error(libc::ENOTDIR))?.shown.keys().cloned().collect())
    }

    /// A name for a new file.
    pub(super) fn create(&mut self, path: &Path) -> io::Result<u64> {
        let number = self.number();
        let (names, name) = self.above(path)?;
        names.insert(name.to_owned(), Found { number, is_dir: false });
        Ok(number)
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut at = ROOT;
        for name in names(path)? {
            let number = self.number();
            let Some(folder) = self.folders.get_mut(&at) else { return Err(error(libc::ENOTDIR)) };
            let found = *folder.shown.entry(name.to_owned()).or_insert(Found { number, is_dir: true });
            if !found.is_dir {
                return Err(error(libc::ENOTDIR));
            }
            self.folders.entry(found.number).or_default();
            at = found.number;
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let found = self.find(from)?;
        if let Ok(there) = self.find(to) {
            let is_full =
                self.folders.get(&there.number).is_some_and(|f| there.is_dir && !f.shown.is_empty());
            match (found.is_dir, there.is_dir) {
                (true, true) if is_full => return Err(error(libc::ENOTEMPTY)),
                (true, false) => return Err(error(libc::ENOTDIR)),
                (false, true) => return Err(error(libc::EISDIR)),
                _ => {}
            }
        }
        let (names, name) = self.above(to)?;
        names.insert(name.to_owned(), found);
        let (names, name) = self.above(from)?;
        names.remove(name);
        Ok(())
    }

    pub(super) fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let found = self.find(from)?;
        if found.is_dir {
            return Err(error(libc::EPERM));
        }
        let (names, name) = self.above(to)?;
        if names.contains_key(name) {
            return Err(error(libc::EEXIST));
        }
        names.insert(name.to_owned(), found);
        Ok(())
    }

    /// How many names a file has.
    pub(super) fn links(&self, path: &Path) -> io::Result<u64> {
        let meant = self.find(path)?;
        let names = self.folders.values().flat_map(|folder| folder.shown.values());
        Ok(names.filter(|found| found.number == meant.number).count() as u64)
    }

    /// Removes a file's name, or a folder's with all that is in it.
    pub(super) fn remove(&mut self, path: &Path, is_dir: bool) -> io::Result<()> {
        if self.find(path)?.is_dir != is_dir {
            return Err(error(if is_dir { libc::ENOTDIR } else { libc::EISDIR }));
        }
        let (names, name) = self.above(path)?;
        names.remove(name);
        Ok(())
    }

    /// Makes the names in a folder durable.
    pub(super) fn sync(&mut self, path: &Path) -> io::Result<()> {
        let found = self.find(path)?;
        let folder = self.folders.get_mut(&found.number).filter(|_| found.is_dir);
        let folder = folder.ok_or_else(|| error(libc::ENOTDIR))?;
        folder.durable = folder.shown.clone();
        Ok(())
    }

    /// After a power cut.
    pub(super) fn cut(&mut self, survives: &mut impl FnMut() -> bool) {
        for Folder { shown, durable } in self.folders.values_mut() {
            let all: BTreeSet<&String> = shown.keys().chain(durable.keys()).collect();
            let changed: Vec<String> =
                all.into_iter().filter(|name| shown.get(*name) != durable.get(*name)).cloned().collect();
            for name in changed {
                match shown.get(&name) {
                    _ if !survives() => {}
                    Some(found) => drop(durable.insert(name, *found)),
                    None => drop(durable.remove(&name)),
                }
            }
            *shown = durable.clone();
        }
    }

    /// The files that have a name. Folders that have none are forgotten. Right after a cut, when nothing is open.
    pub(super) fn live(&mut self) -> BTreeSet<u64> {
        let (mut files, mut folders, mut todo) = (BTreeSet::new(), BTreeSet::from([ROOT]), vec![ROOT]);
        while let Some(number) = todo.pop() {
            for found in self.folders.get(&number).into_iter().flat_map(|folder| folder.shown.values()) {
                match found.is_dir {
                    true if folders.insert(found.number) => todo.push(found.number),
                    true => {}
                    false => drop(files.insert(found.number)),
                }
            }
        }
        self.folders.retain(|number, _| folders.contains(number));
        files
    }

    /// A path of this file; empty if it has none.
    pub(super) fn path_of(&self, number: u64) -> PathBuf {
        let found = self.paths().into_iter().find(|(_, of)| *of == number);
        found.map(|(path, _)| path).unwrap_or_default()
    }

    /// Every file with its path.
    pub(super) fn paths(&self) -> Vec<(PathBuf, u64)> {
        let (mut found, mut todo) = (Vec::new(), vec![(PathBuf::new(), ROOT)]);
        while let Some((path, number)) = todo.pop() {
            for (name, entry) in self.folders.get(&number).into_iter().flat_map(|folder| &folder.shown) {
                let path = path.join(name);
                if entry.is_dir { todo.push((path, entry.number)) } else { found.push((path, entry.number)) }
            }
        }
        found.sort();
        found
    }
}

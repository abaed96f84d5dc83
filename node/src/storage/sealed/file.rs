//! The plain files of a sealed segment: written once from front to back with a running checksum, then mapped.

use std::path::{Path, PathBuf};

use bytemuck::AnyBitPattern;
use serde::{Deserialize, Serialize};

use crate::env::fs::{self, File};
use crate::env::mmap::Mmap;
use crate::planted::{self, Bug};
use crate::storage::Fault;

const BUFFER: usize = 1 << 20;

/// What the segment's header knows of one of its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::storage) struct Entry {
    /// Its path inside the segment's folder.
    pub name: String,
    /// Bytes.
    pub len: u64,
    /// CRC-32 of all of them.
    pub crc: u32,
}

/// A file being written.
pub(super) struct Writer {
    file: File,
    name: String,
    buffer: Vec<u8>,
    crc: crc32fast::Hasher,
    len: u64,
}

impl Writer {
    /// Starts the file `name` in `dir`.
    pub fn create(dir: &Path, name: &str) -> Result<Writer, Fault> {
        let path = dir.join(name);
        let file = fs::create(&path).map_err(|error| Fault::io(&path, &error))?;
        let buffer = Vec::with_capacity(BUFFER);
        Ok(Writer { file, name: name.to_owned(), buffer, crc: crc32fast::Hasher::new(), len: 0 })
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            return self.put(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Fault> {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.put(&buffer)?;
        buffer.clear();
        self.buffer = buffer;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.file.write_at(bytes, self.len).map_err(|error| Fault::io(self.file.path(), &error))?;
        self.crc.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Makes the file durable (its name is, once the folder was synced).
    pub fn finish(mut self) -> Result<Entry, Fault> {
        self.flush()?;
        if !planted::has(Bug::ManifestFirst) {
            self.file.sync_all().map_err(|error| Fault::io(self.file.path(), &error))?;
        }
        Ok(Entry { name: self.name, len: self.len, crc: self.crc.finalize() })
    }
}

impl Entry {
    /// The entry of a file that someone else wrote.
    pub fn of(dir: &Path, name: &str) -> Result<Entry, Fault> {
        let (len, crc) = measure(&dir.join(name))?;
        Ok(Entry { name: name.to_owned(), len, crc })
    }

    /// Its path.
    pub fn path(&self, dir: &Path) -> PathBuf {
        dir.join(&self.name)
    }

    /// Refuses a file of another length; cheap.
    pub fn check_len(&self, dir: &Path) -> Result<(), Fault> {
        let path = self.path(dir);
        let len = fs::open(&path).and_then(|file| file.len()).map_err(|error| Fault::io(&path, &error))?;
        self.same_len(&path, len)
    }

    fn same_len(&self, path: &Path, len: u64) -> Result<(), Fault> {
        if len == self.len {
            return Ok(());
        }
        Err(Fault::damaged(path, len.min(self.len), format!("{len} bytes long, written with {}", self.len)))
    }

    /// Refuses a file whose bytes are not those written; reads all of it.
    pub fn verify(&self, dir: &Path) -> Result<(), Fault> {
        let path = self.path(dir);
        let (len, crc) = measure(&path)?;
        self.same_len(&path, len)?;
        self.same_crc(&path, crc)
    }

    /// Refuses the checksum of bytes that are not those written.
    pub fn same_crc(&self, path: &Path, crc: u32) -> Result<(), Fault> {
        let reason = || format!("checksum {crc:08x}, written with {:08x}", self.crc);
        if crc == self.crc { Ok(()) } else { Err(Fault::damaged(path, 0, reason())) }
    }

    /// Maps the file; its length is checked, its bytes are not.
    pub fn map(&self, dir: &Path) -> Result<Mmap, Fault> {
        let path = self.path(dir);
        let map = Mmap::open(&path).map_err(|error| Fault::io(&path, &error))?;
        self.same_len(&path, map.len() as u64)?;
        Ok(map)
    }

    /// Maps the file and checks every byte.
    pub fn map_checked(&self, dir: &Path) -> Result<Mmap, Fault> {
        let map = self.map(dir)?;
        self.same_crc(&self.path(dir), crc32fast::hash(&map))?;
        Ok(map)
    }
}

fn measure(path: &Path) -> Result<(u64, u32), Fault> {
    let file = fs::open(path).map_err(|error| Fault::io(path, &error))?;
    let (mut hasher, mut len, mut buffer) = (crc32fast::Hasher::new(), 0_u64, vec![0; 1 << 18]);
    loop {
        match file.read_at(&mut buffer, len).map_err(|error| Fault::io(path, &error))? {
            0 => return Ok((len, hasher.finalize())),
            got => {
                hasher.update(&buffer[..got]);
                len += got as u64;
            }
        }
    }
}

/// The bytes as numbers, in place. Maps begin on a page, so only a length that does not divide is refused; empty
/// slices may stand anywhere.
pub(super) fn cast<T: AnyBitPattern>(bytes: &[u8]) -> Option<&[T]> {
    if bytes.is_empty() { Some(&[]) } else { bytemuck::try_cast_slice(bytes).ok() }
}

//! Checksums of the folder's files, block by block, so that damage is found before it is read and opening reads little.
//!
//! tantivy trusts its files: a flipped bit can make it panic or allocate what a damaged length says. So the file
//! `checks`, written last, holds the length of every file and the CRC-32 of each of its 64 KiB blocks; a block is
//! verified when it is first read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::super::Fault;
use super::{damaged, io_fault};
use crate::env::fs;
use crate::env::mmap::Mmap;
use crate::planted::{self, Bug};

/// Name of the file of checksums.
pub(super) const FILE: &str = "checks";
const MAGIC: [u8; 8] = *b"FLPAYIDX";
/// 1: the first. 2: of a folder whose keywords have columns, and whose long runs are known, which programs of before take for
/// damage where they do not refuse it by this number. 3: whose rows with several texts are known too. 4: whose payloads stand in a
/// file of their own.
const VERSION: u32 = 4;
const HEADER: usize = MAGIC.len() + 4 + 4;
const BLOCK: usize = 64 << 10;

/// A block that does not hold what was written.
#[derive(Debug, thiserror::Error)]
#[error("{}: damaged at byte {offset}: its block's checksum differs", .file.display())]
pub(super) struct BlockDamage {
    file: PathBuf,
    offset: u64,
}

impl From<&BlockDamage> for Fault {
    fn from(block: &BlockDamage) -> Fault {
        Fault::Damaged {
            file: block.file.clone(),
            offset: block.offset,
            reason: "its block's checksum differs".into(),
        }
    }
}

/// The checksums of every file of a folder.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Checks {
    files: BTreeMap<String, Sums>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sums {
    len: u64,
    blocks: Vec<u32>,
}

impl Checks {
    /// Computes and writes the checksums of the files in `dir`, and makes them and the folder durable.
    pub(super) fn seal(dir: &Path) -> Result<(), Fault> {
        let mut checks = Checks::default();
        let io = |path: &Path, error: std::io::Error| io_fault(path, &error);
        for name in fs::read_dir(dir).map_err(|error| io(dir, error))? {
            let path = dir.join(&name);
            let file = fs::open_write(&path).map_err(|error| io(&path, error))?;
            if !planted::has(Bug::ManifestFirst) {
                file.sync_all().map_err(|error| io(&path, error))?;
            }
            let bytes = Mmap::of(&file).map_err(|error| io(&path, error))?;
            let blocks = bytes.chunks(BLOCK).map(crc32fast::hash).collect();
            checks.files.insert(name, Sums { len: bytes.len() as u64, blocks });
        }
        let body = postcard::to_stdvec(&checks)
            .map_err(|error| damaged(dir, format!("its checksums do not encode: {error}")))?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(crc32fast::hash(&body).to_le_bytes());
        bytes.extend(body);
        fs::write_atomic(&dir.join(FILE), &bytes).map_err(|error| io(dir, error))
    }

    /// Reads the checksums of `dir`.
    pub(super) fn open(dir: &Path) -> Result<Checks, Fault> {
        let path = dir.join(FILE);
        let bytes = fs::read(&path).map_err(|error| io_fault(&path, &error))?;
        let Some((header, body)) = bytes.split_at_checked(HEADER) else {
            return Err(damaged(&path, format!("{} bytes are no header", bytes.len())));
        };
        let word = |at: usize| header[at..].first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        if header[..MAGIC.len()] != MAGIC {
            return Err(damaged(&path, "it is no file of checksums".into()));
        }
        let version = word(MAGIC.len());
        if version > VERSION {
            return Err(Fault::Newer { file: path, found: version, known: VERSION });
        }
        if word(MAGIC.len() + 4) != crc32fast::hash(body) {
            return Err(damaged(&path, "its checksum differs".into()));
        }
        let checks: Checks = postcard::from_bytes(body)
            .map_err(|error| damaged(&path, format!("it does not decode: {error}")))?;
        for name in checks.files.keys().map(|name| dir.join(name)) {
            if !fs::exists(&name).map_err(|error| io_fault(&name, &error))? {
                return Err(damaged(&name, "the file is missing".into()));
            }
        }
        Ok(checks)
    }

    /// Whether the folder has a file of this name.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// What guards the reads of a file of `len` bytes at `path`.
    pub(super) fn guard(&self, path: &Path, len: usize) -> std::io::Result<Guard> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let damage = |offset| std::io::Error::other(BlockDamage { file: path.to_owned(), offset });
        let Some(sums) = self.files.get(name) else { return Err(damage(0)) };
        if sums.len != len as u64 || sums.blocks.len() != len.div_ceil(BLOCK) {
            return Err(damage(sums.len.min(len as u64)));
        }
        let is_verified = (0..sums.blocks.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Guard { path: path.to_owned(), sums: sums.blocks.clone(), is_verified })
    }
}

/// Verifies the blocks of one file as they are read, each once.
#[derive(Debug)]
pub(super) struct Guard {
    path: PathBuf,
    sums: Vec<u32>,
    is_verified: Box<[AtomicU64]>,
}

impl Guard {
    /// Verifies the blocks of `file` (the whole file's bytes) that `range` touches.
    pub(super) fn verify(&self, file: &[u8], range: &std::ops::Range<usize>) -> std::io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        for block in range.start / BLOCK..range.end.div_ceil(BLOCK) {
            let damage = || BlockDamage { file: self.path.clone(), offset: (block * BLOCK) as u64 };
            let Some(word) = self.is_verified.get(block / 64) else {
                return Err(std::io::Error::other(damage()));
            };
            let bit = 1 << (block % 64);
            if word.load(Ordering::Relaxed) & bit != 0 {
                continue;
            }
            let bytes = file.get(block * BLOCK..file.len().min((block + 1) * BLOCK)).unwrap_or_default();
            if self.sums.get(block) != Some(&crc32fast::hash(bytes)) {
                return Err(std::io::Error::other(damage()));
            }
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(())
    }
}

//! How far an import is, in a file that survives a cut.
//!
//! Batches are acknowledged in any order; what counts is the **prefix**: the first rows of which every one is written or set
//! aside. The file is replaced whole (written beside, synced, renamed) each time the prefix grew, by one worker at a time
//! that takes along what others have added meanwhile. A cut loses at most the batches acknowledged since, which are written
//! once more: the same keys with the same contents.
//!
//! The file tells what was imported where and how, with the length of each input and a checksum of its first 64 KiB. An
//! import that differs is refused: its rows would not be those that were acknowledged.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use anyhow::{Context as _, bail, ensure};
use flotilla_node::env::fs;
use serde::{Deserialize, Serialize};

/// The form of the file.
const FORMAT: u32 = 1;
/// Bytes of such a file, at most.
const STATE_BYTES_MAX: u64 = 64 << 10;
/// First bytes of an input that tell it from others.
const HEAD_BYTES: u64 = 64 << 10;

/// What is imported where, and how its rows are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// The collection.
    pub collection: String,
    /// The file of records.
    pub records: Option<Fingerprint>,
    /// The file of vectors.
    pub vectors: Option<Fingerprint>,
    /// How the records are read.
    pub reading: String,
    /// The field of the key.
    pub key: Option<String>,
}

/// A file, as far as it can be told without reading it whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    bytes: u64,
    head: u32,
}

impl Fingerprint {
    /// Of the file at `path`.
    pub fn of(path: &Path) -> anyhow::Result<Fingerprint> {
        let file = fs::open(path)?;
        let (bytes, mut head) = (file.len()?, Vec::new());
        file.take(HEAD_BYTES).read_to_end(&mut head).with_context(|| path.display().to_string())?;
        Ok(Fingerprint { bytes, head: crc32fast::hash(&head) })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format: u32,
    import: Import,
    rows: u64,
    rejected: u64,
}

/// How far an import is.
#[derive(Debug)]
pub struct Resume {
    path: PathBuf,
    import: Import,
    /// Rows and rejects of the file as it was found.
    found: (u64, u64),
    has_begun: bool,
    prefix: Mutex<Prefix>,
    /// The prefix that the file holds.
    saved: Mutex<u64>,
}

/// Acknowledged rows: all up to `end`, and ranges beyond.
#[derive(Debug, Default)]
struct Prefix {
    end: u64,
    beyond: BTreeMap<u64, u64>,
}

impl Prefix {
    /// Adds rows; true if the prefix grew.
    fn add(&mut self, rows: Range<u64>) -> bool {
        self.beyond.insert(rows.start, rows.end);
        let before = self.end;
        while let Some(end) = self.beyond.remove(&self.end) {
            self.end = end;
        }
        self.end > before
    }
}

impl Resume {
    /// Goes on as the file says, or begins it.
    ///
    /// # Errors
    /// A file that is no such file, or that is of another import: the message names what differs.
    pub fn open(path: &Path, import: Import) -> anyhow::Result<Resume> {
        let has_begun = fs::exists(path)?;
        let found = if has_begun { read(path, &import)? } else { (0, 0) };
        let prefix = Prefix { end: found.0, ..Prefix::default() };
        let (path, prefix, saved) = (path.to_owned(), Mutex::new(prefix), Mutex::new(found.0));
        let resume = Resume { path, import, found, has_begun, prefix, saved };
        if !has_begun {
            resume.write(0, 0)?;
        }
        Ok(resume)
    }

    /// Whether the file was there.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Rows that were acknowledged before.
    pub fn rows(&self) -> u64 {
        self.found.0
    }

    /// Rows that were set aside before.
    pub fn rejected(&self) -> u64 {
        self.found.1
    }

    /// These rows are written or set aside; true if the file has something to tell.
    pub fn acknowledge(&self, rows: Range<u64>) -> bool {
        lock(&self.prefix).add(rows)
    }

    /// Writes the file, unless another worker is at it, who takes this along. `rejected` makes what was set aside durable first.
    pub fn save(&self, mut rejected: impl FnMut() -> anyhow::Result<u64>) -> anyhow::Result<()> {
        let mut saved = match self.saved.try_lock() {
            Ok(saved) => saved,
            Err(TryLockError::Poisoned(saved)) => saved.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        self.write_prefix(&mut saved, &mut rejected)
    }

    /// As [`Resume::save`], but waits for whoever is at it.
    pub fn finish(&self, mut rejected: impl FnMut() -> anyhow::Result<u64>) -> anyhow::Result<()> {
        self.write_prefix(&mut lock(&self.saved), &mut rejected)
    }

    fn write_prefix(
        &self,
        saved: &mut u64,
        rejected: &mut impl FnMut() -> anyhow::Result<u64>,
    ) -> anyhow::Result<()> {
        loop {
            let rows = lock(&self.prefix).end;
            if rows == *saved {
                return Ok(());
            }
            self.write(rows, rejected()?)?;
            *saved = rows;
        }
    }

    fn write(&self, rows: u64, rejected: u64) -> anyhow::Result<()> {
        let state = State { format: FORMAT, import: self.import.clone(), rows, rejected };
        fs::write_atomic(&self.path, &serde_json::to_vec(&state)?).context("writing how far the import is")
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows and rejects that the file tells; refuses one of another import.
fn read(path: &Path, import: &Import) -> anyhow::Result<(u64, u64)> {
    let name = path.display();
    let (file, mut bytes) = (fs::open(path)?, Vec::new());
    ensure!(file.len()? <= STATE_BYTES_MAX, "{name} does not tell how far an import is: it is too long");
    file.take(STATE_BYTES_MAX).read_to_end(&mut bytes).with_context(|| name.to_string())?;
    let state: State = serde_json::from_slice(&bytes)
        .with_context(|| format!("{name} does not tell how far an import is"))?;
    ensure!(state.format == FORMAT, "{name} is of format {}, this version knows {FORMAT}", state.format);
    let was = &state.import;
    let differs = [
        ("the collection", was.collection != import.collection),
        ("the file of records", was.records != import.records),
        ("the file of vectors", was.vectors != import.vectors),
        ("the form of the records", was.reading != import.reading),
        ("the field of the key", was.key != import.key),
    ];
    if let Some((what, _)) = differs.iter().find(|(_, differs)| *differs) {
        bail!("{name} tells how far another import is: {what} differs; remove it to begin anew");
    }
    Ok((state.rows, state.rejected))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import(path: &Path) -> Import {
        let records = Some(Fingerprint::of(path).unwrap());
        let (collection, reading, key) = ("docs".to_owned(), "jsonl".to_owned(), Some("id".to_owned()));
        Import { collection, records, vectors: None, reading, key }
    }

    #[test]
    fn only_a_prefix_counts() {
        let mut prefix = Prefix::default();
        assert!(!prefix.add(20..30) && !prefix.add(10..20));
        assert!(prefix.add(0..10));
        assert_eq!((prefix.end, prefix.beyond.len()), (30, 0));
        assert!(prefix.add(30..31));
    }

    #[test]
    fn an_import_goes_on_where_its_file_says() {
        let dir = tempfile::tempdir().unwrap();
        let (data, path) = (dir.path().join("d.jsonl"), dir.path().join("resume"));
        std::fs::write(&data, "{}\n").unwrap();
        let resume = Resume::open(&path, import(&data)).unwrap();
        assert_eq!((resume.rows(), resume.has_begun()), (0, false));
        assert!(!resume.acknowledge(5..9));
        assert!(resume.acknowledge(0..5));
        resume.save(|| Ok(2)).unwrap();
        resume.finish(|| panic!("nothing new")).unwrap();
        let again = Resume::open(&path, import(&data)).unwrap();
        assert_eq!((again.rows(), again.rejected(), again.has_begun()), (9, 2, true));
        assert!(again.acknowledge(9..12));
        again.finish(|| Ok(2)).unwrap();
        assert_eq!(Resume::open(&path, import(&data)).unwrap().rows(), 12);
    }

    #[test]
    fn another_import_is_refused_by_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let (data, path) = (dir.path().join("d.jsonl"), dir.path().join("resume"));
        std::fs::write(&data, "{}\n").unwrap();
        let first = import(&data);
        Resume::open(&path, first.clone()).unwrap();
        let why = |import| Resume::open(&path, import).unwrap_err().to_string();
        assert!(why(Import { key: None, ..first.clone() }).contains("the field of the key differs"));
        assert!(why(Import { collection: "x".into(), ..first }).contains("the collection differs"));
        std::fs::write(&data, "[]\n").unwrap();
        assert!(why(import(&data)).contains("the file of records differs"));
        std::fs::write(&path, "{\"format\": 1}").unwrap();
        assert!(why(import(&data)).ends_with("does not tell how far an import is"));
    }
}

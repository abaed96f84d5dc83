//! The derived store: what can be rebuilt from files and log, kept at hand so that a boot need not do so.
//!
//! A few named values, replaced together in one batch. Over sled in the product ([`Sled`]), over a map in the simulator
//! and in tests ([`InMemory`]). Nothing that cannot be rebuilt is ever only here: sled's `flush` does not survive a power
//! cut (it is a `sync_file_range`), so a store that does not open, or whose values fail their checksum, is deleted and
//! built anew, and its caller starts from the file and the log.
//!
//! 2026-11-21: it holds the catalogue and its mark. Marks and windows of the partitions stand in their manifests, which
//! replay starts from anyway.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::env::fs;
#[cfg(any(test, feature = "sim"))]
use crate::env::sim;

/// A few named values.
pub trait Derived: Send + Sync + 'static {
    /// The value of this name, if there is one and it is whole.
    fn get(&self, name: &str) -> Option<Vec<u8>>;
    /// Replaces these values together.
    fn apply_batch(&self, values: &[(&str, Vec<u8>)]) -> Result<(), String>;
    /// Hands everything to the operating system, as far as the store can.
    fn flush(&self) -> Result<(), String>;
}

/// Opens the store in `folder`.
///
/// # Errors
/// If it neither opens nor can be begun anew.
pub fn open(folder: &Path) -> Result<Box<dyn Derived>, String> {
    #[cfg(any(test, feature = "sim"))]
    if sim::is_simulated(folder) {
        return Ok(Box::new(InMemory::default()));
    }
    Ok(Box::new(Sled::open(folder)?))
}

/// The store in the product.
pub struct Sled {
    db: sled::Db,
}

impl Sled {
    /// Opens the store in `folder`; one that does not open is deleted, with a report, and begun anew.
    pub fn open(folder: &Path) -> Result<Sled, String> {
        match Sled::try_open(folder) {
            Ok(store) => Ok(store),
            Err(why) => {
                tracing::warn!(folder = %folder.display(), why, "the derived store does not open: rebuilding it");
                fs::remove_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
                Sled::try_open(folder)
            }
        }
    }

    fn try_open(folder: &Path) -> Result<Sled, String> {
        let path: PathBuf = folder.to_owned();
        let open = move || sled::Config::new().path(path).cache_capacity(4 << 20).flush_every_ms(None).open();
        // sled asserts on some damage instead of returning an error: that is damage like any other.
        match std::panic::catch_unwind(open) {
            Ok(Ok(db)) => Ok(Sled { db }),
            Ok(Err(why)) => Err(why.to_string()),
            Err(_) => Err("sled panicked on its own files".to_owned()),
        }
    }
}

fn seal(value: &[u8]) -> Vec<u8> {
    let mut sealed = crc32fast::hash(value).to_le_bytes().to_vec();
    sealed.extend_from_slice(value);
    sealed
}

fn unseal(sealed: &[u8]) -> Option<Vec<u8>> {
    let (crc, value) = sealed.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*crc) == crc32fast::hash(value)).then(|| value.to_vec())
}

impl Derived for Sled {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        match self.db.get(name) {
            Ok(found) => unseal(&found?),
            Err(why) => {
                tracing::warn!(%why, name, "the derived store does not answer");
                None
            }
        }
    }

    fn apply_batch(&self, values: &[(&str, Vec<u8>)]) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for (name, value) in values {
            batch.insert(*name, seal(value));
        }
        self.db.apply_batch(batch).map_err(|e| e.to_string())
    }

    fn flush(&self) -> Result<(), String> {
        self.db.flush().map(drop).map_err(|e| e.to_string())
    }
}

/// The store that forgets everything with the process.
#[derive(Default)]
pub struct InMemory {
    values: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Derived for InMemory {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.values.lock().get(name).cloned()
    }

    fn apply_batch(&self, values: &[(&str, Vec<u8>)]) -> Result<(), String> {
        let mut held = self.values.lock();
        held.extend(values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        Ok(())
    }

    fn flush(&self) -> Result<(), String> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exam(store: &dyn Derived) {
        assert_eq!(store.get("a"), None);
        store.apply_batch(&[("a", vec![1]), ("b", vec![])]).unwrap();
        store.apply_batch(&[("a", vec![2, 3])]).unwrap();
        store.flush().unwrap();
        assert_eq!(store.get("a"), Some(vec![2, 3]));
        assert_eq!(store.get("b"), Some(vec![]));
    }

    #[test]
    fn both_stores_sit_the_exam() {
        exam(&InMemory::default());
        let folder = tempfile::tempdir().unwrap();
        exam(&Sled::open(&folder.path().join("derived")).unwrap());
    }

    #[test]
    fn a_store_full_of_rubbish_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("derived");
        let store = Sled::open(&path).unwrap();
        store.apply_batch(&[("a", vec![9; 1000])]).unwrap();
        store.flush().unwrap();
        drop(store);
        for entry in std::fs::read_dir(&path).unwrap() {
            let file = entry.unwrap().path();
            if file.is_file() {
                std::fs::write(&file, vec![0xa5; 4096]).unwrap();
            }
        }
        let store = Sled::open(&path).unwrap();
        assert_eq!(store.get("a"), None);
        store.apply_batch(&[("a", vec![1])]).unwrap();
        assert_eq!(store.get("a"), Some(vec![1]));
    }
}

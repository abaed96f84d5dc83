//! The keys of a sealed segment: by row, and by key.
//!
//! File `keys`: where each row's key ends (u64 each), the rows by key (u32 each), the keys' bytes. File `bloom`: see
//! [`bloom`](super::bloom). A key stands once in a segment.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use super::bloom;
use super::file::{Entry, Writer, cast};
use crate::env::mmap::{Advice, Mmap};
use crate::index::distance::prefetch::prefetch;
use crate::storage::Fault;

pub(super) const KEYS: &str = "keys";
pub(super) const BLOOM: &str = "bloom";

/// The keys, in place.
#[derive(Debug)]
pub(super) struct Keys {
    path: PathBuf,
    keys: Mmap,
    bloom: Mmap,
    rows: usize,
}

/// Writes both files. `key(row)` gives each row's key; it was asked for every row once before without a fault.
pub(super) fn write<'a>(
    dir: &Path,
    rows: u32,
    key: &dyn Fn(u32) -> Result<&'a [u8], Fault>,
) -> Result<[Entry; 2], Fault> {
    let mut file = Writer::create(dir, KEYS)?;
    let mut end = 0_u64;
    for row in 0..rows {
        end += key(row)?.len() as u64;
        file.write(&end.to_le_bytes())?;
    }
    // Every key was read just now: none fails here.
    let sure = |row: u32| key(row).unwrap_or_default();
    let mut sorted: Vec<u32> = (0..rows).collect();
    sorted.sort_unstable_by(|a, b| sure(*a).cmp(sure(*b)));
    file.write(bytemuck::cast_slice(&sorted))?;
    drop(sorted);
    for row in 0..rows {
        file.write(key(row)?)?;
    }
    let keys = file.finish()?;
    let mut file = Writer::create(dir, BLOOM)?;
    file.write(bytemuck::cast_slice(&bloom::build(rows as usize, (0..rows).map(sure))))?;
    Ok([keys, file.finish()?])
}

impl Keys {
    /// Opens both files and checks every byte of them.
    pub fn open(dir: &Path, rows: u32, keys: &Entry, bloom: &Entry) -> Result<Keys, Fault> {
        let path = keys.path(dir);
        let (keys, bloom) = (keys.map_checked(dir)?, bloom.map_checked(dir)?);
        if keys.len() < rows as usize * 12 || bloom.len() % 8 != 0 {
            return Err(Fault::damaged(path, 0, "too short for its rows"));
        }
        for map in [&keys, &bloom] {
            map.advise(Advice::Random).map_err(|error| Fault::io(&path, &error))?;
        }
        Ok(Keys { path, keys, bloom, rows: rows as usize })
    }

    fn damaged(&self, offset: usize) -> Fault {
        Fault::damaged(&self.path, offset as u64, "points beyond the file")
    }

    fn end(&self, row: usize) -> Option<usize> {
        let word = self.keys[..self.rows * 8].as_chunks::<8>().0.get(row)?;
        usize::try_from(u64::from_le_bytes(*word)).ok()
    }

    /// The row's key.
    pub fn get(&self, row: u32) -> Result<&[u8], Fault> {
        let row = row as usize;
        let key = || {
            let start = if row == 0 { 0 } else { self.end(row - 1)? };
            self.keys[self.rows * 12..].get(start..self.end(row)?)
        };
        key().ok_or_else(|| self.damaged(row * 8))
    }

    /// Asks the memory for where the row's key ends, or for the key.
    pub fn prefetch(&self, row: u32, is_placed: bool) {
        let row = row as usize;
        let at = match is_placed {
            false => row * 8,
            true => self.rows * 12 + row.checked_sub(1).and_then(|before| self.end(before)).unwrap_or(0),
        };
        prefetch(self.keys.get(at..).unwrap_or_default(), 1);
    }

    /// The row at this place by key; `None` beyond the last.
    pub fn by_key(&self, place: usize) -> Option<u32> {
        let sorted: &[u32] = cast(&self.keys[self.rows * 8..self.rows * 12])?;
        sorted.get(place).copied()
    }

    /// The row of a key.
    pub fn find(&self, key: &[u8]) -> Result<Option<u32>, Fault> {
        if !cast(&self.bloom).is_some_and(|filter| bloom::may_hold(filter, key)) {
            return Ok(None);
        }
        let place = self.first_place(|found| found < key)?;
        let Some(row) = self.by_key(place) else { return Ok(None) };
        Ok((self.get(row)? == key).then_some(row))
    }

    /// The first place by key whose key is greater than `after`.
    pub fn after(&self, after: Option<&[u8]>) -> Result<usize, Fault> {
        after.map_or(Ok(0), |after| self.first_place(|found| found.cmp(after) != Ordering::Greater))
    }

    fn first_place(&self, is_before: impl Fn(&[u8]) -> bool) -> Result<usize, Fault> {
        let (mut low, mut high) = (0, self.rows);
        while low < high {
            let middle = low + (high - low) / 2;
            let row = self.by_key(middle).ok_or_else(|| self.damaged(self.rows * 8 + middle * 4))?;
            if is_before(self.get(row)?) { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    /// Bytes of both files.
    pub fn bytes(&self) -> u64 {
        (self.keys.len() + self.bloom.len()) as u64
    }
}

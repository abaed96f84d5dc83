//! When the rows of a sealed segment expire: one number for each row, in a file that is there only if some do.
//!
//! The stored payloads say it too, and are the truth; the file saves looking into each of them. The least number is held in
//! memory, so that a segment in which nothing is due yet is passed over, and is found anew when rows were due.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::env::mmap::Mmap;
use crate::storage::Fault;

/// The file's name.
pub(super) const EXPIRIES: &str = "expiries";

/// See the module.
#[derive(Debug)]
pub(super) struct Expiring {
    map: Mmap,
    /// No live row expires before it.
    least: AtomicU64,
}

impl Expiring {
    /// Over the file's map, which has one number for each of the rows.
    pub fn open(dir: &Path, map: Mmap, rows: u32) -> Result<Expiring, Fault> {
        if map.len() != rows as usize * 8 {
            return Err(Fault::damaged(dir.join(EXPIRIES), 0, "not as many times as there are rows"));
        }
        let expiring = Expiring { map, least: AtomicU64::new(0) };
        let least = expiring.times().filter(|at| *at != 0).min();
        expiring.least.store(least.unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(expiring)
    }

    fn times(&self) -> impl Iterator<Item = u64> + '_ {
        let words: &[[u8; 8]] = self.map.as_chunks::<8>().0;
        words.iter().map(|word| u64::from_le_bytes(*word))
    }

    /// When the row expires; 0: never, or it is beyond the last.
    pub fn at(&self, row: u32) -> u64 {
        let words = self.map.as_chunks::<8>().0;
        words.get(row as usize).map_or(0, |word| u64::from_le_bytes(*word))
    }

    /// The live rows that expire at or before `until`.
    pub fn due(&self, until: u64, is_live: impl Fn(u32) -> bool) -> Vec<u32> {
        if self.least.load(Ordering::Relaxed) > until {
            return Vec::new();
        }
        let live = self.times().zip(0_u32..).filter(|(at, row)| *at != 0 && is_live(*row));
        let (mut due, mut least) = (Vec::new(), u64::MAX);
        for (at, row) in live {
            least = least.min(at);
            if at <= until {
                due.push(row);
            }
        }
        self.least.store(least, Ordering::Relaxed);
        due
    }
}

//! Read-only memory maps of sealed files: the one file of this layer with `unsafe` in it. A process may be told to read those
//! files into memory instead ([`set_mapping`]): then a disk that fails under a file in use ends nothing, and memory holds all.
//!
//! **Invariant (sealed):** a mapped file is complete before it is mapped, and from then on it is never written
//! and never truncated, only unlinked (an unlinked file lives on until the map is dropped). Writers keep it by
//! building under another name, syncing and renaming. Outside damage (an operator truncating a file in the data
//! folder) ends the process with SIGBUS; it cannot corrupt an answer unnoticed, since blocks carry checksums.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::fs::{self, File, Mapped};

/// How a map will be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The kernel's default read-ahead.
    Normal,
    /// Scattered reads: no read-ahead.
    Random,
    /// One pass from front to back.
    Sequential,
    /// Fetch the whole map soon.
    WillNeed,
}

/// Whether files are mapped.
static IS_MAPPING: AtomicBool = AtomicBool::new(true);

/// Says whether the files that this process opens from now on are mapped (as they are unless this is called), or read.
pub fn set_mapping(is_mapping: bool) {
    IS_MAPPING.store(is_mapping, Ordering::Relaxed);
}

pub(super) fn is_mapping() -> bool {
    IS_MAPPING.load(Ordering::Relaxed)
}

/// A read-only map of a whole sealed file.
#[derive(Debug)]
pub struct Mmap(Option<Mapped>);

impl Mmap {
    /// Maps the sealed file at `path`.
    pub fn open(path: &Path) -> io::Result<Mmap> {
        Mmap::of(&fs::open(path)?)
    }

    /// Maps a sealed file; `file` may be dropped afterwards. An empty file gives an empty map.
    pub fn of(file: &File) -> io::Result<Mmap> {
        if file.len()? == 0 {
            return Ok(Mmap(None));
        }
        Ok(Mmap(Some(file.map()?)))
    }

    /// Whether the bytes lie in the file, and not in the memory of this process.
    pub fn is_mapped(&self) -> bool {
        matches!(self.0, Some(Mapped::Real(_)))
    }

    /// Gives the bytes to a library that wants to own what it reads: the system's map, or bytes in memory.
    pub fn own<T>(self, mapped: impl FnOnce(memmap2::Mmap) -> T, in_memory: impl FnOnce(Vec<u8>) -> T) -> T {
        match self.0 {
            Some(Mapped::Real(map)) => mapped(map),
            Some(Mapped::Read(bytes)) => in_memory(bytes),
            None => in_memory(Vec::new()),
        }
    }

    /// Tells the kernel how the map will be read; advice it does not take changes nothing but speed.
    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        let advice = match advice {
            Advice::Normal => memmap2::Advice::Normal,
            Advice::Random => memmap2::Advice::Random,
            Advice::Sequential => memmap2::Advice::Sequential,
            Advice::WillNeed => memmap2::Advice::WillNeed,
        };
        match &self.0 {
            Some(Mapped::Real(map)) => map.advise(advice),
            _ => Ok(()),
        }
    }

    /// Asks the kernel for these bytes, to be there when they are read; returns before they are. They may lie beyond the end.
    pub fn ask(&self, start: usize, len: usize) {
        if let Some(Mapped::Real(map)) = &self.0
            && start < map.len()
            && let Err(why) = map.advise_range(memmap2::Advice::WillNeed, start, len.min(map.len() - start))
        {
            tracing::debug!(%why, start, len, "bytes of a file are not read ahead");
        }
    }
}

/// Zeros of the system's own, which has them back when this is dropped: for what is large and short-lived, and would stay with an
/// allocator long after.
#[derive(Debug)]
pub struct Pages(Option<memmap2::MmapMut>);

impl Pages {
    /// So many bytes.
    pub fn zeroed(len: usize) -> io::Result<Pages> {
        if len == 0 {
            return Ok(Pages(None));
        }
        let map = memmap2::MmapMut::map_anon(len)?;
        // All of it will be used: a huge page costs a tenth of its small ones. Where there are none, it is as well.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Pages(Some(map)))
    }
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl std::ops::Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl std::ops::DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

/// Maps a sealed file that is not empty.
pub(super) fn map(file: &std::fs::File) -> io::Result<memmap2::Mmap> {
    // SAFETY: sealed files never change and are never truncated, only unlinked (module docs), so the bytes
    // behind the returned slice stay the same for as long as the map lives.
    unsafe { memmap2::Mmap::map(file) }
}

impl AsRef<[u8]> for Mmap {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            Some(Mapped::Real(map)) => map,
            Some(Mapped::Read(bytes)) => bytes,
            None => &[],
        }
    }
}

impl std::ops::Deref for Mmap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_outlives_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sealed");
        fs::write_atomic(&path, b"twelve bytes").unwrap();
        let map = Mmap::open(&path).unwrap();
        map.advise(Advice::Random).unwrap();
        fs::remove_file(&path).unwrap();
        for (start, len) in [(0, 12), (3, 4), (12, 1), (0, usize::MAX), (usize::MAX, 1)] {
            map.ask(start, len);
        }
        assert_eq!(map.as_ref(), b"twelve bytes");
    }

    #[test]
    fn pages_are_zeros_that_can_be_written() {
        for len in [0, 1, 100_000] {
            let mut pages = Pages::zeroed(len).unwrap();
            assert!(pages.len() == len && pages.iter().all(|byte| *byte == 0));
            pages.fill(7);
            assert_eq!(pages.as_ref(), vec![7; len]);
        }
    }

    #[test]
    fn an_empty_file_is_an_empty_map() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        fs::write_atomic(&path, b"").unwrap();
        let map = Mmap::open(&path).unwrap();
        map.advise(Advice::WillNeed).unwrap();
        assert!(map.is_empty());
    }
}

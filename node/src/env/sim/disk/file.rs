//! The bytes of files: as the system shows them, and as they are on the platter.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rand::Rng as _;

use super::{Disk, State, error, happens};
use crate::env::fs::Open;

/// Bytes that the device writes or loses together.
const BLOCK: u64 = 512;

/// A file's bytes.
#[derive(Debug, Default)]
pub(super) struct Contents {
    shown: Vec<u8>,
    durable: Vec<u8>,
    /// Blocks to be written by the next sync.
    dirty: BTreeSet<u64>,
    /// Whether its length is to be written too.
    is_resized: bool,
}

impl Contents {
    pub(super) fn len(&self) -> u64 {
        self.shown.len() as u64
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let (begin, end) = (offset as usize, offset as usize + bytes.len());
        if end > self.shown.len() {
            self.resize(end as u64);
        }
        self.shown[begin..end].copy_from_slice(bytes);
        if end > begin {
            self.dirty.extend(offset / BLOCK..=(end as u64 - 1) / BLOCK);
        }
    }

    fn resize(&mut self, len: u64) {
        let kept = self.len().min(len);
        self.shown.resize(len as usize, 0);
        self.is_resized = true;
        // What is cut off and comes back is zero.
        if len > kept && !kept.is_multiple_of(BLOCK) {
            self.dirty.insert(kept / BLOCK);
        }
    }

    fn sync(&mut self) {
        if std::mem::take(&mut self.is_resized) {
            self.durable.resize(self.shown.len(), 0);
        }
        for block in std::mem::take(&mut self.dirty) {
            self.settle(block);
        }
    }

    /// A sync that failed: the system takes its blocks for written.
    fn sync_failed(&mut self) {
        self.dirty.clear();
    }

    /// Writes one block to the platter, as far as the file reaches there.
    fn settle(&mut self, block: u64) {
        let end = ((block + 1) * BLOCK).min(self.len()).min(self.durable.len() as u64) as usize;
        let begin = end.min((block * BLOCK) as usize);
        self.durable[begin..end].copy_from_slice(&self.shown[begin..end]);
    }

    /// After a power cut.
    pub(super) fn cut(&mut self, survives: &mut impl FnMut() -> bool) {
        if std::mem::take(&mut self.is_resized) && survives() {
            self.durable.resize(self.shown.len(), 0);
        }
        for block in std::mem::take(&mut self.dirty) {
            if survives() {
                self.settle(block);
            }
        }
        self.shown = self.durable.clone();
    }

    /// Where its bytes are not zero.
    pub(super) fn used(&self) -> Vec<u64> {
        (0..).zip(&self.shown).filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect()
    }

    pub(super) fn flip(&mut self, at: u64, bit: u32) {
        let at = at as usize;
        self.shown[at] ^= 1 << bit;
        if let Some(byte) = self.durable.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }
}

/// An open file.
#[derive(Debug)]
pub(in crate::env) struct Handle {
    disk: Arc<Disk>,
    number: u64,
    process: u64,
    appends: bool,
    position: u64,
}

impl Disk {
    pub(in crate::env) fn open(self: &Arc<Disk>, path: &Path, how: Open) -> io::Result<Handle> {
        let mut state = self.state.lock();
        let path = self.inside(path);
        let number = match state.tree.find(path) {
            Ok(found) if found.is_dir => return Err(error(libc::EISDIR)),
            Ok(_) if how == Open::CreateNew => return Err(error(libc::EEXIST)),
            Ok(found) => found.number,
            Err(why) if matches!(how, Open::Read | Open::Existing) => return Err(why),
            Err(_) => {
                state.change()?;
                let number = state.tree.create(path)?;
                state.files.insert(number, Contents::default());
                number
            }
        };
        if how == Open::Create
            && let Some(file) = state.files.get_mut(&number)
            && file.len() > 0
        {
            file.resize(0);
        }
        let (process, appends) = (state.process, how == Open::Append);
        Ok(Handle { disk: self.clone(), number, process, appends, position: 0 })
    }
}

impl Handle {
    /// Works on the file; fails for a handle of a process that has ended.
    fn with<T>(&self, work: impl FnOnce(&mut State, u64) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state.lock();
        if state.process != self.process {
            return Err(error(libc::EIO));
        }
        work(&mut state, self.number)
    }

    pub(in crate::env) fn len(&self) -> io::Result<u64> {
        self.with(|state, number| Ok(state.files.get(&number).map_or(0, Contents::len)))
    }

    /// All of its bytes.
    pub(in crate::env) fn bytes(&self) -> io::Result<Vec<u8>> {
        self.with(|state, number| Ok(state.files.get(&number).map_or_else(Vec::new, |f| f.shown.clone())))
    }

    pub(in crate::env) fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state, number| {
            state.change()?;
            let old = state.files.get(&number).map_or(0, Contents::len);
            state.room(len.saturating_sub(old))?;
            state.files.entry(number).or_default().resize(len);
            Ok(())
        })
    }

    pub(in crate::env) fn sync_data(&self) -> io::Result<()> {
        self.with(|state, number| {
            state.change()?;
            let failed = state.may_fail_writing();
            let stops = state.stops();
            let Some(file) = state.files.get_mut(&number) else { return Ok(()) };
            match &failed {
                // Its blocks are as they are when the power goes.
                _ if stops.is_some_and(|stop| !stop.is_done) => {}
                Ok(()) => file.sync(),
                Err(_) => file.sync_failed(),
            }
            match stops {
                Some(_) => Err(state.stop(state.tree.path_of(number))),
                None => failed,
            }
        })
    }

    pub(in crate::env) fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    /// Takes the sole right to the file; false if somebody has it.
    pub(in crate::env) fn lock(&self) -> bool {
        self.disk.state.lock().locked.insert(self.number)
    }

    pub(in crate::env) fn unlock(&self) {
        // What an ended process held was released with it.
        let _ = self.with(|state, number| Ok(state.locked.remove(&number)));
    }
}

impl FileExt for Handle {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state, number| {
            let State { files, draw, rates, counts, .. } = state;
            if happens(draw, rates.read_errors) {
                counts.read_errors += 1;
                return Err(error(libc::EIO));
            }
            let Some(file) = files.get(&number) else { return Ok(0) };
            let begin = file.shown.len().min(offset as usize);
            let count = bytes.len().min(file.shown.len() - begin);
            bytes[..count].copy_from_slice(&file.shown[begin..begin + count]);
            if count > 0 && happens(draw, rates.read_flips) {
                counts.read_flips += 1;
                bytes[draw.random_range(0..count)] ^= 1 << draw.random_range(0..8);
            }
            Ok(count)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.with(|state, number| {
            state.change()?;
            state.may_fail_writing()?;
            let len = state.files.get(&number).map_or(0, Contents::len);
            state.room((offset + bytes.len() as u64).saturating_sub(len))?;
            state.files.entry(number).or_default().write(bytes, offset);
            Ok(bytes.len())
        })
    }
}

impl io::Read for Handle {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.read_at(bytes, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl io::Write for Handle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let at = if self.appends { self.len()? } else { self.position };
        let count = self.write_at(bytes, at)?;
        self.position = at + count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Seek for Handle {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let from = |base: u64, by: i64| base.checked_add_signed(by).ok_or_else(|| error(libc::EINVAL));
        self.position = match to {
            io::SeekFrom::Start(at) => at,
            io::SeekFrom::End(by) => from(self.len()?, by)?,
            io::SeekFrom::Current(by) => from(self.position, by)?,
        };
        Ok(self.position)
    }
}

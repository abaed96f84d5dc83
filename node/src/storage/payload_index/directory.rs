//! A folder as tantivy sees it: files over `env`, written once, mapped to be read.
//!
//! While a folder is **built** nothing in it is durable and nothing refers to it; [`super::checks::Checks::seal`] syncs
//! all of it at the end. A **sealed** folder is read only, and each block's checksum is verified before its bytes are
//! handed out. There are no lock files and no watchers: a folder has one writer, once.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    AntiCallToken, DirectoryLock, FileHandle, Lock, OwnedBytes, TerminatingWrite, WatchCallback, WatchHandle,
    WritePtr,
};
use tantivy::{Directory, HasLen, TantivyError};

use super::super::Fault;
use super::checks::{Checks, Guard};
use crate::env::fs;
use crate::env::mmap::Mmap;

/// Our implementation of tantivy's directory.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    /// The checksums of a sealed folder; none while it is built.
    checks: Option<Arc<Checks>>,
    /// What there was no space for while it was built: tantivy tells some errors as text alone.
    lack: Arc<OnceLock<String>>,
}

impl Folder {
    /// A folder that is being built.
    pub(super) fn built(dir: &Path) -> Folder {
        Folder { dir: dir.to_owned(), checks: None, lack: Arc::default() }
    }

    /// A sealed folder.
    pub(super) fn sealed(dir: &Path, checks: Checks) -> Folder {
        Folder { dir: dir.to_owned(), checks: Some(Arc::new(checks)), lack: Arc::default() }
    }

    /// What went wrong while it was built.
    pub(super) fn fault(&self, error: TantivyError) -> Fault {
        match self.lack.get() {
            Some(reason) => Fault::Io { file: self.dir.clone(), reason: reason.clone(), is_full: true },
            None => super::fault(&self.dir, error),
        }
    }

    /// Maps a file of the folder.
    pub(super) fn map(&self, path: &Path) -> Result<Mapped, OpenReadError> {
        let full = self.dir.join(path);
        let wrap = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => OpenReadError::FileDoesNotExist(path.to_owned()),
            _ => OpenReadError::wrap_io_error(error, path.to_owned()),
        };
        let map = Mmap::open(&full).map_err(wrap)?;
        let bytes = map.own(OwnedBytes::new, OwnedBytes::new);
        let guard = self.checks.as_ref().map(|checks| checks.guard(&full, bytes.len())).transpose();
        Ok(Mapped { bytes, guard: guard.map_err(wrap)? })
    }

    fn refuse_if_sealed(&self) -> io::Result<()> {
        match self.checks {
            None => Ok(()),
            Some(_) => Err(io::Error::new(io::ErrorKind::PermissionDenied, "the folder is sealed")),
        }
    }
}

/// A mapped file, guarded by checksums where there are any.
#[derive(Debug)]
pub(super) struct Mapped {
    bytes: OwnedBytes,
    guard: Option<Guard>,
}

impl Mapped {
    /// These bytes, held against their checksums when they are first read.
    pub(super) fn read(&self, range: std::ops::Range<usize>) -> io::Result<&[u8]> {
        let beyond = || {
            let reason = format!("bytes {range:?} of a file of {}", self.bytes.len());
            io::Error::new(io::ErrorKind::UnexpectedEof, reason)
        };
        let read = self.bytes.get(range.clone()).ok_or_else(beyond)?;
        if let Some(guard) = &self.guard {
            guard.verify(&self.bytes, &range)?;
        }
        Ok(read)
    }

    /// The bytes from here on, as they are: for nobody to believe.
    pub(super) fn peek(&self, from: usize) -> &[u8] {
        self.bytes.get(from..).unwrap_or_default()
    }
}

impl HasLen for Mapped {
    fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl FileHandle for Mapped {
    fn read_bytes(&self, range: std::ops::Range<usize>) -> io::Result<OwnedBytes> {
        self.read(range.clone())?;
        Ok(self.bytes.slice(range))
    }
}

/// A file being written; synced with the rest of the folder.
struct Writer {
    file: fs::File,
    lack: Arc<OnceLock<String>>,
}

/// Notes that space ran out.
fn note<T>(lack: &OnceLock<String>, done: io::Result<T>) -> io::Result<T> {
    done.inspect_err(|error| {
        if fs::is_full(error) {
            // The first one counts.
            let _ = lack.set(error.to_string());
        }
    })
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        note(&self.lack, self.file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        note(&self.lack, self.file.flush())
    }
}

impl TerminatingWrite for Writer {
    fn terminate_ref(&mut self, _: AntiCallToken) -> io::Result<()> {
        self.flush()
    }
}

impl Directory for Folder {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        Ok(Arc::new(self.map(path)?))
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.refuse_if_sealed().and_then(|()| fs::remove_file(&self.dir.join(path))).map_err(|error| {
            match error.kind() {
                io::ErrorKind::NotFound => DeleteError::FileDoesNotExist(path.to_owned()),
                _ => DeleteError::IoError { io_error: Arc::new(error), filepath: path.to_owned() },
            }
        })
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        match &self.checks {
            Some(checks) => Ok(path.to_str().is_some_and(|name| checks.contains(name))),
            None => fs::exists(&self.dir.join(path))
                .map_err(|error| OpenReadError::wrap_io_error(error, path.to_owned())),
        }
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        let opened = self.refuse_if_sealed().and_then(|()| fs::create_new(&self.dir.join(path)));
        match note(&self.lack, opened) {
            Ok(file) => Ok(BufWriter::new(Box::new(Writer { file, lack: self.lack.clone() }))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(OpenWriteError::FileAlreadyExists(path.to_owned()))
            }
            Err(error) => Err(OpenWriteError::wrap_io_error(error, path.to_owned())),
        }
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        let mapped = self.map(path)?;
        let bytes = mapped.read_bytes(0..mapped.len());
        bytes
            .map(|bytes| bytes.as_slice().to_vec())
            .map_err(|error| OpenReadError::wrap_io_error(error, path.to_owned()))
    }

    /// Not atomic, and need not be: nobody reads a folder before it is sealed.
    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        self.refuse_if_sealed()?;
        note(&self.lack, fs::create(&self.dir.join(path)).and_then(|mut file| file.write_all(data)))
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn acquire_lock(&self, _: &Lock) -> Result<DirectoryLock, LockError> {
        Ok(DirectoryLock::from(Box::new(())))
    }

    fn watch(&self, _: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}

//! Files and folders: the only place that names `std::fs`.
//!
//! What survives a power cut is what was synced: [`File::sync_data`] for a file's bytes (and its length),
//! [`sync_dir`] for the names in a folder. Errors are the system's, with the path put in front, so that a log
//! line names the file. All functions block.

use std::fs as real;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A kind of call that a test can make fail: see `faults`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Creating a file or a folder.
    Create,
    /// Reading bytes of an open file, or a whole one.
    Read,
    /// Writing bytes, or changing a file's length.
    Write,
    /// Reserving space.
    Preallocate,
    /// Making a file or a folder durable.
    Sync,
    /// Renaming.
    Rename,
    /// Giving a second name.
    Link,
}

/// In tests, whether this call is to fail.
fn may(op: Op, path: &Path) -> io::Result<()> {
    #[cfg(any(test, feature = "faults"))]
    super::faults::check(op, path).map_err(|error| named(path, error))?;
    let _ = (op, path);
    Ok(())
}

/// Answers from the simulated disk that holds the path, if one does. There are none in the product.
macro_rules! simulate {
    ($path:expr, $disk:ident => $answer:expr) => {
        #[cfg(any(test, feature = "sim"))]
        if let Some($disk) = super::sim::disk::of($path) {
            return $answer.map_err(|error| named($path, error));
        }
    };
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Open {
    /// It must be there, and is only read.
    Read,
    /// It must be there.
    Existing,
    /// It is made, or emptied.
    Create,
    /// It must not be there.
    CreateNew,
    /// It is made if it is not there; writes go to its end.
    Append,
}

impl Open {
    fn options(self) -> real::OpenOptions {
        let mut options = real::OpenOptions::new();
        options.read(true);
        match self {
            Open::Read => &mut options,
            Open::Existing => options.write(true),
            Open::Create => options.write(true).create(true).truncate(true),
            Open::CreateNew => options.write(true).create_new(true),
            Open::Append => options.append(true).create(true),
        };
        options
    }
}

/// The system's file, or one of a simulated disk.
#[derive(Debug)]
enum Inner {
    Real(real::File),
    #[cfg(any(test, feature = "sim"))]
    Simulated(super::sim::disk::Handle),
}

/// The same call on either.
macro_rules! either {
    ($inner:expr, $file:ident => $answer:expr) => {
        match $inner {
            Inner::Real($file) => $answer,
            #[cfg(any(test, feature = "sim"))]
            Inner::Simulated($file) => $answer,
        }
    };
}

/// An open file.
#[derive(Debug)]
pub struct File {
    file: Inner,
    path: PathBuf,
}

/// Opens an existing file for reading.
pub fn open(path: &Path) -> io::Result<File> {
    File::with(Open::Read, path)
}

/// Opens an existing file for reading and writing in place.
pub fn open_write(path: &Path) -> io::Result<File> {
    File::with(Open::Existing, path)
}

/// Creates a file for reading and writing, or empties the one that is there.
pub fn create(path: &Path) -> io::Result<File> {
    may(Op::Create, path)?;
    File::with(Open::Create, path)
}

/// Creates a file for reading and writing; fails with `AlreadyExists` if the name is taken.
pub fn create_new(path: &Path) -> io::Result<File> {
    may(Op::Create, path)?;
    File::with(Open::CreateNew, path)
}

/// Opens a file for reading and for writing at its end; creates it if it is not there.
pub fn append(path: &Path) -> io::Result<File> {
    File::with(Open::Append, path)
}

impl File {
    fn with(how: Open, path: &Path) -> io::Result<File> {
        #[cfg(any(test, feature = "sim"))]
        if let Some(disk) = super::sim::disk::of(path) {
            let file = disk.open(path, how).map_err(|error| named(path, error))?;
            return Ok(File { file: Inner::Simulated(file), path: path.to_owned() });
        }
        let file = how.options().open(path).map_err(|error| named(path, error))?;
        Ok(File { file: Inner::Real(file), path: path.to_owned() })
    }

    /// The path the file was opened by; a later rename does not change it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `bytes` from `offset`; `UnexpectedEof` if the file ends before.
    pub fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        may(Op::Read, &self.path)?;
        either!(&self.file, file => file.read_exact_at(bytes, offset))
            .map_err(|error| named(&self.path, error))
    }

    /// Reads some bytes from `offset`; 0 at the end of the file.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        may(Op::Read, &self.path)?;
        either!(&self.file, file => file.read_at(bytes, offset)).map_err(|error| named(&self.path, error))
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        may(Op::Write, &self.path)?;
        either!(&self.file, file => file.write_all_at(bytes, offset))
            .map_err(|error| named(&self.path, error))
    }

    /// Writes all of `bytes` at the file's own position (the end, for a file opened by [`append`]).
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        may(Op::Write, &self.path)?;
        either!(&mut self.file, file => file.write_all(bytes)).map_err(|error| named(&self.path, error))
    }

    /// Length in bytes.
    pub fn len(&self) -> io::Result<u64> {
        match &self.file {
            Inner::Real(file) => Ok(file.metadata().map_err(|error| named(&self.path, error))?.len()),
            #[cfg(any(test, feature = "sim"))]
            Inner::Simulated(file) => file.len().map_err(|error| named(&self.path, error)),
        }
    }

    /// Whether the file holds no byte.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file, or extends it with zeros that take no disk space yet.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        may(Op::Write, &self.path)?;
        either!(&self.file, file => file.set_len(len)).map_err(|error| named(&self.path, error))
    }

    /// Extends the file to `len` zeros-until-written bytes with the disk space reserved, so that later writes do
    /// not meet a full disk. Where the file system cannot reserve, only the length is set.
    pub fn preallocate(&self, len: u64) -> io::Result<()> {
        may(Op::Preallocate, &self.path)?;
        // Not by fs2: it tells a full disk as "Success" (it reads errno, and `posix_fallocate` does not set it).
        // The product has only one kind.
        #[allow(irrefutable_let_patterns)]
        if let Inner::Real(file) = &self.file {
            match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(error) => return Err(named(&self.path, error.into())),
            }
        }
        if self.len()? < len { self.set_len(len) } else { Ok(()) }
    }

    /// Makes the bytes written so far durable (`fdatasync`). After an error nothing may be assumed about them, and
    /// a second call that succeeds proves nothing.
    pub fn sync_data(&self) -> io::Result<()> {
        may(Op::Sync, &self.path)?;
        either!(&self.file, file => file.sync_data()).map_err(|error| named(&self.path, error))
    }

    /// Makes bytes and metadata durable (`fsync`); as [`File::sync_data`] after an error.
    pub fn sync_all(&self) -> io::Result<()> {
        may(Op::Sync, &self.path)?;
        either!(&self.file, file => file.sync_all()).map_err(|error| named(&self.path, error))
    }

    fn whole(&self) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.len()?).map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|why| named(&self.path, io::Error::other(why)))?;
        bytes.resize(len, 0);
        let mut at = 0;
        while at < len {
            match self.read_at(&mut bytes[at..], at as u64)? {
                0 => break,
                got => at += got,
            }
        }
        bytes.truncate(at);
        Ok(bytes)
    }

    /// The whole of a sealed file, for `mmap`.
    pub(super) fn map(&self) -> io::Result<Mapped> {
        match &self.file {
            Inner::Real(file) if super::mmap::is_mapping() => super::mmap::map(file).map(Mapped::Real),
            Inner::Real(_) => self.whole().map(Mapped::Read),
            #[cfg(any(test, feature = "sim"))]
            Inner::Simulated(file) => file.bytes().map(Mapped::Read),
        }
    }
}

/// The bytes of a sealed file.
#[derive(Debug)]
pub(super) enum Mapped {
    /// A map of the system.
    Real(memmap2::Mmap),
    /// A copy: of what a simulated disk holds, or because nothing is to be mapped.
    Read(Vec<u8>),
}

impl io::Read for File {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        either!(&mut self.file, file => io::Read::read(file, bytes))
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        may(Op::Write, &self.path)?;
        either!(&mut self.file, file => file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        either!(&mut self.file, file => file.flush())
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        either!(&mut self.file, file => file.seek(to))
    }
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The whole file. The caller knows the file to be small; there is no bound here.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    may(Op::Read, path)?;
    simulate!(path, disk => disk.open(path, Open::Read).and_then(|file| file.bytes()));
    real::read(path).map_err(|error| named(path, error))
}

/// Replaces the file at `path` by one with `bytes`: after a crash at any point the old or the new content is there,
/// whole. Writes `<path>.new`, syncs it, renames it and syncs the folder.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    let file = create(&staged)?;
    file.write_at(bytes, 0)?;
    file.sync_all()?;
    rename(&staged, path)?;
    sync_dir(parent(path)).map_err(for_good)
}

/// A failure after which it is not known what is on the disk: never one that waiting for space would mend.
pub fn for_good(error: io::Error) -> io::Error {
    io::Error::other(error)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Whether something has this name. An error of the system counts as an error, not as absence.
pub fn exists(path: &Path) -> io::Result<bool> {
    simulate!(path, disk => Ok(disk.exists(path)));
    path.try_exists().map_err(|error| named(path, error))
}

/// Whether this name is a folder's.
pub fn is_dir(path: &Path) -> io::Result<bool> {
    simulate!(path, disk => disk.is_dir(path));
    Ok(real::metadata(path).map_err(|error| named(path, error))?.is_dir())
}

/// Creates a folder and those above it; one that is there already is fine.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    may(Op::Create, path)?;
    simulate!(path, disk => disk.create_dir_all(path));
    real::create_dir_all(path).map_err(|error| named(path, error))
}

/// Creates a folder and those above it where they are missing, and makes their names durable: after a power cut it is there.
pub fn make_dir(path: &Path) -> io::Result<()> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !exists(path).unwrap_or(false);
    let made: Vec<&Path> = path.ancestors().take_while(missing).collect();
    create_dir_all(path)?;
    made.into_iter().try_for_each(|made| sync_dir(parent(made)))
}

/// The names in a folder, sorted; names that are not UTF-8 are none of ours and are left out.
pub fn read_dir(path: &Path) -> io::Result<Vec<String>> {
    simulate!(path, disk => disk.read_dir(path));
    let mut names = Vec::new();
    for entry in real::read_dir(path).map_err(|error| named(path, error))? {
        if let Ok(name) = entry.map_err(|error| named(path, error))?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Renames a file or folder, replacing a file of the new name. Durable after [`sync_dir`] of the folder(s).
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    may(Op::Rename, to)?;
    simulate!(from, disk => disk.rename(from, to));
    real::rename(from, to).map_err(|error| named(from, error))
}

/// Removes a file's name.
pub fn remove_file(path: &Path) -> io::Result<()> {
    simulate!(path, disk => disk.remove_file(path));
    real::remove_file(path).map_err(|error| named(path, error))
}

/// Removes a folder with everything in it.
pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    simulate!(path, disk => disk.remove_dir_all(path));
    real::remove_dir_all(path).map_err(|error| named(path, error))
}

/// Whether the error is that there is no space (left for us).
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Gives a file a second name on the same file system.
pub fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    may(Op::Link, to)?;
    simulate!(from, disk => disk.hard_link(from, to));
    real::hard_link(from, to).map_err(|error| named(to, error))
}

/// How many names a file has.
pub fn links(path: &Path) -> io::Result<u64> {
    simulate!(path, disk => disk.links(path));
    Ok(real::metadata(path).map_err(|error| named(path, error))?.nlink())
}

/// Makes the names in a folder durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    simulate!(path, disk => may(Op::Sync, path).and_then(|()| disk.sync_dir(path)));
    File::with(Open::Read, path)?.sync_all()
}

/// Bytes that this process may still write to the file system of `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    simulate!(path, disk => Ok(disk.free_bytes()));
    fs2::available_space(path).map_err(|error| named(path, error))
}

/// Bytes that the file system of `path` has in all.
pub fn whole_bytes(path: &Path) -> io::Result<u64> {
    simulate!(path, disk => Ok(disk.whole_bytes()));
    fs2::total_space(path).map_err(|error| named(path, error))
}

/// The sole right to use a folder, held until dropped; the system releases it when the process ends in any way.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

/// Takes the sole right to use the folder `dir` (created if needed), through its file `LOCK`.
///
/// Fails with `WouldBlock`, naming the folder, while another process or another part of this one holds it.
pub fn lock_folder(dir: &Path) -> io::Result<FolderLock> {
    create_dir_all(dir)?;
    let file = append(&dir.join("LOCK"))?;
    let is_ours = match &file.file {
        Inner::Real(file) => match fs2::FileExt::try_lock_exclusive(file) {
            Ok(()) => true,
            Err(error) if error.kind() == fs2::lock_contended_error().kind() => false,
            Err(error) => return Err(named(dir, error)),
        },
        #[cfg(any(test, feature = "sim"))]
        Inner::Simulated(file) => file.lock(),
    };
    if is_ours {
        return Ok(FolderLock { file });
    }
    let why = format!("{}: the folder is in use by another process", dir.display());
    Err(io::Error::new(io::ErrorKind::WouldBlock, why))
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        match &self.file.file {
            // The system does it when the file is closed.
            Inner::Real(_) => {}
            #[cfg(any(test, feature = "sim"))]
            Inner::Simulated(file) => file.unlock(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_whole_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest");
        write_atomic(&path, b"old").unwrap();
        write_atomic(&path, b"newer").unwrap();
        assert_eq!(read(&path).unwrap(), b"newer");
        assert_eq!(read_dir(dir.path()).unwrap(), ["manifest"]);
    }

    #[test]
    fn reads_and_writes_at_offsets() {
        let dir = tempfile::tempdir().unwrap();
        let file = create(&dir.path().join("f")).unwrap();
        file.preallocate(8192).unwrap();
        file.write_at(b"abc", 4096).unwrap();
        file.sync_data().unwrap();
        let mut bytes = [9; 4];
        file.read_exact_at(&mut bytes, 4096).unwrap();
        assert_eq!(&bytes, b"abc\0");
        assert_eq!(file.len().unwrap(), 8192);
        file.set_len(4097).unwrap();
        let error = file.read_exact_at(&mut bytes, 4096).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("/f: "), "{error}");
        assert_eq!(file.read_at(&mut bytes, 9999).unwrap(), 0);
    }

    #[test]
    fn appending_continues_where_the_file_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        append(&path).unwrap().write_all(b"one ").unwrap();
        append(&path).unwrap().write_all(b"two").unwrap();
        assert_eq!(read(&path).unwrap(), b"one two");
        assert_eq!(create_new(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_locked_folder_refuses_a_second_user_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("data");
        let held = lock_folder(&folder).unwrap();
        let error = lock_folder(&folder).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(error.to_string().contains("data: the folder is in use by another process"), "{error}");
        drop(held);
        lock_folder(&folder).unwrap();
    }

    #[test]
    fn folders_list_sorted_and_links_share_bytes() {
        let dir = tempfile::tempdir().unwrap();
        create_dir_all(&dir.path().join("b/c")).unwrap();
        write_atomic(&dir.path().join("a"), b"x").unwrap();
        hard_link(&dir.path().join("a"), &dir.path().join("c")).unwrap();
        sync_dir(dir.path()).unwrap();
        assert_eq!(read_dir(dir.path()).unwrap(), ["a", "b", "c"]);
        assert_eq!(links(&dir.path().join("c")).unwrap(), 2);
        remove_file(&dir.path().join("a")).unwrap();
        remove_dir_all(&dir.path().join("b")).unwrap();
        assert_eq!(read(&dir.path().join("c")).unwrap(), b"x");
        assert!(!exists(&dir.path().join("a")).unwrap());
        let (free, whole) = (free_bytes(dir.path()).unwrap(), whole_bytes(dir.path()).unwrap());
        assert!(0 < free && free <= whole, "{free} of {whole}");
    }
}

//! Where an export goes: standard output, or a file that has its name once it is whole.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use flotilla_node::env::fs;

const BUFFER_BYTES: usize = 1 << 18;

/// Whether a path means standard output.
pub fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// An output that has begun.
pub struct Out {
    sink: BufWriter<Sink>,
    bytes: u64,
}

enum Sink {
    Stdout(std::io::Stdout),
    File(Staged),
}

/// A file under the name that it has until it is whole; it is removed if that never comes.
struct Staged {
    file: fs::File,
    staged: PathBuf,
    path: PathBuf,
    is_whole: bool,
}

impl Out {
    /// Begins to write to `path`; `-` is standard output.
    pub fn begin(path: &Path) -> anyhow::Result<Out> {
        let sink =
            if is_stdout(path) { Sink::Stdout(std::io::stdout()) } else { Sink::File(Staged::begin(path)?) };
        Ok(Out { sink: BufWriter::with_capacity(BUFFER_BYTES, sink), bytes: 0 })
    }

    /// Ends the output: a file is made durable and gets its name. Returns its bytes.
    pub fn finish(self) -> anyhow::Result<u64> {
        let sink = self.sink.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        match sink {
            Sink::Stdout(mut stdout) => stdout.flush()?,
            Sink::File(staged) => staged.finish()?,
        }
        Ok(self.bytes)
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.sink.flush()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Sink::Stdout(stdout) => stdout.write(bytes),
            Sink::File(staged) => staged.file.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Sink::Stdout(stdout) => stdout.flush(),
            Sink::File(staged) => staged.file.flush(),
        }
    }
}

impl Staged {
    fn begin(path: &Path) -> anyhow::Result<Staged> {
        let mut staged = path.as_os_str().to_owned();
        // Two exports to one name do not write into each other's file.
        staged.push(format!(".part-{}", std::process::id()));
        let staged = PathBuf::from(staged);
        Ok(Staged { file: fs::create(&staged)?, staged, path: path.to_owned(), is_whole: false })
    }

    fn finish(mut self) -> anyhow::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.staged, &self.path)?;
        self.is_whole = true;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        Ok(fs::sync_dir(folder.unwrap_or(Path::new(".")))?)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_whole {
            // Nobody reads it; if it cannot be removed, its name says what it is.
            let _ = fs::remove_file(&self.staged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_once_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jsonl");
        std::fs::write(&path, "old").unwrap();
        let mut out = Out::begin(&path).unwrap();
        out.write_all(b"half").unwrap();
        drop(out);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let mut out = Out::begin(&path).unwrap();
        out.write_all(b"whole").unwrap();
        assert_eq!(out.finish().unwrap(), 5);
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

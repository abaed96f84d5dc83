//! A disk of its own, whose power can be cut: an ext4 file system in a file, mounted through a loop device.
//!
//! Cutting is ext4's shutdown request (`EXT4_IOC_SHUTDOWN` without flushing the journal): from then on every call fails, and
//! what was not synced is gone when the file system is mounted again. That is what a power cut leaves of a disk that does
//! not lie about its syncs. It takes root, `mkfs.ext4`, `mount` and `python3`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::process::{Finished, run};

/// What cuts the power of the file system that holds its argument. The number is `_IOR('X', 125, __u32)`, the flag
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const CUT: &str = "import fcntl, os, struct, sys\n\
                   fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))\n";

/// A mounted disk; unmounted and gone when dropped.
#[derive(Debug)]
pub struct Disk {
    dir: tempfile::TempDir,
    ballast: PathBuf,
}

impl Disk {
    /// A disk of so many MiB; or why this machine cannot have one.
    pub fn new(mib: u64) -> Result<Disk, String> {
        let made = || -> anyhow::Result<Disk> {
            let dir = tempfile::tempdir().context("a temporary folder")?;
            let image = std::fs::File::create(dir.path().join("image")).context("the image")?;
            image.set_len(mib << 20).context("the image")?;
            std::fs::create_dir(dir.path().join("disk")).context("the mount point")?;
            let disk = Disk { ballast: dir.path().join("disk/ballast"), dir };
            command("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0"], &[&disk.image()])?;
            disk.mount()?;
            disk.proves_itself()?;
            Ok(disk)
        };
        made().map_err(|why| format!("{why:#}"))
    }

    /// Whether a cut takes what was not synced, and nothing else, is told by cutting.
    fn proves_itself(&self) -> anyhow::Result<()> {
        let [kept, lost] = ["kept", "lost"].map(|name| self.path().join(name));
        std::fs::write(&kept, "kept")?;
        std::fs::File::open(&kept)?.sync_all()?;
        std::fs::File::open(self.path())?.sync_all()?;
        std::fs::write(&lost, "lost")?;
        self.cut()?;
        self.replug()?;
        ensure!(std::fs::read(&kept).is_ok_and(|bytes| bytes == b"kept"), "a cut takes what was synced");
        ensure!(std::fs::read(&lost).map_or(true, |bytes| bytes.is_empty()), "a cut takes nothing");
        Ok(())
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn mount(&self) -> anyhow::Result<()> {
        command("mount", &["-o", "loop"], &[&self.image(), &self.path()])
    }

    /// Cuts its power: nothing more is written, and what was not synced is lost.
    ///
    /// # Errors
    /// If this machine cannot.
    pub fn cut(&self) -> anyhow::Result<()> {
        command("python3", &["-c", CUT], &[&self.path()])
    }

    /// Gives it power again. Nobody may have a file open on it.
    ///
    /// # Errors
    /// If it cannot be unmounted or mounted.
    pub fn replug(&self) -> anyhow::Result<()> {
        command("umount", &[], &[&self.path()])?;
        self.mount()
    }

    /// Fills it to the last block.
    ///
    /// # Errors
    /// If it fails otherwise than for want of space.
    pub fn fill(&self) -> anyhow::Result<()> {
        use std::io::Write as _;
        let mut ballast = std::fs::File::create(&self.ballast).context("the ballast")?;
        let block = vec![0xA5; 64 << 10];
        loop {
            match ballast.write_all(&block) {
                Ok(()) => {}
                Err(why) if why.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(why) => return Err(why).context("the ballast"),
            }
        }
    }

    /// Undoes [`Disk::fill`].
    ///
    /// # Errors
    /// If the ballast cannot be removed.
    pub fn free(&self) -> anyhow::Result<()> {
        std::fs::remove_file(&self.ballast).context("the ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Best effort: it may not be mounted at all, and a process that is being ended may still hold it.
        let _ = command("umount", &["-l"], &[&self.path()]);
    }
}

fn command(program: &str, words: &[&str], paths: &[&Path]) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.args(words).args(paths);
    let Finished { code, stderr, .. } = run(command).with_context(|| program.to_owned())?;
    ensure!(code == Some(0), "{program}: {}", stderr.trim());
    Ok(())
}

//! What is made of files, and made anew when they change.
//!
//! One task looks at all of them every second ([`keep`]): at the time, the length and the number of each file, so that a file
//! that is replaced by a link to another is seen, too. What it makes of them is swapped in whole. Files that do not hold
//! together are told once and counted, what was there before stays, and they are looked at again: a certificate and its key
//! are two files, and for a moment one of them may be the old one.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::{Fault, Metrics};

/// How often files are looked at.
pub const EVERY: Duration = Duration::from_secs(1);
/// Bytes of one file, at most.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// Makes a value of the files' bytes, in their order; the error says what is wrong, and nothing of what they hold.
type Make<T> = Box<dyn Fn(&[Zeroizing<Vec<u8>>]) -> Result<T, String> + Send + Sync>;

/// See the module.
pub struct Watched<T> {
    what: &'static str,
    files: Vec<PathBuf>,
    make: Make<T>,
    now: ArcSwap<T>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    stamps: Vec<Option<Stamp>>,
    told: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    changed: Option<SystemTime>,
    bytes: u64,
    number: u64,
}

impl<T> std::fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched")
            .field("what", &self.what)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the files for the first time. `what` they are is the label of the metric.
    ///
    /// # Errors
    /// If one cannot be read, or they make no value: a start with damaged files is refused.
    pub fn open(
        what: &'static str,
        files: Vec<PathBuf>,
        make: impl Fn(&[Zeroizing<Vec<u8>>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Arc<Watched<T>>, Fault> {
        let stamps = stamps(&files);
        let make: Make<T> = Box::new(make);
        let first = made(&files, &make)?;
        let seen = Mutex::new(Seen { stamps, told: None });
        Ok(Arc::new(Watched { what, files, make, now: ArcSwap::from_pointee(first), seen }))
    }

    /// The value as it is now.
    pub fn get(&self) -> Arc<T> {
        self.now.load_full()
    }
}

fn made<T>(files: &[PathBuf], make: &Make<T>) -> Result<T, Fault> {
    let mut all = Vec::with_capacity(files.len());
    for file in files {
        all.push(Zeroizing::new(read_bounded(file)?));
    }
    let names = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    make(&all).map_err(|reason| Fault { file: names, reason })
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    use std::os::unix::fs::MetadataExt as _;
    let stamp = |file: &PathBuf| {
        let about = std::fs::metadata(file).ok()?;
        Some(Stamp { changed: about.modified().ok(), bytes: about.len(), number: about.ino() })
    };
    files.iter().map(stamp).collect()
}

/// A whole file, if it is no longer than [`FILE_BYTES_MAX`].
///
/// # Errors
/// If it cannot be read or is longer.
pub fn read_bounded(path: &Path) -> Result<Vec<u8>, Fault> {
    let wrong = |why: std::io::Error| Fault::new(path, why);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(wrong)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Fault::new(path, format!("is longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// Something that may have to be read again.
pub trait Refresh: Send + Sync {
    /// Looks at the files, and reads them if they changed.
    fn refresh(&self, metrics: &Metrics);
}

impl<T: Send + Sync + 'static> Refresh for Watched<T> {
    fn refresh(&self, metrics: &Metrics) {
        let mut seen = self.seen.lock();
        // Taken before the files are read: whoever writes meanwhile is seen the next time.
        let stamps = stamps(&self.files);
        if seen.told.is_none() && seen.stamps == stamps {
            return;
        }
        match made(&self.files, &self.make) {
            Ok(value) => {
                self.now.store(Arc::new(value));
                tracing::info!(what = self.what, "read again: its files changed");
                *seen = Seen { stamps, told: None };
            }
            Err(fault) => {
                if seen.told.as_ref() != Some(&fault) {
                    tracing::error!(what = self.what, %fault, "damaged: what was read before stays in force");
                    metrics.reload_failed(self.what);
                }
                seen.told = Some(fault);
            }
        }
    }
}

/// The task that looks at files; it ends with its owner.
#[derive(Debug)]
pub struct Keeper(tokio::task::JoinHandle<()>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Looks at all of these from now on. Must be called within a tokio runtime.
pub fn keep(all: Vec<Arc<dyn Refresh>>, metrics: Metrics) -> Keeper {
    Keeper(tokio::spawn(async move {
        let all = Arc::new(all);
        while !all.is_empty() {
            tokio::time::sleep(EVERY).await;
            let (all, metrics) = (all.clone(), metrics.clone());
            let looked = tokio::task::spawn_blocking(move || {
                for one in all.iter() {
                    one.refresh(&metrics);
                }
            });
            if looked.await.is_err() {
                return;
            }
        }
    }))
}

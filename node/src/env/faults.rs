//! Faults for tests: the file calls that fail, and how.
//!
//! [`plant`] makes calls of one kind fail on every path that contains a text (a test's own folder, so that tests beside it
//! feel nothing), for a number of calls or until the fault is taken away. The call then does nothing at all, as a system
//! call that is refused. Not part of the product: there is nothing of it without the feature `faults`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::fs::Op;

static PLANTED: RwLock<Vec<Arc<Planted>>> = RwLock::new(Vec::new());

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `EIO`: the device does not do it.
    Io,
    /// `ENOSPC`: there is no space.
    Full,
}

impl Failure {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Failure::Io => libc::EIO,
            Failure::Full => libc::ENOSPC,
        })
    }
}

#[derive(Debug)]
struct Planted {
    path: String,
    op: Op,
    failure: Failure,
    /// Calls that are still to fail.
    left: AtomicU64,
    failed: AtomicU64,
}

/// A fault; dropping it takes it away.
#[derive(Debug)]
pub struct Fault(Arc<Planted>);

impl Fault {
    /// Calls that failed by it so far.
    pub fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::SeqCst)
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        PLANTED.write().retain(|planted| !Arc::ptr_eq(planted, &self.0));
    }
}

/// From now on, the next `times` calls (`None`: all) of this kind fail on paths that contain `path`.
pub fn plant(path: impl Into<String>, op: Op, failure: Failure, times: Option<u64>) -> Fault {
    let left = AtomicU64::new(times.unwrap_or(u64::MAX));
    let planted = Arc::new(Planted { path: path.into(), op, failure, left, failed: AtomicU64::new(0) });
    PLANTED.write().push(planted.clone());
    Fault(planted)
}

/// Whether the call fails.
pub(super) fn check(op: Op, path: &Path) -> io::Result<()> {
    let planted = PLANTED.read();
    if planted.is_empty() {
        return Ok(());
    }
    let path = path.to_string_lossy();
    for fault in planted.iter().filter(|fault| fault.op == op && path.contains(&fault.path)) {
        let take = |left: u64| left.checked_sub(1);
        if fault.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            fault.failed.fetch_add(1, Ordering::SeqCst);
            return Err(fault.failure.error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::fs;

    #[test]
    fn calls_fail_where_when_and_as_often_as_planted() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().to_str().unwrap();
        let file = fs::create(&dir.path().join("f")).unwrap();
        let fault = plant(format!("{name}/f"), Op::Write, Failure::Full, Some(2));
        for _ in 0..2 {
            let error = file.write_at(b"x", 0).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            assert!(error.to_string().contains("/f: "), "{error}");
        }
        file.write_at(b"x", 0).unwrap();
        assert_eq!((fault.failed(), file.len().unwrap()), (2, 1));
        let fault = plant(name, Op::Sync, Failure::Io, None);
        assert!(file.sync_data().is_err() && fs::sync_dir(dir.path()).is_err());
        fs::rename(&dir.path().join("f"), &dir.path().join("g")).unwrap();
        drop(fault);
        file.sync_data().unwrap();
        let _other = plant("no such folder", Op::Sync, Failure::Io, None);
        file.sync_all().unwrap();
    }
}

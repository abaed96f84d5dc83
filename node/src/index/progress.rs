//! How a long build tells how far it is, and how it is told to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared between a build and whoever watches it.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    cancelled: AtomicBool,
}

/// The build was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the index build was cancelled")]
pub struct Cancelled;

impl Progress {
    /// Nothing done yet, not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows indexed so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Asks the build to stop; it does within about one row per thread.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    /// Builds may go on again, or begin anew.
    pub fn renew(&self) {
        self.cancelled.store(false, Ordering::SeqCst);
    }

    /// True once [`Progress::cancel`] was called, until [`Progress::renew`] is.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Counts `rows` more rows.
    #[cfg(test)]
    pub(crate) fn count(&self, rows: u64) {
        self.done.fetch_add(rows, Ordering::Relaxed);
    }

    /// Counts `rows` more rows, or says that the build has to stop.
    pub(super) fn advance(&self, rows: u64) -> Result<(), Cancelled> {
        self.done.fetch_add(rows, Ordering::Relaxed);
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }
}

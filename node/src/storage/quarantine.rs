//! Whether what a replica stores may still be read.
//!
//! A replica that was found damaged, or not equal to the others, is *quarantined*: it answers nothing from that moment on,
//! and the others serve. The reason is written to [`MARK`] in its folder as well, so that a restart does not bring it back;
//! it goes with the folder when the replica is rebuilt. Where there is no other replica to rebuild it from, an
//! operator who knows better removes the file.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tokio::sync::watch;

use super::Fault;
use crate::env::fs;

/// The file that says why the folder is not to be read.
pub const MARK: &str = "QUARANTINED";

/// See the module. By default of no folder: it forgets with the process.
#[derive(Debug)]
pub struct Quarantine {
    folder: Option<PathBuf>,
    reason: OnceLock<String>,
    entered: watch::Sender<bool>,
}

impl Default for Quarantine {
    fn default() -> Quarantine {
        Quarantine { folder: None, reason: OnceLock::new(), entered: watch::channel(false).0 }
    }
}

impl Quarantine {
    /// Of the replica in this folder, which is not quarantined.
    ///
    /// # Errors
    /// Damage, with the reason, if it is.
    pub fn of(folder: &Path) -> Result<Quarantine, Fault> {
        let mark = folder.join(MARK);
        if fs::exists(&mark).map_err(|error| Fault::io(&mark, &error))? {
            let reason = fs::read(&mark).map_err(|error| Fault::io(&mark, &error))?;
            return Err(Fault::damaged(mark, 0, String::from_utf8_lossy(&reason)));
        }
        Ok(Quarantine { folder: Some(folder.to_owned()), ..Quarantine::default() })
    }

    /// Nothing is read from now on. Only the first reason counts. Blocks on the file that keeps it; where that cannot be
    /// written, the next start may serve again, and will find the damage again.
    pub fn enter(&self, reason: &str) {
        if self.reason.set(reason.to_owned()).is_err() {
            return;
        }
        self.entered.send_replace(true);
        tracing::error!(reason, folder = ?self.folder, "a replica is quarantined");
        let Some(folder) = &self.folder else { return };
        if let Err(why) = fs::write_atomic(&folder.join(MARK), reason.as_bytes()) {
            tracing::warn!(%why, "the quarantine is not written down");
        }
    }

    /// Enters it for a fault of the replica's own. Work that was only cancelled, or waits for space, is none.
    pub fn note(&self, fault: &Fault) {
        match fault {
            Fault::Cancelled | Fault::Io { is_full: true, .. } => {}
            fault => self.enter(&fault.to_string()),
        }
    }

    /// Why nothing is read; `None` while all is well.
    pub fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    /// Waits until it is entered.
    pub async fn entered(&self) {
        // The sender lives as long as `self`.
        let _ = self.entered.subscribe().wait_for(|entered| *entered).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_counts_and_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::of(dir.path()).unwrap();
        quarantine.note(&Fault::Cancelled);
        quarantine.note(&Fault::Io { file: "f".into(), reason: "no space".into(), is_full: true });
        assert_eq!(quarantine.reason(), None);
        quarantine.note(&Fault::damaged("seg-3/keys", 7, "rotten"));
        quarantine.enter("something else");
        quarantine.entered().await;
        assert_eq!(quarantine.reason(), Some("seg-3/keys: damaged at byte 7: rotten"));
        let fault = Quarantine::of(dir.path()).unwrap_err().to_string();
        assert!(fault.contains("QUARANTINED") && fault.contains("rotten"), "{fault}");
        fs::remove_file(&dir.path().join(MARK)).unwrap();
        assert!(Quarantine::of(dir.path()).is_ok());
    }
}

//! System calls of a process that fail, or take long: `strace`, attached to it while it runs.
//!
//! What is struck never reaches the kernel, or comes back late; the process sees what it would see of a bad disk. It takes
//! `strace` and the right to trace. While it is attached the process is slower, since every call of it stops twice.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::process::Service;
use crate::wait::eventually_blocking;

/// The calls that make bytes durable.
pub const SYNCS: &str = "fdatasync,fsync";
const ATTACHED_WITHIN: Duration = Duration::from_secs(20);

/// A tracer at work. When it is dropped it ends, and the process goes on untraced.
pub struct Tracer {
    service: Service,
    record: PathBuf,
    _dir: tempfile::TempDir,
}

impl Tracer {
    /// Attaches to a process: these of its calls get `what`, as `strace --inject` has it. Or why this machine cannot.
    pub fn attach(process: u32, calls: &str, what: &str) -> Result<Tracer, String> {
        let attached = || -> anyhow::Result<Tracer> {
            let dir = tempfile::tempdir().context("a temporary folder")?;
            let record = dir.path().join("record");
            let mut strace = Command::new("strace");
            strace.args(["-f", "-p", &process.to_string(), "-e", "signal=none"]).arg("-o").arg(&record);
            strace.arg("-e").arg(format!("trace={calls}")).arg("-e").arg(format!("inject={calls}:{what}"));
            let mut service = Service::spawn(strace)?;
            let told = eventually_blocking("strace is attached", ATTACHED_WITHIN, || {
                let log = service.log();
                if service.has_ended() {
                    return Some(Err(log));
                }
                log.contains("attached").then_some(Ok(()))
            })?;
            told.map_err(|log| anyhow::anyhow!("strace: {}", log.trim()))?;
            Ok(Tracer { service, record, _dir: dir })
        };
        attached().map_err(|why| format!("{why:#}"))
    }

    /// How many calls it has struck so far.
    pub fn struck(&self) -> usize {
        let record = std::fs::read_to_string(&self.record).unwrap_or_default();
        record.lines().filter(|line| line.contains("(INJECTED)") || line.contains("(DELAYED)")).count()
    }

    /// Lets go of the process; returns how many calls were struck.
    ///
    /// # Errors
    /// If strace does not end.
    pub fn detach(self) -> anyhow::Result<usize> {
        let struck = self.struck();
        self.service.stopped().map(|_| struck)
    }
}

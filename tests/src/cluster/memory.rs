//! Memory that runs out: a control group (version 1) with a limit, into which a running process is put.
//!
//! Beyond the limit the kernel first drops cached pages and then kills, as on a machine that is too small. What the process
//! had before does not count. It takes root and a mounted memory controller.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::process::{command, run};

/// Where the controller is mounted.
const CONTROLLER: &str = "/sys/fs/cgroup/memory";
const TRIED_MIB: u64 = 16;

/// A control group; gone when dropped, once its processes are.
#[derive(Debug)]
pub struct Memory {
    group: PathBuf,
}

impl Memory {
    /// A group without a limit, or why this machine cannot have one.
    pub fn new() -> Result<Memory, String> {
        let made = || -> anyhow::Result<Memory> {
            // The name of a temporary folder is nobody else's.
            let dir = tempfile::tempdir_in(CONTROLLER).context(CONTROLLER)?;
            let memory = Memory { group: dir.keep() };
            memory.proves_itself()?;
            Ok(memory)
        };
        made().map_err(|why| format!("{why:#}"))
    }

    /// Whether the limit kills is told by being killed.
    fn proves_itself(&self) -> anyhow::Result<()> {
        self.limit(TRIED_MIB << 20)?;
        let script = format!(
            "echo $$ > {}; exec head -c {} /dev/zero | tail",
            self.file("cgroup.procs"),
            TRIED_MIB << 22
        );
        let told = run(command(Path::new("sh"), &["-c", &script]))?;
        ensure!(told.code != Some(0), "the limit kills nobody");
        self.set("memory.limit_in_bytes", "-1")
    }

    fn file(&self, name: &str) -> String {
        self.group.join(name).display().to_string()
    }

    fn set(&self, name: &str, value: &str) -> anyhow::Result<()> {
        std::fs::write(self.group.join(name), value).with_context(|| format!("{name} = {value}"))
    }

    /// Puts a process with all its threads into the group.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn hold(&self, process: u32) -> anyhow::Result<()> {
        self.set("cgroup.procs", &process.to_string())
    }

    /// Bytes in use, of those that its processes have asked for since they were put here.
    ///
    /// # Errors
    /// If the group does not tell.
    pub fn used(&self) -> anyhow::Result<u64> {
        let text = std::fs::read_to_string(self.group.join("memory.usage_in_bytes")).context("the usage")?;
        text.trim().parse().context("the usage")
    }

    /// From now on no more than this.
    ///
    /// # Errors
    /// If what is in use cannot be brought below it.
    pub fn limit(&self, bytes: u64) -> anyhow::Result<()> {
        self.set("memory.limit_in_bytes", &bytes.to_string())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Best effort: a process that is being ended may still be in it, so those are put back where they came from.
        let left = std::fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for process in left.lines() {
            let _ = std::fs::write(Path::new(CONTROLLER).join("cgroup.procs"), process);
        }
        let _ = std::fs::remove_dir(&self.group);
    }
}

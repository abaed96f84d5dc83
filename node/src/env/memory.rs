//! Memory: what this process uses of it, what it may use, and the processor time it took. As the system tells it, for decisions
//! that may be a little late.
//!
//! **Used** is what the kernel cannot take back: resident pages that belong to no file. Pages of mapped files are not counted;
//! the kernel drops those first. **May** is the tightest limit of the control groups that the process is in, of version 2 or 1, or
//! the machine's memory. Where the system tells nothing (it is not Linux, or the world is a simulated one) there is nothing to
//! go by: `None`.

use std::fs as real;
use std::path::{Path, PathBuf};

/// Groups of version 1 without a limit say so by a number beyond any machine.
const UNLIMITED: u64 = 1 << 60;
/// Where control groups are mounted, and the files of their limits.
const GROUPS: &str = "/sys/fs/cgroup";
const LIMIT_V2: &str = "memory.max";
const LIMIT_V1: &str = "memory.limit_in_bytes";

/// Bytes of memory that are this process's own.
pub fn used() -> Option<u64> {
    if is_simulated() {
        return None;
    }
    used_by(&real::read_to_string("/proc/self/status").ok()?)
}

/// Bytes of memory that this process may use.
pub fn limit() -> Option<u64> {
    if is_simulated() {
        return None;
    }
    let groups = real::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let folders = folders(Path::new(GROUPS), &groups);
    let limits = folders.iter().filter_map(|file| real::read_to_string(file).ok()?.trim().parse().ok());
    let machine = real::read_to_string("/proc/meminfo").ok().and_then(|text| kilobytes(&text, "MemTotal:"));
    limits.filter(|limit| *limit < UNLIMITED).chain(machine).min()
}

/// Memory is given out by the 2 MiB from here on. Below, most of such pages would be held for the little that is used of them: an
/// idle node held 24 MB more with them than without (2026-11).
const HUGE_FROM: u64 = 4 << 30;

/// Has a process that may use so many bytes (0: not known) do without huge pages if that is little.
pub fn spare(limit: u64) {
    #[cfg(target_os = "linux")]
    if (1..HUGE_FROM).contains(&limit)
        && !is_simulated()
        && let Err(why) = rustix::thread::disable_transparent_huge_pages(true)
    {
        tracing::debug!(%why, "memory is given out in huge pages");
    }
}

/// Seconds of processor time that this process took, over all its threads.
pub fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Processors that this process may keep busy.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn is_simulated() -> bool {
    #[cfg(any(test, feature = "sim"))]
    return super::sim::world().is_some();
    #[cfg(not(any(test, feature = "sim")))]
    false
}

fn used_by(status: &str) -> Option<u64> {
    kilobytes(status, "RssAnon:").map(|anonymous| anonymous + kilobytes(status, "RssShmem:").unwrap_or(0))
}

/// The figure of a line `name   123 kB`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}

/// The files that may hold a limit: of each group the process is in by `groups` (`/proc/self/cgroup`), and of those above it.
fn folders(mounted: &Path, groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, name) = match controllers {
            "" => (mounted.to_owned(), LIMIT_V2),
            _ if controllers.split(',').any(|one| one == "memory") => (mounted.join("memory"), LIMIT_V1),
            _ => continue,
        };
        // In a container the path may be that of the host, and its own group be mounted as the root.
        let own = root.join(path.trim_start_matches('/'));
        files.extend(
            own.ancestors().take_while(|above| above.starts_with(&root)).map(|above| above.join(name)),
        );
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_leaves_files_out() {
        let status = "Name:\tx\nVmRSS:\t    2128 kB\nRssAnon:\t     148 kB\nRssFile:\t    1980 kB\nRssShmem:\t       4 kB\n";
        assert_eq!(used_by(status), Some(152 << 10));
        assert_eq!(used_by("VmRSS:\t 12 kB\n"), None);
        assert_eq!(used_by("RssAnon:\t many kB\n"), None);
        let (used, limit) = (used().unwrap(), limit().unwrap());
        assert!(0 < used && used < limit && limit < UNLIMITED, "{used} of {limit}");
        assert!(cpu_seconds() > 0.0);
    }

    #[test]
    fn limits_are_those_of_the_group_and_of_all_above_it() {
        let names = |groups: &str| -> Vec<String> {
            folders(Path::new("/g"), groups).iter().map(|file| file.display().to_string()).collect()
        };
        assert_eq!(names("0::/a/b\n"), ["/g/a/b/memory.max", "/g/a/memory.max", "/g/memory.max"]);
        assert_eq!(
            names("4:cpu,memory:/x\n3:cpuset:/\n"),
            ["/g/memory/x/memory.limit_in_bytes", "/g/memory/memory.limit_in_bytes"]
        );
        assert_eq!(names("0::/\nnonsense\n"), ["/g/memory.max"]);
    }
}

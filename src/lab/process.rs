//! What the operating system knows: CPU time and memory of a process, and facts about the machine.
//!
//! CPU time is what the kernel accounts to a process, in clock ticks (10 ms on common kernels), so
//! a measurement must last long enough for ticks not to matter; reports name the tick.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};

/// The unit in which the kernel accounts CPU time.
pub fn tick() -> Duration {
    Duration::from_secs(1) / (rustix::param::clock_ticks_per_second().max(1) as u32)
}

/// CPU time that the process `pid` has used so far, in user and kernel mode.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = cpu_ticks(&text).ok_or_else(|| anyhow!("{path} has an unknown form"))?;
    Ok(tick() * u32::try_from(ticks).unwrap_or(u32::MAX))
}

/// utime + stime. The name of the program, in brackets, may hold anything; fields are counted from
/// after it.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let utime: u64 = fields.next()?.parse().ok()?;
    let stime: u64 = fields.next()?.parse().ok()?;
    Some(utime + stime)
}

/// Resident memory of the process `pid`, in bytes.
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/statm");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let pages: Option<u64> = text.split_ascii_whitespace().nth(1).and_then(|p| p.parse().ok());
    let pages = pages.ok_or_else(|| anyhow!("{path} has an unknown form"))?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// The most memory that the process `pid` had resident so far, in bytes.
pub fn peak_resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    peak_of(&text).ok_or_else(|| anyhow!("{path} has an unknown form"))
}

fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Lets the kernel look for the peak of the process `pid` anew. Some kernels refuse; the peak is
/// then that of the whole life of the process.
pub fn forget_peak(pid: u32) {
    let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Facts about the machine, as far as they can be found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cores: usize,
    pub cpu: String,
    pub memory_bytes: u64,
    pub kernel: String,
    /// The file system that the nodes' data lies on.
    pub data_filesystem: String,
    /// How many tasks wanted a core in the minute before, on average: what else was going on.
    pub load_before: Option<f64>,
    /// The unit of CPU time, in microseconds.
    pub cpu_tick_us: u64,
}

impl Machine {
    /// Looks around; `data` is a directory on the file system that data will lie on.
    pub fn facts(data: &Path) -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let unknown = || "unknown".to_owned();
        let after_colon = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let kilobytes = after_colon(&read("/proc/meminfo"), "MemTotal")
            .and_then(|value| value.trim_end_matches(" kB").parse::<u64>().ok());
        let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
        Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: after_colon(&read("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            memory_bytes: kilobytes.unwrap_or(0) * 1024,
            kernel: if kernel.is_empty() { unknown() } else { kernel },
            data_filesystem: filesystem_of(data, &read("/proc/self/mounts"))
                .unwrap_or_else(unknown),
            load_before: read("/proc/loadavg").split(' ').next().and_then(|one| one.parse().ok()),
            cpu_tick_us: tick().as_micros() as u64,
        }
    }
}

/// The type of the file system that `path` lies on: the mount with the longest path above it.
fn filesystem_of(path: &Path, mounts: &str) -> Option<String> {
    let path = std::fs::canonicalize(path).ok()?;
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        path.starts_with(point).then(|| (point.len(), kind.to_owned()))
    });
    // The last of equally long ones was mounted over the others.
    above.max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_from_behind_the_program_name() {
        let stat = "42 (a ) (b) S 1 42 42 0 -1 4194560 1 2 3 4 250 50 7 8 20 0 1 0 9 10 11";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("42 (cut"), None);
        assert_eq!(cpu_ticks("42 (a) S 1 2"), None);
    }

    #[test]
    fn this_process_has_used_some_memory_and_its_cpu_time_never_falls() {
        let own = std::process::id();
        let before = cpu_time(own).expect("readable");
        assert!(resident_bytes(own).expect("readable") > 100_000);
        assert!(peak_resident_bytes(own).expect("readable") > 100_000);
        assert!(cpu_time(own).expect("readable") >= before);
        assert!(cpu_time(u32::MAX).is_err());
    }

    #[test]
    fn the_peak_is_read_in_bytes() {
        assert_eq!(peak_of("VmPeak:\t  9 kB\nVmHWM:\t    6120 kB\n"), Some(6120 * 1024));
        assert_eq!(peak_of("VmPeak:\t  9 kB\n"), None);
    }

    #[test]
    fn the_innermost_mount_names_the_file_system() {
        let mounts = "a / ext4 rw 0 0\nb /proc proc rw 0 0\nc / overlay rw 0 0\n";
        assert_eq!(filesystem_of(Path::new("/"), mounts).as_deref(), Some("overlay"));
        assert_eq!(filesystem_of(Path::new("/proc/self"), mounts).as_deref(), Some("proc"));
        assert_eq!(filesystem_of(Path::new("/no/such/path"), mounts), None);
    }
}

//! CPU time and memory of a process, from `/proc`.
//!
//! Guarantees: CPU time is user plus system of the whole process, threads that ended included.
//! Leaves to others: turning differences into figures per operation.

use std::fs;

/// The kernel's USER_HZ: what `/proc/PID/stat` counts in, fixed at 100 for user space on Linux.
const TICKS_PER_S: f64 = 100.0;

/// One look at a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and system time so far, in seconds.
    pub(crate) cpu_s: f64,
    /// Resident memory now, in bytes.
    pub(crate) rss_bytes: u64,
    /// The most resident memory there ever was, in bytes.
    pub(crate) rss_bytes_max: u64,
}

/// Looks at process `pid`; `None` where there is no such process.
pub(crate) fn usage(pid: u32) -> Option<Usage> {
    read(&format!("/proc/{pid}"))
}

/// Looks at this process.
pub(crate) fn own_usage() -> Usage {
    read("/proc/self").unwrap_or_default()
}

fn read(folder: &str) -> Option<Usage> {
    let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
    let status = fs::read_to_string(format!("{folder}/status")).ok()?;
    Some(Usage {
        cpu_s: cpu_ticks(&stat)? as f64 / TICKS_PER_S,
        rss_bytes: status_bytes(&status, "VmRSS:").unwrap_or(0),
        rss_bytes_max: status_bytes(&status, "VmHWM:").unwrap_or(0),
    })
}

/// utime + stime of a `/proc/PID/stat` line. The name in parentheses may hold anything, so fields count from its end.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line[name.len()..].split_ascii_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_strange_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 7 20 0 3 0 99 1 2";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("42 (x"), None);
    }

    #[test]
    fn status_is_in_kib() {
        assert_eq!(status_bytes("Name:\tx\nVmHWM:\t  20 kB\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12_288));
        assert_eq!(status_bytes("Name:\tx\n", "VmRSS:"), None);
    }

    #[test]
    fn this_process_exists() {
        let me = own_usage();
        assert!(me.rss_bytes > 0 && me.rss_bytes_max >= me.rss_bytes);
        assert_eq!(usage(u32::MAX), None);
    }
}

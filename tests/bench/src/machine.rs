//! The machine that is measured on: what it is, and how a measurement gets its share of it.

use std::fmt;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

/// Load above which other programs probably spoil the figures.
const BUSY: f64 = 0.5;

/// What figures depend on beside the programs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    openvpn: String,
    /// Load average of the last minute, before we began.
    load: f64,
    raised_priority: bool,
}

impl Machine {
    /// Looks around and raises the priority of this process and of all that it starts.
    pub(crate) fn prepare() -> Result<Self> {
        let cpuinfo = read("/proc/cpuinfo")?;
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned());
        let version = Command::new("openvpn").arg("--version").output().context("start openvpn")?;
        let openvpn: Vec<_> = String::from_utf8_lossy(&version.stdout)
            .split_whitespace()
            .take(2)
            .map(str::to_owned)
            .collect();
        let load = read("/proc/loadavg")?;
        Ok(Self {
            cpu,
            cores: thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            openvpn: openvpn.join(" "),
            load: load.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default(),
            raised_priority: raise_priority(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, kernel, openvpn, load, raised_priority } = self;
        writeln!(f, "{cores} × {cpu}, Linux {kernel}, {openvpn}, load {load}")?;
        let priority = if *raised_priority { "raised" } else { "ordinary" };
        write!(f, "priority {priority}; the figures mean something on a quiet machine only")?;
        if *load > BUSY {
            write!(f, ", and this one is busy")?;
        }
        Ok(())
    }
}

fn raise_priority() -> bool {
    // Where the kernel groups processes by session, priorities count only within the group, and
    // the group has one of its own.
    let _ = fs::write("/proc/self/autogroup", "-10");
    let mut renice = Command::new("renice");
    renice.args(["-n", "-10", "-p", &std::process::id().to_string()]);
    renice.stdout(Stdio::null()).stderr(Stdio::null());
    renice.status().is_ok_and(|status| status.success())
}

/// Processor time that a process and its children that ended have used, in seconds.
///
/// # Errors
/// If the process is gone.
pub(crate) fn cpu_seconds(pid: i32) -> Result<f64> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    let ticks = ticks(&stat).with_context(|| format!("/proc/{pid}/stat: {stat}"))?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
    Ok(ticks as f64 / per_second as f64)
}

/// utime, stime, cutime and cstime (proc_pid_stat(5), fields 14 to 17).
fn ticks(stat: &str) -> Option<u64> {
    // The name in front may contain anything, spaces and parentheses too.
    let (_, fields) = stat.rsplit_once(") ")?;
    let times: Vec<u64> =
        fields.split(' ').skip(11).take(4).map(str::parse).collect::<Result<_, _>>().ok()?;
    (times.len() == 4).then(|| times.iter().sum())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_that_of_the_process_and_its_children() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 8 0 999";

        assert_eq!(ticks(stat), Some(127));
        assert_eq!(ticks("42 (a) S 1"), None);
    }
}

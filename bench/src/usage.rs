//! CPU time and memory as the kernel counts them in `/proc`.

pub(crate) mod process;

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// `USER_HZ` of Linux, on every supported architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// One line of `/proc/<pid>/stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    parent: u32,
    /// User and system time, including ended and awaited children, in ticks.
    ticks: u64,
}

fn parse_stat(line: &str) -> Option<Stat> {
    // The name in parentheses may contain anything, including spaces and parentheses.
    let fields: Vec<&str> = line[line.rfind(')')? + 1..].split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum::<Option<u64>>()?;
    Some(Stat { parent: fields.get(1)?.parse().ok()?, ticks })
}

/// `root` and all its descendants, by pid.
fn tree(root: u32) -> Result<BTreeMap<u32, Stat>> {
    let mut processes = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("could not list /proc")? {
        let entry = entry.context("could not list /proc")?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process may end during the scan.
        let Ok(line) = fs::read_to_string(entry.path().join("stat")) else { continue };
        processes.insert(pid, parse_stat(&line).with_context(|| format!("could not read {line:?}"))?);
    }
    let in_tree = |mut pid: u32| loop {
        if pid == root {
            return true;
        }
        match processes.get(&pid) {
            Some(stat) if stat.parent != 0 => pid = stat.parent,
            _ => return false,
        }
    };
    let members: Vec<u32> = processes.keys().copied().filter(|pid| in_tree(*pid)).collect();
    Ok(members.into_iter().filter_map(|pid| Some((pid, processes.remove(&pid)?))).collect())
}

/// CPU seconds, user and system, of `root` and all its descendants.
pub(crate) fn cpu_seconds_of_tree(root: u32) -> Result<f64> {
    let ticks: u64 = tree(root)?.values().map(|stat| stat.ticks).sum();
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// `root`, then each of its descendants by pid.
pub(crate) fn pids_of_tree(root: u32) -> Result<Vec<u32>> {
    let descendants = tree(root)?.into_keys().filter(|pid| *pid != root);
    Ok(std::iter::once(root).chain(descendants).collect())
}

/// Resident memory of `root`, MiB, then of each of its descendants by pid.
pub(crate) fn resident_mib_of_tree(root: u32) -> Result<Vec<f64>> {
    pids_of_tree(root)?.into_iter().map(resident_mib).collect()
}

/// Seconds of all CPUs since boot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) idle: f64,
    pub(crate) total: f64,
}

impl Machine {
    pub(crate) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("could not read /proc/stat")?;
        parse_machine(&text).context("could not understand /proc/stat")
    }
}

fn parse_machine(text: &str) -> Option<Machine> {
    let fields = text.lines().next()?.split_whitespace().skip(1).take(8);
    let ticks: Vec<f64> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some(Machine { idle: idle / TICKS_PER_SECOND, total: ticks.iter().sum::<f64>() / TICKS_PER_SECOND })
}

/// Resident memory of one process, MiB.
fn resident_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is not a number")?;
    Ok(kib / 1024.0)
}

/// The machine in one line: CPUs, memory, kernel.
pub(crate) fn machine_line() -> Result<String> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("could not read {path}"));
    let cpu = read("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown CPU");
    let sha = if cpu.contains(" sha_ni") { "SHA instructions" } else { "no SHA instructions" };
    let memory = read("/proc/meminfo")?;
    let kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease")?;
    Ok(format!(
        "{} × {} ({sha}), {} GiB, Linux {}",
        std::thread::available_parallelism().context("could not count CPUs")?,
        model.trim_start_matches([' ', '\t', ':']),
        kib.div_ceil(1024 * 1024),
        kernel.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line = "7 (a) b) S 3 7 7 0 -1 4194560 1 2 3 4 100 20 3 1 20 0 1 0 5";
        assert_eq!(parse_stat(line), Some(Stat { parent: 3, ticks: 124 }));
    }

    #[test]
    fn this_process_has_used_some_cpu_and_memory() {
        let mut sum = 0u64;
        let before = cpu_seconds_of_tree(std::process::id()).unwrap();
        while cpu_seconds_of_tree(std::process::id()).unwrap() - before < 0.02 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        assert!(resident_mib(std::process::id()).unwrap() > 0.5);
    }

    #[test]
    fn waiting_for_the_disk_counts_as_idle() {
        let machine = parse_machine("cpu  100 0 50 800 50 0 0 0 9 9\n").unwrap();
        assert_eq!((machine.idle, machine.total), (8.5, 10.0));
    }
}

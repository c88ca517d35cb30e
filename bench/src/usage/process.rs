//! Resources of one process, as the kernel counts them.

use std::fs;

use anyhow::{Context, Result};

use super::{TICKS_PER_SECOND, parse_stat};

const MIB: f64 = 1024.0 * 1024.0;

/// Memory of one process, MiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Resident memory.
    pub(crate) resident: f64,
    /// Resident memory, with shared pages divided among their processes.
    pub(crate) proportional: f64,
    /// The part of the resident memory that no file backs.
    pub(crate) anonymous: f64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let text = read(pid, "smaps_rollup")?;
        let field = |name| kib(&text, name).with_context(|| format!("no {name} in smaps_rollup"));
        Ok(Self { resident: field("Rss:")?, proportional: field("Pss:")?, anonymous: field("Anonymous:")? })
    }
}

/// Peak of resident memory since the start or [`forget_peak`], MiB.
pub(crate) fn peak_resident(pid: u32) -> Result<f64> {
    kib(&read(pid, "status")?, "VmHWM:").context("no VmHWM")
}

/// Resident pages of files, such as the binary, in MiB. The kernel can take them back at any time.
pub(crate) fn resident_of_files(pid: u32) -> Result<f64> {
    kib(&read(pid, "status")?, "RssFile:").context("no RssFile")
}

/// Resets [`peak_resident`].
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").context("could not reset the peak of resident memory")
}

/// CPU seconds, user and system, that a process has used.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let line = read(pid, "stat")?;
    let stat = parse_stat(&line).with_context(|| format!("could not read {line:?}"))?;
    Ok(stat.ticks as f64 / TICKS_PER_SECOND)
}

/// Bytes that a process has caused to be written to the disk, MiB.
pub(crate) fn written(pid: u32) -> Result<f64> {
    let text = read(pid, "io")?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse::<f64>().ok());
    Ok(bytes.context("no write_bytes")? / MIB)
}

fn read(pid: u32, name: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{name}");
    fs::read_to_string(&path).with_context(|| format!("could not read {path}"))
}

fn kib(text: &str, name: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().trim_end_matches(" kB").parse::<f64>().ok().map(|kib| kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_peak_of_it() {
        let pid = std::process::id();
        let memory = Memory::of(pid).unwrap();
        assert!(memory.resident >= memory.anonymous && memory.proportional > 0.1, "{memory:?}");
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(peak_resident(pid).unwrap() > 64.0);
        drop(block);
        assert!(cpu_seconds(pid).is_ok() && written(pid).is_ok());
    }
}

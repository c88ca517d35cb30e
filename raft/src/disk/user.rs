//! Which process has a file open: `/proc/<pid>/fd` says it, where this process may look.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::limits::COMMAND_CHARS_MAX;

/// A process that has a file open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileUser {
    /// Its pid, as this process sees it.
    pub pid: u32,
    /// Command line of that process.
    pub command: String,
}

impl fmt::Display for FileUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)
    }
}

/// Finds the process that has `path` open, another one rather than this. `None` also for a process
/// whose descriptors this one may not see: another user's, another container's.
pub(super) fn of(path: &Path) -> Option<FileUser> {
    let file = fs::metadata(path).ok()?;
    let wanted = (file.dev(), file.ino());
    let is_open = |pid: u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut files = descriptors.filter_map(|entry| fs::metadata(entry.path()).ok());
        files.any(|file| (file.dev(), file.ino()) == wanted)
    };
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_by_key(|pid| *pid == std::process::id());
    let pid = pids.into_iter().find(|pid| is_open(*pid))?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    Some(FileUser { pid, command: command.chars().take(COMMAND_CHARS_MAX).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_this_process_has_open_is_found_and_a_closed_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let open = fs::File::create(&path).unwrap();
        assert_eq!(of(&path).unwrap().pid, std::process::id());
        drop(open);
        assert_eq!(of(&path), None);
    }
}

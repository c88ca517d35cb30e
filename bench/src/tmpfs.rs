//! A file system in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::net::{is_abandoned, name_of};
use crate::process::run;

/// A mount, which ends when dropped.
pub(crate) struct Tmpfs {
    folder: PathBuf,
}

impl Tmpfs {
    /// Mounts one at `folder`, which is made; needs root. Ends the mounts of runs that were killed.
    pub(crate) fn mount(folder: &Path) -> Result<Self> {
        end_abandoned()?;
        fs::create_dir_all(folder).context("could not make a folder")?;
        run(Command::new("mount").args(["-t", "tmpfs", &name_of("tmpfs")]).arg(folder))?;
        Ok(Self { folder: folder.to_owned() })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        end(&self.folder);
    }
}

/// Ends a mount as soon as nothing uses it.
fn end(folder: &Path) {
    Command::new("umount").arg("--lazy").arg(folder).output().ok();
}

fn end_abandoned() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("could not read /proc/mounts")?;
    for line in mounts.lines() {
        let mut fields = line.split_whitespace();
        let (source, folder) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if is_abandoned(source) {
            end(Path::new(folder));
        }
    }
    Ok(())
}

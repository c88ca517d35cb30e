//! Levels: what a cluster writes, as long as not all of its members can read more.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde::{Deserialize, Serialize};

#[cfg(any(test, feature = "next-format"))]
use super::next::{SEALED, is_chosen};

/// What the servers of a cluster have agreed to write: commands, and versions of formats. It only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Level(pub u16);

/// The versions that are written at one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Version of frames between servers.
    pub wire: u16,
    /// Version of log entries.
    pub entry: u16,
    /// Version of everything else on the disk, and of snapshots.
    pub storage: u16,
    /// Version of the state checksum.
    pub hash: u16,
}

/// By level, the first one first. Formats of number 1 are from before the first release.
const LEVELS: &[Versions] = &[
    Versions { wire: 2, entry: 2, storage: 2, hash: 1 },
    #[cfg(any(test, feature = "next-format"))]
    Versions { wire: SEALED, entry: SEALED, storage: SEALED, hash: 2 },
];

impl Level {
    /// The level that every cluster begins with.
    pub const FIRST: Level = Level(1);
    /// The level that the next build of tests brings.
    #[cfg(any(test, feature = "next-format"))]
    pub const NEXT_BUILD: Level = Level(2);

    /// What is written at this level. Of one that this build does not know: what it knows best, but no server
    /// runs at such a level.
    pub fn versions(self) -> Versions {
        let at = usize::from(self.0).saturating_sub(1).min(LEVELS.len() - 1);
        LEVELS[at]
    }
}

impl Default for Level {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {}", self.0)
    }
}

/// What the servers of a cluster have agreed on: a part of the replicated state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    /// The level at which the servers write.
    pub active: Level,
    /// What they are to write next.
    pub next: Option<Next>,
}

/// A level on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// All members can run at it.
    pub level: Level,
    /// Time for which it has been counted, as far as that is replicated, seconds.
    pub seconds: u64,
}

/// From a lowest to a highest number, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Lowest version, which is included.
    pub lowest: u16,
    /// Highest version, which is included.
    pub highest: u16,
}

impl Range {
    /// Whether the number is in it.
    pub fn contains(self, number: u16) -> bool {
        (self.lowest..=self.highest).contains(&number)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.lowest, self.highest)
    }
}

/// What a build can read, and write where it is asked to; `whoami` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// Levels that it can run at.
    pub level: Range,
    /// Versions of frames that can be read.
    pub wire: Range,
    /// Versions of log entries that can be read.
    pub entry: Range,
    /// Versions of what else is on the disk.
    pub storage: Range,
    /// Versions of the state checksum.
    pub hash: Range,
}

impl Reads {
    /// What this build reads.
    pub fn of_this_build() -> Self {
        let highest = LEVELS.len() as u16;
        #[cfg(any(test, feature = "next-format"))]
        let highest = if is_chosen() { highest } else { highest - 1 };
        Self::levels(Level::FIRST, Level(highest))
    }

    /// What a build reads that knows these levels.
    pub fn levels(lowest: Level, highest: Level) -> Self {
        let (from, to) = (lowest.versions(), highest.versions());
        let range = |of: fn(Versions) -> u16| Range { lowest: of(from), highest: of(to) };
        Self {
            level: Range { lowest: lowest.0, highest: highest.0 },
            wire: range(|versions| versions.wire),
            entry: range(|versions| versions.entry),
            storage: range(|versions| versions.storage),
            hash: range(|versions| versions.hash),
        }
    }

    /// Whether such a server can be a member at `level`: it knows the level, and reads what this build writes there.
    pub fn can_run_at(&self, level: Level) -> bool {
        let Versions { wire, entry, storage, hash } = level.versions();
        self.level.contains(level.0)
            && self.wire.contains(wire)
            && self.entry.contains(entry)
            && self.storage.contains(storage)
            && self.hash.contains(hash)
    }

    /// The highest level that it knows.
    pub fn highest(&self) -> Level {
        Level(self.level.highest)
    }
}

/// A cluster runs at a level that this build does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster runs at {active}, and this piccolo reads levels {reads}: start a newer one; going back is not \
     possible once a level is activated"
)]
pub struct UnknownLevel {
    /// The level at which the cluster runs.
    pub active: Level,
    /// The levels that this build can run at.
    pub reads: Range,
}

/// The level that a node has applied, shared by all that writes.
#[derive(Clone, Debug)]
pub struct Active(Arc<AtomicU16>);

impl Default for Active {
    fn default() -> Self {
        Self::at(Level::FIRST)
    }
}

impl Active {
    pub(crate) fn at(level: Level) -> Self {
        Self(Arc::new(AtomicU16::new(level.0)))
    }

    pub(crate) fn set(&self, level: Level) {
        self.0.store(level.0, Ordering::Relaxed);
    }

    /// The level as of now.
    pub fn get(&self) -> Level {
        Level(self.0.load(Ordering::Relaxed))
    }
}

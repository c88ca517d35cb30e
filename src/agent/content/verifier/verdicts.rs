//! The file `verdicts` in the state folder: which files of the store were found right. Plain text:
//!
//! ```text
//! piccolo verdicts 1
//! <SHA-256 of all lines below, as a digest>
//! <device> <inode> <size> <mtime s> <mtime ns> <ctime s> <ctime ns> <digest>
//! ```
//!
//! The lines are in the order in which the verdicts were found; the oldest ones go first when there are
//! more than [`VERDICTS_KEPT_MAX`].

use std::collections::HashSet;
use std::fmt::Write;

use super::file_state::{FileState, FileVersion};
use crate::limits::VERDICTS_KEPT_MAX;
use crate::oci::Digest;

const TITLE: &str = "piccolo verdicts ";
const VERSION: u32 = 1;

/// Why a file of results is not used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum VerdictsError {
    #[error("it has format {found}, and this version of piccolo reads {VERSION}")]
    Version { found: u32 },
    #[error("it is damaged")]
    Damaged,
}

/// Encodes the file.
pub(super) fn write(right: &[FileVersion]) -> String {
    let mut lines = String::new();
    for FileVersion { state, digest } in right {
        let FileState { device, inode, size_bytes, modified, changed } = state;
        let ((mtime, mtime_ns), (ctime, ctime_ns)) = (modified, changed);
        writeln!(lines, "{device} {inode} {size_bytes} {mtime} {mtime_ns} {ctime} {ctime_ns} {digest}")
            .expect("a string takes all that is written");
    }
    format!("{TITLE}{VERSION}\n{}\n{lines}", Digest::of(lines.as_bytes()))
}

/// Decodes a file.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<FileVersion>, VerdictsError> {
    let text = std::str::from_utf8(bytes).map_err(|_| VerdictsError::Damaged)?;
    let (title, rest) = text.split_once('\n').ok_or(VerdictsError::Damaged)?;
    let found = title.strip_prefix(TITLE).and_then(|version| version.parse().ok());
    let found = found.ok_or(VerdictsError::Damaged)?;
    if found != VERSION {
        return Err(VerdictsError::Version { found });
    }
    let (sum, lines) = rest.split_once('\n').ok_or(VerdictsError::Damaged)?;
    if Digest::of(lines.as_bytes()).as_str() != sum {
        return Err(VerdictsError::Damaged);
    }
    let right: Option<Vec<FileVersion>> = lines.lines().map(version).collect();
    right.filter(|right| right.len() <= VERDICTS_KEPT_MAX).ok_or(VerdictsError::Damaged)
}

fn version(line: &str) -> Option<FileVersion> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [device, inode, size, mtime, mtime_ns, ctime, ctime_ns, digest] = fields[..] else { return None };
    let state = FileState {
        device: device.parse().ok()?,
        inode: inode.parse().ok()?,
        size_bytes: size.parse().ok()?,
        modified: (mtime.parse().ok()?, mtime_ns.parse().ok()?),
        changed: (ctime.parse().ok()?, ctime_ns.parse().ok()?),
    };
    Some(FileVersion { state, digest: digest.parse().ok()? })
}

/// Merges both lists, without duplicates, and keeps the newest entries if they are too many. `newer` is what
/// this run knows; `older` may come from another agent with the same folder.
pub(super) fn merge(older: Vec<FileVersion>, newer: Vec<FileVersion>) -> Vec<FileVersion> {
    let known: HashSet<&FileVersion> = newer.iter().collect();
    let mut merged: Vec<FileVersion> =
        older.iter().filter(|version| !known.contains(version)).cloned().collect();
    merged.extend(newer);
    let too_many = merged.len().saturating_sub(VERDICTS_KEPT_MAX);
    merged.split_off(too_many)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(inode: u64) -> FileVersion {
        let state = FileState {
            device: 2,
            inode,
            size_bytes: 1 << 34,
            modified: (1_700_000_000, 5),
            changed: (-1, 999_999_999),
        };
        FileVersion { state, digest: Digest::of(b"content") }
    }

    /// Files of released versions must stay readable.
    #[test]
    fn a_file_of_the_first_format_is_read() {
        let text = "piccolo verdicts 1\n\
            sha256:84c16eeafa2662cad8a5a815f569c49748462391147c2837bc6b57c6a474d88d\n\
            2 7 17179869184 1700000000 5 -1 999999999 sha256:ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73\n";
        assert_eq!(read(text.as_bytes()), Ok(vec![numbered(7)]));
        assert_eq!(write(&[numbered(7)]), text);
        assert_eq!(read(write(&[]).as_bytes()), Ok(vec![]));
    }

    #[test]
    fn a_damaged_or_newer_file_is_refused_with_the_reason() {
        let text = write(&[numbered(7), numbered(8)]);
        for length in 0..text.len() {
            assert_eq!(read(&text.as_bytes()[..length]), Err(VerdictsError::Damaged), "{length} bytes of it");
        }
        assert_eq!(read(text.replace("2 8 ", "2 9 ").as_bytes()), Err(VerdictsError::Damaged));
        assert_eq!(read(b"\xff\n"), Err(VerdictsError::Damaged));
        let newer = read(text.replace("verdicts 1", "verdicts 2").as_bytes());
        assert_eq!(newer, Err(VerdictsError::Version { found: 2 }));
    }

    #[test]
    fn what_two_agents_know_is_kept_and_the_oldest_goes_when_it_is_too_much() {
        let of = |range: std::ops::Range<u64>| range.map(numbered).collect::<Vec<_>>();
        assert_eq!(merge(of(0..3), vec![numbered(1), numbered(5)]), [0, 2, 1, 5].map(numbered));
        let all = merge(of(0..VERDICTS_KEPT_MAX as u64), of(1_000_000..1_000_002));
        assert_eq!(all.len(), VERDICTS_KEPT_MAX);
        assert_eq!((&all[0], all.last()), (&numbered(2), Some(&numbered(1_000_001))));
    }
}

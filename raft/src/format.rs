//! Versioned bytes: every stored value, log entry and frame between servers begins with its version.
//!
//! Layout: one `u16` little endian, then postcard. What is sent ([`WIRE`]), what the log holds ([`ENTRY`])
//! and what else is on the disk ([`STORAGE`]) have versions of their own, and so has the state checksum,
//! which hashes no encoded bytes (`index/hash.rs`).
//!
//! Which versions are written is a matter of the cluster, not of the build: the activated [`Level`] says it
//! ([`Level::versions`]), so that servers of two builds understand each other while one is replaced by the
//! other, and the older build can be put back. A build reads all versions from its lowest level's to its highest
//! level's ([`Reads::of_this_build`]). A newer version, or one that is too old, is refused with an error that names it.
//!
//! To add a format or a command: add a level behind the others, keep the readers of all versions, let golden
//! files in `tests/golden` hold them to it.

mod level;
#[cfg(any(test, feature = "next-format"))]
pub mod next;

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

pub use level::{Active, Level, Levels, Next, Range, Reads, UnknownLevel, Versions};

/// One kind of bytes, with versions of its own.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    name: &'static str,
    of: fn(&Versions) -> u16,
}

/// Frames of raft RPC and their answers.
pub const WIRE: Format = Format { name: "wire", of: |versions| versions.wire };
/// Log entries, in the log and in a frame.
pub const ENTRY: Format = Format { name: "entry", of: |versions| versions.entry };
/// Rows of both tables' files, small files, votes, snapshots.
pub const STORAGE: Format = Format { name: "storage", of: |versions| versions.storage };

/// Why bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Written by a newer build.
    #[error("{what} has {format} {found}, this build reads {}: start a newer piccolo", format.readable())]
    Newer {
        /// Name of what was read.
        what: &'static str,
        /// Kind of its format.
        format: Format,
        /// The version found.
        found: u16,
    },
    /// Written by a build that is too old for this one.
    #[error(
        "{what} has {format} {found}, this build reads {}: start the piccolo that wrote it, and upgrade \
         without leaving out a version; format 1 is from before the first release, and no release reads it",
        format.readable()
    )]
    Older {
        /// Name of what was read.
        what: &'static str,
        /// Kind of its format.
        format: Format,
        /// The version found.
        found: u16,
    },
    /// Shorter than its version or not what the version says.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// Name of what was read.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} format", self.name)
    }
}

impl Format {
    /// The version that is written at `level`.
    pub fn at(self, level: Level) -> u16 {
        (self.of)(&level.versions())
    }

    /// The versions that this build reads.
    pub fn readable(self) -> Range {
        let levels = Reads::of_this_build().level;
        Range { lowest: self.at(Level(levels.lowest)), highest: self.at(Level(levels.highest)) }
    }

    /// The bytes of `value` as they are written at `level`.
    pub fn encode<T: Serialize + ?Sized>(self, level: Level, value: &T) -> Vec<u8> {
        self.encode_version(self.at(level), value)
    }

    /// The bytes of `value` behind `version`.
    pub fn encode_version<T: Serialize + ?Sized>(self, version: u16, value: &T) -> Vec<u8> {
        self.frame(version, |buffer| {
            postcard::to_extend(value, buffer).expect("postcard writes any of our types into a Vec")
        })
    }

    /// `version`, and behind it what `body` adds to the bytes that it is given.
    pub(crate) fn frame(self, version: u16, body: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
        let bytes = body(version.to_le_bytes().to_vec());
        #[cfg(any(test, feature = "next-format"))]
        let bytes = next::sealed(version, bytes);
        bytes
    }

    /// `bytes`, which begin with their version, as they are stored.
    pub(crate) fn sealed(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        #[cfg(any(test, feature = "next-format"))]
        if let Some(version) = bytes.first_chunk::<2>() {
            return Cow::Owned(next::sealed(u16::from_le_bytes(*version), bytes.to_vec()));
        }
        Cow::Borrowed(bytes)
    }

    /// Reads what [`Format::encode`] wrote; `what` names it in errors. Trailing bytes are damage.
    pub fn decode<T: DeserializeOwned>(self, what: &'static str, bytes: &[u8]) -> Result<T, FormatError> {
        let (_, body) = self.open(what, bytes)?;
        match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => {
                Err(FormatError::Damaged { what, reason: format!("{} bytes too many", rest.len()) })
            }
            Err(error) => Err(FormatError::Damaged { what, reason: error.to_string() }),
        }
    }

    /// The version of `bytes`, which this build reads, and what is behind it.
    pub fn open<'b>(self, what: &'static str, bytes: &'b [u8]) -> Result<(u16, &'b [u8]), FormatError> {
        let Some((version, body)) = bytes.split_first_chunk::<2>() else {
            return Err(FormatError::Damaged { what, reason: format!("{} bytes", bytes.len()) });
        };
        let version = u16::from_le_bytes(*version);
        self.check(what, version)?;
        #[cfg(any(test, feature = "next-format"))]
        let body = next::unseal(version, body)
            .ok_or_else(|| FormatError::Damaged { what, reason: "its sum is wrong".to_owned() })?;
        Ok((version, body))
    }

    /// Refuses a version that this build does not read.
    pub fn check(self, what: &'static str, found: u16) -> Result<(), FormatError> {
        let readable = self.readable();
        match found {
            0 => Err(FormatError::Damaged { what, reason: "format 0".to_owned() }),
            older if older < readable.lowest => Err(FormatError::Older { what, format: self, found }),
            newer if newer > readable.highest => Err(FormatError::Newer { what, format: self, found }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod golden_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for format in [WIRE, ENTRY, STORAGE] {
            let bytes = format.encode(Level::FIRST, &("key".to_string(), 7u64));
            assert_eq!(format.decode::<(String, u64)>("pair", &bytes).unwrap(), ("key".to_string(), 7));
        }
    }

    #[test]
    fn a_newer_format_and_one_from_before_the_first_release_are_refused_by_name() {
        let mut bytes = STORAGE.encode(Level::FIRST, &7u64);
        let readable = STORAGE.readable();
        for (version, says) in [(9, "start a newer piccolo"), (1, "from before the first release")] {
            bytes[0] = version;
            let message = STORAGE.decode::<u64>("host record", &bytes).unwrap_err().to_string();
            let named = format!("host record has storage format {version}, this build reads {readable}: ");
            assert!(message.starts_with(&named) && message.contains(says), "{message}");
        }
        bytes[0] = 0;
        assert!(matches!(STORAGE.decode::<u64>("x", &bytes), Err(FormatError::Damaged { .. })));
    }

    #[test]
    fn truncated_and_overlong_bytes_are_damage() {
        let bytes = ENTRY.encode(Level::FIRST, &(1u64, 2u64));
        assert!(ENTRY.decode::<(u64, u64)>("x", &bytes[..bytes.len() - 1]).is_err());
        assert!(ENTRY.decode::<(u64, u64)>("x", &[]).is_err());
        let longer = [bytes, vec![0]].concat();
        assert!(ENTRY.decode::<(u64, u64)>("x", &longer).is_err());
    }
}

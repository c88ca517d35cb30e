//! Versioned bytes: every stored value, command, RPC frame and snapshot begins with its version.
//!
//! Layout: one `u16` little endian, then postcard. A version newer than [`FORMAT`] is refused with
//! an error that names both. There is one version so far, and [`encode`] knows no other: a server that
//! cannot read it is not admitted, and servers of different versions found no cluster. Whoever raises
//! [`FORMAT`] gives [`encode`] a version, and lets the leader write the lowest that all members' `whoami`
//! reports: those that run on would refuse what a newer leader writes, and nothing could be committed.
//! Readers of old versions are kept, golden files in `tests/golden` hold them to it.

use serde::{Serialize, de::DeserializeOwned};

/// The format version that this build writes.
pub const FORMAT: u16 = 1;
/// The lowest format version that this build reads.
pub const FORMAT_LOWEST: u16 = 1;

/// Why bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Written by a newer build.
    #[error("{what} has format {found}, this build reads {FORMAT_LOWEST} to {FORMAT}: start a newer piccolo")]
    Newer {
        /// What was read.
        what: &'static str,
        /// The version found.
        found: u16,
    },
    /// Shorter than its version or not what the version says.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// The bytes of `value` behind today's version.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let buffer = FORMAT.to_le_bytes().to_vec();
    postcard::to_extend(value, buffer).expect("postcard writes any of our types into a Vec")
}

/// Reads what [`encode`] wrote; `what` names it in errors. Trailing bytes are damage.
pub fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, FormatError> {
    let Some((version, body)) = bytes.split_first_chunk::<2>() else {
        return Err(FormatError::Damaged { what, reason: format!("{} bytes", bytes.len()) });
    };
    let found = u16::from_le_bytes(*version);
    if found > FORMAT {
        return Err(FormatError::Newer { what, found });
    }
    if found < FORMAT_LOWEST {
        return Err(FormatError::Damaged { what, reason: format!("format {found}") });
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(FormatError::Damaged { what, reason: format!("{} bytes too many", rest.len()) }),
        Err(error) => Err(FormatError::Damaged { what, reason: error.to_string() }),
    }
}

#[cfg(test)]
mod golden_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = encode(&("key".to_string(), 7u64));
        assert_eq!(decode::<(String, u64)>("pair", &bytes).unwrap(), ("key".to_string(), 7));
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let mut bytes = encode(&7u64);
        bytes[0] = 9;
        let message = decode::<u64>("host record", &bytes).unwrap_err().to_string();
        assert!(message.contains("host record has format 9"), "{message}");
    }

    #[test]
    fn truncated_and_overlong_bytes_are_damage() {
        let bytes = encode(&(1u64, 2u64));
        assert!(decode::<(u64, u64)>("x", &bytes[..bytes.len() - 1]).is_err());
        assert!(decode::<(u64, u64)>("x", &[]).is_err());
        let longer = [bytes, vec![0]].concat();
        assert!(decode::<(u64, u64)>("x", &longer).is_err());
    }
}

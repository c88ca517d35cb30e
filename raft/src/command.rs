//! What may be replicated. A command is pure data: `apply` reads no clock and draws no dice, so
//! times and random choices come inside.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::format::Level;

/// Longest key, bytes. The Go Piccolo's column.
pub const KEY_BYTES_MAX: usize = 255;
/// Longest group name, bytes. The Go Piccolo's column.
pub const GROUP_BYTES_MAX: usize = 64;
/// Longest zone name, bytes.
pub const ZONE_BYTES_MAX: usize = 64;
/// Largest encoded command, bytes: openraft's own limits count entries, so ours bound the bytes of
/// one append before it sees them.
pub const COMMAND_BYTES_MAX: usize = 256 * 1024;

/// What a holder holds: content by digest, or a tag.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// `sha256:<64 lower-case hex>`.
    Sha256([u8; 32]),
    /// Anything else: `registry/repository:tag`, or a digest of another algorithm.
    Text(String),
}

/// Why a string is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// Over [`KEY_BYTES_MAX`].
    #[error("has {0} bytes, the limit is {KEY_BYTES_MAX}")]
    TooLong(usize),
    /// Starts like a digest, but is none.
    #[error("is not sha256: and 64 lower-case hex digits")]
    BadDigest,
    /// White space or control characters.
    #[error("has white space or a control character")]
    BadCharacter,
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong(text.len()));
        }
        if let Some(hex) = text.strip_prefix("sha256:") {
            return decode_hex(hex).map(Key::Sha256).ok_or(KeyError::BadDigest);
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(KeyError::BadCharacter);
        }
        Ok(Key::Text(text.to_owned()))
    }
}

/// 64 lower-case hex digits as bytes.
fn decode_hex(hex: &str) -> Option<[u8; 32]> {
    let hex: &[u8; 64] = hex.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    let mut wrong = 0;
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let [high, low] = [NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]];
        wrong |= high | low;
        *byte = high << 4 | low & 0xf;
    }
    (wrong < 0x10).then_some(bytes)
}

/// The value of each lower-case hex digit, and more than any for every other byte: a table, because the
/// keys of a fleet that registers are a billion digits.
const NIBBLES: [u8; 256] = {
    let mut table = [0x10; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    table
};

impl Key {
    /// No fewer bytes than it has when it is encoded: a variant, and for a text its length.
    pub fn bytes_at_most(&self) -> usize {
        match self {
            Key::Sha256(digest) => 1 + digest.len(),
            Key::Text(text) => 1 + 2 + text.len(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Sha256(bytes) => {
                // At once: a string that grows with each byte takes up twice as much.
                let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
                let mut text = *b"sha256:----------------------------------------------------------------";
                for (digits, byte) in text[7..].chunks_exact_mut(2).zip(bytes) {
                    digits.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
                }
                f.write_str(str::from_utf8(&text).expect("hex is ASCII"))
            }
            Key::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// One agent: a group and the address of its blob server.
///
/// IPv4-mapped IPv6 addresses are stored as IPv4, so that one host has one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    /// Who sees whom: holders of another group do not exist for the asker (I6).
    pub group: String,
    /// `ip:port` of the blob server.
    pub address: SocketAddr,
}

/// Order among the writes of one holder: a lower pair than the stored one is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pair {
    /// Unix milliseconds of the agent's start; `stale` answers make it grow.
    pub epoch: u64,
    /// Counts the writes of one epoch.
    pub seq: u64,
}

/// What a write carries besides its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Whose keys.
    pub holder: Holder,
    /// `None`: a client without pairs (Go `pi`), last writer wins.
    pub pair: Option<Pair>,
    /// True in the last entry of a request: only then is the pair stored, so that a request cut in
    /// the middle can be repeated with the same pair.
    pub stores_pair: bool,
    /// The keys, deduplicated, at most [`COMMAND_BYTES_MAX`] together.
    pub keys: Vec<Key>,
}

/// A replicated command, exactly these. The order of the variants is the disk format. A new one goes behind
/// the others and needs a new level ([`Command::needs`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The holder has these keys. Creates the host record; empty keys are allowed (an empty sync).
    Advertise(Write),
    /// The holder has these keys no longer. With a pair it creates the host record, to keep the pair;
    /// without one, unknown hosts are left alone.
    Withdraw(Write),
    /// Zone and lease of a known host; unknown hosts are left alone.
    SetHost {
        /// Which host.
        holder: Holder,
        /// Zone label, empty if none.
        zone: String,
        /// Length of its lease, seconds; 0: the server's default for clients that name none.
        ttl_seconds: u32,
    },
    /// The lease ended: out of all answers, nothing deleted. No-op if the host wrote after
    /// `last_write_index` (I3).
    Hide {
        /// Which host.
        holder: Holder,
        /// The host's last write that the proposer had seen.
        last_write_index: u64,
        /// Wall clock of the proposer; `forget_after` counts from it.
        unix_ms: u64,
    },
    /// A hidden host beat again.
    Unhide {
        /// Which host.
        holder: Holder,
    },
    /// Hidden for `forget_after`: the record and its inventory go. No-op if the host is not hidden
    /// since exactly that time.
    Forget {
        /// Which host.
        holder: Holder,
        /// The `unix_ms` of the `Hide` that it has outlived.
        hidden_unix_ms: u64,
    },
    /// A removed server's id, never to be used again.
    Tombstone {
        /// The removed server.
        node_id: u64,
    },
    /// From here on the cluster writes what this level says. No-op if it already does.
    Activate {
        /// Higher than the active one; all members can run at it.
        level: Level,
    },
    /// All members have been able to run at a level for so long, as leaders saw it. One that is not above
    /// the active level says that none is on its way.
    Readable {
        /// The level that all members have been able to run at.
        level: Level,
        /// For how many seconds in all, over all leaders.
        seconds: u64,
    },
    /// An advertise that is counted: what the next build of tests brings.
    #[cfg(any(test, feature = "next-format"))]
    NotedAdvertise(Write),
}

impl Command {
    /// The lowest level at which it may be written.
    pub fn needs(&self) -> Level {
        match self {
            Command::Advertise(_)
            | Command::Withdraw(_)
            | Command::SetHost { .. }
            | Command::Hide { .. }
            | Command::Unhide { .. }
            | Command::Forget { .. }
            | Command::Tombstone { .. }
            | Command::Activate { .. }
            | Command::Readable { .. } => Level::FIRST,
            #[cfg(any(test, feature = "next-format"))]
            Command::NotedAdvertise(_) => crate::format::next::LEVEL,
        }
    }

    /// The write that it is, if it is one.
    pub(crate) fn write(&self) -> Option<&Write> {
        match self {
            Command::Advertise(write) | Command::Withdraw(write) => Some(write),
            #[cfg(any(test, feature = "next-format"))]
            Command::NotedAdvertise(write) => Some(write),
            _ => None,
        }
    }

    /// No fewer bytes than it has when it is encoded, without encoding it.
    pub fn bytes_at_most(&self) -> usize {
        /// Everything but keys: a variant, group, address, zone, numbers.
        const FIXED_BYTES: usize = GROUP_BYTES_MAX + ZONE_BYTES_MAX + 128;
        let keys = self.write().map_or(&[][..], |write| &write.keys);
        FIXED_BYTES + keys.iter().map(Key::bytes_at_most).sum::<usize>()
    }

    /// Short name for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Advertise(_) => "advertise",
            Command::Withdraw(_) => "withdraw",
            Command::SetHost { .. } => "set_host",
            Command::Hide { .. } => "hide",
            Command::Unhide { .. } => "unhide",
            Command::Forget { .. } => "forget",
            Command::Tombstone { .. } => "tombstone",
            Command::Activate { .. } => "activate",
            Command::Readable { .. } => "readable",
            #[cfg(any(test, feature = "next-format"))]
            Command::NotedAdvertise(_) => "noted_advertise",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `apply` answers. Rejections are values: bad data must never panic a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Not a command of ours (blank or membership entry).
    None,
    /// Done, or already so.
    Applied {
        /// How many keys were added or removed.
        changed: u32,
    },
    /// The pair is lower than the stored one; nothing changed.
    Stale {
        /// What is stored.
        stored: Pair,
    },
    /// The command named a host that the index does not know; nothing changed.
    UnknownHost,
    /// A condition of the command did not hold; nothing changed.
    NotApplicable,
    /// The command is of a level that is not active; nothing changed.
    BeyondLevel {
        /// The lowest level at which it may be written.
        needs: Level,
        /// That of the cluster.
        active: Level,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn a_digest_becomes_bytes_and_comes_back_as_it_was() {
        let key: Key = DIGEST.parse().unwrap();
        assert!(matches!(key, Key::Sha256(_)));
        assert_eq!(key.to_string(), DIGEST);
    }

    #[test]
    fn a_digit_that_is_none_is_found_wherever_it_stands() {
        for position in "sha256:".len()..DIGEST.len() {
            for wrong in [b'g', b'A', b'/', b':', b'`', 0x7f] {
                let mut text = DIGEST.as_bytes().to_vec();
                text[position] = wrong;
                let text = String::from_utf8(text).unwrap();
                assert_eq!(text.parse::<Key>(), Err(KeyError::BadDigest), "{text}");
            }
        }
    }

    #[test]
    fn no_command_is_longer_than_it_is_taken_for() {
        let holder =
            Holder { group: "g".repeat(GROUP_BYTES_MAX), address: "[ffff::1]:65535".parse().unwrap() };
        let keys = vec![DIGEST.parse().unwrap(), Key::Text("k".repeat(KEY_BYTES_MAX))];
        let pair = Some(Pair { epoch: u64::MAX, seq: u64::MAX });
        let (zone, ttl_seconds) = ("z".repeat(ZONE_BYTES_MAX), u32::MAX);
        let commands = [
            Command::Advertise(Write { holder: holder.clone(), pair, stores_pair: true, keys }),
            Command::SetHost { holder: holder.clone(), zone, ttl_seconds },
            Command::Hide { holder: holder.clone(), last_write_index: u64::MAX, unix_ms: u64::MAX },
            Command::Unhide { holder },
            Command::Tombstone { node_id: u64::MAX },
        ];
        for command in commands {
            assert!(
                crate::format::ENTRY.encode(crate::format::Level::FIRST, &command).len()
                    <= command.bytes_at_most(),
                "{command}"
            );
        }
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_reason() {
        assert_eq!("".parse::<Key>(), Err(KeyError::Empty));
        assert_eq!("sha256:abc".parse::<Key>(), Err(KeyError::BadDigest));
        assert_eq!(DIGEST.to_uppercase().replace("SHA", "sha").parse::<Key>(), Err(KeyError::BadDigest));
        assert_eq!("a b".parse::<Key>(), Err(KeyError::BadCharacter));
        assert_eq!("a".repeat(256).parse::<Key>(), Err(KeyError::TooLong(256)));
        assert!("a".repeat(255).parse::<Key>().is_ok());
    }
}

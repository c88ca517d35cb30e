//! What may be replicated. A command is pure data: `apply` reads no clock and draws no random number, so
//! times and random choices come inside.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::format::Level;
#[cfg(any(test, feature = "next-format"))]
use crate::format::next::is_chosen;
use crate::model::{GROUP_BYTES_MAX, Holder, Key, Pair, ZONE_BYTES_MAX};

/// What a write carries besides its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The holder of the keys.
    pub holder: Holder,
    /// `None`: a client without pairs (Go `pi`), last writer wins.
    pub pair: Option<Pair>,
    /// True in the last entry of a request: only then is the pair stored, so that a request cut in
    /// the middle can be repeated with the same pair.
    pub stores_pair: bool,
    /// The keys, deduplicated, at most [`crate::model::COMMAND_BYTES_MAX`] together.
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
        /// The holder that is meant.
        holder: Holder,
        /// Zone label, empty if none.
        zone: String,
        /// Length of its lease, seconds; 0: the server's default for clients that name none.
        ttl_seconds: u32,
    },
    /// The lease ended: out of all answers, nothing deleted. No-op if the host wrote after
    /// `last_write_index` (I3).
    Hide {
        /// The holder that is meant.
        holder: Holder,
        /// The host's last write that the proposer had seen.
        last_write_index: u64,
        /// Wall clock of the proposer; `forget_after` counts from it.
        unix_ms: u64,
    },
    /// A hidden host beat again.
    Unhide {
        /// The holder that is meant.
        holder: Holder,
    },
    /// Hidden for `forget_after`: the record and its inventory go. No-op if the host is not hidden
    /// since exactly that time.
    Forget {
        /// The holder that is meant.
        holder: Holder,
        /// The `unix_ms` of the `Hide` that it has outlived.
        hidden_unix_ms: u64,
    },
    /// A removed server's id, never to be used again.
    Tombstone {
        /// Id of the removed server.
        node_id: u64,
    },
    /// From here on the cluster writes what this level says. No-op if it already does.
    Activate {
        /// Higher than the active one; all members can run at it.
        level: Level,
    },
    /// The time for which all members have been able to run at a level, as leaders saw it. A level that is not above
    /// the active one says that none is on its way.
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
            Command::NotedAdvertise(_) => Level::NEXT_BUILD,
        }
    }

    /// The command as the next build of tests proposes it, where the level allows that.
    #[cfg(any(test, feature = "next-format"))]
    pub(crate) fn newest(self, level: Level) -> Self {
        match self {
            Command::Advertise(write) if is_chosen() && level >= Level::NEXT_BUILD => {
                Command::NotedAdvertise(write)
            }
            command => command,
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
    /// The command was applied, or had been applied before.
    Applied {
        /// How many keys were added or removed.
        changed: u32,
    },
    /// The pair is lower than the stored one; nothing changed.
    Stale {
        /// The pair that is stored.
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
        /// The level at which the cluster writes.
        active: Level,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::KEY_BYTES_MAX;

    const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

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
}

//! Why a leader takes no writes: too few disks have room for them.

use std::fmt;

use super::DiskSpace;

/// Why a leader takes no writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// The disk of the only voter is low.
    #[error("the disk is low: {disk}")]
    OnlyVoter {
        /// The disk of that voter.
        disk: DiskSpace,
    },
    /// The disk of the leader is low, and it has not found a voter that leads in its place.
    #[error(
        "the disk of the leader is low, and no other server has taken over yet: {}",
        disk.as_ref().map_or_else(String::new, DiskSpace::to_string)
    )]
    Leader {
        /// The disk of the leader; `None` if its size is not known any more.
        disk: Option<DiskSpace>,
    },
    /// Too few voters have room: what the leader proposes would not be committed.
    #[error("the disks of too many servers are low ({})", joined(voters))]
    Majority {
        /// The voters without room.
        voters: Vec<VoterWithoutRoom>,
    },
}

/// A voter on which a leader cannot count for a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterWithoutRoom {
    /// Its raft address in the membership, `host:port`.
    pub raft_address: String,
    /// Its disk, which is low; `None` if the voter does not answer.
    pub disk: Option<DiskSpace>,
}

impl fmt::Display for VoterWithoutRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.disk {
            Some(disk) => write!(f, "{}: {disk}", self.raft_address),
            None => write!(f, "{} does not answer", self.raft_address),
        }
    }
}

fn joined(voters: &[VoterWithoutRoom]) -> String {
    voters.iter().map(VoterWithoutRoom::to_string).collect::<Vec<_>>().join("; ")
}

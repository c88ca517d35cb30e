//! Wire types of the level of a cluster: what its servers have agreed to write.

use serde::{Deserialize, Serialize};

/// Part of [`super::StatusResponse`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelStatus {
    /// What the servers write; 0 of a server that does not say.
    pub active: u16,
    /// Lowest level that the answering server's version knows.
    pub lowest: u16,
    /// Highest level that the answering server's version knows.
    pub highest: u16,
    /// The level that begins next, while one is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u16>,
    /// It begins in so long, seconds, if all members go on to answer and to know it; the leader knows best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins_in_seconds: Option<u64>,
    /// Until when servers can go back to an older version, for people.
    pub way_back: String,
}

/// The levels that a member's version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelRange {
    /// Both included.
    pub lowest: u16,
    /// Both included.
    pub highest: u16,
}

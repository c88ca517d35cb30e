//! Wire types of a cluster's level: the formats that its servers have agreed to write.

use serde::{Deserialize, Serialize};

/// Level of a cluster, in [`super::StatusResponse`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelStatus {
    /// Level that the servers write; 0 if the server does not say.
    pub active: u16,
    /// Lowest level that the answering server's version knows.
    pub lowest: u16,
    /// Highest level that the answering server's version knows.
    pub highest: u16,
    /// The level that begins next, if one is scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u16>,
    /// Seconds until that level begins if all members continue to answer and to know it; the leader knows
    /// best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins_in_seconds: Option<u64>,
    /// Until when servers can go back to an older version, as text.
    pub way_back: String,
}

/// Levels that a member's version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelRange {
    /// Lowest level, inclusive.
    pub lowest: u16,
    /// Highest level, inclusive.
    pub highest: u16,
}
